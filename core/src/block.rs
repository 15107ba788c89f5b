//! The transformer: condition, modulation, blocks, head (docs and official code: `models/basic_var.py`).
//!
//! ```text
//! x += g1 * Attn(LN(x) * gain1 + shift1)        gain = g0 + s, stored so in `Mod`
//! x += g2 * FFN (LN(x) * gain2 + shift2)
//! ```
//!
//! A block runs over tiles of tokens: first keys and values of all tiles, then, tile by tile, queries,
//! attention and the feed-forward part. Only the residual stream has the size of a scale.

use bytemuck::try_cast_slice_mut;
use half::f16;

use crate::bytes::{part, part_mut, up};
use crate::config::Trunk;
use crate::error::Error;
use crate::host::{Host, Job, linear, nums, nums_ref, split};
use crate::model::{Ada, Linear};
use crate::num::silu;
use crate::ops::{Heads, Kv, Ops, Scratch};
use crate::plan::{ARENA_ALIGN, Buf, Plan, kv_bytes, row_last_scale};
use crate::stage::{HEAD_TILE, Tile};
use crate::tier::Store;

/// Where a block's keys and values of the current scale go, and what it has from before.
struct Cache {
    /// The cache and the block's range in it.
    past: Option<(Buf, usize, usize)>,
    /// Tokens that the cache can hold.
    cap: usize,
    /// Tokens of earlier scales.
    before: usize,
    /// Whether this scale's keys and values stay for later ones.
    keep: bool,
}

impl Cache {
    fn of(job: &Job<'_>, t: Tile) -> Self {
        let (shape, tier) = (&job.model.shape, &job.plan.tier);
        let (c, trunk) = (&shape.config, shape.trunk(t.trunk));
        let n = c.n_scales();
        let j = tier.last_scale(t.trunk, t.block, n).unwrap_or(0);
        let last = row_last_scale(tier, t.row, j).unwrap_or(0);
        let cap = c.tokens_before(last);
        let bytes = kv_bytes(cap, trunk.width as usize, trunk.heads as usize, tier.cache);
        // Blocks that end together share a buffer, in order.
        let place = (0..t.block).filter(|&b| tier.last_scale(t.trunk, b, n) == Some(j)).count();
        let past = (cap > 0).then_some((Buf::Kv(t.row, j), place * bytes, bytes));
        Self { past, cap, before: c.tokens_before(t.scale), keep: t.scale < last }
    }
}

/// K, V and their scales in a cache of `cap` tokens.
fn kv_parts(cap: usize, trunk: &Trunk, store: Store) -> (usize, usize) {
    let values = up(cap * trunk.width as usize * store.bytes(), ARENA_ALIGN);
    let scales =
        if store == Store::I8 { up(2 * cap * trunk.heads as usize, ARENA_ALIGN) } else { 0 };
    (values, scales)
}

fn kv_ref<'a>(bytes: &'a [u8], cap: usize, trunk: &Trunk, store: Store) -> Result<Kv<'a>, Error> {
    let (n, s) = kv_parts(cap, trunk, store);
    let (k, v) = (part(bytes, 0, n), part(bytes, n, n));
    Ok(match store {
        Store::F32 => Kv::F32 { k: nums_ref(k)?, v: nums_ref(v)? },
        Store::F16 => Kv::F16 { k: nums_ref(k)?, v: nums_ref(v)? },
        Store::I8 => Kv::I8 {
            k: nums_ref(k)?,
            v: nums_ref(v)?,
            ks: nums_ref(part(bytes, 2 * n, s))?,
            vs: nums_ref(part(bytes, 2 * n + s, s))?,
        },
    })
}

/// Writes keys (`which` 0) or values (1) of one token.
fn kv_store<O: Ops>(
    ops: &O,
    bytes: &mut [u8],
    cap: usize,
    trunk: &Trunk,
    store: Store,
    which: usize,
    token: usize,
    x: &[f32],
) -> Result<(), Error> {
    let (n, s) = kv_parts(cap, trunk, store);
    let (w, heads) = (trunk.width as usize, trunk.heads as usize);
    let (values, rest) = split(bytes, 2 * n)?;
    let values = part_mut(values, which * n, n);
    match store {
        Store::F32 => part_mut(nums::<f32>(values)?, token * w, w).copy_from_slice_checked(x),
        Store::F16 => {
            for (o, &v) in part_mut(nums::<f16>(values)?, token * w, w).iter_mut().zip(x) {
                *o = f16::from_f32(v);
            }
        }
        Store::I8 => {
            let out = part_mut(nums::<i8>(values)?, token * w, w);
            let scales = nums::<f16>(part_mut(rest, which * s, s))?;
            let scales = part_mut(scales, token * heads, heads);
            ops.quantize_heads(x, trunk.head_dim(), out, scales);
        }
    }
    Ok(())
}

trait CopyChecked<T> {
    /// Copies what fits; never panics.
    fn copy_from_slice_checked(&mut self, from: &[T]);
}

impl<T: Copy> CopyChecked<T> for [T] {
    fn copy_from_slice_checked(&mut self, from: &[T]) {
        for (a, b) in self.iter_mut().zip(from) {
            *a = *b;
        }
    }
}

/// Tokens `at..at + n` of the residual stream of `row`, `w` channels wide.
fn x_rows<'a>(
    x: &'a mut [f32],
    job: &Job<'_>,
    w: usize,
    row: usize,
    at: usize,
    n: usize,
) -> Result<&'a mut [f32], Error> {
    let from = (row * job.model.shape.config.max_tokens() + at) * w;
    x.get_mut(from..from + n * w).ok_or(Error::PlanMismatch)
}

/// Tokens of a tile.
fn tile_tokens(plan: &Plan, job: &Job<'_>, t: Tile) -> usize {
    let l = job.model.shape.config.scale(t.scale).tokens();
    l.saturating_sub(t.at).min(plan.tier.tile)
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
        for (row, cond) in nums::<f32>(cond)?.chunks_exact_mut(w).take(rows).enumerate() {
            cond.fill(0.0);
            for t in 0..c.n_tables() {
                let none = c.table(t).rows as usize - 1;
                let label = job.request.labels.get(t).copied().flatten();
                let r = if row == 0 { label.map_or(none, |l| l as usize) } else { none };
                job.model.table(trunk, t).add_row(r, cond);
            }
        }
        Ok(())
    }

    /// `ada[row, block] = W SiLU(cond[row]) + b`.
    pub(crate) fn ada(
        &mut self,
        job: &Job<'_>,
        trunk: usize,
        row: usize,
        block: usize,
    ) -> Result<(), Error> {
        let shape = job.model.shape.trunk(trunk);
        let lin = match job.model.block(trunk, block).ada {
            Ada::Own(lin) => lin,
            Ada::Offsets(_) => job.model.trunk(trunk).shared_ada.ok_or(Error::PlanMismatch)?,
        };
        let mods = if shape.shared_aln { 1 } else { shape.depth as usize };
        self.project_cond(job, row, &lin, Buf::Ada, row * mods + block)
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
        let place = match weights.ada {
            Ada::Own(_) => t.row * trunk.depth as usize + t.block,
            Ada::Offsets(_) => t.row,
        };
        let out = part_mut(nums::<f32>(out)?, 0, 6 * w);
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
        if t.at == 0 {
            self.modulation(job, t)?;
        }
        let trunk = *job.model.shape.trunk(t.trunk);
        let store = job.plan.tier.cache;
        let w = trunk.width as usize;
        let n = tile_tokens(job.plan, job, t);
        let l = job.model.shape.config.scale(t.scale).tokens();
        let cache = Cache::of(job, t);
        let (to, from, cap, at) = match cache.past {
            Some((buf, from, _)) if cache.keep => (buf, from, cache.cap, cache.before + t.at),
            _ => (Buf::KvNow, 0, l, t.at),
        };
        let [x, work, mods, rows, scale, kv] = self
            .arena
            .take(job.plan, [Buf::X, Buf::Work, Buf::Mod, Buf::Rows, Buf::RowScale, to])?;
        let x = x_rows(nums(x)?, job, w, t.row, t.at, n)?;
        let mods = nums::<f32>(mods)?;
        let (u, rest) = split(nums::<f32>(work)?, n * w)?;
        let out = rest.get_mut(..2 * n * w).ok_or(Error::PlanMismatch)?;
        for (u, x) in u.chunks_exact_mut(w).zip(x.chunks_exact(w)) {
            self.ops.layer_norm(x, part(mods, 2 * w, w), part(mods, 4 * w, w), u);
        }
        let qkv = job.model.block(t.trunk, t.block).qkv;
        let lin = Linear { w: qkv.w.rows_from(w, 2 * w), bias: part(qkv.bias, w, 2 * w) };
        linear(&self.ops, u, n, &lin, rows, nums(scale)?, out)?;
        let bytes = kv_bytes(cap, w, trunk.heads as usize, store);
        let kv = part_mut(kv, from, bytes);
        for (i, kv_row) in out.chunks_exact_mut(2 * w).enumerate() {
            let (k, v) = split(kv_row, w)?;
            if trunk.l2_norm {
                for head in k.chunks_exact_mut(trunk.head_dim()) {
                    self.ops.normalize_heads(head, trunk.head_dim(), &[1.0]);
                }
            }
            kv_store(&self.ops, kv, cap, &trunk, store, 0, at + i, k)?;
            kv_store(&self.ops, kv, cap, &trunk, store, 1, at + i, v)?;
        }
        Ok(())
    }

    /// Attention and feed-forward of a tile.
    pub(crate) fn mix(&mut self, job: &Job<'_>, t: Tile) -> Result<(), Error> {
        let trunk = *job.model.shape.trunk(t.trunk);
        let store = job.plan.tier.cache;
        let (w, dim, hidden) = (trunk.width as usize, trunk.head_dim(), trunk.hidden as usize);
        let n = tile_tokens(job.plan, job, t);
        let l = job.model.shape.config.scale(t.scale).tokens();
        let cache = Cache::of(job, t);
        let weights = job.model.block(t.trunk, t.block);
        // A block without a cache reads nothing from it: any other buffer serves as its empty past.
        let (past_buf, from, len) = cache.past.unwrap_or((Buf::Cond, 0, 0));
        let bufs = [
            Buf::X,
            Buf::Work,
            Buf::Mod,
            Buf::Rows,
            Buf::RowScale,
            Buf::Scores,
            Buf::Head,
            Buf::KvNow,
            past_buf,
        ];
        let [x, work, mods, rows, scale, scores, head, now, past] =
            self.arena.take(job.plan, bufs)?;
        let x = x_rows(nums(x)?, job, w, t.row, t.at, n)?;
        let (mods, scale) = (nums::<f32>(mods)?, nums::<f32>(scale)?);
        let (u, rest) = split(nums::<f32>(work)?, n * w)?;
        {
            let (q, rest) = split(rest, n * w)?;
            let (o, spare) = split(rest, n * w)?;
            for (u, x) in u.chunks_exact_mut(w).zip(x.chunks_exact(w)) {
                self.ops.layer_norm(x, part(mods, 2 * w, w), part(mods, 4 * w, w), u);
            }
            let qkv = weights.qkv;
            let lin = Linear { w: qkv.w.rows_from(0, w), bias: part(qkv.bias, 0, w) };
            linear(&self.ops, u, n, &lin, rows, scale, q)?;
            for q in q.chunks_exact_mut(w) {
                if trunk.l2_norm {
                    self.ops.normalize_heads(q, dim, weights.query_scale);
                    continue;
                }
                for (q, &factor) in q.chunks_exact_mut(dim).zip(weights.query_scale) {
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
            let keys = cache.before + l;
            let places = 2 * spare.len() / (3 * keys.max(1)) * keys;
            if store == Store::I8 && places > tokens {
                let (s, p) = split(spare, places)?;
                scratch.scores = s;
                scratch.probs = try_cast_slice_mut(p).map_err(|_| Error::PlanMismatch)?;
            }
            let past = kv_ref(part(past, from, len), cache.cap, &trunk, store)?;
            let kv = if cache.keep {
                [(past, cache.before + l), (kv_ref(&[], 0, &trunk, store)?, 0)]
            } else {
                [(past, cache.before), (kv_ref(now, l, &trunk, store)?, l)]
            };
            let heads = Heads { width: w, dim };
            self.ops.attend(heads, q, kv, &mut scratch, o);
            linear(&self.ops, o, n, &weights.proj, rows, scale, u)?;
            for (x, y) in x.chunks_exact_mut(w).zip(u.chunks_exact(w)) {
                self.ops.add_gated(x, part(mods, 0, w), y);
            }
        }
        let h = rest.get_mut(..n * hidden).ok_or(Error::PlanMismatch)?;
        for (u, x) in u.chunks_exact_mut(w).zip(x.chunks_exact(w)) {
            self.ops.layer_norm(x, part(mods, 3 * w, w), part(mods, 5 * w, w), u);
        }
        linear(&self.ops, u, n, &weights.fc1, rows, scale, h)?;
        self.ops.gelu(h);
        linear(&self.ops, h, n, &weights.fc2, rows, scale, u)?;
        for (x, y) in x.chunks_exact_mut(w).zip(u.chunks_exact(w)) {
            self.ops.add_gated(x, part(mods, w, w), y);
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
            let x = x_rows(x, job, w, row, at, n)?;
            let ada = part(ada, row * 2 * w, 2 * w);
            for (u, x) in u.chunks_exact_mut(w).zip(x.chunks_exact(w)) {
                self.ops.layer_norm(x, part(ada, 0, w), part(ada, w, w), u);
            }
            let out = part_mut(logits, row * HEAD_TILE * v, n * v);
            linear(&self.ops, u, n, &weights.head, rows, row_scale, out)?;
        }
        Ok(())
    }
}
