//! Half floats with F16C.

use core::arch::x86_64::*;

use half::f16;
use varmint_core::scalar;

/// See `varmint_core::Ops::widen_f16`.
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn widen_f16(x: &[f16], out: &mut [f32]) {
    let n = x.len().min(out.len()) / 8 * 8;
    let ((x, x_rest), (out, out_rest)) = (x.split_at(n), out.split_at_mut(n));
    for (x, out) in x.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both chunks hold 8 values; `f16` is 16 bits.
        unsafe {
            let v = _mm256_cvtph_ps(_mm_loadu_si128(x.as_ptr().cast()));
            _mm256_storeu_ps(out.as_mut_ptr(), v);
        }
    }
    scalar::widen_f16(x_rest, out_rest);
}

/// See `varmint_core::Ops::narrow_f16`.
#[target_feature(enable = "avx2,f16c")]
pub(crate) fn narrow_f16(x: &mut [f32], out: &mut [f16]) {
    let n = x.len().min(out.len()) / 8 * 8;
    let ((x, x_rest), (out, out_rest)) = (x.split_at_mut(n), out.split_at_mut(n));
    for (x, out) in x.chunks_exact_mut(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both chunks hold 8 values; `f16` is 16 bits.
        unsafe {
            let h = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            _mm_storeu_si128(out.as_mut_ptr().cast(), h);
            _mm256_storeu_ps(x.as_mut_ptr(), _mm256_cvtph_ps(h));
        }
    }
    scalar::narrow_f16(x_rest, out_rest);
}
