//! Integer products with `smlad`: two 16-bit products added to a sum.
//!
//! `sxtb16` widens bytes 0 and 2 of a word, and after a rotation bytes 1 and 3; the inputs are brought
//! into the same order (0, 2) and (1, 3), so nothing is ever put back.

use core::mem::MaybeUninit;

use varmint_core::ops::{Packed, Taps};

use super::dsp::{Inputs, ROWS, four_rows, smlad, spread};
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

/// Steps of 4 inputs that are widened at once, for [`ROWS`] rows: 2 KiB of stack.
const STEPS: usize = 64;

/// See `varmint_core::Ops::gemm_i8` and `gemm_i12`; `None` where the slices do not hold what the shapes
/// say.
pub(crate) fn gemm<T: Input>(
    x: Taps<'_, T>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    let whole = p.rows() - p.rows() % ROWS;
    for m in (0..whole).step_by(ROWS) {
        // SAFETY: `Product::new` checked every row, group and output of the shapes; these rows are below `rows()`.
        unsafe { block(&p, m) };
    }
    for g in 0..if whole < p.rows() { p.groups() } else { 0 } {
        for c in (0..p.channels(8 * g).min(8)).step_by(2) {
            for m in whole..p.rows() {
                // SAFETY: as above; the group is below `groups()`, channels `c` and `c + 1` are below 8.
                unsafe { tile(&p, m, g, c) };
            }
        }
    }
    Some(())
}

/// Rows `m..m + ROWS`, all channels. The inputs are widened once for all channels, as many steps as there is room
/// for; between two such parts, the outputs hold the integer sums.
///
/// # Safety
/// The rows are inside the product.
unsafe fn block<T: Input>(p: &Product<'_, T>, m: usize) {
    let mut wide = [const { MaybeUninit::<Inputs>::uninit() }; STEPS];
    let row_scales: [f32; ROWS] = core::array::from_fn(|i| p.row_scale(m + i));
    // SAFETY: the caller vouches for the rows; a product has a channel.
    let outs: [*mut f32; ROWS] = core::array::from_fn(|i| unsafe { p.out(m + i, 0) });
    let (mut s, mut step) = (0, 0);
    let (mut done, all) = (0, p.segs() * p.seg_steps());
    while done < all {
        let steps = STEPS.min(all - done);
        for wide in &mut wide[..steps] {
            // SAFETY: `s` and `step` run through the segments' steps, which lie inside the inputs.
            wide.write(core::array::from_fn(|i| unsafe { T::quad(p.input(m + i, s, step)) }));
            step += 1;
            if step == p.seg_steps() {
                (s, step) = (s + 1, 0);
            }
        }
        for n in 0..p.channels(0) {
            // SAFETY: the weights of all segments lie one after the other, these steps among them, and so many
            // inputs were written. Row `m + i` and channel `n` are inside the product; its outputs are sums until
            // the last steps.
            unsafe {
                let out = outs.map(|out| out.add(n));
                let acc = match done {
                    0 => [0; ROWS],
                    _ => out.map(|out| out.cast::<i32>().read()),
                };
                let w = p.weights(n / 8, 0, done).add(4 * (n % 8));
                let acc = four_rows(w, wide.as_ptr().cast(), steps, acc);
                if done + steps < all {
                    for (out, acc) in out.iter().zip(acc) {
                        out.cast::<i32>().write(acc);
                    }
                } else {
                    let (scale, bias) = (p.scale(n).read(), p.bias(n).read());
                    for ((out, acc), row_scale) in out.iter().zip(acc).zip(row_scales) {
                        out.write(acc as f32 * (row_scale * scale) + bias);
                    }
                }
            }
        }
        done += steps;
    }
}

/// Row `m`, channels `c` and `c + 1` of group `g`.
///
/// # Safety
/// The row and the group are inside the product, `c < 7`.
#[inline]
unsafe fn tile<T: Input>(p: &Product<'_, T>, m: usize, g: usize, c: usize) {
    let mut acc = [0i32; 2];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the group's and the row's values of this step lie inside their slices.
            unsafe {
                let x = T::quad(p.input(m, s, step));
                let at = p.weights(g, s, step).add(4 * c).cast::<u32>();
                for (j, acc) in acc.iter_mut().enumerate() {
                    let [even, odd] = spread(at.add(j).read_unaligned());
                    *acc = smlad(x[1], odd, smlad(x[0], even, *acc));
                }
            }
        }
    }
    for (n, acc) in (8 * g + c..).zip(acc).take(p.channels(8 * g + c)) {
        // SAFETY: row `m` and channel `n` are inside the product.
        unsafe {
            let scale = p.row_scale(m) * p.scale(n).read();
            p.out(m, n).write(acc as f32 * scale + p.bias(n).read());
        }
    }
}
