//! Integer products with `i32x4.dot_i16x8_s`: both sides as i16, two products to a 32-bit lane. Weights are
//! widened as they are loaded; 8-bit inputs too, so that both precisions share a tile.

use core::arch::wasm32::*;

use varmint_core::ops::{Packed, Taps};

use crate::arch::product::Product;

/// An input that a tile can take.
pub(crate) trait Input: Copy {
    /// Four inputs as i16, twice.
    ///
    /// # Safety
    /// `at` points at four readable inputs.
    unsafe fn quad(at: *const Self) -> v128;
}

impl Input for i8 {
    #[inline(always)]
    unsafe fn quad(at: *const Self) -> v128 {
        // SAFETY: four bytes at any alignment; the caller vouches for them.
        i16x8_extend_low_i8x16(unsafe { v128_load32_splat(at.cast()) })
    }
}

impl Input for i16 {
    #[inline(always)]
    unsafe fn quad(at: *const Self) -> v128 {
        // SAFETY: eight bytes at any alignment; the caller vouches for them.
        unsafe { v128_load64_splat(at.cast()) }
    }
}

/// See `varmint_core::Ops::gemm_i8` and `gemm_i12`; `None` where the slices do not hold what the shapes
/// say.
pub(crate) fn gemm<T: Input>(
    x: Taps<'_, T>,
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
                    2.. => tile::<T, 2>(&p, m, g),
                    _ => tile::<T, 1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR` of one group of 8 channels. Two rows, because engines on x86 have 16 registers.
///
/// # Safety
/// The rows and the group are inside the product.
#[inline]
unsafe fn tile<T: Input, const MR: usize>(p: &Product<'_, T>, m: usize, g: usize) -> usize {
    // Channels in pairs, two partial sums each.
    let mut acc = [[i32x4_splat(0); 4]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the group's and the rows' values of this step lie inside their slices.
            unsafe {
                let at = p.weights(g, s, step);
                let w = [
                    i16x8_load_extend_i8x8(at),
                    i16x8_load_extend_i8x8(at.add(8)),
                    i16x8_load_extend_i8x8(at.add(16)),
                    i16x8_load_extend_i8x8(at.add(24)),
                ];
                for (i, acc) in acc.iter_mut().enumerate() {
                    let x = T::quad(p.input(m + i, s, step));
                    for (acc, &w) in acc.iter_mut().zip(&w) {
                        *acc = i32x4_add(*acc, i32x4_dot_i16x8(w, x));
                    }
                }
            }
        }
    }
    for (i, &[a, b, c, d]) in acc.iter().enumerate() {
        // SAFETY: row and group are inside the product.
        unsafe { store(p, m + i, g, [add_pairs(a, b), add_pairs(c, d)]) };
    }
    MR
}

/// Sums of neighbouring lanes: of `a`, then of `b`.
#[inline(always)]
pub(crate) fn add_pairs(a: v128, b: v128) -> v128 {
    i32x4_add(i32x4_shuffle::<0, 2, 4, 6>(a, b), i32x4_shuffle::<1, 3, 5, 7>(a, b))
}

/// Writes the 8 channels of group `g` of row `m`, fewer at the end.
///
/// # Safety
/// Row and group are inside the product.
#[inline]
unsafe fn store<T>(p: &Product<'_, T>, m: usize, g: usize, sums: [v128; 2]) {
    let n = p.channels(8 * g).min(8);
    let row_scale = f32x4_splat(p.row_scale(m));
    let mut y = [0.0f32; 8];
    // SAFETY: scales come in eights; output and bias are read and written for `n` channels only.
    unsafe {
        let (to, bias) = (p.out(m, 8 * g), p.bias(8 * g));
        for (h, &sums) in sums.iter().enumerate() {
            let scale = f32x4_mul(row_scale, v128_load(p.scale(8 * g).add(4 * h).cast()));
            let v = f32x4_mul(f32x4_convert_i32x4(sums), scale);
            v128_store(y.as_mut_ptr().add(4 * h).cast(), v);
        }
        for (i, &y) in y.iter().enumerate().take(n) {
            to.add(i).write(y + bias.add(i).read());
        }
    }
}
