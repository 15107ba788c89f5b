//! Float products, in the order of the reference: eight lanes over the inputs, then a tree.
//!
//! Weights are rows, so a tile of outputs is a tile of scalar products and reads both sides as they lie.
//! Multiplication and addition stay apart (the integer tiers run these products too, and their bits do
//! not depend on the processor); where the two have units of their own, as on Zen, that costs nothing.

use core::arch::x86_64::*;

use half::f16;
use varmint_core::num::tree;
use varmint_core::ops::Taps;

/// Inputs of a block of rows: they stay in the second cache while all weights pass.
const BLOCK: usize = 1 << 16;

/// A weight as stored.
pub(super) trait Weight: Copy {
    /// Eight of them.
    ///
    /// # Safety
    /// `from` points to 8 readable ones; AVX2 and F16C.
    unsafe fn load(from: *const Self) -> __m256;

    /// The first `n` of them, zeros after that.
    ///
    /// # Safety
    /// `from` points to `n < 8` readable ones; AVX2 and F16C.
    unsafe fn load_part(from: *const Self, n: usize) -> __m256;
}

impl Weight for f32 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_part(from: *const Self, n: usize) -> __m256 {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane);
        // SAFETY: lanes beyond `n` are not read.
        unsafe { _mm256_maskload_ps(from, mask) }
    }
}

impl Weight for f16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's; `f16` is 16 bits.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_part(from: *const Self, n: usize) -> __m256 {
        let mut all = [f16::ZERO; 8];
        for (i, to) in all.iter_mut().enumerate().take(n) {
            // SAFETY: the caller's.
            *to = unsafe { from.add(i).read() };
        }
        // SAFETY: 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(all.as_ptr().cast()) })
    }
}

/// A product whose shapes were checked against its slices.
struct Product<'a, W> {
    x: Taps<'a, f32>,
    w: &'a [W],
    bias: &'a [f32],
    out: *mut f32,
}

impl<'a, W> Product<'a, W> {
    fn new(x: Taps<'a, f32>, w: &'a [W], bias: &'a [f32], out: &'a mut [f32]) -> Option<Self> {
        let (n, k) = (bias.len(), x.segs.checked_mul(x.seg_len)?);
        let back = |count: usize, step: usize| count.checked_sub(1)?.checked_mul(step);
        let end = back(x.rows, x.stride)?
            .checked_add(back(x.segs, x.seg_stride)?)?
            .checked_add(x.seg_len)?;
        let fits = n > 0
            && k > 0
            && end <= x.data.len()
            && n.checked_mul(k)? <= w.len()
            && x.rows.checked_mul(n)? <= out.len();
        fits.then_some(Self { x, w, bias, out: out.as_mut_ptr() })
    }
}

/// A product in tiles of some numbers of rows, and of NR channels or one.
macro_rules! gemm {
    ($(#[$doc:meta])* $gemm:ident, $tile:ident, $features:literal, $nr:literal, [$($mr:literal)*]) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) fn $gemm<W: Weight>(
            x: Taps<'_, f32>,
            w: &[W],
            bias: &[f32],
            out: &mut [f32],
        ) -> Option<()> {
            let p = Product::new(x, w, bias, out)?;
            let block = (BLOCK / x.k() / 4 * 4).max(4);
            for first in (0..x.rows).step_by(block) {
                let end = (first + block).min(x.rows);
                let mut n = 0;
                while n < bias.len() {
                    let whole = bias.len() - n >= $nr;
                    let mut m = first;
                    $(
                        while end - m >= $mr {
                            // SAFETY: `Product::new` checked every row and channel; the features
                            // are this function's own.
                            m += unsafe {
                                if whole {
                                    $tile::<W, $mr, $nr>(&p, m, n)
                                } else {
                                    $tile::<W, $mr, 1>(&p, m, n)
                                }
                            };
                        }
                    )*
                    n += if whole { $nr } else { 1 };
                }
            }
            Some(())
        }

        /// Rows `m..m + MR`, channels `n..n + NR`; returns MR.
        ///
        /// # Safety
        /// The rows and channels are inside of the product; the features.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $tile<W: Weight, const MR: usize, const NR: usize>(
            p: &Product<'_, W>,
            m: usize,
            n: usize,
        ) -> usize {
            let (x, k) = (p.x, p.x.k());
            let mut acc = [[_mm256_setzero_ps(); NR]; MR];
            for s in 0..x.segs {
                // SAFETY: segment s of the channels and rows of the tile; `at` and what is loaded from
                // it stay inside of the segment.
                unsafe {
                    let row = x.data.as_ptr().add(m * x.stride + s * x.seg_stride);
                    let channel = p.w.as_ptr().add(n * k + s * x.seg_len);
                    let mut at = 0;
                    while at + 8 <= x.seg_len {
                        let mut w = [_mm256_setzero_ps(); NR];
                        for (j, w) in w.iter_mut().enumerate() {
                            *w = W::load(channel.add(j * k + at));
                        }
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let x = _mm256_loadu_ps(row.add(i * x.stride + at));
                            for (acc, &w) in acc.iter_mut().zip(&w) {
                                *acc = _mm256_add_ps(*acc, _mm256_mul_ps(w, x));
                            }
                        }
                        at += 8;
                    }
                    let rest = x.seg_len - at;
                    if rest > 0 {
                        for (i, acc) in acc.iter_mut().enumerate() {
                            let x = f32::load_part(row.add(i * x.stride + at), rest);
                            for (j, acc) in acc.iter_mut().enumerate() {
                                let w = W::load_part(channel.add(j * k + at), rest);
                                *acc = _mm256_add_ps(*acc, _mm256_mul_ps(w, x));
                            }
                        }
                    }
                }
            }
            for (i, acc) in acc.into_iter().enumerate() {
                for (j, acc) in acc.into_iter().enumerate() {
                    // SAFETY: both are 32 bytes; row and channel are inside of the product.
                    unsafe {
                        let lanes: [f32; 8] = core::mem::transmute(acc);
                        let to = p.out.add((m + i) * p.bias.len() + n + j);
                        to.write(tree(lanes) + p.bias.as_ptr().add(n + j).read());
                    }
                }
            }
            MR
        }
    };
}

gemm! {
    /// See `varmint_core::Ops::gemm_f32` and `gemm_f16`, with AVX2; `None` where the slices do not hold
    /// what the shapes say.
    gemm_avx2, tile_avx2, "avx2,f16c", 2, [4 2 1]
}

gemm! {
    /// As [`gemm_avx2`] with the 32 registers of AVX-512VL.
    gemm_avx512, tile_avx512, "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl", 4, [6 4 2 1]
}
