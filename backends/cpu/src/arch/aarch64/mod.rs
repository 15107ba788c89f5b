//! 64-bit Arm. NEON is part of the baseline, so what is not written here is the reference as the compiler
//! made it.

mod attention;
mod dotprod;
mod half;
mod neon;

use ::half::f16;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::{Ops, Scalar};

use super::by_hand;

/// NEON.
pub(super) struct Neon;

/// The former with the dot product extension.
pub(super) struct Dotprod;

/// Half floats.
macro_rules! half_floats {
    () => {
        fn widen_f16(&self, x: &[f16], out: &mut [f32]) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            unsafe { half::widen_f16(x, out) }
        }

        fn narrow_f16(&self, x: &mut [f32], out: &mut [f16]) {
            // SAFETY: as above.
            unsafe { half::narrow_f16(x, out) }
        }
    };
}

impl Ops for Neon {
    by_hand!("cpu (neon)", neon::gemm_i8, neon::gemm_i12, (attention::dots, attention::weigh));
    half_floats!();
}

impl Ops for Dotprod {
    by_hand!(
        "cpu (neon dotprod)",
        dotprod::gemm_i8,
        neon::gemm_i12,
        (attention::dots_sdot, attention::weigh)
    );
    half_floats!();
}
