//! Order of floats, in place: a selection and a sort that cannot panic and whose work the length bounds.
//!
//! The standard library's do less work on average, but they keep a check for an order that contradicts
//! itself, which panics, and are a fifth of a firmware's code.

use core::cell::Cell;
use core::mem::swap;

/// Moves the items that pass to the front, in any order; how many there are.
pub(crate) fn to_front(x: &mut [f32], passes: impl Fn(f32) -> bool) -> usize {
    let (mut n, mut left) = (0, x.iter_mut());
    while let Some(a) = left.next() {
        if !passes(*a) {
            match left.rfind(|b| passes(**b)) {
                Some(b) => swap(a, b),
                None => break,
            }
        }
        n += 1;
    }
    n
}

/// The bits of a float as a number of the same order.
fn rank(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// What has that rank.
fn ranked(rank: u32) -> f32 {
    f32::from_bits(if rank >> 31 == 0 { !rank } else { rank & !(1 << 31) })
}

/// The `k`-th largest item, `k` from 1 on; the smallest for a larger `k`. At most 32 passes, most of them
/// over few items: those left have a rank between two bounds, and every pass halves the distance.
pub(crate) fn kth_largest(mut x: &mut [f32], mut k: usize) -> f32 {
    let ranks = x.iter().map(|&v| rank(v));
    let (mut low, mut high) = ranks.fold((u32::MAX, 0), |(l, h), r| (l.min(r), h.max(r)));
    while low < high {
        let middle = high - (high - low) / 2;
        let n = to_front(x, |v| rank(v) >= middle);
        let (larger, others) = x.split_at_mut_checked(n).unwrap_or_default();
        if n >= k {
            (x, low) = (larger, middle);
        } else {
            (x, high) = (others, middle - 1);
            k -= n;
        }
    }
    ranked(low)
}

/// Sorts, smallest first; where not-a-number is among the items, in some order.
///
/// Batcher's merge exchange (Knuth, The Art of Computer Programming 3, 5.2.2 M): n log² n / 4 exchanges,
/// whatever the items are, and in most passes neighbours are exchanged with neighbours: as vectors.
pub(crate) fn sort(x: &mut [f32]) {
    let n = x.len();
    let x = Cell::from_mut(x).as_slice_of_cells();
    let top = n.next_power_of_two() / 2;
    let mut p = top;
    while p > 0 {
        let (mut q, mut from, mut distance) = (top, 0, p);
        loop {
            exchange(x, p, from, distance);
            if q == p {
                break;
            }
            (distance, from) = (q - p, p);
            q /= 2;
        }
        p /= 2;
    }
}

/// Brings items `i` and `i + distance` in order, for `p` items `i` of every `2 p`, from `from` on.
fn exchange(x: &[Cell<f32>], p: usize, from: usize, distance: usize) {
    let width = (2 * p).max(1);
    let (a, b) = (x.get(from..).unwrap_or(&[]), x.get(from + distance..).unwrap_or(&[]));
    for (a, b) in a.chunks(width).zip(b.chunks(width)) {
        for (a, b) in a.iter().zip(b).take(p) {
            let (low, high) = (a.get(), b.get());
            a.set(if high < low { high } else { low });
            b.set(if high < low { low } else { high });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Lengths, and floats of all kinds but not-a-number, some of them many times.
    fn cases() -> impl Iterator<Item = Vec<f32>> {
        let mut seed = 7u32;
        let mut random = move || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        (0..70).chain([127, 128, 129, 900, 1000, 1024]).map(move |n| {
            let one = |r: u32, other: u32| match r % 8 {
                0 => (other % 5) as f32 - 2.0,
                1 => f32::INFINITY,
                2 => f32::NEG_INFINITY,
                3 => f32::from_bits(other),
                _ => (other % 20_000) as f32 * 1e-3 - 10.0,
            };
            (0..n).map(|_| one(random(), random())).collect()
        })
    }

    fn sorted(x: &[f32]) -> Vec<f32> {
        let mut x = x.to_vec();
        x.sort_unstable_by(f32::total_cmp);
        x
    }

    #[test]
    fn sorts_as_the_standard_library() {
        for x in cases() {
            let mut mine = x.clone();
            sort(&mut mine);
            assert_eq!(mine, sorted(&x), "{} items", x.len());
        }
    }

    #[test]
    fn selects_as_a_sort() {
        for x in cases().filter(|x| !x.is_empty()) {
            let all = sorted(&x);
            for k in (1..=x.len()).step_by(1 + x.len() / 40) {
                let mut mine = x.clone();
                let kth = kth_largest(&mut mine, k);
                assert_eq!(Some(&kth), all.iter().rev().nth(k - 1), "{k} of {}", x.len());
                assert_eq!(sorted(&mine), all, "items only move");
                let n = to_front(&mut mine, |v| v >= kth);
                assert_eq!(n, all.iter().filter(|&&v| v >= kth).count());
                assert!(mine.iter().take(n).all(|&v| v >= kth));
            }
        }
    }

    #[test]
    fn whatever_comes_nothing_panics() {
        for k in [0, 1, 2, usize::MAX] {
            kth_largest(&mut [], k);
            kth_largest(&mut [f32::NAN, 1.0, -f32::NAN], k);
        }
        sort(&mut [f32::NAN, 1.0, f32::NAN]);
    }
}
