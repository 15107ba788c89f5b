//! Integer products with `smlad`: two 16-bit products added to a sum.
//!
//! `sxtb16` widens bytes 0 and 2 of a word, and after a rotation bytes 1 and 3; the inputs are brought
//! into the same order (0, 2) and (1, 3), so nothing is ever put back.

use varmint_core::ops::{Packed, Taps};

use super::dsp::{smlad, spread};
use crate::arch::product::Product;

/// An input that a tile can take.
pub(crate) trait Input: Copy {
    /// Four inputs as i16: (0, 2) and (1, 3).
    ///
    /// # Safety
    /// `at` points at four readable inputs.
    unsafe fn quad(at: *const Self) -> [u32; 2];
}

impl Input for i8 {
    #[inline(always)]
    unsafe fn quad(at: *const Self) -> [u32; 2] {
        // SAFETY: four bytes at any alignment; the caller vouches for them.
        spread(unsafe { at.cast::<u32>().read_unaligned() })
    }
}

impl Input for i16 {
    #[inline(always)]
    unsafe fn quad(at: *const Self) -> [u32; 2] {
        // SAFETY: eight bytes at any alignment; the caller vouches for them.
        let [a, b] = unsafe { at.cast::<[u32; 2]>().read_unaligned() };
        // The compiler knows these as `pkhbt` and `pkhtb`.
        [a & 0xffff | b << 16, a >> 16 | b & 0xffff_0000]
    }
}

/// See `varmint_core::Ops::gemm_i8` and `gemm_i12`; `None` where the slices do not hold what the shapes
/// say.
pub(crate) fn gemm<T: Input>(
    x: Taps<'_, T>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    for g in 0..p.groups() {
        for c in (0..p.channels(8 * g).min(8)).step_by(2) {
            let mut m = 0;
            while m < p.rows() {
                // SAFETY: `Product::new` checked every row, group and output of the shapes; the tile's
                // rows and group are below `rows()` and `groups()`, channels `c` and `c + 1` below 8.
                m += unsafe {
                    match p.rows() - m {
                        2.. => tile::<T, 2>(&p, m, g, c),
                        _ => tile::<T, 1>(&p, m, g, c),
                    }
                };
            }
        }
    }
    Some(())
}

/// Rows `m..m + MR`, channels `c` and `c + 1` of group `g`: what thirteen registers hold.
///
/// # Safety
/// The rows and the group are inside the product, `c < 7`.
#[inline]
unsafe fn tile<T: Input, const MR: usize>(
    p: &Product<'_, T>,
    m: usize,
    g: usize,
    c: usize,
) -> usize {
    let mut acc = [[0i32; 2]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the group's and the rows' values of this step lie inside their slices.
            unsafe {
                let mut x = [[0; 2]; MR];
                for (i, x) in x.iter_mut().enumerate() {
                    *x = T::quad(p.input(m + i, s, step));
                }
                let at = p.weights(g, s, step).add(4 * c).cast::<u32>();
                for j in 0..2 {
                    let [even, odd] = spread(at.add(j).read_unaligned());
                    for (acc, x) in acc.iter_mut().zip(&x) {
                        acc[j] = smlad(x[1], odd, smlad(x[0], even, acc[j]));
                    }
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate().take(p.channels(8 * g + c)) {
            let n = 8 * g + c + j;
            // SAFETY: row `m + i` and channel `n` are inside the product.
            unsafe {
                let scale = p.row_scale(m + i) * p.scale(n).read();
                p.out(m + i, n).write(acc as f32 * scale + p.bias(n).read());
            }
        }
    }
    MR
}
