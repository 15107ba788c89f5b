//! Between the scales: input embeddings, and the residual quantizer (official `models/quant.py`).
//!
//! ```text
//! f_hat += phi_k( bicubic(codebook[tokens] -> P) )        the last scale is not enlarged
//! next   = area(f_hat -> size of the next scale)
//! ```
//!
//! Where a scale replaces the latent (FlexVAR), f_hat is its map alone, to look at until the last one is there:
//!
//! ```text
//! f_hat  = bicubic(codebook[tokens] -> P)
//! next   = bicubic(codebook[tokens] -> size of the next scale)
//! ```

use crate::bytes::up;
use crate::error::Error;
use crate::host::{CopyChecked, Host, Job, nums, split};
use crate::lifetimes::{next_place, second_row};
use crate::ops::{Ops, Taps};
use crate::plan::{ARENA_ALIGN, Buf};
use crate::slices::{div, part, part_mut, pieces, pieces_mut, place};
use crate::tensor::Data;

/// The four bicubic weights (a = -0.75) at distance `t` in 0..1 from the second tap.
fn cubic(t: f32) -> [f32; 4] {
    const A: f32 = -0.75;
    let near = |x: f32| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f32| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(t + 1.0), near(t), near(1.0 - t), far((1.0 - t) + 1.0)]
}

/// Taps and weights of output `d` of an enlargement `n -> p`: half-pixel centres, border repeated.
fn taps(d: usize, n: usize, p: usize) -> [(usize, f32); 4] {
    let s = (n as f32 / p as f32) * (d as f32 + 0.5) - 0.5;
    let floor = libm::floorf(s);
    let w = cubic(s - floor);
    let first = floor as isize - 1;
    let mut i = first - 1;
    w.map(|w| {
        i += 1;
        (i.max(0).min(n as isize - 1) as usize, w)
    })
}

/// Enlarges `from` `[n, inner]` along its first axis to `[p, inner]`.
fn enlarge(from: &[f32], n: usize, p: usize, inner: usize, out: &mut [f32]) {
    for (d, out) in pieces_mut(out, inner).take(p).enumerate() {
        let [(a, wa), (b, wb), (c, wc), (e, we)] = taps(d, n, p);
        let row = |i: usize| part(from, i * inner, inner);
        let rows = row(a).iter().zip(row(b)).zip(row(c)).zip(row(e));
        for (o, (((&a, &b), &c), &e)) in out.iter_mut().zip(rows) {
            *o = a * wa + b * wb + c * wc + e * we;
        }
    }
}

/// Resizes the rows of `[.., w, z]` to `[.., pw, z]`.
fn widen(from: &[f32], (w, z): (usize, usize), out: &mut [f32], pw: usize) {
    for (from, out) in pieces(from, w * z).zip(pieces_mut(out, pw * z)) {
        enlarge(from, w, pw, z, out);
    }
}

/// The window of output `i` of an area reduction `p -> n`: overlapping where n does not divide p.
fn window(i: usize, p: usize, n: usize) -> (usize, usize) {
    (div(i * p, n), div((i + 1) * p + n - 1, n))
}

impl<O: Ops> Host<'_, O> {
    /// The residual stream at the start of a scale, the same for both rows but at the first scale.
    pub(crate) fn begin(&mut self, job: &Job<'_>, trunk: usize, scale: usize) -> Result<(), Error> {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let c = &shape.config;
        let w = shape.trunk(trunk).width as usize;
        let weights = job.model.trunk(trunk);
        let (l, offset) = (c.scale(scale).tokens(), c.tokens_before(scale));
        let rows = tier.rows_of(trunk, scale);
        let second = second_row(shape, tier, trunk) * w;
        if scale == 0 {
            let [x, cond] = self.arena.take(job.plan, [Buf::X, Buf::Cond])?;
            let (x, cond) = (nums::<f32>(x)?, nums::<f32>(cond)?);
            for row in 0..rows {
                let x = part_mut(x, row * second, l * w);
                for (t, x) in pieces_mut(x, w).enumerate() {
                    for (x, &c) in x.iter_mut().zip(part(cond, row * w, w)) {
                        *x = c;
                    }
                    weights.pos_start.add_row(t, x);
                    weights.lvl_pos.add_row(t, x);
                }
            }
            return Ok(());
        }
        let [x, next] = self.arena.take(job.plan, [Buf::X, Buf::Next])?;
        let (x, next) = (nums::<f32>(x)?, nums::<f32>(next)?);
        let first = part_mut(x, 0, l * w);
        let z = c.cvae as usize;
        let input = Taps::matrix(part(next, next_place(shape, tier, scale) * z, l * z), l, z);
        float_gemm(&self.ops, input, &weights.word.w.data, weights.word.bias, first)?;
        for (t, x) in pieces_mut(first, w).enumerate() {
            weights.lvl_pos.add_row(offset + t, x);
        }
        if rows == 2 {
            let (first, rest) = split(x, second)?;
            for (a, b) in rest.iter_mut().zip(part(first, 0, l * w)) {
                *a = *b;
            }
        }
        Ok(())
    }

    /// Adds the drawn tokens of a scale to the latent and reduces it for the next scale.
    pub(crate) fn fold(&mut self, job: &Job<'_>, scale: usize) -> Result<(), Error> {
        let c = &job.model.shape.config;
        let (s, last) = (c.scale(scale), c.latent());
        let (h, w, z) = (s.h as usize, s.w as usize, c.cvae as usize);
        let (ph, pw) = (last.h as usize, last.w as usize);
        let bufs = [Buf::FHat, Buf::Tokens, Buf::Next, Buf::Enlarged, Buf::PhiStrip];
        let [f_hat, tokens, next, enlarged, strip] = self.arena.take(job.plan, bufs)?;
        let (f_hat, next) = (nums::<f32>(f_hat)?, nums::<f32>(next)?);
        let tokens = part(nums::<u16>(tokens)?, c.tokens_before(scale), s.tokens());
        let place = |k| next_place(&job.model.shape, &job.plan.tier, k) * z;
        let codes = part_mut(next, place(c.n_scales()), h * w * z);
        codes.fill(0.0);
        let codebook = job.model.codebook();
        for (code, &t) in pieces_mut(codes, z).zip(tokens) {
            codebook.add_row(t as usize, code);
        }
        let goes_on = scale + 1 < c.n_scales();
        let n = c.scale(scale + 1);
        let (nh, nw) = (n.h as usize, n.w as usize);
        let (big, half) = split(enlarged, up(4 * ph * pw * z, ARENA_ALIGN))?;
        let (big, half) = (nums::<f32>(big)?, nums::<f32>(half)?);
        let big = part_mut(big, 0, ph * pw * z);
        if goes_on {
            widen(codes, (w, z), half, pw);
            enlarge(half, h, ph, pw * z, big);
        } else {
            for (o, &v) in big.iter_mut().zip(codes.iter()) {
                *o = v;
            }
        }
        if c.replaces() {
            f_hat.copy_from_slice_checked(big);
            // The codes may lie where the next input goes: this is the last look at them.
            widen(codes, (w, z), half, nw);
            if goes_on {
                let next = next.get_mut(place(scale + 1)..).ok_or(Error::PlanMismatch)?;
                enlarge(half, h, nh, nw * z, next);
            }
            return Ok(());
        }

        let phi = job.model.phi(s.phi as usize);
        let (strip, out) = split(nums::<f32>(strip)?, 3 * (pw + 2) * z)?;
        let out = part_mut(out, 0, pw * z);
        for (y, f_row) in pieces_mut(f_hat, pw * z).enumerate() {
            strip.fill(0.0);
            for (dy, padded) in pieces_mut(strip, (pw + 2) * z).enumerate() {
                // Row y + dy - 1; out of range stays zero.
                if let Some(from) = (y + dy).checked_sub(1) {
                    let row = part(big, from * pw * z, pw * z);
                    for (o, &v) in part_mut(padded, z, pw * z).iter_mut().zip(row) {
                        *o = v;
                    }
                }
            }
            let taps = Taps {
                data: &*strip,
                rows: pw,
                stride: z,
                segs: 3,
                seg_len: 3 * z,
                seg_stride: (pw + 2) * z,
            };
            float_gemm(&self.ops, taps, &phi.w.data, phi.bias, out)?;
            for ((f, &h), &conv) in
                f_row.iter_mut().zip(part(big, y * pw * z, pw * z)).zip(out.iter())
            {
                *f += 0.5 * h + 0.5 * conv;
            }
        }

        if goes_on {
            let next = next.get_mut(place(scale + 1)..).ok_or(Error::PlanMismatch)?;
            reduce(f_hat, (ph, pw, z), (nh, nw), next);
        }
        Ok(())
    }
}

/// Area reduction of `[ph, pw, z]` to `[nh, nw, z]`: plain means.
pub(crate) fn reduce(
    from: &[f32],
    (ph, pw, z): (usize, usize, usize),
    (nh, nw): (usize, usize),
    out: &mut [f32],
) {
    for (i, out) in pieces_mut(out, z).take(nh * nw).enumerate() {
        let (y, x) = place(i, nw);
        let ((y0, y1), (x0, x1)) = (window(y, ph, nh), window(x, pw, nw));
        out.fill(0.0);
        for y in y0..y1 {
            for x in x0..x1 {
                for (o, &v) in out.iter_mut().zip(part(from, (y * pw + x) * z, z)) {
                    *o += v;
                }
            }
        }
        let area = ((y1 - y0) * (x1 - x0)) as f32;
        for o in out {
            *o /= area;
        }
    }
}

fn float_gemm<O: Ops>(
    ops: &O,
    x: Taps<'_, f32>,
    w: &Data<'_>,
    bias: &[f32],
    out: &mut [f32],
) -> Result<(), Error> {
    match *w {
        Data::F32(w) => ops.gemm_f32(x, w, bias, out),
        Data::F16(w) => ops.gemm_f16(x, w, bias, out),
        // Refused when the file was read.
        Data::I8 { .. } | Data::I8Rows(..) | Data::I4 { .. } => {
            return Err(Error::PlanMismatch);
        }
    }
    Ok(())
}
