//! Splitting an operation over the threads of the current rayon pool.
//!
//! Only rows are split, and a row's result does not depend on its neighbours: the bits are the same for
//! every number of threads.

use rayon::prelude::*;
use varmint_core::ops::{Heads, Kv, Scratch, Strip, Taps};

/// Fewest multiplications of a piece: about 20 microseconds of work, against a few for the hand-over.
const MIN_MACS: usize = 1 << 21;

/// Rows of a piece are a multiple of what the kernels do at once.
const ROWS: usize = 8;
/// Largest head that attention on several threads has a place for.
const MAX_DIM: usize = 256;
/// Fewest values of a piece of an elementwise operation.
const MIN_VALUES: usize = 1 << 14;

/// Rows per piece of a product, or of a convolution that multiplies `macs` per row; all of them if
/// splitting does not pay.
fn piece(rows: usize, macs: usize, step: usize) -> usize {
    let threads = rayon::current_num_threads().min(rows * macs / MIN_MACS).max(1);
    rows.div_ceil(threads).next_multiple_of(step)
}

/// A product of `n` channels: `run(inputs, their scales, outputs)` on pieces of its rows. `row_scale` may be
/// empty or one for all.
pub(crate) fn product<T: Sync>(
    x: Taps<'_, T>,
    row_scale: &[f32],
    n: usize,
    out: &mut [f32],
    run: impl Fn(Taps<'_, T>, &[f32], &mut [f32]) + Sync,
) {
    let rows = piece(x.rows, x.k().saturating_mul(n), ROWS);
    if rows >= x.rows || n == 0 {
        return run(x, row_scale, out);
    }
    out.par_chunks_mut(rows * n).enumerate().for_each(|(i, out)| {
        let first = i * rows;
        if first >= x.rows {
            return;
        }
        let data = x.data.get(first * x.stride..).unwrap_or(&[]);
        let scale =
            if row_scale.len() > 1 { row_scale.get(first..).unwrap_or(&[]) } else { row_scale };
        run(Taps { data, rows: rows.min(x.rows - first), ..x }, scale, out);
    });
}

/// A 3x3 convolution to `n` channels: `run(strip, scratch, outputs)` on pieces of its rows, the scratch in
/// as many parts.
pub(crate) fn convolution<T: Copy + Sync>(
    x: Strip<'_, T>,
    n: usize,
    scratch: &mut [i32],
    out: &mut [f32],
    run: impl Fn(Strip<'_, T>, &mut [i32], &mut [f32]) + Sync,
) {
    // The largest transform makes tiles of four rows.
    let rows = piece(x.rows, 9 * x.width * x.channels * n, 4);
    let line = x.width * n;
    if rows >= x.rows || line == 0 {
        return run(x, scratch, out);
    }
    let room = (scratch.len() / x.rows.div_ceil(rows)).max(1);
    // A part of nothing for those that get none.
    let parts = scratch.chunks_mut(room).map(Some).chain(core::iter::repeat_with(|| None));
    let pieces = out.chunks_mut(rows * line).zip(parts).enumerate();
    rayon::in_place_scope(|scope| {
        for (i, (out, scratch)) in pieces {
            let run = &run;
            scope.spawn(move |_| {
                let first = i * rows;
                if first < x.rows {
                    let data = x.data.get(first * x.line()..).unwrap_or(&[]);
                    let strip = Strip { data, rows: rows.min(x.rows - first), ..x };
                    run(strip, scratch.unwrap_or_default(), out);
                }
            });
        }
    });
}

/// Attention: `run(queries, scratch, outputs)` on pieces of the query rows, the scratch in as many parts.
pub(crate) fn attention(
    Heads { width, dim }: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
    run: impl Fn(&[f32], &mut Scratch<'_>, &mut [f32]) + Sync,
) {
    let keys = kv[0].1.saturating_add(kv[1].1);
    let all = q.len().checked_div(width).unwrap_or(0);
    let rows = piece(all, keys.saturating_mul(2 * width), ROWS);
    let pieces = all.div_ceil(rows.max(1)).max(1);
    let (scores, probs) = (scratch.scores.len() / pieces, scratch.probs.len() / pieces);
    // Every piece needs room for one row at least.
    if rows >= all || dim > MAX_DIM || keys == 0 || scores.min(probs) < keys {
        return run(q, scratch, out);
    }
    let parts = scratch.scores.chunks_mut(scores).zip(scratch.probs.chunks_mut(probs));
    let rows = q.chunks(rows * width).zip(out.chunks_mut(rows * width));
    rayon::in_place_scope(|scope| {
        for ((q, out), (scores, probs)) in rows.zip(parts) {
            let run = &run;
            scope.spawn(move |_| {
                let (mut sums, mut query) = ([0; MAX_DIM], [0; MAX_DIM]);
                let (sums, query) = (&mut sums[..dim], &mut query[..dim]);
                run(q, &mut Scratch { scores, probs, sums, query }, out);
            });
        }
    });
}

/// An operation on every value alone.
pub(crate) fn elementwise(x: &mut [f32], run: impl Fn(&mut [f32]) + Send + Sync) {
    let threads = rayon::current_num_threads().min(x.len() / MIN_VALUES).max(1);
    if threads == 1 {
        return run(x);
    }
    x.par_chunks_mut(x.len().div_ceil(threads).next_multiple_of(8)).for_each(run);
}
