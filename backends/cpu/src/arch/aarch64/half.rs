//! Half floats: `fcvtl` and `fcvtn`, which every 64-bit processor has.

use core::arch::aarch64::*;

use half::f16;
use varmint_core::scalar;

/// See `varmint_core::Ops::widen_f16`.
#[target_feature(enable = "neon")]
pub(crate) fn widen_f16(x: &[f16], out: &mut [f32]) {
    let n = x.len().min(out.len()) / 8 * 8;
    let ((x, x_rest), (out, out_rest)) = (x.split_at(n), out.split_at_mut(n));
    for (x, out) in x.chunks_exact(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both chunks hold 8 values; `f16` is 16 bits.
        unsafe {
            let h = vreinterpretq_f16_u16(vld1q_u16(x.as_ptr().cast()));
            vst1q_f32(out.as_mut_ptr(), vcvt_f32_f16(vget_low_f16(h)));
            vst1q_f32(out.as_mut_ptr().add(4), vcvt_high_f32_f16(h));
        }
    }
    scalar::widen_f16(x_rest, out_rest);
}

/// See `varmint_core::Ops::narrow_f16`.
#[target_feature(enable = "neon")]
pub(crate) fn narrow_f16(x: &mut [f32], out: &mut [f16]) {
    let n = x.len().min(out.len()) / 8 * 8;
    let ((x, x_rest), (out, out_rest)) = (x.split_at_mut(n), out.split_at_mut(n));
    for (x, out) in x.chunks_exact_mut(8).zip(out.chunks_exact_mut(8)) {
        // SAFETY: both chunks hold 8 values; `f16` is 16 bits.
        unsafe {
            let low = vcvt_f16_f32(vld1q_f32(x.as_ptr()));
            let h = vcvt_high_f16_f32(low, vld1q_f32(x.as_ptr().add(4)));
            vst1q_u16(out.as_mut_ptr().cast(), vreinterpretq_u16_f16(h));
            vst1q_f32(x.as_mut_ptr(), vcvt_f32_f16(low));
            vst1q_f32(x.as_mut_ptr().add(4), vcvt_high_f32_f16(h));
        }
    }
    scalar::narrow_f16(x_rest, out_rest);
}
