//! A warp: its registers, and its lanes that part and meet.

use std::collections::VecDeque;

use crate::decode::{Base, NONE, Special};
use crate::grid::Grid;
use crate::trouble::{Trouble, code, trouble};

/// One 32-bit number of every lane; two neighbours hold 64-bit ones.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Slot([u32; 32]);

/// All lanes.
pub(crate) const ALL: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Ready,
    Barrier,
    Done,
}

pub(crate) struct Warp {
    pub(crate) index: u32,
    pub(crate) regs: Vec<Slot>,
    pub(crate) preds: Vec<u32>,
    pub(crate) state: State,
    /// Where the active lanes are.
    pub(crate) pc: usize,
    pub(crate) active: u32,
    /// Lanes that have not ended.
    pub(crate) live: u32,
    /// Lanes that wait for others.
    pub(crate) blocked: u32,
    /// Where lanes are that are not active.
    pub(crate) lane_pc: [u32; 32],
    /// The next place where others wait: `usize::MAX` while all are together.
    pub(crate) stop: usize,
    /// Copies under way: of groups, the last one still open.
    pub(crate) copies: VecDeque<Vec<(u32, u32)>>,
    pub(crate) waited: bool,
    pub(crate) steps: u64,
}

/// The lanes of a mask.
pub(crate) fn lanes(mut mask: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lane = mask.trailing_zeros();
        mask &= mask.wrapping_sub(1);
        (lane < 32).then_some(lane as usize)
    })
}

#[inline(always)]
pub(crate) fn blend32(d: &mut [u32; 32], mask: u32, r: &[u32; 32]) {
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
pub(crate) fn blend64(d: &mut [u64; 32], mask: u32, r: &[u64; 32]) {
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
pub(crate) struct Regs(pub(crate) *mut Slot);

impl Regs {
    // The decoder numbers slots below `Kernel::slots`, which is how many there are. References from here live for one
    // instruction, in which nothing is written while something read is still needed.
    #[inline(always)]
    pub(crate) fn n<'r>(self, slot: u32) -> &'r [u32; 32] {
        // SAFETY: see above.
        unsafe { &(*self.0.add(slot as usize)).0 }
    }

    #[inline(always)]
    pub(crate) fn w<'r>(self, slot: u32) -> &'r [u64; 32] {
        // SAFETY: see above; 64-bit registers have two slots.
        unsafe { &*self.0.add(slot as usize).cast() }
    }

    #[inline(always)]
    pub(crate) fn n_mut<'r>(self, slot: u32) -> &'r mut [u32; 32] {
        // SAFETY: see above.
        unsafe { &mut (*self.0.add(slot as usize)).0 }
    }

    #[inline(always)]
    pub(crate) fn w_mut<'r>(self, slot: u32) -> &'r mut [u64; 32] {
        // SAFETY: see above.
        unsafe { &mut *self.0.add(slot as usize).cast() }
    }

    #[inline(always)]
    pub(crate) fn put_n(self, slot: u32, mask: u32, r: &[u32; 32]) {
        blend32(self.n_mut(slot), mask, r);
    }

    #[inline(always)]
    pub(crate) fn put_w(self, slot: u32, mask: u32, r: &[u64; 32]) {
        blend64(self.w_mut(slot), mask, r);
    }

    pub(crate) fn addresses(self, b: &Base) -> [u64; 32] {
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
    /// Warp `index` of every block of a launch.
    pub(crate) fn new(grid: &Grid<'_>, index: u32) -> Self {
        let kernel = grid.kernel;
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
        Self {
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
    }

    /// Goes to the first instruction, in the block at `at`, which has so many threads.
    pub(crate) fn begin(&mut self, grid: &Grid<'_>, at: [u32; 3], threads: u32) {
        let regs = Regs(self.regs.as_mut_ptr());
        for &(slot, s) in &grid.kernel.specials {
            if let Special::Ctaid(a) = s {
                *regs.n_mut(slot) = [at[a as usize]; 32];
            }
        }
        let left = threads - self.index * 32;
        self.live = if left >= 32 { ALL } else { (1 << left) - 1 };
        (self.state, self.pc, self.active) = (State::Ready, 0, self.live);
        (self.blocked, self.stop) = (0, usize::MAX);
        (self.waited, self.steps) = (!grid.early, 0);
        self.copies.clear();
        self.copies.push_back(Vec::new());
    }

    /// Chooses lanes that go on. Fails where all wait for others.
    pub(crate) fn schedule(&mut self) -> bool {
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
    pub(crate) fn part(&mut self, taken: u32, to: usize) {
        for i in lanes(self.active) {
            self.lane_pc[i] = if taken >> i & 1 == 1 { to as u32 } else { self.pc as u32 + 1 };
        }
        self.active = 0;
    }

    /// The active lanes wait for `needed`.
    pub(crate) fn wait_for(&mut self, needed: u32) -> Result<(), Trouble> {
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
