//! Official checkpoints to a model file.
//!
//! ```text
//! files -> Official (found, inferred, checked) -> Description -> write: values -> encode -> disk
//! ```

use std::path::{Path, PathBuf};

use varmint_core::tensor::{Class, Dtype, Layer, Role, Spec};
use varmint_core::{Sampling, Shape, Trunk};

use crate::checkpoint::Checkpoint;
use crate::description::{DecoderSizes, Description, Table, TierRow};
use crate::error::Error;
use crate::meta::{Defaults, Embedded, Meta, Side};
use crate::numbers::{Keep, Numbers, choose};
use crate::official::{Hints, Official, VaeConfig, VarConfig};
use crate::origin::{origins, values};
use crate::quantize::{decode, encode, snr_db, view};
use crate::schedule::schedule;
use crate::write::{specs, write};

/// The licence of a model whose source names none.
const UNKNOWN_LICENCE: &str = "unknown: see the checkpoint's source";

/// What to convert and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Checkpoints: the transformer and the VQVAE, in one file or several.
    pub inputs: Vec<PathBuf>,
    /// Number format.
    pub numbers: Numbers,
    /// Exceptions from it.
    pub keep: Vec<Keep>,
    /// The model's name; else that of `meta`, else the stem of the output.
    pub name: Option<String>,
    /// Licences and credits; else those of `meta`.
    pub licence: Option<String>,
    /// Default sampling; else that of `meta`.
    pub sampling: Defaults,
    /// Scale sizes (height, width); else those of `meta`, else those of the weights.
    pub scales: Option<Vec<(usize, usize)>>,
    /// Attention heads, where the weights do not say; else C / 64.
    pub heads: Option<usize>,
    /// Scales that are guided; else all.
    pub guided: Option<usize>,
    /// Tokens per call of a block.
    pub tile: u16,
    /// Rows per call of a decoder layer.
    pub strip: u16,
    /// Bytes kept free for the kernels of 3x3 convolutions; what the arena has free anyway needs none.
    pub conv_scratch: u32,
    /// Further tiers, after the first one.
    pub tiers: Vec<MoreTier>,
    /// Release number of the model.
    pub sequence: u32,
    /// Measure what encoding costs each tensor.
    pub measure: bool,
}

impl Options {
    /// Defaults for these inputs.
    pub fn new(inputs: Vec<PathBuf>, numbers: Numbers) -> Self {
        Self {
            inputs,
            numbers,
            keep: Vec::new(),
            name: None,
            licence: None,
            sampling: Defaults::default(),
            scales: None,
            heads: None,
            guided: None,
            tile: 16,
            strip: 8,
            conv_scratch: 0,
            tiers: Vec::new(),
            sequence: 0,
            measure: false,
        }
    }
}

/// A further tier: what it does otherwise than the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoreTier {
    /// Its name.
    pub name: String,
    /// Tokens per call of a block.
    pub tile: Option<u16>,
    /// Rows per call of a decoder layer.
    pub strip: Option<u16>,
    /// Bytes kept free for the kernels of 3x3 convolutions.
    pub conv_scratch: Option<u32>,
    /// Scales that are guided.
    pub guided: Option<u8>,
}

impl std::str::FromStr for MoreTier {
    type Err = Error;

    /// `NAME:tile=4,strip=2,guided=4,scratch=65536`, each value optional.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::Option(format!(
                "tier `{text}`: {why}; wanted is NAME:tile=4,strip=2,guided=4,scratch=65536"
            ))
        };
        let (name, values) = text.split_once(':').ok_or_else(|| bad("no values"))?;
        let mut tier = Self { name: name.to_owned(), ..Self::default() };
        for value in values.split(',') {
            let (key, value) = value.split_once('=').ok_or_else(|| bad("not KEY=VALUE"))?;
            let number = value.parse::<u32>().map_err(|_| bad("not a number"))?;
            let short = || u16::try_from(number).map_err(|_| bad("the number is too large"));
            match key {
                "tile" => tier.tile = Some(short()?),
                "strip" => tier.strip = Some(short()?),
                "scratch" => tier.conv_scratch = Some(number),
                "guided" => {
                    tier.guided = Some(u8::try_from(number).map_err(|_| bad("too many scales"))?);
                }
                _ => return Err(bad(&format!("no value is called `{key}`"))),
            }
        }
        Ok(tier)
    }
}

/// What became of one tensor.
#[derive(Clone, Debug)]
pub struct Converted {
    /// What it is.
    pub spec: Spec,
    /// The official key or keys.
    pub key: String,
    /// How it is stored.
    pub dtype: Dtype,
    /// Bytes in the file, with scales.
    pub bytes: u64,
    /// Signal-to-noise ratio of the stored values in dB (infinite: exact), if measured.
    pub snr_db: Option<f64>,
}

/// What a conversion did.
#[derive(Clone, Debug)]
pub struct Report {
    /// The model's name.
    pub name: String,
    /// Length of the file.
    pub file_bytes: u64,
    /// Every tensor, in the order of the file.
    pub tensors: Vec<Converted>,
}

/// Converts checkpoints to the model file `out`. `progress` is told how many tensors of how many
/// are done.
///
/// # Errors
/// Any of [`Error`]; a wrong tensor is named by its official key.
pub fn convert(
    options: &Options,
    meta: &Meta,
    out: &Path,
    mut progress: impl FnMut(usize, usize),
) -> Result<Report, Error> {
    let files = options.inputs.iter().map(Checkpoint::open).collect::<Result<Vec<_>, _>>()?;
    let embedded = options.inputs.iter().map(|p| Embedded::read(p));
    let embedded = embedded.reduce(|a, b| Embedded {
        patch_nums: a.patch_nums.or(b.patch_nums),
        heads: a.heads.or(b.heads),
    });
    let embedded = embedded.unwrap_or_default();
    let sizes = |sides: &Vec<Side>| sides.iter().map(|s| s.size()).collect();
    let scales = options.scales.clone();
    let scales = scales
        .or_else(|| meta.scale_sizes.as_ref().map(sizes))
        .or_else(|| embedded.patch_nums.as_ref().map(sizes));
    let heads = options.heads.or(embedded.heads);
    let official = Official::find(&files, &Hints { scales, heads, ..Hints::default() })?;
    let description = describe(&official, options, meta, out)?;
    let shape = description.shape()?;
    let all = specs(&shape);
    let origins = origins(&official, &shape, &all);
    let mut tensors = Vec::with_capacity(all.len());
    let file_bytes = write(
        out,
        &description,
        |spec| choose(options.numbers, &options.keep, spec, is_edge(&shape, spec)),
        |i, spec, dtype| {
            let (origin, key) = (&origins[i], origins[i].name());
            let v = values(&official, &shape, meta.preview.as_ref(), spec, origin)?;
            let e = encode(spec, dtype, &v, &key)?;
            let measured = options.measure && spec.class != Class::Vector;
            let snr_db =
                measured.then(|| snr_db(&v, &decode(&view(spec, dtype, &e, &mut Vec::new()))));
            let bytes = (e.data.len() + 4 * e.scales.len()) as u64;
            tensors.push(Converted { spec: *spec, key, dtype, bytes, snr_db });
            progress(i + 1, all.len());
            Ok(e)
        },
    )?;
    Ok(Report { name: description.name, file_bytes, tensors })
}

/// Whether a decoder convolution stands at the decoder's rim: the two that see the latent, the last
/// residual block and the one that makes the pixels.
pub(crate) fn is_edge(shape: &Shape, spec: &Spec) -> bool {
    let d = shape.decoder(spec.set);
    let (layer, _) = d.layer(shape.config.cvae as usize, spec.index);
    let rim = match layer {
        Layer::Conv { .. } | Layer::Out { .. } => true,
        Layer::Res { .. } => spec.index + 2 == d.n_layers(),
        _ => false,
    };
    rim && spec.role == Role::ConvWeight
}

/// Everything that the file will say besides its tensors.
fn describe(
    official: &Official<'_>,
    options: &Options,
    meta: &Meta,
    out: &Path,
) -> Result<Description, Error> {
    let (var, vae) = (&official.var_config, &official.vae_config);
    let sizes = var.scales.as_ref().ok_or_else(|| {
        Error::Option(format!(
            "the weights do not say how {} tokens are {} scales: give --scales (example: --scales 1,2,3,4)",
            var.tokens, var.num_scales
        ))
    })?;
    let scale = |&(h, w): &(usize, usize)| Ok((small("scale", h)?, small("scale", w)?));
    let sizes = sizes.iter().map(scale).collect::<Result<Vec<(u16, u16)>, Error>>()?;
    // Without phi, one that changes nothing stands for it.
    let n_phi = vae.num_phi.max(1);
    let stem = || out.file_stem().map_or("model".into(), |s| s.to_string_lossy().into_owned());
    let sampling = options.sampling.or(meta.defaults);
    if let Some(preview) = &meta.preview {
        preview.check(var.cvae)?;
    }
    let guided = options.guided.unwrap_or(sizes.len());
    if guided > sizes.len() {
        let m = format!("--guided {guided}: the model has {} scales", sizes.len());
        return Err(Error::Option(m));
    }
    Ok(Description {
        sequence: options.sequence,
        name: options.name.clone().or_else(|| meta.name.clone()).unwrap_or_else(stem),
        licence: (options.licence.clone())
            .or_else(|| meta.licence.clone())
            .unwrap_or_else(|| UNKNOWN_LICENCE.to_owned()),
        vocab: var.vocab as u32,
        cvae: var.cvae as u32,
        n_phi: n_phi as u32,
        sampling: sampling_of(sampling)?,
        scales: schedule(&sizes, n_phi),
        tables: var.tables.iter().map(|&(key, rows)| table(key, rows, meta)).collect(),
        trunks: vec![trunk(var)?],
        decoders: vec![decoder(vae)?],
        tiers: tiers(options, var.depth, sizes.len(), guided),
    })
}

fn small<T: TryFrom<usize>>(what: &str, n: usize) -> Result<T, Error> {
    T::try_from(n).map_err(|_| Error::Option(format!("{what} {n} is too large for the format")))
}

/// The defaults of a model that says nothing: those of the official figures.
fn sampling_of(d: Defaults) -> Result<Sampling, Error> {
    let s = Sampling {
        guidance: d.guidance.unwrap_or(1.5),
        top_k: d.top_k.unwrap_or(900),
        top_p: d.top_p.unwrap_or(0.96),
        temperature: d.temperature.unwrap_or(1.0),
    };
    if s.is_valid() {
        return Ok(s);
    }
    Err(Error::Option(format!(
        "sampling: guidance {} must be finite, temperature {} above 0, top-p {} between 0 and 1",
        s.guidance, s.temperature, s.top_p
    )))
}

/// `class_emb.weight` is the table `class`.
fn table(key: &str, rows: usize, meta: &Meta) -> Table {
    let name = key.split('_').next().unwrap_or(key).to_owned();
    let labels = meta.labels.get(&name).cloned().unwrap_or_default();
    Table { name, rows, labels }
}

fn trunk(var: &VarConfig) -> Result<Trunk, Error> {
    if var.heads == 0 || !var.width.is_multiple_of(var.heads) {
        let m = format!("{} heads do not divide the width {}", var.heads, var.width);
        return Err(Error::Option(m));
    }
    Ok(Trunk {
        depth: var.depth as u32,
        width: var.width as u32,
        heads: var.heads as u32,
        hidden: var.mlp_hidden as u32,
        shared_aln: var.shared_aln,
        l2_norm: var.attn_l2_norm,
        act: 4,
    })
}

/// The decoder, if it is one that the format can describe.
fn decoder(vae: &VaeConfig) -> Result<DecoderSizes, Error> {
    let refuse = |what: &str, expected: String, found: String| {
        Err(Error::mismatch(format!("image decoder: {what}"), expected, found))
    };
    let blocks = vae.blocks.first().copied().unwrap_or(0);
    let top = vae.widths.last().copied().unwrap_or(0);
    if vae.blocks.iter().any(|b| *b != blocks) {
        let found = format!("{:?}", vae.blocks);
        return refuse("residual blocks per level", "the same number on every level".into(), found);
    }
    if !vae.mid_attention {
        return refuse("decoder.mid.attn_1", "attention in the middle".into(), "none".into());
    }
    if vae.mid_width != top {
        return refuse("width of decoder.conv_in", top.to_string(), vae.mid_width.to_string());
    }
    if vae.out_channels != 3 {
        return refuse("channels of decoder.conv_out", "3".into(), vae.out_channels.to_string());
    }
    let width = |w: &usize| small("decoder width", *w);
    let bit = |(i, on): (usize, &bool)| if *on { 1u32 << i } else { 0 };
    Ok(DecoderSizes {
        widths: vae.widths.iter().map(width).collect::<Result<_, _>>()?,
        blocks: blocks as u32,
        attention: vae.attention.iter().enumerate().map(bit).sum(),
        act: 4,
    })
}

/// The tiers of a fresh file: every block at every scale.
fn tiers(options: &Options, depth: usize, n_scales: usize, guided: usize) -> Vec<TierRow> {
    let (cache, maps) = options.numbers.stores();
    let blocks = if depth >= 64 { u64::MAX } else { (1 << depth) - 1 };
    let first = TierRow {
        name: options.numbers.name().to_owned(),
        scales: vec![(0, blocks); n_scales],
        cache,
        maps,
        guided: guided as u8,
        decoder: 0,
        tile: options.tile,
        strip: options.strip,
        conv_scratch: options.conv_scratch,
    };
    let more = options.tiers.iter().map(|t| TierRow {
        name: t.name.clone(),
        tile: t.tile.unwrap_or(first.tile),
        strip: t.strip.unwrap_or(first.strip),
        conv_scratch: t.conv_scratch.unwrap_or(first.conv_scratch),
        guided: t.guided.unwrap_or(first.guided),
        ..first.clone()
    });
    let more: Vec<TierRow> = more.collect();
    std::iter::once(first).chain(more).collect()
}
