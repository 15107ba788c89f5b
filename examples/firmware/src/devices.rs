//! What stands in for the devices of a board.

use crc::{CRC_32_ISO_HDLC, Crc, Digest, NoTable};
use micromath::F32Ext;

/// Without a table: a kilobyte less of flash, and a picture has few bytes.
static CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// A display that takes rows of pixels and keeps none of them: the checksum says what it showed.
pub(crate) struct Display {
    width: usize,
    rows: usize,
    preview: usize,
    shown: Digest<'static, u32, NoTable>,
}

impl Display {
    pub(crate) fn new(width: usize) -> Self {
        Self { width, rows: 0, preview: 0, shown: CRC.digest() }
    }

    /// Rows from `y` on; they come in order.
    pub(crate) fn write(&mut self, y: usize, rgb: &[u8]) {
        assert!(y == self.rows && rgb.len().is_multiple_of(3 * self.width), "rows in order");
        self.rows += rgb.len() / (3 * self.width);
        self.shown.update(rgb);
    }

    /// A pixel of a small picture, while the image is being made.
    pub(crate) fn preview(&mut self, _: [u8; 3]) {
        self.preview += 1;
    }

    /// Rows and pixels of previews that were shown, and CRC-32 (ISO-HDLC) of the rows' bytes.
    pub(crate) fn finish(self) -> (usize, usize, u32) {
        (self.rows, self.preview, self.shown.finalize())
    }
}

/// A light of three colours, each on for a part of the time: the mean colour of what is being drawn.
pub(crate) struct Light {
    sum: [f32; 3],
    pixels: f32,
}

impl Light {
    pub(crate) fn new() -> Self {
        Self { sum: [0.0; 3], pixels: 0.0 }
    }

    pub(crate) fn add(&mut self, pixel: [u8; 3]) {
        for (sum, v) in self.sum.iter_mut().zip(pixel) {
            *sum += f32::from(v);
        }
        self.pixels += 1.0;
    }

    /// Parts in a thousand of red, green and blue. Pixels are about the 2.2nd root of light. For an eye an
    /// approximation will do: micromath's powers are small and quick, and none of the bits that are promised.
    pub(crate) fn duty(&self) -> [u16; 3] {
        // Powers of 0..=255, not of 0..=1: below one micromath's logarithm is off by a third.
        const FULL: f32 = 196_964.7; // 255^2.2
        self.sum.map(|v| ((v / self.pixels).powf(2.2) * (1000.0 / FULL)) as u16)
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
