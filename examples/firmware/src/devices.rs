//! What stands in for the devices of a board.

use crc::{CRC_32_ISO_HDLC, Crc, Digest, Table};

const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);

/// A display that takes rows of pixels and keeps none of them: the checksum says what it showed.
pub(crate) struct Display {
    width: usize,
    rows: usize,
    /// Pixels of previews, in all.
    pub(crate) preview: usize,
    shown: Digest<'static, u32, Table<1>>,
}

impl Display {
    pub(crate) fn new(width: usize) -> Self {
        static CRC_TABLE: Crc<u32> = CRC;
        Self { width, rows: 0, preview: 0, shown: CRC_TABLE.digest() }
    }

    /// Rows from `y` on; they come in order.
    pub(crate) fn write(&mut self, y: usize, rgb: &[u8]) {
        assert!(y == self.rows && rgb.len().is_multiple_of(3 * self.width), "rows in order");
        self.rows += rgb.len() / (3 * self.width);
        self.shown.update(rgb);
    }

    /// Rows that were shown, and CRC-32 (ISO-HDLC) of their bytes.
    pub(crate) fn finish(self) -> (usize, u32) {
        (self.rows, self.shown.finalize())
    }
}

/// A watchdog that bites when too much time passes between two feeds; it counts instead of watching.
pub(crate) struct Watchdog {
    limit: u64,
    /// The longest time between two feeds.
    pub(crate) longest: u64,
    /// How often it was fed.
    pub(crate) fed: u32,
}

impl Watchdog {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, longest: 0, fed: 0 }
    }

    /// Feeds it, `passed` after the last time.
    pub(crate) fn feed(&mut self, passed: u64) {
        assert!(passed <= self.limit, "the watchdog bites");
        self.longest = self.longest.max(passed);
        self.fed += 1;
    }
}
