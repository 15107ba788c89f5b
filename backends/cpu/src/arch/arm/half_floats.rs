//! Half floats by the FPU: every FPU of a Cortex-M converts them, rounding to nearest even, denormals kept.

use core::arch::asm;

use half::f16;

/// See `varmint_core::Ops::widen_f16`.
pub(crate) fn widen(x: &[f16], out: &mut [f32]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = to_f32(*x);
    }
}

/// See `varmint_core::Ops::narrow_f16`.
pub(crate) fn narrow(x: &mut [f32], out: &mut [f16]) {
    for (out, x) in out.iter_mut().zip(x) {
        *out = to_f16(*x);
        *x = to_f32(*out);
    }
}

#[inline(always)]
fn to_f32(x: f16) -> f32 {
    let out;
    // SAFETY: works on registers only; a target that passes floats in the FPU's registers has an FPU.
    unsafe {
        asm!("vcvtb.f32.f16 {out}, {x}", out = lateout(sreg) out,
            x = in(sreg) f32::from_bits(x.to_bits() as u32),
            options(pure, nomem, nostack, preserves_flags));
    }
    out
}

#[inline(always)]
fn to_f16(x: f32) -> f16 {
    // The upper half of the register stays as it is.
    let mut out = 0.0f32;
    // SAFETY: as above.
    unsafe {
        asm!("vcvtb.f16.f32 {out}, {x}", out = inlateout(sreg) out, x = in(sreg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    f16::from_bits(out.to_bits() as u16)
}
