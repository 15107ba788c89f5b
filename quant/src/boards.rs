//! The boards of `memory-budgets.toml`, small to large: how much of each a model may have, and why.
//! A test keeps that file and this table the same.

use varmint_core::Plan;

/// A board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Board {
    /// As `varmint plan --board` knows it.
    pub name: &'static str,
    /// Bytes that the arena may have.
    pub ram: u64,
    /// Bytes that the model file may have, where it is read in place: in flash, or in memory that the
    /// system caches the file in.
    pub flash: u64,
}

const MIB: u64 = 1 << 20;

/// All of them. A board has no less of anything than the one before it.
pub const BOARDS: [Board; 6] = [
    Board { name: "cortex-m-256k", ram: 240 << 10, flash: 16 * MIB },
    Board { name: "cortex-m-512k", ram: 480 << 10, flash: 16 * MIB },
    Board { name: "cortex-m-1m", ram: MIB, flash: 64 * MIB },
    Board { name: "pi-zero-2", ram: 128 * MIB, flash: 256 * MIB },
    Board { name: "orin-nano-8g", ram: 2048 * MIB, flash: 4096 * MIB },
    Board { name: "agx-orin-64g", ram: 4096 * MIB, flash: 32_768 * MIB },
];

impl Board {
    /// The board of that name.
    pub fn find(name: &str) -> Option<&'static Self> {
        BOARDS.iter().find(|b| b.name == name)
    }

    /// The smallest board that runs a plan of a model with so many bytes.
    pub fn smallest(plan: &Plan, file_bytes: u64) -> Option<&'static Self> {
        BOARDS.iter().find(|b| b.short_of(plan, file_bytes) == (0, 0))
    }

    /// Bytes of RAM and of flash that are missing for a plan of a model with so many bytes.
    pub fn short_of(&self, plan: &Plan, file_bytes: u64) -> (u64, u64) {
        let ram = (plan.bytes() as u64).saturating_sub(self.ram);
        (ram, file_bytes.saturating_sub(self.flash))
    }
}
