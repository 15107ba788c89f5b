//! f32 to 4 bits and back: per row one f32 scale, per 32 inputs an int8 scale.
//!
//! ```text
//! w = scale * group * q      q in -8..=7      group in -127..=127      scale = f32, not negative
//! ```
//!
//! A group's scale may be negative: then its largest value, whatever its sign, can be the -8. Steps are
//! searched for the least squared error, clipping included; a group of zeros has scale 0.

use varmint_core::num::{GROUP4, round, up32};
use varmint_core::tensor::{Data, Matrix, Spec};

use crate::encoded::Encoded;

/// Tried steps of a group: its largest value is this many of them.
const REACH: (f32, f32, usize) = (6.5, 10.0, 15);
/// Integer scales tried on each side of zero, about.
const TRIES: usize = 16;

/// A row of the matrix, its inputs padded to whole groups.
pub(crate) struct Row {
    /// f32 scale.
    pub(crate) scale: f32,
    /// Integer scales, one per group.
    pub(crate) group: Vec<i8>,
    /// Integers, -8 to 7.
    pub(crate) q: Vec<i8>,
}

/// Values of a group as integers.
fn integers(v: &[f32; GROUP4], step: f32) -> [f32; GROUP4] {
    if step == 0.0 {
        return [0.0; GROUP4];
    }
    let inverse = 1.0 / step;
    v.map(|v| round((v * inverse).clamp(-8.0, 7.0)))
}

fn error(v: &[f32; GROUP4], step: f32) -> f32 {
    let q = integers(v, step);
    v.iter().zip(q).map(|(v, q)| (v - q * step) * (v - q * step)).sum()
}

/// The step with the least error among some.
fn best(v: &[f32; GROUP4], steps: impl Iterator<Item = f32>) -> f32 {
    let first = (0.0, error(v, 0.0));
    let less = |a: (f32, f32), b: (f32, f32)| if b.1 < a.1 { b } else { a };
    steps.map(|s| (s, error(v, s))).fold(first, less).0
}

/// The step that suits a group best, negative where its largest value is positive.
pub(crate) fn free_step(v: &[f32; GROUP4]) -> f32 {
    let max = v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let (from, to, n) = REACH;
    let reach = (0..n).map(|i| from + (to - from) * i as f32 / (n - 1) as f32);
    best(v, reach.flat_map(|d| [max / d, -max / d]))
}

/// The best integer scale of a group in a row of this scale: those near the free step are tried, with every
/// sign.
pub(crate) fn group_scale(v: &[f32; GROUP4], scale: f32) -> i8 {
    let step = free_step(v).abs();
    let (low, high) = ((0.8 * step / scale) as i32, (1.25 * step / scale) as i32 + 1);
    let tries = (low.max(1)..=high.min(127)).step_by(((high - low) as usize / TRIES).max(1));
    let exact = tries.chain([((step / scale).round() as i32).min(127)]);
    (best(v, exact.flat_map(|g| [g as f32 * scale, -g as f32 * scale])) / scale).round() as i8
}

fn quantize(row: &[f32]) -> Row {
    let mut padded = row.to_vec();
    padded.resize(up32(row.len()), 0.0);
    let groups = padded.as_chunks::<GROUP4>().0;
    let steps = groups.iter().map(free_step);
    let widest = steps.fold(0.0f32, |m, s| m.max(s.abs()));
    let mut scale = widest / 127.0;
    if !scale.is_normal() {
        // Zeros, or too small to be told from them.
        return Row { scale: 0.0, group: vec![0; groups.len()], q: vec![0; padded.len()] };
    }
    let group: Vec<i8> = groups.iter().map(|v| group_scale(v, scale)).collect();
    let all = |scale: f32| -> Vec<i8> {
        let one = |(v, g): (_, &i8)| integers(v, f32::from(*g) * scale).map(|q| q as i8);
        groups.iter().zip(&group).flat_map(one).collect()
    };
    // With the integers known, the row's scale follows; and then better integers from it.
    let mut q = all(scale);
    let (mut with, mut square) = (0.0f64, 0.0f64);
    for (i, (v, q)) in padded.iter().zip(&q).enumerate() {
        let u = f64::from(group[i / GROUP4]) * f64::from(*q);
        with += f64::from(*v) * u;
        square += u * u;
    }
    let fitted = (with / square) as f32;
    if fitted.is_normal() && fitted > 0.0 {
        (scale, q) = (fitted, all(fitted));
    }
    Row { scale, group, q }
}

/// Encodes a dense matrix, every value to the nearest.
pub(crate) fn encode(spec: &Spec, values: &[f32]) -> Encoded {
    pack(spec, values.chunks_exact(spec.cols).map(quantize))
}

/// The bytes of a matrix of these rows.
pub(crate) fn pack(spec: &Spec, all: impl Iterator<Item = Row>) -> Encoded {
    let (k, rows) = (up32(spec.cols), spec.rows.next_multiple_of(8));
    let nibbles = rows * k / 2;
    // Padding is zero: 8 in both halves.
    let mut data = vec![0x88; nibbles];
    data.resize(nibbles + rows * k / GROUP4, 0);
    let mut scales = vec![0.0; rows];
    let (w, group) = data.split_at_mut(nibbles);
    for (r, row) in all.enumerate() {
        scales[r] = row.scale;
        for (i, g) in row.group.iter().enumerate() {
            group[(r / 8 * (k / GROUP4) + i) * 8 + r % 8] = g.to_le_bytes()[0];
        }
        for (i, q) in row.q.iter().enumerate() {
            let (at, shift) = place(k, r, i);
            w[at] = w[at] & !(15 << shift) | ((q + 8) as u8) << shift;
        }
    }
    Encoded { data, scales }
}

/// The byte and the bit of input `i` of row `r`.
const fn place(k: usize, r: usize, i: usize) -> (usize, usize) {
    (((r / 8 * (k / 8) + i / 8) * 8 + r % 8) * 4 + i % 4, i / 4 % 2 * 4)
}

/// The values that a stored matrix stands for, row-major.
pub(crate) fn decode(m: &Matrix<'_>) -> Vec<f32> {
    let Data::I4 { w, group, scale } = m.data else { return Vec::new() };
    let k = m.stored_cols();
    let value = |r: usize, i: usize| {
        let (at, shift) = place(k, r, i);
        let g = group[(r / 8 * (k / GROUP4) + i / GROUP4) * 8 + r % 8];
        (i32::from(g) * (i32::from(w[at] >> shift & 15) - 8)) as f32 * scale[r]
    };
    (0..m.rows).flat_map(|r| (0..m.cols).map(move |i| value(r, i))).collect()
}
