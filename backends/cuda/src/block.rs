//! The transformer: condition, modulation, blocks, head. See `varmint_core`'s `block`; a stage does all tokens of a
//! scale and both rows of guidance.

use varmint_core::config::MAX_TABLES;
use varmint_core::device::{HeadClass, grid_line, kv, second_row};
use varmint_core::model::{Ada, BlockWeights, Linear};
use varmint_core::tensor::Matrix;
use varmint_core::{Aln, Buf, Error as CoreError, Job, Request, Store, Tile};

use crate::device::Kernel;
use crate::params::{self, Ptr, dtype, out};
use crate::queue::{Input, wants};
use crate::{Cuda, Error, store};

/// What the stages of a tile need to know.
struct Place {
    /// Width, hidden width, channels of a head.
    w: usize,
    hidden: usize,
    dim: usize,
    /// Tokens of a row, and of all rows.
    l: usize,
    m: usize,
    rows: usize,
    second: usize,
    x: Ptr,
    work: Ptr,
    /// Queries, keys and values; later the hidden layer.
    inner: Ptr,
}

impl Place {
    fn stream(&self) -> params::Stream {
        let (n, second, w) = (self.l as i32, self.second as i32, self.w as i32);
        params::Stream { x: self.x, n, second, w, unused: 0 }
    }
}

/// The heads of a class, of both guidance rows.
struct HeadRows {
    rows: [HeadClass; 2],
    /// Height and width of the scale.
    map: (usize, usize),
    /// And of what a token sees of it, where that is not all.
    near: Option<(usize, usize)>,
}

impl HeadRows {
    /// What both rows have in common.
    fn class(&self) -> &HeadClass {
        &self.rows[0]
    }

    /// Keys that a token sees.
    fn keys(&self) -> usize {
        let class = self.class();
        class.before.tokens + self.near.map_or(class.own.tokens, |(h, w)| h * w)
    }

    /// Rows of whose tokens some have to be chosen after the scale: none, the first one, or both.
    fn chosen(&self) -> usize {
        self.rows.iter().take_while(|row| row.stay > Some(0)).count()
    }
}

/// Modulation of a block: the address of the first row's six vectors, and from row to row.
struct Mods {
    at: Ptr,
    stride: usize,
    offsets: Ptr,
    gain: Ptr,
}

impl Mods {
    /// Address of vector `i` in the projection and in the offsets.
    fn vector(&self, i: usize, w: usize) -> (Ptr, Ptr) {
        let o = (4 * i * w) as u64;
        (self.at + o, if self.offsets == 0 { 0 } else { self.offsets + o })
    }
}

impl Cuda<'_> {
    fn place(&self, job: &Job<'_>, trunk: usize, scale: usize, rows: usize) -> Place {
        let shape = &job.model.shape;
        let t = shape.trunk(trunk);
        let (w, l) = (t.width as usize, shape.config.scale(scale).tokens());
        let (work, m) = (self.at(job, Buf::Work), rows * l);
        Place {
            w,
            hidden: t.hidden as usize,
            dim: t.head_dim(),
            l,
            m,
            rows,
            second: second_row(shape, &job.plan.tier, trunk),
            x: self.at(job, Buf::X),
            work,
            inner: work + (4 * m * w) as u64,
        }
    }

    fn quantized(&self, job: &Job<'_>) -> (Ptr, Ptr) {
        (self.at(job, Buf::Rows), self.at(job, Buf::RowScale))
    }

    /// The condition, and SiLU of it in the working memory. The first one sends the request, and clears the latent.
    pub(crate) fn setup(&mut self, job: &Job<'_>, trunk: usize) -> Result<(), Error> {
        let c = &job.model.shape.config;
        let w = job.model.shape.trunk(trunk).width as usize;
        if trunk == 0 {
            // Whatever an image that was given up left behind.
            self.queue.clear();
            self.held = None;
            self.sent.clear();
            self.requests(job)?;
            let latent = c.latent();
            let (n, l) = (latent.tokens() * c.cvae as usize, c.tokens());
            let p = params::Clear {
                f_hat: self.at(job, Buf::FHat),
                tokens: self.at(job, Buf::Tokens),
                n: n as i32,
                l: l as i32,
                image: self.places.image,
            };
            self.push(Kernel::clear, [n.max(l).div_ceil(256), 1, 1], 256, 0, &p);
        }
        let mut p = params::Setup {
            req: self.places.request,
            cond: self.at(job, Buf::Cond),
            act: self.at(job, Buf::Work),
            n_tables: c.n_tables() as i32,
            w: w as i32,
            image: self.places.image,
            ..Default::default()
        };
        for t in 0..c.n_tables().min(MAX_TABLES) {
            p.tables[t] = self.table(&job.model.table(trunk, t))?;
            p.rows_of[t] = c.table(t).rows as i32;
        }
        let rows = job.plan.tier.rows_of(trunk, 0);
        self.push(Kernel::setup, [w.div_ceil(128), rows, 1], 128, 0, &p);
        Ok(())
    }

    /// Sends the requests, as the kernels read them: those that are not on the device yet.
    pub(crate) fn requests(&mut self, job: &Job<'_>) -> Result<(), Error> {
        self.device.bind()?;
        for (image, request) in job.requests().enumerate() {
            let p = request_params(job, request);
            if self.sent.get(image) == Some(&p) {
                continue;
            }
            let to = self.places.request + image as u64 * self.places.image;
            self.device.write(to, bytemuck::bytes_of(&p))?;
            self.sent.truncate(image);
            self.sent.push(p);
        }
        Ok(())
    }

    /// A projection of the condition, both rows.
    fn project(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        lin: &Linear<'_>,
        to: Ptr,
        stride: usize,
    ) -> Result<(), Error> {
        let rows = job.plan.tier.rows_of(trunk, 0);
        let (w, act, room) = (lin.w.cols, self.at(job, Buf::Work), self.quantized(job));
        let (mode, row) = wants(&lin.w);
        let kind = mode + 16 * row as i32;
        let x = if self.held == Some(kind) {
            Input::rows(self.room(&lin.w, rows, (room.0, room.1, act)), rows, w)
        } else {
            self.quantize(&lin.w, (act, rows, w), room)
        };
        self.held = (mode != dtype::F32).then_some(kind).or(self.held);
        let o = params::Out { out: to, mode: out::ROWS, ldo: stride as i32, ..Default::default() };
        self.product(&x, lin, o, 0)
    }

    pub(crate) fn ada(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        row: usize,
        block: usize,
    ) -> Result<(), Error> {
        if row > 0 {
            return Ok(());
        }
        let t = *job.model.shape.trunk(trunk);
        let lin = match job.model.block(trunk, block).ada {
            Ada::Own(lin) => lin,
            Ada::Offsets(_) => job.model.trunk(trunk).shared_ada.ok_or(CoreError::PlanMismatch)?,
            Ada::Rows(table) => return self.baked(job, trunk, block, &table),
        };
        let six = 6 * t.width as usize;
        let mods = if t.aln == Aln::Shared { 1 } else { t.depth as usize };
        let to = self.at(job, Buf::Ada) + (4 * block * six) as u64;
        self.project(job, trunk, &lin, to, mods * six)
    }

    /// Modulation that was multiplied out, both rows.
    fn baked(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        block: usize,
        table: &Matrix<'_>,
    ) -> Result<(), Error> {
        let depth = job.model.shape.trunk(trunk).depth as usize;
        let p = params::BakedRows {
            req: self.places.request,
            out: self.at(job, Buf::Ada) + (4 * block * table.cols) as u64,
            table: self.table(table)?,
            none: table.rows as i32 - 1,
            stride: (depth * table.cols) as i32,
            image: self.places.image,
        };
        let rows = job.plan.tier.rows_of(trunk, 0);
        self.push(Kernel::baked_rows, [table.cols.div_ceil(128), rows, 1], 128, 0, &p);
        Ok(())
    }

    pub(crate) fn head_ada(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        row: usize,
    ) -> Result<(), Error> {
        if row > 0 {
            return Ok(());
        }
        let w = job.model.shape.trunk(trunk).width as usize;
        let weights = job.model.trunk(trunk);
        let x = self.at(job, Buf::HeadAda);
        self.project(job, trunk, &weights.head_ada, x, 2 * w)?;
        let add = self.of(weights.head_gain)?;
        let (n, stride, image) = (w as i32, 2 * w as i32, self.places.image);
        let p = params::AddVector { x, add, n, stride, image };
        let rows = job.plan.tier.rows_of(trunk, 0);
        self.push(Kernel::add_vector, [w.div_ceil(128), rows, 1], 128, 0, &p);
        Ok(())
    }

    fn mods(&self, job: &Job<'_>, t: Tile, weights: &BlockWeights<'_>) -> Result<Mods, Error> {
        let trunk = job.model.shape.trunk(t.trunk);
        let six = 6 * trunk.width as usize;
        let ada = self.at(job, Buf::Ada);
        let gain = self.of(weights.gain)?;
        Ok(match weights.ada {
            Ada::Own(_) | Ada::Rows(_) => Mods {
                at: ada + (4 * t.block * six) as u64,
                stride: trunk.depth as usize * six,
                offsets: 0,
                gain,
            },
            Ada::Offsets(offsets) => {
                Mods { at: ada, stride: six, offsets: self.of(offsets)?, gain }
            }
        })
    }

    /// Norm, modulation and quantization for a product: of attention (`which` 0) or of the feed-forward part (1).
    fn norm(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        mods: &Mods,
        which: usize,
        lin: &Linear<'_>,
    ) -> Input {
        let (gain, gain_offset) = mods.vector(2 + which, p.w);
        let (shift, shift_offset) = mods.vector(4 + which, p.w);
        let modulation = params::Modulation {
            gain,
            shift,
            gain_offset,
            shift_offset,
            gain_base: mods.gain + (4 * which * p.w) as u64,
            row_stride: mods.stride as i32,
            unused: 0,
        };
        self.norm_rows(job, p, modulation, lin)
    }

    fn norm_rows(
        &mut self,
        job: &Job<'_>,
        p: &Place,
        modulation: params::Modulation,
        lin: &Linear<'_>,
    ) -> Input {
        let (rows, scale) = self.quantized(job);
        let to = self.room(&lin.w, p.m, (rows, scale, p.work));
        let params = params::NormRows { s: p.stream(), modulation, to, image: self.places.image };
        self.push(Kernel::norm_rows, [p.m, 1, 1], 256, 4 * p.w, &params);
        Input::rows(to, p.m, p.w)
    }

    /// `x += gate * y`, gate being vector `which` of the modulation.
    fn gated(&self, p: &Place, mods: &Mods, which: usize) -> params::Out {
        let (gate, gate_offset) = mods.vector(which, p.w);
        params::Out {
            out: p.x,
            mode: out::GATED,
            ldo: p.w as i32,
            n: p.l as i32,
            second: p.second as i32,
            gate,
            gate_offset,
            gate_stride: mods.stride as i32,
            ..Default::default()
        }
    }

    /// Queries, keys and values of all tokens; keys and values go to the cache.
    pub(crate) fn keys(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let rows = job.plan.tier.rows_at_once(t.trunk, t.scale);
        let p = self.place(job, t.trunk, t.scale, rows);
        let weights = job.model.block(t.trunk, t.block);
        let mods = self.mods(job, t, &weights)?;
        let x = self.norm(job, &p, &mods, 0, &weights.qkv);
        let o = params::Out {
            out: p.inner,
            mode: out::ROWS,
            ldo: 3 * p.w as i32,
            ..Default::default()
        };
        self.product(&x, &weights.qkv, o, 0)?;
        for class in self.classes(job, &p, t) {
            if self.fused(job, &p, &class) {
                continue;
            }
            let heads = self.heads(job, &p, t, &weights, &class)?;
            let grid = [(heads.total as usize).div_ceil(32), 1, 1];
            self.push(Kernel::split_heads, grid, 256, 128 * p.dim, &heads);
        }
        Ok(())
    }

    /// The classes of heads of a block that have any.
    fn classes(&self, job: &Job<'_>, p: &Place, t: Tile) -> impl Iterator<Item = HeadRows> + use<> {
        let of = |row| kv(&job.model.shape, job.plan, Tile { row, ..t }, p.rows);
        let (first, second) = (of(0), if p.rows > 1 { of(1) } else { Default::default() });
        let (side, map) =
            (job.plan.tier.keep.window_at(t.scale), job.model.shape.config.scale(t.scale));
        let (h, w) = (map.h as usize, map.w as usize);
        let near = (side > 0 && (side < h || side < w)).then_some((side.min(h), side.min(w)));
        let classes = first.into_iter().zip(second).filter(|(class, _)| class.heads > 0);
        classes.map(move |(first, second)| HeadRows { rows: [first, second], map: (h, w), near })
    }

    /// What splits queries, keys and values into heads.
    fn heads(
        &self,
        job: &Job<'_>,
        p: &Place,
        t: Tile,
        weights: &BlockWeights<'_>,
        class: &HeadRows,
    ) -> Result<params::Heads, Error> {
        let mut heads = params::Heads {
            qkv: p.inner,
            factor: self.of(weights.query_scale)?,
            n: p.l as i32,
            w: p.w as i32,
            dim: p.dim as i32,
            norm: job.model.shape.trunk(t.trunk).l2_norm.into(),
            store: store(job.plan.tier.cache),
            total: (p.m * 3 * class.class().heads) as i32,
            first: class.class().first as i32,
            heads: class.class().heads as i32,
            // Whose queries say what stays: the normed inputs are done with.
            floats: if class.chosen() > 0 { p.work } else { 0 },
            image: self.places.image,
            ..Default::default()
        };
        for row in 0..p.rows {
            let part = self.part(class.rows[row].own);
            heads.own[row] = params::Cache { k: part.k, v: part.v, ks: part.ks, vs: part.vs };
        }
        Ok(heads)
    }

    /// Floats from a query's scores to the next and from the scores to the sums, and bytes of shared memory, of the attention on tensor cores; `None` where
    /// another one has to do it.
    fn tensor_attention(
        &self,
        job: &Job<'_>,
        p: &Place,
        class: &HeadRows,
    ) -> Option<(usize, usize, usize)> {
        let keys = class.keys();
        // Rows of scores eight banks apart, scales of keys and values, the sums of eight warps.
        let stride = keys.next_multiple_of(32) + 8;
        let sums = (16 * stride + 2 * keys).next_multiple_of(4).max(32 * 64);
        let shared = 4 * (sums + 8 * 16 * 32);
        let facts = &self.device.facts;
        let fits = shared + 1024 <= facts.shared_memory && facts.tensor() && class.near.is_none();
        (job.plan.tier.cache == Store::I8 && p.dim == 64 && fits).then_some((stride, sums, shared))
    }

    /// Whether attention splits the heads itself: where one block of it has all tokens of a head, and nobody else
    /// looks.
    fn fused(&self, job: &Job<'_>, p: &Place, class: &HeadRows) -> bool {
        p.l <= 16 && class.chosen() == 0 && self.tensor_attention(job, p, class).is_some()
    }

    /// Attention and feed-forward of all tokens.
    pub(crate) fn mix(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let rows = job.plan.tier.rows_at_once(t.trunk, t.scale);
        let p = self.place(job, t.trunk, t.scale, rows);
        let weights = job.model.block(t.trunk, t.block);
        let mods = self.mods(job, t, &weights)?;
        for class in self.classes(job, &p, t) {
            self.attend(job, t, &p, &weights, &class)?;
        }
        // The result lies where the keys were.
        let o = p.inner + (4 * p.w) as u64;
        let room = self.quantized(job);
        let x = self.quantize(&weights.proj.w, (o, p.m, 3 * p.w), room);
        self.product(&x, &weights.proj, self.gated(&p, &mods, 0), p.work)?;
        let x = self.norm(job, &p, &mods, 1, &weights.fc1);
        let hidden = params::Out {
            out: p.inner,
            mode: out::GELU,
            ldo: p.hidden as i32,
            ..Default::default()
        };
        self.product(&x, &weights.fc1, hidden, 0)?;
        let x = self.quantize(&weights.fc2.w, (p.inner, p.m, p.hidden), room);
        self.product(&x, &weights.fc2, self.gated(&p, &mods, 1), p.work)
    }

    fn attend(
        &mut self,
        job: &Job<'_>,
        t: Tile,
        p: &Place,
        weights: &BlockWeights<'_>,
        class: &HeadRows,
    ) -> Result<(), Error> {
        if class.chosen() > 0 {
            let look = self.choice(job, p, class);
            let grid = [class.class().heads, class.chosen(), 1];
            self.push(Kernel::observe, grid, 256, 4 * (look.keys() + p.dim), &look);
        }
        let (heads, keys) = (class.class().heads, class.keys());
        let (near_h, near_w) = class.near.unwrap_or_default();
        let mut a = params::Attend {
            qkv: p.inner,
            n: p.l as i32,
            w: p.w as i32,
            dim: p.dim as i32,
            store: store(job.plan.tier.cache),
            rows: p.rows as i32,
            first: class.class().first as i32,
            count: heads as i32,
            map_h: class.map.0 as i32,
            map_w: class.map.1 as i32,
            near_h: near_h as i32,
            near_w: near_w as i32,
            image: self.places.image,
            ..Default::default()
        };
        for row in 0..p.rows {
            let part = &class.rows[row];
            (a.past[row], a.own[row]) = (self.part(part.before), self.part(part.own));
        }
        if let Some((stride, sums, shared)) = self.tensor_attention(job, p, class) {
            (a.stride, a.sums) = (stride as i32, sums as i32);
            if self.fused(job, p, class) {
                a.fresh = 1;
                a.heads = self.heads(job, p, t, weights, class)?;
            }
            self.push(Kernel::attend_64, [p.l.div_ceil(16), heads, p.rows], 256, shared, &a);
        } else {
            let shared = 4 * (keys + p.dim);
            self.push(Kernel::attend_any, [p.l, heads, p.rows], 128, shared, &a);
        }
        Ok(())
    }

    /// Chooses which tokens stay after a scale, of both rows at once, and closes the gaps.
    pub(crate) fn keep(&mut self, job: &Job<'_>, t: Tile) {
        if t.row > 0 {
            return;
        }
        let rows = job.plan.tier.rows_at_once(t.trunk, t.scale);
        let p = self.place(job, t.trunk, t.scale, rows);
        for class in self.classes(job, &p, t) {
            if class.chosen() > 0 {
                let choice = self.choice(job, &p, &class);
                let grid = [class.class().heads, class.chosen(), 1];
                self.push(Kernel::keep, grid, 256, 4 * choice.keys(), &choice);
            }
        }
    }

    /// What chooses among the tokens of a class of heads.
    fn choice(&self, job: &Job<'_>, p: &Place, class: &HeadRows) -> params::Keep {
        let (c, keep) = (&job.model.shape.config, &job.plan.tier.keep);
        let of = class.class();
        let line = |n| {
            let (first, step, count) = grid_line(n, keep.grid);
            params::Line { first: first as i32, step: step as i32, count: count as i32 }
        };
        params::Keep {
            queries: p.work,
            seen: class.rows.map(|row| self.memory.at + row.seen as u64),
            past: class.rows.map(|row| self.part(row.before)),
            own: class.rows.map(|row| self.part(row.own)),
            down: line(class.map.0),
            along: line(class.map.1),
            w: p.w as i32,
            dim: p.dim as i32,
            store: store(job.plan.tier.cache),
            first: of.first as i32,
            heads: of.heads as i32,
            map_w: class.map.1 as i32,
            pool: keep.pool as i32,
            room: of.stay.unwrap_or(0) as i32,
            wide: of.wide.into(),
            protect: c.tokens_before(keep.protect) as i32,
            image: self.places.image,
        }
    }

    /// Logits of a whole scale, both rows: at its first few tokens for all of them.
    pub(crate) fn head(&mut self, job: &Job<'_>, scale: usize, at: usize) -> Result<(), Error> {
        if at > 0 {
            return Ok(());
        }
        let trunk = job.plan.tier.trunk(scale);
        let p = self.place(job, trunk, scale, job.plan.tier.rows(scale));
        let weights = job.model.trunk(trunk);
        let gain = self.at(job, Buf::HeadAda);
        let modulation = params::Modulation {
            gain,
            shift: gain + (4 * p.w) as u64,
            row_stride: 2 * p.w as i32,
            ..Default::default()
        };
        let x = self.norm_rows(job, &p, modulation, &weights.head);
        let o = params::Out {
            out: self.places.logits,
            mode: out::ROWS,
            ldo: job.model.shape.config.vocab as i32,
            ..Default::default()
        };
        self.product(&x, &weights.head, o, 0)
    }
}

/// A request as the kernels read it.
fn request_params(job: &Job<'_>, r: &Request<'_>) -> params::Request {
    let (c, s) = (&job.model.shape.config, &r.sampling);
    let scales = c.n_scales();
    let mut p = params::Request {
        seed: r.seed,
        tail: 1.0 - s.top_p as f64,
        labels: r.labels.map(|l| l.map_or(-1, |l| l as i32)),
        forced: r.tokens.is_some().into(),
        top_k: s.top_k,
        top_p: s.top_p,
        temperature: s.temperature,
        ..Default::default()
    };
    for (k, mix) in p.mix.iter_mut().enumerate().take(scales) {
        // As `sample::draw`: the strength is a double, rounded at the multiplication.
        let t = if scales > 1 { c.guidance(s.guidance, k) } else { 0.0 };
        *mix = [(1.0 + t) as f32, t as f32];
    }
    p
}
