//! The scalar reference: the truth that every backend is held to, bit for bit in integer tiers.
//!
//! Inlined always, so that a backend can compile the same code for another instruction set and get
//! the same bits: nothing here may be fused or reordered by a compiler.

use half::f16;

use crate::num::{
    GROUP4, abs_max, dot, dot_into, exp, gelu as gelu1, map_sum, round, rsqrt, silu as silu1, sum,
    tree,
};
use crate::operands::{Heads, Kv, Packed, Packed4, Scratch, Taps};
use crate::slices::{part, part_mut, pieces, pieces_mut};

/// Layer norm without affine, then `* gain + shift`. Two passes: mean, then variance about it.
#[inline(always)]
pub fn layer_norm(x: &[f32], gain: &[f32], shift: &[f32], out: &mut [f32]) {
    let n = x.len() as f32;
    let mean = sum(x) / n;
    let var = map_sum(x, |v| (v - mean) * (v - mean)) / n;
    let r = rsqrt(var + 1e-6);
    for (((o, &v), &g), &s) in out.iter_mut().zip(x).zip(gain).zip(shift) {
        *o = ((v - mean) * r) * g + s;
    }
}

/// 1.5 * 2^23: added to |x| < 2^22 it leaves the rounded integer in the low bits.
const MAGIC: f32 = 12_582_912.0;

#[inline(always)]
fn round_bits(x: f32) -> u32 {
    (x + MAGIC).to_bits()
}

/// Scale of a row, and what to multiply it with; zeros for a row of zeros or a broken one.
#[inline(always)]
pub fn row_scale(abs_max: f32, levels: f32) -> (f32, f32) {
    if abs_max > 0.0 && abs_max < f32::MAX && levels / abs_max < f32::MAX {
        (abs_max / levels, levels / abs_max)
    } else {
        (0.0, 0.0)
    }
}

/// See [`crate::ops::Ops::quantize_i8`].
#[inline(always)]
pub fn quantize_i8(x: &[f32], out: &mut [i8]) -> f32 {
    let (scale, inverse) = row_scale(abs_max(x), 127.0);
    let (head, tail) = out.split_at_mut_checked(x.len()).unwrap_or_default();
    requantize_i8(x, inverse, head);
    tail.fill(0);
    scale
}

/// See [`crate::ops::Ops::quantize_i12`].
#[inline(always)]
pub fn quantize_i12(x: &[f32], out: &mut [i16]) -> f32 {
    let (scale, inverse) = row_scale(abs_max(x), 2047.0);
    let (head, tail) = out.split_at_mut_checked(x.len()).unwrap_or_default();
    requantize_i12(x, inverse, head);
    tail.fill(0);
    scale
}

/// Limits in float, so that a value beyond the calibrated range clips instead of wrapping.
#[inline(always)]
fn clip(x: f32, limit: f32) -> f32 {
    let x = if x < limit { x } else { limit };
    if x > -limit { x } else { -limit }
}

/// See [`crate::ops::Ops::requantize_i8`].
#[inline(always)]
pub fn requantize_i8(x: &[f32], inverse: f32, out: &mut [i8]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = round_bits(clip(v * inverse, 127.0)) as i8;
    }
}

/// See [`crate::ops::Ops::requantize_i12`].
#[inline(always)]
pub fn requantize_i12(x: &[f32], inverse: f32, out: &mut [i16]) {
    quantize_levels(x, inverse, 2047.0, out);
}

/// `out = round(x * inverse)`, within ±`levels`.
#[inline(always)]
pub fn quantize_levels(x: &[f32], inverse: f32, levels: f32, out: &mut [i16]) {
    for (o, &v) in out.iter_mut().zip(x) {
        *o = round_bits(clip(v * inverse, levels)) as i16;
    }
}

/// Integer matrix product over packed weights; see [`crate::ops::Ops::gemm_i8`].
#[inline(always)]
pub fn gemm_int<T: Copy + Into<i32>>(
    x: Taps<'_, T>,
    row_scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) {
    let n = w.bias.len();
    if n == 0 || x.k() == 0 {
        return;
    }
    // A panel of 8 output channels stays in the nearest cache while all rows pass.
    let panels = pieces(w.w, 8 * x.k()).zip(w.scale.as_chunks::<8>().0).zip(w.bias.chunks(8));
    for (g, ((panel, scale), bias)) in panels.enumerate() {
        for (m, out_row) in pieces_mut(out, n).take(x.rows).enumerate() {
            let mut acc = [0i32; 8];
            for (s, run_w) in pieces(panel, 8 * x.seg_len).enumerate() {
                let (w32, x4) = (run_w.as_chunks::<32>().0, x.run(m, s).as_chunks::<4>().0);
                for (w32, &[x0, x1, x2, x3]) in w32.iter().zip(x4) {
                    let (x0, x1, x2, x3) = (x0.into(), x1.into(), x2.into(), x3.into());
                    for (a, &[w0, w1, w2, w3]) in acc.iter_mut().zip(w32.as_chunks::<4>().0) {
                        *a += x0 * w0 as i32 + x1 * w1 as i32 + x2 * w2 as i32 + x3 * w3 as i32;
                    }
                }
            }
            let sx = row_scale.get(m).or(row_scale.first()).copied().unwrap_or(0.0);
            let places = part_mut(out_row, 8 * g, bias.len());
            for (((o, a), &sw), &b) in places.iter_mut().zip(acc).zip(scale).zip(bias) {
                *o = a as f32 * (sx * sw) + b;
            }
        }
    }
}

/// Product over 4-bit weights; see [`crate::ops::Ops::gemm_i4`].
#[inline(always)]
pub fn gemm_i4(x: Taps<'_, i8>, row_scale: &[f32], w: Packed4<'_>, out: &mut [f32]) {
    let (n, k) = (w.bias.len(), x.k());
    if n == 0 || k == 0 || !x.seg_len.is_multiple_of(GROUP4) {
        return;
    }
    let panels = pieces(w.w, 4 * k).zip(pieces(w.group, k / 4));
    let panels = panels.zip(w.scale.as_chunks::<8>().0).zip(w.bias.chunks(8));
    for (g, (((panel, groups), scale), bias)) in panels.enumerate() {
        for (m, out_row) in pieces_mut(out, n).take(x.rows).enumerate() {
            let mut acc = [0i32; 8];
            let runs = pieces(panel, 4 * x.seg_len).zip(pieces(groups, x.seg_len / 4));
            for (s, (run_w, run_g)) in runs.enumerate() {
                let inputs = x.run(m, s).as_chunks::<GROUP4>().0;
                let blocks = run_w.as_chunks::<128>().0.iter().zip(run_g.as_chunks::<8>().0);
                for ((w128, g8), x32) in blocks.zip(inputs) {
                    let mut sums = [0i32; 8];
                    for (w32, x8) in w128.as_chunks::<32>().0.iter().zip(x32.as_chunks::<8>().0) {
                        let (low, high) = x8.split_at(4);
                        for (sum, w4) in sums.iter_mut().zip(w32.as_chunks::<4>().0) {
                            for ((&w, &a), &b) in w4.iter().zip(low).zip(high) {
                                *sum += ((w & 15) as i32 - 8) * a as i32;
                                *sum += ((w >> 4) as i32 - 8) * b as i32;
                            }
                        }
                    }
                    for ((a, sum), &g) in acc.iter_mut().zip(sums).zip(g8) {
                        // Exact within the format's limits; total beyond them.
                        *a = a.wrapping_add(g as i32 * sum);
                    }
                }
            }
            let sx = row_scale.get(m).or(row_scale.first()).copied().unwrap_or(0.0);
            let places = part_mut(out_row, 8 * g, bias.len());
            for (((o, a), &sw), &b) in places.iter_mut().zip(acc).zip(scale).zip(bias) {
                *o = a as f32 * (sx * sw) + b;
            }
        }
    }
}

/// Float matrix product; see [`crate::ops::Ops::gemm_f32`].
#[inline(always)]
pub fn gemm_f32(x: Taps<'_, f32>, w: &[f32], bias: &[f32], out: &mut [f32]) {
    let n = bias.len();
    if n == 0 || x.k() == 0 {
        return;
    }
    for (j, (row, &b)) in pieces(w, x.k()).zip(bias).enumerate() {
        for (m, out_row) in pieces_mut(out, n).take(x.rows).enumerate() {
            let mut lanes = [0.0f32; 8];
            for (s, run_w) in pieces(row, x.seg_len).enumerate() {
                dot_into(&mut lanes, run_w, x.run(m, s));
            }
            if let Some(o) = out_row.get_mut(j) {
                *o = tree(lanes) + b;
            }
        }
    }
}

/// Rows that share one conversion of the weights.
const F16_ROWS: usize = 8;

/// Half-float weights; see [`crate::ops::Ops::gemm_f16`]. Same order as [`gemm_f32`].
#[inline(always)]
pub fn gemm_f16(x: Taps<'_, f32>, w: &[f16], bias: &[f32], out: &mut [f32]) {
    let n = bias.len();
    if n == 0 || x.k() == 0 {
        return;
    }
    for (j, (row, &b)) in pieces(w, x.k()).zip(bias).enumerate() {
        let mut first = 0;
        while first < x.rows {
            let mut lanes = [[0.0f32; 8]; F16_ROWS];
            for (s, run_w) in pieces(row, x.seg_len).enumerate() {
                for (c, w32) in run_w.chunks(32).enumerate() {
                    let mut wide = [0.0f32; 32];
                    for (f, h) in wide.iter_mut().zip(w32) {
                        *f = h.to_f32();
                    }
                    let wide = part(&wide, 0, w32.len());
                    for (i, lanes) in lanes.iter_mut().enumerate().take(x.rows - first) {
                        dot_into(lanes, wide, part(x.run(first + i, s), 32 * c, w32.len()));
                    }
                }
            }
            for (i, lanes) in lanes.iter().enumerate().take(x.rows - first) {
                if let Some(o) = out.get_mut((first + i) * n + j) {
                    *o = tree(*lanes) + b;
                }
            }
            first += F16_ROWS;
        }
    }
}

/// See [`crate::ops::Ops::gelu`].
#[inline(always)]
pub fn gelu(x: &mut [f32]) {
    for v in x {
        *v = gelu1(*v);
    }
}

/// See [`crate::ops::Ops::add_gated`].
#[inline(always)]
pub fn add_gated(x: &mut [f32], gain: &[f32], y: &[f32]) {
    for ((x, &g), &y) in x.iter_mut().zip(gain).zip(y) {
        *x += g * y;
    }
}

/// See [`crate::ops::Ops::norm_act`].
#[inline(always)]
pub fn norm_act(x: &mut [f32], gain: &[f32], shift: &[f32], silu: bool) {
    for x in pieces_mut(x, gain.len()) {
        for ((v, &g), &s) in x.iter_mut().zip(gain).zip(shift) {
            let y = *v * g + s;
            *v = if silu { silu1(y) } else { y };
        }
    }
}

/// See [`crate::ops::Ops::map_stats`].
#[inline(always)]
pub fn map_stats(x: &[f32], sum: &mut [f32], min: &mut [f32], max: &mut [f32]) {
    for px in pieces(x, sum.len()) {
        let stats = sum.iter_mut().zip(min.iter_mut()).zip(max.iter_mut());
        for (((t, lo), hi), &v) in stats.zip(px) {
            *t += v;
            *lo = if v < *lo { v } else { *lo };
            *hi = if v > *hi { v } else { *hi };
        }
    }
}

/// See [`crate::ops::Ops::map_squares`].
#[inline(always)]
pub fn map_squares(x: &[f32], mean: &[f32], sum: &mut [f32]) {
    for px in pieces(x, sum.len()) {
        for ((t, &m), &v) in sum.iter_mut().zip(mean).zip(px) {
            *t += (v - m) * (v - m);
        }
    }
}

/// See [`crate::ops::Ops::normalize_heads`].
#[inline(always)]
pub fn normalize_heads(x: &mut [f32], dim: usize, factors: &[f32]) {
    for (x, &factor) in pieces_mut(x, dim).zip(factors) {
        l2_normalize(x, factor);
    }
}

/// See [`crate::ops::Ops::quantize_heads`].
#[inline(always)]
pub fn quantize_heads(x: &[f32], dim: usize, out: &mut [i8], scales: &mut [f16]) {
    for ((o, x), s) in pieces_mut(out, dim).zip(pieces(x, dim)).zip(scales) {
        *s = quantize_head(x, o);
    }
}

/// See [`crate::ops::Ops::widen_f16`].
#[inline(always)]
pub fn widen_f16(x: &[f16], out: &mut [f32]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = v.to_f32();
    }
}

/// See [`crate::ops::Ops::narrow_f16`].
#[inline(always)]
pub fn narrow_f16(x: &mut [f32], out: &mut [f16]) {
    for (o, v) in out.iter_mut().zip(x) {
        *o = f16::from_f32(*v);
        *v = o.to_f32();
    }
}

/// Softmax numerators in place; returns their sum. Empty input sums to 1.
#[inline(always)]
pub fn softmax(scores: &mut [f32]) -> f32 {
    // A maximum is the same in any order.
    let mut lanes = [f32::MIN; 16];
    let (chunks, rest) = scores.as_chunks::<16>();
    for c in chunks {
        for (lane, &s) in lanes.iter_mut().zip(c) {
            *lane = if s > *lane { s } else { *lane };
        }
    }
    for (lane, &s) in lanes.iter_mut().zip(rest) {
        *lane = if s > *lane { s } else { *lane };
    }
    let max = lanes.iter().fold(f32::MIN, |m, &s| if s > m { s } else { m });
    for s in scores.iter_mut() {
        *s = exp(*s - max);
    }
    let total = sum(scores);
    if total > 0.0 { total } else { 1.0 }
}

/// Largest integer weight of a value so that `n` products with int8 stay inside i32: 14 bits up to
/// 1032 keys, fewer beyond.
#[inline(always)]
pub const fn prob_levels(n: usize) -> i32 {
    let fits = (i32::MAX / 127) as usize / if n == 0 { 1 } else { n };
    if fits < 16_383 { fits as i32 } else { 16_383 }
}

/// See [`crate::ops::Ops::attend`].
#[inline(always)]
pub fn attend(
    heads: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
) {
    if heads.dim == 0 || heads.width == 0 {
        return;
    }
    for (q, out) in q.chunks(heads.width).zip(out.chunks_mut(heads.width)) {
        attend_row(heads, q, kv, scratch, out);
    }
}

#[inline(always)]
fn attend_row(
    heads: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
) {
    let Heads { width, dim } = heads;
    let n = kv.iter().map(|(_, n)| n).sum::<usize>();
    let heads = pieces(q, dim).zip(pieces_mut(out, dim)).enumerate();
    for (h, (q, out)) in heads {
        let scores = part_mut(scratch.scores, 0, n);
        let query = part_mut(scratch.query, 0, dim);
        let integer = matches!(kv, [(Kv::I8 { .. }, _), _]);
        let sq = if integer { quantize_i8(q, query) } else { 0.0 };
        let mut done = 0;
        for (kv, n) in kv {
            let scores = part_mut(scores, done, n);
            let key = |j: usize| j * width + h * dim;
            match kv {
                Kv::F32 { k, .. } => {
                    for (j, s) in scores.iter_mut().enumerate() {
                        *s = dot(q, part(k, key(j), dim));
                    }
                }
                Kv::F16 { k, .. } => {
                    for (j, s) in scores.iter_mut().enumerate() {
                        *s = dot_f16(q, part(k, key(j), dim));
                    }
                }
                Kv::I8 { k, ks, .. } => {
                    let n_heads = width / dim;
                    for (j, s) in scores.iter_mut().enumerate() {
                        let mut acc = 0i32;
                        for (&a, &b) in query.iter().zip(part(k, key(j), dim)) {
                            acc += a as i32 * b as i32;
                        }
                        let sk = ks.get(j * n_heads + h).map_or(0.0, |s| s.to_f32());
                        *s = acc as f32 * (sq * sk);
                    }
                }
            }
            done += n;
        }
        let total = softmax(scores);
        if integer {
            values_i8(h, Heads { width, dim }, kv, scratch, total, n, out);
        } else {
            out.fill(0.0);
            let mut done = 0;
            for (kv, n) in kv {
                for (j, &p) in part(scratch.scores, done, n).iter().enumerate() {
                    let p = p / total;
                    match kv {
                        Kv::F32 { v, .. } => {
                            for (o, &v) in out.iter_mut().zip(part(v, j * width + h * dim, dim)) {
                                *o += p * v;
                            }
                        }
                        Kv::F16 { v, .. } => {
                            for (o, v) in out.iter_mut().zip(part(v, j * width + h * dim, dim)) {
                                *o += p * v.to_f32();
                            }
                        }
                        Kv::I8 { .. } => {}
                    }
                }
                done += n;
            }
        }
    }
}

/// Integer weights of the values of head `h`: the softmax numerators in `scores` take the scale of their
/// value in and become integers of at most 14 bits in `probs`. Returns what to multiply the exact sum of
/// values with.
#[inline(always)]
pub fn value_weights(
    h: usize,
    n_heads: usize,
    kv: [(Kv<'_>, usize); 2],
    scores: &mut [f32],
    probs: &mut [i16],
    total: f32,
) -> f32 {
    let mut done = 0;
    for (kv, n) in kv {
        if let Kv::I8 { vs, .. } = kv {
            for (j, p) in part_mut(scores, done, n).iter_mut().enumerate() {
                *p *= vs.get(j * n_heads + h).map_or(0.0, |s| s.to_f32());
            }
        }
        done += n;
    }
    let levels = prob_levels(scores.len()) as f32;
    let (step, inverse) = row_scale(abs_max(scores), levels);
    quantize_levels(scores, inverse, levels, probs);
    step / total
}

/// The weighted sum of the values of a head, exact.
#[inline(always)]
fn values_i8(
    h: usize,
    Heads { width, dim }: Heads,
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    total: f32,
    n: usize,
    out: &mut [f32],
) {
    let scores = part_mut(scratch.scores, 0, n);
    let probs = part_mut(scratch.probs, 0, n);
    let factor = value_weights(h, width / dim, kv, scores, probs, total);
    let sums = part_mut(scratch.sums, 0, dim);
    sums.fill(0);
    let mut done = 0;
    for (kv, n) in kv {
        if let Kv::I8 { v, .. } = kv {
            for (j, &w) in part(probs, done, n).iter().enumerate() {
                for (s, &v) in sums.iter_mut().zip(part(v, j * width + h * dim, dim)) {
                    *s += w as i32 * v as i32;
                }
            }
        }
        done += n;
    }
    for (o, &s) in out.iter_mut().zip(sums.iter()) {
        *o = s as f32 * factor;
    }
}

#[inline(always)]
fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((lane, &p), q) in lanes.iter_mut().zip(a).zip(b) {
            *lane += p * q.to_f32();
        }
    }
    tree(lanes)
}

/// Keys or values of one (token, head) as int8 with an f16 scale.
#[inline(always)]
pub fn quantize_head(x: &[f32], out: &mut [i8]) -> f16 {
    let scale = f16::from_f32(abs_max(x) / 127.0);
    let wide = scale.to_f32();
    let inverse = if wide > 0.0 && wide.is_finite() { 1.0 / wide } else { 0.0 };
    requantize_i8(x, inverse, out);
    if inverse == 0.0 { f16::ZERO } else { scale }
}

/// L2 norm of a head: `x / max(|x|, 1e-12) * factor`, in place.
#[inline(always)]
pub fn l2_normalize(x: &mut [f32], factor: f32) {
    let norm = libm::sqrtf(map_sum(x, |v| v * v));
    let norm = if norm > 1e-12 { norm } else { 1e-12 };
    for v in x {
        *v = (*v / norm) * factor;
    }
}

/// Nearest integer of a pixel: floor(255 v), v in 0..=1 from the decoder's -1..=1.
#[inline(always)]
pub fn pixel(v: f32) -> u8 {
    let v = clip(v, 1.0);
    let x = (v + 1.0) * 0.5 * 255.0;
    // Truncation; `round` is to the nearest.
    let r = round(x);
    (if r > x { r - 1.0 } else { r }) as u8
}
