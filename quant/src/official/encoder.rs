//! The encoder of a VQVAE, which only editing needs: configuration and keys.
//!
//! ```text
//! RGB → encoder.conv_in → down.0 → .. → down.{n-1} → mid.block_1 → mid.attn_1 → mid.block_2
//! → norm_out → conv_out → quant_conv → latent [Cvae]
//! down.{i} = block.{0..} (attn.{0..} at the lowest resolution), then downsample.conv if i < n-1
//! ```
//!
//! Level 0 has the full resolution and runs first.

use super::decoder::Keys;
use super::{OfficialError, StateDict};
use crate::checkpoint::Checkpoint;

/// The key by which an encoder is found.
const ANCHOR: &str = "encoder.conv_in.weight";

/// Where every key is used.
const MODULES: [&str; 2] = ["encoder.", "quant_conv."];

/// What the shapes of an encoder's weights say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderConfig {
    /// Channels of the latent.
    pub cvae: usize,
    /// Channels of `conv_in`.
    pub stem: usize,
    /// Channels of each level, level 0 (full resolution) first.
    pub widths: Vec<usize>,
    /// Residual blocks of every level.
    pub blocks: usize,
    /// Which levels have an attention block after every residual block.
    pub attention: Vec<bool>,
}

impl EncoderConfig {
    /// The encoder in `file`, whatever else is there, checked key by key.
    pub fn find(file: &Checkpoint) -> Result<(StateDict<'_>, Self), OfficialError> {
        let dict = StateDict::find(std::slice::from_ref(file), "image encoder", ANCHOR, None)?;
        let [stem, _, _, _] = dict.dims(ANCHOR, "[width, 3, 3, 3]")?;
        let [cvae, _, _, _] = dict.dims("quant_conv.weight", "[Cvae, Cvae, 3, 3]")?;
        let levels = dict.count("encoder.down.");
        if levels == 0 {
            return Err(dict.config("the encoder has no levels `encoder.down.*`"));
        }
        let (mut widths, mut attention) = (Vec::new(), Vec::new());
        for i in 0..levels {
            let key = format!("encoder.down.{i}.block.0.conv1.weight");
            let [width, _, _, _] = dict.dims(&key, "[width, width above, 3, 3]")?;
            widths.push(width);
            attention.push(dict.count(&format!("encoder.down.{i}.attn.")) > 0);
        }
        let blocks = dict.count("encoder.down.0.block.");
        let config = Self { cvae, stem, widths, blocks, attention };
        dict.check_all(&config.keys(), &MODULES, &[])?;
        Ok((dict, config))
    }

    /// Every key, with its shape.
    pub fn keys(&self) -> Vec<(String, Vec<usize>)> {
        let mut keys = Keys::default();
        keys.conv("encoder.conv_in", self.stem, 3, 3);
        let (mut width, last) = (self.stem, self.widths.len().saturating_sub(1));
        for (i, &to) in self.widths.iter().enumerate() {
            for j in 0..self.blocks {
                keys.residual(&format!("encoder.down.{i}.block.{j}"), width, to);
                width = to;
                if self.attention[i] {
                    keys.attention(&format!("encoder.down.{i}.attn.{j}"), width, false);
                }
            }
            if i < last {
                keys.conv(format!("encoder.down.{i}.downsample.conv"), width, width, 3);
            }
        }
        keys.residual("encoder.mid.block_1", width, width);
        keys.attention("encoder.mid.attn_1", width, false);
        keys.residual("encoder.mid.block_2", width, width);
        keys.norm("encoder.norm_out", width);
        keys.conv("encoder.conv_out", self.cvae, width, 3);
        keys.conv("quant_conv", self.cvae, self.cvae, 3);
        keys.0
    }
}
