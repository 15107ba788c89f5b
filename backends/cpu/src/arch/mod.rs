//! One module per architecture, one type per instruction set: an implementation of `Ops` that writes by
//! hand what pays, and compiles the reference for the rest.

// Little-endian, because lanes are taken from words; NEON, because of soft-float targets.
#[cfg(all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"))]
mod aarch64;
#[cfg(all(target_arch = "arm", feature = "dsp"))]
mod arm;
#[cfg(any(
    all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"),
    all(target_arch = "arm", feature = "dsp"),
    all(target_arch = "wasm32", target_feature = "simd128"),
))]
mod attention;
#[cfg(any(
    target_arch = "x86_64",
    all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"),
    all(target_arch = "arm", feature = "dsp"),
    all(target_arch = "wasm32", target_feature = "simd128"),
))]
mod product;
#[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
mod wasm32;
#[cfg(target_arch = "x86_64")]
mod x86_64;

use varmint_core::{Ops, Scalar};

use crate::Isa;

/// The kernels of an instruction set; the reference for another architecture's.
///
/// They are handed out to a [`crate::Cpu`] only, which vouches for the instructions.
pub(crate) const fn kernels(isa: Isa) -> &'static (dyn Ops + Sync) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => &x86_64::Avx2,
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => &x86_64::Avx512,
        #[cfg(target_arch = "x86_64")]
        Isa::Vnni => &x86_64::Vnni,
        #[cfg(all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"))]
        Isa::Neon => &aarch64::Neon,
        #[cfg(all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"))]
        Isa::Dotprod => &aarch64::Dotprod,
        #[cfg(all(target_arch = "wasm32", target_feature = "simd128"))]
        Isa::Simd128 => &wasm32::Simd128,
        #[cfg(all(target_arch = "arm", feature = "dsp"))]
        Isa::Dsp => &arm::Dsp,
        _ => &Scalar,
    }
}

/// Methods of `Ops` that are the scalar reference, inlined into functions compiled for the given
/// features. `fma` is deliberately not among them: Rust never fuses on its own, and the bits must not
/// depend on it.
#[cfg(target_arch = "x86_64")]
macro_rules! compiled_for {
    (@call $features:literal: $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?) => {{
        #[target_feature(enable = $features)]
        fn compiled($($arg: $ty),*) $(-> $ret)? {
            varmint_core::scalar::$name($($arg),*)
        }
        // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
        unsafe { compiled($($arg),*) }
    }};
    ($features:literal: $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
            compiled_for!(@call $features: $name($($arg: $ty),*) $(-> $ret)?)
        }
    )*};
}
#[cfg(target_arch = "x86_64")]
use compiled_for;

/// Methods of `Ops` that every instruction set outside of x86-64 writes by hand: two products, and the two
/// loops of attention. Where one declines, a call of the reference: it is not compiled in a second time.
#[cfg(any(
    all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"),
    all(target_arch = "arm", feature = "dsp"),
    all(target_arch = "wasm32", target_feature = "simd128"),
))]
macro_rules! by_hand {
    ($name:literal, $gemm_i8:path, $gemm_i12:path, ($dots:path, $weigh:path)) => {
        fn name(&self) -> &'static str {
            $name
        }

        #[allow(
            unused_unsafe,
            reason = "where the whole program has the features, products are safe"
        )]
        fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            if unsafe { $gemm_i8(x, row_scale, w, out) }.is_none() {
                Scalar.gemm_i8(x, row_scale, w, out);
            }
        }

        #[allow(unused_unsafe, reason = "as above")]
        fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: as above.
            if unsafe { $gemm_i12(x, row_scale, w, out) }.is_none() {
                Scalar.gemm_i12(x, row_scale, w, out);
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
            use $crate::arch::attention::attend_i8;
            let loops = ($dots as _, $weigh as _);
            // SAFETY: as above.
            if unsafe { attend_i8(heads, q, kv, scratch, out, loops) }.is_none() {
                Scalar.attend(heads, q, kv, scratch, out);
            }
        }
    };
}
#[cfg(any(
    all(target_arch = "aarch64", target_endian = "little", target_feature = "neon"),
    all(target_arch = "arm", feature = "dsp"),
    all(target_arch = "wasm32", target_feature = "simd128"),
))]
use by_hand;
