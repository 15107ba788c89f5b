//! Models of random weights in any shape, for profiles and benchmarks: what they draw is noise.

use std::path::Path;

use varmint_core::tensor::{Class, Dtype, Role, Spec};
use varmint_core::{Aln, Sampling, Trunk};

use crate::description::{DecoderSizes, Description, Table, TierRow};
use crate::error::Error;
use crate::numbers::{Numbers, choose};
use crate::quantize::encode;
use crate::schedule::schedule;
use crate::tiers::all_blocks;
use crate::write::write;

/// A shape. The default is the published model VAR-d16 of 256 x 256 pixels.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Blocks; the width is 64 times that, in as many heads.
    pub depth: u32,
    /// One AdaLN projection for all blocks.
    pub shared_aln: bool,
    /// Sides of the scales.
    pub scales: Vec<u16>,
    /// Codebook entries.
    pub vocab: u32,
    /// Channels of the latent.
    pub cvae: u32,
    /// Channels of the decoder at full resolution; its five levels have 1, 1, 2, 2 and 4 times that.
    pub channels: u16,
    /// Rows of the condition table.
    pub classes: usize,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            depth: 16,
            shared_aln: false,
            scales: vec![1, 2, 3, 4, 5, 6, 8, 10, 13, 16],
            vocab: 4096,
            cvae: 32,
            channels: 160,
            classes: 1001,
        }
    }
}

impl Shape {
    /// The tier that runs everything, named after its numbers.
    pub fn full_tier(&self, numbers: Numbers) -> TierRow {
        let (cache, maps) = numbers.stores();
        TierRow {
            name: numbers.name().to_owned(),
            scales: vec![(0, all_blocks(self.depth)); self.scales.len()],
            cache,
            maps,
            guided: self.scales.len() as u8,
            decoder: 0,
            tile: 128,
            strip: 8,
            conv_scratch: 0,
            together: false,
            keep: varmint_core::Keep::ALL,
        }
    }

    /// A model of this shape with these tiers, its weights aside.
    pub fn describe(&self, name: &str, tiers: Vec<TierRow>) -> Description {
        let sizes: Vec<_> = self.scales.iter().map(|&s| (s, s)).collect();
        let width = 64 * self.depth;
        Description {
            sequence: 0,
            name: name.to_owned(),
            licence: "random numbers".to_owned(),
            vocab: self.vocab,
            cvae: self.cvae,
            n_phi: 4,
            sampling: Sampling { guidance: 1.5, top_k: 900, top_p: 0.96, temperature: 1.0 },
            scales: schedule(&sizes, 4),
            tables: vec![Table {
                name: "class".to_owned(),
                rows: self.classes,
                labels: Vec::new(),
            }],
            trunks: vec![Trunk {
                depth: self.depth,
                width,
                heads: self.depth,
                hidden: 4 * width,
                aln: if self.shared_aln { Aln::Shared } else { Aln::Own },
                l2_norm: true,
                act: 4,
                wide_heads: [0; varmint_core::config::MAX_DEPTH],
            }],
            decoders: vec![DecoderSizes {
                widths: [1, 1, 2, 2, 4].map(|m| m * self.channels).to_vec(),
                blocks: 3,
                attention: 1 << 4,
                inner: 0,
                act: 4,
            }],
            tiers,
        }
    }
}

/// Writes such a model. The same file every time.
///
/// # Errors
/// [`Error::Io`]; [`Error::Option`] and [`Error::Model`] for a shape that the format or the core refuses.
pub fn synth(path: &Path, shape: &Shape, numbers: Numbers, tier: TierRow) -> Result<u64, Error> {
    let description = shape.describe(&format!("random-d{}", shape.depth), vec![tier]);
    fill(path, &description, |spec| choose(numbers, &[], spec, false))
}

/// Writes a model of random weights for any description; `dtype` chooses the storage of a tensor. The same file
/// every time.
///
/// # Errors
/// As [`write()`].
pub fn fill(
    path: &Path,
    description: &Description,
    dtype: impl FnMut(&Spec) -> Result<Dtype, Error>,
) -> Result<u64, Error> {
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    write(path, description, dtype, |_, spec, dtype| {
        encode(spec, dtype, &values(spec, &mut random), "random")
    })
}

/// Values that keep a run's numbers ordinary: rows of norm about 1, gains of 1.
fn values(spec: &Spec, random: &mut Random) -> Vec<f32> {
    let n = spec.rows * spec.taps * spec.cols;
    match (spec.class, spec.role) {
        (_, Role::HeadGain | Role::BlockGain) => vec![1.0; n],
        (_, Role::QueryScale) => vec![4.0; n],
        (_, Role::NormAffine) => (0..n).map(|i| if i < n / 2 { 1.0 } else { 0.0 }).collect(),
        (Class::Vector, _) => (0..n).map(|_| 0.02 * random.next()).collect(),
        _ => {
            let scale = 1.7 / ((spec.taps * spec.cols) as f32).sqrt();
            (0..n).map(|_| scale * random.next()).collect()
        }
    }
}

/// Numbers in -1..1.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
