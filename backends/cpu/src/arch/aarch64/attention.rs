//! The integer loops of attention: keys and values are widened as they are read, never expanded.

use core::arch::aarch64::*;

use super::dotprod::sdot;

/// Scores of keys, from 16 products at a time.
macro_rules! dots {
    ($(#[$doc:meta])* $name:ident, $features:literal, $add:expr) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// As [`crate::arch::attention::Dots`].
        #[target_feature(enable = $features)]
        pub(crate) unsafe fn $name(
            k: &[i8],
            width: usize,
            h: usize,
            query: &[i8],
            scores: &mut [f32],
        ) {
            /// For heads of 16 `C` channels.
            ///
            /// # Safety
            /// As the function around it; `C` is `query.len() / 16`.
            #[target_feature(enable = $features)]
            unsafe fn of<const C: usize>(
                k: &[i8],
                width: usize,
                h: usize,
                query: &[i8],
                scores: &mut [f32],
            ) {
                let mut q = [vdupq_n_s8(0); C];
                for (q, c) in q.iter_mut().zip(query.chunks_exact(16)) {
                    // SAFETY: a chunk is 16 bytes.
                    *q = unsafe { vld1q_s8(c.as_ptr()) };
                }
                // Called with j below the number of keys only.
                let sums = |j: usize| {
                    let mut acc = vdupq_n_s32(0);
                    for (c, &q) in q.iter().enumerate() {
                        let at = j * width + 16 * (h * C + c);
                        // SAFETY: 16 bytes of head h of row j.
                        acc = $add(acc, q, unsafe { vld1q_s8(k.as_ptr().add(at)) });
                    }
                    acc
                };
                let (fours, rest) = scores.as_chunks_mut::<4>();
                for (i, out) in fours.iter_mut().enumerate() {
                    let j = 4 * i;
                    let low = vpaddq_s32(sums(j), sums(j + 1));
                    let high = vpaddq_s32(sums(j + 2), sums(j + 3));
                    let all = vcvtq_f32_s32(vpaddq_s32(low, high));
                    // SAFETY: `out` has 4 places.
                    unsafe { vst1q_f32(out.as_mut_ptr(), all) };
                }
                let done = 4 * fours.len();
                for (i, out) in rest.iter_mut().enumerate() {
                    *out = vaddvq_s32(sums(done + i)) as f32;
                }
            }
            // SAFETY: as the caller promised.
            unsafe {
                match query.len() / 16 {
                    1 => of::<1>(k, width, h, query, scores),
                    2 => of::<2>(k, width, h, query, scores),
                    3 => of::<3>(k, width, h, query, scores),
                    _ => of::<4>(k, width, h, query, scores),
                }
            }
        }
    };
}

dots!(
    /// Scores of keys. Two products of values within ±127 stay inside 16 bits.
    dots,
    "neon",
    |acc, q, k| {
        let pairs = vmull_s8(vget_low_s8(q), vget_low_s8(k));
        vpadalq_s16(acc, vmlal_high_s8(pairs, q, k))
    }
);
dots!(
    /// Scores of keys by `sdot`.
    dots_sdot,
    "neon,dotprod",
    |acc, q, k| sdot(acc, q, k)
);

/// Sums of values; eight integer weights are one register, used lane by lane.
///
/// # Safety
/// As [`crate::arch::attention::Weigh`].
#[target_feature(enable = "neon")]
pub(crate) unsafe fn weigh(v: &[i8], width: usize, at: usize, probs: &[i16], sums: &mut [i32; 16]) {
    // SAFETY: 16 places.
    let mut acc = unsafe { vld1q_s32_x4(sums.as_ptr()) };
    let wide = |j: usize| {
        // SAFETY: 16 bytes of row j, which the caller vouches for.
        let v = unsafe { vld1q_s8(v.as_ptr().add(j * width + at)) };
        (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v))
    };
    let (eights, rest) = probs.as_chunks::<8>();
    for (i, p) in eights.iter().enumerate() {
        // SAFETY: `p` has 8 values.
        let p = unsafe { vld1q_s16(p.as_ptr()) };
        macro_rules! lane {
            ($($lane:literal)*) => {$(
                let (low, high) = wide(8 * i + $lane);
                acc.0 = vmlal_laneq_s16::<$lane>(acc.0, vget_low_s16(low), p);
                acc.1 = vmlal_high_laneq_s16::<$lane>(acc.1, low, p);
                acc.2 = vmlal_laneq_s16::<$lane>(acc.2, vget_low_s16(high), p);
                acc.3 = vmlal_high_laneq_s16::<$lane>(acc.3, high, p);
            )*};
        }
        lane!(0 1 2 3 4 5 6 7);
    }
    for (i, &p) in rest.iter().enumerate() {
        let (low, high) = wide(8 * eights.len() + i);
        acc.0 = vmlal_n_s16(acc.0, vget_low_s16(low), p);
        acc.1 = vmlal_high_n_s16(acc.1, low, p);
        acc.2 = vmlal_n_s16(acc.2, vget_low_s16(high), p);
        acc.3 = vmlal_high_n_s16(acc.3, high, p);
    }
    // SAFETY: 16 places.
    unsafe { vst1q_s32_x4(sums.as_mut_ptr(), acc) };
}
