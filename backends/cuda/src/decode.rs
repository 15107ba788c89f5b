//! The image decoder: strips of many rows, statistics in the order of the reference. See `varmint_core`'s `decode`.

use varmint_core::config::groups;
use varmint_core::device::{STATS, level_maps, map_size, out_size, stat};
use varmint_core::model::{LayerWeights, Linear};
use varmint_core::num::{rsqrt, up4};
use varmint_core::tensor::Layer;
use varmint_core::{Buf, Error as CoreError, Job, Model, Pass, Plan, Store};

use crate::device::Kernel;
use crate::params::{self, Ptr, dtype, out};
use crate::queue::{Input, floats, wants};
use crate::{Cuda, Error, store};

/// Norm on the way into a convolution.
const NONE: i32 = 0;
const NORM: i32 = 1;
const NORM_SILU: i32 = 2;

/// What is added to a convolution's result.
#[derive(Clone, Copy)]
enum Base {
    Nothing,
    /// What the map holds.
    Map,
    /// Rows of floats.
    Rows(Ptr),
}

/// A map on the device.
#[derive(Clone, Copy)]
struct Map {
    at: Ptr,
    store: Store,
    h: usize,
    w: usize,
    c: usize,
}

impl Map {
    /// The address of row `y`.
    fn row(&self, y: usize) -> Ptr {
        self.at + (y * self.w * self.c * self.store.bytes()) as u64
    }
}

/// What of a layer the passes need to know.
struct Place {
    level: usize,
    input: Map,
    /// Where the output map lies, and its size; its channels are the layer's.
    output: Ptr,
    out_h: usize,
    out_w: usize,
    /// Rows of the strip, from row `y`.
    y: usize,
    n: usize,
    stats: Ptr,
    c_max: usize,
}

impl Place {
    fn stat(&self, row: usize) -> Ptr {
        self.stats + (4 * row * self.c_max) as u64
    }
}

/// The widest map that a layer handles.
pub(crate) fn most_channels(layer: Layer) -> usize {
    match layer {
        Layer::Conv { cin, cout } | Layer::Res { cin, cout } => cin.max(cout),
        Layer::Attention { c } => 3 * c,
        Layer::Up { c } | Layer::Out { c } => c,
    }
}

/// Whether a layer has float weights.
pub(crate) fn has_floats(model: &Model<'_>, plan: &Plan, at: usize) -> bool {
    match model.layer(plan.tier.decoder, at).2 {
        LayerWeights::Conv(lin) | LayerWeights::Out { conv: lin, .. } => floats(&lin),
        LayerWeights::Res { conv1, conv2, shortcut, .. } => {
            floats(&conv1) || floats(&conv2) || shortcut.is_some_and(|s| floats(&s))
        }
        LayerWeights::Attention { qkv, proj, .. } => floats(&qkv) || floats(&proj),
    }
}

impl Cuda<'_> {
    pub(crate) fn decode(
        &mut self,
        job: &Job<'_>,
        at: usize,
        pass: Pass,
        y: usize,
    ) -> Result<(), Error> {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let (layer, level, weights) = job.model.layer(tier.decoder, at);
        let (from, to) = level_maps(shape, tier, at);
        let (h, w) = map_size(shape, tier, level);
        let (out_h, out_w) = out_size(shape, tier, layer, level);
        let c = match layer {
            Layer::Conv { cin, .. } | Layer::Res { cin, .. } => cin,
            Layer::Attention { c } | Layer::Up { c } | Layer::Out { c } => c,
        };
        // The latent is float whatever the tier.
        let kept = if from == Buf::FHat { Store::F32 } else { tier.maps };
        let p = Place {
            level,
            input: Map { at: self.at(job, from), store: kept, h, w, c },
            output: self.at(job, to),
            out_h,
            out_w,
            y,
            n: out_h.saturating_sub(y).min(tier.strip),
            stats: self.at(job, Buf::Stats),
            c_max: job.plan.buffer(Buf::Stats).size as usize / 4 / STATS,
        };
        match (layer, weights, pass) {
            (Layer::Conv { .. }, _, Pass::Scan) => {
                self.stats(job, &p, stat::MAP, p.input, 0, h, true);
                Ok(())
            }
            (Layer::Conv { .. }, LayerWeights::Conv(lin), _) => self.plain(job, &p, &lin, 1),
            (Layer::Up { .. }, LayerWeights::Conv(lin), _) => self.plain(job, &p, &lin, 2),
            (Layer::Res { .. }, LayerWeights::Res { norm1, .. }, Pass::Norm1) => {
                self.map_norm(job, &p, p.input, stat::MAP, norm1, true, 0)
            }
            (Layer::Res { .. }, LayerWeights::Res { conv1, .. }, Pass::First) => {
                let x = self.fill(job, &p, p.input, 1, &conv1, NORM_SILU, 0);
                let hidden = self.hidden(job, &p, conv1.bias.len());
                self.convolve(&p, &x, &conv1, hidden, Base::Nothing)?;
                self.stats(job, &p, stat::HIDDEN, hidden, p.y, p.n, p.y == 0);
                Ok(())
            }
            (Layer::Res { cin, cout }, LayerWeights::Res { norm2, .. }, Pass::Norm2) => {
                let hidden = self.hidden(job, &p, cout);
                self.map_norm(job, &p, hidden, stat::HIDDEN, norm2, true, cin)
            }
            (Layer::Res { .. }, LayerWeights::Res { conv2, shortcut, .. }, _) => {
                self.second(job, &p, &conv2, shortcut.as_ref())
            }
            (Layer::Attention { .. }, LayerWeights::Attention { norm, .. }, Pass::Norm1) => {
                self.map_norm(job, &p, p.input, stat::MAP, norm, false, 0)
            }
            (Layer::Attention { .. }, LayerWeights::Attention { qkv, .. }, Pass::First) => {
                let x = self.fill(job, &p, p.input, 1, &qkv, NORM, 0);
                let to = Map { at: self.at(job, Buf::MapQkv), store: tier.maps, h, w, c: 3 * c };
                self.convolve(&p, &x, &qkv, to, Base::Nothing)
            }
            (Layer::Attention { .. }, LayerWeights::Attention { proj, .. }, _) => {
                self.map_attend(job, &p, &proj)
            }
            (Layer::Out { .. }, LayerWeights::Out { norm, .. }, Pass::Norm1) => {
                self.map_norm(job, &p, p.input, stat::MAP, norm, true, 0)
            }
            (Layer::Out { .. }, LayerWeights::Out { conv, .. }, _) => {
                let x = self.fill(job, &p, p.input, 1, &conv, NORM_SILU, 0);
                let o = params::Out {
                    out: self.at(job, Buf::Rgb),
                    mode: out::PIXELS,
                    ldo: 3,
                    ..self.ranged(&p, &x, 0)
                };
                self.product(&x, &conv, o, self.places.floats)
            }
            _ => Err(CoreError::PlanMismatch.into()),
        }
    }

    fn hidden(&self, job: &Job<'_>, p: &Place, c: usize) -> Map {
        let at = self.at(job, Buf::Hidden(p.level));
        Map { at, store: job.plan.tier.maps, h: p.out_h, w: p.out_w, c }
    }

    /// The strip that output rows of a convolution read, quantized by range `range` of the statistics.
    fn fill(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        map: Map,
        up: usize,
        lin: &Linear<'_>,
        norm: i32,
        range: usize,
    ) -> Input {
        let (mode, _) = wants(&lin.w);
        let px = if mode == dtype::F32 { map.c } else { up4(map.c) };
        let pad = if lin.w.taps == 9 { 1 } else { 0 };
        let (rows, width) = (p.n + 2 * pad, map.w * up + 2 * pad);
        let strip = self.at(job, Buf::Strip);
        let plane = (rows * width * px) as u64;
        let params = params::Fill {
            map: map.at,
            gain: p.stat(stat::GAIN),
            shift: p.stat(stat::SHIFT),
            range: p.stat(stat::RANGE) + 4 * range as u64,
            out: strip,
            plane,
            store: store(map.store),
            h: map.h as i32,
            w: map.w as i32,
            c: map.c as i32,
            up: up as i32,
            y: p.y as i32,
            rows: rows as i32,
            pad: pad as i32,
            px: px as i32,
            norm,
            levels: levels(mode),
            mode,
            image: self.places.image,
        };
        let total = rows * width * px.div_ceil(4);
        self.push(Kernel::fill, [total.div_ceil(256), 1, 1], 256, 0, &params);
        let q = params::Quantized { q: strip, plane, scale: 0, stride: px as i32, mode };
        if pad == 1 {
            Input::strip(q, p.n, map.w * up, px)
        } else {
            Input::rows(q, p.n * map.w * up, px)
        }
    }

    /// The scale of a strip: that of range `range`.
    fn ranged(&self, p: &Place, x: &Input, range: usize) -> params::Out {
        params::Out {
            range: p.stat(stat::RANGE) + 4 * range as u64,
            levels: levels(x.q.mode),
            ..Default::default()
        }
    }

    /// A convolution into the strip's rows of a map.
    fn convolve(
        &mut self,
        p: &Place,
        x: &Input,
        lin: &Linear<'_>,
        to: Map,
        base: Base,
    ) -> Result<(), Error> {
        let o = params::Out { ..self.ranged(p, x, 0) };
        self.product(x, lin, onto(o, p.y, to, base), self.places.floats)
    }

    /// Statistics of rows `y..y + n` of a map.
    fn stats(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        set: usize,
        map: Map,
        y: usize,
        n: usize,
        first: bool,
    ) {
        let temp = self.at(job, Buf::OutRows);
        let rows = params::RowStats {
            map: map.at,
            temp,
            store: store(map.store),
            w: map.w as i32,
            c: map.c as i32,
            y: y as i32,
            rows: n as i32,
            unused: 0,
            image: self.places.image,
        };
        let threads = map.c.next_multiple_of(32).min(128);
        self.push(Kernel::row_stats, [map.c.div_ceil(threads), n, 1], threads, 0, &rows);
        let all = params::AddStats {
            stats: p.stats,
            temp,
            c_max: p.c_max as i32,
            set: set as i32,
            rows: n as i32,
            c: map.c as i32,
            first: first.into(),
            unused: 0,
            image: self.places.image,
        };
        self.push(Kernel::add_stats, [p.c_max.div_ceil(64), 1, 1], 64, 0, &all);
    }

    /// A norm's second pass over its map.
    fn map_norm(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        map: Map,
        set: usize,
        affine: &[f32],
        act: bool,
        raw: usize,
    ) -> Result<(), Error> {
        let temp = self.at(job, Buf::OutRows);
        let (c, groups) = (map.c, groups(map.c));
        let squares = params::RowSquares {
            map: map.at,
            sums: p.stat(set),
            temp,
            store: store(map.store),
            h: map.h as i32,
            w: map.w as i32,
            c: c as i32,
            groups: groups as i32,
            unused: 0,
            image: self.places.image,
        };
        let threads = c.next_multiple_of(32).min(128);
        self.push(Kernel::row_squares, [c.div_ceil(threads), map.h, 1], threads, 0, &squares);
        let finish = params::FinishNorm {
            stats: p.stats,
            affine: self.of(affine)?,
            temp,
            c_max: p.c_max as i32,
            set: set as i32,
            h: map.h as i32,
            w: map.w as i32,
            c: c as i32,
            groups: groups as i32,
            act: act.into(),
            raw: raw as i32,
            image: self.places.image,
        };
        let threads = c.max(raw).next_multiple_of(32).min(1024);
        self.push(Kernel::finish_norm, [1, 1, 1], threads, 4 * c, &finish);
        Ok(())
    }

    /// A convolution of a raw map: the latent's two, and the enlargements.
    fn plain(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        lin: &Linear<'_>,
        up: usize,
    ) -> Result<(), Error> {
        if p.y == 0 {
            let (c_max, c) = (p.c_max as i32, p.input.c as i32);
            let (stats, set, image) = (p.stats, stat::MAP as i32, self.places.image);
            let range = params::MapRange { stats, c_max, set, c, to: 0, image };
            self.push(Kernel::map_range, [1, 1, 1], 256, 0, &range);
        }
        let x = self.fill(job, p, p.input, up, lin, NONE, 0);
        let to = Map {
            at: p.output,
            store: job.plan.tier.maps,
            h: p.out_h,
            w: p.out_w,
            c: lin.bias.len(),
        };
        self.convolve(p, &x, lin, to, Base::Nothing)?;
        self.stats(job, p, stat::MAP, to, p.y, p.n, p.y == 0);
        Ok(())
    }

    /// Second convolution of a residual block, added to the block's input or its 1x1 shortcut.
    fn second(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        lin: &Linear<'_>,
        shortcut: Option<&Linear<'_>>,
    ) -> Result<(), Error> {
        let c = lin.bias.len();
        let to = Map { at: p.output, store: job.plan.tier.maps, h: p.out_h, w: p.out_w, c };
        let base = match shortcut {
            None => Base::Map,
            Some(shortcut) => {
                let rows = self.at(job, Buf::OutRows);
                let x = self.fill(job, p, p.input, 1, shortcut, NONE, 1);
                let o = params::Out {
                    out: rows,
                    mode: out::ROWS,
                    ldo: c as i32,
                    ..self.ranged(p, &x, 1)
                };
                self.product(&x, shortcut, o, 0)?;
                Base::Rows(rows)
            }
        };
        let hidden = self.hidden(job, p, c);
        let x = self.fill(job, p, hidden, 1, lin, NORM_SILU, 0);
        self.convolve(p, &x, lin, to, base)?;
        self.stats(job, p, stat::MAP, to, p.y, p.n, p.y == 0);
        Ok(())
    }

    /// `x += proj(softmax(q k^T / sqrt(c)) v)` of a strip of positions.
    fn map_attend(&mut self, job: &Job<'_>, p: &Place, proj: &Linear<'_>) -> Result<(), Error> {
        let Map { h, w, c, .. } = p.input;
        let (positions, m) = (h * w, p.n * w);
        let o = self.at(job, Buf::OutRows);
        let a = params::AttendMap {
            qkv: self.at(job, Buf::MapQkv),
            out: o,
            store: store(job.plan.tier.maps),
            c: c as i32,
            positions: positions as i32,
            first: (p.y * w) as i32,
            factor: rsqrt(c as f32),
            total: m as i32,
            image: self.places.image,
        };
        self.push(Kernel::attend_map, [m.div_ceil(2), 1, 1], 512, 8 * (positions + c), &a);
        let room = (self.at(job, Buf::Strip), o + (4 * m * c) as u64);
        let x = self.quantize(&proj.w, (o, m, c), room);
        let to = onto(params::Out::default(), p.y, p.input, Base::Map);
        self.product(&x, proj, to, self.places.floats)?;
        self.stats(job, p, stat::MAP, p.input, p.y, p.n, p.y == 0);
        Ok(())
    }
}

/// Results into rows `y..` of a map.
fn onto(o: params::Out, y: usize, to: Map, base: Base) -> params::Out {
    let (base, rows) = match base {
        Base::Nothing => (0, 0),
        Base::Map => (1, 0),
        Base::Rows(rows) => (2, rows),
    };
    let (mode, store, ldo) = (out::MAP, store(to.store), to.c as i32);
    params::Out { out: to.row(y), mode, store, ldo, base, rows, ..o }
}

fn levels(mode: i32) -> f32 {
    if mode == dtype::I8_WIDE { 2047.0 } else { 127.0 }
}
