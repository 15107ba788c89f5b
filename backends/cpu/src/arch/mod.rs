//! One module per instruction set: hand-written integer products, and the rest of the reference compiled
//! for it.

#[cfg(target_arch = "x86_64")]
mod product;
#[cfg(target_arch = "x86_64")]
pub(crate) mod x86_64;

#[cfg(target_arch = "x86_64")]
use product::Product;

/// The scalar reference, inlined into functions that are compiled for the given features. `fma` is
/// deliberately not among them: Rust never fuses on its own, and the bits must not depend on it.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    ($features:literal) => {
        use half::f16;
        use varmint_core::ops::{Heads, Kv, Scratch, Taps};
        use varmint_core::scalar;

        compiled_for!(@each $features
            layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]);
            quantize_i8(x: &[f32], out: &mut [i8]) -> f32;
            quantize_i12(x: &[f32], out: &mut [i16]) -> f32;
            gemm_f32(x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]);
            gemm_f16(x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]);
            gelu(x: &mut [f32]);
            add_gated(x: &mut [f32], gain: &[f32], y: &[f32]);
            attend(heads: Heads, q: &[f32], kv: [(Kv<'_>, usize); 2], scratch: &mut Scratch<'_>, out: &mut [f32]);
            norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool);
            requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]);
            requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]);
        );
    };
    (@each $features:literal $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        /// As the function of `scalar`.
        #[target_feature(enable = $features)]
        pub(crate) fn $name($($arg: $ty),*) $(-> $ret)? {
            scalar::$name($($arg),*)
        }
    )*};
}

/// AVX2.
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2 {
    compiled_for!("avx2");
}

/// AVX-512.
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512 {
    compiled_for!("avx512f,avx512bw,avx512dq,avx512vl");
}
