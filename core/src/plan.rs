//! The memory plan: every buffer of a run, its lifetime, and its place in one arena.
//!
//! Time runs in ticks: 0 the condition, 1.. one tick per scale, then one per decoder layer. A
//! buffer is live from its first to its last tick, both included. Placement is greedy by size:
//! the largest buffer first, each at the lowest offset where it meets no buffer that is live with
//! it. [`Plan::floor`] is the largest sum of live bytes at any tick: no plan can be smaller.
//!
//! Three lifetimes that a sum of shapes would miss: keys and values of the last scale at which a
//! block runs never enter its cache; a cache ends with its block (depth-reduced tiers) or with
//! guidance; the decoder's maps end with their level.
//!
//! ```text
//! const PLAN: Plan = match Plan::of_file(MODEL, 0) { Ok(p) => p, Err(_) => panic!() };
//! static ARENA: [u8; PLAN.bytes()] = [0; PLAN.bytes()];
//! ```

#![allow(
    clippy::indexing_slicing,
    reason = "const fn has no `get`; every index is a loop bound below the array's length"
)]

use core::fmt;

use crate::bytes::up;
use crate::config::{GROUPS, MAX_LEVELS, MAX_SCALES, Shape};
use crate::error::Error;
use crate::file::{Container, Kind};
use crate::num::{up4, up32};
use crate::stage::{HEAD_TILE, Stage, map_size, out_size};
use crate::tensor::Layer;
use crate::tier::{Store, Tier};

/// Alignment of the arena and of every buffer in it.
pub const ARENA_ALIGN: usize = 16;

/// Values per channel that the decoder's statistics hold: see [`Buf::Stats`].
pub(crate) const STATS: usize = 10;

/// A buffer of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buf {
    /// Condition `[rows, C]` f32.
    Cond,
    /// Modulation `[rows, blocks or 1, 6C]` f32.
    Ada,
    /// Modulation before the head `[rows, 2C]` f32.
    HeadAda,
    /// Latent `[P_h, P_w, cvae]` f32.
    FHat,
    /// Residual stream `[rows, l_max, C]` f32.
    X,
    /// Keys and values of the current scale, for blocks that run no later one.
    KvNow,
    /// Working memory of a tile f32.
    Work,
    /// Modulation of the current block `[6C]` f32.
    Mod,
    /// Quantized rows of a tile.
    Rows,
    /// Scales of those rows `[tile]` f32.
    RowScale,
    /// Attention scores `[keys]` f32, then probabilities `[keys]` i16.
    Scores,
    /// One head: sums `[hd]` i32, query `[hd]` i8.
    Head,
    /// Logits `[rows, HEAD_TILE, V]` f32.
    Logits,
    /// Candidates of a draw `[V]` f32.
    Candidates,
    /// All tokens `[L]` u16.
    Tokens,
    /// Reduced latent: the inputs of the next scale `[l, cvae]` f32.
    Next,
    /// Enlarged code map `[P_h, P_w, cvae]` f32 and its half-way form `[pn_h, P_w, cvae]`.
    Enlarged,
    /// Halo strip of a phi convolution f32.
    PhiStrip,
    /// `post_quant_conv` output.
    Z,
    /// Statistics of the decoder's maps `[STATS, c_max]` f32.
    Stats,
    /// Halo strip of a decoder convolution: quantized or f32.
    Strip,
    /// Bytes kept free for the kernels of 3x3 convolutions: [`Tier::conv_scratch`].
    ConvScratch,
    /// Output rows of a strip f32, and one input row.
    OutRows,
    /// Finished pixels of a strip `[rows, W, 3]` u8.
    Rgb,
    /// Queries, keys, values of the decoder's attention `[H W, 3c]`.
    MapQkv,
    /// Cache of the blocks whose last scale is `j`: row 0, then row 1.
    Kv(usize, usize),
    /// Map that a level begins with.
    Map(usize),
    /// Map of a level after its width changed.
    Wide(usize),
    /// Hidden map of a level's residual blocks.
    Hidden(usize),
    /// The largest stretch of the arena in which nothing lives while a decoder layer runs, `ConvScratch`
    /// included: the kernels of 3x3 convolutions work in it.
    Spare(usize),
}

const FIXED: usize = 25;
const KV0: usize = FIXED;
const MAP0: usize = KV0 + 2 * MAX_SCALES;
/// Buffers that a plan can have.
pub const MAX_BUFFERS: usize = MAP0 + 3 * MAX_LEVELS;

impl Buf {
    const fn index(self) -> usize {
        match self {
            Self::Cond => 0,
            Self::Ada => 1,
            Self::HeadAda => 2,
            Self::FHat => 3,
            Self::X => 4,
            Self::KvNow => 5,
            Self::Work => 6,
            Self::Mod => 7,
            Self::Rows => 8,
            Self::RowScale => 9,
            Self::Scores => 10,
            Self::Head => 11,
            Self::Logits => 12,
            Self::Candidates => 13,
            Self::Tokens => 14,
            Self::Next => 15,
            Self::Enlarged => 16,
            Self::PhiStrip => 17,
            Self::Z => 18,
            Self::Stats => 19,
            Self::Strip => 20,
            Self::OutRows => 21,
            Self::Rgb => 22,
            Self::MapQkv => 23,
            Self::ConvScratch | Self::Spare(_) => 24,
            Self::Kv(row, j) => KV0 + (row & 1) * MAX_SCALES + j % MAX_SCALES,
            Self::Map(l) => MAP0 + l % MAX_LEVELS,
            Self::Wide(l) => MAP0 + MAX_LEVELS + l % MAX_LEVELS,
            Self::Hidden(l) => MAP0 + 2 * MAX_LEVELS + l % MAX_LEVELS,
        }
    }

    const NAMES: [&'static str; FIXED] = [
        "cond",
        "ada",
        "head ada",
        "f_hat",
        "x",
        "kv now",
        "work",
        "mod",
        "rows",
        "row scale",
        "scores",
        "head",
        "logits",
        "candidates",
        "tokens",
        "next",
        "enlarged",
        "phi strip",
        "z",
        "stats",
        "strip",
        "out rows",
        "rgb",
        "map qkv",
        "conv scratch",
    ];
}

/// A place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes; 0 where the model needs no such buffer.
    pub size: u32,
    /// First byte in the arena.
    pub offset: u32,
    /// First tick at which it is live.
    pub first: u16,
    /// Last tick at which it is live.
    pub last: u16,
}

/// A plan for one tier of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The tier it was made for.
    pub tier: Tier,
    buffers: [Buffer; MAX_BUFFERS],
    bytes: u32,
    floor: u32,
    total_macs: u64,
    max_step_macs: u64,
    decoder_tick: u16,
}

/// Bytes of keys and values of `n` tokens in one block: K, V, scales of K, scales of V, each
/// aligned.
pub(crate) const fn kv_bytes(n: usize, width: usize, heads: usize, store: Store) -> usize {
    let scales = if let Store::I8 = store { up(product([2, n, heads]), ARENA_ALIGN) } else { 0 };
    up(product([n, width, store.bytes()]), ARENA_ALIGN).saturating_add(scales).saturating_mul(2)
}

struct Builder {
    buffers: [Buffer; MAX_BUFFERS],
    overflow: bool,
}

impl Builder {
    /// Grows the buffer to `bytes` and its lifetime to include `first..=last`.
    const fn add(&mut self, buf: Buf, bytes: usize, first: usize, last: usize) {
        let b = &mut self.buffers[buf.index()];
        let bytes = up(bytes, ARENA_ALIGN);
        if bytes > u32::MAX as usize / 2 {
            self.overflow = true;
            return;
        }
        if b.size == 0 {
            b.first = first as u16;
            b.last = last as u16;
        }
        if bytes as u32 > b.size {
            b.size = bytes as u32;
        }
        if (first as u16) < b.first {
            b.first = first as u16;
        }
        if last as u16 > b.last {
            b.last = last as u16;
        }
    }
}

/// A product that stays at its largest value instead of wrapping: `add` refuses it.
const fn product<const N: usize>(factors: [usize; N]) -> usize {
    let (mut p, mut i) = (1usize, 0);
    while i < N {
        p = p.saturating_mul(factors[i]);
        i += 1;
    }
    p
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

impl Plan {
    /// The plan for a tier. The same numbers at compile time and at run time.
    ///
    /// # Errors
    /// [`Error::PlanTooLarge`] beyond 4 GiB.
    pub const fn new(shape: &Shape, tier: &Tier) -> Result<Self, Error> {
        let n_scales = shape.config.n_scales();
        let empty = Buffer { size: 0, offset: 0, first: 0, last: 0 };
        let mut b = Builder { buffers: [empty; MAX_BUFFERS], overflow: false };
        transformer(&mut b, shape, tier);
        decoder(&mut b, shape, tier);
        if b.overflow {
            return Err(Error::PlanTooLarge);
        }
        let mut plan = Self {
            tier: *tier,
            buffers: b.buffers,
            bytes: 0,
            floor: 0,
            total_macs: 0,
            max_step_macs: 0,
            decoder_tick: scale_tick(n_scales) as u16,
        };
        if !plan.place() {
            return Err(Error::PlanTooLarge);
        }
        let mut stage = Stage::START;
        while !matches!(stage, Stage::Done) {
            let m = stage.macs(shape, tier);
            plan.total_macs = plan.total_macs.saturating_add(m);
            if m > plan.max_step_macs {
                plan.max_step_macs = m;
            }
            stage = stage.next(shape, tier);
        }
        Ok(plan)
    }

    /// The plan for tier `tier` of a model file, from its header alone: for `const` arenas.
    ///
    /// # Errors
    /// As [`Container::parse`], [`Container::shape`] and [`Plan::new`].
    pub const fn of_file(file: &[u8], tier: usize) -> Result<Self, Error> {
        let container = match Container::parse(file) {
            Ok(c) => c,
            Err(e) => return Err(e),
        };
        let shape = match container.shape() {
            Ok(s) => s,
            Err(e) => return Err(e),
        };
        let (tiers, at) = container.section(Kind::Tiers);
        match Tier::parse(&shape, tiers, at, tier) {
            Ok(t) => Self::new(&shape, &t),
            Err(e) => Err(e),
        }
    }

    /// Greedy by size; false when the sum passes 4 GiB.
    const fn place(&mut self) -> bool {
        let mut placed = [false; MAX_BUFFERS];
        let mut round = 0;
        while round < MAX_BUFFERS {
            // The largest that is not placed; the first of equals.
            let (mut best, mut i) = (MAX_BUFFERS, 0);
            while i < MAX_BUFFERS {
                let size = self.buffers[i].size;
                if !placed[i] && size > 0 && (best == MAX_BUFFERS || size > self.buffers[best].size)
                {
                    best = i;
                }
                i += 1;
            }
            if best == MAX_BUFFERS {
                break;
            }
            let me = self.buffers[best];
            let mut offset = 0u64;
            let mut moved = true;
            while moved {
                moved = false;
                let mut j = 0;
                while j < MAX_BUFFERS {
                    let o = self.buffers[j];
                    let meets = offset < o.offset as u64 + o.size as u64
                        && (o.offset as u64) < offset + me.size as u64;
                    if placed[j] && me.first <= o.last && o.first <= me.last && meets {
                        offset = o.offset as u64 + o.size as u64;
                        moved = true;
                    }
                    j += 1;
                }
            }
            if offset + me.size as u64 > u32::MAX as u64 {
                return false;
            }
            self.buffers[best].offset = offset as u32;
            placed[best] = true;
            if offset as u32 + me.size > self.bytes {
                self.bytes = offset as u32 + me.size;
            }
            round += 1;
        }
        let mut tick = 0;
        while tick <= self.last_tick() {
            let (mut live, mut i) = (0u32, 0);
            while i < MAX_BUFFERS {
                let b = self.buffers[i];
                if b.size > 0 && b.first <= tick && tick <= b.last {
                    live = live.saturating_add(b.size);
                }
                i += 1;
            }
            if live > self.floor {
                self.floor = live;
            }
            tick += 1;
        }
        true
    }

    const fn last_tick(&self) -> u16 {
        let (mut last, mut i) = (0, 0);
        while i < MAX_BUFFERS {
            if self.buffers[i].size > 0 && self.buffers[i].last > last {
                last = self.buffers[i].last;
            }
            i += 1;
        }
        last
    }

    /// Bytes that the arena must have.
    pub const fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// The lower bound of any plan with these lifetimes.
    pub const fn floor(&self) -> usize {
        self.floor as usize
    }

    /// Multiply-accumulates of an image.
    pub const fn total_macs(&self) -> u64 {
        self.total_macs
    }

    /// Multiply-accumulates of the largest step.
    pub const fn max_step_macs(&self) -> u64 {
        self.max_step_macs
    }

    /// Where a buffer lies.
    pub const fn buffer(&self, buf: Buf) -> Buffer {
        match buf {
            Buf::Spare(layer) => self.spare(layer),
            _ => self.buffers[buf.index()],
        }
    }

    /// The largest gap while decoder layer `layer` runs; the decoder's ticks end the plan.
    const fn spare(&self, layer: usize) -> Buffer {
        let tick = self.decoder_tick + layer as u16;
        let mut best = Buffer { size: 0, offset: 0, first: tick, last: tick };
        // A gap begins at the arena's start or where a buffer ends.
        let mut i = 0;
        while i <= MAX_BUFFERS {
            let from = if i == MAX_BUFFERS { 0 } else { self.end_at(i, tick) };
            if from == 0 && i < MAX_BUFFERS {
                i += 1; // not live: that it ends nowhere is the arena's start, which comes last
                continue;
            }
            let (mut to, mut j) = (self.bytes, 0);
            while j < MAX_BUFFERS {
                let end = self.end_at(j, tick);
                if end > from && self.buffers[j].offset < to {
                    to = if self.buffers[j].offset > from { self.buffers[j].offset } else { from };
                }
                j += 1;
            }
            if to > from && to - from > best.size {
                (best.offset, best.size) = (from, to - from);
            }
            i += 1;
        }
        best
    }

    /// Where buffer `i` ends if it is live at `tick` and not the room of the kernels; else 0.
    const fn end_at(&self, i: usize, tick: u16) -> u32 {
        let b = self.buffers[i];
        if b.size == 0 || b.first > tick || tick > b.last || i == Buf::ConvScratch.index() {
            return 0;
        }
        b.offset + b.size
    }

    /// The buffers in use, with their names.
    pub fn buffers(&self) -> impl Iterator<Item = (BufName, Buffer)> + '_ {
        self.buffers.iter().enumerate().filter(|(_, b)| b.size > 0).map(|(i, b)| (BufName(i), *b))
    }

    /// Checks the plan by another route than the one that made it: inside the arena, aligned, and no
    /// two live buffers share a byte.
    ///
    /// # Errors
    /// [`Error::PlanOverlap`].
    pub fn verify(&self) -> Result<(), Error> {
        for (i, (_, a)) in self.buffers().enumerate() {
            let inside = a.offset as u64 + a.size as u64 <= self.bytes as u64;
            if !inside || !(a.offset as usize).is_multiple_of(ARENA_ALIGN) || a.first > a.last {
                return Err(Error::PlanOverlap);
            }
            for (_, b) in self.buffers().skip(i + 1) {
                let live_together = a.first.max(b.first) <= a.last.min(b.last);
                let from = a.offset.max(b.offset) as u64;
                let to = (a.offset as u64 + a.size as u64).min(b.offset as u64 + b.size as u64);
                if live_together && from < to {
                    return Err(Error::PlanOverlap);
                }
            }
        }
        if self.floor > self.bytes { Err(Error::PlanOverlap) } else { Ok(()) }
    }

    /// Draws the plan: a line per buffer, time to the right, largest first.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn draw(&self, out: &mut impl fmt::Write) -> fmt::Result {
        let ticks = self.last_tick() + 1;
        writeln!(
            out,
            "{:>12}  {:>10}  {:>10}  ticks 0..{}",
            "buffer",
            "bytes",
            "offset",
            ticks - 1
        )?;
        let mut limit = u32::MAX;
        loop {
            let size = self.buffers().map(|(_, b)| b.size).filter(|&s| s < limit).max();
            let Some(size) = size else { break };
            for (name, b) in self.buffers().filter(|(_, b)| b.size == size) {
                write!(out, "{name:>12}  {:>10}  {:>10}  ", b.size, b.offset)?;
                for t in 0..ticks {
                    out.write_char(if b.first <= t && t <= b.last { '#' } else { '.' })?;
                }
                out.write_char('\n')?;
            }
            limit = size;
        }
        writeln!(out, "arena {} bytes, lower bound {} bytes", self.bytes, self.floor)
    }
}

/// The name of a buffer, for pictures of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufName(usize);

impl fmt::Display for BufName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = self.0;
        if let Some(name) = Buf::NAMES.get(i) {
            return f.pad(name);
        }
        let (what, n) = match i {
            i if i < KV0 + MAX_SCALES => ("kv", i - KV0),
            i if i < MAP0 => ("kv null", i - KV0 - MAX_SCALES),
            i if i < MAP0 + MAX_LEVELS => ("map", i - MAP0),
            i if i < MAP0 + 2 * MAX_LEVELS => ("wide map", i - MAP0 - MAX_LEVELS),
            i => ("hidden", i - MAP0 - 2 * MAX_LEVELS),
        };
        let width =
            f.width().unwrap_or(0).saturating_sub(what.len() + 1 + if n > 9 { 2 } else { 1 });
        write!(f, "{:width$}{what} {n}", "")
    }
}

/// The tick of scale `k`.
const fn scale_tick(k: usize) -> usize {
    1 + k
}

/// The scale whose keys and values never enter the cache of a block that last runs at `j`.
pub(crate) const fn row_last_scale(tier: &Tier, row: usize, j: usize) -> Option<usize> {
    if row == 0 {
        return Some(j);
    }
    if tier.guided == 0 {
        return None;
    }
    Some(if j < tier.guided { j } else { tier.guided - 1 })
}

/// Where the input of scale `k` is in [`Buf::Next`], in tokens: those that a refiner will read again stay.
pub(crate) const fn next_place(shape: &Shape, tier: &Tier, k: usize) -> usize {
    let handoff = tier.handoff();
    let k = if k <= handoff { k } else { handoff + 1 };
    if handoff == 0 { 0 } else { shape.config.tokens_before(k) }
}

/// What all trunks share.
const fn transformer(b: &mut Builder, shape: &Shape, tier: &Tier) {
    let c = &shape.config;
    let (s, v, z) = (c.n_scales(), c.vocab as usize, c.cvae as usize);
    let latent = c.latent();
    let (ph, pw) = (latent.h as usize, latent.w as usize);
    let end = scale_tick(s - 1);
    b.add(Buf::FHat, product([4, ph, pw, z]), 0, end + 1);
    b.add(Buf::Scores, up(4 * c.tokens(), ARENA_ALIGN) + 2 * c.tokens(), 1, end);
    b.add(Buf::Logits, product([4, tier.rows(0), HEAD_TILE, v]), 1, end);
    b.add(Buf::Candidates, 4 * v, 1, end);
    b.add(Buf::Tokens, 2 * c.tokens(), 0, end);
    // Codes of a scale stand behind the inputs that stay.
    let inputs = next_place(shape, tier, s) + c.max_tokens();
    b.add(Buf::Next, product([4, inputs, z]), 1, end);
    let map = product([4, ph, pw, z]);
    b.add(Buf::Enlarged, up(map, ARENA_ALIGN).saturating_add(map), 1, end);
    b.add(Buf::PhiStrip, 4 * (3 * (pw + 2) * z + pw * z), 1, end);
    let mut k = 0;
    while k < s {
        if k == 0 || tier.trunk(k) != tier.trunk(k - 1) {
            trunk(b, shape, tier, tier.trunk(k), k);
        }
        k += 1;
    }
}

/// Trunk `set`, which draws from scale `from` on.
const fn trunk(b: &mut Builder, shape: &Shape, tier: &Tier, set: usize, from: usize) {
    let c = &shape.config;
    let t = shape.trunk(set);
    let (w, hidden, heads) = (t.width as usize, t.hidden as usize, t.heads as usize);
    let s = c.n_scales();
    let rows = tier.rows(from);
    let mut until = from;
    while until + 1 < s && tier.trunk(until + 1) == set {
        until += 1;
    }
    let start = scale_tick(from);
    let (setup, end) = (if from == 0 { 0 } else { start }, scale_tick(until));
    let tile = if tier.tile < c.max_tokens() { tier.tile } else { c.max_tokens() };
    let mods = if t.shared_aln { 1 } else { t.depth as usize };

    b.add(Buf::Cond, 4 * rows * w, setup, start);
    b.add(Buf::Ada, product([4, rows, mods, 6, w]), setup, end);
    b.add(Buf::HeadAda, 4 * rows * 2 * w, setup, end);
    b.add(Buf::X, product([4, rows, c.max_tokens(), w]), start, end);
    b.add(Buf::Mod, 4 * 6 * w, start, end);
    let head = if tile > HEAD_TILE { tile } else { HEAD_TILE };
    // Keys: input C, output 2C. Attention: input, query, output. Feed-forward: input, hidden.
    let work = max(max(3 * w, w + hidden).saturating_mul(tile), w * head);
    b.add(Buf::Work, product([4, work]), setup, end);
    let widest = max(up32(w), up32(hidden));
    let row = if t.act == 4 { 16 } else { product([t.act as usize, widest, head]) };
    b.add(Buf::Rows, row, setup, end);
    b.add(Buf::RowScale, 4 * head, setup, end);
    b.add(Buf::Head, 5 * t.head_dim(), start, end);

    let mut j = from;
    while j <= until {
        let mut ending = 0;
        let mut block = 0;
        while block < t.depth as usize {
            if let Some(last) = tier.last_scale(set, block, s)
                && last == j
            {
                ending += 1;
            }
            block += 1;
        }
        let mut row = 0;
        while row < rows && ending > 0 {
            if let Some(last) = row_last_scale(tier, row, j) {
                let now = kv_bytes(c.scale(last).tokens(), w, heads, tier.cache);
                b.add(Buf::KvNow, now, start, end);
                let past = c.tokens_before(last);
                if past > 0 {
                    let bytes = product([ending, kv_bytes(past, w, heads, tier.cache)]);
                    b.add(Buf::Kv(row, j), bytes, start, scale_tick(last));
                }
            }
            row += 1;
        }
        j += 1;
    }
}

const fn decoder(b: &mut Builder, shape: &Shape, tier: &Tier) {
    let d = shape.decoder(tier.decoder);
    let z = shape.config.cvae as usize;
    let t0 = scale_tick(shape.config.n_scales());
    let end = t0 + d.n_layers() - 1;
    let store = tier.maps.bytes();
    let top = d.levels as usize - 1;
    let mut c_max = max(z, GROUPS);
    let mut level = 0;
    while level < d.levels as usize {
        c_max = max(c_max, d.width(level));
        level += 1;
    }
    b.add(Buf::Stats, 4 * STATS * c_max, t0, end);
    b.add(Buf::ConvScratch, tier.conv_scratch, t0, end);
    let mut at = 0;
    while at < d.n_layers() {
        let tick = t0 + at;
        let (layer, level) = d.layer(z, at);
        let (h, w) = map_size(shape, tier, level);
        let (oh, ow) = out_size(shape, tier, layer, level);
        let strip = if tier.strip < oh { tier.strip } else { oh };
        let (cin, cout) = match layer {
            Layer::Conv { cin, cout } | Layer::Res { cin, cout } => (cin, cout),
            Layer::Attention { c } => (c, 3 * c),
            Layer::Up { c } => (c, c),
            Layer::Out { c } => (c, 3),
        };
        let widest = up4(max(cin, if let Layer::Res { .. } = layer { cout } else { cin }));
        let halo = product([strip + 2, ow + 2, widest, d.act as usize]);
        b.add(Buf::Strip, halo, tick, tick);
        let shortcut = if let Layer::Res { .. } = layer
            && cin != cout
        {
            ow * cout
        } else {
            0
        };
        let rows = product([strip, ow, cout]).saturating_add(ow * widest + shortcut);
        b.add(Buf::OutRows, product([4, rows]), tick, tick);
        match layer {
            Layer::Conv { .. } if at == 0 => {
                b.add(Buf::Z, product([h, w, cout, store]), tick, tick + 1)
            }
            Layer::Conv { .. } => b.add(Buf::Map(top), product([h, w, cout, store]), tick, tick),
            Layer::Res { .. } => {
                b.add(Buf::Hidden(level), product([h, w, cout, store]), tick, tick);
                let (input, output) = level_maps(shape, tier, at);
                b.add(input, product([h, w, cin, store]), tick, tick);
                b.add(output, product([h, w, cout, store]), tick, tick);
            }
            Layer::Attention { c } => {
                b.add(level_maps(shape, tier, at).0, product([h, w, c, store]), tick, tick);
                b.add(Buf::MapQkv, product([h, w, 3, c, store]), tick, tick);
                // Scores of one position, then scales of a row; probabilities need no own place in float.
                let rows = product([2, ow, widest]).saturating_add(product([h, w]));
                b.add(Buf::OutRows, product([4, rows]), tick, tick);
            }
            Layer::Up { c } => {
                b.add(level_maps(shape, tier, at).0, product([h, w, c, store]), tick, tick);
                b.add(Buf::Map(level - 1), product([oh, ow, c, store]), tick, tick);
            }
            Layer::Out { c } => {
                b.add(level_maps(shape, tier, at).0, product([h, w, c, store]), tick, tick);
                b.add(Buf::Rgb, strip * w * 3, tick, tick);
            }
        }
        at += 1;
    }
}

/// The maps that layer `at` reads and writes. Where the width changes inside a level, the level goes
/// on in a second map.
pub const fn level_maps(shape: &Shape, tier: &Tier, at: usize) -> (Buf, Buf) {
    let d = shape.decoder(tier.decoder);
    let z = shape.config.cvae as usize;
    let (layer, level) = d.layer(z, at);
    let top = d.levels as usize - 1;
    match layer {
        Layer::Conv { .. } if at == 0 => return (Buf::FHat, Buf::Z),
        Layer::Conv { .. } => return (Buf::Z, Buf::Map(top)),
        _ => {}
    }
    // The width that the level's first map has.
    let first = if level == top { d.top() } else { d.width(level + 1) };
    let own = d.width(level);
    let changed = Buf::Wide(level);
    let (input, output) = match layer {
        Layer::Res { cin, cout } if cin != cout => (Buf::Map(level), changed),
        _ if first != own => (changed, changed),
        _ => (Buf::Map(level), Buf::Map(level)),
    };
    if let Layer::Up { .. } = layer {
        return (input, Buf::Map(level.saturating_sub(1)));
    }
    (input, output)
}
