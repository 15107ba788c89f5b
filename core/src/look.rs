//! Attention of a tile over the caches of its block: class of heads by class, over all that is cached and the
//! own scale, or over a neighbourhood.

use crate::cache::{Cache, Slab};
use crate::error::Error;
use crate::grid::neighbourhood;
use crate::host::{CopyChecked, Job};
use crate::keep::observe;
use crate::ops::{Heads, Ops, Scratch};
use crate::slices::{div, part, part_mut, pieces, pieces_mut, place};
use crate::stage::Tile;

/// Where attention of a tile works.
pub(crate) struct Look<'a> {
    pub(crate) job: &'a Job<'a>,
    /// Keys and values of a neighbourhood.
    pub(crate) near: &'a mut [u8],
    pub(crate) scratch: Scratch<'a>,
}

impl Look<'_> {
    /// Attention of all heads of a row; `q` and `o` are `[tokens, C]`, `read` is the cache and `KvNow`.
    #[allow(clippy::too_many_arguments, reason = "the buffers of one operation")]
    pub(crate) fn all<O: Ops>(
        &mut self,
        ops: &O,
        t: Tile,
        read: (&[u8], &[u8]),
        seen: &mut [f32],
        q: &[f32],
        temp: &mut [f32],
        o: &mut [f32],
    ) -> Result<(), Error> {
        let cache = Cache::of(&self.job.model.shape, self.job.plan.layout(), t);
        if t.at == 0 && cache.chooses() {
            seen.fill(0.0);
        }
        let slabs = match cache.slabs {
            [none, slab] | [slab, none] if none.of.heads == 0 => {
                return self.class(ops, t, &slab, read, seen, q, o);
            }
            slabs => slabs,
        };
        // Class by class: its queries together in `temp`, its outputs in `o`; then in the order of heads.
        let w = slabs.iter().map(|s| s.of.width()).sum::<usize>();
        let n = div(q.len(), w);
        let mut done = 0;
        for slab in &slabs {
            let (at, wide) = (slab.of.first * slab.of.dim, slab.of.width());
            let mine = part_mut(temp, 0, n * wide);
            for (m, q) in pieces_mut(mine, wide).zip(pieces(q, w)) {
                m.copy_from_slice_checked(part(q, at, wide));
            }
            self.class(ops, t, slab, read, seen, mine, part_mut(o, done, n * wide))?;
            done += n * wide;
        }
        let mut from = 0;
        for slab in &slabs {
            let (at, wide) = (slab.of.first * slab.of.dim, slab.of.width());
            for (i, row) in pieces_mut(temp, w).enumerate() {
                part_mut(row, at, wide).copy_from_slice_checked(part(o, from + i * wide, wide));
            }
            from += n * wide;
        }
        o.copy_from_slice_checked(temp);
        Ok(())
    }

    /// Attention of the heads of one class; `q` and `o` are `[tokens, heads of the class, hd]`.
    #[allow(clippy::too_many_arguments, reason = "the buffers of one operation")]
    fn class<O: Ops>(
        &mut self,
        ops: &O,
        t: Tile,
        slab: &Slab,
        read: (&[u8], &[u8]),
        seen: &mut [f32],
        q: &[f32],
        o: &mut [f32],
    ) -> Result<(), Error> {
        let map = self.job.model.shape.config.scale(t.scale);
        let of = slab.of;
        let heads = Heads { width: of.width(), dim: of.dim };
        if slab.choose.is_some() {
            observe(map, self.job, slab, (t.at, q), read, self.scratch.scores, seen)?;
        }
        let past = slab.past(read.0)?;
        let side = self.job.plan.tier.keep.window_at(t.scale);
        if side == 0 || side >= map.h as usize && side >= map.w as usize {
            let kv = if slab.direct {
                [(past, slab.before + slab.l), (past, 0)]
            } else {
                [(past, slab.before), (slab.own(read.0, read.1)?.0, slab.l)]
            };
            ops.attend(heads, q, kv, &mut self.scratch, o);
            return Ok(());
        }
        let rows = pieces(q, of.width()).zip(pieces_mut(o, of.width()));
        for (i, (q, o)) in rows.enumerate() {
            let (y, x, h, w) = neighbourhood(map, side, t.at + i);
            for j in 0..h * w {
                let (dy, dx) = place(j, w);
                let from = (y + dy) * map.w as usize + x + dx;
                slab.gather(read.0, read.1, from, self.near, h * w, j);
            }
            let kv = [(past, slab.before), (slab.gathered(self.near, h * w)?, h * w)];
            ops.attend(heads, q, kv, &mut self.scratch, o);
        }
        Ok(())
    }
}
