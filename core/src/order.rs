//! Order of floats, in place: a selection and a sort that cannot panic and whose work the length bounds.
//!
//! The standard library's do less work on average, but they check for an order that contradicts itself and
//! then panic, and they are many kilobytes of code.

use core::cmp::Ordering;
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

/// The `k`-th largest item, `k` from 1 on; the smallest for a larger `k`. At most 33 passes: every one halves
/// the distance of two ranks between which it is.
pub(crate) fn kth_largest(x: &[f32], k: usize) -> f32 {
    let ranks = x.iter().map(|&v| rank(v));
    let (mut low, mut high) = ranks.fold((u32::MAX, 0), |(l, h), r| (l.min(r), h.max(r)));
    while low < high {
        let middle = high - (high - low) / 2;
        let least = ranked(middle);
        match (x.iter().map(|&v| u32::from(v >= least)).sum::<u32>() as usize).cmp(&k) {
            Ordering::Less => high = middle - 1,
            Ordering::Equal => return smallest(x, |v| v >= least),
            Ordering::Greater => low = middle,
        }
    }
    ranked(low)
}

/// The smallest item that passes; infinity if none does.
#[inline(always)]
pub(crate) fn smallest(x: &[f32], passes: impl Fn(f32) -> bool) -> f32 {
    let smaller = |m: f32, g: f32| {
        let g = if passes(g) { g } else { f32::INFINITY };
        if g < m { g } else { m }
    };
    // A minimum is the same in any order.
    let mut lanes = [f32::INFINITY; 8];
    let (eights, rest) = x.as_chunks::<8>();
    for eight in eights {
        for (lane, &g) in lanes.iter_mut().zip(eight) {
            *lane = smaller(*lane, g);
        }
    }
    let m = rest.iter().fold(f32::INFINITY, |m, &g| smaller(m, g));
    lanes.iter().fold(m, |m, &g| if g < m { g } else { m })
}

/// Sorts, smallest first; where not-a-number is among the items, in some order.
///
/// A bitonic network (Batcher 1968) that puts the smaller of two always in front, so that the items that
/// are missing to a power of two stay where they are not: n log² n / 4 exchanges whatever the items are, most of
/// them of neighbours with neighbours, as vectors.
pub(crate) fn sort(x: &mut [f32]) {
    let mut run = 1;
    while run < x.len() {
        // Two sorted runs, the second read backwards, fall and rise: the halves of that are apart in size.
        for both in x.chunks_mut((2 * run).max(1)) {
            let (a, b) = both.split_at_mut_checked(run).unwrap_or_default();
            a.iter_mut().rev().zip(b).for_each(exchange);
        }
        let mut half = run / 2;
        while half >= 8 {
            halves(x, half);
            half /= 2;
        }
        let small = run.min(8);
        let (eights, rest) = x.as_chunks_mut::<8>();
        for x in eights.iter_mut().map(|x| x.as_mut_slice()).chain([rest]) {
            [4, 2, 1].into_iter().filter(|&half| half < small).for_each(|half| halves(x, half));
        }
        run *= 2;
    }
}

/// Exchanges the items of two neighbouring stretches of `half` items, from the first on.
#[inline(always)]
fn halves(x: &mut [f32], half: usize) {
    for both in x.chunks_mut((2 * half).max(1)) {
        let (a, b) = both.split_at_mut_checked(half).unwrap_or_default();
        a.iter_mut().zip(b).for_each(exchange);
    }
}

/// The smaller one first.
#[inline(always)]
fn exchange((a, b): (&mut f32, &mut f32)) {
    (*a, *b) = if *b < *a { (*b, *a) } else { (*a, *b) };
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
                let kth = kth_largest(&x, k);
                assert_eq!(Some(&kth), all.iter().rev().nth(k - 1), "{k} of {}", x.len());
                let mut mine = x.clone();
                let n = to_front(&mut mine, |v| v >= kth);
                assert_eq!(n, all.iter().filter(|&&v| v >= kth).count());
                assert!(mine.iter().take(n).all(|&v| v >= kth));
                assert_eq!(sorted(&mine), all, "items only move");
            }
        }
    }

    #[test]
    fn whatever_comes_nothing_panics() {
        for k in [0, 1, 2, usize::MAX] {
            kth_largest(&[], k);
            kth_largest(&[f32::NAN, 1.0, -f32::NAN], k);
        }
        sort(&mut [f32::NAN, 1.0, f32::NAN]);
    }
}
