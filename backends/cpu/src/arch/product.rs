//! A product whose shapes were checked against its slices: what the tiles take pointers from.

use varmint_core::ops::{Packed, Taps};

/// Distance of [`Product::prefetch`] in bytes.
#[cfg(target_arch = "x86_64")]
const PREFETCH: usize = 2048;

/// `out = x w` with everything in bounds.
pub(crate) struct Product<'a, T> {
    x: Taps<'a, T>,
    row_scale: &'a [f32],
    w: Packed<'a>,
    out: *mut f32,
}

impl<'a, T> Product<'a, T> {
    /// `None` if a slice is shorter than the shapes say (the reference then does what there is).
    pub(crate) fn new(
        x: Taps<'a, T>,
        row_scale: &'a [f32],
        w: Packed<'a>,
        out: &'a mut [f32],
    ) -> Option<Self> {
        let n = w.bias.len();
        let groups = n.div_ceil(8);
        let k = x.segs.checked_mul(x.seg_len)?;
        let back = |count: usize, step: usize| count.checked_sub(1)?.checked_mul(step);
        let end = back(x.rows, x.stride)?
            .checked_add(back(x.segs, x.seg_stride)?)?
            .checked_add(x.seg_len)?;
        let fits = n > 0
            && k > 0
            && x.seg_len.is_multiple_of(4)
            && end <= x.data.len()
            && groups.checked_mul(8)?.checked_mul(k)? <= w.w.len()
            && 8 * groups <= w.scale.len()
            && x.rows.checked_mul(n)? <= out.len()
            && (row_scale.len() == 1 || x.rows <= row_scale.len());
        fits.then_some(Self { x, row_scale, w, out: out.as_mut_ptr() })
    }

    pub(crate) fn rows(&self) -> usize {
        self.x.rows
    }

    /// Groups of 8 output channels.
    pub(crate) fn groups(&self) -> usize {
        self.w.bias.len().div_ceil(8)
    }

    /// Output channels from `n` on.
    pub(crate) fn channels(&self, n: usize) -> usize {
        self.w.bias.len() - n
    }

    pub(crate) fn segs(&self) -> usize {
        self.x.segs
    }

    /// Steps of 4 inputs in a segment.
    pub(crate) fn seg_steps(&self) -> usize {
        self.x.seg_len / 4
    }

    pub(crate) fn row_scale(&self, m: usize) -> f32 {
        self.row_scale.get(m).or(self.row_scale.first()).copied().unwrap_or(0.0)
    }

    /// The 32 weights of group `g` at a step.
    ///
    /// # Safety
    /// `g < groups()`, `s < segs()`, `step < seg_steps()`.
    #[inline(always)]
    pub(crate) unsafe fn weights(&self, g: usize, s: usize, step: usize) -> *const i8 {
        let at = 8 * (g * self.x.k() + s * self.x.seg_len) + 32 * step;
        // SAFETY: `new` found `groups * 8 * k` weights, and `at + 32` is at most that.
        unsafe { self.w.w.as_ptr().add(at) }
    }

    /// Asks for the weights that lie some pages ahead of a step: few rows wait for memory, and a processor
    /// does not look beyond a page by itself.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(crate) fn prefetch(&self, g: usize, s: usize, step: usize) {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let at = 8 * (g * self.x.k() + s * self.x.seg_len) + 32 * step + PREFETCH;
        // SAFETY: a hint; the address is never read through.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(self.w.w.as_ptr().wrapping_add(at)) };
    }

    /// The 4 inputs of row `m` at a step.
    ///
    /// # Safety
    /// `m < rows()`, `s < segs()`, `step < seg_steps()`.
    #[inline(always)]
    pub(crate) unsafe fn input(&self, m: usize, s: usize, step: usize) -> *const T {
        let at = m * self.x.stride + s * self.x.seg_stride + 4 * step;
        // SAFETY: `new` found the last row's last segment inside the data; this is not beyond it.
        unsafe { self.x.data.as_ptr().add(at) }
    }

    /// Output channel `n` of row `m`.
    ///
    /// # Safety
    /// `m < rows()`, `n` below the number of channels.
    #[inline(always)]
    pub(crate) unsafe fn out(&self, m: usize, n: usize) -> *mut f32 {
        // SAFETY: `new` found `rows * channels` places.
        unsafe { self.out.add(m * self.w.bias.len() + n) }
    }

    /// Scales from channel `n` on; they come in eights.
    ///
    /// # Safety
    /// `n` below the number of channels.
    #[inline(always)]
    pub(crate) unsafe fn scale(&self, n: usize) -> *const f32 {
        // SAFETY: `new` found `8 * groups` of them.
        unsafe { self.w.scale.as_ptr().add(n) }
    }

    /// Biases from channel `n` on.
    ///
    /// # Safety
    /// `n` below the number of channels.
    #[inline(always)]
    pub(crate) unsafe fn bias(&self, n: usize) -> *const f32 {
        // SAFETY: the bias's length is the number of channels.
        unsafe { self.w.bias.as_ptr().add(n) }
    }
}
