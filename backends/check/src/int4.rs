//! Products of 4-bit weights.

use alloc::vec;
use alloc::vec::Vec;

use varmint_core::ops::{Packed4, Taps};
use varmint_core::{Ops, Scalar};

use crate::random::{Random, Values};
use crate::{Mismatch, SENTINEL, bits, same};

/// One product of 4-bit weights, as `product`.
fn product4(
    ops: &dyn Ops,
    (m, k, n): (usize, usize, usize),
    values: Values,
    negative: bool,
    shift: usize,
    r: &mut Random,
) -> Result<(), Mismatch> {
    let (groups, gap) = (n.div_ceil(8), if m % 2 == 0 { 0 } else { 12 });
    let to_i8 = |v: Vec<i32>| v.into_iter().map(|v| v as i8).collect::<Vec<_>>();
    let x = to_i8(values.make(127, negative, shift + m * (k + gap), r));
    let group = to_i8(values.make(127, !negative, shift + groups * k / 4, r));
    // Every pair of nibbles; or the ends, -8 and 7.
    let byte = |r: &mut Random| match values {
        Values::Random => r.next() as u8,
        Values::Extreme => 0,
        Values::Corners => [0x00, 0x0F, 0xF0, 0xFF][r.next() as usize % 4],
    };
    let w: Vec<u8> = (0..shift + groups * 4 * k).map(|_| byte(r)).collect();
    let scale: Vec<f32> = (0..8 * groups + shift).map(|_| r.float() * 0.01).collect();
    let bias: Vec<f32> = (0..n + shift).map(|_| r.float()).collect();
    let rows: Vec<f32> = (0..if shift == 0 { 1 } else { m }).map(|_| r.float()).collect();
    let x = &x[shift..shift + (m - 1) * (k + gap) + k];
    let taps = Taps { data: x, rows: m, stride: k + gap, segs: 1, seg_len: k, seg_stride: 0 };
    let (w, group) = (&w[shift..], &group[shift..]);
    let w = Packed4 { w, group, scale: &scale[shift..], bias: &bias[shift..] };
    // The reference writes nothing around its output, so equal means untouched.
    let result = |ops: &dyn Ops| {
        let mut out = vec![SENTINEL; 16 + m * n + 16];
        ops.gemm_i4(taps, &rows, w, &mut out[16..16 + m * n]);
        bits(&out)
    };
    let (want, got) = (result(&Scalar), result(ops));
    same(
        ops,
        &want,
        &got,
        format_args!("{m}, {k}, {n}, {values:?}, negative {negative}, shift {shift}"),
    )
}

/// Products of 4-bit weights over the grid of shapes, values and alignments.
///
/// # Errors
/// The first output that is not the reference's.
pub fn products_of_4_bit_weights_equal_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(1 << 40);
    let mut cases = 0;
    let mut shapes = vec![
        (131, 96, 40),
        (33, 1056, 25),
        (49, 1056, 25),
        (50, 2080, 9),
        (51, 64, 16),
        (9, 2048, 64),
        (25, 8256, 9),
        (2, 16_640, 17),
    ];
    for m in 1..=17 {
        for n in [1, 7, 8, 9, 15, 16, 17, 31, 33] {
            shapes.push((m, [32, 64, 96][(m + n) % 3], n));
        }
        shapes.push((m, 1024, 24));
    }
    shapes.extend((18..=31).map(|m| (m, 32, 23)));
    for shape in shapes {
        for (values, negative) in [
            (Values::Random, false),
            (Values::Corners, false),
            (Values::Extreme, false),
            (Values::Extreme, true),
        ] {
            for shift in [0, 1, 3] {
                product4(ops, shape, values, negative, shift, &mut r)?;
                cases += 1;
            }
        }
    }
    Ok(cases)
}

/// Outputs, inputs and weights that end too early, and runs with gaps.
///
/// # Errors
/// The first output that is not the reference's.
pub fn short_slices_of_4_bit_weights_shorten_the_work(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let (w, group, x) = ([0x5Au8; 16 * 32], [3i8; 32], [1i8; 4 * 64]);
    let (scale, bias) = ([1.0; 16], [0.5; 16]);
    let mut cases = 0;
    let mut both = |x: &[i8], k: usize, w: Packed4<'_>, len: usize| {
        cases += 1;
        let (mut want, mut got) = ([SENTINEL; 64], [SENTINEL; 64]);
        Scalar.gemm_i4(Taps::matrix(x, 4, k), &[1.0], w, &mut want[..len]);
        ops.gemm_i4(Taps::matrix(x, 4, k), &[1.0], w, &mut got[..len]);
        same(ops, &bits(&want), &bits(&got), format_args!("short 4 bits, {len} outputs"))
    };
    let whole = Packed4 { w: &w, group: &group, scale: &scale, bias: &bias };
    for len in [0, 15, 16, 33, 63, 64] {
        both(&x, 64, whole, len)?;
    }
    both(&x[..255], 64, whole, 64)?;
    both(&x, 64, Packed4 { w: &w[..511], ..whole }, 64)?;
    both(&x, 64, Packed4 { group: &group[..31], ..whole }, 64)?;
    both(&x, 64, Packed4 { scale: &scale[..15], ..whole }, 64)?;
    both(&x, 64, Packed4 { bias: &bias[..9], ..whole }, 64)?;
    both(&x, 64, Packed4 { bias: &[], ..whole }, 64)?;
    both(&x, 48, whole, 64)?; // not a multiple of 32
    both(&x, 0, whole, 64)?;
    // Runs with gaps between them, which the kernels leave to the reference.
    let taps = Taps { data: &x, rows: 4, stride: 16, segs: 2, seg_len: 32, seg_stride: 64 };
    let (mut want, mut got) = ([SENTINEL; 64], [SENTINEL; 64]);
    Scalar.gemm_i4(taps, &[1.0], whole, &mut want);
    ops.gemm_i4(taps, &[1.0], whole, &mut got);
    same(ops, &bits(&want), &bits(&got), format_args!("4 bits, runs with gaps"))?;
    Ok(cases + 1)
}
