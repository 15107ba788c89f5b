//! Which heads look far back: sample pictures with a look at attention, then one of two published ways to
//! tell the heads apart (both without training).
//!
//! ```text
//! heads     HACK (arXiv 2504.09261): variance over queries of the attention to each key. Large: every
//!           query has keys of its own (structural), which suffer when tokens go. Cut at the widest gap
//! layers    ScaleKV (arXiv 2505.19602): attention-selectivity index, own scale × best of the history,
//!           compared among blocks. Low: attention is spread over the history (drafters)
//! ```
//!
//! Attention is the softmax of the queries that the run itself uses, of the conditional row, with every
//! block and the whole history.

use std::cell::RefCell;

use varmint_core::stage::Stage;
use varmint_core::{Generator, Host, Keep, Model, Plan, Tier};

use crate::calibration::{BlockFound, Budgets, Calibration, Method};
use crate::compare::requests;
use crate::error::Error;
use crate::probe::{Look, Sums};
use crate::tiers::all_blocks;
use crate::watch::Watched;

/// Scales are looked at from this one on: earlier ones have next to no history.
const FROM_SCALE: usize = 2;
/// Scales of fewer queries say nothing about their variance.
const LEAST_QUERIES: usize = 4;

/// How to calibrate.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Pictures to make.
    pub count: usize,
    /// Seed of the first; their labels follow from it.
    pub seed: u64,
    /// How to tell heads apart.
    pub method: Method,
    /// Which trunk.
    pub trunk: usize,
    /// How many are wide: a share of all heads, or a number of blocks. Else the widest gap, or an eighth
    /// of the blocks.
    pub wide: Option<f64>,
    /// Average share of the history that the suggested budgets keep.
    pub share: f64,
}

/// Makes sample pictures and finds the wide heads. `done` is called once per picture.
///
/// # Errors
/// [`Error::Option`] for settings that do not fit the model, and what a run says.
pub fn calibrate(
    model: &Model<'_>,
    settings: &Settings,
    mut done: impl FnMut(),
) -> Result<Calibration, Error> {
    let tier = whole_tier(model, settings)?;
    let (c, trunk) = (&model.shape.config, model.shape.trunk(settings.trunk));
    let scales: Vec<usize> = (0..c.n_scales()).map(|k| c.scale(k).tokens()).collect();
    let measured: Vec<usize> = (FROM_SCALE..scales.len())
        .filter(|&k| scales[k] >= LEAST_QUERIES && tier.trunk(k) == settings.trunk)
        .collect();
    if measured.is_empty() {
        return Err(Error::Option(format!(
            "{}: trunk {} has no scale from the third on with {LEAST_QUERIES} tokens to look at; its scales have {scales:?}",
            model.name(),
            settings.trunk,
        )));
    }
    let (depth, heads) = (trunk.depth as usize, trunk.heads as usize);
    let sums = RefCell::new(Sums::new(scales.clone(), depth, heads));
    let failed = |e: varmint_core::Error| Error::Option(e.to_string());
    let plan = Plan::new(&model.shape, &tier).map_err(failed)?;
    let mut arena = vec![0u128; plan.bytes().div_ceil(16)];
    for item in requests(model, settings.count, settings.seed) {
        let ram = bytemuck::cast_slice_mut(&mut arena);
        let host = Host::new(Watched::new(&sums), ram, &plan).map_err(failed)?;
        let mut run = Generator::new(model, &plan, host, item.request()).map_err(failed)?;
        while !matches!(run.stage(), Stage::Decode { .. } | Stage::Done) {
            let tile = match run.stage() {
                Stage::Mix(t) if t.trunk == settings.trunk && t.row == 0 => Some(t),
                _ => None,
            };
            sums.borrow_mut().begin(tile);
            run.step().map_err(failed)?;
        }
        done();
    }
    let sums = sums.into_inner();
    let mut blocks: Vec<BlockFound> = Vec::new();
    let index = selectivity(&sums, &measured, depth, heads);
    for (b, selectivity) in index.into_iter().enumerate() {
        let mean = |value: &dyn Fn(Look) -> f64| -> Vec<f64> {
            let over = |h| measured.iter().map(|&k| value(sums.mean(k, b, h))).sum::<f64>();
            (0..heads).map(|h| rounded(over(h) / measured.len() as f64)).collect()
        };
        let (variance, own, top) = (mean(&|l| l.variance), mean(&|l| l.own), mean(&|l| l.top));
        let selectivity = rounded(selectivity);
        blocks.push(BlockFound { wide: Vec::new(), selectivity, variance, own, top });
    }
    match settings.method {
        Method::Heads => by_variance(&mut blocks, settings.wide),
        Method::Layers => by_selectivity(&mut blocks, heads, settings.wide),
    }
    .map_err(Error::Option)?;
    let mut calibration = Calibration {
        model: model.name().to_owned(),
        method: settings.method,
        count: settings.count,
        seed: settings.seed,
        trunk: settings.trunk,
        heads,
        scales,
        measured,
        blocks,
        share: settings.share,
        budgets: Budgets { others: Vec::new(), wide: Vec::new() },
    };
    let (method, wide) = (settings.method, calibration.wide_share());
    calibration.budgets = Budgets::suggest(method, &calibration.scales, wide, settings.share);
    Ok(calibration)
}

/// To six decimals, for a file that people read.
fn rounded(x: f64) -> f64 {
    (1e6 * x).round() / 1e6
}

/// The first tier that uses the trunk, with every block and the whole history.
fn whole_tier(model: &Model<'_>, settings: &Settings) -> Result<Tier, Error> {
    let (shape, n) = (&model.shape, model.shape.config.n_scales());
    let refuse = |why: String| Err(Error::Option(format!("{}: {why}", model.name())));
    let trunk = settings.trunk;
    if trunk >= shape.n_trunks() {
        return refuse(format!("--trunk {trunk}: the file has {} of them", shape.n_trunks()));
    }
    if !(settings.share > 0.0 && settings.share <= 1.0) {
        return refuse(format!("--share {}: wanted is a part, above 0 up to 1", settings.share));
    }
    if shape.trunk(trunk).wide_heads.iter().any(|&n| n > 0) {
        return refuse(format!(
            "the heads of trunk {trunk} are in the order of an earlier calibration already; calibrate a file that was converted without --calibration"
        ));
    }
    let Some(mut tier) = model.tiers().find(|t| (0..n).any(|k| t.trunk(k) == trunk)) else {
        return refuse(format!("no tier runs trunk {trunk}"));
    };
    tier.keep = Keep::ALL;
    let all = |k: usize| all_blocks(shape.trunk(tier.trunk(k)).depth);
    tier.with_blocks(shape, all).map_err(|e| Error::Option(e.to_string()))
}

/// The attention-selectivity index of each block, in standard deviations, averaged over scales.
fn selectivity(sums: &Sums, measured: &[usize], depth: usize, heads: usize) -> Vec<f64> {
    let mut mean = vec![0.0; depth];
    for &k in measured {
        let index = |b: usize| {
            let over = |value: fn(Look) -> f64| -> f64 {
                (0..heads).map(|h| value(sums.mean(k, b, h))).sum::<f64>() / heads as f64
            };
            over(|l| l.own) * over(|l| l.top)
        };
        let all: Vec<f64> = (0..depth).map(index).collect();
        for (mean, z) in mean.iter_mut().zip(standardised(&all)) {
            *mean += z / measured.len() as f64;
        }
    }
    mean
}

/// Distances from the mean in standard deviations; zeros where all are equal.
fn standardised(all: &[f64]) -> Vec<f64> {
    let n = all.len().max(1) as f64;
    let mean = all.iter().sum::<f64>() / n;
    let deviation = (all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
    all.iter().map(|v| if deviation > 0.0 { (v - mean) / deviation } else { 0.0 }).collect()
}

/// ScaleKV: all heads of the blocks with the lowest index.
fn by_selectivity(
    blocks: &mut [BlockFound],
    heads: usize,
    wide: Option<f64>,
) -> Result<(), String> {
    let depth = blocks.len();
    let n = wide.unwrap_or((depth / 8).max(1) as f64);
    if n < 0.0 || n > depth as f64 || n.fract() != 0.0 {
        return Err(format!("--wide {n}: wanted is a number of blocks, 0 to {depth}"));
    }
    let mut order: Vec<usize> = (0..depth).collect();
    order.sort_by(|&a, &b| blocks[a].selectivity.total_cmp(&blocks[b].selectivity));
    for &b in order.iter().take(n as usize) {
        blocks[b].wide = (0..heads).collect();
    }
    Ok(())
}

/// HACK: the heads with the largest variance.
fn by_variance(blocks: &mut [BlockFound], wide: Option<f64>) -> Result<(), String> {
    let mut all: Vec<f64> = blocks.iter().flat_map(|b| b.variance.iter().copied()).collect();
    all.sort_by(f64::total_cmp);
    let others = match wide {
        None => widest_gap(&all),
        Some(share) if (0.0..=1.0).contains(&share) => {
            all.len() - (share * all.len() as f64).round() as usize
        }
        Some(x) => return Err(format!("--wide {x}: wanted is a share of the heads, 0 to 1")),
    };
    let least = all.get(others).copied().unwrap_or(f64::INFINITY);
    for block in blocks {
        let heads = 0..block.variance.len();
        block.wide = heads.filter(|&h| block.variance[h] >= least).collect();
    }
    Ok(())
}

/// Where to cut a sorted list: at the largest ratio of neighbours between its 10th and 90th percentile.
fn widest_gap(sorted: &[f64]) -> usize {
    let n = sorted.len();
    let cuts = n.div_ceil(10) + 1..9 * n / 10 + 1;
    let ratio = |i: usize| sorted[i] / sorted[i - 1].max(1e-12);
    cuts.max_by(|&a, &b| ratio(a).total_cmp(&ratio(b))).unwrap_or(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(variance: [[f64; 3]; 3]) -> Vec<BlockFound> {
        let block = |v: [f64; 3]| BlockFound {
            variance: v.to_vec(),
            selectivity: v[0],
            ..BlockFound::default()
        };
        variance.map(block).to_vec()
    }

    fn wide(blocks: &[BlockFound]) -> Vec<&[usize]> {
        blocks.iter().map(|b| b.wide.as_slice()).collect()
    }

    const VARIANCE: [[f64; 3]; 3] = [[0.1, 0.9, 0.12], [0.15, 0.8, 0.7], [0.11, 0.13, 0.001]];

    #[test]
    fn heads_are_cut_at_the_widest_gap() {
        let mut b = blocks(VARIANCE);
        by_variance(&mut b, None).unwrap();
        // The gap of 0.001 to 0.1 is below the 10th percentile.
        assert_eq!(wide(&b), [&[1][..], &[1, 2], &[]]);
        by_variance(&mut b, Some(1.0 / 9.0)).unwrap();
        assert_eq!(wide(&b), [&[1][..], &[], &[]]);
        by_variance(&mut b, Some(0.0)).unwrap();
        assert!(wide(&b).iter().all(|w| w.is_empty()));
        by_variance(&mut b, Some(1.0)).unwrap();
        assert_eq!(wide(&b), [&[0, 1, 2][..]; 3]);
        assert!(by_variance(&mut b, Some(2.0)).unwrap_err().contains("0 to 1"));
        assert_eq!(widest_gap(&[1.0]), 1);
        assert_eq!(widest_gap(&[1.0, 2.0, 2.0, 2.0, 8.0]), 4);
    }

    #[test]
    fn blocks_of_the_lowest_index_are_wide() {
        let mut b = blocks(VARIANCE);
        by_selectivity(&mut b, 3, None).unwrap();
        assert_eq!(wide(&b), [&[0, 1, 2][..], &[], &[]]);
        by_selectivity(&mut b, 3, Some(2.0)).unwrap();
        assert_eq!(wide(&b), [&[0, 1, 2][..], &[], &[0, 1, 2]]);
        for n in [0.5, -1.0, 4.0, f64::NAN] {
            assert!(by_selectivity(&mut b, 3, Some(n)).unwrap_err().contains("0 to 3"), "{n}");
        }
        assert_eq!(standardised(&[1.0, 3.0]), [-1.0, 1.0]);
        assert_eq!(standardised(&[2.0; 4]), [0.0; 4]);
    }
}
