//! The shapes of the published VAR models, and tiers for them: what they would need on a board, known
//! without their weights.
//!
//! | model | blocks | width | pixels | tokens |
//! |---|---|---|---|---|
//! | VAR-d16, d20, d24, d30 | 16, 20, 24, 30 | 64 per block | 256 x 256 | 680 |
//! | VAR-d36-s | 36 | 2304 | 512 x 512, AdaLN shared | 2240 |

use varmint_core::Plan;

use crate::convert::is_edge;
use crate::description::TierRow;
use crate::error::Error;
use crate::numbers::{Numbers, choose};
use crate::synth::Shape;
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
    /// A plan per tier, best first.
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

    /// Four tiers, best first.
    ///
    /// | tier | blocks from scale 6 on | guided scales | tile, strip |
    /// |---|---|---|---|
    /// | `full` | all | all | 128, 8 |
    /// | `balanced` | half | all | 128, 8 |
    /// | `lite` | a quarter | all | 128, 8 |
    /// | `micro` | first and last | the first 6 | 16, 2 |
    pub fn tiers(&self, numbers: Numbers) -> Vec<TierRow> {
        let (cache, maps) = numbers.stores();
        let all = self.shape().blocks();
        let tier = |name: &str, late: u64| TierRow {
            name: name.to_owned(),
            scales: (0..self.scales.len())
                .map(|k| (0, if k < BOUNDARY { all } else { late }))
                .collect(),
            cache,
            maps,
            guided: self.scales.len() as u8,
            decoder: 0,
            tile: 128,
            strip: 8,
            conv_scratch: 0,
        };
        let d = self.depth;
        let micro =
            TierRow { guided: BOUNDARY as u8, tile: 16, strip: 2, ..tier("micro", subnet(d, 2)) };
        vec![
            tier("full", all),
            tier("balanced", subnet(d, d / 2)),
            tier("lite", subnet(d, d / 4)),
            micro,
        ]
    }

    /// Memory and work of every tier, and the length of the file.
    ///
    /// # Errors
    /// Those of the core for a shape that it refuses: none, while the tests pass.
    pub fn needs(&self, numbers: Numbers) -> Result<Needs, Error> {
        self.needs_of(numbers, self.tiers(numbers))
    }

    /// The same for tiers of one's own.
    ///
    /// # Errors
    /// Those of the core for a tier that it refuses.
    pub fn needs_of(&self, numbers: Numbers, tiers: Vec<TierRow>) -> Result<Needs, Error> {
        let description = self.shape().describe(self.name, tiers);
        let shape = description.shape()?;
        let (description, file_bytes) =
            measure(&description, |spec| choose(numbers, &[], spec, is_edge(&shape, spec)))?;
        let plans = (0..description.tiers.len()).map(|i| description.plan(i));
        Ok(Needs { file_bytes, plans: plans.collect::<Result<_, _>>()? })
    }
}

/// The `d` blocks of `depth` that a subnet keeps, as a mask: block `i (depth - 1) / (d - 1)`, rounded
/// down, for each i (VARiant, arXiv 2511.16546). The first and the last are always among them.
///
/// ```
/// # use varmint_quant::published::subnet;
/// assert_eq!(subnet(30, 4), 1 << 0 | 1 << 9 | 1 << 19 | 1 << 29);
/// ```
pub fn subnet(depth: u32, d: u32) -> u64 {
    let steps = u64::from(d.max(2) - 1);
    (0..=steps).fold(0, |mask, i| mask | 1 << (i * u64::from(depth - 1) / steps))
}
