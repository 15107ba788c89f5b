//! Splitting an operation over the threads of the current rayon pool.
//!
//! Only rows are split, and a row's result does not depend on its neighbours: the bits are the same for
//! every number of threads.

use rayon::prelude::*;
use varmint_core::ops::{Strip, Taps};

/// Fewest multiplications of a piece: about 20 microseconds of work, against a few for the hand-over.
const MIN_MACS: usize = 1 << 21;

/// Rows of a piece are a multiple of what the kernels do at once.
const ROWS: usize = 8;

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
