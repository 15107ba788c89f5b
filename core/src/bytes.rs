//! Little-endian numbers out of a byte slice, in `const` context and without a panic; and what slices and
//! divisions do elsewhere in the core in place of panicking.
//!
//! Sizes are checked where they come in, so the odd case is never taken. That the compiler sees it handled
//! is what `tests/bare/no-panic` proves for a whole program.

use core::slice::{ChunksExact, ChunksExactMut};

/// `len` bytes from `at`, or `None` past the end.
pub(crate) const fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.split_at_checked(len) {
            Some((wanted, _)) => Some(wanted),
            None => None,
        },
        None => None,
    }
}

/// The u32 at `at`; 0 past the end (callers have checked the length of the section).
pub(crate) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first_chunk::<4>() {
            Some(c) => u32::from_le_bytes(*c),
            None => 0,
        },
        None => 0,
    }
}

/// The u64 at `at`; 0 past the end.
pub(crate) const fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u32_at(bytes, at + 4) as u64) << 32 | u32_at(bytes, at) as u64
}

/// The u16 at `at`; 0 past the end.
pub(crate) const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first_chunk::<2>() {
            Some(c) => u16::from_le_bytes(*c),
            None => 0,
        },
        None => 0,
    }
}

/// The byte at `at`; 0 past the end.
pub(crate) const fn u8_at(bytes: &[u8], at: usize) -> u8 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first() {
            Some(b) => *b,
            None => 0,
        },
        None => 0,
    }
}

/// `n` rounded up to a multiple of `to`, a power of two.
pub(crate) const fn up(n: usize, to: usize) -> usize {
    n.saturating_add(to - 1) & !(to - 1)
}

/// `len` items from `at`; empty past the end.
#[inline(always)]
pub(crate) fn part<T>(x: &[T], at: usize, len: usize) -> &[T] {
    x.get(at..at.saturating_add(len)).unwrap_or(&[])
}

/// As [`part`], mutable.
#[inline(always)]
pub(crate) fn part_mut<T>(x: &mut [T], at: usize, len: usize) -> &mut [T] {
    x.get_mut(at..at.saturating_add(len)).unwrap_or(&mut [])
}

/// `x` in pieces of `n` items, a shorter rest left out; of one item where `n` is 0.
#[inline(always)]
pub(crate) fn pieces<T>(x: &[T], n: usize) -> ChunksExact<'_, T> {
    x.chunks_exact(n.max(1))
}

/// As [`pieces`], mutable.
#[inline(always)]
pub(crate) fn pieces_mut<T>(x: &mut [T], n: usize) -> ChunksExactMut<'_, T> {
    x.chunks_exact_mut(n.max(1))
}

/// `a / b`; `a` where `b` is 0.
#[inline(always)]
pub(crate) const fn div(a: usize, b: usize) -> usize {
    if b == 0 { a } else { a / b }
}

/// Row and column of item `i` in rows of `w`; all in one column where `w` is 0.
#[inline(always)]
pub(crate) const fn place(i: usize, w: usize) -> (usize, usize) {
    if w == 0 { (i, 0) } else { (i / w, i % w) }
}
