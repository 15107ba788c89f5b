//! Official tensors to ours: where each tensor of a model file comes from. Which transformer or decoder a key is of, the
//! tensor's set says.
//!
//! Most are copies. What differs:
//!
//! ```text
//! qkv bias      q_bias | zeros | v_bias                      the official key bias is a buffer of zeros
//! query scale   exp(min(scale_mul, ln 100)) per head, or 0.25 / sqrt(head_dim) without normalisation
//! lvl_pos       lvl_embed[scale of the token] + pos_1LC
//! norms         weight, then bias
//! 3x3           [co][ci][tap] -> [co][tap][ci]
//! gains         ones
//! baked ada     ada_lin(SiLU(row)) of every row of the condition table
//! codebook      rows of length 1 where the method looks them up so (FlexVAR)
//! positions     area means of a map, scale by scale (FlexVAR)
//! 1x1 to 3x3    the middle tap of a 3x3 convolution (LlamaGen's `post_quant_conv`)
//! q, k, v       one after the other (LlamaGen's attention)
//! ```

use varmint::Cpu;
use varmint_core::Shape;
use varmint_core::num::silu;
use varmint_core::ops::{Ops, Taps};
use varmint_core::tensor::{Layer, Role, Spec};

use crate::error::Error;
use crate::meta::Preview;
use crate::official::{DecoderConfig, Layout, Official, Phi};
use crate::quantize::conv_order;

/// The largest logarithm of a query scale: ln 100 in f32, as in the official code.
const MAX_SCALE_MUL: f32 = 4.605_170_2;

/// Where a tensor comes from. `key` is an official key without the prefix of its state dict.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Origin {
    /// As it is, with the official shape.
    Var {
        key: String,
        shape: Vec<usize>,
    },
    /// As it is, from the VQVAE or a decoder.
    Vae {
        key: String,
        shape: Vec<usize>,
    },
    /// A convolution of the VQVAE or a decoder: `[co, ci, side, side]`.
    Conv {
        key: String,
    },
    /// A 1x1 convolution that stands for a 3x3 one.
    Middle {
        key: String,
    },
    /// `{key}.{q, k, v}.{part}` of a decoder.
    Split {
        key: String,
        part: &'static str,
    },
    /// `quantize.embedding.weight` with rows of length 1.
    Normalized,
    /// Area means of the map `pos_1LC`.
    PosMap,
    /// `{key}.weight`, then `{key}.bias`.
    Norm {
        key: String,
    },
    /// The bias of `blocks.{0}.attn.mat_qkv`.
    QkvBias(usize),
    /// A condition table: those of its rows that stay, if it is the first.
    Table {
        key: &'static str,
        rows: usize,
    },
    /// The modulation of block `.0` for those rows.
    AdaTable(usize),
    /// The query scale of block `.0`.
    QueryScale(usize),
    LvlPos,
    PreviewWeight,
    PreviewBias,
    Ones,
    /// A phi convolution that changes nothing (there is none): phi(h) = h/2 + h/2.
    Identity,
    Zeros,
}

impl Origin {
    /// The official key, or what stands for it in messages and tables.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Var { key, .. } | Self::Vae { key, .. } => key.clone(),
            Self::Conv { key } | Self::Middle { key } => key.clone(),
            Self::Split { key, part } => format!("{key}.q/k/v.{part}"),
            Self::Normalized => "quantize.embedding.weight (rows of length 1)".to_owned(),
            Self::PosMap => "pos_1LC (area means)".to_owned(),
            Self::Norm { key } => format!("{key}.weight/bias"),
            Self::QkvBias(b) => format!("blocks.{b}.attn.q_bias/v_bias"),
            Self::QueryScale(b) => format!("blocks.{b}.attn.scale_mul_1H11"),
            Self::Table { key, .. } => (*key).to_owned(),
            Self::AdaTable(b) => format!("blocks.{b}.ada_lin.1 (of every class)"),
            Self::LvlPos => "lvl_embed.weight + pos_1LC".to_owned(),
            Self::PreviewWeight | Self::PreviewBias => "preview".to_owned(),
            Self::Ones | Self::Zeros | Self::Identity => "(constant)".to_owned(),
        }
    }
}

/// The keys of a decoder layer's tensors, in the order of [`Layer`]'s tensors.
fn layer_origins(layer: Layer, key: &str, config: Option<&DecoderConfig>) -> Vec<Origin> {
    let norm = |name: &str| Origin::Norm { key: format!("{key}{name}") };
    let conv = |name: &str| Origin::Conv { key: format!("{key}{name}.weight") };
    let bias = |name: &str, n| Origin::Vae { key: format!("{key}{name}.bias"), shape: vec![n] };
    match layer {
        Layer::Conv { cout: c, .. } if key == POST && config.is_some_and(|d| d.post_side == 1) => {
            vec![Origin::Middle { key: format!("{key}.weight") }, bias("", c)]
        }
        Layer::Conv { cout: c, .. } => vec![conv(""), bias("", c)],
        Layer::Up { c } => vec![conv(".conv"), bias(".conv", c)],
        Layer::Out { c: _ } => vec![
            Origin::Norm { key: "decoder.norm_out".to_owned() },
            Origin::Conv { key: "decoder.conv_out.weight".to_owned() },
            Origin::Vae { key: "decoder.conv_out.bias".to_owned(), shape: vec![3] },
        ],
        Layer::Attention { c } => {
            let split = |part| Origin::Split { key: key.to_owned(), part };
            let (weight, qkv) = match config {
                Some(d) if d.split_qkv => (split("weight"), split("bias")),
                _ => (conv(".qkv"), bias(".qkv", 3 * c)),
            };
            vec![norm(".norm"), weight, qkv, conv(".proj_out"), bias(".proj_out", c)]
        }
        Layer::Res { cin, cout } => {
            let mut all = vec![norm(".norm1"), conv(".conv1"), bias(".conv1", cout)];
            all.extend([norm(".norm2"), conv(".conv2"), bias(".conv2", cout)]);
            if cin != cout {
                all.extend([conv(".nin_shortcut"), bias(".nin_shortcut", cout)]);
            }
            all
        }
    }
}

/// The first convolution of a decoder.
const POST: &str = "post_quant_conv";

/// The origins of decoder `set`, layer by layer.
fn decoder_origins(official: &Official<'_>, shape: &Shape, set: usize) -> Vec<Origin> {
    let config = official.decoders().nth(set).map(|(_, config)| config);
    let d = shape.decoder(set);
    let (mut level, mut block, mut all) = (usize::MAX, 0, Vec::new());
    for at in 0..d.n_layers() {
        let (layer, now) = d.layer(shape.config.cvae as usize, at);
        let fixed = [POST, "decoder.conv_in"];
        let mid = ["decoder.mid.block_1", "decoder.mid.attn_1", "decoder.mid.block_2"];
        let key = match (at, layer) {
            (0 | 1, _) => fixed[at].to_owned(),
            (2..=4, _) => mid[at - 2].to_owned(),
            (_, Layer::Res { .. }) => {
                block = if now == level { block + 1 } else { 0 };
                level = now;
                format!("decoder.up.{level}.block.{block}")
            }
            (_, Layer::Attention { .. }) => format!("decoder.up.{level}.attn.{block}"),
            (_, Layer::Up { .. }) => format!("decoder.up.{level}.upsample"),
            _ => String::new(),
        };
        all.extend(layer_origins(layer, &key, config));
    }
    all
}

/// The origin of every tensor of `specs`, which are those of `shape`, in order.
pub(crate) fn origins(official: &Official<'_>, shape: &Shape, specs: &[Spec]) -> Vec<Origin> {
    let mut decoder = (0..shape.n_decoders()).flat_map(|set| decoder_origins(official, shape, set));
    let one = |s: &Spec| match s.role {
        Role::ConvWeight | Role::ConvBias | Role::NormAffine => {
            decoder.next().unwrap_or(Origin::Zeros)
        }
        _ => origin(official, s),
    };
    specs.iter().map(one).collect()
}

/// The origin of a tensor outside the decoder.
fn origin(official: &Official<'_>, s: &Spec) -> Origin {
    let matrix = |key: &str| Origin::Var { key: key.to_owned(), shape: vec![s.rows, s.cols] };
    let vector = |key: &str| Origin::Var { key: key.to_owned(), shape: vec![s.cols] };
    let block = |key: &str| format!("blocks.{}.{key}", s.index);
    let phi = || official.vae_config.phi_key(s.index);
    let no_phi = official.vae_config.phi == Phi::None;
    match s.role {
        Role::Codebook if official.var_config.layout == Layout::FlexVar => Origin::Normalized,
        Role::Codebook => {
            let key = "quantize.embedding.weight".to_owned();
            Origin::Vae { key, shape: vec![s.rows, s.cols] }
        }
        Role::PreviewWeight => Origin::PreviewWeight,
        Role::PreviewBias => Origin::PreviewBias,
        Role::PhiWeight if no_phi => Origin::Identity,
        Role::PhiBias if no_phi => Origin::Zeros,
        Role::PhiWeight => Origin::Conv { key: format!("{}.weight", phi()) },
        Role::PhiBias => Origin::Vae { key: format!("{}.bias", phi()), shape: vec![s.cols] },
        Role::WordWeight => matrix("word_embed.weight"),
        Role::WordBias => vector("word_embed.bias"),
        Role::PosStart => {
            Origin::Var { key: "pos_start".to_owned(), shape: vec![1, s.rows, s.cols] }
        }
        Role::LvlPos if official.var_config.positions.is_some() => Origin::PosMap,
        Role::LvlPos => Origin::LvlPos,
        // The tables of a refiner have the same names.
        Role::CondTable => {
            let (key, rows) = official.var_config.tables[s.index];
            Origin::Table { key, rows }
        }
        Role::HeadAdaWeight => matrix("head_nm.ada_lin.1.weight"),
        Role::HeadAdaBias => vector("head_nm.ada_lin.1.bias"),
        Role::HeadWeight => matrix("head.weight"),
        Role::HeadBias => vector("head.bias"),
        Role::SharedAdaWeight => matrix("shared_ada_lin.1.weight"),
        Role::SharedAdaBias => vector("shared_ada_lin.1.bias"),
        Role::QkvWeight => matrix(&block("attn.mat_qkv.weight")),
        Role::QkvBias => Origin::QkvBias(s.index),
        Role::QueryScale => Origin::QueryScale(s.index),
        Role::ProjWeight => matrix(&block("attn.proj.weight")),
        Role::ProjBias => vector(&block("attn.proj.bias")),
        Role::Fc1Weight => matrix(&block("ffn.fc1.weight")),
        Role::Fc1Bias => vector(&block("ffn.fc1.bias")),
        Role::Fc2Weight => matrix(&block("ffn.fc2.weight")),
        Role::Fc2Bias => vector(&block("ffn.fc2.bias")),
        Role::AdaWeight => matrix(&block("ada_lin.1.weight")),
        Role::AdaBias => vector(&block("ada_lin.1.bias")),
        Role::AdaTable => Origin::AdaTable(s.index),
        Role::AdaGss => Origin::Var { key: block("ada_gss"), shape: vec![1, 1, s.rows, s.cols] },
        Role::HeadGain | Role::BlockGain => Origin::Ones,
        Role::ConvWeight | Role::ConvBias | Role::NormAffine => Origin::Zeros,
    }
}

/// What values are read from.
pub(crate) struct Source<'a> {
    pub(crate) official: &'a Official<'a>,
    pub(crate) shape: &'a Shape,
    pub(crate) preview: Option<&'a Preview>,
    /// Rows of the first condition table that stay.
    pub(crate) rows: &'a [usize],
}

/// Reads the values of a tensor, in our order.
pub(crate) fn values(source: &Source<'_>, spec: &Spec, origin: &Origin) -> Result<Vec<f32>, Error> {
    let Source { official, shape, preview, rows } = source;
    // What trunks and decoders share has set 0.
    let first = (&official.var, &official.var_config);
    let (var, var_config) = official.trunks().nth(spec.set).unwrap_or(first);
    let vae = official.decoders().nth(spec.set).map_or(&official.vae, |(weights, _)| weights);
    let (width, n) = (var_config.width, spec.rows * spec.taps * spec.cols);
    Ok(match origin {
        Origin::Var { key, shape } => var.need(key, shape)?,
        Origin::Vae { key, shape } => vae.need(key, shape)?,
        Origin::Conv { key } => {
            let side = if spec.taps == 9 { 3 } else { 1 };
            let w = vae.need(key, &[spec.rows, spec.cols, side, side])?;
            conv_order(&w, spec.cols, spec.taps)
        }
        Origin::Middle { key } => {
            let w = vae.need(key, &[spec.rows, spec.cols, 1, 1])?;
            let mut all = vec![0.0; n];
            for (row, w) in all.chunks_exact_mut(9 * spec.cols).zip(w.chunks_exact(spec.cols)) {
                row[4 * spec.cols..5 * spec.cols].copy_from_slice(w);
            }
            all
        }
        Origin::Split { key, part } => {
            let c = spec.rows.max(spec.cols) / 3;
            let shape: &[usize] = if *part == "bias" { &[c] } else { &[c, c, 1, 1] };
            let of = |name| vae.need(&format!("{key}.{name}.{part}"), shape);
            [of("q")?, of("k")?, of("v")?].concat()
        }
        Origin::Normalized => {
            let mut all = vae.need("quantize.embedding.weight", &[spec.rows, spec.cols])?;
            for row in all.chunks_exact_mut(spec.cols) {
                let length = row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt();
                // As PyTorch's `normalize`, which leaves no row without a length.
                row.iter_mut().for_each(|v| *v = (f64::from(*v) / length.max(1e-12)) as f32);
            }
            all
        }
        Origin::PosMap => {
            let (h, w) = var_config.positions.unwrap_or_default();
            let map = var.need("pos_1LC", &[1, width, h, w])?;
            let c = &shape.config;
            let sizes = (0..c.n_scales()).map(|k| (c.scale(k).h.into(), c.scale(k).w.into()));
            sizes.flat_map(|size| area_means(&map, width, (h, w), size)).collect()
        }
        Origin::Norm { key } => {
            let mut all = vae.need(&format!("{key}.weight"), &[spec.cols])?;
            all.extend(vae.need(&format!("{key}.bias"), &[spec.cols])?);
            all
        }
        Origin::Table { key, rows: all } => {
            let table = var.need(key, &[*all, width])?;
            if spec.index == 0 { chosen(&table, width, rows) } else { table }
        }
        Origin::AdaTable(b) => {
            let (key, all) = var_config.tables[0];
            let mut x = chosen(&var.need(key, &[all, width])?, width, rows);
            x.iter_mut().for_each(|v| *v = silu(*v));
            let w = var.need(&format!("blocks.{b}.ada_lin.1.weight"), &[spec.cols, width])?;
            let bias = var.need(&format!("blocks.{b}.ada_lin.1.bias"), &[spec.cols])?;
            let mut out = vec![0.0; n];
            // The bits that a file with the projection in f32 would compute.
            Cpu::detect().gemm_f32(Taps::matrix(&x, rows.len(), width), &w, &bias, &mut out);
            out
        }
        Origin::QkvBias(b) => {
            let mut all = var.need(&format!("blocks.{b}.attn.q_bias"), &[width])?;
            all.resize(2 * width, 0.0);
            all.extend(var.need(&format!("blocks.{b}.attn.v_bias"), &[width])?);
            all
        }
        Origin::QueryScale(b) if var_config.attn_l2_norm => {
            let key = format!("blocks.{b}.attn.scale_mul_1H11");
            // The exponential in f64, rounded once: the same bits on every machine.
            let scale = |v: f32| f64::from(v.min(MAX_SCALE_MUL)).exp() as f32;
            var.need(&key, &[1, spec.cols, 1, 1])?.into_iter().map(scale).collect()
        }
        Origin::QueryScale(_) => {
            let head_dim = (width / spec.cols) as f64;
            vec![(0.25 / head_dim.sqrt()) as f32; n]
        }
        Origin::LvlPos => {
            let c = &shape.config;
            let levels = var.need("lvl_embed.weight", &[c.n_scales(), width])?;
            let mut all = var.need("pos_1LC", &[1, c.tokens(), width])?;
            let scale_of = (0..c.n_scales()).flat_map(|k| [k].repeat(c.scale(k).tokens()));
            for (row, k) in all.chunks_exact_mut(width).zip(scale_of) {
                for (p, l) in row.iter_mut().zip(&levels[k * width..]) {
                    *p += *l;
                }
            }
            all
        }
        Origin::PreviewWeight => preview.map_or(vec![0.0; n], |p| p.weight.concat()),
        Origin::PreviewBias => preview.map_or(vec![0.5; n], |p| p.bias.clone()),
        Origin::Ones => vec![1.0; n],
        Origin::Zeros => vec![0.0; n],
        Origin::Identity => {
            let centre = |i| {
                let (row, tap, col) = (i / (9 * spec.cols), i / spec.cols % 9, i % spec.cols);
                f32::from(u8::from(tap == 4 && row == col))
            };
            (0..n).map(centre).collect()
        }
    })
}

/// Some rows of a table.
fn chosen(table: &[f32], width: usize, rows: &[usize]) -> Vec<f32> {
    rows.iter().flat_map(|row| &table[row * width..][..width]).copied().collect()
}

/// The area means of a map `[c, h, w]` on a grid of `nh` x `nw` cells, `[nh, nw, c]`. A cell covers the rows
/// floor(i h / nh) to ceil((i + 1) h / nh) - 1, columns alike: PyTorch's `area`.
fn area_means(map: &[f32], c: usize, (h, w): (usize, usize), (nh, nw): (usize, usize)) -> Vec<f32> {
    let cover = |i: usize, n: usize, cells: usize| i * n / cells..((i + 1) * n).div_ceil(cells);
    let mut all = Vec::with_capacity(nh * nw * c);
    for (y, x) in (0..nh).flat_map(|y| (0..nw).map(move |x| (y, x))) {
        let (rows, columns) = (cover(y, h, nh), cover(x, w, nw));
        let count = (rows.len() * columns.len()) as f64;
        all.extend((0..c).map(|channel| {
            let row = |y: usize| &map[(channel * h + y) * w..][columns.clone()];
            let sum: f64 = rows.clone().flat_map(row).map(|&v| f64::from(v)).sum();
            (sum / count) as f32
        }));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::area_means;

    #[test]
    fn means_of_a_map() {
        // 3 x 4 to 2 x 2: rows 0-1 and 1-2, columns 0-1 and 2-3; then to 1 x 1, to itself, and to more.
        let map: Vec<f32> = (0..12).map(|v| v as f32).collect();
        assert_eq!(area_means(&map, 1, (3, 4), (2, 2)), [2.5, 4.5, 6.5, 8.5]);
        assert_eq!(area_means(&map, 1, (3, 4), (1, 1)), [5.5]);
        assert_eq!(area_means(&map, 1, (3, 4), (3, 4)), map);
        assert_eq!(area_means(&map[..2], 1, (1, 2), (1, 4)), [0.0, 0.0, 1.0, 1.0]);
        // Channels come last.
        assert_eq!(area_means(&[1.0, 3.0, 2.0, 4.0], 2, (1, 2), (1, 2)), [1.0, 2.0, 3.0, 4.0]);
    }
}
