//! Which tokens stay in a cache that cannot hold all (after ScaleKV, arXiv 2505.19602, and HACK, arXiv
//! 2504.09261; docs/arithmetic.md says what is ours).
//!
//! ```text
//! seen[h, j]  = sum over the grid's tokens i of softmax_j(q_i k_j)      while the scale is computed
//! score[h, j] = mean of seen[h, ..] over `pool` neighbours of j
//! stays: the protected tokens first, then those of the highest score; equal ones in order
//! ```
//! Protected are the grid's tokens themselves; for wide heads the first scales and the whole current one.

use crate::cache::{Cache, Slab};
use crate::config::Scale;
use crate::error::Error;
use crate::grid::on_grid;
use crate::host::{Host, Job, nums};
use crate::num::sum8;
use crate::ops::{Kv, Ops};
use crate::plan::Buf;
use crate::scalar::softmax;
use crate::slices::{div, part, part_mut, pieces};
use crate::stage::Tile;

/// `q k_j` of one head.
fn score(q: &[f32], kv: Kv<'_>, slab: &Slab, j: usize, h: usize) -> f32 {
    let at = (j * slab.of.heads + h) * slab.of.dim;
    let n = slab.of.dim;
    match kv {
        Kv::F32 { k, .. } => sum8(q.iter().zip(part(k, at, n)).map(|(a, b)| a * b)),
        Kv::F16 { k, .. } => sum8(q.iter().zip(part(k, at, n)).map(|(a, b)| a * b.to_f32())),
        Kv::I8 { k, ks, .. } => {
            let scale = ks.get(j * slab.of.heads + h).map_or(0.0, |s| s.to_f32());
            scale * sum8(q.iter().zip(part(k, at, n)).map(|(a, &b)| a * b as f32))
        }
    }
}

/// Adds what the grid's tokens among `q`, `[tokens, heads of the class, hd]` from token `at` on, look at.
pub(crate) fn observe(
    map: Scale,
    job: &Job<'_>,
    slab: &Slab,
    (at, q): (usize, &[f32]),
    (past, now): (&[u8], &[u8]),
    scores: &mut [f32],
    seen: &mut [f32],
) -> Result<(), Error> {
    let keep = &job.plan.tier.keep;
    let n = slab.before + slab.l;
    let (dim, heads) = (slab.of.dim, slab.of.heads);
    let cached = slab.past(past)?;
    let (own, first) = slab.own(past, now)?;
    for (i, q) in pieces(q, slab.of.width()).enumerate() {
        if !on_grid(map, keep.grid, at + i) {
            continue;
        }
        for (h, q) in pieces(q, dim).enumerate().take(heads) {
            let scores = part_mut(scores, 0, n);
            for (j, s) in scores.iter_mut().enumerate() {
                *s = match j.checked_sub(slab.before) {
                    None => score(q, cached, slab, j, h),
                    Some(j) => score(q, own, slab, first + j, h),
                };
            }
            let total = softmax(scores);
            for (o, &s) in part_mut(seen, slab.looks(h), n).iter_mut().zip(scores.iter()) {
                *o += s / total;
            }
        }
    }
    Ok(())
}

/// The largest `t` of which at least `n` of `ranks` are not less: what stays, but for equal ones.
fn threshold(ranks: &[u32], n: usize) -> u32 {
    let (mut low, mut high) = (0, u32::MAX);
    while low < high {
        let t = low + (high - low).div_ceil(2);
        if ranks.iter().filter(|&&r| r >= t).count() >= n {
            low = t;
        } else {
            high = t - 1;
        }
    }
    low
}

impl<O: Ops> Host<'_, O> {
    /// Chooses what stays of a row of a block after a scale, and closes the gaps.
    pub(crate) fn keep(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let c = &shape.config;
        let map = c.scale(t.scale);
        let cache = Cache::of(shape, job.plan.layout(), t);
        if !cache.chooses() {
            return Ok(());
        }
        let [now, seen, scores, past] =
            self.arena.take(job.plan, [Buf::KvNow, Buf::Seen, Buf::Scores, cache.buf])?;
        let (seen, ranks) = (nums::<f32>(seen)?, nums::<u32>(scores)?);
        // The shares of this row, where both run together.
        let rows = tier.rows_at_once(t.trunk, t.scale);
        let (room, share) = (div(now.len(), rows), div(seen.len(), rows));
        let row = if rows > 1 { t.row } else { 0 };
        let (now, seen) = (part(now, row * room, room), part(seen, row * share, share));
        for slab in cache.slabs.iter().filter(|s| s.of.heads > 0) {
            let Some(room) = slab.choose else { continue };
            let n = slab.before + slab.l;
            let wide = slab.of.class == 1;
            let protected = |j: usize| match j.checked_sub(slab.before) {
                None => wide && j < c.tokens_before(tier.keep.protect),
                Some(i) => wide || on_grid(map, tier.keep.grid, i),
            };
            for h in 0..slab.of.heads {
                let seen = part(seen, slab.looks(h), n);
                let ranks = part_mut(ranks, 0, n);
                for (j, rank) in ranks.iter_mut().enumerate() {
                    let from = j.saturating_sub(tier.keep.pool / 2);
                    let near = part(seen, from, (j + tier.keep.pool / 2 + 1).min(n) - from);
                    let mean = near.iter().fold(0.0, |a, &v| a + v) / near.len() as f32;
                    // Positive floats sort as their bits do.
                    *rank = mean.to_bits() & 0x7FFF_FFFF | if protected(j) { 1 << 31 } else { 0 };
                }
                let least = threshold(ranks, room);
                let above = ranks.iter().filter(|&&r| r > least).count();
                let (mut equal, mut to) = (room.saturating_sub(above), 0);
                for (j, &rank) in ranks.iter().enumerate() {
                    let tie = rank == least && equal > 0;
                    if rank > least || tie {
                        equal -= usize::from(tie);
                        match j.checked_sub(slab.before) {
                            None => slab.shift(past, h, j, to),
                            Some(i) => slab.enter(past, now, h, i, to),
                        }
                        to += 1;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_threshold_keeps_as_many_as_fit() {
        assert_eq!(threshold(&[5, 1, 9, 5, 0], 2), 5);
        assert_eq!(threshold(&[5, 1, 9], 3), 1);
        assert_eq!(threshold(&[5, 1, 9], 0), u32::MAX);
    }
}
