//! Tokens of a map that stand for it, and those around one.

use crate::config::Scale;
use crate::slices::{div, place};

/// Whether token `i` of a map stands on a grid of `side` x `side` tokens: the centres of equal cells.
pub(crate) const fn on_grid(map: Scale, side: usize, i: usize) -> bool {
    let (y, x) = place(i, map.w as usize);
    on_line(map.h as usize, side, y) && on_line(map.w as usize, side, x)
}

const fn on_line(n: usize, side: usize, i: usize) -> bool {
    let (first, step, count) = grid_line(n, side);
    step != 0 && i >= first && (i - first).is_multiple_of(step) && (i - first) / step < count
}

/// The tokens of a line of `n` that stand on a grid of `side` x `side`: the first, from one to the next (0 for none),
/// how many.
pub const fn grid_line(n: usize, side: usize) -> (usize, usize, usize) {
    let count = if side < n { side } else { n };
    let step = div(n, count);
    (step.saturating_sub(1) / 2, step, count)
}

/// The neighbourhood of token `i`: first row, first column, height, width. At the border it is shifted
/// inside (MVAR).
pub(crate) fn neighbourhood(map: Scale, side: usize, i: usize) -> (usize, usize, usize, usize) {
    let (h, w) = (map.h as usize, map.w as usize);
    let (nh, nw) = (side.min(h), side.min(w));
    let first = |x: usize, n: usize, all: usize| x.saturating_sub(n / 2).min(all - n);
    let (y, x) = place(i, w);
    (first(y, nh, h), first(x, nw, w), nh, nw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_stand_in_the_middle() {
        let map = |n| Scale::new(n, n, 0);
        let line = |n: usize, want: &[usize]| {
            assert!((0..n).filter(|&i| on_line(n, 4, i)).eq(want.iter().copied()), "{n}");
        };
        // i * (H / 4) + (H / 4 - 1) / 2, as the reference.
        line(8, &[0, 2, 4, 6]);
        line(16, &[1, 5, 9, 13]);
        line(13, &[1, 4, 7, 10]);
        line(3, &[0, 1, 2]);
        assert_eq!((0..64).filter(|&i| on_grid(map(8), 4, i)).count(), 16);
    }

    #[test]
    fn neighbourhoods_are_shifted_inside() {
        let map = Scale::new(13, 16, 0);
        assert_eq!(neighbourhood(map, 7, 0), (0, 0, 7, 7));
        assert_eq!(neighbourhood(map, 7, 6 * 16 + 8), (3, 5, 7, 7));
        assert_eq!(neighbourhood(map, 7, 12 * 16 + 15), (6, 9, 7, 7));
        assert_eq!(neighbourhood(Scale::new(3, 3, 0), 7, 4), (0, 0, 3, 3));
    }
}
