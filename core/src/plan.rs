//! The memory plan: every buffer of a run, its lifetime, and its place in one arena.
//!
//! Time runs in ticks: 0 the condition, 1.. one tick per scale, then one per decoder layer. A
//! buffer is live from its first to its last tick, both included. Placement is greedy by size:
//! the largest buffer first, each at the lowest offset where it meets no buffer that is live with
//! it. [`Plan::floor`] is the largest sum of live bytes at any tick: no plan can be smaller.
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

pub use crate::buf::{ARENA_ALIGN, Buf, BufName, Buffer, MAX_BUFFERS, STATS};
use crate::config::Shape;
use crate::error::Error;
use crate::file::{Container, Kind};
use crate::lifetimes::{Builder, decoder, scale_tick, transformer};
pub use crate::lifetimes::{level_maps, second_row};
use crate::stage::Stage;
use crate::tier::Tier;

/// A plan for one tier of one model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Plan {
    /// The tier it was made for.
    pub tier: Tier,
    buffers: [Buffer; MAX_BUFFERS],
    /// Bytes, the lower bound, and multiply-accumulates: of one image.
    bytes: u32,
    floor: u32,
    total_macs: u64,
    max_step_macs: u64,
    /// Images that are made at once.
    images: u16,
    decoder_tick: u16,
    /// The tier by which the caches lie: that of the first plan of the image.
    layout: Tier,
    /// The scale from which it goes on, for a lowered plan.
    from: u8,
}

impl Plan {
    /// The plan for a tier. The same numbers at compile time and at run time.
    ///
    /// # Errors
    /// [`Error::PlanTooLarge`] beyond 4 GiB.
    pub const fn new(shape: &Shape, tier: &Tier) -> Result<Self, Error> {
        Self::build(shape, tier, tier, None)
    }

    /// A plan to go on with in a lower tier from scale `scale` of an image that runs by this one, in the same
    /// arena: what is needed of the scales before stays where it is. See [`crate::Generator::lower`].
    ///
    /// # Errors
    /// [`Error::NotLower`] for a tier that needs what this one has not kept: blocks or guidance that it does not
    /// run, another trunk, another storage or choice of keys and values. [`Error::ArenaTooSmall`] where the rest
    /// does not fit around what stays.
    pub const fn lowered(&self, shape: &Shape, tier: &Tier, scale: usize) -> Result<Self, Error> {
        let n = shape.config.n_scales();
        if scale == 0 || scale >= n {
            return Err(Error::NotLower);
        }
        match self.tier.lowered(tier, scale, n) {
            Some(tier) => Self::build(shape, &tier, &self.layout, Some((self, scale))),
            None => Err(Error::NotLower),
        }
    }

    /// This plan for `images` images at once: as many arenas one behind the other, all laid out alike, so that a
    /// weight that is read serves them all. See [`crate::Generator::batch`].
    ///
    /// # Errors
    /// [`Error::BadBatch`] for none or more than 65,535; [`Error::PlanTooLarge`] for more bytes than can be addressed.
    pub const fn batch(mut self, images: usize) -> Result<Self, Error> {
        if images == 0 || images > u16::MAX as usize {
            return Err(Error::BadBatch { need: u16::MAX as usize, got: images });
        }
        if (self.bytes as usize).checked_mul(images).is_none() {
            return Err(Error::PlanTooLarge);
        }
        self.images = images as u16;
        Ok(self)
    }

    // A frame of its own: who calls it keeps the plan, not what it took to make it.
    #[inline(never)]
    const fn build(
        shape: &Shape,
        tier: &Tier,
        layout: &Tier,
        old: Option<(&Self, usize)>,
    ) -> Result<Self, Error> {
        let mut b = Builder::NEW;
        transformer(&mut b, shape, tier, layout);
        decoder(&mut b, shape, tier);
        if b.overflow {
            return Err(Error::PlanTooLarge);
        }
        let mut plan = Self {
            tier: *tier,
            layout: *layout,
            buffers: b.buffers,
            bytes: 0,
            floor: 0,
            total_macs: 0,
            max_step_macs: 0,
            images: 1,
            decoder_tick: scale_tick(shape.config.n_scales()) as u16,
            from: 0,
        };
        let mut placed = [false; MAX_BUFFERS];
        if let Some((old, scale)) = old {
            plan.from = scale as u8;
            plan.pin(old, scale_tick(scale) as u16, &mut placed);
        }
        if !plan.place(placed) {
            return Err(Error::PlanTooLarge);
        }
        if let Some((old, _)) = old {
            if plan.bytes > old.bytes {
                let (need, got) = (plan.bytes as usize, old.bytes as usize);
                return Err(Error::ArenaTooSmall { need, got });
            }
            (plan.bytes, plan.images) = (old.bytes, old.images);
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

    /// The plan of an encoder, whose layers begin at tick 0: `(total, largest step)` multiply-accumulates. No
    /// generator takes it.
    pub(crate) const fn encoder(
        tier: &Tier,
        b: Builder,
        (total_macs, max_step_macs): (u64, u64),
    ) -> Result<Self, Error> {
        let mut plan = Self {
            tier: *tier,
            layout: *tier,
            buffers: b.buffers,
            bytes: 0,
            floor: 0,
            total_macs,
            max_step_macs,
            images: 1,
            decoder_tick: 0,
            from: u8::MAX,
        };
        if b.overflow || !plan.place([false; MAX_BUFFERS]) {
            return Err(Error::PlanTooLarge);
        }
        Ok(plan)
    }

    /// Leaves what `old` holds at tick `now` in its place, and forgets what is over.
    const fn pin(&mut self, old: &Self, now: u16, placed: &mut [bool; MAX_BUFFERS]) {
        let mut i = 0;
        while i < MAX_BUFFERS {
            let (b, o) = (&mut self.buffers[i], old.buffers[i]);
            if b.size > 0 && b.last < now {
                b.size = 0;
            } else if b.size > 0 && Buf::outlives_scale(i) && o.size > 0 && o.first < now {
                b.offset = o.offset;
                placed[i] = true;
            } else if b.first < now {
                b.first = now;
            }
            i += 1;
        }
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
    const fn place(&mut self, mut placed: [bool; MAX_BUFFERS]) -> bool {
        let mut i = 0;
        while i < MAX_BUFFERS {
            let end = self.buffers[i].offset + self.buffers[i].size;
            if placed[i] && end > self.bytes {
                self.bytes = end;
            }
            i += 1;
        }
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

    /// The tier by which the caches lie.
    pub(crate) const fn layout(&self) -> &Tier {
        &self.layout
    }

    /// Whether an image can begin with it: not so if it only takes over.
    pub(crate) const fn begins(&self) -> bool {
        self.from == 0
    }

    /// Whether this plan can take over from `old` at `scale`.
    pub(crate) fn follows(&self, old: &Self, scale: usize) -> bool {
        let stays = |(i, (a, b)): (usize, (&Buffer, &Buffer))| {
            !Buf::outlives_scale(i) || a.size == 0 || (a.offset, a.size) == (b.offset, b.size)
        };
        self.from as usize == scale
            && (self.layout, self.bytes, self.images) == (old.layout, old.bytes, old.images)
            && self.buffers.iter().zip(&old.buffers).enumerate().all(stays)
    }

    /// Bytes that the arena must have.
    pub const fn bytes(&self) -> usize {
        self.bytes as usize * self.images as usize
    }

    /// Images that are made at once.
    pub const fn images(&self) -> usize {
        self.images as usize
    }

    /// Bytes of one image: image i of a batch lies i times as far into the arena.
    pub const fn image_bytes(&self) -> usize {
        self.bytes as usize
    }

    /// The lower bound of any plan with these lifetimes.
    pub const fn floor(&self) -> usize {
        self.floor as usize * self.images as usize
    }

    /// Multiply-accumulates of an image.
    pub const fn image_macs(&self) -> u64 {
        self.total_macs
    }

    /// Multiply-accumulates of all images.
    pub const fn total_macs(&self) -> u64 {
        self.total_macs.saturating_mul(self.images as u64)
    }

    /// Multiply-accumulates of the largest step.
    pub const fn max_step_macs(&self) -> u64 {
        self.max_step_macs.saturating_mul(self.images as u64)
    }

    /// Where a buffer lies in the arena of an image.
    pub const fn buffer(&self, buf: Buf) -> Buffer {
        match buf {
            Buf::Spare(layer) => self.spare(layer),
            Buf::Nothing => Buffer { size: 0, offset: 0, first: 0, last: 0 },
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
            let from = if i == MAX_BUFFERS { 0 } else { end_at(i, self.buffers[i], tick) };
            if from == 0 && i < MAX_BUFFERS {
                i += 1; // not live: that it ends nowhere is the arena's start, which comes last
                continue;
            }
            let (mut to, mut j) = (self.bytes, 0);
            while j < MAX_BUFFERS {
                let end = end_at(j, self.buffers[j], tick);
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

/// Where buffer `i` ends if it is live at `tick` and not the room of the kernels; else 0.
const fn end_at(i: usize, b: Buffer, tick: u16) -> u32 {
    if b.size == 0 || b.first > tick || tick > b.last || i == Buf::ConvScratch.index() {
        return 0;
    }
    b.offset + b.size
}
