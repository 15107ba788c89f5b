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
//! ```

use varmint_core::Shape;
use varmint_core::tensor::{Layer, Role, Spec};

use crate::error::Error;
use crate::meta::Preview;
use crate::official::{Official, Phi};
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
    /// `{key}.weight`, then `{key}.bias`.
    Norm {
        key: String,
    },
    /// The bias of `blocks.{0}.attn.mat_qkv`.
    QkvBias(usize),
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
            Self::Var { key, .. } | Self::Vae { key, .. } | Self::Conv { key } => key.clone(),
            Self::Norm { key } => format!("{key}.weight/bias"),
            Self::QkvBias(b) => format!("blocks.{b}.attn.q_bias/v_bias"),
            Self::QueryScale(b) => format!("blocks.{b}.attn.scale_mul_1H11"),
            Self::LvlPos => "lvl_embed.weight + pos_1LC".to_owned(),
            Self::PreviewWeight | Self::PreviewBias => "preview".to_owned(),
            Self::Ones | Self::Zeros | Self::Identity => "(constant)".to_owned(),
        }
    }
}

/// The keys of a decoder layer's tensors, in the order of [`Layer`]'s tensors.
fn layer_origins(layer: Layer, key: &str) -> Vec<Origin> {
    let norm = |name: &str| Origin::Norm { key: format!("{key}{name}") };
    let conv = |name: &str| Origin::Conv { key: format!("{key}{name}.weight") };
    let bias = |name: &str, n| Origin::Vae { key: format!("{key}{name}.bias"), shape: vec![n] };
    match layer {
        Layer::Conv { cout: c, .. } => vec![conv(""), bias("", c)],
        Layer::Up { c } => vec![conv(".conv"), bias(".conv", c)],
        Layer::Out { c: _ } => vec![
            Origin::Norm { key: "decoder.norm_out".to_owned() },
            Origin::Conv { key: "decoder.conv_out.weight".to_owned() },
            Origin::Vae { key: "decoder.conv_out.bias".to_owned(), shape: vec![3] },
        ],
        Layer::Attention { c } => {
            let (qkv, proj) = (bias(".qkv", 3 * c), bias(".proj_out", c));
            vec![norm(".norm"), conv(".qkv"), qkv, conv(".proj_out"), proj]
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

/// The origins of decoder `set`, layer by layer.
fn decoder_origins(shape: &Shape, set: usize) -> Vec<Origin> {
    let d = shape.decoder(set);
    let (mut level, mut block, mut all) = (usize::MAX, 0, Vec::new());
    for at in 0..d.n_layers() {
        let (layer, now) = d.layer(shape.config.cvae as usize, at);
        let fixed = ["post_quant_conv", "decoder.conv_in"];
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
        all.extend(layer_origins(layer, &key));
    }
    all
}

/// The origin of every tensor of `specs`, which are those of `shape`, in order.
pub(crate) fn origins(official: &Official<'_>, shape: &Shape, specs: &[Spec]) -> Vec<Origin> {
    let mut decoder = (0..shape.n_decoders()).flat_map(|set| decoder_origins(shape, set));
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
        Role::LvlPos => Origin::LvlPos,
        // The tables of a refiner have the same names.
        Role::CondTable => matrix(official.var_config.tables[s.index].0),
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
        Role::AdaGss => Origin::Var { key: block("ada_gss"), shape: vec![1, 1, s.rows, s.cols] },
        Role::HeadGain | Role::BlockGain => Origin::Ones,
        Role::ConvWeight | Role::ConvBias | Role::NormAffine => Origin::Zeros,
    }
}

/// Reads the values of a tensor, in our order.
pub(crate) fn values(
    official: &Official<'_>,
    shape: &Shape,
    preview: Option<&Preview>,
    spec: &Spec,
    origin: &Origin,
) -> Result<Vec<f32>, Error> {
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
        Origin::Norm { key } => {
            let mut all = vae.need(&format!("{key}.weight"), &[spec.cols])?;
            all.extend(vae.need(&format!("{key}.bias"), &[spec.cols])?);
            all
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
