//! The container: header, section table, checksum (docs/format.md is normative).
//!
//! ```text
//! 0   header 64 B | 64  seven section records, 24 B each | sections, each at a multiple of 64
//! ```
//!
//! Every byte of the file belongs to the header, the table, a section or zero padding, and the
//! checksum covers all of it.

use crate::bytes::{slice, u32_at, u64_at, up};
use crate::config::Shape;
use crate::error::{Error, Fault};

/// First bytes of a model file.
pub const MAGIC: [u8; 8] = *b"VARMINT\0";
/// The format version that this build reads.
pub const VERSION: u32 = 2;
/// Alignment of the file in memory and of every section and tensor in it.
pub const ALIGN: usize = 64;
/// Header bytes.
pub const HEADER_BYTES: usize = 64;
/// Offset of the checksum in the header.
pub const CRC_AT: usize = 12;
/// Bytes of one section record.
pub const SECTION_BYTES: usize = 24;
/// Sections of a file, in the order of [`Kind`].
pub const SECTIONS: usize = 7;

/// What a section holds; the numbers are those of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// [`crate::Config`].
    Config = 1,
    /// Records of [`crate::Trunk`].
    Trunks = 2,
    /// Records of [`crate::Decoder`].
    Decoders = 3,
    /// Records of [`crate::Tier`].
    Tiers = 4,
    /// Name, licence, labels.
    Text = 5,
    /// The tensor directory.
    Tensors = 6,
    /// The tensors' bytes.
    Data = 7,
}

/// A section's place: its bytes and its offset in the file.
pub type Section<'a> = (&'a [u8], usize);

/// The seven sections of a file whose container is sound. Nothing is known yet of their content.
#[derive(Clone, Copy, Debug)]
pub struct Container<'a> {
    /// A number that grows with every release of a model: how a device chooses between two slots.
    pub sequence: u32,
    sections: [Section<'a>; SECTIONS],
}

impl<'a> Container<'a> {
    /// Checks magic, version, length and section table; not the checksum. `const`, so that a plan
    /// can be made at compile time.
    ///
    /// # Errors
    /// [`Fault::Truncated`], `Magic`, `Version`, `Trailing` or `Section`, with the byte.
    #[allow(clippy::indexing_slicing, reason = "the index is below the array's length")]
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, Error> {
        let table_end = HEADER_BYTES + SECTIONS * SECTION_BYTES;
        if bytes.len() < table_end {
            return Err(Error::file(Fault::Truncated, bytes.len()));
        }
        if u64_at(bytes, 0) != u64::from_le_bytes(MAGIC) {
            return Err(Error::file(Fault::Magic, 0));
        }
        if u32_at(bytes, 8) != VERSION {
            return Err(Error::file(Fault::Version, 8));
        }
        let len = u64_at(bytes, 16);
        if len > bytes.len() as u64 {
            return Err(Error::file(Fault::Truncated, bytes.len()));
        }
        if len < bytes.len() as u64 {
            return Err(Error::file(Fault::Trailing, len as usize));
        }
        if u32_at(bytes, 24) as usize != SECTIONS {
            return Err(Error::file(Fault::Section, 24));
        }
        let mut at = 32;
        while at < HEADER_BYTES {
            if u64_at(bytes, at) != 0 {
                return Err(Error::file(Fault::Section, at));
            }
            at += 8;
        }
        let empty: &[u8] = &[];
        let mut sections = [(empty, 0usize); SECTIONS];
        let (mut i, mut end) = (0, table_end);
        while i < SECTIONS {
            let o = HEADER_BYTES + i * SECTION_BYTES;
            let start = up(end, ALIGN);
            if u32_at(bytes, o) as usize != i + 1 || u32_at(bytes, o + 4) != 0 {
                return Err(Error::file(Fault::Section, o));
            }
            if u64_at(bytes, o + 8) != start as u64 {
                return Err(Error::file(Fault::Section, o + 8));
            }
            let size = u64_at(bytes, o + 16);
            if size > (bytes.len() as u64).saturating_sub(start as u64) {
                return Err(Error::file(Fault::Section, o + 16));
            }
            if !zero(bytes, end, start) {
                return Err(Error::file(Fault::Section, end));
            }
            let body = match slice(bytes, start, size as usize) {
                Some(b) => b,
                None => return Err(Error::file(Fault::Section, o + 16)),
            };
            sections[i] = (body, start);
            end = start + size as usize;
            i += 1;
        }
        if end != bytes.len() {
            return Err(Error::file(Fault::Trailing, end));
        }
        Ok(Self { sequence: u32_at(bytes, 28), sections })
    }

    /// A section.
    #[allow(clippy::indexing_slicing, reason = "the index is below the array's length")]
    pub const fn section(&self, kind: Kind) -> Section<'a> {
        self.sections[(kind as usize - 1) % SECTIONS]
    }

    /// The shapes of the model.
    ///
    /// # Errors
    /// [`Fault::Config`], `Schedule` or `Section`, with the byte.
    pub const fn shape(&self) -> Result<Shape, Error> {
        Shape::parse(
            self.section(Kind::Config),
            self.section(Kind::Trunks),
            self.section(Kind::Decoders),
        )
    }
}

const fn zero(bytes: &[u8], from: usize, to: usize) -> bool {
    let mut at = from;
    while at < to {
        if crate::bytes::u8_at(bytes, at) != 0 {
            return false;
        }
        at += 1;
    }
    true
}

/// CRC-32 (ISO-HDLC) of a file, its own four bytes taken as zero.
pub fn checksum(bytes: &[u8]) -> u32 {
    // Sixteen bytes at a time where 16 KiB of tables do not matter.
    #[cfg(target_pointer_width = "64")]
    type Table = crc::Table<16>;
    #[cfg(not(target_pointer_width = "64"))]
    type Table = crc::Table<1>;
    static CRC: crc::Crc<u32, Table> = crc::Crc::<u32, Table>::new(&crc::CRC_32_ISO_HDLC);
    let mut digest = CRC.digest();
    let (head, rest) = bytes.split_at(CRC_AT.min(bytes.len()));
    digest.update(head);
    digest.update(&[0; 4]);
    digest.update(rest.get(4..).unwrap_or(&[]));
    digest.finalize()
}
