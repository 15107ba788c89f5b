//! Integer products.

use alloc::vec;
use alloc::vec::Vec;

use varmint_core::ops::{Packed, Taps};
use varmint_core::{Ops, Scalar};

use crate::random::{Random, Values};
use crate::{Mismatch, SENTINEL, bits, same};

/// A product: rows, inputs of a segment, segments, outputs. Lanes are 4, 8 and 16; tiles 2, 4, 6 and 8.
pub(crate) const SHAPES: [(usize, usize, usize, usize); 20] = [
    (1, 4, 1, 1),
    (1, 8, 1, 7),
    (2, 12, 1, 8),
    (3, 16, 1, 9),
    (4, 64, 1, 15),
    (5, 60, 1, 16),
    (6, 68, 1, 17),
    (7, 100, 1, 23),
    (8, 192, 1, 24),
    (9, 192, 1, 25),
    (11, 28, 1, 31),
    (13, 44, 1, 32),
    (16, 256, 1, 33),
    (17, 64, 1, 41),
    (131, 32, 1, 40), // more rows than a block
    (16, 192, 1, 576),
    (3, 2048, 1, 64),
    (8, 96, 3, 32), // convolutions
    (13, 12, 3, 3),
    (64, 192, 3, 64),
];

/// The operation under test.
type Run<T> = fn(&dyn Ops, Taps<'_, T>, &[f32], Packed<'_>, &mut [f32]);

/// Runs one product on `ops` and on the reference, the slices `shift` items into their allocations.
fn product<T: Copy>(
    ops: &dyn Ops,
    (m, seg_len, segs, n): (usize, usize, usize, usize),
    limit: i32,
    values: Values,
    shift: usize,
    cast: fn(i32) -> T,
    run: Run<T>,
    r: &mut Random,
) -> Result<(), Mismatch> {
    let groups = n.div_ceil(8);
    // Rows overlap where there are segments, as in a convolution.
    let (stride, seg_stride) = if segs == 1 { (seg_len, 0) } else { (seg_len / segs, 3 * seg_len) };
    let len = (m - 1) * stride + (segs - 1) * seg_stride + seg_len;
    let x: Vec<T> = values.make(limit, true, shift + len, r).into_iter().map(cast).collect();
    let w: Vec<i8> = values
        .make(127, false, shift + groups * 8 * segs * seg_len, r)
        .into_iter()
        .map(|v| v as i8)
        .collect();
    let scale: Vec<f32> = (0..8 * groups + shift).map(|_| r.float() * 0.01).collect();
    let bias: Vec<f32> = (0..n + shift).map(|_| r.float()).collect();
    let rows: Vec<f32> = (0..if shift == 0 { 1 } else { m }).map(|_| r.float()).collect();
    let taps = Taps { data: &x[shift..], rows: m, stride, segs, seg_len, seg_stride };
    let w = Packed { w: &w[shift..], scale: &scale[shift..], bias: &bias[shift..] };
    // The reference writes nothing around its output, so equal means untouched.
    let result = |ops: &dyn Ops| {
        let mut out = vec![SENTINEL; 16 + m * n + 16];
        run(ops, taps, &rows, w, &mut out[16..16 + m * n]);
        bits(&out)
    };
    same(
        ops,
        &result(&Scalar),
        &result(ops),
        format_args!(
            "limit {limit}, m {m}, k {segs} x {seg_len}, n {n}, {values:?}, shift {shift} (16 before)"
        ),
    )
}

/// 8-bit and 12-bit products over the grid of shapes, values and alignments.
///
/// # Errors
/// The first output that is not the reference's.
pub fn integer_products_equal_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(0);
    let mut cases = 0;
    for shape in SHAPES {
        for values in [Values::Random, Values::Extreme, Values::Corners] {
            for shift in [0, 1, 3] {
                product(
                    ops,
                    shape,
                    127,
                    values,
                    shift,
                    |v| v as i8,
                    |o, x, s, w, out| o.gemm_i8(x, s, w, out),
                    &mut r,
                )?;
                product(
                    ops,
                    shape,
                    2047,
                    values,
                    shift,
                    |v| v as i16,
                    |o, x, s, w, out| o.gemm_i12(x, s, w, out),
                    &mut r,
                )?;
                cases += 2;
            }
        }
    }
    Ok(cases)
}

/// Outputs that end before the last row.
///
/// # Errors
/// The first output that is not the reference's.
pub fn short_slices_shorten_the_work_as_in_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let w = [1i8; 8 * 16];
    let x = [1i8; 40]; // two and a half rows of 16
    let wide = x.map(i16::from);
    let w = Packed { w: &w, scale: &[1.0; 8], bias: &[0.0; 8] };
    let lengths = [0, 7, 8, 24, 31];
    for len in lengths {
        let (mut want, mut got) = ([SENTINEL; 31], [SENTINEL; 31]);
        Scalar.gemm_i8(Taps::matrix(&x, 4, 16), &[1.0], w, &mut want[..len]);
        ops.gemm_i8(Taps::matrix(&x, 4, 16), &[1.0], w, &mut got[..len]);
        same(ops, &bits(&want), &bits(&got), format_args!("8 bits, {len} outputs"))?;
        let (mut want, mut got) = ([SENTINEL; 31], [SENTINEL; 31]);
        Scalar.gemm_i12(Taps::matrix(&wide, 4, 16), &[1.0], w, &mut want[..len]);
        ops.gemm_i12(Taps::matrix(&wide, 4, 16), &[1.0], w, &mut got[..len]);
        same(ops, &bits(&want), &bits(&got), format_args!("12 bits, {len} outputs"))?;
    }
    Ok(2 * lengths.len())
}
