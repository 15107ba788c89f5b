//! What slices and divisions do in place of panicking, for the core and for kernels.
//!
//! Sizes are checked where they come in, so the odd case is never taken. That it is handled all the same
//! is what lets a whole program link without a panic in it (`tests/bare/no-panic`).

use core::mem::take;

/// `len` items from `at`; empty past the end.
#[inline(always)]
pub fn part<T>(x: &[T], at: usize, len: usize) -> &[T] {
    x.get(at..at.saturating_add(len)).unwrap_or(&[])
}

/// As [`part`], mutable.
#[inline(always)]
pub fn part_mut<T>(x: &mut [T], at: usize, len: usize) -> &mut [T] {
    x.get_mut(at..at.saturating_add(len)).unwrap_or(&mut [])
}

/// `x` in pieces of `n` items, a shorter rest left out; of one item where `n` is 0.
#[inline(always)]
pub fn pieces<T>(x: &[T], n: usize) -> Pieces<'_, T> {
    Pieces { rest: x, n: n.max(1) }
}

/// As [`pieces`], mutable.
#[inline(always)]
pub fn pieces_mut<T>(x: &mut [T], n: usize) -> PiecesMut<'_, T> {
    PiecesMut { rest: x, n: n.max(1) }
}

/// What `chunks_exact` is, without its divisions: the compiler does not always see that they are not by 0.
#[derive(Debug)]
pub struct Pieces<'a, T> {
    rest: &'a [T],
    n: usize,
}

impl<'a, T> Iterator for Pieces<'a, T> {
    type Item = &'a [T];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a [T]> {
        let (piece, rest) = self.rest.split_at_checked(self.n)?;
        self.rest = rest;
        Some(piece)
    }
}

/// As [`Pieces`], mutable.
#[derive(Debug)]
pub struct PiecesMut<'a, T> {
    rest: &'a mut [T],
    n: usize,
}

impl<'a, T> Iterator for PiecesMut<'a, T> {
    type Item = &'a mut [T];

    #[inline(always)]
    fn next(&mut self) -> Option<&'a mut [T]> {
        let (piece, rest) = take(&mut self.rest).split_at_mut_checked(self.n)?;
        self.rest = rest;
        Some(piece)
    }
}

/// `a / b`; `a` where `b` is 0.
#[inline(always)]
pub const fn div(a: usize, b: usize) -> usize {
    match a.checked_div(b) {
        Some(q) => q,
        None => a,
    }
}

/// Row and column of item `i` in rows of `w`; all in one column where `w` is 0.
#[inline(always)]
pub const fn place(i: usize, w: usize) -> (usize, usize) {
    match (i.checked_div(w), i.checked_rem(w)) {
        (Some(row), Some(column)) => (row, column),
        _ => (i, 0),
    }
}
