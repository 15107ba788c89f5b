//! The kernels of this processor, and somebody who looks on: what calibration is made of.

use half::f16;
use varmint::Cpu;
use varmint_core::ops::{Heads, Kv, Ops, Packed, Packed4, Scratch, Strip, Taps};

/// Who looks on.
pub(crate) trait Witness {
    /// Queries `[rows, width]` have attended to keys.
    fn attended(&self, _heads: Heads, _q: &[f32], _kv: [(Kv<'_>, usize); 2]) {}

    /// Rows have been multiplied with the weights that begin at this address.
    fn multiplied(&self, _weights: usize, _inputs: Inputs<'_>) {}
}

/// The inputs of a product.
pub(crate) enum Inputs<'a> {
    Float(Taps<'a, f32>),
    Eight(Taps<'a, i8>, &'a [f32]),
    Twelve(Taps<'a, i16>, &'a [f32]),
}

impl Inputs<'_> {
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Float(x) => x.rows,
            Self::Eight(x, _) => x.rows,
            Self::Twelve(x, _) => x.rows,
        }
    }

    /// Row `m`, as floats, behind what `to` has.
    pub(crate) fn row(&self, m: usize, to: &mut Vec<f32>) {
        let scale = |all: &[f32]| all.get(m).or(all.first()).copied().unwrap_or(1.0);
        match self {
            Self::Float(x) => (0..x.segs).for_each(|s| to.extend(x.run(m, s))),
            Self::Eight(x, scales) => {
                let all = (0..x.segs).flat_map(|s| x.run(m, s));
                to.extend(all.map(|&v| f32::from(v) * scale(scales)));
            }
            Self::Twelve(x, scales) => {
                let all = (0..x.segs).flat_map(|s| x.run(m, s));
                to.extend(all.map(|&v| f32::from(v) * scale(scales)));
            }
        }
    }
}

/// Everything is the processor's.
#[derive(Debug)]
pub(crate) struct Watched<'w, W> {
    cpu: Cpu,
    witness: &'w W,
}

impl<'w, W: Witness> Watched<'w, W> {
    pub(crate) fn new(witness: &'w W) -> Self {
        Self { cpu: Cpu::detect(), witness }
    }
}

macro_rules! forward {
    ($(fn $name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        $(fn $name(&self, $($arg: $type),*) $(-> $out)? { self.cpu.$name($($arg),*) })*
    };
}

impl<W: Witness> Ops for Watched<'_, W> {
    fn attend(
        &self,
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32],
    ) {
        self.cpu.attend(heads, q, kv, scratch, out);
        self.witness.attended(heads, q, kv);
    }

    fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        self.cpu.gemm_i8(x, row_scale, w, out);
        self.witness.multiplied(w.w.as_ptr() as usize, Inputs::Eight(x, row_scale));
    }

    fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        self.cpu.gemm_i12(x, row_scale, w, out);
        self.witness.multiplied(w.w.as_ptr() as usize, Inputs::Twelve(x, row_scale));
    }

    fn gemm_i4(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed4<'_>, out: &mut [f32]) {
        self.cpu.gemm_i4(x, row_scale, w, out);
        self.witness.multiplied(w.w.as_ptr() as usize, Inputs::Eight(x, row_scale));
    }

    fn gemm_f32(&self, x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]) {
        self.cpu.gemm_f32(x, w, bias, out);
        self.witness.multiplied(w.as_ptr() as usize, Inputs::Float(x));
    }

    fn gemm_f16(&self, x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]) {
        self.cpu.gemm_f16(x, w, bias, out);
        self.witness.multiplied(w.as_ptr() as usize, Inputs::Float(x));
    }

    forward! {
        fn name() -> &'static str;
        fn layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]);
        fn quantize_i8(x: &[f32], out: &mut [i8]) -> f32;
        fn quantize_i12(x: &[f32], out: &mut [i16]) -> f32;
        fn conv_i8(x: Strip<'_, i8>, scale: f32, w: Packed<'_>, scratch: &mut [i32], out: &mut [f32]);
        fn conv_i12(x: Strip<'_, i16>, scale: f32, w: Packed<'_>, scratch: &mut [i32], out: &mut [f32]);
        fn gelu(x: &mut [f32]);
        fn add_gated(x: &mut [f32], gain: &[f32], y: &[f32]);
        fn norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool);
        fn map_stats(x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]);
        fn map_squares(x: &[f32], mean: &[f32], sum: &mut [f32]);
        fn normalize_heads(x: &mut [f32], dim: usize, factors: &[f32]);
        fn quantize_heads(x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]);
        fn widen_f16(x: &[f16], out: &mut [f32]);
        fn narrow_f16(x: &mut [f32], out: &mut [f16]);
        fn requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]);
        fn requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]);
    }
}
