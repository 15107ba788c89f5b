//! A block of threads: its warps run one after the other, from barrier to barrier.

use crate::access::Shared;
use crate::exec::{Event, run_best};
use crate::grid::Grid;
use crate::memory::trace_of;
use crate::trouble::Trouble;
use crate::warp::{State, Warp};

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
