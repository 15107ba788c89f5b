//! Where a block's keys and values lie.
//!
//! A block has one cache per class of head (see [`Keep`]): wide heads first, then the others; where the
//! tier treats them alike there is one class. A cache is `[tokens, heads of the class, hd]` keys, then
//! values, then, for int8, their scales.
//!
//! ```text
//! Kv(row, j)   blocks whose last scale is j, in order; of each, its classes; of each, `rows` tokens
//! KvNow        the same for the tokens of one scale: of blocks that end with it, or that choose among them
//! ```

use half::f16;

use crate::bytes::up;
use crate::config::Shape;
use crate::error::Error;
use crate::heads::{Class, classes, past_bytes, row_last_scale, rows};
use crate::host::{CopyChecked, Job, nums, nums_ref, split};
use crate::ops::{Kv, Ops};
use crate::plan::{ARENA_ALIGN, Buf};
use crate::slices::{part, part_mut};
use crate::stage::Tile;
use crate::tier::{Store, Tier};

/// Keys and values of some tokens in a row: offsets in the arena, of the first one, in bytes. A token has the values of
/// the heads of its class; in an int8 cache it has a scale per head, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvPart {
    /// Tokens.
    pub tokens: usize,
    /// Keys.
    pub k: usize,
    /// Values.
    pub v: usize,
    /// Scales of the keys.
    pub ks: usize,
    /// Scales of the values.
    pub vs: usize,
}

/// The caches of one row of a block, at one scale.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cache {
    /// The buffer of its caches; empty if it has none.
    pub(crate) buf: Buf,
    /// One per class; the first may have no heads.
    pub(crate) slabs: [Slab; 2],
}

/// The cache of one class.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slab {
    /// The heads.
    pub(crate) of: Class,
    /// Where it begins in its buffer.
    pub(crate) at: usize,
    /// Tokens that it can hold.
    pub(crate) rows: usize,
    /// Tokens that it holds, of earlier scales.
    pub(crate) before: usize,
    /// Where the scale's own tokens begin in `KvNow`, where they are held apart.
    now: usize,
    /// Where its heads begin in `Seen`.
    seen: usize,
    /// Tokens of the scale.
    pub(crate) l: usize,
    /// Whether the scale's keys and values go straight to the cache.
    pub(crate) direct: bool,
    /// How many tokens stay after the scale, if they have to be chosen.
    pub(crate) choose: Option<usize>,
    store: Store,
}

impl Cache {
    pub(crate) fn of(shape: &Shape, tier: &Tier, t: Tile) -> Self {
        let (c, trunk) = (&shape.config, shape.trunk(t.trunk));
        let n = c.n_scales();
        let j = tier.last_scale(t.trunk, t.block, n).unwrap_or(0);
        let last = row_last_scale(tier, t.row, j).unwrap_or(0);
        // Blocks that end together share a buffer, in order.
        let earlier = (0..t.block).filter(|&b| tier.last_scale(t.trunk, b, n) == Some(j));
        let mut at: usize = earlier.map(|b| past_bytes(shape, tier, t.trunk, b, last)).sum();
        let (l, mut now, mut seen) = (c.scale(t.scale).tokens(), 0, 0);
        let slabs = classes(trunk, tier, t.block).map(|of| {
            let goes_on = t.scale < last;
            let drops = tier.keep.drops(c, of.class, t.scale);
            let slab = Slab {
                of,
                at,
                rows: rows(c, tier, of.class, last),
                before: tier.keep.before(c, of.class, t.scale),
                now,
                seen,
                l,
                direct: goes_on && !drops,
                choose: (goes_on && drops).then_some(tier.keep.after(c, of.class, t.scale)),
                store: tier.cache,
            };
            at += of.bytes(slab.rows, tier.cache);
            now += of.bytes(l, tier.cache);
            seen += of.heads * (slab.before + l);
            slab
        });
        Self { buf: Buf::Kv(t.row, j), slabs }
    }

    /// The buffers of the rows of a tile: of its own, and of the other one where both run together.
    pub(crate) fn bufs(job: &Job<'_>, t: Tile) -> [Buf; 2] {
        let n = job.model.shape.config.n_scales();
        let j = job.plan.layout().last_scale(t.trunk, t.block, n).unwrap_or(0);
        let both = job.plan.tier.rows_at_once(t.trunk, t.scale) > 1;
        [Buf::Kv(t.row, j), if both { Buf::Kv(t.row + 1, j) } else { Buf::Nothing }]
    }

    /// Keys that a token sees, at most.
    pub(crate) fn keys(&self) -> usize {
        self.slabs.iter().map(|s| s.before + s.l).max().unwrap_or(0)
    }

    /// Whether tokens have to be chosen after the scale.
    pub(crate) fn chooses(&self) -> bool {
        self.slabs.iter().any(|s| s.choose.is_some() && s.of.heads > 0)
    }
}

/// K, V and their scales in a slab of `rows` tokens.
fn kv_parts(rows: usize, of: Class, store: Store) -> (usize, usize) {
    let values = up(rows * of.width() * store.bytes(), ARENA_ALIGN);
    let scales = if store == Store::I8 { up(2 * rows * of.heads, ARENA_ALIGN) } else { 0 };
    (values, scales)
}

impl Slab {
    /// What is cached of earlier scales (and of this one, where it goes straight to the cache).
    pub(crate) fn past<'a>(&self, buf: &'a [u8]) -> Result<Kv<'a>, Error> {
        let bytes = part(buf, self.at, self.of.bytes(self.rows, self.store));
        kv_ref(bytes, self.rows, self.of, self.store)
    }

    /// `tokens` tokens from `first` on, of a slab of `rows` tokens that begins `base` bytes into the arena.
    pub(crate) fn part(&self, base: usize, rows: usize, first: usize, tokens: usize) -> KvPart {
        let (n, s) = kv_parts(rows, self.of, self.store);
        let value = first * self.of.width() * self.store.bytes();
        let scale = 2 * first * self.of.heads;
        KvPart {
            tokens,
            k: base + value,
            v: base + n + value,
            ks: base + 2 * n + scale,
            vs: base + 2 * n + s + scale,
        }
    }

    /// The scale's tokens in a `KvNow` that begins `base` bytes into the arena.
    pub(crate) fn apart(&self, base: usize) -> KvPart {
        self.part(base + self.now, self.l, 0, self.l)
    }

    /// Where head `h` begins in `Seen`, `[heads, keys]` of a class behind the other's.
    pub(crate) const fn looks(&self, h: usize) -> usize {
        self.seen + h * (self.before + self.l)
    }

    /// Where token `i` of the scale lies: the slab's place in the cache or in `KvNow`, its tokens, and the token in it.
    fn home(&self, i: usize) -> (usize, usize, usize) {
        if self.direct { (self.at, self.rows, self.before + i) } else { (self.now, self.l, i) }
    }

    /// The keys and values of this scale, and at which token of them it begins.
    pub(crate) fn own<'a>(&self, past: &'a [u8], now: &'a [u8]) -> Result<(Kv<'a>, usize), Error> {
        let (at, rows, first) = self.home(0);
        let home = if self.direct { past } else { now };
        let bytes = part(home, at, self.of.bytes(rows, self.store));
        Ok((kv_ref(bytes, rows, self.of, self.store)?, first))
    }

    /// Writes keys (`which` 0) or values (1) of token `i` of the scale.
    pub(crate) fn store<O: Ops>(
        &self,
        ops: &O,
        past: &mut [u8],
        now: &mut [u8],
        which: usize,
        i: usize,
        x: &[f32],
    ) -> Result<(), Error> {
        let (at, rows, token) = self.home(i);
        let of = self.of;
        let home = if self.direct { past } else { now };
        let bytes = part_mut(home, at, of.bytes(rows, self.store));
        let (n, s) = kv_parts(rows, of, self.store);
        let w = of.width();
        let (values, rest) = split(bytes, 2 * n)?;
        let values = part_mut(values, which * n, n);
        match self.store {
            Store::F32 => {
                for (o, &v) in part_mut(nums::<f32>(values)?, token * w, w).iter_mut().zip(x) {
                    *o = v;
                }
            }
            Store::F16 => {
                for (o, &v) in part_mut(nums::<f16>(values)?, token * w, w).iter_mut().zip(x) {
                    *o = f16::from_f32(v);
                }
            }
            Store::I8 => {
                let out = part_mut(nums::<i8>(values)?, token * w, w);
                let scales = nums::<f16>(part_mut(rest, which * s, s))?;
                ops.quantize_heads(x, of.dim, out, part_mut(scales, token * of.heads, of.heads));
            }
        }
        Ok(())
    }

    /// Copies head `h` of cached token `from` to the earlier place `to`.
    pub(crate) fn shift(&self, past: &mut [u8], h: usize, from: usize, to: usize) {
        let bytes = part_mut(past, self.at, self.of.bytes(self.rows, self.store));
        let (a, b) = (self.spans(self.rows, from, h), self.spans(self.rows, to, h));
        for ((from, len), (to, _)) in a.into_iter().zip(b) {
            // Two places of a head are the same or apart.
            if let Some((before, rest)) = bytes.split_at_mut_checked(from) {
                part_mut(before, to, len).copy_from_slice_checked(part(rest, 0, len));
            }
        }
    }

    /// Copies head `h` of token `from` of the scale to place `to` of the cache.
    pub(crate) fn enter(&self, past: &mut [u8], now: &[u8], h: usize, from: usize, to: usize) {
        let past = part_mut(past, self.at, self.of.bytes(self.rows, self.store));
        let now = part(now, self.now, self.of.bytes(self.l, self.store));
        let (a, b) = (self.spans(self.l, from, h), self.spans(self.rows, to, h));
        copy(now, a, past, b);
    }

    /// Copies token `from` of the scale, all heads, to place `to` of a slab of `room` tokens.
    pub(crate) fn gather(
        &self,
        past: &[u8],
        now: &[u8],
        from: usize,
        out: &mut [u8],
        room: usize,
        to: usize,
    ) {
        let (at, rows, token) = self.home(from);
        let home = if self.direct { past } else { now };
        let bytes = part(home, at, self.of.bytes(rows, self.store));
        for h in 0..self.of.heads {
            copy(bytes, self.spans(rows, token, h), out, self.spans(room, to, h));
        }
    }

    /// What [`Slab::gather`] wrote.
    pub(crate) fn gathered<'a>(&self, bytes: &'a [u8], room: usize) -> Result<Kv<'a>, Error> {
        kv_ref(part(bytes, 0, self.of.bytes(room, self.store)), room, self.of, self.store)
    }

    /// Bytes of one head of one token in a slab of `rows` tokens: key, value and their scales.
    fn spans(&self, rows: usize, token: usize, h: usize) -> [(usize, usize); 4] {
        let (n, s) = kv_parts(rows, self.of, self.store);
        let len = self.of.dim * self.store.bytes();
        let value = (token * self.of.heads + h) * len;
        let (scale, size) = (2 * (token * self.of.heads + h), if s > 0 { 2 } else { 0 });
        [(value, len), (n + value, len), (2 * n + scale, size), (2 * n + s + scale, size)]
    }
}

fn copy(from: &[u8], a: [(usize, usize); 4], to: &mut [u8], b: [(usize, usize); 4]) {
    for ((at, len), (place, _)) in a.into_iter().zip(b) {
        for (o, &v) in part_mut(to, place, len).iter_mut().zip(part(from, at, len)) {
            *o = v;
        }
    }
}

fn kv_ref<'a>(bytes: &'a [u8], rows: usize, of: Class, store: Store) -> Result<Kv<'a>, Error> {
    let (n, s) = kv_parts(rows, of, store);
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
