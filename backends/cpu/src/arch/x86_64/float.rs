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

/// Rows of a block at most.
const ROWS: usize = 48;

/// Inputs that a tile takes at once: so much of its weights stays in the first cache while the rows pass.
const DEPTH: usize = 512;

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

/// A product in tiles of some numbers of rows and NR channels (or one).
macro_rules! gemm_body {
    ($tile:ident, $nr:literal, [$($mr:literal)*], $x:ident, $w:ident, $bias:ident, $out:ident) => {{
        let p = Product::new($x, $w, $bias, $out)?;
        let (x, k, channels) = (p.x, p.x.k(), p.bias.len());
        let block = (BLOCK / k).clamp(6, ROWS) / 6 * 6;
        for first in (0..x.rows).step_by(block) {
            let rows = (x.rows - first).min(block);
            let mut n = 0;
            while n + $nr <= channels {
                gemm_body!(@channels p, x, k, $tile, $nr, [$($mr)*], first, rows, n);
                n += $nr;
            }
            while n < channels {
                gemm_body!(@channels p, x, k, $tile, 1, [$($mr)*], first, rows, n);
                n += 1;
            }
        }
        Some(())
    }};
    (@channels $p:ident, $x:ident, $k:ident, $tile:ident, $nr:tt, [$($mr:literal)*],
     $first:ident, $rows:ident, $n:ident) => {{
        let mut all = [[_mm256_setzero_ps(); $nr]; ROWS];
        for s in 0..$x.segs {
            for at in (0..$x.seg_len).step_by(DEPTH) {
                let len = ($x.seg_len - at).min(DEPTH);
                let (mut m, mut lanes) = ($first, &mut all[..$rows]);
                $(
                    while lanes.len() >= $mr {
                        // SAFETY: `Product::new` found every row's and channel's segments inside of
                        // their slices; the features are the caller's own.
                        unsafe {
                            let row = m * $x.stride + s * $x.seg_stride + at;
                            let channel = $n * $k + s * $x.seg_len + at;
                            $tile::<W, $mr, $nr>(
                                ($x.data.as_ptr().add(row), $x.stride),
                                ($p.w.as_ptr().add(channel), $k),
                                len,
                                lanes,
                            );
                        }
                        (m, lanes) = (m + $mr, &mut lanes[$mr..]);
                    }
                )*
            }
        }
        for (i, lanes) in all[..$rows].iter().enumerate() {
            for (j, &lanes) in lanes.iter().enumerate() {
                // SAFETY: both are 32 bytes; row and channel are inside of the product.
                unsafe {
                    let lanes: [f32; 8] = core::mem::transmute(lanes);
                    let to = $p.out.add(($first + i) * $p.bias.len() + $n + j);
                    to.write(tree(lanes) + $p.bias[$n + j]);
                }
            }
        }
    }};
}

/// See `varmint_core::Ops::gemm_f32` and `gemm_f16`, with AVX2; `None` where the slices do not hold what
/// the shapes say.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn gemm_avx2<W: Weight>(
    x: Taps<'_, f32>,
    w: &[W],
    bias: &[f32],
    out: &mut [f32],
) -> Option<()> {
    gemm_body!(tile_avx2, 2, [4 2 1], x, w, bias, out)
}

/// As [`gemm_avx2`] with the 32 registers of AVX-512VL.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn gemm_avx512<W: Weight>(
    x: Taps<'_, f32>,
    w: &[W],
    bias: &[f32],
    out: &mut [f32],
) -> Option<()> {
    gemm_body!(tile_avx512, 4, [6 4 2 1], x, w, bias, out)
}

/// Eight running lanes per channel of a tile.
type Lanes<const NR: usize> = [__m256; NR];

/// Adds the products of `len` inputs to the lanes of MR rows and NR channels.
macro_rules! tile {
    ($name:ident, $features:literal) => {
        /// # Safety
        /// `x` points to rows `stride` apart, `w` to channels `k` apart, both with `len` values; `lanes`
        /// has MR rows; the features.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name<W: Weight, const MR: usize, const NR: usize>(
            (x, stride): (*const f32, usize),
            (w, k): (*const W, usize),
            len: usize,
            lanes: &mut [Lanes<NR>],
        ) {
            let Some(lanes) = lanes.first_chunk_mut::<MR>() else { return };
            let mut acc = *lanes;
            // SAFETY: `at` and the eight values from it are below `len`, or as many as are.
            unsafe {
                let mut at = 0;
                while at + 8 <= len {
                    let mut wide = [_mm256_setzero_ps(); NR];
                    for (j, wide) in wide.iter_mut().enumerate() {
                        *wide = W::load(w.add(j * k + at));
                    }
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = _mm256_loadu_ps(x.add(i * stride + at));
                        for (acc, &w) in acc.iter_mut().zip(&wide) {
                            *acc = _mm256_add_ps(*acc, _mm256_mul_ps(w, x));
                        }
                    }
                    at += 8;
                }
                let rest = len - at;
                if rest > 0 {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let x = f32::load_part(x.add(i * stride + at), rest);
                        for (j, acc) in acc.iter_mut().enumerate() {
                            let w = W::load_part(w.add(j * k + at), rest);
                            *acc = _mm256_add_ps(*acc, _mm256_mul_ps(w, x));
                        }
                    }
                }
            }
            *lanes = acc;
        }
    };
}
tile!(tile_avx2, "avx2,f16c");
tile!(tile_avx512, "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl");
