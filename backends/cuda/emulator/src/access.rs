//! Memory as the lanes of a warp reach it: all lies inside, is aligned, was written, and nobody else is there.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::decode::{Access, SHARED};
use crate::grid::Grid;
use crate::memory::{Kind, Who, find};
use crate::trouble::{Trouble, code, trouble};
use crate::warp::lanes;

/// What the warps of a block share.
pub(crate) struct Shared {
    bytes: Vec<u128>,
    len: u32,
    /// Of each word: who wrote it last (low half) and who read it: `epoch << 6 | warp + 1`.
    pub(crate) marks: Vec<u64>,
    /// Barriers so far, of all blocks of this worker.
    pub(crate) epoch: u32,
    /// Where this block began.
    first: u32,
    pub(crate) trace: u16,
    /// Whether there is another block to race with.
    pub(crate) others: bool,
    /// Warps with writes that no fence followed.
    pub(crate) unfenced: u64,
    pub(crate) released: bool,
    pub(crate) acquired: HashSet<u16>,
    /// Warps with a fence since the last acquisition.
    pub(crate) fenced: u64,
    /// The allocation that was used last.
    last: usize,
}

/// Any other of several warps.
const MANY: u32 = 63;
/// Atomic operations.
const ATOMIC: u32 = 62;
/// A copy that nobody has waited for.
pub(crate) const PENDING: u32 = 1 << 31;

/// Whether an address is no multiple of a size, which is a power of two: without a division.
fn off(at: u64, bytes: u32) -> bool {
    at & u64::from(bytes - 1) != 0
}

impl Shared {
    /// That of one block of a launch after the other.
    pub(crate) fn new(grid: &Grid<'_>) -> Self {
        let len = grid.shared;
        Self {
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
        }
    }

    /// The next block: nothing is written yet.
    pub(crate) fn begin(&mut self, trace: u16) {
        self.epoch += 1;
        self.first = self.epoch;
        self.trace = trace;
        (self.unfenced, self.released, self.fenced) = (0, false, 0);
        self.acquired.clear();
    }

    pub(crate) fn id(&self, warp: u32) -> u32 {
        self.epoch << 6 | (warp + 1)
    }

    /// Where the bytes of an address are. Checks bounds and alignment.
    pub(crate) fn place(&mut self, at: u64, bytes: u32, lane: u32) -> Result<*mut u8, Trouble> {
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
    pub(crate) fn mark(
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
pub(crate) struct Reach<'a, 'g> {
    pub(crate) grid: &'a Grid<'g>,
    pub(crate) shared: &'a mut Shared,
    pub(crate) warp: u32,
    pub(crate) waited: bool,
}

impl Reach<'_, '_> {
    /// The host's addresses of what active lanes access; checks all of it.
    pub(crate) fn global(
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

    pub(crate) fn places(
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
pub(crate) unsafe fn load(p: *mut u8) -> u32 {
    // SAFETY: the caller's.
    unsafe { AtomicU32::from_ptr(p.cast()) }.load(Relaxed)
}

/// As [`load`].
///
/// # Safety
/// As [`load`].
#[inline(always)]
pub(crate) unsafe fn store(p: *mut u8, v: u32) {
    // SAFETY: the caller's.
    unsafe { AtomicU32::from_ptr(p.cast()) }.store(v, Relaxed);
}
