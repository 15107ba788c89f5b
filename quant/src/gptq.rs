//! 4-bit weights whose errors make up for each other (GPTQ, arXiv 2210.17323).
//!
//! Inputs are rounded one after the other; what one of them loses is given to those that are still to come, by as
//! much as their activations go together:
//!
//! ```text
//! H = X'X + damping        of sampled inputs X, rows of K
//! H = R R', U = R^-1       upper triangles; U is the Cholesky factor of the inverse of H
//! for i in 0..K:  q_i = round(w_i),  e = (w_i - q_i) / U_ii,  w_j -= e U_ij for j > i
//! ```
//!
//! Groups and scales are those of [`crate::int4`]; a group's integer scale is chosen when the group is entered, from
//! the weights as they are then. All sums are in f64 and in one order: the same file every time.

use varmint_core::num::{GROUP4, round, up32};
use varmint_core::tensor::Spec;

use crate::int4::{Row, free_step, group_scale, pack};
use crate::quantize::Encoded;

/// Added to the diagonal, as a share of its mean: keeps what is seldom seen from moving much.
const DAMPING: f64 = 0.01;
/// Rows of the matrix that pass through U together.
const TOGETHER: usize = 16;

/// Encodes a dense matrix for inputs like `samples`, rows of as many values as the matrix has columns.
pub(crate) fn encode(spec: &Spec, values: &[f32], samples: &[f32]) -> Encoded {
    let k = up32(spec.cols);
    let u = factor(moments(samples, spec.cols, k), k);
    let mut rows = Vec::with_capacity(spec.rows);
    for some in values.chunks(TOGETHER * spec.cols) {
        rows.extend(compensate(some, spec.cols, &u, k));
    }
    pack(spec, rows.into_iter())
}

/// `X'X`, the upper triangle, padded to K x K.
fn moments(samples: &[f32], cols: usize, k: usize) -> Vec<f64> {
    let mut h = vec![0.0; k * k];
    for x in samples.chunks_exact(cols) {
        for (i, &a) in x.iter().enumerate().filter(|(_, a)| **a != 0.0) {
            let a = f64::from(a);
            for (h, &b) in h[i * k + i..].iter_mut().zip(&x[i..]) {
                *h += a * f64::from(b);
            }
        }
    }
    h
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut sums = [0.0; 8];
    let (a, b) = (a.as_chunks::<8>(), b.as_chunks::<8>());
    for (a, b) in a.0.iter().zip(b.0) {
        for ((s, a), b) in sums.iter_mut().zip(a).zip(b) {
            *s += a * b;
        }
    }
    sums.iter().sum::<f64>() + a.1.iter().zip(b.1).map(|(a, b)| a * b).sum::<f64>()
}

/// U of the damped moments.
fn factor(mut h: Vec<f64>, k: usize) -> Vec<f32> {
    let mean = (0..k).map(|i| h[i * k + i]).sum::<f64>() / k as f64;
    for i in 0..k {
        let d = &mut h[i * k + i];
        // An input that was always 0 says nothing about its weight.
        *d = if *d == 0.0 { mean.max(1.0) } else { *d } + DAMPING * mean;
    }
    // R in place of H, from the last column on.
    for j in (0..k).rev() {
        let own = h[j * k + j + 1..(j + 1) * k].to_vec();
        let pivot = (h[j * k + j] - dot(&own, &own)).max(1e-12 * mean.max(1e-30)).sqrt();
        h[j * k + j] = pivot;
        for i in 0..j {
            let with = dot(&h[i * k + j + 1..(i + 1) * k], &own);
            h[i * k + j] = (h[i * k + j] - with) / pivot;
        }
    }
    // Its inverse, from the last row on.
    let mut u = vec![0.0f64; k * k];
    for i in (0..k).rev() {
        let (head, done) = u.split_at_mut((i + 1) * k);
        let row = &mut head[i * k..];
        let pivot = 1.0 / h[i * k + i];
        for j in i + 1..k {
            let r = -h[i * k + j] * pivot;
            let below = &done[(j - i - 1) * k + j..(j - i) * k];
            for (u, b) in row[j..].iter_mut().zip(below) {
                *u += r * b;
            }
        }
        row[i] = pivot;
    }
    u.into_iter().map(|v| v as f32).collect()
}

/// Some rows of the matrix.
fn compensate(rows: &[f32], cols: usize, u: &[f32], k: usize) -> Vec<Row> {
    let mut w: Vec<Vec<f32>> = rows.chunks_exact(cols).map(<[f32]>::to_vec).collect();
    let mut out = Vec::with_capacity(w.len());
    for w in &mut w {
        w.resize(k, 0.0);
        let widest = w.as_chunks::<GROUP4>().0.iter().map(free_step);
        let widest = widest.fold(0.0f32, |m, s| m.max(s.abs()));
        // A little room: what is given to later weights makes them larger.
        let scale = widest / 120.0;
        let scale = if scale.is_normal() { scale } else { 0.0 };
        out.push(Row { scale, group: vec![0; k / GROUP4], q: vec![0; k] });
    }
    for i in 0..k {
        let u = &u[i * k + i..(i + 1) * k];
        for (w, row) in w.iter_mut().zip(&mut out).filter(|(_, row)| row.scale > 0.0) {
            let group = i / GROUP4;
            if i % GROUP4 == 0
                && let Some(v) = w[i..].first_chunk()
            {
                row.group[group] = group_scale(v, row.scale);
            }
            let step = f32::from(row.group[group]) * row.scale;
            let q = if step == 0.0 { 0.0 } else { round((w[i] / step).clamp(-8.0, 7.0)) };
            row.q[i] = q as i8;
            let e = (w[i] - q * step) / u[0];
            for (w, u) in w[i..].iter_mut().zip(u) {
                *w -= e * u;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use varmint_core::tensor::{Class, Data, Matrix, Role};

    use super::*;
    use crate::int4;

    fn noise(i: usize) -> f32 {
        let z = (i as u32).wrapping_mul(2_654_435_761);
        ((z ^ z >> 15).wrapping_mul(0x85EB_CA6B) >> 8) as f32 / 8_388_608.0 - 1.0
    }

    /// Inputs that go together: 70 of them, made of 9 numbers and a little of their own.
    fn samples(rows: usize, k: usize, from: usize) -> Vec<f32> {
        let mix = |i: usize, m: usize| noise(7_000_000 + i * 9 + m);
        let value = |r: usize, i: usize| {
            let shared: f32 = (0..9).map(|m| mix(i, m) * noise(from + r * 9 + m)).sum();
            shared + 0.1 * noise(from + 900_000 + r * k + i)
        };
        (0..rows).flat_map(|r| (0..k).map(move |i| value(r, i))).collect()
    }

    fn outputs(x: &[f32], w: &[f32], k: usize) -> Vec<f32> {
        let one = |x: &[f32], w: &[f32]| x.iter().zip(w).map(|(a, b)| a * b).sum::<f32>();
        x.chunks_exact(k).flat_map(|x| w.chunks_exact(k).map(move |w| one(x, w))).collect()
    }

    #[test]
    fn errors_make_up_for_each_other() {
        let (n, k) = (24, 70);
        let spec = Spec {
            role: Role::ProjWeight,
            set: 0,
            index: 0,
            rows: n,
            cols: k,
            taps: 1,
            class: Class::Weight,
        };
        let w: Vec<f32> = (0..n * k).map(|i| noise(i) * noise(i + 50_000)).collect();
        let (seen, unseen) = (samples(400, k, 1_000_000), samples(100, k, 2_000_000));
        let wanted = outputs(&unseen, &w, k);
        let error = |e: &Encoded| {
            let (q, group) = e.data.split_at(spec.nibble_bytes() as usize);
            let data = Data::I4 { w: q, group: bytemuck::cast_slice(group), scale: &e.scales };
            let got = int4::decode(&Matrix { rows: n, cols: k, taps: 1, data });
            let got = outputs(&unseen, &got, k);
            wanted.iter().zip(got).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        let (nearest, better) = (int4::encode(&spec, &w), encode(&spec, &w, &seen));
        let (a, b) = (error(&nearest), error(&better));
        assert!(b < 0.3 * a, "{b} is not much less than {a}");
        // Nothing is known: no weight makes up for another.
        let blind = encode(&spec, &w, &[]);
        assert!(error(&blind) < 1.2 * a);
        assert_eq!((blind.data.len(), blind.scales.len()), (nearest.data.len(), n));
        // Zeros stay zeros.
        let zeros = encode(&spec, &vec![0.0; n * k], &seen);
        assert!(zeros.scales.iter().all(|&s| s == 0.0));
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let k = 32;
        let h = moments(&samples(64, k, 5), k, k);
        let mean = (0..k).map(|i| h[i * k + i]).sum::<f64>() / k as f64;
        let full = |i: usize, j: usize| {
            h[i.min(j) * k + i.max(j)] + if i == j { DAMPING * mean } else { 0.0 }
        };
        let u: Vec<f64> = factor(h.clone(), k).into_iter().map(f64::from).collect();
        // H U' U is the identity.
        for i in 0..k {
            let hu: Vec<f64> =
                (0..k).map(|m| (m..k).map(|j| full(i, j) * u[m * k + j]).sum()).collect();
            for j in 0..k {
                let v: f64 = (0..=j).map(|m| hu[m] * u[m * k + j]).sum();
                assert!((v - f64::from(u8::from(i == j))).abs() < 1e-3, "{i} {j}: {v}");
            }
        }
    }
}
