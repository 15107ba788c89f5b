//! WebAssembly with 128-bit SIMD. A module is compiled for it as a whole (`-C target-feature=+simd128`), so
//! what is not written here is the reference as the compiler made it.

mod attention;
mod products;

use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::scalar;

use super::attention::attend_i8;

/// 128-bit SIMD.
pub(super) struct Simd128;

impl Ops for Simd128 {
    fn name(&self) -> &'static str {
        "cpu (wasm simd128)"
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
        // SAFETY: the module was compiled for the instruction set; it would not load without it.
        if unsafe { attend_i8(heads, q, kv, scratch, out, loops) }.is_none() {
            scalar::attend(heads, q, kv, scratch, out);
        }
    }
}
