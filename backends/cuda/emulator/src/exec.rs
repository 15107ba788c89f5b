//! A block of threads: warps of 32 lanes in lockstep. Where lanes part, those with the lowest program counter go on
//! until they meet others. Warps run one after the other, from barrier to barrier.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{
    AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst,
};

use crate::decode::{Access, Base, Cmp, Inst, Kernel, NONE, Of, Op, SHARED, Shuffle, Special};
use crate::float;
use crate::memory::{Kind, Releases, Table, Who, find, trace_of};

/// One 32-bit number of every lane; two neighbours hold 64-bit ones.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
struct Slot([u32; 32]);

/// All lanes.
const ALL: u32 = u32::MAX;

/// The driver's numbers for what can go wrong.
pub(crate) mod code {
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const TIMEOUT: u32 = 702;
    pub(crate) const MISALIGNED: u32 = 716;
    pub(crate) const FAILED: u32 = 719;
}

/// What went wrong in a lane.
#[derive(Debug)]
pub(crate) struct Trouble {
    pub(crate) code: u32,
    pub(crate) lane: u32,
    pub(crate) what: String,
}

fn trouble<T>(code: u32, lane: u32, what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble { code, lane, what: what.into() })
}

/// What is checked; each costs time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Checks {
    /// Reads of global memory that nothing was written to.
    pub(crate) unwritten: bool,
    /// Blocks that use the same global memory.
    pub(crate) races: bool,
    /// Warps that use the same shared memory without a barrier between; reads of shared memory never written.
    pub(crate) shared: bool,
    /// Memory of earlier launches before `griddepcontrol.wait`.
    pub(crate) early: bool,
    /// Instructions of a warp, about, before it is called endless.
    pub(crate) steps: u64,
}

/// A launch.
pub(crate) struct Grid<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Bytes of shared memory in all.
    pub(crate) shared: u32,
    pub(crate) params: &'a [u8],
    pub(crate) table: Table,
    pub(crate) checks: Checks,
    /// The graph launch that it belongs to, or 0.
    pub(crate) graph: u32,
    /// Whether it begins before those before it have ended.
    pub(crate) early: bool,
    pub(crate) releases: &'a Releases,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    Barrier,
    Done,
}

struct Warp {
    index: u32,
    regs: Vec<Slot>,
    preds: Vec<u32>,
    state: State,
    /// Where the active lanes are.
    pc: usize,
    active: u32,
    /// Lanes that have not ended.
    live: u32,
    /// Lanes that wait for others.
    blocked: u32,
    /// Where lanes are that are not active.
    lane_pc: [u32; 32],
    /// The next place where others wait: `usize::MAX` while all are together.
    stop: usize,
    /// Copies under way: of groups, the last one still open.
    copies: VecDeque<Vec<(u32, u32)>>,
    waited: bool,
    steps: u64,
}

/// What the warps of a block share.
struct Shared {
    bytes: Vec<u128>,
    len: u32,
    /// Of each word: who wrote it last (low half) and who read it: `epoch << 6 | warp + 1`.
    marks: Vec<u64>,
    /// Barriers so far, of all blocks of this worker.
    epoch: u32,
    /// Where this block began.
    first: u32,
    trace: u16,
    /// Whether there is another block to race with.
    others: bool,
    /// Warps with writes that no fence followed.
    unfenced: u64,
    released: bool,
    acquired: HashSet<u16>,
    /// Warps with a fence since the last acquisition.
    fenced: u64,
    /// The allocation that was used last.
    last: usize,
}

/// Any other of several warps.
const MANY: u32 = 63;
/// Atomic operations.
const ATOMIC: u32 = 62;
/// A copy that nobody has waited for.
const PENDING: u32 = 1 << 31;

/// Runs blocks of a launch, one after the other.
pub(crate) struct Machine<'a> {
    grid: &'a Grid<'a>,
    warps: Vec<Warp>,
    shared: Shared,
}

/// Whether an address is no multiple of a size, which is a power of two: without a division.
fn off(at: u64, bytes: u32) -> bool {
    at & u64::from(bytes - 1) != 0
}

/// The lanes of a mask.
fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

#[inline(always)]
fn blend32(d: &mut [u32; 32], mask: u32, r: &[u32; 32]) {
    if mask == ALL {
        *d = *r;
    } else {
        for i in 0..32 {
            let m = (mask >> i & 1).wrapping_neg();
            d[i] = (r[i] & m) | (d[i] & !m);
        }
    }
}

#[inline(always)]
fn blend64(d: &mut [u64; 32], mask: u32, r: &[u64; 32]) {
    if mask == ALL {
        *d = *r;
    } else {
        for i in 0..32 {
            let m = u64::from(mask >> i & 1).wrapping_neg();
            d[i] = (r[i] & m) | (d[i] & !m);
        }
    }
}

/// The registers of a warp.
#[derive(Clone, Copy)]
struct Regs(*mut Slot);

impl Regs {
    // The decoder numbers slots below `Kernel::slots`, which is how many there are. References from here live for one
    // instruction, in which nothing is written while something read is still needed.
    #[inline(always)]
    fn n<'r>(self, slot: u32) -> &'r [u32; 32] {
        // SAFETY: see above.
        unsafe { &(*self.0.add(slot as usize)).0 }
    }

    #[inline(always)]
    fn w<'r>(self, slot: u32) -> &'r [u64; 32] {
        // SAFETY: see above; 64-bit registers have two slots.
        unsafe { &*self.0.add(slot as usize).cast() }
    }

    #[inline(always)]
    fn n_mut<'r>(self, slot: u32) -> &'r mut [u32; 32] {
        // SAFETY: see above.
        unsafe { &mut (*self.0.add(slot as usize)).0 }
    }

    #[inline(always)]
    fn w_mut<'r>(self, slot: u32) -> &'r mut [u64; 32] {
        // SAFETY: see above.
        unsafe { &mut *self.0.add(slot as usize).cast() }
    }

    #[inline(always)]
    fn put_n(self, slot: u32, mask: u32, r: &[u32; 32]) {
        blend32(self.n_mut(slot), mask, r);
    }

    #[inline(always)]
    fn put_w(self, slot: u32, mask: u32, r: &[u64; 32]) {
        blend64(self.w_mut(slot), mask, r);
    }

    fn addresses(self, b: &Base) -> [u64; 32] {
        let mut r = [b.offset as u64; 32];
        if b.slot == NONE {
        } else if b.wide {
            let base = self.w(b.slot);
            for i in 0..32 {
                r[i] = base[i].wrapping_add(b.offset as u64);
            }
        } else {
            let base = self.n(b.slot);
            for i in 0..32 {
                r[i] = u64::from(base[i]).wrapping_add(b.offset as u64);
            }
        }
        r
    }
}

impl Warp {
    /// Chooses lanes that go on. Fails where all wait for others.
    fn schedule(&mut self) -> bool {
        for i in lanes(self.active) {
            self.lane_pc[i] = self.pc as u32;
        }
        let Some(pc) = lanes(self.live & !self.blocked).map(|i| self.lane_pc[i]).min() else {
            return false;
        };
        let here = lanes(self.live).filter(|&i| self.lane_pc[i] == pc).fold(0, |m, i| m | 1 << i);
        self.active = here;
        self.blocked &= !here;
        self.pc = pc as usize;
        let ahead = lanes(self.live & !here).map(|i| self.lane_pc[i]).filter(|&p| p > pc).min();
        self.stop = ahead.map_or(usize::MAX, |p| p as usize);
        true
    }

    /// Lanes that part: `taken` go to `to`, the other active ones to the next instruction.
    fn part(&mut self, taken: u32, to: usize) {
        for i in lanes(self.active) {
            self.lane_pc[i] = if taken >> i & 1 == 1 { to as u32 } else { self.pc as u32 + 1 };
        }
        self.active = 0;
    }

    /// The active lanes wait for `needed`.
    fn wait_for(&mut self, needed: u32) -> Result<(), Trouble> {
        let waiting = self.active;
        if needed & !self.live != 0 {
            return trouble(
                code::FAILED,
                waiting.trailing_zeros(),
                format!("lanes {:#x} are waited for, which have ended", needed & !self.live),
            );
        }
        for i in lanes(waiting) {
            self.lane_pc[i] = self.pc as u32;
        }
        self.blocked |= waiting;
        self.active = 0;
        let pc = self.pc;
        if self.schedule() {
            return Ok(());
        }
        self.pc = pc;
        trouble(
            code::FAILED,
            waiting.trailing_zeros(),
            format!(
                "divergence: lanes {waiting:#010x} wait for {:#010x}, which wait elsewhere",
                needed & !waiting
            ),
        )
    }
}

impl Shared {
    fn id(&self, warp: u32) -> u32 {
        self.epoch << 6 | (warp + 1)
    }

    /// Where the bytes of an address are. Checks bounds and alignment.
    fn place(&mut self, at: u64, bytes: u32, lane: u32) -> Result<*mut u8, Trouble> {
        let from = at.wrapping_sub(SHARED.into());
        if from >= self.len.into() || from + u64::from(bytes) > self.len.into() {
            return trouble(
                code::ILLEGAL_ADDRESS,
                lane,
                format!(
                    "{bytes} bytes at {from:#x} of shared memory, outside of the block's {:#x}",
                    self.len
                ),
            );
        }
        if off(at, bytes) {
            return trouble(
                code::MISALIGNED,
                lane,
                format!("{bytes} bytes at {from:#x} of shared memory, which is not a multiple"),
            );
        }
        // SAFETY: inside, as just checked.
        Ok(unsafe { self.bytes.as_mut_ptr().cast::<u8>().add(from as usize) })
    }

    /// Checks an access that lies inside, and leaves its mark.
    #[inline(always)]
    fn mark(
        &mut self,
        at: u64,
        bytes: u32,
        kind: Kind,
        warp: u32,
        lane: usize,
    ) -> Result<(), Trouble> {
        let (id, epoch, first) = (self.id(warp), self.epoch, self.first << 6);
        let word = (at as u32 - SHARED) / 4;
        for i in word..word + bytes.div_ceil(4) {
            let m = &mut self.marks[i as usize];
            let (w, r) = (*m as u32, (*m >> 32) as u32);
            let other = |v: u32| v >> 6 == epoch && v != id;
            let bad = match kind {
                Kind::Read => w & PENDING != 0 || other(w) || w < first,
                Kind::Write => w & PENDING != 0 || other(w) || other(r),
                Kind::Atomic => {
                    w & PENDING != 0 || (other(w) && w & 63 != ATOMIC) || other(r) || w < first
                }
            };
            if bad {
                return Self::blame(*m, (i * 4, epoch, first, id), kind, lane);
            }
            *m = match kind {
                Kind::Read if r == id || r == (epoch << 6 | MANY) => continue,
                Kind::Read if r >> 6 == epoch => u64::from(w) | u64::from(epoch << 6 | MANY) << 32,
                Kind::Read => u64::from(w) | u64::from(id) << 32,
                Kind::Write => u64::from(r) << 32 | u64::from(id),
                // What the warp wrote itself is still no atomic operation to the others.
                Kind::Atomic if w == id => continue,
                Kind::Atomic => u64::from(r) << 32 | u64::from(epoch << 6 | ATOMIC),
            };
        }
        Ok(())
    }

    #[cold]
    fn blame(
        mark: u64,
        (at, epoch, first, id): (u32, u32, u32, u32),
        kind: Kind,
        lane: usize,
    ) -> Result<(), Trouble> {
        let (w, r) = (mark as u32, (mark >> 32) as u32);
        let who = |v: u32| match v & 63 {
            MANY => "several warps".to_string(),
            ATOMIC => "atomic operations".to_string(),
            n => format!("warp {}", n - 1),
        };
        let what = if w & PENDING != 0 {
            format!("a copy (cp.async) of {} that nobody has waited for", who(w))
        } else if w >> 6 == epoch && w != id {
            format!("{} wrote it and no barrier (bar.sync) followed: a race", who(w))
        } else if w < first && kind != Kind::Write {
            "nothing was written there by this block".into()
        } else {
            format!("{} read it and no barrier (bar.sync) followed: a race", who(r))
        };
        let verb = if kind == Kind::Read { "reads" } else { "writes" };
        trouble(code::FAILED, lane as u32, format!("{verb} {at:#x} of shared memory: {what}"))
    }
}

/// What a warp needs to reach global memory.
struct Reach<'a, 'g> {
    grid: &'a Grid<'g>,
    shared: &'a mut Shared,
    warp: u32,
    waited: bool,
}

impl Reach<'_, '_> {
    /// The host's addresses of what active lanes access; checks all of it.
    fn global(
        &mut self,
        mask: u32,
        at: &[u64; 32],
        bytes: u32,
        kind: Kind,
    ) -> Result<[*mut u8; 32], Trouble> {
        let mut out = [std::ptr::null_mut(); 32];
        let (mut low, mut high, mut bits) = (u64::MAX, 0, 0);
        for (i, &a) in at.iter().enumerate() {
            let on = u64::from(mask >> i & 1).wrapping_neg();
            low = low.min(a | !on);
            high = high.max(a & on);
            bits |= a & on;
        }
        if off(bits, bytes) {
            let lane = lanes(mask).find(|&i| off(at[i], bytes)).unwrap_or(0);
            return trouble(
                code::MISALIGNED,
                lane as u32,
                format!("{bytes} bytes at {:#x}, which is not a multiple", at[lane]),
            );
        }
        let table = &self.grid.table;
        let write = kind != Kind::Read;
        if write {
            self.shared.unfenced |= 1 << self.warp;
            if self.shared.released && kind == Kind::Write {
                self.grid.releases.revoke(self.shared.trace);
                self.shared.released = false;
            }
        }
        let whole = |a: &crate::memory::Alloc| {
            a.has(low, high.wrapping_sub(low).wrapping_add(bytes.into()))
        };
        if !table.get(self.shared.last).is_some_and(|a| whole(a)) {
            let i = table.partition_point(|a| a.at <= low);
            self.shared.last = i.wrapping_sub(1);
        }
        let checks = &self.grid.checks;
        let early = checks.early && self.grid.graph != 0;
        let who = Who {
            trace: self.shared.trace,
            races: checks.races && self.shared.others,
            unwritten: checks.unwritten,
            graph: if early { self.grid.graph } else { 0 },
            waited: self.waited,
            acquired: (self.shared.fenced >> self.warp & 1 == 1).then_some(&self.shared.acquired),
        };
        let one = table.get(self.shared.last).filter(|a| whole(a));
        for i in lanes(mask) {
            let verb = if write { "writes" } else { "reads" };
            let a = match one {
                Some(a) => a,
                None => match find(table, at[i]).filter(|a| a.has(at[i], bytes.into())) {
                    Some(a) => a,
                    None => {
                        let near = match find(table, at[i]) {
                            Some(a) => format!(
                                "{} bytes behind the end of an allocation of {}",
                                at[i].wrapping_sub(a.at + a.bytes as u64) as i64,
                                a.bytes
                            ),
                            None => "below all allocations".into(),
                        };
                        let what = format!("{verb} {bytes} bytes at {:#x}: {near}", at[i]);
                        return trouble(code::ILLEGAL_ADDRESS, i as u32, what);
                    }
                },
            };
            if write && a.read_only {
                let what = format!("writes {bytes} bytes at {:#x}: read-only memory", at[i]);
                return trouble(code::ILLEGAL_ADDRESS, i as u32, what);
            }
            if let Err(what) = a.access(at[i], bytes, kind, &who) {
                let what = format!(
                    "{verb} {bytes} bytes at {:#x}, {:#x} of an allocation of {:#x}: {what}",
                    at[i],
                    at[i] - a.at,
                    a.bytes
                );
                return trouble(code::ILLEGAL_ADDRESS, i as u32, what);
            }
            // SAFETY: inside of the allocation.
            out[i] = unsafe { a.host.add((at[i] - a.at) as usize) };
        }
        Ok(out)
    }

    fn places(
        &mut self,
        mask: u32,
        at: &[u64; 32],
        a: &Access,
        kind: Kind,
    ) -> Result<[*mut u8; 32], Trouble> {
        let bytes = a.bytes * a.count;
        if !a.shared {
            return self.global(mask, at, bytes, kind);
        }
        let mut out = [std::ptr::null_mut(); 32];
        for i in lanes(mask) {
            out[i] = self.shared.place(at[i], bytes, i as u32)?;
            if self.grid.checks.shared {
                self.shared.mark(at[i], bytes, kind, self.warp, i)?;
            }
        }
        Ok(out)
    }
}

/// A word of memory that other workers may use at the same time.
///
/// # Safety
/// `p` is inside of memory and aligned.
#[inline(always)]
unsafe fn load(p: *mut u8) -> u32 {
    // SAFETY: the caller's.
    unsafe { AtomicU32::from_ptr(p.cast()) }.load(Relaxed)
}

/// As [`load`].
///
/// # Safety
/// As [`load`].
#[inline(always)]
unsafe fn store(p: *mut u8, v: u32) {
    // SAFETY: the caller's.
    unsafe { AtomicU32::from_ptr(p.cast()) }.store(v, Relaxed);
}

fn extend(v: u64, bytes: u32, signed: bool) -> u64 {
    match (bytes, signed) {
        (1, true) => v as u8 as i8 as u64,
        (2, true) => v as u16 as i16 as u64,
        (4, true) => v as u32 as i32 as u64,
        _ => v,
    }
}

/// `prmt.b32`.
#[inline(always)]
fn permute(a: u32, b: u32, select: u32) -> u32 {
    let from = u64::from(b) << 32 | u64::from(a);
    let mut r = 0;
    for i in 0..4 {
        let s = select >> (4 * i);
        let byte = (from >> (8 * (s & 7))) as u8;
        let byte = if s & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        r |= u32::from(byte) << (8 * i);
    }
    r
}

#[inline(always)]
fn dp4a(a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c as i32;
    for i in 0..4 {
        sum = sum.wrapping_add(i32::from((a >> (8 * i)) as i8) * i32::from((b >> (8 * i)) as i8));
    }
    sum as u32
}

#[inline(always)]
fn bfi(a: u32, b: u32, at: u32, len: u32) -> u32 {
    let (at, len) = (at & 0xff, len & 0xff);
    let ones = if len >= 32 { u64::from(u32::MAX) } else { (1u64 << len) - 1 };
    let mask = if at >= 32 { 0 } else { (ones << at) as u32 };
    let field = if at >= 32 { 0 } else { a << at };
    (b & !mask) | (field & mask)
}

/// The product of mma.m16n8k32 over int8: `a` four words, `b` two, `c` four of every lane.
#[inline(always)]
fn mma(a: [&[u32; 32]; 4], b: [&[u32; 32]; 2], c: [&[u32; 32]; 4]) -> [[u32; 32]; 4] {
    let mut left = [[0i32; 32]; 16];
    let mut right = [[0i32; 8]; 32];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for i in 0..4 {
            let byte = |w: u32| i32::from((w >> (8 * i)) as i8);
            let k = 4 * t + i;
            left[g][k] = byte(a[0][lane]);
            left[g + 8][k] = byte(a[1][lane]);
            left[g][k + 16] = byte(a[2][lane]);
            left[g + 8][k + 16] = byte(a[3][lane]);
            right[k][g] = byte(b[0][lane]);
            right[k + 16][g] = byte(b[1][lane]);
        }
    }
    let mut d = [[0u32; 32]; 4];
    for (m, row) in left.iter().enumerate() {
        let mut acc = [0i32; 8];
        for (x, w) in row.iter().zip(&right) {
            for n in 0..8 {
                acc[n] = acc[n].wrapping_add(x.wrapping_mul(w[n]));
            }
        }
        let (g, half) = (m % 8, m / 8);
        for (n, v) in acc.iter().enumerate() {
            let (reg, lane) = (2 * half + n % 2, 4 * g + n / 2);
            d[reg][lane] = c[reg][lane].wrapping_add(*v as u32);
        }
    }
    d
}

enum Event {
    Barrier,
    Done,
}

/// Runs a warp to its next barrier or its end.
#[allow(
    clippy::double_comparisons,
    clippy::nonminimal_bool,
    clippy::neg_cmp_op_on_partial_ord,
    clippy::eq_op,
    reason = "comparisons as PTX has them, of what may not be a number"
)]
#[inline(always)]
fn run(warp: &mut Warp, shared: &mut Shared, grid: &Grid<'_>) -> Result<Event, Trouble> {
    let kernel = grid.kernel;
    let code = &kernel.code[..];
    let regs = Regs(warp.regs.as_mut_ptr());
    let mut pc = warp.pc;
    macro_rules! n1 {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.n($i.a);
            let mut r = [0u32; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! n2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.n($i.a), regs.n($i.b));
            let mut r = [0u32; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! n3 {
        ($i:ident, $m:ident, |$x:ident, $y:ident, $z:ident| $e:expr) => {{
            let (a, b, c) = (regs.n($i.a), regs.n($i.b), regs.n($i.c));
            let mut r = [0u32; 32];
            for l in 0..32 {
                let ($x, $y, $z) = (a[l], b[l], c[l]);
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! w1 {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.w($i.a);
            let mut r = [0u64; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    macro_rules! w2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.w($i.a), regs.w($i.b));
            let mut r = [0u64; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    // Results of 64 bits of numbers of 32.
    macro_rules! wn {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.n($i.a);
            let mut r = [0u64; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.n($i.a), regs.n($i.b));
            let mut r = [0u64; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    macro_rules! shift {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {{
            let (a, b) = (regs.w($i.a), regs.n($i.b));
            let mut r = [0u64; 32];
            for l in 0..32 {
                let ($x, $y) = (a[l], b[l]);
                r[l] = $e;
            }
            regs.put_w($i.d, $m, &r);
        }};
    }
    macro_rules! nw {
        ($i:ident, $m:ident, |$x:ident| $e:expr) => {{
            let a = regs.w($i.a);
            let mut r = [0u32; 32];
            for l in 0..32 {
                let $x = a[l];
                r[l] = $e;
            }
            regs.put_n($i.d, $m, &r);
        }};
    }
    macro_rules! f2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {
            n2!($i, $m, |a, b| {
                let ($x, $y) = (f32::from_bits(a), f32::from_bits(b));
                float::bits($e)
            })
        };
    }
    macro_rules! d2 {
        ($i:ident, $m:ident, |$x:ident, $y:ident| $e:expr) => {
            w2!($i, $m, |a, b| {
                let ($x, $y) = (f64::from_bits(a), f64::from_bits(b));
                f64::to_bits($e)
            })
        };
    }
    macro_rules! pred {
        ($slot:expr) => {
            warp.preds[$slot as usize]
        };
    }
    macro_rules! put_p {
        ($slot:expr, $m:ident, $bits:expr) => {{
            let bits = $bits;
            let p = &mut warp.preds[$slot as usize];
            *p = (*p & !$m) | (bits & $m);
        }};
    }
    macro_rules! compare {
        ($i:ident, $m:ident, $get:ident, |$v:ident| $conv:expr, $cmp:expr, $floats:tt) => {{
            let (a, b) = (regs.$get($i.a), regs.$get($i.b));
            macro_rules! bits {
                (|$x:ident, $y:ident| $e:expr) => {{
                    let mut bits = 0u32;
                    for l in 0..32 {
                        let $x = { let $v = a[l]; $conv };
                        let $y = { let $v = b[l]; $conv };
                        bits |= u32::from($e) << l;
                    }
                    bits
                }};
            }
            let bits = match $cmp {
                Cmp::Eq => bits!(|x, y| x == y),
                Cmp::Ne => bits!(|x, y| compare!(@ne x, y, $floats)),
                Cmp::Lt => bits!(|x, y| x < y),
                Cmp::Le => bits!(|x, y| x <= y),
                Cmp::Gt => bits!(|x, y| x > y),
                Cmp::Ge => bits!(|x, y| x >= y),
                Cmp::Equ => bits!(|x, y| !(x < y || x > y)),
                Cmp::Neu => bits!(|x, y| x != y),
                Cmp::Ltu => bits!(|x, y| !(x >= y)),
                Cmp::Leu => bits!(|x, y| !(x > y)),
                Cmp::Gtu => bits!(|x, y| !(x <= y)),
                Cmp::Geu => bits!(|x, y| !(x < y)),
                Cmp::Num => bits!(|x, y| x == x && y == y),
                Cmp::Nan => bits!(|x, y| x != x || y != y),
            };
            put_p!($i.d, $m, bits);
        }};
        (@ne $x:ident, $y:ident, true) => { $x < $y || $x > $y };
        (@ne $x:ident, $y:ident, false) => { $x != $y };
    }
    // Goes on where `warp` says.
    macro_rules! schedule {
        () => {{
            if !warp.schedule() {
                return Ok(Event::Done);
            }
            pc = warp.pc;
            continue;
        }};
    }
    // Lanes that must be here together; the others are waited for.
    macro_rules! together {
        ($needed:expr) => {{
            let needed: u32 = $needed;
            if needed & !warp.active != 0 {
                warp.pc = pc;
                warp.wait_for(needed)?;
                pc = warp.pc;
                continue;
            }
            if warp.active & !needed != 0 {
                warp.pc = pc;
                let lane = (warp.active & !needed).trailing_zeros();
                return trouble(code::FAILED, lane, "a lane that the mask does not name");
            }
        }};
    }
    // The mask of an instruction, which all its lanes agree about.
    macro_rules! mask_of {
        ($slot:expr) => {{
            let m = regs.n($slot);
            let first = m[warp.active.trailing_zeros() as usize & 31];
            let mut differ = 0;
            for l in 0..32 {
                differ |= (m[l] ^ first) & (warp.active >> l & 1).wrapping_neg();
            }
            if differ != 0 {
                warp.pc = pc;
                let lane = warp.active.trailing_zeros();
                return trouble(code::FAILED, lane, "masks differ between the lanes");
            }
            first
        }};
    }
    loop {
        if pc >= warp.stop {
            warp.pc = pc;
            schedule!();
        }
        let i: &Inst = &code[pc];
        let m = warp.active;
        match i.op {
            Op::Add32 => n2!(i, m, |x, y| x.wrapping_add(y)),
            Op::Sub32 => n2!(i, m, |x, y| x.wrapping_sub(y)),
            Op::Mul32 => n2!(i, m, |x, y| x.wrapping_mul(y)),
            Op::MulHiS32 => {
                n2!(i, m, |x, y| ((i64::from(x as i32) * i64::from(y as i32)) >> 32) as u32)
            }
            Op::MulHiU32 => n2!(i, m, |x, y| ((u64::from(x) * u64::from(y)) >> 32) as u32),
            Op::Mad32 => n3!(i, m, |x, y, z| x.wrapping_mul(y).wrapping_add(z)),
            Op::DivS32 | Op::DivU32 | Op::RemS32 | Op::RemU32 => {
                let (a, b) = (regs.n(i.a), regs.n(i.b));
                let mut r = [0; 32];
                for l in lanes(m) {
                    let (x, y) = (a[l], b[l]);
                    if y == 0 {
                        warp.pc = pc;
                        return trouble(code::FAILED, l as u32, "divides by zero");
                    }
                    r[l] = match i.op {
                        Op::DivS32 => (x as i32).wrapping_div(y as i32) as u32,
                        Op::DivU32 => x / y,
                        Op::RemS32 => (x as i32).wrapping_rem(y as i32) as u32,
                        _ => x % y,
                    };
                }
                regs.put_n(i.d, m, &r);
            }
            Op::MinS32 => n2!(i, m, |x, y| (x as i32).min(y as i32) as u32),
            Op::MinU32 => n2!(i, m, |x, y| x.min(y)),
            Op::MaxS32 => n2!(i, m, |x, y| (x as i32).max(y as i32) as u32),
            Op::MaxU32 => n2!(i, m, |x, y| x.max(y)),
            Op::AbsS32 => n1!(i, m, |x| (x as i32).wrapping_abs() as u32),
            Op::NegS32 => n1!(i, m, |x| x.wrapping_neg()),
            Op::And32 | Op::And16 => n2!(i, m, |x, y| x & y),
            Op::Or32 | Op::Or16 => n2!(i, m, |x, y| x | y),
            Op::Xor32 | Op::Xor16 => n2!(i, m, |x, y| x ^ y),
            Op::Not32 => n1!(i, m, |x| !x),
            Op::Shl32 => n2!(i, m, |x, y| if y > 31 { 0 } else { x << (y & 31) }),
            Op::ShrU32 => n2!(i, m, |x, y| if y > 31 { 0 } else { x >> (y & 31) }),
            Op::ShrS32 => n2!(i, m, |x, y| ((x as i32) >> y.min(31)) as u32),
            Op::Popc32 => n1!(i, m, |x| x.count_ones()),
            Op::Clz32 => n1!(i, m, |x| x.leading_zeros()),
            Op::Brev32 => n1!(i, m, |x| x.reverse_bits()),
            Op::Bfind32 => n1!(i, m, |x| if x == 0 { u32::MAX } else { x.leading_zeros() }),
            Op::Bfi32 => {
                let (a, b, c, e) = (regs.n(i.a), regs.n(i.b), regs.n(i.c), regs.n(i.e));
                let mut r = [0; 32];
                for l in 0..32 {
                    r[l] = bfi(a[l], b[l], c[l], e[l]);
                }
                regs.put_n(i.d, m, &r);
            }
            Op::Prmt32 => n3!(i, m, |x, y, z| permute(x, y, z)),
            Op::Dp4a => n3!(i, m, |x, y, z| dp4a(x, y, z)),
            Op::Sel32 | Op::Sel16 => {
                let (a, b, p) = (regs.n(i.a), regs.n(i.b), pred!(i.c));
                let mut r = *b;
                blend32(&mut r, p, a);
                regs.put_n(i.d, m, &r);
            }
            Op::Mov32 | Op::Mov16 => n1!(i, m, |x| x),
            Op::Add16 => n2!(i, m, |x, y| x.wrapping_add(y) & 0xffff),
            Op::Sub16 => n2!(i, m, |x, y| x.wrapping_sub(y) & 0xffff),
            Op::Mul16 => n2!(i, m, |x, y| x.wrapping_mul(y) & 0xffff),
            Op::Add64 => w2!(i, m, |x, y| x.wrapping_add(y)),
            Op::Sub64 => w2!(i, m, |x, y| x.wrapping_sub(y)),
            Op::Mul64 => w2!(i, m, |x, y| x.wrapping_mul(y)),
            Op::NegS64 => w1!(i, m, |x| x.wrapping_neg()),
            Op::And64 => w2!(i, m, |x, y| x & y),
            Op::Or64 => w2!(i, m, |x, y| x | y),
            Op::Xor64 => w2!(i, m, |x, y| x ^ y),
            Op::Not64 => w1!(i, m, |x| !x),
            Op::Shl64 => shift!(i, m, |x, y| if y > 63 { 0 } else { x << (y & 63) }),
            Op::ShrU64 => shift!(i, m, |x, y| if y > 63 { 0 } else { x >> (y & 63) }),
            Op::ShrS64 => shift!(i, m, |x, y| ((x as i64) >> y.min(63)) as u64),
            Op::Sel64 => {
                let (a, b, p) = (regs.w(i.a), regs.w(i.b), pred!(i.c));
                let mut r = *b;
                blend64(&mut r, p, a);
                regs.put_w(i.d, m, &r);
            }
            Op::Mov64 => w1!(i, m, |x| x),
            Op::WideS32 => {
                wn!(i, m, |x, y| (i64::from(x as i32) * i64::from(y as i32)) as u64)
            }
            Op::WideU32 => wn!(i, m, |x, y| u64::from(x) * u64::from(y)),
            Op::WideS16 => {
                n2!(i, m, |x, y| (i32::from(x as i16) * i32::from(y as i16)) as u32)
            }
            Op::WideU16 => n2!(i, m, |x, y| (x & 0xffff) * (y & 0xffff)),
            Op::AddF32 => f2!(i, m, |x, y| x + y),
            Op::SubF32 => f2!(i, m, |x, y| x - y),
            Op::MulF32 => f2!(i, m, |x, y| x * y),
            Op::DivF32 => f2!(i, m, |x, y| x / y),
            Op::MinF32 => n2!(i, m, |x, y| float::min(x, y)),
            Op::MaxF32 => n2!(i, m, |x, y| float::max(x, y)),
            Op::AbsF32 => n1!(i, m, |x| x & 0x7fff_ffff),
            Op::NegF32 => n1!(i, m, |x| x ^ 0x8000_0000),
            Op::SqrtF32 => n1!(i, m, |x| float::bits(f32::from_bits(x).sqrt())),
            Op::RcpF32 => n1!(i, m, |x| float::bits(1.0 / f32::from_bits(x))),
            Op::AddF64 => d2!(i, m, |x, y| x + y),
            Op::SubF64 => d2!(i, m, |x, y| x - y),
            Op::MulF64 => d2!(i, m, |x, y| x * y),
            Op::DivF64 => d2!(i, m, |x, y| x / y),
            Op::F32OfF16 => n1!(i, m, |x| float::widen(x)),
            Op::F16OfF32 => n1!(i, m, |x| float::narrow(x)),
            Op::F64OfF32 => wn!(i, m, |x| f64::from(f32::from_bits(x)).to_bits()),
            Op::F32OfF64 => nw!(i, m, |x| float::bits(f64::from_bits(x) as f32)),
            Op::Floor => n1!(i, m, |x| float::bits(f32::from_bits(x).floor())),
            Op::F32OfS16 => n1!(i, m, |x| f32::from(x as i16).to_bits()),
            Op::F32OfS32 => n1!(i, m, |x| (x as i32 as f32).to_bits()),
            Op::F32OfU32 => n1!(i, m, |x| (x as f32).to_bits()),
            Op::S32OfF32 => n1!(i, m, |x| f32::from_bits(x) as i32 as u32),
            Op::U32OfF32 => n1!(i, m, |x| f32::from_bits(x) as u32),
            Op::S32OfS8 => n1!(i, m, |x| x as i8 as u32),
            Op::S32OfS16 => n1!(i, m, |x| x as i16 as u32),
            Op::S64OfS32 => wn!(i, m, |x| x as i32 as u64),
            Op::U64OfU32 => wn!(i, m, |x| u64::from(x)),
            Op::U16OfU32 => n1!(i, m, |x| x & 0xffff),
            Op::U32OfU16 => n1!(i, m, |x| x & 0xffff),
            Op::U32OfU64 => nw!(i, m, |x| x as u32),
            Op::MovP => put_p!(i.d, m, pred!(i.a)),
            Op::AndP => put_p!(i.d, m, pred!(i.a) & pred!(i.b)),
            Op::OrP => put_p!(i.d, m, pred!(i.a) | pred!(i.b)),
            Op::XorP => put_p!(i.d, m, pred!(i.a) ^ pred!(i.b)),
            Op::NotP => put_p!(i.d, m, !pred!(i.a)),
            Op::SetP(cmp, of) => match of {
                Of::S16 => compare!(i, m, n, |v| v as i16, cmp, false),
                Of::U16 => compare!(i, m, n, |v| v as u16, cmp, false),
                Of::S32 => compare!(i, m, n, |v| v as i32, cmp, false),
                Of::U32 => compare!(i, m, n, |v| v, cmp, false),
                Of::S64 => compare!(i, m, w, |v| v as i64, cmp, false),
                Of::U64 => compare!(i, m, w, |v| v, cmp, false),
                Of::F32 => compare!(i, m, n, |v| f32::from_bits(v), cmp, true),
                Of::F64 => compare!(i, m, w, |v| f64::from_bits(v), cmp, true),
            },
            Op::Pack32 => n2!(i, m, |x, y| (x & 0xffff) | y << 16),
            Op::Pack64 => wn!(i, m, |x, y| u64::from(x) | u64::from(y) << 32),
            Op::Unpack32 => {
                let (mut low, mut high) = ([0; 32], [0; 32]);
                for (l, x) in regs.n(i.a).iter().enumerate() {
                    (low[l], high[l]) = (x & 0xffff, x >> 16);
                }
                regs.put_n(i.d, m, &low);
                regs.put_n(i.e, m, &high);
            }
            Op::Unpack64 => {
                let (mut low, mut high) = ([0; 32], [0; 32]);
                for (l, x) in regs.w(i.a).iter().enumerate() {
                    (low[l], high[l]) = (*x as u32, (x >> 32) as u32);
                }
                regs.put_n(i.d, m, &low);
                regs.put_n(i.e, m, &high);
            }

            Op::Bra | Op::BraIf | Op::BraUnless => {
                let taken = match i.op {
                    Op::Bra => m,
                    Op::BraIf => m & pred!(i.a),
                    _ => m & !pred!(i.a),
                };
                let to = i.d as usize;
                if taken != 0 && to <= pc {
                    warp.steps += (pc - to + 1) as u64;
                    if warp.steps > grid.checks.steps {
                        warp.pc = pc;
                        let lane = taken.trailing_zeros();
                        return trouble(
                            code::TIMEOUT,
                            lane,
                            format!("a loop without end, or more than {} steps", grid.checks.steps),
                        );
                    }
                }
                if warp.stop == usize::MAX && m == warp.live {
                    if taken == m {
                        pc = to;
                        continue;
                    }
                    if taken == 0 {
                        pc += 1;
                        continue;
                    }
                }
                warp.pc = pc;
                warp.part(taken, to);
                schedule!();
            }
            Op::Ret => {
                if grid.early && grid.checks.early && !warp.waited {
                    warp.pc = pc;
                    let lane = m.trailing_zeros();
                    return trouble(
                        code::FAILED,
                        lane,
                        "ends without griddepcontrol.wait: later launches would not wait for earlier ones",
                    );
                }
                warp.live &= !m;
                warp.active = 0;
                if warp.live == 0 {
                    return Ok(Event::Done);
                }
                if !warp.schedule() {
                    let lane = warp.blocked.trailing_zeros();
                    warp.pc = warp.lane_pc[lane as usize & 31] as usize;
                    return trouble(
                        code::FAILED,
                        lane,
                        "divergence: waits for lanes that have ended",
                    );
                }
                pc = warp.pc;
                continue;
            }
            Op::Bar => {
                together!(warp.live);
                warp.pc = pc + 1;
                return Ok(Event::Barrier);
            }
            Op::BarWarp => {
                // Lanes that have ended are not waited for.
                together!(mask_of!(i.a) & warp.live);
            }
            Op::Fence => {
                let bit = 1 << warp.index;
                shared.unfenced &= !bit;
                if !shared.acquired.is_empty() {
                    shared.fenced |= bit;
                }
            }
            Op::Wait => warp.waited = true,
            Op::Nothing => {}
            Op::Active => regs.put_n(i.d, m, &[m; 32]),
            Op::Ballot => {
                let needed = mask_of!(i.b);
                together!(needed);
                regs.put_n(i.d, m, &[pred!(i.a) & m; 32]);
            }
            Op::Match => {
                let needed = mask_of!(i.b);
                together!(needed);
                let a = regs.n(i.a);
                let mut r = [0; 32];
                for l in lanes(m) {
                    r[l] = lanes(m).filter(|&o| a[o] == a[l]).fold(0, |v, o| v | 1 << o);
                }
                regs.put_n(i.d, m, &r);
            }
            Op::Shuffle(kind) => {
                let needed = mask_of!(i.e);
                together!(needed);
                let (a, b, c) = (regs.n(i.a), regs.n(i.b), regs.n(i.c));
                let (mut r, mut inside) = ([0; 32], 0u32);
                let mut from = [0u32; 32];
                macro_rules! all {
                    (|$l:ident, $b:ident, $least:ident, $free:ident, $most:ident| $j:expr, $ok:expr) => {
                        for $l in 0..32u32 {
                            let ($b, c) = (b[$l as usize] & 31, c[$l as usize]);
                            let $free = !(c >> 8) & 31;
                            let $least = $l & !$free;
                            let $most = $least | (c & $free);
                            let j: u32 = $j;
                            let ok = $ok(j);
                            inside |= u32::from(ok) << $l;
                            from[$l as usize] = if ok { j & 31 } else { $l };
                        }
                    };
                }
                match kind {
                    Shuffle::Up => {
                        all!(|l, b, _x, _f, most| l.wrapping_sub(b), |j| j as i32 >= most as i32)
                    }
                    Shuffle::Down => all!(|l, b, _x, _f, most| l + b, |j| j <= most),
                    Shuffle::Bfly => all!(|l, b, _x, _f, most| l ^ b, |j| j <= most),
                    Shuffle::Idx => all!(|l, b, least, f, most| least | (b & f), |j| j <= most),
                }
                for l in 0..32 {
                    r[l] = a[from[l] as usize & 31];
                }
                if m != ALL
                    && let Some(l) = lanes(m).find(|&l| m >> from[l] & 1 == 0)
                {
                    warp.pc = pc;
                    return trouble(
                        code::FAILED,
                        l as u32,
                        format!("a shuffle from lane {}, which takes no part", from[l]),
                    );
                }
                regs.put_n(i.d, m, &r);
                if i.f != NONE {
                    put_p!(i.f, m, inside);
                }
            }
            Op::Param => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                let bytes = a.bytes * a.count;
                let params = grid.params;
                // Mostly all lanes want the same.
                let first = at[m.trailing_zeros() as usize & 31];
                let same = m == ALL && at.iter().fold(0, |d, &v| d | (v ^ first)) == 0;
                for l in lanes(if same { 1 } else { m }) {
                    let from = at[l] as usize;
                    if at[l].saturating_add(bytes.into()) > params.len() as u64
                        || !from.is_multiple_of(bytes as usize)
                    {
                        warp.pc = pc;
                        return trouble(
                            code::ILLEGAL_ADDRESS,
                            l as u32,
                            format!("{bytes} bytes at {from} of {} of parameters", params.len()),
                        );
                    }
                    for (k, &slot) in a.regs[..a.count as usize].iter().enumerate() {
                        let mut word = [0; 8];
                        let from = from + k * a.bytes as usize;
                        word[..a.bytes as usize]
                            .copy_from_slice(&params[from..from + a.bytes as usize]);
                        let v = extend(u64::from_le_bytes(word), a.bytes, a.signed);
                        match (a.wide, same) {
                            (true, true) => *regs.w_mut(slot) = [v; 32],
                            (false, true) => *regs.n_mut(slot) = [v as u32; 32],
                            (true, false) => regs.w_mut(slot)[l] = v,
                            (false, false) => regs.n_mut(slot)[l] = v as u32,
                        }
                    }
                }
            }
            Op::Load => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let from = reach.places(m, &at, a, Kind::Read)?;
                for (k, &slot) in a.regs[..a.count as usize].iter().enumerate() {
                    let step = k * a.bytes as usize;
                    macro_rules! all {
                        ($t:ident, |$v:ident| $e:expr, $put:ident) => {{
                            let mut r = *regs.$put(slot);
                            for l in lanes(m) {
                                // SAFETY: all of the access is inside and aligned.
                                let number = unsafe { $t::from_ptr(from[l].add(step).cast()) };
                                let $v = number.load(Relaxed);
                                r[l] = $e;
                            }
                            *regs.$put(slot) = r;
                        }};
                    }
                    match (a.bytes, a.signed, a.wide) {
                        (4, _, false) => all!(AtomicU32, |v| v, n_mut),
                        (2, false, false) => all!(AtomicU16, |v| v.into(), n_mut),
                        (2, true, false) => all!(AtomicU16, |v| v as i16 as u32, n_mut),
                        (1, false, false) => all!(AtomicU8, |v| v.into(), n_mut),
                        (1, true, false) => all!(AtomicU8, |v| v as i8 as u32, n_mut),
                        (8, ..) => all!(AtomicU64, |v| v, w_mut),
                        (4, signed, _) => all!(AtomicU32, |v| extend(v.into(), 4, signed), w_mut),
                        (2, signed, _) => all!(AtomicU16, |v| extend(v.into(), 2, signed), w_mut),
                        (_, signed, _) => all!(AtomicU8, |v| extend(v.into(), 1, signed), w_mut),
                    }
                }
            }
            Op::Store => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let to = reach.places(m, &at, a, Kind::Write)?;
                for (k, &slot) in a.regs[..a.count as usize].iter().enumerate() {
                    let step = k * a.bytes as usize;
                    macro_rules! all {
                        ($t:ident, |$v:ident| $e:expr, $get:ident) => {{
                            let r = regs.$get(slot);
                            for l in lanes(m) {
                                let $v = r[l];
                                // SAFETY: all of the access is inside and aligned.
                                let number = unsafe { $t::from_ptr(to[l].add(step).cast()) };
                                number.store($e, Relaxed);
                            }
                        }};
                    }
                    match (a.bytes, a.wide) {
                        (4, false) => all!(AtomicU32, |v| v, n),
                        (2, false) => all!(AtomicU16, |v| v as u16, n),
                        (_, false) => all!(AtomicU8, |v| v as u8, n),
                        (8, true) => all!(AtomicU64, |v| v, w),
                        (4, true) => all!(AtomicU32, |v| v as u32, w),
                        (2, true) => all!(AtomicU16, |v| v as u16, w),
                        (_, true) => all!(AtomicU8, |v| v as u8, w),
                    }
                }
            }
            Op::AtomAdd => {
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let (trace, fenced) = (shared.trace, shared.unfenced == 0);
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let to = reach.places(m, &at, a, Kind::Atomic)?;
                let (b, old) = (regs.n(i.b), regs.n_mut(a.regs[0]));
                let add = *b;
                for l in lanes(m) {
                    if !a.shared {
                        // The atomic operation itself needs no fence.
                        if fenced {
                            shared.unfenced = 0;
                        }
                        if shared.others {
                            let others = grid.releases.atomic(at[l], trace, fenced);
                            shared.released |= fenced;
                            shared.acquired.extend(others);
                            shared.acquired.insert(Releases::ATOMIC);
                            shared.fenced = 0;
                        }
                    }
                    // SAFETY: inside and aligned.
                    old[l] = unsafe { AtomicU32::from_ptr(to[l].cast()) }.fetch_add(add[l], SeqCst);
                }
            }
            Op::Copy => {
                let (to, from) =
                    (&kernel.accesses[i.a as usize], &kernel.accesses[i.a as usize + 1]);
                let (dst, src) = (regs.addresses(&to.at), regs.addresses(&from.at));
                let bytes = to.bytes;
                warp.pc = pc;
                let real = if i.b == NONE { [bytes; 32] } else { *regs.n(i.b) };
                let full = lanes(m).filter(|&l| real[l] == bytes).fold(0, |v, l| v | 1 << l);
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let p = reach.global(full, &src, bytes, Kind::Read)?;
                for l in lanes(m) {
                    let place = shared.place(dst[l], bytes, l as u32)?;
                    if grid.checks.shared {
                        shared.mark(dst[l], bytes, Kind::Write, warp.index, l)?;
                        let word = (dst[l] as u32 - SHARED) / 4;
                        for mark in &mut shared.marks[word as usize..(word + bytes / 4) as usize] {
                            *mark |= u64::from(PENDING);
                        }
                        if let Some(group) = warp.copies.back_mut() {
                            group.push((word, bytes / 4));
                        }
                    }
                    for k in (0..bytes as usize).step_by(4) {
                        let v = match real[l] {
                            // SAFETY: inside and aligned.
                            n if n == bytes => unsafe { load(p[l].add(k)) },
                            0 => 0,
                            n => {
                                let what =
                                    format!("a copy of {n} of {bytes} bytes is not emulated");
                                return trouble(code::FAILED, l as u32, what);
                            }
                        };
                        // SAFETY: as above.
                        unsafe { store(place.add(k), v) };
                    }
                }
            }
            Op::CopyGroup => {
                together!(warp.live);
                warp.copies.push_back(Vec::new());
            }
            Op::CopyWait => {
                together!(warp.live);
                let open = if i.b == NONE { i.a as usize + 1 } else { 0 };
                let id = shared.id(warp.index);
                while warp.copies.len() > open {
                    for (word, n) in warp.copies.pop_front().unwrap_or_default() {
                        for mark in &mut shared.marks[word as usize..(word + n) as usize] {
                            *mark = *mark >> 32 << 32 | u64::from(id);
                        }
                    }
                }
                if warp.copies.is_empty() {
                    warp.copies.push_back(Vec::new());
                }
            }
            Op::Matrix => {
                together!(ALL);
                let a = &kernel.accesses[i.a as usize];
                let at = regs.addresses(&a.at);
                warp.pc = pc;
                let mut reach =
                    Reach { grid, shared: &mut *shared, warp: warp.index, waited: warp.waited };
                let rows = reach.places(m, &at, a, Kind::Read)?;
                for (k, &slot) in kernel.lists[i.d as usize..][..4].iter().enumerate() {
                    let r = regs.n_mut(slot);
                    for (l, v) in r.iter_mut().enumerate() {
                        // SAFETY: rows of 16 bytes, inside and aligned.
                        *v = unsafe { load(rows[8 * k + l / 4].add(l % 4 * 4)) };
                    }
                }
            }
            Op::Mma => {
                together!(ALL);
                let list = |at: u32, k: usize| regs.n(kernel.lists[at as usize + k]);
                let r = mma(
                    [list(i.a, 0), list(i.a, 1), list(i.a, 2), list(i.a, 3)],
                    [list(i.b, 0), list(i.b, 1)],
                    [list(i.c, 0), list(i.c, 1), list(i.c, 2), list(i.c, 3)],
                );
                for (k, r) in r.iter().enumerate() {
                    regs.put_n(kernel.lists[i.d as usize + k], m, r);
                }
            }
        }
        pc += 1;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn run_avx2(warp: &mut Warp, shared: &mut Shared, grid: &Grid<'_>) -> Result<Event, Trouble> {
    run(warp, shared, grid)
}

fn run_best(warp: &mut Warp, shared: &mut Shared, grid: &Grid<'_>) -> Result<Event, Trouble> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
    {
        // SAFETY: the processor has them.
        return unsafe { run_avx2(warp, shared, grid) };
    }
    run(warp, shared, grid)
}

/// Where a launch failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) trouble: Trouble,
    pub(crate) line: u32,
    pub(crate) block: [u32; 3],
    pub(crate) thread: [u32; 3],
}

impl<'a> Machine<'a> {
    pub(crate) fn new(grid: &'a Grid<'a>) -> Self {
        let kernel = grid.kernel;
        let threads: u32 = grid.block.iter().product();
        let warps = (0..threads.div_ceil(32)).map(|index| {
            let mut regs = vec![Slot([0; 32]); kernel.slots as usize + 1];
            let at = Regs(regs.as_mut_ptr());
            for &(slot, wide, v) in &kernel.constants {
                match wide {
                    true => *at.w_mut(slot) = [v; 32],
                    false => *at.n_mut(slot) = [v as u32; 32],
                }
            }
            for &(slot, s) in &kernel.specials {
                let r = at.n_mut(slot);
                for (lane, v) in r.iter_mut().enumerate() {
                    let t = index * 32 + lane as u32;
                    let [x, y, _] = grid.block;
                    *v = match s {
                        Special::Tid(a) => [t % x, t / x % y, t / x / y][a as usize],
                        Special::Ntid(a) => grid.block[a as usize],
                        Special::Nctaid(a) => grid.grid[a as usize],
                        Special::Lane => lane as u32,
                        Special::Ctaid(_) => 0,
                    };
                }
            }
            // False and true follow the predicates that have names.
            let mut preds = vec![0; kernel.predicates as usize];
            preds.extend([0, ALL]);
            Warp {
                index,
                regs,
                preds,
                state: State::Ready,
                pc: 0,
                active: 0,
                live: 0,
                blocked: 0,
                lane_pc: [0; 32],
                stop: usize::MAX,
                copies: VecDeque::new(),
                waited: false,
                steps: 0,
            }
        });
        let len = grid.shared;
        let shared = Shared {
            bytes: vec![0; len.div_ceil(16) as usize],
            len,
            marks: vec![0; len.div_ceil(4) as usize],
            epoch: 0,
            first: 0,
            trace: 0,
            others: grid.grid.iter().map(|&g| u64::from(g)).product::<u64>() > 1,
            unfenced: 0,
            released: false,
            acquired: HashSet::new(),
            fenced: 0,
            last: usize::MAX,
        };
        Self { warps: warps.collect(), grid, shared }
    }

    /// Runs a block to its end.
    pub(crate) fn block(&mut self, index: u64) -> Result<(), Fault> {
        let [gx, gy, _] = self.grid.grid.map(u64::from);
        let at = [index % gx, index / gx % gy, index / gx / gy].map(|v| v as u32);
        let threads: u32 = self.grid.block.iter().product();
        let s = &mut self.shared;
        s.epoch += 1;
        s.first = s.epoch;
        s.trace = trace_of(index);
        (s.unfenced, s.released, s.fenced) = (0, false, 0);
        s.acquired.clear();
        for w in &mut self.warps {
            let regs = Regs(w.regs.as_mut_ptr());
            for &(slot, s) in &self.grid.kernel.specials {
                if let Special::Ctaid(a) = s {
                    *regs.n_mut(slot) = [at[a as usize]; 32];
                }
            }
            let left = threads - w.index * 32;
            w.live = if left >= 32 { ALL } else { (1 << left) - 1 };
            (w.state, w.pc, w.active, w.blocked, w.stop) = (State::Ready, 0, w.live, 0, usize::MAX);
            (w.waited, w.steps) = (!self.grid.early, 0);
            w.copies.clear();
            w.copies.push_back(Vec::new());
        }
        loop {
            for w in &mut self.warps {
                if w.state != State::Ready {
                    continue;
                }
                match run_best(w, &mut self.shared, self.grid) {
                    Ok(Event::Barrier) => w.state = State::Barrier,
                    Ok(Event::Done) => w.state = State::Done,
                    Err(trouble) => {
                        let line = self.grid.kernel.code.get(w.pc).map_or(0, |i| i.line);
                        let t = w.index * 32 + trouble.lane;
                        let [x, y, _] = self.grid.block;
                        let thread = [t % x, t / x % y, t / x / y];
                        return Err(Fault { trouble, line, block: at, thread });
                    }
                }
            }
            // All have arrived: those that have ended are not waited for.
            self.shared.epoch += 1;
            let mut any = false;
            for w in &mut self.warps {
                if w.state == State::Barrier {
                    w.state = State::Ready;
                    any = true;
                }
            }
            if !any {
                return Ok(());
            }
        }
    }
}
