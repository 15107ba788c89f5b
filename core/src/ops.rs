//! The kernels, on slices: what SIMD implements. The default of every method is the scalar
//! reference, which defines the bits of the integer tiers; an implementation may leave holes.
//!
//! Shapes are the caller's promise. A slice that is too short shortens the work, never panics.

use half::f16;

pub use crate::operands::{Heads, Kv, Packed, Packed4, Scratch, Strip, Taps};
use crate::scalar;

/// The operations of a backend over the caller's memory.
///
/// Integer products accumulate exactly; floats follow the order of operations of `num`
/// (docs/arithmetic.md), so that every implementation gives the same bits.
pub trait Ops {
    /// Its name, for people.
    fn name(&self) -> &'static str;

    /// `out = LN(x) * gain + shift`, one row; LN without affine, eps 1e-6.
    fn layer_norm(&self, x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]) {
        scalar::layer_norm(x, gain, shift, out);
    }

    /// `out = round(x / s)` with `s = max|x| / 127`, one row; the rest of `out` is zeroed.
    /// Returns s.
    fn quantize_i8(&self, x: &[f32], out: &mut [i8]) -> f32 {
        scalar::quantize_i8(x, out)
    }

    /// As `quantize_i8` with `s = max|x| / 2047`.
    fn quantize_i12(&self, x: &[f32], out: &mut [i16]) -> f32 {
        scalar::quantize_i12(x, out)
    }

    /// `out[m, n] = (sum_k x[m, k] w[n, k]) * (row_scale[m] * scale[n]) + bias[n]`; `out` is `[M, N]`.
    /// One row scale serves all rows.
    fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        scalar::gemm_int(x, row_scale, w, out);
    }

    /// As `gemm_i8` for 12-bit inputs stored as i16.
    fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        scalar::gemm_int(x, row_scale, w, out);
    }

    /// 3x3 convolution `[rows, width, N]`: per pixel as `gemm_i8`, K being `(dy, dx, channel)`.
    ///
    /// `scratch` is for whatever makes it faster (a Winograd transform); none of it changes the bits.
    fn conv_i8(
        &self,
        x: Strip<'_, i8>,
        scale: f32,
        w: Packed<'_>,
        scratch: &mut [i32],
        out: &mut [f32],
    ) {
        let _ = scratch;
        x.each_row(w.bias.len(), out, |x, out| self.gemm_i8(x, &[scale], w, out));
    }

    /// As `conv_i8` for 12-bit inputs stored as i16.
    fn conv_i12(
        &self,
        x: Strip<'_, i16>,
        scale: f32,
        w: Packed<'_>,
        scratch: &mut [i32],
        out: &mut [f32],
    ) {
        let _ = scratch;
        x.each_row(w.bias.len(), out, |x, out| self.gemm_i12(x, &[scale], w, out));
    }

    /// `out[m, n] = (sum_g group[n, g] sum_k x[m, k] w[n, k]) * (row_scale[m] * scale[n]) + bias[n]`
    /// with k over the 32 inputs of group g; runs of `x` are multiples of 32. One row scale serves
    /// all rows.
    fn gemm_i4(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed4<'_>, out: &mut [f32]) {
        scalar::gemm_i4(x, row_scale, w, out);
    }

    /// `out[m, n] = sum_k x[m, k] w[n, k] + bias[n]`, w row-major.
    fn gemm_f32(&self, x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]) {
        scalar::gemm_f32(x, w, bias, out);
    }

    /// As `gemm_f32` with half-float weights.
    fn gemm_f16(&self, x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]) {
        scalar::gemm_f16(x, w, bias, out);
    }

    /// GELU in its tanh form, in place.
    fn gelu(&self, x: &mut [f32]) {
        scalar::gelu(x);
    }

    /// `x += gain * y`, one row.
    fn add_gated(&self, x: &mut [f32], gain: &[f32], y: &[f32]) {
        scalar::add_gated(x, gain, y);
    }

    /// Attention of some query tokens, all heads: `o = softmax(q K^T) V` over the first keys of each
    /// part of `kv`, as many as it says. `q` is already scaled; `q` and `out` are `[rows, width]`, and a
    /// last row that is shorter has fewer heads. Rows do not know of each other: how many go together
    /// is what `scratch` has room for, and no bit depends on it.
    fn attend(
        &self,
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32],
    ) {
        scalar::attend(heads, q, kv, scratch, out);
    }

    /// `x[p, c] = silu(x[p, c] * gain[c] + shift[c])` in place, or without SiLU.
    fn norm_act(&self, x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool) {
        scalar::norm_act(x, gain, shift, silu);
    }

    /// Statistics of pixels `x`, channel by channel: adds them to `sum` in order, and widens `min` and `max`.
    /// The length of `sum` is the number of channels.
    fn map_stats(&self, x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]) {
        scalar::map_stats(x, sum, min, max);
    }

    /// `sum[c] += (x[p, c] - mean[c])^2`, pixels in order.
    fn map_squares(&self, x: &[f32], mean: &[f32], sum: &mut [f32]) {
        scalar::map_squares(x, mean, sum);
    }

    /// `x = x / max(|x|, 1e-12) * factor` for every head of a row; `factors` holds one per head.
    fn normalize_heads(&self, x: &mut [f32], dim: usize, factors: &[f32]) {
        scalar::normalize_heads(x, dim, factors);
    }

    /// int8 and a scale for every head of a row; `scales` holds one per head.
    fn quantize_heads(&self, x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]) {
        scalar::quantize_heads(x, dim, out, scales);
    }

    /// `out = x`, exact.
    fn widen_f16(&self, x: &[f16], out: &mut [f32]) {
        scalar::widen_f16(x, out);
    }

    /// `out = x` rounded to half floats (nearest, ties to even); `x` becomes what `out` holds.
    fn narrow_f16(&self, x: &mut [f32], out: &mut [f16]) {
        scalar::narrow_f16(x, out);
    }

    /// `out = round(x * inverse)`, within ±127.
    fn requantize_i8(&self, x: &[f32], inverse: f32, out: &mut [i8]) {
        scalar::requantize_i8(x, inverse, out);
    }

    /// `out = round(x * inverse)`, within ±2047.
    fn requantize_i12(&self, x: &[f32], inverse: f32, out: &mut [i16]) {
        scalar::requantize_i12(x, inverse, out);
    }
}

/// The reference: every operation as `scalar` defines it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

impl Ops for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    // What kernels fall back on, once in a program.

    #[inline(never)]
    fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        scalar::gemm_int(x, row_scale, w, out);
    }

    #[inline(never)]
    fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        scalar::gemm_int(x, row_scale, w, out);
    }

    #[inline(never)]
    fn attend(
        &self,
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32],
    ) {
        scalar::attend(heads, q, kv, scratch, out);
    }
}
