//! Everything that can go wrong between a checkpoint and a model file, with what was expected and
//! what was found.

use std::path::{Path, PathBuf};

use crate::checkpoint::CheckpointError;
use crate::official::OfficialError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A checkpoint cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The weights are not a model of the official layout.
    #[error(transparent)]
    Official(#[from] OfficialError),
    /// A model file is refused by the core, which names the fault and the byte.
    #[error("{path}: {source}", path = path.display())]
    Model {
        /// Which file.
        path: PathBuf,
        /// The core's numbered error.
        source: varmint_core::Error,
    },
    /// The sizes do not make a model that the core accepts.
    #[error("these sizes do not make a model: {0}")]
    Shape(varmint_core::Error),
    /// Two parts of the input contradict each other.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// Which value.
        what: String,
        /// What the rest of the input asks for.
        expected: String,
        /// What is there.
        found: String,
    },
    /// A value is infinite or not a number, or too large for the chosen storage.
    #[error("{tensor}: value {value} at position {at} cannot be stored as {dtype}")]
    Value {
        /// Which tensor.
        tensor: String,
        /// Position in the tensor, in row-major order.
        at: usize,
        /// The value.
        value: f32,
        /// The storage.
        dtype: &'static str,
    },
    /// `meta.json` cannot be understood.
    #[error("{path}: {source}", path = path.display())]
    Meta {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        source: serde_json::Error,
    },
    /// An option cannot be understood or does not fit the model.
    #[error("{0}")]
    Option(String),
}

impl Error {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    pub(crate) fn mismatch(
        what: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> Self {
        Self::Mismatch {
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}
