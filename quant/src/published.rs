//! The shapes of the published VAR models, and tiers for them: what they would need on a board, known
//! without their weights.
//!
//! | model | blocks | width | pixels | tokens |
//! |---|---|---|---|---|
//! | VAR-d16, d20, d24, d30 | 16, 20, 24, 30 | 64 per block | 256 x 256 | 680 |
//! | VAR-d36-s | 36 | 2304 | 512 x 512, AdaLN shared | 2240 |

use varmint_core::Plan;

use crate::convert::is_edge;
use crate::error::Error;
use crate::numbers::{Numbers, choose};
use crate::synth::Shape;
use crate::tiers::MoreTier;
use crate::write::measure;

/// The first scale at which tiers of reduced depth run fewer blocks, of ten (the published "6 + 4").
pub const BOUNDARY: usize = 6;

/// A published model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// `var-d16` and so on.
    pub name: &'static str,
    depth: u32,
    scales: [u16; 10],
    shared_aln: bool,
}

const fn var256(name: &'static str, depth: u32) -> Published {
    Published { name, depth, scales: [1, 2, 3, 4, 5, 6, 8, 10, 13, 16], shared_aln: false }
}

/// All of them, smallest first.
pub const PUBLISHED: [Published; 5] = [
    var256("var-d16", 16),
    var256("var-d20", 20),
    var256("var-d24", 24),
    var256("var-d30", 30),
    Published {
        name: "var-d36",
        depth: 36,
        scales: [1, 2, 3, 4, 6, 9, 13, 18, 24, 32],
        shared_aln: true,
    },
];

/// What a published model needs in one number format.
#[derive(Clone, Debug)]
pub struct Needs {
    /// Bytes of the model file.
    pub file_bytes: u64,
    /// A plan per tier.
    pub plans: Vec<Plan>,
}

impl Published {
    /// The shape, in the words of [`crate::synth`].
    pub fn shape(&self) -> Shape {
        Shape {
            depth: self.depth,
            shared_aln: self.shared_aln,
            scales: self.scales.to_vec(),
            ..Shape::default()
        }
    }

    /// Four tiers, best first, in the words of `varmint convert --tier`.
    pub fn tiers(&self) -> [String; 4] {
        let (d, k) = (self.depth, BOUNDARY);
        [
            "full:tile=128,strip=8".to_owned(),
            format!("balanced:blocks={}@{k}", d / 2),
            format!("lite:blocks={}@{k}", d / 4),
            format!("micro:blocks=2@{k},guided={k},tile=16,strip=2"),
        ]
    }

    /// Memory and work in each of these tiers, and the length of the file.
    ///
    /// # Errors
    /// [`Error::Option`] for a tier that is no tier, [`Error::Shape`] for one that the core refuses.
    pub fn needs(&self, numbers: Numbers, tiers: &[impl AsRef<str>]) -> Result<Needs, Error> {
        let shape = self.shape();
        let first = shape.full_tier(numbers);
        let mut description = shape.describe(self.name, Vec::new());
        let tokens: Vec<usize> = description.scales.iter().map(|s| s.tokens()).collect();
        for tier in tiers {
            let tier: MoreTier = tier.as_ref().parse()?;
            description.tiers.push(tier.row(&first, &description.trunks, &[], &tokens, None)?);
        }
        let shape = description.shape()?;
        let (description, file_bytes) =
            measure(&description, |spec| choose(numbers, &[], spec, is_edge(&shape, spec)))?;
        let plans = (0..description.tiers.len()).map(|i| description.plan(i));
        Ok(Needs { file_bytes, plans: plans.collect::<Result<_, _>>()? })
    }
}
