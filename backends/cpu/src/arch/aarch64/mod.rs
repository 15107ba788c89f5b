//! AArch64. What is not written here is the reference: NEON is this architecture's baseline, so the
//! compiler has used it already.

mod attention;
mod dotprod;
mod neon;

use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::scalar;

/// NEON.
pub(super) struct Neon;

/// The former with `sdot`.
pub(super) struct Dotprod;

/// Kernels, each of a module; the reference where one declines.
macro_rules! kernels {
    ($i8:ident, $i12:ident) => {
        fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            if unsafe { $i8::gemm_i8(x, row_scale, w, out) }.is_none() {
                scalar::gemm_int(x, row_scale, w, out);
            }
        }

        fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: as above.
            if unsafe { $i12::gemm_i12(x, row_scale, w, out) }.is_none() {
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
            let width = heads.width.max(1);
            for (q, out) in q.chunks(width).zip(out.chunks_mut(width)) {
                // SAFETY: as above, for `dots` too.
                let done = unsafe { attention::attend_i8($i8::dots, heads, q, kv, scratch, out) };
                if done.is_none() {
                    scalar::attend(heads, q, kv, scratch, out);
                }
            }
        }
    };
}

impl Ops for Neon {
    fn name(&self) -> &'static str {
        "cpu (neon)"
    }

    kernels!(neon, neon);
}

impl Ops for Dotprod {
    fn name(&self) -> &'static str {
        "cpu (neon dotprod)"
    }

    kernels!(dotprod, neon);
}
