//! 64-bit Arm. NEON is part of the baseline, so what is not written here is the reference as the compiler
//! made it.

mod attention;
mod dotprod;
mod half;
mod neon;

use ::half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::scalar;

use super::attention::attend_i8;

/// NEON.
pub(super) struct Neon;

/// The former with the dot product extension.
pub(super) struct Dotprod;

/// The operations that are written by hand.
macro_rules! kernels {
    ($name:literal, $gemm_i8:path, $dots:path) => {
        fn name(&self) -> &'static str {
            $name
        }

        fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            if unsafe { $gemm_i8(x, row_scale, w, out) }.is_none() {
                scalar::gemm_int(x, row_scale, w, out);
            }
        }

        fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: as above.
            if unsafe { neon::gemm_i12(x, row_scale, w, out) }.is_none() {
                scalar::gemm_int(x, row_scale, w, out);
            }
        }

        fn attend(
            &self,
            heads: Heads,
            q: &[f32],
            kv: [(Kv<'_>, usize); 2],
            scratch: &mut Scratch<'_>,
            out: &mut [f32],
        ) {
            // SAFETY: as above.
            let done = unsafe { attend_i8(heads, q, kv, scratch, out, ($dots, attention::weigh)) };
            if done.is_none() {
                scalar::attend(heads, q, kv, scratch, out);
            }
        }

        fn widen_f16(&self, x: &[f16], out: &mut [f32]) {
            // SAFETY: as above.
            unsafe { half::widen_f16(x, out) }
        }

        fn narrow_f16(&self, x: &mut [f32], out: &mut [f16]) {
            // SAFETY: as above.
            unsafe { half::narrow_f16(x, out) }
        }
    };
}

impl Ops for Neon {
    kernels!("cpu (neon)", neon::gemm_i8, attention::dots);
}

impl Ops for Dotprod {
    kernels!("cpu (neon dotprod)", dotprod::gemm_i8, attention::dots_sdot);
}
