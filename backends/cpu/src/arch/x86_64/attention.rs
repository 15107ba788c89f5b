//! Attention over the int8 cache with AVX2: keys and values are widened as they are read, never expanded.

use core::arch::x86_64::*;

use half::f16;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::scalar::{quantize_i8, softmax, value_weights};

/// Largest head; its query is held in registers.
const MAX_DIM: usize = 64;

/// See `varmint_core::Ops::attend`; `None` for other storage, for heads that are not 16, 32, 48 or 64
/// channels wide, and where the slices do not hold what the shapes say.
#[target_feature(enable = "avx2")]
pub(crate) fn attend_i8(
    heads: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
) -> Option<()> {
    let Heads { width, dim } = heads;
    let n = kv.iter().map(|(_, n)| n).sum::<usize>();
    let shaped = dim > 0 && dim <= MAX_DIM && dim.is_multiple_of(16) && width.is_multiple_of(dim);
    if !shaped || q.len() != width || out.len() != width {
        return None;
    }
    let n_heads = width / dim;
    for (kv, n) in kv {
        let Kv::I8 { k, v, ks, vs } = kv else { return None };
        let (values, scales) = (n.checked_mul(width)?, n.checked_mul(n_heads)?);
        if k.len() < values || v.len() < values || ks.len() < scales || vs.len() < scales {
            return None;
        }
    }
    let scores = scratch.scores.get_mut(..n)?;
    let probs = scratch.probs.get_mut(..n)?;
    let query = scratch.query.get_mut(..dim)?;
    for (h, (q, out)) in q.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let sq = quantize_i8(q, query);
        let mut done = 0;
        for (kv, n) in kv {
            if let Kv::I8 { k, ks, .. } = kv {
                let scores = scores.get_mut(done..done + n)?;
                // SAFETY: `k` holds n keys of `width`, `query` holds `dim`, a multiple of 16 within
                // `MAX_DIM`; head h is one of `width / dim`. AVX2 is this function's own.
                unsafe { dots(k, width, h, query, scores) };
                for (s, k) in scores.iter_mut().zip(ks.chunks_exact(n_heads)) {
                    *s *= sq * k.get(h).copied().unwrap_or(f16::ZERO).to_f32();
                }
            }
            done += n;
        }
        let total = softmax(scores);
        let factor = value_weights(h, n_heads, kv, scores, probs, total);
        for (c, out) in out.chunks_exact_mut(16).enumerate() {
            let mut acc = [_mm256_setzero_si256(); 2];
            let mut done = 0;
            for (kv, n) in kv {
                if let Kv::I8 { v, .. } = kv {
                    let probs = probs.get(done..done + n)?;
                    // SAFETY: `v` holds n values of `width`; these 16 channels are inside a row.
                    unsafe { weigh(v, width, h * dim + 16 * c, probs, &mut acc) };
                }
                done += n;
            }
            // Lanes: channels 0..4 and 8..12, then 4..8 and 12..16.
            let factor = _mm256_set1_ps(factor);
            let first = _mm256_permute2x128_si256::<0x20>(acc[0], acc[1]);
            let second = _mm256_permute2x128_si256::<0x31>(acc[0], acc[1]);
            // SAFETY: `out` has 16 places.
            unsafe {
                _mm256_storeu_ps(
                    out.as_mut_ptr(),
                    _mm256_mul_ps(_mm256_cvtepi32_ps(first), factor),
                );
                let high = _mm256_mul_ps(_mm256_cvtepi32_ps(second), factor);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), high);
            }
        }
    }
    Some(())
}

/// `scores[j] = float(query . k[j, head h])`.
///
/// # Safety
/// `k` holds `scores.len()` rows of `width`; `query.len()` is a multiple of 16, at most [`MAX_DIM`], and
/// `(h + 1) * query.len() <= width`; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn dots(k: &[i8], width: usize, h: usize, query: &[i8], scores: &mut [f32]) {
    let dim = query.len();
    let mut q = [_mm256_setzero_si256(); MAX_DIM / 16];
    for (q, c) in q.iter_mut().zip(query.chunks_exact(16)) {
        // SAFETY: a chunk is 16 bytes.
        *q = _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(c.as_ptr().cast()) });
    }
    let (q, head) = (&q[..dim / 16], h * dim);
    // Called with j below the number of keys only.
    let sums = |j: usize| {
        let mut acc = _mm256_setzero_si256();
        for (c, &q) in q.iter().enumerate() {
            // SAFETY: 16 bytes of head h of row j.
            let k = unsafe { _mm_loadu_si128(k.as_ptr().add(j * width + head + 16 * c).cast()) };
            acc = _mm256_add_epi32(acc, _mm256_madd_epi16(q, _mm256_cvtepi8_epi16(k)));
        }
        acc
    };
    let (eights, rest) = scores.as_chunks_mut::<8>();
    for (i, out) in eights.iter_mut().enumerate() {
        let j = 8 * i;
        let a = _mm256_hadd_epi32(sums(j), sums(j + 1));
        let b = _mm256_hadd_epi32(sums(j + 2), sums(j + 3));
        let c = _mm256_hadd_epi32(sums(j + 4), sums(j + 5));
        let d = _mm256_hadd_epi32(sums(j + 6), sums(j + 7));
        let (a, c) = (_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let low = _mm256_permute2x128_si256::<0x20>(a, c);
        let high = _mm256_permute2x128_si256::<0x31>(a, c);
        let all = _mm256_cvtepi32_ps(_mm256_add_epi32(low, high));
        // SAFETY: `out` has 8 places.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), all) };
    }
    let done = 8 * eights.len();
    for (i, out) in rest.iter_mut().enumerate() {
        // SAFETY: both are 32 bytes, any bits are valid.
        let lanes: [i32; 8] = unsafe { core::mem::transmute(sums(done + i)) };
        *out = lanes.iter().sum::<i32>() as f32;
    }
}

/// Adds `probs[j] * v[j, at..at + 16]` over all j, two keys at a time.
///
/// # Safety
/// `v` holds `probs.len()` rows of `width`, `at + 16 <= width`; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weigh(v: &[i8], width: usize, at: usize, probs: &[i16], acc: &mut [__m256i; 2]) {
    let value = |j: usize| {
        // SAFETY: 16 bytes of row j, which the caller vouches for.
        _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(v.as_ptr().add(j * width + at).cast()) })
    };
    let (pairs, rest) = probs.as_chunks::<2>();
    let mut add = |a: __m256i, b: __m256i, p: i16, q: i16| {
        let weight = _mm256_set1_epi32(p as u16 as i32 | (q as i32) << 16);
        acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(_mm256_unpacklo_epi16(a, b), weight));
        acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(_mm256_unpackhi_epi16(a, b), weight));
    };
    for (i, &[p, q]) in pairs.iter().enumerate() {
        add(value(2 * i), value(2 * i + 1), p, q);
    }
    if let &[p] = rest {
        add(value(probs.len() - 1), _mm256_setzero_si256(), p, 0);
    }
}
