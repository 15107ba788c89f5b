//! 32-bit Arm with the DSP extension: Cortex-M4, M7, M33, M55. The compiler does not tell whether it is
//! there, so the cargo feature `dsp` does.

mod attention;
mod dsp;
mod products;

use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::{Ops, Scalar};

use super::by_hand;

/// The DSP extension.
pub(super) struct Dsp;

impl Ops for Dsp {
    by_hand!("cpu (dsp)", products::gemm, products::gemm, (attention::dots, attention::weigh));
}
