//! Integer products with NEON.
//!
//! 8 bits: `smull`, `smlal`, `sadalp`. Weights and inputs are within ±127, so two products are at most
//! 2 * 127 * 127 = 32258: they fit into i16. 12 bits: `smlal` by a lane, into i32.

use core::arch::aarch64::*;

use varmint_core::ops::{Packed, Taps};

use super::attention::scores;
use crate::arch::product::Product;

/// See `varmint_core::Ops::gemm_i8`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "neon")]
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
                    4.. => tile_i8::<4>(&p, m, g),
                    2.. => tile_i8::<2>(&p, m, g),
                    _ => tile_i8::<1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR` of one group of 8 channels.
///
/// # Safety
/// The rows and the group are inside the product; NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile_i8<const MR: usize>(p: &Product<'_, i8>, m: usize, g: usize) -> usize {
    // Two channels each, two partial sums of a channel.
    let mut acc = [[vdupq_n_s32(0); 4]; MR];
    for s in 0..p.segs() {
        let pairs = p.seg_steps() / 2;
        for step in (0..pairs).map(|pair| 2 * pair) {
            // SAFETY: the weights and inputs of two steps lie inside their slices.
            unsafe {
                let w = p.weights(g, s, step);
                let (w0, w1) = (vld1q_s8(w), vld1q_s8(w.add(16)));
                let (w2, w3) = (vld1q_s8(w.add(32)), vld1q_s8(w.add(48)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = vreinterpret_s32_s8(vld1_s8(p.input(m + i, s, step)));
                    let (a, b) = (vdupq_lane_s32::<0>(a), vdupq_lane_s32::<1>(a));
                    let (a, b) = (vreinterpretq_s8_s32(a), vreinterpretq_s8_s32(b));
                    acc[0] = vpadalq_s16(acc[0], mla_low(mul_low(w0, a), w2, b));
                    acc[1] = vpadalq_s16(acc[1], vmlal_high_s8(vmull_high_s8(w0, a), w2, b));
                    acc[2] = vpadalq_s16(acc[2], mla_low(mul_low(w1, a), w3, b));
                    acc[3] = vpadalq_s16(acc[3], vmlal_high_s8(vmull_high_s8(w1, a), w3, b));
                }
            }
        }
        for step in 2 * pairs..p.seg_steps() {
            // SAFETY: the weights and inputs of this step lie inside their slices.
            unsafe {
                let w = p.weights(g, s, step);
                let (w0, w1) = (vld1q_s8(w), vld1q_s8(w.add(16)));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = quad(p.input(m + i, s, step));
                    acc[0] = vpadalq_s16(acc[0], mul_low(w0, a));
                    acc[1] = vpadalq_s16(acc[1], vmull_high_s8(w0, a));
                    acc[2] = vpadalq_s16(acc[2], mul_low(w1, a));
                    acc[3] = vpadalq_s16(acc[3], vmull_high_s8(w1, a));
                }
            }
        }
    }
    for (i, &[a, b, c, d]) in acc.iter().enumerate() {
        // SAFETY: row and group are inside the product.
        unsafe { store(p, m + i, g, [vpaddq_s32(a, b), vpaddq_s32(c, d)]) };
    }
    MR
}

#[inline]
#[target_feature(enable = "neon")]
fn mul_low(a: int8x16_t, b: int8x16_t) -> int16x8_t {
    vmull_s8(vget_low_s8(a), vget_low_s8(b))
}

#[inline]
#[target_feature(enable = "neon")]
fn mla_low(acc: int16x8_t, a: int8x16_t, b: int8x16_t) -> int16x8_t {
    vmlal_s8(acc, vget_low_s8(a), vget_low_s8(b))
}

/// Four inputs, four times.
///
/// # Safety
/// `at` points to 4 values; NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn quad(at: *const i8) -> int8x16_t {
    // SAFETY: the caller's 4 bytes, at any alignment.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { at.cast::<i32>().read_unaligned() }))
}

/// See `varmint_core::Ops::gemm_i12`; `None` as above.
#[target_feature(enable = "neon")]
pub(super) fn gemm_i12(
    x: Taps<'_, i16>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    for g in 0..p.groups() {
        let mut m = 0;
        while m < p.rows() {
            // SAFETY: as in `gemm_i8`.
            m += unsafe {
                match p.rows() - m {
                    8.. => tile_i12::<8>(&p, m, g),
                    3.. => tile_i12::<3>(&p, m, g),
                    _ => tile_i12::<1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR` of one group of 8 channels.
///
/// # Safety
/// As [`tile_i8`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile_i12<const MR: usize>(p: &Product<'_, i16>, m: usize, g: usize) -> usize {
    let mut acc = [[vdupq_n_s32(0); 2]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the weights and inputs of this step lie inside their slices.
            unsafe {
                // Taken apart: one input's weights for the 8 channels each.
                let int8x8x4_t(w0, w1, w2, w3) = vld4_s8(p.weights(g, s, step));
                let (w0, w1, w2, w3) = (vmovl_s8(w0), vmovl_s8(w1), vmovl_s8(w2), vmovl_s8(w3));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = vld1_s16(p.input(m + i, s, step));
                    mla_lane::<0>(acc, w0, a);
                    mla_lane::<1>(acc, w1, a);
                    mla_lane::<2>(acc, w2, a);
                    mla_lane::<3>(acc, w3, a);
                }
            }
        }
    }
    for (i, &acc) in acc.iter().enumerate() {
        // SAFETY: row and group are inside the product.
        unsafe { store(p, m + i, g, acc) };
    }
    MR
}

/// Adds `w` times one lane of `a`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn mla_lane<const LANE: i32>(acc: &mut [int32x4_t; 2], w: int16x8_t, a: int16x4_t) {
    acc[0] = vmlal_lane_s16::<LANE>(acc[0], vget_low_s16(w), a);
    acc[1] = vmlal_high_lane_s16::<LANE>(acc[1], w, a);
}

/// Writes the 8 channels of group `g` of row `m`, fewer at the end.
///
/// # Safety
/// Row and group are inside the product; NEON.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn store<T>(p: &Product<'_, T>, m: usize, g: usize, sums: [int32x4_t; 2]) {
    let rest = p.channels(8 * g);
    for (half, sums) in sums.into_iter().enumerate() {
        let (at, n) = (8 * g + 4 * half, rest.saturating_sub(4 * half).min(4));
        if n == 0 {
            return;
        }
        // SAFETY: channel `at` is inside the product and scales come in eights; output and bias are
        // read and written for `n` channels only.
        unsafe {
            // Never fused: the reference rounds twice.
            let scale = vmulq_n_f32(vld1q_f32(p.scale(at)), p.row_scale(m));
            let y = vmulq_f32(vcvtq_f32_s32(sums), scale);
            let to = p.out(m, at);
            if n == 4 {
                vst1q_f32(to, vaddq_f32(y, vld1q_f32(p.bias(at))));
            } else {
                let mut lanes = [0.0; 4];
                vst1q_f32(lanes.as_mut_ptr(), y);
                for (i, &y) in lanes.iter().enumerate().take(n) {
                    to.add(i).write(y + p.bias(at + i).read());
                }
            }
        }
    }
}

scores!("neon", dot16);

/// Adds 16 products to 4 partial sums.
#[inline]
#[target_feature(enable = "neon")]
fn dot16(acc: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    vpadalq_s16(acc, vmlal_high_s8(mul_low(a, b), a, b))
}
