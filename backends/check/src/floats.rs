//! Float products.

use alloc::vec;
use alloc::vec::Vec;

use half::f16;
use varmint_core::ops::Taps;
use varmint_core::{Ops, Scalar};

use crate::products::SHAPES;
use crate::random::Random;
use crate::{Mismatch, SENTINEL, bits, same};

/// Rows and channels around the tiles of the copying kernels; inputs around an eight, two of them, and the pieces
/// in which weights are copied (352); segments of several pieces.
const PIECES: [(usize, usize, usize, usize); 9] = [
    (8, 5, 1, 11),
    (9, 8, 1, 12),
    (10, 13, 1, 13),
    (8, 24, 1, 24),
    (9, 349, 1, 25),
    (10, 360, 1, 12),
    (13, 704, 1, 36),
    (129, 368, 2, 13),
    (130, 1056, 1, 5),
];

/// f32 and f16 products over the shapes, odd lengths too.
///
/// # Errors
/// The first output that is not the reference's.
pub fn float_products_equal_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(9 << 20);
    let mut cases = 0;
    for (m, seg_len, segs, n) in SHAPES.into_iter().chain(PIECES) {
        // Odd lengths too: floats are not padded.
        for (seg_len, shift) in [(seg_len, 0), (seg_len + 3, 1)] {
            let stride = if segs == 1 { seg_len } else { seg_len / segs };
            let seg_stride = if segs == 1 { 0 } else { 3 * seg_len };
            let len = (m - 1) * stride + (segs - 1) * seg_stride + seg_len;
            let mut floats = |n: usize| (0..n).map(|_| r.float()).collect::<Vec<f32>>();
            let (x, w) = (floats(shift + len), floats(shift + n * segs * seg_len));
            let bias = floats(n);
            let half: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
            let x = Taps { data: &x[shift..], rows: m, stride, segs, seg_len, seg_stride };
            let result = |ops: &dyn Ops, half_floats: bool, cut: usize| {
                let mut out = vec![SENTINEL; 16 + m * n + 16];
                let to = &mut out[16..16 + m * n - cut];
                if half_floats {
                    ops.gemm_f16(x, &half[shift..], &bias, to);
                } else {
                    ops.gemm_f32(x, &w[shift..], &bias, to);
                }
                bits(&out)
            };
            for half_floats in [false, true] {
                // With too little room for the last output: what there is room for.
                for cut in [0, 1] {
                    let want = result(&Scalar, half_floats, cut);
                    let got = result(ops, half_floats, cut);
                    same(
                        ops,
                        &want,
                        &got,
                        format_args!("{m}, {segs} x {seg_len}, {n}, f16 {half_floats}"),
                    )?;
                    cases += 1;
                }
            }
        }
    }
    Ok(cases)
}
