//! What a calibration found: which heads of a trunk are wide, and how many tokens each class should keep.
//! A JSON file between `varmint calibrate` and `varmint convert`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use varmint_core::{Scale, Trunk};

use crate::error::Error;

/// How wide heads are told from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// By head (HACK): wide is where each query has keys of its own.
    Heads,
    /// By block (ScaleKV): wide are blocks that attend neither to their own scale nor to a few tokens.
    Layers,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    /// The model's name.
    pub model: String,
    /// How the heads were told apart.
    pub method: Method,
    /// Pictures that were made.
    pub count: usize,
    /// Seed of the first.
    pub seed: u64,
    /// Which trunk.
    pub trunk: usize,
    /// Heads of each block.
    pub heads: usize,
    /// Tokens of each scale.
    pub scales: Vec<usize>,
    /// Scales that the numbers are means over.
    pub measured: Vec<usize>,
    /// Every block.
    pub blocks: Vec<BlockFound>,
    /// The average that the budgets keep, as a share of what the last scale would see of the others.
    pub share: f64,
    /// Suggested numbers of tokens.
    pub budgets: Budgets,
}

/// A block: means over queries, scales and pictures.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockFound {
    /// The wide heads, in the order of the checkpoint.
    pub wide: Vec<usize>,
    /// Attention-selectivity index (own scale times best eighth of the history), in standard deviations
    /// over the blocks of a scale: low is spread out.
    pub selectivity: f64,
    /// By head: variance over queries of the attention to a key, summed over keys.
    pub variance: Vec<f64>,
    /// By head: attention to the own scale.
    pub own: Vec<f64>,
    /// By head: attention to the best eighth of the history.
    pub top: Vec<f64>,
}

/// Tokens in the cache after each scale but the last, by class of head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// For the heads that are not wide.
    pub others: Vec<usize>,
    /// For the wide ones.
    pub wide: Vec<usize>,
}

impl Budgets {
    /// Suggests numbers that keep `share` of the longest history on average over all heads, of which
    /// `wide` (0 to 1) are wide. Nothing is dropped while it fits.
    ///
    /// With B = share × longest history, the others keep at least
    ///
    /// ```text
    /// heads    B / 4
    /// layers   0.92 B where tokens first go, evenly down to 0.31 B where they last do (600 to 200 of
    ///          650 tokens, which gives the published tables to within 3 %)
    /// ```
    ///
    /// and the wide heads as many as the average then allows, up to all; what they do not need goes
    /// back to the others.
    pub fn suggest(method: Method, scales: &[usize], wide: f64, share: f64) -> Self {
        let longest: usize = scales.iter().rev().skip(1).sum();
        let average = share * longest as f64;
        let mut budgets = Self { others: Vec::new(), wide: Vec::new() };
        let sums = scales.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum as f64)
        });
        let history: Vec<f64> = sums.take(scales.len().saturating_sub(1)).collect();
        let steps = history.iter().filter(|h| **h > average).count().saturating_sub(1);
        let (mut have, mut step) = ([0.0; 2], 0);
        for (&history, &n) in history.iter().zip(scales) {
            let room = have.map(|have| have + n as f64);
            have = room;
            if history > average {
                let least = match method {
                    Method::Heads => average / 4.0,
                    Method::Layers if steps == 0 => average * 0.31,
                    Method::Layers => average * (0.92 - 0.61 * step as f64 / steps as f64),
                };
                step += 1;
                let rest = 1.0 - wide;
                if wide > 0.0 {
                    have[1] = room[1].min((average - rest * least) / wide);
                }
                if rest > 0.0 {
                    have[0] = room[0].min((average - wide * have[1]) / rest);
                }
            }
            let tokens = |n: f64| n.round().max(1.0) as usize;
            budgets.others.push(tokens(have[0]));
            budgets.wide.push(tokens(have[1]));
        }
        budgets
    }
}

impl Calibration {
    /// The share of the trunk's heads that are wide, 0 to 1.
    pub fn wide_share(&self) -> f64 {
        let wide: usize = self.blocks.iter().map(|b| b.wide.len()).sum();
        wide as f64 / (self.blocks.len() * self.heads).max(1) as f64
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Option`] for a file that is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        serde_json::from_str(&text).map_err(|e| {
            let path = path.display();
            Error::Option(format!("{path}: not a file of `varmint calibrate`: {e}"))
        })
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(std::io::Error::from);
        text.and_then(|t| std::fs::write(path, t + "\n")).map_err(|e| Error::io(path, e))
    }

    /// That it is of a model with these trunks and scales.
    pub(crate) fn check(&self, trunks: &[Trunk], scales: &[Scale]) -> Result<(), Error> {
        let expect = |what: &str, expected: String, found: String| {
            if expected == found {
                return Ok(());
            }
            Err(Error::mismatch(format!("calibration: {what}"), expected, found))
        };
        let Some(trunk) = trunks.get(self.trunk) else {
            let (all, found) = (format!("below {}", trunks.len()), self.trunk.to_string());
            return expect("trunk", all, found);
        };
        let tokens: Vec<usize> = scales.iter().map(|s| s.tokens()).collect();
        expect("blocks", trunk.depth.to_string(), self.blocks.len().to_string())?;
        expect("heads of a block", trunk.heads.to_string(), self.heads.to_string())?;
        expect("tokens of the scales", format!("{tokens:?}"), format!("{:?}", self.scales))?;
        for (class, list) in [("others", &self.budgets.others), ("wide", &self.budgets.wide)] {
            let (wanted, found) = (tokens.len() - 1, list.len());
            expect(
                &format!("budgets.{class}"),
                format!("{wanted} numbers"),
                format!("{found} numbers"),
            )?;
        }
        for (b, block) in self.blocks.iter().enumerate() {
            let twice = |(i, h): (usize, &usize)| block.wide[..i].contains(h) || *h >= self.heads;
            if block.wide.iter().enumerate().any(twice) {
                let expected = format!("different heads of 0 to {}", self.heads - 1);
                return expect(&format!("block {b}, wide"), expected, format!("{:?}", block.wide));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_keep_the_average() {
        // Infinity's 1M schedule at 10 %, with its 3 of 40 wide blocks of the 8B model.
        let sides = [1, 2, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64];
        let scales = sides.map(|n: usize| n * n);
        let longest: usize = scales[..12].iter().sum();
        for method in [Method::Heads, Method::Layers] {
            for (wide, share) in [(0.075, 0.1), (0.3, 0.5), (0.0, 0.2), (1.0, 0.3), (0.5, 1.0)] {
                let b = Budgets::suggest(method, &scales, wide, share);
                assert_eq!((b.others.len(), b.wide.len()), (12, 12));
                let (mut history, mut before) = (0, [0, 0]);
                for (k, n) in scales[..12].iter().enumerate() {
                    history += n;
                    let mean = (1.0 - wide) * b.others[k] as f64 + wide * b.wide[k] as f64;
                    let wanted = (share * longest as f64).min(history as f64);
                    assert!((mean - wanted).abs() <= 1.0, "{method:?} {wide} {share} {k}: {mean}");
                    assert!(b.others[k] <= before[0] + n && b.wide[k] <= before[1] + n);
                    before = [b.others[k], b.wide[k]];
                }
            }
        }
        let layers = Budgets::suggest(Method::Layers, &scales, 0.075, 650.0 / 6425.0);
        // Published for the 8B model.
        for (found, published) in [
            (&layers.others, [629, 584, 503, 374, 200]),
            (&layers.wide, [909, 1464, 2463, 4054, 6200]),
        ] {
            let near = |(a, b): (&usize, usize)| 100 * a.abs_diff(b) <= 3 * b;
            assert!(found[7..].iter().zip(published).all(near), "{found:?}");
        }
    }

    #[test]
    fn a_foreign_file_is_refused() {
        let trunk = Trunk {
            depth: 1,
            width: 8,
            heads: 2,
            hidden: 8,
            aln: varmint_core::Aln::Own,
            l2_norm: false,
            act: 4,
            wide_heads: [0; varmint_core::config::MAX_DEPTH],
        };
        let scales = [1, 2].map(|n| Scale::new(n, n, 0));
        let good = Calibration {
            model: "m".into(),
            method: Method::Heads,
            count: 1,
            seed: 0,
            trunk: 0,
            heads: 2,
            scales: vec![1, 4],
            measured: vec![1],
            blocks: vec![BlockFound { wide: vec![1], ..BlockFound::default() }],
            share: 0.5,
            budgets: Budgets { others: vec![1], wide: vec![1] },
        };
        good.check(&[trunk], &scales).unwrap();
        assert_eq!(good.wide_share(), 0.5);
        let bad = |change: &dyn Fn(&mut Calibration), words: &str| {
            let mut c = good.clone();
            change(&mut c);
            let said = c.check(&[trunk], &scales).unwrap_err().to_string();
            assert!(said.contains(words), "{said}");
        };
        bad(&|c| c.trunk = 1, "trunk: expected below 1, found 1");
        bad(&|c| c.heads = 3, "heads of a block: expected 2, found 3");
        bad(&|c| c.blocks.clear(), "blocks: expected 1, found 0");
        bad(&|c| c.scales[1] = 9, "expected [1, 4], found [1, 9]");
        bad(&|c| c.budgets.wide.push(2), "budgets.wide: expected 1 numbers, found 2");
        bad(&|c| c.blocks[0].wide.push(2), "block 0, wide: expected different heads of 0 to 1");
        bad(&|c| c.blocks[0].wide.push(1), "found [1, 1]");
        let text = serde_json::to_string(&good).unwrap();
        assert_eq!(serde_json::from_str::<Calibration>(&text).unwrap(), good);
    }
}
