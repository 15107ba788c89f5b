//! A block of threads: its warps run one after the other, from barrier to barrier.

use crate::access::Shared;
use crate::decode::Kernel;
use crate::exec::{Event, run_best};
use crate::memory::{Releases, Table, trace_of};
use crate::trouble::Trouble;
use crate::warp::{State, Warp};

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

/// Runs blocks of a launch, one after the other.
pub(crate) struct Machine<'a> {
    grid: &'a Grid<'a>,
    warps: Vec<Warp>,
    shared: Shared,
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
        let threads: u32 = grid.block.iter().product();
        let warps = (0..threads.div_ceil(32)).map(|index| Warp::new(grid, index)).collect();
        Self { grid, warps, shared: Shared::new(grid) }
    }

    /// Runs a block to its end.
    pub(crate) fn block(&mut self, index: u64) -> Result<(), Fault> {
        let [gx, gy, _] = self.grid.grid.map(u64::from);
        let at = [index % gx, index / gx % gy, index / gx / gy].map(|v| v as u32);
        let threads: u32 = self.grid.block.iter().product();
        self.shared.begin(trace_of(index));
        for w in &mut self.warps {
            w.begin(self.grid, at, threads);
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
