//! The integer loops of attention.

use super::dsp::{smlad, spread};

/// Scores of keys.
///
/// # Safety
/// As [`crate::arch::attention::Dots`].
pub(crate) unsafe fn dots(k: &[i8], width: usize, h: usize, query: &[i8], scores: &mut [f32]) {
    let head = h * query.len();
    for (j, out) in scores.iter_mut().enumerate() {
        let mut sum = 0;
        for (c, q) in query.as_chunks::<4>().0.iter().enumerate() {
            // SAFETY: 4 bytes of head h of row j.
            let k =
                unsafe { k.as_ptr().add(j * width + head + 4 * c).cast::<u32>().read_unaligned() };
            let (q, k) = (spread(u32::from_le_bytes(q.map(|q| q as u8))), spread(k));
            sum = smlad(q[1], k[1], smlad(q[0], k[0], sum));
        }
        *out = sum as f32;
    }
}

/// Sums of values, two keys at a time: a value of each makes one pair, and so do their weights.
///
/// # Safety
/// As [`crate::arch::attention::Weigh`].
pub(crate) unsafe fn weigh(v: &[i8], width: usize, at: usize, probs: &[i16], sums: &mut [i32; 16]) {
    // SAFETY: 4 bytes of row j, which the caller vouches for.
    let value = |j: usize, c: usize| unsafe {
        v.as_ptr().add(j * width + at + 4 * c).cast::<u32>().read_unaligned()
    };
    for (c, sums) in sums.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let mut add = |a: u32, b: u32, weight: u32| {
            let ([a0, a1], [b0, b1]) = (spread(a), spread(b));
            sums[0] = smlad(a0 & 0xffff | b0 << 16, weight, sums[0]);
            sums[1] = smlad(a1 & 0xffff | b1 << 16, weight, sums[1]);
            sums[2] = smlad(a0 >> 16 | b0 & 0xffff_0000, weight, sums[2]);
            sums[3] = smlad(a1 >> 16 | b1 & 0xffff_0000, weight, sums[3]);
        };
        let (pairs, rest) = probs.as_chunks::<2>();
        for (i, &[p, q]) in pairs.iter().enumerate() {
            let weight = p as u16 as u32 | (q as u16 as u32) << 16;
            add(value(2 * i, c), value(2 * i + 1, c), weight);
        }
        if let &[p] = rest {
            add(value(probs.len() - 1, c), 0, p as u16 as u32);
        }
    }
}
