//! 3x3 convolutions.

use alloc::vec;
use alloc::vec::Vec;

use varmint_core::ops::{Packed, Strip};
use varmint_core::{Ops, Scalar};

use crate::random::{Random, Values};
use crate::{Mismatch, SENTINEL, bits, same};

/// A convolution: output rows, columns, channels in and out. Tiles have sides of 2 and 4, groups of 16.
const CONVOLUTIONS: [(usize, usize, usize, usize); 11] = [
    (1, 1, 4, 3),
    (3, 5, 12, 16),
    (4, 32, 16, 16), // one row of tiles
    (8, 17, 16, 32), // tiles beyond the right rim
    (7, 12, 32, 16), // and beyond the lower one
    (8, 16, 48, 32),
    (8, 40, 20, 16), // channels that no transform takes
    (16, 24, 32, 24),
    (12, 44, 64, 48),
    (8, 16, 128, 128),
    (7, 33, 144, 160),
];

/// Runs a convolution on `ops` with `room` integers of scratch, and on the reference; says whether the
/// scratch was used.
fn convolution<T: Copy>(
    ops: &dyn Ops,
    (rows, width, channels, n): (usize, usize, usize, usize),
    (x_values, x_limit): (Values, i32),
    (w_values, w_limit): (Values, i32),
    room: usize,
    cast: fn(i32) -> T,
    run: impl Fn(&dyn Ops, Strip<'_, T>, Packed<'_>, &mut [i32], &mut [f32]),
    r: &mut Random,
) -> Result<bool, Mismatch> {
    let len = (rows + 2) * (width + 2) * channels;
    let data: Vec<T> = x_values.make(x_limit, true, len, r).into_iter().map(cast).collect();
    let padded = n.next_multiple_of(8);
    let w = w_values.make(w_limit, false, padded * 9 * channels, r);
    let w: Vec<i8> = w.into_iter().map(|v| v as i8).collect();
    let scale: Vec<f32> = (0..padded).map(|_| r.float() * 0.01).collect();
    let bias: Vec<f32> = (0..n).map(|_| r.float()).collect();
    let strip = Strip { data: &data, rows, width, channels };
    let w = Packed { w: &w, scale: &scale, bias: &bias };
    let result = |ops: &dyn Ops, scratch: &mut [i32]| {
        let mut out = vec![SENTINEL; 16 + rows * width * n + 16];
        run(ops, strip, w, scratch, &mut out[16..16 + rows * width * n]);
        bits(&out)
    };
    let mut scratch = vec![0x5A5A_5A5A; 16 + room + 16];
    let got = result(ops, &mut scratch[16..16 + room]);
    let want = result(&Scalar, &mut []);
    same(
        ops,
        &want,
        &got,
        format_args!("{rows} x {width}, {channels} to {n}, {x_values:?} {w_values:?}"),
    )?;
    assert!(scratch[..16].iter().chain(&scratch[16 + room..]).all(|&v| v == 0x5A5A_5A5A));
    Ok(scratch[16..16 + room].iter().any(|&v| v != 0x5A5A_5A5A))
}

/// How many convolutions used their scratch: a transform made them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Transformed {
    /// Of 8-bit inputs.
    pub i8: usize,
    /// Of 12-bit inputs.
    pub i12: usize,
}

/// 3x3 convolutions with room for everything, for a few tiles, and with none.
///
/// # Errors
/// The first output that is not the reference's.
pub fn convolutions_equal_the_reference_whatever_the_scratch(
    ops: &dyn Ops,
) -> Result<Transformed, Mismatch> {
    let mut r = Random(6);
    let mut used = Transformed::default();
    for shape in CONVOLUTIONS {
        let c = shape.2;
        for room in [36 * c * (8 + 70), 36 * (c * 17 + 256), 0] {
            for values in [Values::Random, Values::Corners, Values::Extreme] {
                let (x8, x12, w) = ((values, 127), (values, 2047), (values, 127));
                let i8 = |o: &dyn Ops,
                          x: Strip<'_, _>,
                          w: Packed<'_>,
                          s: &mut [i32],
                          out: &mut [f32]| {
                    o.conv_i8(x, 0.013, w, s, out);
                };
                let i12 = |o: &dyn Ops,
                           x: Strip<'_, _>,
                           w: Packed<'_>,
                           s: &mut [i32],
                           out: &mut [f32]| {
                    o.conv_i12(x, 0.013, w, s, out);
                };
                used.i8 += convolution(ops, shape, x8, w, room, |v| v as i8, i8, &mut r)? as usize;
                used.i12 +=
                    convolution(ops, shape, x12, w, room, |v| v as i16, i12, &mut r)? as usize;
            }
        }
    }
    Ok(used)
}

/// Two layers on both sides of what F(4x4) can hold, every product of one sign and at its largest:
/// 9 * 464 * 64 = 267,264 reaches 2^25 / 127 = 264,208, with 62 it stays below. Says which were transformed.
///
/// # Errors
/// The first output that is not the reference's.
pub fn large_sums_are_convolved_without_a_transform(ops: &dyn Ops) -> Result<[bool; 2], Mismatch> {
    let mut r = Random(7);
    let mut used = [false; 2];
    for (used, limit) in used.iter_mut().zip([64, 62]) {
        *used = convolution(
            ops,
            (4, 32, 464, 128),
            (Values::Extreme, 127),
            (Values::Extreme, limit),
            36 * 464 * 16 + 36 * 256,
            |v| v as i8,
            |o, x, w, s, out| o.conv_i8(x, 0.5, w, s, out),
            &mut r,
        )?;
    }
    Ok(used)
}
