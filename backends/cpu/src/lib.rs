//! varmint-cpu: the kernels of `varmint_core::Ops` for the CPU at hand.
//!
//! Integer products, int8 attention and half floats are written by hand (`arch/`, one module per
//! architecture, one type per instruction set); everything else is the scalar reference, compiled for
//! the instruction set: same operations, same order, same bits.
//!
//! How a [`Cpu`] comes to be says who vouches for the instructions:
//! [`Cpu::detect`] asks the processor (feature `std`), [`Cpu::build`] takes what the compiler was
//! told, [`Cpu::assume`] believes the caller.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

mod arch;
mod isa;

use core::fmt;

use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Strip, Taps};

pub use isa::Isa;

/// The CPU backend. Holding one proves that its instructions can run.
#[derive(Clone, Copy)]
pub struct Cpu {
    isa: Isa,
    kernels: &'static (dyn Ops + Sync),
}

impl Cpu {
    /// The best instruction set that this processor has.
    #[cfg(feature = "std")]
    pub fn detect() -> Self {
        let isa = Isa::ALL.into_iter().rev().find(|i| i.is_detected()).unwrap_or(Isa::Baseline);
        Self { isa, kernels: arch::kernels(isa) }
    }

    /// `isa`, if this processor has it.
    #[cfg(feature = "std")]
    pub fn with(isa: Isa) -> Option<Self> {
        isa.is_detected().then_some(Self { isa, kernels: arch::kernels(isa) })
    }

    /// The best of what the compiler was told that the target has.
    pub const fn build() -> Self {
        let mut i = Isa::ALL.len() - 1;
        while i > 0 && !Isa::ALL[i].is_built_in() {
            i -= 1;
        }
        Self { isa: Isa::ALL[i], kernels: arch::kernels(Isa::ALL[i]) }
    }

    /// Whatever the caller says.
    ///
    /// # Safety
    /// The processor that runs this has every instruction of `isa`.
    pub const unsafe fn assume(isa: Isa) -> Self {
        Self { isa, kernels: arch::kernels(isa) }
    }

    /// The instruction set in use.
    pub const fn isa(self) -> Isa {
        self.isa
    }
}

impl fmt::Debug for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Cpu").field(&self.isa).finish()
    }
}

/// Hands every operation to the kernels in use.
macro_rules! forward {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        impl Ops for Cpu {$(
            fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                self.kernels.$name($($arg),*)
            }
        )*}
    };
}

forward! {
    name() -> &'static str;
    layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]);
    quantize_i8(x: &[f32], out: &mut [i8]) -> f32;
    quantize_i12(x: &[f32], out: &mut [i16]) -> f32;
    gemm_i8(x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]);
    gemm_i12(x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]);
    conv_i8(x: Strip<'_, i8>, scale: f32, w: Packed<'_>, scratch: &mut [i32], out: &mut [f32]);
    conv_i12(x: Strip<'_, i16>, scale: f32, w: Packed<'_>, scratch: &mut [i32], out: &mut [f32]);
    gemm_f32(x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]);
    gemm_f16(x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]);
    gelu(x: &mut [f32]);
    add_gated(x: &mut [f32], gain: &[f32], y: &[f32]);
    attend(heads: Heads, q: &[f32], kv: [(Kv<'_>, usize); 2], scratch: &mut Scratch<'_>, out: &mut [f32]);
    norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool);
    map_stats(x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]);
    map_squares(x: &[f32], mean: &[f32], sum: &mut [f32]);
    normalize_heads(x: &mut [f32], dim: usize, factors: &[f32]);
    quantize_heads(x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]);
    widen_f16(x: &[f16], out: &mut [f32]);
    narrow_f16(x: &mut [f32], out: &mut [f16]);
    requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]);
    requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]);
}
