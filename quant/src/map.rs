//! A model file in memory, mapped rather than read: a large model costs address space only.

use std::fs::File;
use std::ops::Deref;
use std::path::Path;

use crate::error::Error;

/// The bytes of a file, at an address that the core accepts (a multiple of the page size).
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

impl Mapped {
    /// Maps a file for reading.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        // SAFETY: the map is private to this process and only read. What safe code relies on is
        // that the bytes do not change while a slice of them is alive; another process that
        // rewrites the file in place breaks that for every reader of files by mapping. This crate
        // never does: it writes models under a temporary name and renames them.
        let map = unsafe { memmap2::Mmap::map(&file) };
        map.map(Self).map_err(|e| Error::io(path, e))
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}
