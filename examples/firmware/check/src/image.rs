//! What is in the firmware's ELF file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use defmt_decoder::Table;
use object::{Object, ObjectSegment, ObjectSymbol};

/// A built firmware.
pub struct Image {
    pub path: PathBuf,
    /// The formats of its log.
    pub log: Table,
    /// Bytes that it takes of the flash: code, constants, and the first values of variables.
    pub flash_bytes: u64,
    /// Where the slots lie.
    pub slots: [u64; 2],
}

impl Image {
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let log = Table::parse(&bytes)?.context("no log in the firmware")?;
        let elf = object::File::parse(&*bytes)?;
        let symbol = |name: &str| {
            let found = elf.symbols().find(|s| s.name() == Ok(name));
            Ok::<_, anyhow::Error>(found.with_context(|| format!("no symbol {name}"))?.address())
        };
        Ok(Self {
            path: path.to_owned(),
            log,
            flash_bytes: elf.segments().map(|s| s.file_range().1).sum(),
            slots: [symbol("_slot_a")?, symbol("_slot_b")?],
        })
    }
}
