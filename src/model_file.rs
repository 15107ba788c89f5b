//! A model file in memory, aligned as the format wants it.

use std::io::{self, Read};
use std::path::Path;

use varmint_core::file::ALIGN;
use varmint_core::{Error, Model};

/// A model file, read whole.
pub struct ModelFile {
    /// The bytes begin at `start`, a multiple of 64 in memory.
    bytes: Vec<u8>,
    start: usize,
}

impl std::fmt::Debug for ModelFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ModelFile({} bytes)", self.bytes().len())
    }
}

impl ModelFile {
    /// Reads a file.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        let mut file = std::fs::File::open(path)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Copies bytes to an aligned place.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut room = vec![0; bytes.len() + ALIGN];
        let start = room.as_ptr().align_offset(ALIGN).min(ALIGN);
        room.truncate(start + bytes.len());
        room[start..].copy_from_slice(bytes);
        Self { bytes: room, start }
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// The checked model.
    ///
    /// # Errors
    /// As [`Model::parse`].
    pub fn model(&self) -> Result<Model<'_>, Error> {
        Model::parse(self.bytes())
    }
}
