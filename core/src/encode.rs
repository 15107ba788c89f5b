//! Pixels to tokens: the encoder's layers by the decoder's passes, then the quantizer, scale by scale (official
//! `models/quant.py`: `f_to_idxBl_or_fhat`).
//!
//! ```text
//! rest = quant_conv(encoder(image))
//! per scale:  tokens = nearest codes of area(rest -> scale);  rest -= phi_k(bicubic(codes -> P))
//! ```
//!
//! What [`Host::fold`] does when a picture is drawn is the second half of the last line with the other sign. So the
//! latent is kept negated here, which changes no rounding, and one fold serves both directions.
//!
//! A plan of its own says the bytes; the same arena may then draw. Work is in bounded steps, as a generator's.

use crate::config::{GROUPS, Shape};
use crate::decode::{Input, Make, Place, fill};
use crate::encoder::{Encoder, Part, Sizes};
use crate::error::Error;
use crate::generator::Progress;
use crate::host::{Host, Job, nums, split};
use crate::latent::reduce;
use crate::lifetimes::{Builder, fold_buffers, next_place, product};
use crate::maps::{Stats, save, stat};
use crate::model::{LayerWeights, Linear, Model};
use crate::num::up4;
use crate::ops::{Ops, Packed, Taps};
use crate::plan::{Buf, Plan, STATS};
use crate::request::Request;
use crate::scalar::row_scale;
use crate::slices::{part, part_mut, pieces, pieces_mut};
use crate::stage::{HEAD_TILE, Pass};
use crate::tensor::Data;
use crate::tier::{Store, Tier};

/// The next piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// A strip of a pass of a layer.
    Layer { at: usize, pass: Pass, y: usize },
    /// The nearest codes of a few tokens.
    Nearest { scale: usize, at: usize },
    /// Takes a scale from the latent; reduces what is left for the next one.
    Fold { scale: usize },
    /// Nothing left.
    Done,
}

/// Sizes of a map of `level`.
const fn map_size(sizes: &Sizes, shape: &Shape, level: usize) -> (usize, usize) {
    let latent = shape.config.latent();
    let f = 1 << (sizes.levels.levels as usize - 1).saturating_sub(level);
    (latent.h as usize * f, latent.w as usize * f)
}

/// Where a layer reads and writes.
const fn maps(sizes: &Sizes, at: usize) -> (Buf, Buf) {
    let (part, level) = sizes.layer(at);
    let wide = sizes.first(level) != sizes.levels.width(level);
    let own = if wide { Buf::Wide(level) } else { Buf::Map(level) };
    match part {
        Part::Conv { .. } if at == 0 => (Buf::Rgb, Buf::Map(0)),
        Part::Conv { .. } => (Buf::Z, Buf::FHat),
        Part::Res { cin, cout } if cin != cout => (Buf::Map(level), own),
        Part::Res { .. } | Part::Attention { .. } => (own, own),
        Part::Down { .. } => (own, Buf::Map(level + 1)),
        Part::Out { .. } => (own, Buf::Z),
    }
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

/// Sizes and lifetimes: a tick per layer, then one per scale.
const fn buffers(sizes: &Sizes, shape: &Shape, tier: &Tier) -> Builder {
    let (mut b, c, d) = (Builder::NEW, &shape.config, &sizes.levels);
    let (n, z, store) = (sizes.n_layers(), sizes.cvae, tier.maps.bytes());
    let act = d.act as usize;
    let mut c_max = max(max(z, sizes.stem), GROUPS);
    let mut level = 0;
    while level < d.levels as usize {
        c_max = max(c_max, d.width(level));
        level += 1;
    }
    b.add(Buf::Stats, product([4, STATS, c_max]), 0, n - 1);
    b.add(Buf::ConvScratch, tier.conv_scratch, 0, n - 1);
    let mut at = 0;
    while at < n {
        let (part, level) = sizes.layer(at);
        let (input, output) = maps(sizes, at);
        let (h, w) = map_size(sizes, shape, level);
        let (mut oh, mut ow) = (h, w);
        if let Part::Down { .. } = part {
            (oh, ow) = map_size(sizes, shape, level + 1);
        }
        let (cin, cout) = match part {
            Part::Conv { cin, cout } | Part::Res { cin, cout } => (cin, cout),
            Part::Attention { c } => (c, 3 * c),
            Part::Down { c } => (c, c),
            Part::Out { c, cout } => (c, cout),
        };
        let strip = if tier.strip < oh { tier.strip } else { oh };
        let widest = up4(max(cin, if let Part::Res { .. } = part { cout } else { cin }));
        let lines = if let Part::Down { .. } = part { 2 * strip + 1 } else { strip + 2 };
        b.add(Buf::Strip, product([lines, w + 2, widest, act]), at, at);
        // Output rows, an input row, a row of the shortcut.
        let shortcut = if matches!(part, Part::Res { .. }) && cin != cout { ow * cout } else { 0 };
        let rows = product([strip, ow, cout]).saturating_add(w * widest + shortcut);
        b.add(Buf::OutRows, product([4, rows]), at, at);
        b.add(input, product([h, w, cin, bytes_of(input, store)]), at, at);
        match part {
            Part::Attention { c } => {
                b.add(Buf::MapQkv, product([h, w, 3, c, store]), at, at);
                // Scores of one position, then scales of a row.
                let rows = product([2, w, widest]).saturating_add(product([h, w]));
                b.add(Buf::OutRows, product([4, rows]), at, at);
            }
            _ => b.add(output, product([oh, ow, cout, bytes_of(output, store)]), at, at),
        }
        if let Part::Res { .. } = part {
            b.add(Buf::Hidden(level), product([h, w, cout, store]), at, at);
        }
        at += 1;
    }
    let end = n - 1 + c.n_scales();
    fold_buffers(&mut b, shape, tier, n, end);
    b.add(Buf::FHat, 0, n - 1, end);
    b.add(Buf::Tokens, 2 * c.tokens(), n, end);
    b.add(Buf::Candidates, 4 * z, n, end);
    b
}

/// Pictures and latents are float whatever the tier.
const fn is_float(buf: Buf) -> bool {
    matches!(buf, Buf::Rgb | Buf::FHat)
}

/// Bytes of a value.
const fn bytes_of(buf: Buf, store: usize) -> usize {
    if is_float(buf) { 4 } else { store }
}

impl Work {
    const START: Self = Self::Layer { at: 0, pass: Pass::Scan, y: 0 };

    const fn next(self, sizes: &Sizes, shape: &Shape, tier: &Tier) -> Self {
        let c = &shape.config;
        match self {
            Self::Layer { at, pass, y } => {
                let (part, level) = sizes.layer(at);
                let level = if let Part::Down { .. } = part { level + 1 } else { level };
                let y = y + tier.strip;
                let whole = matches!(pass, Pass::Scan | Pass::Norm1 | Pass::Norm2);
                if !whole && y < map_size(sizes, shape, level).0 {
                    return Self::Layer { at, pass, y };
                }
                let pass = match (part, pass) {
                    (_, Pass::Scan | Pass::Norm1) => Some(Pass::First),
                    (Part::Res { .. }, Pass::First) => Some(Pass::Norm2),
                    (Part::Res { .. }, Pass::Norm2) | (Part::Attention { .. }, Pass::First) => {
                        Some(Pass::Second)
                    }
                    _ => None,
                };
                if let Some(pass) = pass {
                    return Self::Layer { at, pass, y: 0 };
                }
                let at = at + 1;
                if at == sizes.n_layers() {
                    return Self::Nearest { scale: 0, at: 0 };
                }
                let pass = match sizes.layer(at).0 {
                    Part::Conv { .. } | Part::Down { .. } => Pass::First,
                    Part::Res { .. } | Part::Attention { .. } | Part::Out { .. } => Pass::Norm1,
                };
                Self::Layer { at, pass, y: 0 }
            }
            Self::Nearest { scale, at } if at + HEAD_TILE < c.scale(scale).tokens() => {
                Self::Nearest { scale, at: at + HEAD_TILE }
            }
            // What the last scale leaves, nobody asks for.
            Self::Nearest { scale, .. } if scale + 1 < c.n_scales() => Self::Fold { scale },
            Self::Fold { scale } => Self::Nearest { scale: scale + 1, at: 0 },
            Self::Nearest { .. } | Self::Done => Self::Done,
        }
    }

    /// Multiply-accumulates.
    const fn macs(self, sizes: &Sizes, shape: &Shape, tier: &Tier) -> u64 {
        let c = &shape.config;
        let (v, z) = (c.vocab as u64, c.cvae as u64);
        match self {
            Self::Layer { at, pass, y } => {
                let (part, level) = sizes.layer(at);
                let out = if let Part::Down { .. } = part { level + 1 } else { level };
                let (h, w) = map_size(sizes, shape, out);
                let left = h.saturating_sub(y);
                let pixels = (if left < tier.strip { left } else { tier.strip }) * w;
                let per = match (part, pass) {
                    (_, Pass::Scan | Pass::Norm1 | Pass::Norm2) => 0,
                    (Part::Res { cin, cout } | Part::Conv { cin, cout }, Pass::First) => {
                        9 * cin * cout
                    }
                    (Part::Res { cin, cout }, _) => {
                        9 * cout * cout + if cin == cout { 0 } else { cin * cout }
                    }
                    (Part::Attention { c }, Pass::First) => 3 * c * c,
                    (Part::Attention { c }, _) => c * c + 2 * c * h * w,
                    (Part::Down { c }, _) => 9 * c * c,
                    (Part::Out { c, cout }, _) => 9 * c * cout,
                    (Part::Conv { .. }, _) => 0,
                };
                (pixels * per) as u64
            }
            Self::Nearest { scale, at } => {
                let left = c.scale(scale).tokens() - at;
                (if left < HEAD_TILE { left } else { HEAD_TILE }) as u64 * v * z
            }
            Self::Fold { .. } => c.latent().tokens() as u64 * z * (9 * z + 8),
            Self::Done => 0,
        }
    }
}

impl Encoder<'_> {
    /// The memory of an encoding: strip, stored maps and room for the kernels as `tier` has them. The same arena may
    /// serve the tier's own plan before or after.
    ///
    /// # Errors
    /// [`Error::PlanTooLarge`] beyond 4 GiB; [`Error::WrongEncoder`] for a latent of other channels.
    pub const fn plan(&self, shape: &Shape, tier: &Tier) -> Result<Plan, Error> {
        let sizes = &self.sizes;
        if sizes.cvae != shape.config.cvae as usize {
            return Err(Error::WrongEncoder);
        }
        let (mut work, mut total, mut most) = (Work::START, 0u64, 0);
        while !matches!(work, Work::Done) {
            let macs = work.macs(sizes, shape, tier);
            total = total.saturating_add(macs);
            if macs > most {
                most = macs;
            }
            work = work.next(sizes, shape, tier);
        }
        Plan::encoder(tier, buffers(sizes, shape, tier), (total, most))
    }

    /// Height and width of the pictures it reads for a model of this shape.
    pub const fn size(&self, shape: &Shape) -> (usize, usize) {
        map_size(&self.sizes, shape, 0)
    }
}

/// Turns a picture into the tokens of all scales, one bounded step at a time.
#[derive(Debug)]
pub struct Encoding<'a, O> {
    model: &'a Model<'a>,
    encoder: &'a Encoder<'a>,
    plan: &'a Plan,
    host: Host<'a, O>,
    request: Request<'a>,
    rgb: &'a [u8],
    work: Work,
    done: u64,
}

impl<'a, O: Ops> Encoding<'a, O> {
    /// Ready to encode `rgb`, `[height, width, 3]` as [`Encoder::size`] says.
    ///
    /// # Errors
    /// [`Error::WrongEncoder`], [`Error::BadImage`]; [`Error::PlanMismatch`] for a plan that is not
    /// [`Encoder::plan`]'s.
    pub fn new(
        model: &'a Model<'a>,
        encoder: &'a Encoder<'a>,
        plan: &'a Plan,
        host: Host<'a, O>,
        rgb: &'a [u8],
    ) -> Result<Self, Error> {
        encoder.belongs_to(model)?;
        if encoder.plan(&model.shape, &plan.tier)? != *plan {
            return Err(Error::PlanMismatch);
        }
        let (h, w) = encoder.size(&model.shape);
        if rgb.len() != 3 * h * w {
            return Err(Error::BadImage { need: 3 * h * w, got: rgb.len() });
        }
        let request = Request::new(model);
        Ok(Self { model, encoder, plan, host, request, rgb, work: Work::START, done: 0 })
    }

    /// Does one bounded piece of work, at most [`Plan::max_step_macs`]; `None` when the tokens are complete.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], which would be a defect.
    pub fn step(&mut self) -> Result<Option<Progress>, Error> {
        let (shape, tier) = (&self.model.shape, &self.plan.tier);
        let job = Job { model: self.model, plan: self.plan, request: &self.request, more: &[] };
        match self.work {
            Work::Layer { at, pass, y } => {
                if matches!(pass, Pass::Scan) {
                    self.host.picture(&job, self.rgb)?;
                }
                self.host.encode(&job, self.encoder, (at, pass, y))?;
            }
            Work::Nearest { scale, at } => {
                if (scale, at) == (0, 0) {
                    self.host.negate(&job)?;
                }
                self.host.nearest(&job, scale, at)?;
            }
            Work::Fold { scale } => self.host.fold(&job, scale)?,
            Work::Done => return Ok(None),
        }
        self.done += self.work.macs(&self.encoder.sizes, shape, tier);
        self.work = self.work.next(&self.encoder.sizes, shape, tier);
        Ok(Some(Progress { done: self.done, total: self.plan.total_macs() }))
    }

    /// The tokens of all scales; those that were not looked for yet mean nothing.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], which would be a defect.
    pub fn tokens(&mut self) -> Result<&[u16], Error> {
        let n = self.model.shape.config.tokens();
        let [tokens] = self.host.arena.take(self.plan, [Buf::Tokens])?;
        Ok(part(nums::<u16>(tokens)?, 0, n))
    }

    /// The latent `[height, width, channels]`, for tests and tools: right between the last layer and the first scale.
    ///
    /// # Errors
    /// [`Error::PlanMismatch`], which would be a defect.
    pub fn latent(&mut self) -> Result<Option<&[f32]>, Error> {
        if self.work != (Work::Nearest { scale: 0, at: 0 }) {
            return Ok(None);
        }
        let c = &self.model.shape.config;
        let [f] = self.host.arena.take(self.plan, [Buf::FHat])?;
        Ok(Some(part(nums::<f32>(f)?, 0, c.latent().tokens() * c.cvae as usize)))
    }
}

impl<O: Ops> Host<'_, O> {
    /// The picture as the encoder reads it, in -1..=1.
    fn picture(&mut self, job: &Job<'_>, rgb: &[u8]) -> Result<(), Error> {
        let [map] = self.arena.take(job.plan, [Buf::Rgb])?;
        for (o, &v) in nums::<f32>(map)?.iter_mut().zip(rgb) {
            *o = v as f32 / 127.5 - 1.0;
        }
        Ok(())
    }

    /// One strip of one pass of layer `at`.
    fn encode(
        &mut self,
        job: &Job<'_>,
        encoder: &Encoder<'_>,
        (at, pass, y): (usize, Pass, usize),
    ) -> Result<(), Error> {
        let (shape, sizes) = (&job.model.shape, &encoder.sizes);
        let (part, level) = sizes.layer(at);
        let (input, output) = maps(sizes, at);
        let (h, w) = map_size(sizes, shape, level);
        let out = if let Part::Down { .. } = part { level + 1 } else { level };
        let (out_h, out_w) = map_size(sizes, shape, out);
        let (spare, maps) = (Buf::Spare(at), job.plan.tier.maps);
        let of = |buf| if is_float(buf) { Store::F32 } else { maps };
        let (store, made) = (of(input), of(output));
        let p = Place { input, output, spare, level, h, w, out_h, out_w, store };
        match (part, encoder.layer(at), pass) {
            (Part::Conv { cin, .. }, _, Pass::Scan) => self.scan(job, p, cin),
            (Part::Conv { cin, .. }, LayerWeights::Conv(lin), _) => {
                self.make(job, p, &lin, (cin, Make { store: Some(made), ..Make::raw(p, 1) }), y)
            }
            (Part::Down { c }, LayerWeights::Conv(lin), _) => self.down(job, p, &lin, c, y),
            (Part::Res { cin, .. }, LayerWeights::Res { norm1, .. }, Pass::Norm1) => {
                self.norm(job, p, p.input, stat::MAP, cin, norm1, true, None)
            }
            (Part::Res { cin, .. }, LayerWeights::Res { conv1, .. }, Pass::First) => {
                self.make(job, p, &conv1, (cin, Make::hidden(p)), y)
            }
            (Part::Res { cin, cout }, LayerWeights::Res { norm2, .. }, Pass::Norm2) => {
                self.norm(job, p, Buf::Hidden(level), stat::HIDDEN, cout, norm2, true, Some(cin))
            }
            (Part::Res { cin, cout }, LayerWeights::Res { conv2, shortcut, .. }, _) => {
                self.second(job, p, &conv2, shortcut.as_ref(), (cin, cout), y)
            }
            (Part::Attention { c }, LayerWeights::Attention { norm, .. }, Pass::Norm1) => {
                self.norm(job, p, p.input, stat::MAP, c, norm, false, None)
            }
            (Part::Attention { c }, LayerWeights::Attention { qkv, .. }, Pass::First) => {
                self.make(job, p, &qkv, (c, Make::qkv(p)), y)
            }
            (Part::Attention { c }, LayerWeights::Attention { proj, .. }, _) => {
                self.map_attend(job, p, &proj, c, y)
            }
            (Part::Out { c, .. }, LayerWeights::Out { norm, .. }, Pass::Norm1) => {
                self.norm(job, p, p.input, stat::MAP, c, norm, true, None)
            }
            (Part::Out { c, .. }, LayerWeights::Out { conv, .. }, _) => {
                let how = Make { norm: Some(true), store: Some(made), ..Make::raw(p, 1) };
                self.make(job, p, &conv, (c, how), y)
            }
            _ => Err(Error::PlanMismatch),
        }
    }

    /// A convolution with stride 2 of a raw map: output `(y, x)` reads rows `2y..2y + 3` and columns `2x..2x + 3`,
    /// zeros past the ends.
    fn down(
        &mut self,
        job: &Job<'_>,
        p: Place,
        lin: &Linear<'_>,
        c: usize,
        y: usize,
    ) -> Result<(), Error> {
        let [stats, out_rows, strip, input, output] =
            self.arena.take(job.plan, [Buf::Stats, Buf::OutRows, Buf::Strip, p.input, p.output])?;
        let mut s = Stats::new(stats)?;
        if y == 0 {
            let range = s.range(stat::MAP, c);
            s.set_range(0, range);
            s.reset(stat::MAP);
        }
        let (n, cout) = (p.rows(job, y), lin.bias.len());
        let (out, row) = split(nums::<f32>(out_rows)?, n * p.out_w * cout)?;
        let range = s.get_range(0);
        let input = Input { map: p.map(input, c), h: p.h, up: 1, norm: None, range };
        // Input rows 2y to 2(y + n), with a column of zeros on each side: the first is not read.
        let at = (2 * y + 1, 2 * n - 1, 1);
        let ops = &self.ops;
        let bias = lin.bias;
        match lin.w.data {
            Data::F32(w) => {
                let data = fill(ops, &input, at, (strip, row), c, copy)?;
                halves(data, p.w, c, p.out_w, cout, out, |x, out| ops.gemm_f32(x, w, bias, out));
            }
            Data::F16(w) => {
                let data = fill(ops, &input, at, (strip, row), c, copy)?;
                halves(data, p.w, c, p.out_w, cout, out, |x, out| ops.gemm_f16(x, w, bias, out));
            }
            Data::I8 { w, scale, wide: false } => {
                let (s, inverse) = row_scale(range, 127.0);
                let put = |x: &[f32], q: &mut [i8]| ops.requantize_i8(x, inverse, q);
                let data = fill(ops, &input, at, (strip, row), up4(c), put)?;
                let w = Packed { w, scale, bias };
                let gemm = |x: Taps<'_, i8>, out: &mut [f32]| ops.gemm_i8(x, &[s], w, out);
                halves(data, p.w, up4(c), p.out_w, cout, out, gemm);
            }
            Data::I8 { w, scale, wide: true } => {
                let (s, inverse) = row_scale(range, 2047.0);
                let put = |x: &[f32], q: &mut [i16]| ops.requantize_i12(x, inverse, q);
                let data = fill(ops, &input, at, (strip, row), up4(c), put)?;
                let w = Packed { w, scale, bias };
                let gemm = |x: Taps<'_, i16>, out: &mut [f32]| ops.gemm_i12(x, &[s], w, out);
                halves(data, p.w, up4(c), p.out_w, cout, out, gemm);
            }
            // Refused when the file was read.
            Data::I8Rows(..) | Data::I4 { .. } => return Err(Error::PlanMismatch),
        }
        for (i, row) in pieces_mut(out, p.out_w * cout).enumerate() {
            save(&self.ops, output, p.store, y + i, row)?;
            s.add(&self.ops, stat::MAP, row, cout);
        }
        Ok(())
    }

    /// The latent with the other sign, and its reduction to the first scale.
    fn negate(&mut self, job: &Job<'_>) -> Result<(), Error> {
        let c = &job.model.shape.config;
        let (last, first, z) = (c.latent(), c.scale(0), c.cvae as usize);
        let [f, next] = self.arena.take(job.plan, [Buf::FHat, Buf::Next])?;
        let f = part_mut(nums::<f32>(f)?, 0, last.tokens() * z);
        for v in f.iter_mut() {
            *v = -*v;
        }
        let next = part_mut(nums::<f32>(next)?, 0, first.tokens() * z);
        let size = (last.h as usize, last.w as usize, z);
        reduce(f, size, (first.h as usize, first.w as usize), next);
        Ok(())
    }

    /// The code nearest to each of a few tokens; the first of equals.
    fn nearest(&mut self, job: &Job<'_>, scale: usize, at: usize) -> Result<(), Error> {
        let shape = &job.model.shape;
        let (c, z) = (&shape.config, shape.config.cvae as usize);
        let n = c.scale(scale).tokens().saturating_sub(at).min(HEAD_TILE);
        let [next, tokens, code] =
            self.arena.take(job.plan, [Buf::Next, Buf::Tokens, Buf::Candidates])?;
        let from = next_place(shape, &job.plan.tier, scale) + at;
        let wanted = part(nums::<f32>(next)?, from * z, n * z);
        let tokens = part_mut(nums::<u16>(tokens)?, c.tokens_before(scale) + at, n);
        nearest(job.model, wanted, tokens, part_mut(nums::<f32>(code)?, 0, z));
        Ok(())
    }
}

/// The code nearest to each of at most [`HEAD_TILE`] negated vectors; the first of equals. `code` has room for one.
pub(crate) fn nearest(model: &Model<'_>, negated: &[f32], tokens: &mut [u16], code: &mut [f32]) {
    let (codebook, z) = (model.codebook(), code.len());
    let mut least = [f32::INFINITY; HEAD_TILE];
    tokens.fill(0);
    for entry in 0..model.shape.config.vocab {
        code.fill(0.0);
        codebook.add_row(entry as usize, code);
        for ((negated, token), least) in pieces(negated, z).zip(tokens.iter_mut()).zip(&mut least) {
            // A difference is a sum.
            let far = negated.iter().zip(code.iter()).fold(0.0, |far, (&a, &b)| {
                let d = a + b;
                far + d * d
            });
            if far < *least {
                (*least, *token) = (far, entry as u16);
            }
        }
    }
}

fn copy(from: &[f32], to: &mut [f32]) {
    for (o, &v) in to.iter_mut().zip(from) {
        *o = v;
    }
}

/// Hands every output row of a strided convolution to a matrix product: `data` is `[2n + 1][w + 2][channels]`.
fn halves<T>(
    data: &[T],
    w: usize,
    channels: usize,
    out_w: usize,
    cout: usize,
    out: &mut [f32],
    gemm: impl Fn(Taps<'_, T>, &mut [f32]),
) {
    let line = (w + 2) * channels;
    for (y, out) in pieces_mut(out, out_w * cout).enumerate() {
        let data = data.get(2 * y * line + channels..).unwrap_or(&[]);
        let (stride, seg_len) = (2 * channels, 3 * channels);
        gemm(Taps { data, rows: out_w, stride, segs: 3, seg_len, seg_stride: line }, out);
    }
}
