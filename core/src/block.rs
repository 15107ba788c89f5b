//! The transformer: condition, modulation, blocks, head (docs and official code: `models/basic_var.py`).
//!
//! ```text
//! x += g1 * Attn(LN(x) * gain1 + shift1)        gain = g0 + s, stored so in `Mod`
//! x += g2 * FFN (LN(x) * gain2 + shift2)
//! ```
//!
//! A block runs over tiles of tokens: first keys and values of all tiles, then, tile by tile, queries,
//! attention and the feed-forward part. Only the residual stream has the size of a scale.

use crate::bytes::up;
use crate::cache::Cache;
use crate::error::Error;
use crate::host::{CopyChecked, Host, Job, linear, nums, split};
use crate::lifetimes::second_row;
use crate::look::Look;
use crate::model::{Ada, Linear};
use crate::num::silu;
use crate::ops::{Ops, Scratch};
use crate::plan::{ARENA_ALIGN, Buf};
use crate::slices::{div, part, part_mut, pieces, pieces_mut};
use crate::stage::{HEAD_TILE, Tile};
use crate::tier::Store;
use bytemuck::try_cast_slice_mut;

/// Tokens `t.at..t.at + n` of the residual stream of a row.
fn x_rows<'a>(x: &'a mut [f32], job: &Job<'_>, t: Tile, n: usize) -> Result<&'a mut [f32], Error> {
    let shape = &job.model.shape;
    let w = shape.trunk(t.trunk).width as usize;
    let from = (t.row * second_row(shape, &job.plan.tier, t.trunk) + t.at) * w;
    x.get_mut(from..from + n * w).ok_or(Error::PlanMismatch)
}

/// Tokens of a tile: at least one, in a stage of the plan's tier.
fn tile_tokens(job: &Job<'_>, t: Tile) -> Result<usize, Error> {
    let l = job.model.shape.config.scale(t.scale).tokens();
    match l.saturating_sub(t.at).min(job.plan.tier.tile) {
        0 => Err(Error::PlanMismatch),
        n => Ok(n),
    }
}

/// `u = LN(x) * gain + shift` for attention (`which` 0) or feed-forward (1), token by token.
fn norm<O: Ops>(ops: &O, x: &[f32], mods: &[f32], which: usize, u: &mut [f32]) {
    let w = mods.len() / 6;
    let (gain, shift) = (part(mods, (2 + which) * w, w), part(mods, (4 + which) * w, w));
    for (u, x) in pieces_mut(u, w).zip(pieces(x, w)) {
        ops.layer_norm(x, gain, shift, u);
    }
}

/// The rows of a tile that run together, as tiles.
fn tiles(job: &Job<'_>, t: Tile) -> impl ExactSizeIterator<Item = Tile> + Clone + use<> {
    let rows = job.plan.tier.rows_at_once(t.trunk, t.scale);
    (0..rows).map(move |row| Tile { row: t.row + row, ..t })
}

/// The row of condition table `t` that row `row` of the batch has; of row 1 "not given".
fn condition(job: &Job<'_>, t: usize, row: usize) -> usize {
    let none = job.model.shape.config.table(t).rows as usize - 1;
    let label = job.request.labels.get(t).copied().flatten();
    if row == 0 { label.map_or(none, |l| l as usize) } else { none }
}

impl<O: Ops> Host<'_, O> {
    /// `cond[row] = sum of the tables' rows`; row 1 is "not given" everywhere.
    pub(crate) fn setup(&mut self, job: &Job<'_>, trunk: usize) -> Result<(), Error> {
        let c = &job.model.shape.config;
        let w = job.model.shape.trunk(trunk).width as usize;
        let [cond, f_hat, tokens] =
            self.arena.take(job.plan, [Buf::Cond, Buf::FHat, Buf::Tokens])?;
        if trunk == 0 {
            f_hat.fill(0);
            tokens.fill(0);
        }
        let rows = job.plan.tier.rows_of(trunk, 0);
        for (row, cond) in pieces_mut(nums::<f32>(cond)?, w).take(rows).enumerate() {
            cond.fill(0.0);
            for t in 0..c.n_tables() {
                job.model.table(trunk, t).add_row(condition(job, t, row), cond);
            }
        }
        Ok(())
    }

    /// `ada[row, block] = W SiLU(cond[row]) + b`, or the row of a table that has it.
    pub(crate) fn ada(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        row: usize,
        block: usize,
    ) -> Result<(), Error> {
        let place = row * job.model.shape.trunk(trunk).depth as usize + block;
        match job.model.block(trunk, block).ada {
            Ada::Own(lin) => self.project_cond(job, row, &lin, Buf::Ada, place),
            Ada::Offsets(_) => {
                let lin = job.model.trunk(trunk).shared_ada.ok_or(Error::PlanMismatch)?;
                self.project_cond(job, row, &lin, Buf::Ada, row)
            }
            Ada::Rows(table) => {
                let [out] = self.arena.take(job.plan, [Buf::Ada])?;
                let out = part_mut(nums::<f32>(out)?, place * table.cols, table.cols);
                out.fill(0.0);
                table.add_row(condition(job, 0, row), out);
                Ok(())
            }
        }
    }

    /// `head_ada[row] = W SiLU(cond[row]) + b`, its first half plus the head's gain.
    pub(crate) fn head_ada(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        row: usize,
    ) -> Result<(), Error> {
        let w = job.model.shape.trunk(trunk).width as usize;
        let weights = job.model.trunk(trunk);
        self.project_cond(job, row, &weights.head_ada, Buf::HeadAda, row)?;
        let [ada] = self.arena.take(job.plan, [Buf::HeadAda])?;
        for (s, &g) in part_mut(nums::<f32>(ada)?, row * 2 * w, w).iter_mut().zip(weights.head_gain)
        {
            *s += g;
        }
        Ok(())
    }

    fn project_cond(
        &mut self,
        job: &Job<'_>,
        row: usize,
        lin: &Linear<'_>,
        to: Buf,
        place: usize,
    ) -> Result<(), Error> {
        let (n, w) = (lin.w.rows, lin.w.cols);
        let [cond, work, rows, scale, out] =
            self.arena.take(job.plan, [Buf::Cond, Buf::Work, Buf::Rows, Buf::RowScale, to])?;
        let u = part_mut(nums::<f32>(work)?, 0, w);
        for (u, &c) in u.iter_mut().zip(part(nums::<f32>(cond)?, row * w, w)) {
            *u = silu(c);
        }
        let out = part_mut(nums::<f32>(out)?, place * n, n);
        linear(&self.ops, u, 1, lin, rows, nums(scale)?, out)
    }

    /// The block's modulation as the tile stages use it: g1, g2, gain1, gain2, shift1, shift2.
    fn modulation(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let trunk = job.model.shape.trunk(t.trunk);
        let w = trunk.width as usize;
        let weights = job.model.block(t.trunk, t.block);
        let [ada, out] = self.arena.take(job.plan, [Buf::Ada, Buf::Mod])?;
        let to = if job.plan.tier.together { t.row } else { 0 };
        let place = match weights.ada {
            Ada::Own(_) | Ada::Rows(_) => t.row * trunk.depth as usize + t.block,
            Ada::Offsets(_) => t.row,
        };
        let out = part_mut(nums::<f32>(out)?, to * 6 * w, 6 * w);
        out.copy_from_slice_checked(part(nums::<f32>(ada)?, place * 6 * w, 6 * w));
        if let Ada::Offsets(offsets) = weights.ada {
            for (o, &v) in out.iter_mut().zip(offsets) {
                *o += v;
            }
        }
        for (s, &g) in part_mut(out, 2 * w, 2 * w).iter_mut().zip(weights.gain) {
            *s += g;
        }
        Ok(())
    }

    /// Keys and values of a tile, into the cache or into `KvNow`.
    pub(crate) fn keys(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let (tiles, first) = (tiles(job, t), t.row);
        if t.at == 0 {
            for t in tiles.clone() {
                self.modulation(job, t)?;
            }
        }
        let trunk = *job.model.shape.trunk(t.trunk);
        let w = trunk.width as usize;
        let n = tile_tokens(job, t)?;
        let m = n * tiles.len();
        let [kv, kv_null] = Cache::bufs(job, t);
        let bufs = [Buf::X, Buf::Work, Buf::Mod, Buf::Rows, Buf::RowScale, Buf::KvNow, kv, kv_null];
        let [x, work, mods, rows, scale, now, kv, kv_null] = self.arena.take(job.plan, bufs)?;
        let (x, mods) = (nums::<f32>(x)?, nums::<f32>(mods)?);
        let (u, rest) = split(nums::<f32>(work)?, m * w)?;
        let out = rest.get_mut(..2 * m * w).ok_or(Error::PlanMismatch)?;
        let lots = tiles.clone().zip(pieces(mods, 6 * w)).zip(pieces_mut(u, n * w));
        for ((t, mods), u) in lots {
            norm(&self.ops, x_rows(x, job, t, n)?, mods, 0, u);
        }
        let qkv = job.model.block(t.trunk, t.block).qkv;
        let lin = Linear { w: qkv.w.rows_from(w, 2 * w), bias: part(qkv.bias, w, 2 * w) };
        linear(&self.ops, u, m, &lin, rows, nums(scale)?, out)?;
        let room = div(now.len(), tiles.len());
        let lots = tiles.zip(pieces_mut(now, room)).zip(pieces_mut(out, n * 2 * w));
        for ((t, now), out) in lots {
            let cache = Cache::of(&job.model.shape, job.plan.layout(), t);
            let past = if t.row == first { &mut *kv } else { &mut *kv_null };
            for (i, kv_row) in pieces_mut(out, 2 * w).enumerate() {
                let (k, v) = split(kv_row, w)?;
                if trunk.l2_norm {
                    for head in pieces_mut(k, trunk.head_dim()) {
                        self.ops.normalize_heads(head, trunk.head_dim(), &[1.0]);
                    }
                }
                for slab in cache.slabs.iter().filter(|s| s.of.heads > 0) {
                    let (at, wide) = (slab.of.first * slab.of.dim, slab.of.width());
                    slab.store(&self.ops, past, now, 0, t.at + i, part(k, at, wide))?;
                    slab.store(&self.ops, past, now, 1, t.at + i, part(v, at, wide))?;
                }
            }
        }
        Ok(())
    }

    /// Attention and feed-forward of a tile.
    pub(crate) fn mix(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let (tiles, first) = (tiles(job, t), t.row);
        let trunk = *job.model.shape.trunk(t.trunk);
        let (w, dim, hidden) = (trunk.width as usize, trunk.head_dim(), trunk.hidden as usize);
        let n = tile_tokens(job, t)?;
        let m = n * tiles.len();
        let weights = job.model.block(t.trunk, t.block);
        let [kv, kv_null] = Cache::bufs(job, t);
        let cache = Cache::of(&job.model.shape, job.plan.layout(), t);
        // At scales that need neither, something else may live in their place.
        let seen = if cache.chooses() { Buf::Seen } else { Buf::Nothing };
        let windowed = job.plan.tier.keep.window_at(t.scale) > 0;
        let near = if windowed { Buf::Near } else { Buf::Nothing };
        let bufs = [
            Buf::X,
            Buf::Work,
            Buf::Mod,
            Buf::Rows,
            Buf::RowScale,
            Buf::Scores,
            Buf::Head,
            Buf::KvNow,
            seen,
            near,
            kv,
            kv_null,
        ];
        let [x, work, mods, rows, scale, scores, head, now, seen, near, kv, kv_null] =
            self.arena.take(job.plan, bufs)?;
        let (x, mods, scale) = (nums::<f32>(x)?, nums::<f32>(mods)?, nums::<f32>(scale)?);
        let (u, rest) = split(nums::<f32>(work)?, m * w)?;
        let lots = || tiles.clone().zip(pieces(mods, 6 * w));
        {
            let (q, rest) = split(rest, m * w)?;
            let (o, spare) = split(rest, m * w)?;
            for ((t, mods), u) in lots().zip(pieces_mut(u, n * w)) {
                norm(&self.ops, x_rows(x, job, t, n)?, mods, 0, u);
            }
            let qkv = weights.qkv;
            let lin = Linear { w: qkv.w.rows_from(0, w), bias: part(qkv.bias, 0, w) };
            linear(&self.ops, u, m, &lin, rows, scale, q)?;
            for q in pieces_mut(q, w) {
                if trunk.l2_norm {
                    self.ops.normalize_heads(q, dim, weights.query_scale);
                    continue;
                }
                for (q, &factor) in pieces_mut(q, dim).zip(weights.query_scale) {
                    for v in q {
                        *v *= factor;
                    }
                }
            }
            let tokens = job.model.shape.config.tokens();
            let (s, p) = split(scores, up(4 * tokens, ARENA_ALIGN))?;
            let (sums, query) = split(head, 4 * dim)?;
            let query = nums(query.get_mut(..dim).ok_or(Error::PlanMismatch)?)?;
            let probs = nums(p.get_mut(..2 * tokens).ok_or(Error::PlanMismatch)?)?;
            let mut scratch = Scratch { scores: nums(s)?, probs, sums: nums(sums)?, query };
            // The hidden layer's place is free until then, and mostly larger than what was planned.
            let keys = cache.keys();
            let places = div(2 * spare.len(), 3 * keys) * keys;
            if job.plan.tier.cache == Store::I8 && places > tokens {
                let (s, p) = split(spare, places)?;
                scratch.scores = s;
                scratch.probs = try_cast_slice_mut(p).map_err(|_| Error::PlanMismatch)?;
            }
            let mut look = Look { job, near, scratch };
            let seen = nums::<f32>(seen)?;
            let (room, seen_room) = (div(now.len(), tiles.len()), div(seen.len(), tiles.len()));
            for (i, t) in tiles.clone().enumerate() {
                let past = if t.row == first { &*kv } else { &*kv_null };
                let read = (past, part(now, i * room, room));
                let seen = part_mut(seen, i * seen_room, seen_room);
                let (q, o) = (part(q, i * n * w, n * w), part_mut(o, i * n * w, n * w));
                look.all(&self.ops, t, read, seen, q, part_mut(u, 0, n * w), o)?;
            }
            linear(&self.ops, o, m, &weights.proj, rows, scale, u)?;
            for ((t, mods), u) in lots().zip(pieces(u, n * w)) {
                let x = x_rows(x, job, t, n)?;
                for (x, y) in pieces_mut(x, w).zip(pieces(u, w)) {
                    self.ops.add_gated(x, part(mods, 0, w), y);
                }
            }
        }
        let h = rest.get_mut(..m * hidden).ok_or(Error::PlanMismatch)?;
        for ((t, mods), u) in lots().zip(pieces_mut(u, n * w)) {
            norm(&self.ops, x_rows(x, job, t, n)?, mods, 1, u);
        }
        linear(&self.ops, u, m, &weights.fc1, rows, scale, h)?;
        self.ops.gelu(h);
        linear(&self.ops, h, m, &weights.fc2, rows, scale, u)?;
        for ((t, mods), u) in lots().zip(pieces(u, n * w)) {
            let x = x_rows(x, job, t, n)?;
            for (x, y) in pieces_mut(x, w).zip(pieces(u, w)) {
                self.ops.add_gated(x, part(mods, w, w), y);
            }
        }
        Ok(())
    }

    /// Raw logits of a few tokens, both rows.
    pub(crate) fn head(&mut self, job: &Job<'_>, scale: usize, at: usize) -> Result<(), Error> {
        let c = &job.model.shape.config;
        let trunk = job.plan.tier.trunk(scale);
        let w = job.model.shape.trunk(trunk).width as usize;
        let v = c.vocab as usize;
        let n = c.scale(scale).tokens().saturating_sub(at).min(HEAD_TILE);
        let weights = job.model.trunk(trunk);
        let bufs = [Buf::X, Buf::Work, Buf::HeadAda, Buf::Rows, Buf::RowScale, Buf::Logits];
        let [x, work, ada, rows, row_scale, logits] = self.arena.take(job.plan, bufs)?;
        let (x, ada, row_scale) = (nums(x)?, nums::<f32>(ada)?, nums::<f32>(row_scale)?);
        let logits = nums::<f32>(logits)?;
        let u = part_mut(nums::<f32>(work)?, 0, n * w);
        for row in 0..job.plan.tier.rows(scale) {
            let x = x_rows(x, job, Tile { trunk, scale, row, block: 0, at }, n)?;
            let ada = part(ada, row * 2 * w, 2 * w);
            for (u, x) in pieces_mut(u, w).zip(pieces(x, w)) {
                self.ops.layer_norm(x, part(ada, 0, w), part(ada, w, w), u);
            }
            let out = part_mut(logits, row * HEAD_TILE * v, n * v);
            linear(&self.ops, u, n, &weights.head, rows, row_scale, out)?;
        }
        Ok(())
    }
}
