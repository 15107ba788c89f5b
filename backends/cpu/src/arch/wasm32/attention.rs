//! The integer loops of attention: keys and values are widened as they are read, never expanded.

use core::arch::wasm32::*;

use super::products::add_pairs;
use crate::arch::attention::MAX_DIM;

/// Scores of keys.
///
/// # Safety
/// As [`crate::arch::attention::Dots`].
pub(crate) unsafe fn dots(k: &[i8], width: usize, h: usize, query: &[i8], scores: &mut [f32]) {
    let dim = query.len();
    let mut q = [i16x8_splat(0); MAX_DIM / 8];
    for (q, c) in q.iter_mut().zip(query.chunks_exact(8)) {
        // SAFETY: a chunk is 8 bytes.
        *q = unsafe { i16x8_load_extend_i8x8(c.as_ptr()) };
    }
    let (q, head) = (&q[..dim / 8], h * dim);
    // Called with j below the number of keys only.
    let sums = |j: usize| {
        let mut acc = i32x4_splat(0);
        for (c, &q) in q.iter().enumerate() {
            // SAFETY: 8 bytes of head h of row j.
            let k = unsafe { i16x8_load_extend_i8x8(k.as_ptr().add(j * width + head + 8 * c)) };
            acc = i32x4_add(acc, i32x4_dot_i16x8(q, k));
        }
        acc
    };
    let (fours, rest) = scores.as_chunks_mut::<4>();
    for (i, out) in fours.iter_mut().enumerate() {
        let j = 4 * i;
        let (low, high) = (add_pairs(sums(j), sums(j + 1)), add_pairs(sums(j + 2), sums(j + 3)));
        let all = f32x4_convert_i32x4(add_pairs(low, high));
        // SAFETY: `out` has 4 places.
        unsafe { v128_store(out.as_mut_ptr().cast(), all) };
    }
    let done = 4 * fours.len();
    for (i, out) in rest.iter_mut().enumerate() {
        let pairs = add_pairs(sums(done + i), i32x4_splat(0));
        *out = i32x4_extract_lane::<0>(pairs).wrapping_add(i32x4_extract_lane::<1>(pairs)) as f32;
    }
}

/// Sums of values, two keys at a time: their values are interleaved, their weights are one pair.
///
/// # Safety
/// As [`crate::arch::attention::Weigh`].
pub(crate) unsafe fn weigh(v: &[i8], width: usize, at: usize, probs: &[i16], sums: &mut [i32; 16]) {
    let mut acc = [i32x4_splat(0); 4];
    // SAFETY: 16 places.
    for (i, acc) in acc.iter_mut().enumerate() {
        *acc = unsafe { v128_load(sums.as_ptr().add(4 * i).cast()) };
    }
    // SAFETY: 16 bytes of row j, which the caller vouches for.
    let value = |j: usize| unsafe { v128_load(v.as_ptr().add(j * width + at).cast()) };
    let mut add = |a: v128, b: v128, p: i16, q: i16| {
        let weight = i32x4_splat(p as u16 as i32 | (q as i32) << 16);
        let low = i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
        let high =
            i8x16_shuffle::<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
        let pairs = [
            i16x8_extend_low_i8x16(low),
            i16x8_extend_high_i8x16(low),
            i16x8_extend_low_i8x16(high),
            i16x8_extend_high_i8x16(high),
        ];
        for (acc, pair) in acc.iter_mut().zip(pairs) {
            *acc = i32x4_add(*acc, i32x4_dot_i16x8(pair, weight));
        }
    };
    let (pairs, rest) = probs.as_chunks::<2>();
    for (i, &[p, q]) in pairs.iter().enumerate() {
        add(value(2 * i), value(2 * i + 1), p, q);
    }
    if let &[p] = rest {
        add(value(probs.len() - 1), i8x16_splat(0), p, 0);
    }
    for (i, &acc) in acc.iter().enumerate() {
        // SAFETY: 16 places.
        unsafe { v128_store(sums.as_mut_ptr().add(4 * i).cast(), acc) };
    }
}
