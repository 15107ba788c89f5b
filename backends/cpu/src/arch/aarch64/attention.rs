//! Attention over the int8 cache with NEON: keys and values are widened as they are read, never expanded.

use core::arch::aarch64::*;

use half::f16;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::scalar::{quantize_i8, softmax, value_weights};

use super::neon::mla_lane;

/// Largest head; its query is held in registers.
pub(super) const MAX_DIM: usize = 64;

/// `scores[j] = float(query . k[j, head h])` for `(k, width, h, query, scores)`.
///
/// To call it: `k` holds `scores.len()` rows of `width`; `query.len()` is a multiple of 16, at most
/// [`MAX_DIM`], and `(h + 1) * query.len() <= width`; the processor has the function's features.
pub(super) type Dots = unsafe fn(&[i8], usize, usize, &[i8], &mut [f32]);

/// See `varmint_core::Ops::attend`; `None` for other storage, for heads that are not 16, 32, 48 or 64
/// channels wide, and where the slices do not hold what the shapes say.
///
/// # Safety
/// The processor has NEON and what `dots` needs.
#[target_feature(enable = "neon")]
pub(super) unsafe fn attend_i8(
    dots: Dots,
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
                // `MAX_DIM`; head h is one of `width / dim`. The caller vouches for the features.
                unsafe { dots(k, width, h, query, scores) };
                for (s, k) in scores.iter_mut().zip(ks.chunks_exact(n_heads)) {
                    *s *= sq * k.get(h).copied().unwrap_or(f16::ZERO).to_f32();
                }
            }
            done += n;
        }
        let total = softmax(scores);
        let factor = value_weights(h, n_heads, kv, scores, probs, total);
        for (c, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut acc = [[vdupq_n_s32(0); 2]; 2];
            let mut done = 0;
            for (kv, n) in kv {
                if let Kv::I8 { v, .. } = kv {
                    let probs = probs.get(done..done + n)?;
                    // SAFETY: `v` holds n values of `width`; these 16 channels are inside a row.
                    unsafe { weigh(v, width, h * dim + 16 * c, probs, &mut acc) };
                }
                done += n;
            }
            for (out, &sums) in out.as_chunks_mut::<4>().0.iter_mut().zip(acc.as_flattened()) {
                // SAFETY: `out` has 4 places.
                unsafe { vst1q_f32(out.as_mut_ptr(), vmulq_n_f32(vcvtq_f32_s32(sums), factor)) };
            }
        }
    }
    Some(())
}

/// Adds `probs[j] * v[j, at..at + 16]` over all j.
///
/// # Safety
/// `v` holds `probs.len()` rows of `width`, `at + 16 <= width`; NEON.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn weigh(v: &[i8], width: usize, at: usize, probs: &[i16], acc: &mut [[int32x4_t; 2]; 2]) {
    // Called with j below the number of values only.
    let value = |j: usize| {
        // SAFETY: 16 bytes of row j, which the caller vouches for.
        let v = unsafe { vld1q_s8(v.as_ptr().add(j * width + at)) };
        [vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v)]
    };
    let (fours, rest) = probs.as_chunks::<4>();
    for (i, p) in fours.iter().enumerate() {
        // SAFETY: 4 weights.
        let p = unsafe { vld1_s16(p.as_ptr()) };
        let (a, b, c, d) = (value(4 * i), value(4 * i + 1), value(4 * i + 2), value(4 * i + 3));
        for (half, acc) in acc.iter_mut().enumerate() {
            mla_lane::<0>(acc, a[half], p);
            mla_lane::<1>(acc, b[half], p);
            mla_lane::<2>(acc, c[half], p);
            mla_lane::<3>(acc, d[half], p);
        }
    }
    for (i, &p) in rest.iter().enumerate() {
        let v = value(4 * fours.len() + i);
        mla_lane::<0>(&mut acc[0], v[0], vdup_n_s16(p));
        mla_lane::<0>(&mut acc[1], v[1], vdup_n_s16(p));
    }
}

/// A function `dots`, see [`Dots`], from one that adds 16 products to 4 partial sums.
macro_rules! scores {
    ($features:literal, $dot16:ident) => {
        /// See `super::attention::Dots`.
        ///
        /// # Safety
        /// As stated there.
        #[target_feature(enable = $features)]
        pub(super) unsafe fn dots(
            k: &[i8],
            width: usize,
            h: usize,
            query: &[i8],
            scores: &mut [f32],
        ) {
            let (dim, zero) = (query.len(), vdupq_n_s32(0));
            let mut q = [vdupq_n_s8(0); $crate::arch::aarch64::attention::MAX_DIM / 16];
            for (q, c) in q.iter_mut().zip(query.as_chunks::<16>().0) {
                // SAFETY: a chunk is 16 bytes.
                *q = unsafe { vld1q_s8(c.as_ptr()) };
            }
            let (q, head) = (&q[..dim / 16], h * dim);
            // Called with j below the number of keys only.
            let sums = |j: usize| {
                let mut acc = zero;
                for (c, &q) in q.iter().enumerate() {
                    // SAFETY: 16 bytes of head h of row j.
                    let k = unsafe { vld1q_s8(k.as_ptr().add(j * width + head + 16 * c)) };
                    acc = $dot16(acc, q, k);
                }
                acc
            };
            let (fours, rest) = scores.as_chunks_mut::<4>();
            for (i, out) in fours.iter_mut().enumerate() {
                let j = 4 * i;
                let (a, b) =
                    (vpaddq_s32(sums(j), sums(j + 1)), vpaddq_s32(sums(j + 2), sums(j + 3)));
                // SAFETY: `out` has 4 places.
                unsafe { vst1q_f32(out.as_mut_ptr(), vcvtq_f32_s32(vpaddq_s32(a, b))) };
            }
            for (i, out) in rest.iter_mut().enumerate() {
                *out = vaddvq_s32(sums(4 * fours.len() + i)) as f32;
            }
        }
    };
}
pub(super) use scores;
