//! 8-bit products with the dot product extension: `sdot` adds four products to each 32-bit lane.
//!
//! The packed weights are made for it: one step of a group is two registers, 4 channels of 4 inputs
//! each, and a register of inputs holds four steps of a row, taken lane by lane. The intrinsic is not
//! stable yet, so the instruction is written out.

use core::arch::aarch64::*;
use core::arch::asm;

use varmint_core::ops::{Packed, Taps};

use super::neon::{quad, store};
use crate::arch::product::Product;

/// `acc[i] += a[4 i..][..4] . b[4 i..][..4]`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn sdot(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: works on registers only; the extension is this function's own.
    unsafe {
        asm!("sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc, a = in(vreg) a, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// `acc[i] += w[4 i..][..4] . x[4 LANE..][..4]`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lane<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!("sdot {acc:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags));
    }
    acc
}

/// See `varmint_core::Ops::gemm_i8`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "neon,dotprod")]
pub(crate) fn gemm_i8(
    x: Taps<'_, i8>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    for g in (0..p.groups()).step_by(2) {
        let mut m = 0;
        while m < p.rows() {
            // SAFETY: `Product::new` checked every row, group and output of the shapes; the tile's
            // rows and groups are below `rows()` and `groups()`, and the extension is this function's
            // own.
            m += unsafe {
                match (p.rows() - m, p.groups() - g) {
                    (8.., 2..) => {
                        tile::<8, 1>(&p, m, g);
                        tile::<8, 1>(&p, m, g + 1)
                    }
                    (8.., _) => tile::<8, 1>(&p, m, g),
                    // Few rows: two groups, so that enough sums are under way.
                    (4.., 2..) => tile::<4, 2>(&p, m, g),
                    (2.., 2..) => tile::<2, 2>(&p, m, g),
                    (_, 2..) => tile::<1, 2>(&p, m, g),
                    (4.., _) => tile::<4, 1>(&p, m, g),
                    _ => tile::<1, 1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR`, channel groups `g..g + NG`.
///
/// # Safety
/// The rows and groups are inside the product; the dot product extension.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const MR: usize, const NG: usize>(p: &Product<'_, i8>, m: usize, g: usize) -> usize {
    // Channels 0..4 and 4..8.
    let mut acc = [[[vdupq_n_s32(0); 2]; NG]; MR];
    let steps = p.seg_steps();
    for s in 0..p.segs() {
        // The odd steps come first: after the long loop nothing but the stores needs the sums, which
        // spares a move of each.
        for step in 0..steps % 4 {
            let mut x = [vdupq_n_s8(0); MR];
            for (i, x) in x.iter_mut().enumerate() {
                // SAFETY: one step of a row lies inside the data.
                *x = unsafe { quad(p.input(m + i, s, step)) };
            }
            // SAFETY: the step is inside the segment.
            unsafe { steps_of::<0, MR, NG>(p, g, s, step, &x, &mut acc) };
        }
        for first in (steps % 4..steps).step_by(4) {
            let mut x = [vdupq_n_s8(0); MR];
            for (i, x) in x.iter_mut().enumerate() {
                // SAFETY: four steps of a row lie inside the data.
                *x = unsafe { vld1q_s8(p.input(m + i, s, first)) };
            }
            // SAFETY: the steps are inside the segment.
            unsafe {
                steps_of::<0, MR, NG>(p, g, s, first, &x, &mut acc);
                steps_of::<1, MR, NG>(p, g, s, first, &x, &mut acc);
                steps_of::<2, MR, NG>(p, g, s, first, &x, &mut acc);
                steps_of::<3, MR, NG>(p, g, s, first, &x, &mut acc);
            }
        }
    }
    // A copy: the sums themselves, never addressed by an index that is not constant, stay in registers.
    let sums = acc;
    for (i, sums) in sums.iter().enumerate() {
        for (j, &sums) in sums.iter().enumerate() {
            // SAFETY: row and group are inside the product.
            unsafe { store(p, m + i, g + j, sums) };
        }
    }
    MR
}

/// Step `first + LANE` of all rows; `x` holds the steps from `first` on.
///
/// # Safety
/// The groups and the step are inside the product; the dot product extension.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn steps_of<const LANE: usize, const MR: usize, const NG: usize>(
    p: &Product<'_, i8>,
    g: usize,
    s: usize,
    first: usize,
    x: &[int8x16_t; MR],
    acc: &mut [[[int32x4_t; 2]; NG]; MR],
) {
    for j in 0..NG {
        // SAFETY: 32 weights of group and step lie inside the weights.
        let w = unsafe { vld1q_s8_x2(p.weights(g + j, s, first + LANE)) };
        for (acc, &x) in acc.iter_mut().zip(x) {
            let [low, high] = &mut acc[j];
            *low = sdot_lane::<LANE>(*low, w.0, x);
            *high = sdot_lane::<LANE>(*high, w.1, x);
        }
    }
}
