//! What weights do not say: `meta.json` beside a trained model, and the configuration that test
//! weights carry in their safetensors header.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

pub use crate::defaults::Defaults;
use crate::error::Error;

/// `meta.json`. Every key may be missing; unknown keys are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Meta {
    /// The model's name.
    pub name: Option<String>,
    /// Licences and credits.
    pub licence: Option<String>,
    /// Names of the rows of `class` and `style`.
    #[serde(default)]
    pub labels: HashMap<String, Vec<String>>,
    /// Default sampling.
    #[serde(default)]
    pub defaults: Defaults,
    /// Scale sizes: `[1, 2, 3]` or `[[1, 1], [2, 3]]` (height, width).
    pub scale_sizes: Option<Vec<Side>>,
    /// A linear picture of the latent.
    pub preview: Option<Preview>,
}

/// A scale: the side of a square, or height and width.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Side {
    /// Both sides.
    Square(usize),
    /// Height, width.
    Pair([usize; 2]),
}

impl Side {
    /// Height and width.
    pub const fn size(self) -> (usize, usize) {
        match self {
            Self::Square(n) => (n, n),
            Self::Pair([h, w]) => (h, w),
        }
    }
}

/// Colours as a linear function of the latent: RGB in 0..=1 = weight · latent + bias.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct Preview {
    /// `[3][cvae]`.
    pub weight: Vec<Vec<f32>>,
    /// `[3]`.
    pub bias: Vec<f32>,
}

impl Preview {
    /// That there are 3 rows of `cvae` values and 3 biases.
    pub(crate) fn check(&self, cvae: usize) -> Result<(), Error> {
        let rows: Vec<usize> = self.weight.iter().map(Vec::len).collect();
        if rows != [cvae; 3] || self.bias.len() != 3 {
            let found = format!("rows of {rows:?} values and {} biases", self.bias.len());
            return Err(Error::mismatch(
                "preview",
                format!("3 rows of {cvae} and 3 biases"),
                found,
            ));
        }
        Ok(())
    }
}

impl Meta {
    /// Reads `meta.json`.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Meta`].
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_str(&text).map_err(|source| Error::Meta { path: path.to_owned(), source })
    }
}

/// The configuration that test weights carry in the metadata of a safetensors header.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Embedded {
    /// Sides of the scales.
    pub patch_nums: Option<Vec<Side>>,
    /// Attention heads, where the weights do not say.
    pub heads: Option<usize>,
}

impl Embedded {
    /// What the file says; nothing for any other file.
    pub fn read(path: &Path) -> Self {
        Self::find(path).unwrap_or_default()
    }

    fn find(path: &Path) -> Option<Self> {
        #[derive(Deserialize)]
        struct Header {
            #[serde(rename = "__metadata__")]
            metadata: HashMap<String, String>,
        }
        let mut file = std::fs::File::open(path).ok()?;
        let mut len = [0; 8];
        file.read_exact(&mut len).ok()?;
        let len = u64::from_le_bytes(len);
        // The limit of the safetensors crate; a .pth file reads as a far larger number.
        if len > 100_000_000 {
            return None;
        }
        let mut json = Vec::new();
        file.take(len).read_to_end(&mut json).ok()?;
        let header: Header = serde_json::from_slice(&json).ok()?;
        serde_json::from_str(header.metadata.get("config")?).ok()
    }
}
