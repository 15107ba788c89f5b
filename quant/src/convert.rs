//! Official checkpoints to a model file.
//!
//! ```text
//! files -> Official (found, inferred, checked) -> Description -> write: values -> encode -> disk
//! ```
//!
//! One transformer and one VQVAE make a model. A refiner and further image decoders, each from a file of
//! its own, come after them; tiers choose.

use std::path::{Path, PathBuf};

use varmint_core::Shape;
use varmint_core::tensor::{Class, Dtype, Layer, Role, Spec};

use crate::calibration::Calibration;
use crate::checkpoint::Checkpoint;
use crate::classes;
use crate::describe::{describe, labels};
use crate::error::Error;
use crate::meta::{Embedded, Meta, Side};
use crate::numbers::choose;
use crate::official::{Hints, Official};
pub use crate::options::{MoreDecoder, Options};
use crate::origin::{Origin, Source, origins, values};
use crate::permute::{order, permute};
use crate::quantize::{decode, encode, snr_db, view};
use crate::write::{specs, write};

/// What became of one tensor.
#[derive(Clone, Debug)]
pub struct Converted {
    /// What it is.
    pub spec: Spec,
    /// The official key or keys; of which trunk or decoder, if not the first.
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
    let open = |paths: &[&PathBuf]| -> Result<Vec<Checkpoint>, Error> {
        Ok(paths.iter().map(Checkpoint::open).collect::<Result<_, _>>()?)
    };
    let files = open(&options.inputs.iter().collect::<Vec<_>>())?;
    let refiner = open(&options.refiner.iter().collect::<Vec<_>>())?;
    let decoders = open(&options.decoders.iter().map(|d| &d.file).collect::<Vec<_>>())?;
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
    let hints = Hints { layout: options.layout, scales, heads, ..Hints::default() };
    let mut official = Official::find(&files, &hints)?;
    for file in &refiner {
        official.add_refiner(file, Embedded::read(file.path()).heads)?;
    }
    for file in &decoders {
        official.add_decoder(file)?;
    }
    let rows = rows(&official, options, meta)?;
    let description = describe(&official, options, meta, &rows, out)?;
    let shape = description.shape()?;
    let all = specs(&shape);
    let origins = origins(&official, &shape, &all);
    let preview = meta.preview.as_ref();
    let source = Source { official: &official, shape: &shape, preview, rows: &rows };
    let mut tensors = Vec::with_capacity(all.len());
    let file_bytes = write(
        out,
        &description,
        |spec| choose(options.numbers, &options.keep, spec, is_edge(&shape, spec)),
        |i, spec, dtype| {
            let (origin, key) = (&origins[i], key(&origins[i], spec));
            let v = values(&source, spec, origin)?;
            let v = wide_first(options.calibration.as_ref(), spec, v);
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

/// The rows of the first condition table that stay.
fn rows(official: &Official<'_>, options: &Options, meta: &Meta) -> Result<Vec<usize>, Error> {
    let Some(&(key, rows)) = official.var_config.tables.first() else { return Ok(Vec::new()) };
    classes::rows(&options.classes, rows, labels(key, meta))
}

/// The values of a tensor with the wide heads of its block first, if it is one of heads.
fn wide_first(calibration: Option<&Calibration>, spec: &Spec, v: Vec<f32>) -> Vec<f32> {
    let found = calibration.filter(|c| c.trunk == spec.set);
    match found.and_then(|c| Some((c.blocks.get(spec.index)?, c.heads))) {
        Some((block, heads)) => permute(spec, &order(&block.wide, heads), v),
        None => v,
    }
}

/// The official key, and which trunk or decoder has it if that is not the first.
fn key(origin: &Origin, spec: &Spec) -> String {
    match (spec.set, spec.role) {
        (0, _) => origin.name(),
        (n, Role::ConvWeight | Role::ConvBias | Role::NormAffine) => {
            format!("decoder {n}: {}", origin.name())
        }
        (n, _) => format!("trunk {n}: {}", origin.name()),
    }
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
