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
