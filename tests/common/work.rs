//! Work, counted where it is done.
#![allow(dead_code, reason = "every test uses a part")]

use std::cell::Cell;

use half::f16;
use varmint::ops::{Heads, Kv, Packed, Packed4, Scratch, Taps};
use varmint::{Ops, Scalar};

/// The reference, with a count of its multiply-accumulates. Packed inputs are padded, and what of them is padding
/// cannot be seen here: the count is the least that the shapes leave possible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Counting<'c>(pub(crate) &'c Cell<u64>);

impl Counting<'_> {
    fn add(&self, rows: usize, inputs: usize, outputs: usize) {
        self.0.set(self.0.get() + rows as u64 * inputs as u64 * outputs as u64);
    }

    /// A product whose inputs come in units of `unit`, tap by tap.
    fn packed<T>(&self, x: Taps<'_, T>, unit: usize, outputs: usize) {
        let taps = x.segs * x.segs; // 1, or 9 as three runs of three
        let least = (x.k() / taps).saturating_sub(unit - 1);
        self.add(x.rows, taps * least, outputs);
    }
}

impl Ops for Counting<'_> {
    fn name(&self) -> &'static str {
        "counting"
    }

    fn gemm_i8(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        self.packed(x, 4, w.bias.len());
        Scalar.gemm_i8(x, row_scale, w, out);
    }

    fn gemm_i12(&self, x: Taps<'_, i16>, row_scale: &[f32], w: Packed<'_>, out: &mut [f32]) {
        self.packed(x, 4, w.bias.len());
        Scalar.gemm_i12(x, row_scale, w, out);
    }

    fn gemm_i4(&self, x: Taps<'_, i8>, row_scale: &[f32], w: Packed4<'_>, out: &mut [f32]) {
        self.packed(x, 32, w.bias.len());
        Scalar.gemm_i4(x, row_scale, w, out);
    }

    fn gemm_f32(&self, x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]) {
        self.add(x.rows, x.k(), bias.len());
        Scalar.gemm_f32(x, w, bias, out);
    }

    fn gemm_f16(&self, x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]) {
        self.add(x.rows, x.k(), bias.len());
        Scalar.gemm_f16(x, w, bias, out);
    }

    fn attend(
        &self,
        heads: Heads,
        q: &[f32],
        kv: [(Kv<'_>, usize); 2],
        scratch: &mut Scratch<'_>,
        out: &mut [f32],
    ) {
        self.add(q.len(), kv.iter().map(|(_, n)| n).sum(), 2);
        Scalar.attend(heads, q, kv, scratch, out);
    }
}
