//! What a model file holds, as plain data: for tables and for JSON.

use serde::Serialize;
use varmint_core::tensor::{Dtype, Role, Spec};
use varmint_core::{Aln, Config, Encoder, Keep, Model, Store, Tier};

use crate::quantize::dtype_name;

/// A model file in numbers.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of varmint_core's structs")]
pub struct Summary {
    pub name: String,
    pub licence: String,
    pub sequence: u32,
    pub file_bytes: u64,
    pub vocab: u32,
    pub cvae: u32,
    pub n_phi: u32,
    /// Whether a scale replaces the latent and is not added to it.
    pub replace: bool,
    pub guidance: f32,
    pub top_k: u32,
    pub top_p: f32,
    pub temperature: f32,
    /// Pixels of the image of decoder 0: height, width.
    pub image: [usize; 2],
    pub tokens: usize,
    pub scales: Vec<ScaleInfo>,
    pub tables: Vec<TableInfo>,
    pub trunks: Vec<TrunkInfo>,
    pub decoders: Vec<DecoderInfo>,
    pub tiers: Vec<TierInfo>,
    pub groups: Vec<GroupInfo>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorInfo>,
}

/// A scale.
#[derive(Clone, Copy, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of varmint_core's structs")]
pub struct ScaleInfo {
    pub h: u16,
    pub w: u16,
    pub phi: u8,
    /// Whether its tokens are the most probable ones.
    pub greedy: bool,
    /// Scale k is guided by k / ramp of the strength; 0: by k / (S - 1).
    pub ramp: u8,
}

/// A condition table.
#[derive(Clone, Debug, Serialize)]
pub struct TableInfo {
    /// Its name.
    pub name: String,
    /// Rows, with the one that means "not given".
    pub rows: u32,
    /// How many rows have a name.
    pub labels: usize,
    /// The first few of them.
    pub first: Vec<String>,
}

/// A trunk.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of varmint_core's structs")]
pub struct TrunkInfo {
    pub depth: u32,
    pub width: u32,
    pub heads: u32,
    pub hidden: u32,
    /// Where the modulation comes from: `own`, `shared` or `baked`.
    pub aln: &'static str,
    pub l2_norm: bool,
    pub act: u32,
    /// Wide heads of each block.
    pub wide_heads: Vec<usize>,
}

/// A decoder.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of varmint_core's structs")]
pub struct DecoderInfo {
    pub widths: Vec<usize>,
    pub blocks: u32,
    pub attention_levels: Vec<u32>,
    pub factor: usize,
    pub act: u32,
}

/// A tier.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of varmint_core's structs")]
pub struct TierInfo {
    pub name: String,
    pub cache: &'static str,
    pub maps: &'static str,
    pub guided: usize,
    pub decoder: usize,
    pub tile: usize,
    pub strip: usize,
    /// Bytes kept free for the kernels of 3x3 convolutions.
    pub conv_scratch: usize,
    /// Trunk of each scale.
    pub trunks: Vec<usize>,
    /// How many blocks run at each scale.
    pub blocks: Vec<u32>,
    /// Which blocks run at each scale.
    pub active: Vec<Vec<u32>>,
    /// What stays in the cache and what a token sees; absent where that is everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<KeepInfo>,
}

/// What stays in the cache, and what a token sees.
#[derive(Clone, Debug, Serialize)]
#[allow(missing_docs, reason = "the names are those of varmint_core's structs")]
pub struct KeepInfo {
    /// Tokens in the cache after each scale but the last, for the heads that are not wide.
    pub others: Vec<usize>,
    /// The same for wide ones.
    pub wide: Vec<usize>,
    pub grid: usize,
    pub pool: usize,
    pub protect: usize,
    pub window: usize,
    pub window_from: usize,
}

/// Bytes by purpose.
#[derive(Clone, Debug, Serialize)]
pub struct GroupInfo {
    /// The group's name; with the number of the trunk or decoder, if not the first.
    pub group: String,
    /// Tensors in it.
    pub tensors: usize,
    /// Values in it, without padding.
    pub values: u64,
    /// Bytes of numbers and scales.
    pub bytes: u64,
}

/// A tensor.
#[derive(Clone, Debug, Serialize)]
pub struct TensorInfo {
    /// `trunk0.block3.fc2weight`.
    pub name: String,
    /// Rows, taps, columns.
    pub shape: [usize; 3],
    /// How it is stored.
    pub dtype: &'static str,
    /// Bytes of numbers and scales.
    pub bytes: u64,
}

/// The group of a tensor in the tables of bytes.
pub const fn group(role: Role) -> &'static str {
    use Role as R;
    match role {
        R::Codebook | R::PreviewWeight | R::PreviewBias | R::PhiWeight | R::PhiBias => {
            "codebook, phi"
        }
        R::WordWeight | R::WordBias | R::PosStart | R::LvlPos => "word, positions",
        R::CondTable => "condition tables",
        R::HeadGain | R::HeadWeight | R::HeadBias => "head",
        R::HeadAdaWeight | R::HeadAdaBias | R::SharedAdaWeight | R::SharedAdaBias => "modulation",
        R::AdaWeight | R::AdaBias | R::AdaGss | R::AdaTable | R::BlockGain => "modulation",
        R::QkvWeight | R::QkvBias | R::QueryScale | R::ProjWeight | R::ProjBias => "attention",
        R::Fc1Weight | R::Fc1Bias | R::Fc2Weight | R::Fc2Bias => "feed-forward",
        R::ConvWeight | R::ConvBias | R::NormAffine => "image decoder",
    }
}

/// Sums bytes by group and by trunk or decoder, in order of first appearance.
pub fn groups(tensors: impl IntoIterator<Item = (Spec, u64)>) -> Vec<GroupInfo> {
    let mut all: Vec<GroupInfo> = Vec::new();
    for (spec, bytes) in tensors {
        let mut name = group(spec.role).to_owned();
        if spec.set > 0 {
            name = format!("{name} {}", spec.set);
        }
        let at = all.iter().position(|g| g.group == name).unwrap_or_else(|| {
            all.push(GroupInfo { group: name, tensors: 0, values: 0, bytes: 0 });
            all.len() - 1
        });
        all[at].tensors += 1;
        all[at].values += (spec.rows * spec.taps * spec.cols) as u64;
        all[at].bytes += bytes;
    }
    all
}

/// A readable name for a tensor.
pub fn tensor_name(spec: &Spec) -> String {
    let role = format!("{:?}", spec.role).to_lowercase();
    let (set, i) = (spec.set, spec.index);
    match spec.role as u16 {
        1..16 if matches!(spec.role, Role::PhiWeight | Role::PhiBias) => format!("phi{i}.{role}"),
        1..16 => role,
        16..48 if spec.role == Role::CondTable => format!("trunk{set}.table{i}"),
        16..48 => format!("trunk{set}.{role}"),
        48..80 => format!("trunk{set}.block{i}.{role}"),
        _ => format!("decoder{set}.layer{i}.{role}"),
    }
}

const fn store_name(store: Store) -> &'static str {
    match store {
        Store::F32 => "f32",
        Store::F16 => "f16",
        Store::I8 => "int8",
    }
}

/// Bytes of a tensor's numbers and scales.
const fn stored_bytes(spec: &Spec, dtype: Dtype) -> u64 {
    spec.data_bytes(dtype) + 4 * spec.scale_count(dtype) as u64
}

/// What an encoder file holds.
#[derive(Clone, Debug, Serialize)]
pub struct EncoderSummary {
    /// Length of the file.
    pub file_bytes: u64,
    /// Pixels per latent side.
    pub factor: usize,
    /// Channels of the latent.
    pub cvae: usize,
    /// Channels of the first convolution.
    pub stem: usize,
    /// Channels of each level, full resolution first.
    pub widths: Vec<usize>,
    /// Residual blocks per level.
    pub blocks: u32,
    /// Levels with attention.
    pub attention_levels: Vec<usize>,
    /// Bytes of the widest input of a weight.
    pub act: u32,
    /// CRC-32 of the codebook of its models; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codebook: Option<u32>,
    /// Every tensor, if asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tensors: Vec<TensorInfo>,
}

/// Reads everything out of an encoder; the list of tensors if `tensors`.
pub fn encoder_summary(encoder: &Encoder<'_>, tensors: bool) -> EncoderSummary {
    let (sizes, levels) = (&encoder.sizes, &encoder.sizes.levels);
    let all = (0..).map_while(|i| encoder.tensor(i)).map(|(spec, dtype, _)| TensorInfo {
        name: format!("layer{}.{}", spec.index, format!("{:?}", spec.role).to_lowercase()),
        shape: [spec.rows, spec.taps, spec.cols],
        dtype: dtype_name(dtype),
        bytes: stored_bytes(&spec, dtype),
    });
    let n = levels.levels as usize;
    EncoderSummary {
        file_bytes: encoder.file_bytes() as u64,
        factor: sizes.factor(),
        cvae: sizes.cvae,
        stem: sizes.stem,
        widths: (0..n).map(|i| levels.width(i)).collect(),
        blocks: levels.blocks,
        attention_levels: (0..n).filter(|i| levels.attention >> i & 1 == 1).collect(),
        act: levels.act,
        codebook: (encoder.codebook != 0).then_some(encoder.codebook),
        tensors: if tensors { all.collect() } else { Vec::new() },
    }
}

/// Reads everything out of a model; the list of tensors if `tensors`.
pub fn summary(model: &Model<'_>, tensors: bool) -> Summary {
    let (shape, c) = (&model.shape, &model.shape.config);
    let specs = crate::write::specs(shape);
    let dtype_of = |i: usize| model.tensor(i).map_or(Dtype::F32, |(_, dtype, _)| dtype);
    let stored: Vec<(Spec, Dtype)> =
        specs.iter().enumerate().map(|(i, spec)| (*spec, dtype_of(i))).collect();
    let list = stored.iter().map(|(spec, dtype)| TensorInfo {
        name: tensor_name(spec),
        shape: [spec.rows, spec.taps, spec.cols],
        dtype: dtype_name(*dtype),
        bytes: stored_bytes(spec, *dtype),
    });
    let (factor, s) = (shape.decoder(0).factor(), &c.sampling);
    Summary {
        name: model.name().to_owned(),
        licence: model.licence().to_owned(),
        sequence: model.sequence,
        file_bytes: model.file_bytes() as u64,
        vocab: c.vocab,
        cvae: c.cvae,
        n_phi: c.n_phi,
        replace: c.replaces(),
        guidance: s.guidance,
        top_k: s.top_k,
        top_p: s.top_p,
        temperature: s.temperature,
        image: [usize::from(c.latent().h) * factor, usize::from(c.latent().w) * factor],
        tokens: c.tokens(),
        scales: (0..c.n_scales())
            .map(|k| c.scale(k))
            .map(|s| ScaleInfo { h: s.h, w: s.w, phi: s.phi, greedy: s.greedy(), ramp: s.ramp() })
            .collect(),
        tables: (0..c.n_tables()).map(|t| table(model, t)).collect(),
        trunks: (0..shape.n_trunks())
            .map(|i| shape.trunk(i))
            .map(|t| TrunkInfo {
                depth: t.depth,
                width: t.width,
                heads: t.heads,
                hidden: t.hidden,
                aln: match t.aln {
                    Aln::Own => "own",
                    Aln::Shared => "shared",
                    Aln::Baked => "baked",
                },
                l2_norm: t.l2_norm,
                act: t.act,
                wide_heads: (0..t.depth as usize).map(|b| t.wide(b)).collect(),
            })
            .collect(),
        decoders: (0..shape.n_decoders())
            .map(|i| shape.decoder(i))
            .map(|d| DecoderInfo {
                widths: (0..d.levels as usize).map(|i| d.width(i)).collect(),
                blocks: d.blocks,
                attention_levels: (0..d.levels).filter(|i| d.attention >> i & 1 == 1).collect(),
                factor: d.factor(),
                act: d.act,
            })
            .collect(),
        tiers: model
            .tiers()
            .map(|t| TierInfo {
                name: t.name().to_owned(),
                cache: store_name(t.cache),
                maps: store_name(t.maps),
                guided: t.guided,
                decoder: t.decoder,
                tile: t.tile,
                strip: t.strip,
                conv_scratch: t.conv_scratch,
                trunks: (0..c.n_scales()).map(|k| t.trunk(k)).collect(),
                blocks: (0..c.n_scales()).map(|k| t.blocks(k).count_ones()).collect(),
                active: (0..c.n_scales()).map(|k| bits(t.blocks(k)).collect()).collect(),
                keep: (t.keep != Keep::ALL).then(|| keep(&t.keep, c)),
            })
            .collect(),
        groups: groups(stored.iter().map(|(spec, dtype)| (*spec, stored_bytes(spec, *dtype)))),
        tensors: if tensors { list.collect() } else { Vec::new() },
    }
}

fn keep(k: &Keep, c: &Config) -> KeepInfo {
    let after = |class| (1..c.n_scales()).map(|j| k.before(c, class, j)).collect();
    KeepInfo {
        others: after(0),
        wide: after(1),
        grid: k.grid,
        pool: k.pool,
        protect: k.protect,
        window: k.window,
        window_from: k.window_from,
    }
}

fn bits(mask: u64) -> impl Iterator<Item = u32> {
    (0..64).filter(move |b| mask >> b & 1 == 1)
}

/// How many blocks a tier runs at each scale, and where another trunk takes over:
/// `8 8 4 | 2 2 (trunk 1 from scale 3)`.
pub fn blocks_line(tier: &Tier, n_scales: usize) -> String {
    let (mut line, mut change) = (String::new(), String::new());
    for k in 0..n_scales {
        let (now, before) = (tier.trunk(k), tier.trunk(k.saturating_sub(1)));
        if now != before {
            line += "| ";
            change = format!("(trunk {now} from scale {k})");
        }
        line += &format!("{} ", tier.blocks(k).count_ones());
    }
    (line + &change).trim_end().to_owned()
}

fn table(model: &Model<'_>, t: usize) -> TableInfo {
    let table = model.shape.config.table(t);
    let labels = if table.labelled { table.rows as usize - 1 } else { 0 };
    let first = (0..labels.min(8)).filter_map(|r| model.label(t, r)).map(str::to_owned).collect();
    TableInfo { name: model.table_name(t).to_owned(), rows: table.rows, labels, first }
}
