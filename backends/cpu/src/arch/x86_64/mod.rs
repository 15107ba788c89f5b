//! x86-64.

mod attention;
mod attention_float;
mod attention_vnni;
mod avx2;
mod float;
mod half;
mod int4;
mod vnni;
mod winograd;

use ::half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Packed, Packed4, Scratch, Strip, Taps};
use varmint_core::scalar;

use super::compiled_for;

/// AVX2 with F16C.
pub(super) struct Avx2;

/// The former with AVX-512 F, BW, DQ and VL.
pub(super) struct Avx512;

/// The former with VNNI.
pub(super) struct Vnni;

/// The operations that are the reference, compiled.
macro_rules! glue {
    ($features:literal) => {
        compiled_for!($features:
            layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]);
            quantize_i8(x: &[f32], out: &mut [i8]) -> f32;
            quantize_i12(x: &[f32], out: &mut [i16]) -> f32;
            gelu(x: &mut [f32]);
            add_gated(x: &mut [f32], gain: &[f32], y: &[f32]);
            norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool);
            map_stats(x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]);
            map_squares(x: &[f32], mean: &[f32], sum: &mut [f32]);
            normalize_heads(x: &mut [f32], dim: usize, factors: &[f32]);
            quantize_heads(x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]);
            requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]);
            requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]);
        );
    };
}

/// The operations that are written for AVX2 and serve what comes after it.
macro_rules! since_avx2 {
    ($features:literal, $attention:ty) => {
        fn attend(
            &self,
            heads: Heads,
            q: &[f32],
            kv: [(Kv<'_>, usize); 2],
            scratch: &mut Scratch<'_>,
            out: &mut [f32],
        ) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            let done = unsafe {
                match kv {
                    [(Kv::I8 { .. }, _), _] => {
                        attention::attend_i8::<$attention>(heads, q, kv, scratch, out)
                    }
                    _ => attention_float::attend(heads, q, kv, scratch, out),
                }
            };
            if done.is_none() {
                compiled_for!(@call $features:
                    attend(heads: Heads, q: &[f32], kv: [(Kv<'_>, usize); 2], scratch: &mut Scratch<'_>, out: &mut [f32])
                );
            }
        }

        fn widen_f16(&self, x: &[f16], out: &mut [f32]) {
            // SAFETY: as above.
            unsafe { half::widen_f16(x, out) }
        }

        fn narrow_f16(&self, x: &mut [f32], out: &mut [f16]) {
            // SAFETY: as above.
            unsafe { half::narrow_f16(x, out) }
        }
    };
}

/// The integer products of a module; the reference where a slice is shorter than the shapes say.
macro_rules! products {
    ($module:ident) => {
        fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            if unsafe { $module::gemm_i8(x, row_scale, w, out) }.is_none() {
                scalar::gemm_int(x, row_scale, w, out);
            }
        }

        fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
            // SAFETY: as above.
            if unsafe { $module::gemm_i12(x, row_scale, w, out) }.is_none() {
                scalar::gemm_int(x, row_scale, w, out);
            }
        }

        fn gemm_i4(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed4<'_>, out: &mut [f32]) {
            // SAFETY: as above.
            if unsafe { int4::$module(x, row_scale, w, out) }.is_none() {
                scalar::gemm_i4(x, row_scale, w, out);
            }
        }
    };
}

/// The float products; the reference where a slice is shorter than the shapes say.
macro_rules! floats {
    ($gemm:ident) => {
        fn gemm_f32(&self, x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]) {
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            if unsafe { float::$gemm(x, w, bias, out) }.is_none() {
                scalar::gemm_f32(x, w, bias, out);
            }
        }

        fn gemm_f16(&self, x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]) {
            // SAFETY: as above.
            if unsafe { float::$gemm(x, w, bias, out) }.is_none() {
                scalar::gemm_f16(x, w, bias, out);
            }
        }
    };
}

/// The convolutions: Winograd, or row by row as products.
macro_rules! convolutions {
    ($gemm:path, $fewest:path) => {
        fn conv_i8(
            &self,
            x: Strip<'_, i8>,
            scale: f32,
            w: Packed<'_>,
            scratch: &mut [i32],
            out: &mut [f32],
        ) {
            let gemm = ($gemm as winograd::Gemm, $fewest);
            // SAFETY: kernels are reached through a `Cpu`, which vouches for the features.
            if unsafe { winograd::conv::<i8, 6>(x, scale, w, scratch, out, gemm) }.is_none() {
                x.each_row(w.bias.len(), out, |x, out| self.gemm_i8(x, &[scale], w, out));
            }
        }

        fn conv_i12(
            &self,
            x: Strip<'_, i16>,
            scale: f32,
            w: Packed<'_>,
            scratch: &mut [i32],
            out: &mut [f32],
        ) {
            let gemm = ($gemm as winograd::Gemm, winograd::FEWEST);
            // SAFETY: as above.
            if unsafe { winograd::conv::<i16, 4>(x, scale, w, scratch, out, gemm) }.is_none() {
                x.each_row(w.bias.len(), out, |x, out| self.gemm_i12(x, &[scale], w, out));
            }
        }
    };
}

impl Ops for Avx2 {
    fn name(&self) -> &'static str {
        "cpu (avx2)"
    }

    glue!("avx2");
    since_avx2!("avx2", attention::Pairs);
    products!(avx2);
    convolutions!(winograd::gemm_avx2, winograd::FEWEST);
    floats!(gemm_avx2);
}

impl Ops for Avx512 {
    fn name(&self) -> &'static str {
        "cpu (avx512)"
    }

    glue!("avx512f,avx512bw,avx512dq,avx512vl");
    since_avx2!("avx512f,avx512bw,avx512dq,avx512vl", attention::Pairs);
    products!(avx2);
    convolutions!(winograd::gemm_avx2, winograd::FEWEST);
    floats!(gemm_avx512);
}

impl Ops for Vnni {
    fn name(&self) -> &'static str {
        "cpu (avx512 vnni)"
    }

    glue!("avx512f,avx512bw,avx512dq,avx512vl");
    since_avx2!("avx512f,avx512bw,avx512dq,avx512vl", attention_vnni::Fours);
    products!(vnni);
    convolutions!(winograd::gemm_vnni, winograd::FEWEST_VNNI);
    floats!(gemm_avx512);
}
