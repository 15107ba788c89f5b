//! Integer products with the NEON that every 64-bit processor has.
//!
//! 8 bits: `smull` and `smlal` put two products of a channel into a 16-bit lane (weights and inputs are
//! within ±127, so at most 2 * 127 * 127 = 32258), `sadalp` adds pairs of lanes to 32 bits: 64 products in
//! 12 instructions. 12 bits: `ld4` turns 8 channels x 4 inputs around, then `smlal` by lane.

use core::arch::aarch64::*;
use core::arch::asm;

use varmint_core::ops::{Packed, Taps};

use crate::arch::product::Product;

/// See `varmint_core::Ops::gemm_i8`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "neon")]
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
            // rows and groups are below `rows()` and `groups()`.
            m += unsafe {
                match (p.rows() - m, p.groups() - g) {
                    (4.., 2..) => {
                        tile_i8::<4, 1>(&p, m, g);
                        tile_i8::<4, 1>(&p, m, g + 1)
                    }
                    (4.., _) => tile_i8::<4, 1>(&p, m, g),
                    // Few rows: two groups, so that enough sums are under way.
                    (2.., 2..) => tile_i8::<2, 2>(&p, m, g),
                    (_, 2..) => tile_i8::<1, 2>(&p, m, g),
                    _ => tile_i8::<1, 1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR`, channel groups `g..g + NG`.
///
/// # Safety
/// The rows and groups are inside the product.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile_i8<const MR: usize, const NG: usize>(
    p: &Product<'_, i8>,
    m: usize,
    g: usize,
) -> usize {
    // Channels in pairs, two partial sums each.
    let mut acc = [[[vdupq_n_s32(0); 4]; NG]; MR];
    let steps = p.seg_steps();
    for s in 0..p.segs() {
        for step in (0..steps - steps % 2).step_by(2) {
            // SAFETY: the groups' and the rows' values of these two steps lie inside their slices.
            unsafe {
                let mut w = [vld1q_s8_x4(p.weights(g, s, step)); NG];
                for (j, w) in w.iter_mut().enumerate().skip(1) {
                    *w = vld1q_s8_x4(p.weights(g + j, s, step));
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let at = p.input(m + i, s, step);
                    let (a, b) = (quad(at), quad(at.add(4)));
                    for (acc, w) in acc.iter_mut().zip(&w) {
                        acc[0] = vpadalq_s16(acc[0], low(w.0, a, w.2, b));
                        acc[1] = vpadalq_s16(acc[1], high(w.0, a, w.2, b));
                        acc[2] = vpadalq_s16(acc[2], low(w.1, a, w.3, b));
                        acc[3] = vpadalq_s16(acc[3], high(w.1, a, w.3, b));
                    }
                }
            }
        }
        if steps % 2 == 1 {
            let none = vdupq_n_s8(0);
            // SAFETY: as above, for the last step.
            unsafe {
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = quad(p.input(m + i, s, steps - 1));
                    for (j, acc) in acc.iter_mut().enumerate() {
                        let w = vld1q_s8_x2(p.weights(g + j, s, steps - 1));
                        acc[0] = vpadalq_s16(acc[0], low(w.0, a, none, none));
                        acc[1] = vpadalq_s16(acc[1], high(w.0, a, none, none));
                        acc[2] = vpadalq_s16(acc[2], low(w.1, a, none, none));
                        acc[3] = vpadalq_s16(acc[3], high(w.1, a, none, none));
                    }
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &[a, b, c, d]) in acc.iter().enumerate() {
            // SAFETY: row and group are inside the product.
            unsafe { store(p, m + i, g + j, [vpaddq_s32(a, b), vpaddq_s32(c, d)]) };
        }
    }
    MR
}

/// `v a + w b` of the lower eight lanes.
#[inline]
#[target_feature(enable = "neon")]
fn low(v: int8x16_t, a: int8x16_t, w: int8x16_t, b: int8x16_t) -> int16x8_t {
    vmlal_s8(vmull_s8(vget_low_s8(v), vget_low_s8(a)), vget_low_s8(w), vget_low_s8(b))
}

/// `v a + w b` of the upper eight lanes. Written out: the compiler sees that the halves of `a` are equal,
/// and would then hold each half of `v` in a register of its own.
#[inline]
#[target_feature(enable = "neon")]
fn high(v: int8x16_t, a: int8x16_t, w: int8x16_t, b: int8x16_t) -> int16x8_t {
    let mut sum: int16x8_t;
    // SAFETY: works on registers only. Two blocks, so that others can go between them.
    unsafe {
        asm!("smull2 {sum:v}.8h, {v:v}.16b, {a:v}.16b",
            sum = lateout(vreg) sum, v = in(vreg) v, a = in(vreg) a,
            options(pure, nomem, nostack, preserves_flags));
        asm!("smlal2 {sum:v}.8h, {w:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum, w = in(vreg) w, b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// Four inputs, four times.
///
/// # Safety
/// `at` points at four readable bytes.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) unsafe fn quad(at: *const i8) -> int8x16_t {
    // SAFETY: four bytes at any alignment; the caller vouches for them.
    vreinterpretq_s8_s32(vdupq_n_s32(unsafe { at.cast::<i32>().read_unaligned() }))
}

/// See `varmint_core::Ops::gemm_i12`; `None` as above.
#[target_feature(enable = "neon")]
pub(crate) fn gemm_i12(
    x: Taps<'_, i16>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    for g in (0..p.groups()).step_by(2) {
        let mut m = 0;
        while m < p.rows() {
            // SAFETY: as in `gemm_i8`.
            m += unsafe {
                match (p.rows() - m, p.groups() - g) {
                    (8.., 2..) => {
                        tile_i12::<8, 1>(&p, m, g);
                        tile_i12::<8, 1>(&p, m, g + 1)
                    }
                    (8.., _) => tile_i12::<8, 1>(&p, m, g),
                    (4.., 2..) => tile_i12::<4, 2>(&p, m, g),
                    (2.., 2..) => tile_i12::<2, 2>(&p, m, g),
                    (_, 2..) => tile_i12::<1, 2>(&p, m, g),
                    (4.., _) => tile_i12::<4, 1>(&p, m, g),
                    _ => tile_i12::<1, 1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR`, channel groups `g..g + NG`.
///
/// # Safety
/// As [`tile_i8`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn tile_i12<const MR: usize, const NG: usize>(
    p: &Product<'_, i16>,
    m: usize,
    g: usize,
) -> usize {
    // Channels 0..4 and 4..8.
    let mut acc = [[[vdupq_n_s32(0); 2]; NG]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the groups' and the rows' values of this step lie inside their slices.
            unsafe {
                // Eight channels of one input each.
                let mut w = [[vdupq_n_s16(0); 4]; NG];
                for (j, w) in w.iter_mut().enumerate() {
                    let t = vld4_s8(p.weights(g + j, s, step));
                    *w = [vmovl_s8(t.0), vmovl_s8(t.1), vmovl_s8(t.2), vmovl_s8(t.3)];
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = vld1_s16(p.input(m + i, s, step));
                    for ([low, high], &[a, b, c, d]) in acc.iter_mut().zip(&w) {
                        *low = vmlal_lane_s16::<0>(*low, vget_low_s16(a), x);
                        *high = vmlal_high_lane_s16::<0>(*high, a, x);
                        *low = vmlal_lane_s16::<1>(*low, vget_low_s16(b), x);
                        *high = vmlal_high_lane_s16::<1>(*high, b, x);
                        *low = vmlal_lane_s16::<2>(*low, vget_low_s16(c), x);
                        *high = vmlal_high_lane_s16::<2>(*high, c, x);
                        *low = vmlal_lane_s16::<3>(*low, vget_low_s16(d), x);
                        *high = vmlal_high_lane_s16::<3>(*high, d, x);
                    }
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            // SAFETY: row and group are inside the product.
            unsafe { store(p, m + i, g + j, acc) };
        }
    }
    MR
}

/// Writes the 8 channels of group `g` of row `m`, fewer at the end.
///
/// # Safety
/// Row and group are inside the product.
#[inline]
#[target_feature(enable = "neon")]
pub(crate) unsafe fn store<T>(p: &Product<'_, T>, m: usize, g: usize, sums: [int32x4_t; 2]) {
    let n = p.channels(8 * g).min(8);
    let mut y = [0.0; 8];
    // SAFETY: scales come in eights; output and bias are read and written for `n` channels only.
    unsafe {
        let (to, bias) = (p.out(m, 8 * g), p.bias(8 * g));
        for (h, &sums) in sums.iter().enumerate() {
            let scale = vmulq_n_f32(vld1q_f32(p.scale(8 * g).add(4 * h)), p.row_scale(m));
            let v = vmulq_f32(vcvtq_f32_s32(sums), scale);
            if n == 8 {
                vst1q_f32(to.add(4 * h), vaddq_f32(v, vld1q_f32(bias.add(4 * h))));
            } else {
                vst1q_f32(y.as_mut_ptr().add(4 * h), v);
            }
        }
        if n < 8 {
            for (i, &y) in y.iter().enumerate().take(n) {
                to.add(i).write(y + bias.add(i).read());
            }
        }
    }
}
