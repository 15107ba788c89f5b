//! A model file in memory, aligned as the format wants it.

use std::fs::File;
use std::io;
use std::path::Path;

use memmap2::Mmap;
use varmint_core::file::ALIGN;
use varmint_core::{Error, Model};

/// A model file: mapped, not read, so that it costs address space, and memory for the pages that a run
/// touches, which the system may take back.
#[derive(Debug)]
pub struct ModelFile(Bytes);

#[derive(Debug)]
enum Bytes {
    /// Begins at a page.
    Mapped(Mmap),
    /// Begin at the number, a multiple of 64 in memory.
    Owned(Vec<u8>, usize),
}

impl ModelFile {
    /// Maps a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = File::open(path)?;
        // A file of nothing cannot be mapped everywhere.
        if file.metadata()?.len() == 0 {
            return Ok(Self::from_bytes(&[]));
        }
        // SAFETY: the map is private to this process and only read. What safe code relies on is that the
        // bytes do not change while a slice of them is alive; another process that rewrites the file in
        // place breaks that for every reader of files by mapping. Ours never do: models are written under
        // a temporary name and renamed.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }?;
        Ok(Self(Bytes::Mapped(map)))
    }

    /// Copies bytes to an aligned place.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut room = vec![0; bytes.len() + ALIGN];
        let start = room.as_ptr().align_offset(ALIGN).min(ALIGN);
        room.truncate(start + bytes.len());
        room[start..].copy_from_slice(bytes);
        Self(Bytes::Owned(room, start))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.0 {
            Bytes::Mapped(map) => map,
            Bytes::Owned(room, start) => &room[*start..],
        }
    }

    /// The checked model; reads the whole file once.
    ///
    /// # Errors
    /// As [`Model::parse`].
    pub fn model(&self) -> Result<Model<'_>, Error> {
        Model::parse(self.bytes())
    }

    /// The model of a file that was checked when it came to this machine; reads its directory only.
    ///
    /// # Errors
    /// As [`Model::trust`].
    pub fn trusted(&self) -> Result<Model<'_>, Error> {
        Model::trust(self.bytes())
    }
}
