//! varmint-cpu: the kernels of `varmint_core::Ops` for the CPU at hand.
//!
//! Integer products, int8 attention and half floats are written by hand for AVX2 and AVX-512 VNNI
//! (`arch/`); everything else is the scalar reference, compiled for the instruction set: same
//! operations, same order, same bits.
//!
//! How a [`Cpu`] comes to be says who vouches for the instructions:
//! [`Cpu::detect`] asks the processor (feature `std`), [`Cpu::build`] takes what the compiler was
//! told, [`Cpu::assume`] believes the caller.
#![no_std]

#[cfg(feature = "std")]
extern crate std;

mod arch;

use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::scalar;

/// An instruction set that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Isa {
    /// What the target has as its baseline (on aarch64 that includes NEON).
    Baseline,
    /// AVX2 with F16C.
    Avx2,
    /// The former with AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The former with VNNI.
    Vnni,
}

impl Isa {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Vnni => "vnni",
        }
    }

    /// Every instruction set, plainest first.
    pub const ALL: [Self; 4] = [Self::Baseline, Self::Avx2, Self::Avx512, Self::Vnni];

    #[cfg(feature = "std")]
    fn is_detected(self) -> bool {
        match self {
            Self::Baseline => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                std::arch::is_x86_feature_detected!("avx2")
                    && std::arch::is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Vnni => {
                Self::Avx512.is_detected() && std::arch::is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_detected()
                    && std::arch::is_x86_feature_detected!("avx512f")
                    && std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("avx512vl")
            }
            #[cfg(not(target_arch = "x86_64"))]
            _ => false,
        }
    }

    const fn is_built_in(self) -> bool {
        match self {
            Self::Baseline => true,
            Self::Avx2 => {
                cfg!(all(target_arch = "x86_64", target_feature = "avx2", target_feature = "f16c"))
            }
            Self::Vnni => Self::Avx512.is_built_in() && cfg!(target_feature = "avx512vnni"),
            Self::Avx512 => cfg!(all(
                target_arch = "x86_64",
                target_feature = "avx2",
                target_feature = "f16c",
                target_feature = "avx512f",
                target_feature = "avx512bw",
                target_feature = "avx512dq",
                target_feature = "avx512vl"
            )),
        }
    }
}

/// The CPU backend. Holding one proves that its instructions can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    isa: Isa,
}

impl Cpu {
    /// The best instruction set that this processor has.
    #[cfg(feature = "std")]
    pub fn detect() -> Self {
        let isa = Isa::ALL.into_iter().rev().find(|i| i.is_detected()).unwrap_or(Isa::Baseline);
        Self { isa }
    }

    /// `isa`, if this processor has it.
    #[cfg(feature = "std")]
    pub fn with(isa: Isa) -> Option<Self> {
        isa.is_detected().then_some(Self { isa })
    }

    /// What the compiler was told that the target has.
    pub const fn build() -> Self {
        if Isa::Vnni.is_built_in() {
            Self { isa: Isa::Vnni }
        } else if Isa::Avx512.is_built_in() {
            Self { isa: Isa::Avx512 }
        } else if Isa::Avx2.is_built_in() {
            Self { isa: Isa::Avx2 }
        } else {
            Self { isa: Isa::Baseline }
        }
    }

    /// Whatever the caller says.
    ///
    /// # Safety
    /// The processor that runs this has every instruction of `isa`.
    pub const unsafe fn assume(isa: Isa) -> Self {
        Self { isa }
    }

    /// The instruction set in use.
    pub const fn isa(self) -> Isa {
        self.isa
    }
}

/// Calls the reference as compiled for the instruction set that `self` holds.
macro_rules! dispatch {
    ($self:ident, $name:ident ( $($arg:expr),* )) => {
        match $self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Cpu` of this instruction set exists only where `detect`, `with` or `build`
            // found it, or where the caller of `assume` promised it.
            Isa::Avx2 => unsafe { arch::avx2::$name($($arg),*) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Vnni => unsafe { arch::avx512::$name($($arg),*) },
            _ => scalar::$name($($arg),*),
        }
    };
}

/// Calls a hand-written product; the reference where the slices are shorter than the shapes say, and on
/// every other instruction set.
macro_rules! product {
    ($self:ident, $name:ident ( $x:expr, $scale:expr, $w:expr, $out:expr )) => {{
        #[cfg(target_arch = "x86_64")]
        let done = match $self.isa {
            // SAFETY: as in `dispatch`.
            Isa::Avx2 | Isa::Avx512 => unsafe { arch::x86_64::avx2::$name($x, $scale, $w, $out) },
            // SAFETY: as in `dispatch`.
            Isa::Vnni => unsafe { arch::x86_64::vnni::$name($x, $scale, $w, $out) },
            Isa::Baseline => None,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let done: Option<()> = None;
        if done.is_none() {
            scalar::gemm_int($x, $scale, $w, $out);
        }
    }};
}

impl Ops for Cpu {
    fn name(&self) -> &'static str {
        match self.isa {
            Isa::Baseline => "cpu (baseline)",
            Isa::Avx2 => "cpu (avx2)",
            Isa::Avx512 => "cpu (avx512)",
            Isa::Vnni => "cpu (avx512 vnni)",
        }
    }

    fn layer_norm(&self, x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]) {
        dispatch!(self, layer_norm(x, gain, shift, out))
    }

    fn quantize_i8(&self, x: &[f32], out: &mut [i8]) -> f32 {
        dispatch!(self, quantize_i8(x, out))
    }

    fn quantize_i12(&self, x: &[f32], out: &mut [i16]) -> f32 {
        dispatch!(self, quantize_i12(x, out))
    }

    fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        product!(self, gemm_i8(x, row_scale, w, out))
    }

    fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        product!(self, gemm_i12(x, row_scale, w, out))
    }

    fn gemm_f32(&self, x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]) {
        dispatch!(self, gemm_f32(x, w, bias, out))
    }

    fn gemm_f16(&self, x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]) {
        dispatch!(self, gemm_f16(x, w, bias, out))
    }

    fn gelu(&self, x: &mut [f32]) {
        dispatch!(self, gelu(x))
    }

    fn add_gated(&self, x: &mut [f32], gain: &[f32], y: &[f32]) {
        dispatch!(self, add_gated(x, gain, y))
    }

    fn attend(
        &self,
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32],
    ) {
        #[cfg(target_arch = "x86_64")]
        if self.isa != Isa::Baseline {
            // SAFETY: as in `dispatch`; every instruction set but the baseline includes AVX2.
            let done = unsafe { arch::x86_64::attention::attend_i8(heads, q, kv, scratch, out) };
            if done.is_some() {
                return;
            }
        }
        dispatch!(self, attend(heads, q, kv, scratch, out))
    }

    fn norm_act(&self, x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool) {
        dispatch!(self, norm_act(x, gain, shift, silu))
    }

    fn widen_f16(&self, x: &[f16], out: &mut [f32]) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `dispatch`; every instruction set but the baseline includes F16C.
            Isa::Avx2 | Isa::Avx512 | Isa::Vnni => unsafe { arch::x86_64::half::widen_f16(x, out) },
            _ => scalar::widen_f16(x, out),
        }
    }

    fn narrow_f16(&self, x: &mut [f32], out: &mut [f16]) {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as in `dispatch`; every instruction set but the baseline includes F16C.
            Isa::Avx2 | Isa::Avx512 | Isa::Vnni => unsafe {
                arch::x86_64::half::narrow_f16(x, out)
            },
            _ => scalar::narrow_f16(x, out),
        }
    }

    fn requantize_i8(&self, x: &[f32], inverse: f32, out: &mut [i8]) {
        dispatch!(self, requantize_i8(x, inverse, out))
    }

    fn requantize_i12(&self, x: &[f32], inverse: f32, out: &mut [i16]) {
        dispatch!(self, requantize_i12(x, inverse, out))
    }
}
