//! Integer products with AVX-512 VNNI.
//!
//! 8 bits: `vpdpbusd` multiplies unsigned by signed, so the weight goes in as `w + 128` (one exclusive or
//! per load) and a row starts at `-128 * sum(a)`. 12 bits: `vpdpwssd` on weights widened when loaded.

use core::arch::x86_64::*;

use varmint_core::ops::{Packed, Taps};

use super::avx2::store;
use crate::arch::product::Product;

/// Rows whose sums are kept at once; a block of inputs that stays in the second cache.
const BLOCK: usize = 128;

/// See `varmint_core::Ops::gemm_i8`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn gemm_i8(
    x: Taps<'_, i8>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    let mut start = [0i32; BLOCK];
    for first in (0..p.rows()).step_by(BLOCK) {
        let rows = (p.rows() - first).min(BLOCK);
        for (i, start) in start.iter_mut().enumerate().take(rows) {
            let mut sum = 0;
            for s in 0..x.segs {
                for &v in x.run(first + i, s) {
                    sum += v as i32;
                }
            }
            *start = -128 * sum;
        }
        let start = &start[..rows];
        let mut g = 0;
        while g < p.groups() {
            let mut i = 0;
            let groups = p.groups() - g;
            while i < rows {
                let (m, start) = (first + i, &start[i..]);
                // SAFETY: `Product::new` checked every row, group and output of the shapes; the
                // tile's rows and groups are below `rows()` and `groups()`, and the features are
                // this function's own.
                i += unsafe {
                    match (start.len(), groups) {
                        (8.., 3..) => tile_i8::<8, 2>(&p, m, g, start),
                        (8.., _) => tile_i8::<8, 1>(&p, m, g, start),
                        (4.., 3..) => tile_i8::<4, 2>(&p, m, g, start),
                        (2.., 3..) => tile_i8::<2, 2>(&p, m, g, start),
                        (_, 3..) => tile_i8::<1, 2>(&p, m, g, start),
                        (2.., _) => tile_i8::<2, 1>(&p, m, g, start),
                        _ => tile_i8::<1, 1>(&p, m, g, start),
                    }
                };
            }
            g += if groups > 2 { 4 } else { 2 };
        }
    }
    Some(())
}

/// Rows `m..m + MR`, pairs of channel groups from `g` on; groups beyond the last are computed from the
/// last and not stored.
///
/// # Safety
/// The rows and group `g` are inside the product; AVX-512 with VNNI; `start` holds MR values.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_i8<const MR: usize, const NP: usize>(
    p: &Product<'_, i8>,
    m: usize,
    g: usize,
    start: &[i32],
) -> usize {
    let last = p.groups() - 1;
    let flip = _mm512_set1_epi8(-128);
    let mut acc = [[_mm512_setzero_si512(); NP]; MR];
    for (acc, &start) in acc.iter_mut().zip(start) {
        *acc = [_mm512_set1_epi32(start); NP];
    }
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the groups' and the rows' values of this step lie inside their slices.
            unsafe {
                let mut w = [flip; NP];
                for (j, w) in w.iter_mut().enumerate() {
                    let (a, b) = ((g + 2 * j).min(last), (g + 2 * j + 1).min(last));
                    if MR <= 2 {
                        p.prefetch(a, s, step);
                        p.prefetch(b, s, step);
                    }
                    let low = _mm256_loadu_si256(p.weights(a, s, step).cast());
                    let high = _mm256_loadu_si256(p.weights(b, s, step).cast());
                    let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
                    *w = _mm512_xor_si512(both, flip);
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a =
                        _mm512_set1_epi32(p.input(m + i, s, step).cast::<i32>().read_unaligned());
                    for (acc, &w) in acc.iter_mut().zip(&w) {
                        *acc = _mm512_dpbusd_epi32(*acc, w, a);
                    }
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            let g = g + 2 * j;
            let halves = [_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64::<1>(acc)];
            for (g, half) in (g..p.groups()).zip(halves) {
                // SAFETY: row and group are inside the product.
                unsafe { store(p, m + i, g, half) };
            }
        }
    }
    MR
}

/// `acc + w . a`, pairs of i16. Not the intrinsic: compilers take that apart into a product and a sum, which
/// costs a fifth of the speed.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
pub(super) fn dpwssd(mut acc: __m512i, w: __m512i, a: __m512i) -> __m512i {
    // SAFETY: a register operation of this function's own feature.
    unsafe {
        core::arch::asm!(
            "vpdpwssd {acc}, {w}, {a}",
            acc = inout(zmm_reg) acc,
            w = in(zmm_reg) w,
            a = in(zmm_reg) a,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    acc
}

/// See `varmint_core::Ops::gemm_i12`; `None` as above.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(crate) fn gemm_i12(
    x: Taps<'_, i16>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    let mut g = 0;
    while g < p.groups() {
        let mut m = 0;
        let groups = p.groups() - g;
        while m < p.rows() {
            // SAFETY: as in `gemm_i8`.
            m += unsafe {
                match (p.rows() - m, groups) {
                    (8.., 2..) => tile_i12::<8, 2>(&p, m, g),
                    (4.., 2..) => tile_i12::<4, 2>(&p, m, g),
                    (2.., 2..) => tile_i12::<2, 2>(&p, m, g),
                    (_, 2..) => tile_i12::<1, 2>(&p, m, g),
                    (8.., _) => tile_i12::<8, 1>(&p, m, g),
                    (4.., _) => tile_i12::<4, 1>(&p, m, g),
                    _ => tile_i12::<1, 1>(&p, m, g),
                }
            };
        }
        g += groups.min(2);
    }
    Some(())
}

/// Rows `m..m + MR`, groups `g..g + NG`.
///
/// # Safety
/// The rows and groups are inside the product; AVX-512 with VNNI.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_i12<const MR: usize, const NG: usize>(
    p: &Product<'_, i16>,
    m: usize,
    g: usize,
) -> usize {
    // Two partial sums per channel.
    let mut acc = [[_mm512_setzero_si512(); NG]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: as in `tile_i8`.
            unsafe {
                let mut w = [_mm512_setzero_si512(); NG];
                for (j, w) in w.iter_mut().enumerate() {
                    if MR <= 2 {
                        p.prefetch(g + j, s, step);
                    }
                    *w = _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.weights(g + j, s, step).cast()));
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a =
                        _mm512_set1_epi64(p.input(m + i, s, step).cast::<i64>().read_unaligned());
                    for (acc, &w) in acc.iter_mut().zip(&w) {
                        // Few sums at once wait for one another: the longer of two latencies.
                        *acc = if MR * NG < 8 {
                            _mm512_dpwssd_epi32(*acc, w, a)
                        } else {
                            dpwssd(*acc, w, a)
                        };
                    }
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            let sums = _mm512_cvtepi64_epi32(_mm512_add_epi32(acc, _mm512_srli_epi64::<32>(acc)));
            // SAFETY: as in `tile_i8`.
            unsafe { store(p, m + i, g + j, sums) };
        }
    }
    MR
}
