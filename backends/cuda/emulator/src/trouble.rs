//! What goes wrong in a kernel.

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

pub(crate) fn trouble<T>(code: u32, lane: u32, what: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble { code, lane, what: what.into() })
}
