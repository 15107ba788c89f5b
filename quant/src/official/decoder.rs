//! An image decoder: configuration and keys. The VQVAE has one; further ones draw from the same latent.
//!
//! ```text
//! latent [Cvae] → post_quant_conv → decoder.conv_in → mid.block_1 → mid.attn_1 → mid.block_2
//! → up.{n-1} → .. → up.0 → norm_out → conv_out → RGB
//! up.{i} = block.{0..} (attn.{0..} at the lowest resolution), then upsample.conv if i > 0
//! ```
//!
//! Level 0 has the full resolution; levels run from the highest number down.
//!
//! LlamaGen's decoder (FlexVAR) is the same but for names, a 1x1 `post_quant_conv` to more channels than the latent has, and
//! queries, keys and values in three convolutions.

use super::{OfficialError, StateDict};

/// The key by which a decoder without a VQVAE is found.
pub(super) const ANCHOR: &str = "post_quant_conv.weight";

/// Where every key is used.
const MODULES: [&str; 2] = ["post_quant_conv.", "decoder."];

/// Resolutions of a decoder; each doubles the size.
const MAX_LEVELS: usize = 16;

/// What the shapes of a decoder's weights say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DecoderConfig {
    /// Channels of the latent.
    pub cvae: usize,
    /// Channels between `post_quant_conv` and `conv_in`.
    pub inner: usize,
    /// Side of the kernels of `post_quant_conv`: 3, or 1 (LlamaGen).
    pub post_side: usize,
    /// Are queries, keys and values of attention three convolutions (LlamaGen) and not one?
    pub split_qkv: bool,
    /// Channels of `conv_in` and the middle.
    pub mid_width: usize,
    /// Is there a `mid.attn_1`?
    pub mid_attention: bool,
    /// Channels of each level, level 0 (full resolution) first.
    pub widths: Vec<usize>,
    /// Residual blocks of each level.
    pub blocks: Vec<usize>,
    /// Which levels have an attention block after every residual block.
    pub attention: Vec<bool>,
    /// Channels of the image, 3.
    pub out_channels: usize,
}

impl DecoderConfig {
    /// Infers the configuration of a decoder of latents of `cvae` channels, then checks every key of `post_quant_conv` and
    /// `decoder` against it.
    pub fn infer(dict: &StateDict<'_>, cvae: usize) -> Result<Self, OfficialError> {
        let config = Self::read(dict, cvae)?;
        dict.check_all(&config.keys(), &MODULES, &[])?;
        Ok(config)
    }

    /// The configuration, without a look at the other keys.
    pub(super) fn read(dict: &StateDict<'_>, cvae: usize) -> Result<Self, OfficialError> {
        let [inner, _, post_side, _] =
            dict.dims("post_quant_conv.weight", "[inner width, Cvae, 3, 3] or [.., 1, 1]")?;
        let [mid_width, _, _, _] =
            dict.dims("decoder.conv_in.weight", "[width, inner width, 3, 3]")?;
        let [out_channels, _, _, _] = dict.dims("decoder.conv_out.weight", "[3, width, 3, 3]")?;
        let levels = dict.count("decoder.up.");
        if !(1..=MAX_LEVELS).contains(&levels) {
            return Err(dict.config(format!(
                "the decoder has {levels} levels `decoder.up.*`; 1 to {MAX_LEVELS} are possible"
            )));
        }
        let (mut widths, mut blocks, mut attention) = (Vec::new(), Vec::new(), Vec::new());
        for i in 0..levels {
            let key = format!("decoder.up.{i}.block.0.conv1.weight");
            let [width, _, _, _] = dict.dims(&key, "[width, width above, 3, 3]")?;
            widths.push(width);
            blocks.push(dict.count(&format!("decoder.up.{i}.block.")));
            attention.push(dict.count(&format!("decoder.up.{i}.attn.")) > 0);
        }
        let split_qkv = dict.contains("decoder.mid.attn_1.q.weight");
        let mid_attention = split_qkv || dict.contains("decoder.mid.attn_1.qkv.weight");
        Ok(Self {
            cvae,
            inner,
            // Another side is then the wrong shape of a 3x3 kernel.
            post_side: if post_side == 1 { 1 } else { 3 },
            split_qkv,
            mid_width,
            mid_attention,
            widths,
            blocks,
            attention,
            out_channels,
        })
    }

    /// The residual blocks in order of execution: key, channels in, channels out.
    pub fn residual_blocks(&self) -> Vec<(String, usize, usize)> {
        let mut width = self.mid_width;
        let mut list: Vec<_> =
            (1..=2).map(|i| (format!("decoder.mid.block_{i}"), width, width)).collect();
        for i in (0..self.widths.len()).rev() {
            for j in 0..self.blocks[i] {
                list.push((format!("decoder.up.{i}.block.{j}"), width, self.widths[i]));
                width = self.widths[i];
            }
        }
        list
    }

    /// The attention blocks in order of execution: key, channels.
    pub fn attention_blocks(&self) -> Vec<(String, usize)> {
        let mut list = Vec::new();
        if self.mid_attention {
            list.push(("decoder.mid.attn_1".to_owned(), self.mid_width));
        }
        for i in (0..self.widths.len()).rev().filter(|&i| self.attention[i]) {
            list.extend(
                (0..self.blocks[i]).map(|j| (format!("decoder.up.{i}.attn.{j}"), self.widths[i])),
            );
        }
        list
    }

    /// Every key of the decoder, with its shape.
    pub fn keys(&self) -> Vec<(String, Vec<usize>)> {
        let mut keys = Keys::default();
        keys.conv("post_quant_conv", self.inner, self.cvae, self.post_side);
        keys.conv("decoder.conv_in", self.mid_width, self.inner, 3);
        for (name, from, to) in self.residual_blocks() {
            keys.residual(&name, from, to);
        }
        for (name, width) in self.attention_blocks() {
            keys.attention(&name, width, self.split_qkv);
        }
        for (i, &width) in self.widths.iter().enumerate().skip(1) {
            keys.conv(format!("decoder.up.{i}.upsample.conv"), width, width, 3);
        }
        let width = self.widths.first().copied().unwrap_or(self.mid_width);
        keys.norm("decoder.norm_out", width);
        keys.conv("decoder.conv_out", self.out_channels, width, 3);
        keys.0
    }
}

/// A list of keys and shapes in the making.
#[derive(Default)]
pub(super) struct Keys(pub(super) Vec<(String, Vec<usize>)>);

impl Keys {
    /// `name.weight` of `shape` and `name.bias` of `[bias]`.
    fn pair(&mut self, name: impl AsRef<str>, shape: Vec<usize>, bias: usize) {
        let name = name.as_ref();
        self.0.push((format!("{name}.weight"), shape));
        self.0.push((format!("{name}.bias"), vec![bias]));
    }

    pub(super) fn conv(&mut self, name: impl AsRef<str>, out: usize, inputs: usize, side: usize) {
        self.pair(name, vec![out, inputs, side, side], out);
    }

    pub(super) fn norm(&mut self, name: impl AsRef<str>, width: usize) {
        self.pair(name, vec![width], width);
    }

    pub(super) fn residual(&mut self, name: &str, from: usize, to: usize) {
        self.norm(format!("{name}.norm1"), from);
        self.conv(format!("{name}.conv1"), to, from, 3);
        self.norm(format!("{name}.norm2"), to);
        self.conv(format!("{name}.conv2"), to, to, 3);
        if from != to {
            self.conv(format!("{name}.nin_shortcut"), to, from, 1);
        }
    }

    pub(super) fn attention(&mut self, name: &str, width: usize, split_qkv: bool) {
        self.norm(format!("{name}.norm"), width);
        if split_qkv {
            for part in ["q", "k", "v"] {
                self.conv(format!("{name}.{part}"), width, width, 1);
            }
        } else {
            self.conv(format!("{name}.qkv"), 3 * width, width, 1);
        }
        self.conv(format!("{name}.proj_out"), width, width, 1);
    }
}
