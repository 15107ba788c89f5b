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
#[cfg(feature = "threads")]
mod threads;

use core::fmt;

use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Packed4, Scratch, Strip, Taps};

pub use isa::Isa;

/// The CPU backend. Holding one proves that its instructions can run.
#[derive(Clone, Copy)]
pub struct Cpu {
    isa: Isa,
    kernels: &'static (dyn Ops + Sync),
    #[cfg(feature = "threads")]
    parallel: bool,
}

impl Cpu {
    const fn of(isa: Isa) -> Self {
        Self {
            isa,
            kernels: arch::kernels(isa),
            #[cfg(feature = "threads")]
            parallel: false,
        }
    }

    /// The best instruction set that this processor has.
    #[cfg(feature = "std")]
    pub fn detect() -> Self {
        let isa = Isa::ALL.into_iter().rev().find(|i| i.is_detected()).unwrap_or(Isa::Baseline);
        Self::of(isa)
    }

    /// `isa`, if this processor has it.
    #[cfg(feature = "std")]
    pub fn with(isa: Isa) -> Option<Self> {
        isa.is_detected().then_some(Self::of(isa))
    }

    /// The best of what the compiler was told that the target has.
    pub const fn build() -> Self {
        let mut i = Isa::ALL.len() - 1;
        while i > 0 && !Isa::ALL[i].is_built_in() {
            i -= 1;
        }
        Self::of(Isa::ALL[i])
    }

    /// Whatever the caller says.
    ///
    /// # Safety
    /// The processor that runs this has every instruction of `isa`.
    pub const unsafe fn assume(isa: Isa) -> Self {
        Self::of(isa)
    }

    /// With large products and convolutions split over the threads of the current rayon pool
    /// (`ThreadPool::install` sets it). The bits are the same for every number of threads. More tokens per
    /// tile and rows per strip of a tier give more to split.
    #[cfg(feature = "threads")]
    #[must_use]
    pub const fn parallel(self) -> Self {
        Self { parallel: true, ..self }
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

/// Hands operations to the kernels in use.
macro_rules! forward {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {$(
        fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
            self.kernels.$name($($arg),*)
        }
    )*};
}

/// The same for products, in pieces where that is asked for.
macro_rules! products {
    ($($name:ident($x:ty, $w:ty);)*) => {$(
        fn $name(&self, x: Taps<'_, $x>, row_scale: &[f32], w: $w, out: &mut [f32]) {
            #[cfg(feature = "threads")]
            if self.parallel {
                return threads::product(x, row_scale, w.bias.len(), out, |x, row_scale, out| {
                    self.kernels.$name(x, row_scale, w, out);
                });
            }
            self.kernels.$name(x, row_scale, w, out);
        }
    )*};
}

/// The same for float products.
macro_rules! floats {
    ($($name:ident($w:ty);)*) => {$(
        fn $name(&self, x: Taps<'_, f32>, w: &[$w], bias: &[f32], out: &mut [f32]) {
            #[cfg(feature = "threads")]
            if self.parallel {
                return threads::product(x, &[], bias.len(), out, |x, _, out| {
                    self.kernels.$name(x, w, bias, out);
                });
            }
            self.kernels.$name(x, w, bias, out);
        }
    )*};
}

/// The same for convolutions.
macro_rules! convolutions {
    ($($name:ident($x:ty);)*) => {$(
        fn $name(
            &self,
            x: Strip<'_, $x>,
            scale: f32,
            w: Packed<'_>,
            scratch: &mut [i32],
            out: &mut [f32],
        ) {
            #[cfg(feature = "threads")]
            if self.parallel {
                return threads::convolution(x, w.bias.len(), scratch, out, |x, scratch, out| {
                    self.kernels.$name(x, scale, w, scratch, out);
                });
            }
            self.kernels.$name(x, scale, w, scratch, out);
        }
    )*};
}

impl Ops for Cpu {
    products! {
        gemm_i8(i8, Packed<'_>);
        gemm_i12(i16, Packed<'_>);
        gemm_i4(i8, Packed4<'_>);
    }

    floats! {
        gemm_f32(f32);
        gemm_f16(f16);
    }

    convolutions! {
        conv_i8(i8);
        conv_i12(i16);
    }

    fn gelu(&self, x: &mut [f32]) {
        #[cfg(feature = "threads")]
        if self.parallel {
            return threads::elementwise(x, |x| self.kernels.gelu(x));
        }
        self.kernels.gelu(x);
    }

    fn attend(
        &self,
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32],
    ) {
        #[cfg(feature = "threads")]
        if self.parallel {
            return threads::attention(heads, q, kv, scratch, out, |q, scratch, out| {
                self.kernels.attend(heads, q, kv, scratch, out);
            });
        }
        self.kernels.attend(heads, q, kv, scratch, out);
    }

    forward! {
        name() -> &'static str;
        layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]);
        quantize_i8(x: &[f32], out: &mut [i8]) -> f32;
        quantize_i12(x: &[f32], out: &mut [i16]) -> f32;
        add_gated(x: &mut [f32], gain: &[f32], y: &[f32]);
        norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool);
        widen_f16(x: &[f16], out: &mut [f32]);
        narrow_f16(x: &mut [f32], out: &mut [f16]);
        requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]);
        requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]);
        map_stats(x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]);
        map_squares(x: &[f32], mean: &[f32], sum: &mut [f32]);
        normalize_heads(x: &mut [f32], dim: usize, factors: &[f32]);
        quantize_heads(x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]);
    }
}
