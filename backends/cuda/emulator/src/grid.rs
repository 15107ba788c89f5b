//! What a launch is, and what is checked in it.

use crate::decode::Kernel;
use crate::memory::{Releases, Table};

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
