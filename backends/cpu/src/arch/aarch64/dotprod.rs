//! Integer products with `sdot`: 16 products of 8 bits into 4 sums of 32 bits.
//!
//! By inline assembly, as the intrinsics are not stable.

use core::arch::aarch64::*;
use core::arch::asm;

use varmint_core::ops::{Packed, Taps};

use super::attention::scores;
use super::neon::{quad, store};
use crate::arch::product::Product;

/// See `varmint_core::Ops::gemm_i8`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "neon,dotprod")]
pub(super) fn gemm_i8(
    x: Taps<'_, i8>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    for g in 0..p.groups() {
        let mut m = 0;
        while m < p.rows() {
            // SAFETY: `Product::new` checked every row, group and output of the shapes; the tile's
            // rows and group are below `rows()` and `groups()`.
            m += unsafe {
                match p.rows() - m {
                    8.. => tile::<8>(&p, m, g),
                    4.. => tile::<4>(&p, m, g),
                    2.. => tile::<2>(&p, m, g),
                    _ => tile::<1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR` of one group of 8 channels.
///
/// # Safety
/// The rows and the group are inside the product; dotprod.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const MR: usize>(p: &Product<'_, i8>, m: usize, g: usize) -> usize {
    let mut acc = [[vdupq_n_s32(0); 2]; MR];
    for s in 0..p.segs() {
        let fours = p.seg_steps() / 4;
        for step in (0..fours).map(|four| 4 * four) {
            // SAFETY: the weights and inputs of four steps lie inside their slices.
            unsafe {
                let w = p.weights(g, s, step);
                let mut a = [vdupq_n_s8(0); MR];
                for (i, a) in a.iter_mut().enumerate() {
                    *a = vld1q_s8(p.input(m + i, s, step));
                }
                step4::<0, MR>(&mut acc, w, &a);
                step4::<1, MR>(&mut acc, w.add(32), &a);
                step4::<2, MR>(&mut acc, w.add(64), &a);
                step4::<3, MR>(&mut acc, w.add(96), &a);
            }
        }
        for step in 4 * fours..p.seg_steps() {
            // SAFETY: the weights and inputs of this step lie inside their slices.
            unsafe {
                let mut a = [vdupq_n_s8(0); MR];
                for (i, a) in a.iter_mut().enumerate() {
                    *a = quad(p.input(m + i, s, step));
                }
                step4::<0, MR>(&mut acc, p.weights(g, s, step), &a);
            }
        }
    }
    for (i, &acc) in acc.iter().enumerate() {
        // SAFETY: row and group are inside the product.
        unsafe { store(p, m + i, g, acc) };
    }
    MR
}

/// One step of 4 inputs, which are quad `LANE` of every row's.
///
/// # Safety
/// `w` points to the step's 32 weights; dotprod.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn step4<const LANE: usize, const MR: usize>(
    acc: &mut [[int32x4_t; 2]; MR],
    w: *const i8,
    a: &[int8x16_t; MR],
) {
    // SAFETY: the caller's 32 weights.
    let w = unsafe { [vld1q_s8(w), vld1q_s8(w.add(16))] };
    for (acc, &a) in acc.iter_mut().zip(a) {
        acc[0] = sdot_lane::<LANE>(acc[0], w[0], a);
        acc[1] = sdot_lane::<LANE>(acc[1], w[1], a);
    }
}

/// Adds the dot products of `w`'s four quads with quad `LANE` of `a`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot_lane<const LANE: usize>(mut acc: int32x4_t, w: int8x16_t, a: int8x16_t) -> int32x4_t {
    // SAFETY: one instruction on registers, of a feature that this function has.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {a:v}.4b[{lane}]",
            acc = inout(vreg) acc,
            w = in(vreg) w,
            a = in(vreg) a,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

scores!("neon,dotprod", dot16);

/// Adds 16 products to 4 partial sums.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot16(mut acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: as in `sdot_lane`.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {a:v}.16b, {b:v}.16b",
            acc = inout(vreg) acc,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}
