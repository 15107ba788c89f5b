//! The image decoder, strip by strip, with exact group norm (official `models/basic_vae.py`).
//!
//! A convolution makes a strip of rows per step: its input rows, with a halo, are normalised, activated
//! and quantized into the strip buffer and never exist as a map. Maps, their statistics and the group
//! norm are in `maps`.

use crate::error::Error;
use crate::host::{Host, Job, linear, nums, nums_ref, split};
use crate::lifetimes::level_maps;
use crate::maps::{Map, Stats, norm, normed_range, save, stat};
use crate::model::{LayerWeights, Linear};
use crate::num::{rsqrt, up4};
use crate::ops::{Heads, Kv, Ops, Packed, Scratch, Strip, Taps};
use crate::plan::Buf;
use crate::scalar::{pixel, row_scale};
use crate::slices::{div, part, part_mut, pieces_mut};
use crate::stage::{Pass, map_size, out_size};
use crate::tensor::{Data, Layer};
use crate::tier::Store;

/// What a convolution reads: a map, enlarged by `up`, normed and activated.
pub(crate) struct Input<'a> {
    pub(crate) map: Map<'a>,
    pub(crate) h: usize,
    pub(crate) up: usize,
    pub(crate) norm: Option<(&'a [f32], &'a [f32], bool)>,
    pub(crate) range: f32,
}

/// Room of a convolution: the halo strip, a row of floats, what the kernel works in.
pub(crate) struct Room<'a> {
    pub(crate) strip: &'a mut [u8],
    pub(crate) row: &'a mut [f32],
    pub(crate) scratch: &'a mut [u8],
}

/// Fills the strip with the input rows that output rows `y..y + n` read (`pad` beyond on each side, zeros
/// outside the map) by `put(values, place)`, `px` values a pixel.
pub(crate) fn fill<'s, O: Ops, T: bytemuck::Pod + Default>(
    ops: &O,
    input: &Input<'_>,
    (y, n, pad): (usize, usize, usize),
    (strip, row): (&'s mut [u8], &mut [f32]),
    px: usize,
    put: impl Fn(&[f32], &mut [T]),
) -> Result<&'s [T], Error> {
    let (c, w) = (input.map.c, input.map.w * input.up);
    let line = (w + 2 * pad) * px;
    let strip = nums::<T>(strip)?;
    let strip = strip.get_mut(..(n + 2 * pad) * line).ok_or(Error::PlanMismatch)?;
    strip.fill(T::default());
    let row = row.get_mut(..input.map.w * c).ok_or(Error::PlanMismatch)?;
    for (i, line) in pieces_mut(strip, line).enumerate() {
        let Some(from) = (y + i).checked_sub(pad) else { continue };
        if from >= input.h * input.up {
            continue;
        }
        input.map.load(ops, div(from, input.up), row);
        if let Some((gain, shift, act)) = input.norm {
            ops.norm_act(row, gain, shift, act);
        }
        let line = part_mut(line, pad * px, w * px);
        if input.up == 1 && px == c {
            put(row, line);
        } else {
            for (x, place) in pieces_mut(line, px).enumerate() {
                put(part(row, div(x, input.up) * c, c), part_mut(place, 0, c));
            }
        }
    }
    Ok(strip)
}

/// Output rows `y..y + n` of a convolution (3x3 with zero padding, or 1x1): `out` is `[n, W, cout]`.
pub(crate) fn conv<O: Ops>(
    ops: &O,
    input: &Input<'_>,
    lin: &Linear<'_>,
    (y, n): (usize, usize),
    room: &mut Room<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    let (c, width) = (input.map.c, input.map.w * input.up);
    let halo = lin.w.taps == 9;
    let at = (y, n, if halo { 1 } else { 0 });
    let to = (&mut *room.strip, &mut *room.row);
    let bias = lin.bias;
    let keep = |x: &[f32], o: &mut [f32]| {
        for (o, &v) in o.iter_mut().zip(x) {
            *o = v;
        }
    };
    match lin.w.data {
        Data::F32(w) => {
            let data = fill(ops, input, at, to, c, keep)?;
            floats(data, (n, width, c), halo, out, |x, out| ops.gemm_f32(x, w, bias, out));
        }
        Data::F16(w) => {
            let data = fill(ops, input, at, to, c, keep)?;
            floats(data, (n, width, c), halo, out, |x, out| ops.gemm_f16(x, w, bias, out));
        }
        Data::I8 { w, scale, wide: false } => {
            let (s, inverse) = row_scale(input.range, 127.0);
            let put = |x: &[f32], q: &mut [i8]| ops.requantize_i8(x, inverse, q);
            let data = fill(ops, input, at, to, up4(c), put)?;
            let w = Packed { w, scale, bias };
            if halo {
                let x = Strip { data, rows: n, width, channels: up4(c) };
                ops.conv_i8(x, s, w, nums(room.scratch)?, out);
            } else {
                ops.gemm_i8(Taps::matrix(data, n * width, up4(c)), &[s], w, out);
            }
        }
        Data::I8 { w, scale, wide: true } => {
            let (s, inverse) = row_scale(input.range, 2047.0);
            let put = |x: &[f32], q: &mut [i16]| ops.requantize_i12(x, inverse, q);
            let data = fill(ops, input, at, to, up4(c), put)?;
            let w = Packed { w, scale, bias };
            if halo {
                let x = Strip { data, rows: n, width, channels: up4(c) };
                ops.conv_i12(x, s, w, nums(room.scratch)?, out);
            } else {
                ops.gemm_i12(Taps::matrix(data, n * width, up4(c)), &[s], w, out);
            }
        }
        // Refused when the file was read.
        Data::I8Rows(..) | Data::I4 { .. } => return Err(Error::PlanMismatch),
    }
    Ok(())
}

/// A float convolution, row by row: 3x3 of a strip with its halo, or 1x1.
fn floats(
    data: &[f32],
    (rows, width, channels): (usize, usize, usize),
    halo: bool,
    out: &mut [f32],
    gemm: impl Fn(Taps<'_, f32>, &mut [f32]),
) {
    if !halo {
        return gemm(Taps::matrix(data, rows * width, channels), out);
    }
    let n = div(out.len(), rows * width);
    Strip { data, rows, width, channels }.each_row(n, out, gemm);
}

/// What of a layer the passes need to know.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) input: Buf,
    pub(crate) output: Buf,
    /// Room for the kernels.
    pub(crate) spare: Buf,
    pub(crate) level: usize,
    /// Size of the input map.
    pub(crate) h: usize,
    pub(crate) w: usize,
    /// Size of the output map.
    pub(crate) out_h: usize,
    pub(crate) out_w: usize,
    pub(crate) store: Store,
}

impl Place {
    fn of(job: &Job<'_>, at: usize, layer: Layer, level: usize) -> Self {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let (input, output) = level_maps(shape, tier, at);
        let (h, w) = map_size(shape, tier, level);
        let (out_h, out_w) = out_size(shape, tier, layer, level);
        Self { input, output, spare: Buf::Spare(at), level, h, w, out_h, out_w, store: tier.maps }
    }

    /// Rows of a strip that begins at `y`.
    pub(crate) fn rows(&self, job: &Job<'_>, y: usize) -> usize {
        self.out_h.saturating_sub(y).min(job.plan.tier.strip)
    }

    pub(crate) fn map<'a>(&self, bytes: &'a [u8], c: usize) -> Map<'a> {
        // The latent is float whatever the tier.
        let store = if self.input == Buf::FHat { Store::F32 } else { self.store };
        Map { bytes, w: self.w, c, store }
    }
}

/// What a convolution does to its input map first, and where its rows go.
#[derive(Clone, Copy)]
pub(crate) struct Make {
    /// Times that the input is enlarged.
    pub(crate) up: usize,
    /// Whether the input is normed, and then whether it is activated.
    pub(crate) norm: Option<bool>,
    pub(crate) to: Buf,
    /// Of the map that it makes; none where it makes pixels.
    pub(crate) store: Option<Store>,
    /// Statistics of the map that it makes.
    pub(crate) gather: Option<usize>,
}

impl Make {
    /// The next map from a raw one.
    pub(crate) fn raw(p: Place, up: usize) -> Self {
        Self { up, norm: None, to: p.output, store: Some(p.store), gather: Some(stat::MAP) }
    }

    /// The hidden map of a residual block.
    pub(crate) fn hidden(p: Place) -> Self {
        let (to, store) = (Buf::Hidden(p.level), Some(p.store));
        Self { up: 1, norm: Some(true), to, store, gather: Some(stat::HIDDEN) }
    }

    /// Queries, keys and values.
    pub(crate) fn qkv(p: Place) -> Self {
        let store = Some(p.store);
        Self { up: 1, norm: Some(false), to: Buf::MapQkv, store, gather: None }
    }

    fn pixels() -> Self {
        Self { up: 1, norm: Some(true), to: Buf::Rgb, store: None, gather: None }
    }
}

impl<O: Ops> Host<'_, O> {
    /// One strip of one pass of layer `at`.
    pub(crate) fn decode(
        &mut self,
        job: &Job<'_>,
        at: usize,
        pass: Pass,
        y: usize,
    ) -> Result<(), Error> {
        let (layer, level, weights) = job.model.layer(job.plan.tier.decoder, at);
        let p = Place::of(job, at, layer, level);
        match (layer, weights, pass) {
            (Layer::Conv { cin, .. }, _, Pass::Scan) => self.scan(job, p, cin),
            (Layer::Conv { cin, .. }, LayerWeights::Conv(lin), _) => {
                self.make(job, p, &lin, (cin, Make::raw(p, 1)), y)
            }
            (Layer::Up { c }, LayerWeights::Conv(lin), _) => {
                self.make(job, p, &lin, (c, Make::raw(p, 2)), y)
            }
            (Layer::Res { cin, .. }, LayerWeights::Res { norm1, .. }, Pass::Norm1) => {
                self.norm(job, p, p.input, stat::MAP, cin, norm1, true, None)
            }
            (Layer::Res { cin, .. }, LayerWeights::Res { conv1, .. }, Pass::First) => {
                self.make(job, p, &conv1, (cin, Make::hidden(p)), y)
            }
            (Layer::Res { cin, cout }, LayerWeights::Res { norm2, .. }, Pass::Norm2) => {
                self.norm(job, p, Buf::Hidden(p.level), stat::HIDDEN, cout, norm2, true, Some(cin))
            }
            (Layer::Res { cin, cout }, LayerWeights::Res { conv2, shortcut, .. }, _) => {
                self.second(job, p, &conv2, shortcut.as_ref(), (cin, cout), y)
            }
            (Layer::Attention { c }, LayerWeights::Attention { norm, .. }, Pass::Norm1) => {
                self.norm(job, p, p.input, stat::MAP, c, norm, false, None)
            }
            (Layer::Attention { c }, LayerWeights::Attention { qkv, .. }, Pass::First) => {
                self.make(job, p, &qkv, (c, Make::qkv(p)), y)
            }
            (Layer::Attention { c }, LayerWeights::Attention { proj, .. }, _) => {
                self.map_attend(job, p, &proj, c, y)
            }
            (Layer::Out { c }, LayerWeights::Out { norm, .. }, Pass::Norm1) => {
                self.norm(job, p, p.input, stat::MAP, c, norm, true, None)
            }
            (Layer::Out { c }, LayerWeights::Out { conv, .. }, _) => {
                self.make(job, p, &conv, (c, Make::pixels()), y)
            }
            _ => Err(Error::PlanMismatch),
        }
    }

    /// Range of the latent, which the quantizer wrote.
    pub(crate) fn scan(&mut self, job: &Job<'_>, p: Place, c: usize) -> Result<(), Error> {
        let [stats, out_rows, input] =
            self.arena.take(job.plan, [Buf::Stats, Buf::OutRows, p.input])?;
        let mut s = Stats::new(stats)?;
        s.reset(stat::MAP);
        let row = part_mut(nums::<f32>(out_rows)?, 0, p.w * c);
        for y in 0..p.h {
            p.map(input, c).load(&self.ops, y, row);
            s.add(&self.ops, stat::MAP, row, c);
        }
        Ok(())
    }

    /// A norm's second pass over its map; `shortcut` names the channels of the raw input, whose range
    /// the second convolution will need after its statistics are gone.
    pub(crate) fn norm(
        &mut self,
        job: &Job<'_>,
        p: Place,
        map: Buf,
        set: usize,
        c: usize,
        affine: &[f32],
        act: bool,
        shortcut: Option<usize>,
    ) -> Result<(), Error> {
        let [stats, out_rows, bytes] =
            self.arena.take(job.plan, [Buf::Stats, Buf::OutRows, map])?;
        let mut s = Stats::new(stats)?;
        norm(&self.ops, &mut s, set, p.map(bytes, c), p.h, affine, nums(out_rows)?);
        let range = normed_range(&s, set, c, act);
        s.set_range(0, range);
        if let Some(cin) = shortcut {
            let range = s.range(stat::MAP, cin);
            s.set_range(1, range);
        }
        Ok(())
    }

    /// A strip of rows of a convolution, from the input map into another.
    pub(crate) fn make(
        &mut self,
        job: &Job<'_>,
        p: Place,
        lin: &Linear<'_>,
        (c, how): (usize, Make),
        y: usize,
    ) -> Result<(), Error> {
        let [stats, out_rows, strip, scratch, input, output] = self
            .arena
            .take(job.plan, [Buf::Stats, Buf::OutRows, Buf::Strip, p.spare, p.input, how.to])?;
        let mut s = Stats::new(stats)?;
        if y == 0 {
            if how.norm.is_none() {
                let range = s.range(stat::MAP, c);
                s.set_range(0, range);
            }
            if let Some(set) = how.gather {
                s.reset(set);
            }
        }
        let (n, cout) = (p.rows(job, y), lin.bias.len());
        let (out, row) = split(nums::<f32>(out_rows)?, n * p.out_w * cout)?;
        let map = p.map(input, c);
        let norm = how.norm.map(|act| (s.row(stat::GAIN, c), s.row(stat::SHIFT, c), act));
        let input = Input { map, h: p.h, up: how.up, norm, range: s.get_range(0) };
        conv(&self.ops, &input, lin, (y, n), &mut Room { strip, row, scratch }, out)?;
        let Some(store) = how.store else {
            for (o, &v) in output.iter_mut().zip(out.iter()) {
                *o = pixel(v);
            }
            return Ok(());
        };
        for (i, row) in pieces_mut(out, p.out_w * cout).enumerate() {
            save(&self.ops, output, store, y + i, row)?;
            if let Some(set) = how.gather {
                s.add(&self.ops, set, row, cout);
            }
        }
        Ok(())
    }

    /// Second convolution of a residual block, added to the block's input or its 1x1 shortcut.
    pub(crate) fn second(
        &mut self,
        job: &Job<'_>,
        p: Place,
        lin: &Linear<'_>,
        shortcut: Option<&Linear<'_>>,
        (cin, cout): (usize, usize),
        y: usize,
    ) -> Result<(), Error> {
        let common =
            [Buf::Stats, Buf::OutRows, Buf::Strip, p.spare, Buf::Hidden(p.level), p.output];
        let mut foreign: &[u8] = &[];
        let [stats, out_rows, strip, scratch, hidden, output] = if p.input == p.output {
            self.arena.take(job.plan, common)?
        } else {
            let [a, b, c, d, e, f] = common;
            let [a, b, c, d, e, f, input] =
                self.arena.take(job.plan, [a, b, c, d, e, f, p.input])?;
            foreign = input;
            [a, b, c, d, e, f]
        };
        let mut s = Stats::new(stats)?;
        if y == 0 {
            s.reset(stat::MAP);
        }
        let n = p.rows(job, y);
        let (out, rest) = split(nums::<f32>(out_rows)?, n * p.w * cout)?;
        {
            let norm = Some((s.row(stat::GAIN, cout), s.row(stat::SHIFT, cout), true));
            let input =
                Input { map: p.map(hidden, cout), h: p.h, up: 1, norm, range: s.get_range(0) };
            conv(
                &self.ops,
                &input,
                lin,
                (y, n),
                &mut Room { strip, row: &mut *rest, scratch },
                out,
            )?;
        }
        for (i, row) in pieces_mut(out, p.w * cout).enumerate() {
            match shortcut {
                None => {
                    let base = part_mut(rest, 0, p.w * cout);
                    p.map(output, cout).load(&self.ops, y + i, base);
                    add(row, base);
                }
                Some(lin) => {
                    let (base, raw) = split(rest, p.w * cout)?;
                    let (map, range) = (p.map(foreign, cin), s.get_range(1));
                    let input = Input { map, h: p.h, up: 1, norm: None, range };
                    let mut room = Room { strip, row: raw, scratch: &mut [] };
                    conv(&self.ops, &input, lin, (y + i, 1), &mut room, base)?;
                    add(row, base);
                }
            }
            save(&self.ops, output, p.store, y + i, row)?;
            s.add(&self.ops, stat::MAP, row, cout);
        }
        Ok(())
    }

    /// `x += proj(softmax(q k^T / sqrt(c)) v)` of a strip of positions.
    pub(crate) fn map_attend(
        &mut self,
        job: &Job<'_>,
        p: Place,
        proj: &Linear<'_>,
        c: usize,
        y: usize,
    ) -> Result<(), Error> {
        let [stats, out_rows, strip, map, qkv] = self
            .arena
            .take(job.plan, [Buf::Stats, Buf::OutRows, Buf::Strip, p.input, Buf::MapQkv])?;
        let mut s = Stats::new(stats)?;
        if y == 0 {
            s.reset(stat::MAP);
        }
        let positions = p.h * p.w;
        let (sum, rest) = split(nums::<f32>(out_rows)?, p.w * c)?;
        let (scores, rest) = split(rest, positions)?;
        let base = rest.get_mut(..p.w * c).ok_or(Error::PlanMismatch)?;
        let factor = rsqrt(c as f32);
        let view = Map { bytes: qkv, w: 1, c: 3 * c, store: p.store };
        let skip = |k: usize| qkv.get(k * c * p.store.bytes()..).unwrap_or(&[]);
        let kv = match p.store {
            Store::F32 => Kv::F32 { k: nums_ref(skip(1))?, v: nums_ref(skip(2))? },
            Store::F16 | Store::I8 => Kv::F16 { k: nums_ref(skip(1))?, v: nums_ref(skip(2))? },
        };
        let heads = Heads { width: 3 * c, dim: c };
        for y in y..y + p.rows(job, y) {
            for (x, o) in pieces_mut(sum, c).enumerate() {
                let q = part_mut(base, 0, c);
                load_part(&self.ops, &view, y * p.w + x, q);
                for q in q.iter_mut() {
                    *q *= factor;
                }
                let mut scratch =
                    Scratch { scores: &mut *scores, probs: &mut [], sums: &mut [], query: &mut [] };
                self.ops.attend(heads, q, [(kv, positions), (kv, 0)], &mut scratch, o);
            }
            // The scores have done their work: a row's scales go in their place.
            linear(&self.ops, sum, p.w, proj, strip, scores, base)?;
            for (sum, base) in sum.iter_mut().zip(base.iter()) {
                *sum = *base;
            }
            p.map(map, c).load(&self.ops, y, base);
            add(sum, base);
            save(&self.ops, map, p.store, y, sum)?;
            s.add(&self.ops, stat::MAP, sum, c);
        }
        Ok(())
    }
}

fn add(a: &mut [f32], b: &[f32]) {
    for (a, &b) in a.iter_mut().zip(b) {
        *a += b;
    }
}

/// The first `out.len()` channels of position `i` of a map one position wide.
fn load_part<O: Ops>(ops: &O, map: &Map<'_>, i: usize, out: &mut [f32]) {
    let from = i * map.c * map.store.bytes();
    let bytes = map.bytes.get(from..).unwrap_or(&[]);
    Map { bytes, ..*map }.load(ops, 0, out);
}
