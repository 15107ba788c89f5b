//! 32-bit Arm with the DSP extension: Cortex-M4, M7, M33, M55. The compiler does not tell whether it is
//! there, so the cargo feature `dsp` does.

mod attention;
mod dsp;
mod products;

use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::scalar;

use super::attention::attend_i8;

/// The DSP extension.
pub(super) struct Dsp;

impl Ops for Dsp {
    fn name(&self) -> &'static str {
        "cpu (dsp)"
    }

    fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        if products::gemm(x, row_scale, w, out).is_none() {
            scalar::gemm_int(x, row_scale, w, out);
        }
    }

    fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        if products::gemm(x, row_scale, w, out).is_none() {
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
        let loops = (attention::dots as _, attention::weigh as _);
        // SAFETY: the feature `dsp` says that the target has the instructions.
        if unsafe { attend_i8(heads, q, kv, scratch, out, loops) }.is_none() {
            scalar::attend(heads, q, kv, scratch, out);
        }
    }
}
