//! What a conversion is asked for.

use std::path::PathBuf;

use crate::calibration::Calibration;
use crate::defaults::Defaults;
use crate::error::Error;
use crate::numbers::{Keep, Numbers};
use crate::official::Layout;
use crate::tiers::MoreTier;

/// What to convert and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Checkpoints: the transformer and the VQVAE, in one file or several.
    pub inputs: Vec<PathBuf>,
    /// The checkpoint of a second transformer, for late scales.
    pub refiner: Option<PathBuf>,
    /// Further image decoders of the same latent.
    pub decoders: Vec<MoreDecoder>,
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
    /// What kind of transformer the weights are; else what their keys say.
    pub layout: Option<Layout>,
    /// Attention heads, where the weights do not say; else C / 64.
    pub heads: Option<usize>,
    /// Scales that are guided; else all.
    pub guided: Option<usize>,
    /// Tokens per call of a block; else 16, or 128 where the trunk is 512 wide or wider.
    pub tile: Option<u16>,
    /// Rows per call of a decoder layer.
    pub strip: u16,
    /// Bytes kept free for the kernels of 3x3 convolutions, which also use what the arena has free anyway;
    /// else none, or 1 MiB where that is little beside the maps (4 MiB or more each).
    pub conv_scratch: Option<u32>,
    /// The first tier's name; else that of the number format.
    pub first_tier: Option<String>,
    /// Further tiers, after the first one.
    pub tiers: Vec<MoreTier>,
    /// Which heads look far back: they are put first.
    pub calibration: Option<Calibration>,
    /// Multiply the modulation (AdaLN) out: a row for every class in place of the projections.
    pub bake: bool,
    /// The classes that stay, as numbers, ranges or names; all where there are none.
    pub classes: Vec<String>,
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
            refiner: None,
            decoders: Vec::new(),
            numbers,
            keep: Vec::new(),
            name: None,
            licence: None,
            sampling: Defaults::default(),
            scales: None,
            layout: None,
            heads: None,
            guided: None,
            tile: None,
            strip: 8,
            conv_scratch: None,
            first_tier: None,
            tiers: Vec::new(),
            calibration: None,
            bake: false,
            classes: Vec::new(),
            sequence: 0,
            measure: false,
        }
    }
}

/// A further image decoder: a checkpoint of which `post_quant_conv` and `decoder` are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoreDecoder {
    /// What tiers call it. The file has no names, only the order.
    pub name: String,
    /// The checkpoint.
    pub file: PathBuf,
}

impl std::str::FromStr for MoreDecoder {
    type Err = Error;

    /// `NAME=FILE`.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.split_once('=') {
            Some((name, file)) if !name.is_empty() && !file.is_empty() => {
                Ok(Self { name: name.to_owned(), file: file.into() })
            }
            _ => Err(Error::Option(format!(
                "decoder `{text}`: wanted is NAME=FILE, such as narrow=narrow.safetensors"
            ))),
        }
    }
}
