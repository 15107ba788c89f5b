//! What can go wrong with a checkpoint file.
//!
//! Inside the readers a problem is a [`Fault`] (what is wrong, where, what would be right); [`Checkpoint`](super::Checkpoint)
//! adds the file's path and hands out a [`CheckpointError`].

use std::path::PathBuf;

use super::Dtype;

/// A problem with one checkpoint file.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct CheckpointError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub fault: Fault,
}

/// What is wrong, without the name of the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The operating system could not open or map the file.
    #[error("cannot read the file: {0}")]
    Io(#[from] std::io::Error),
    /// The first bytes are those of something else.
    #[error(
        "not a checkpoint: {0}; expected a .safetensors file, or a .pth file as torch.save of PyTorch 1.6 or newer writes it"
    )]
    Kind(&'static str),
    /// Some bytes contradict the format.
    #[error("damaged {part}: {what}")]
    Damaged {
        /// Which part of the file (`header`, `zip directory`, `pickle`, `tensor`).
        part: &'static str,
        /// What was found, and what would be right.
        what: String,
    },
    /// The pickle wants to call a function that is not on the list of those that only rebuild tensors.
    #[error(
        "refused: the pickle calls `{0}`, which rebuilds no tensor; \
         save plain weights instead: torch.save(model.state_dict(), ..)"
    )]
    Forbidden(String),
    /// The pickle uses an instruction that torch.save never writes.
    #[error(
        "refused: byte {at} of the pickle is the instruction 0x{op:02x}, which torch.save never writes"
    )]
    Opcode {
        /// The instruction.
        op: u8,
        /// Its place in `data.pkl`.
        at: usize,
    },
    /// There is no tensor of this name.
    #[error("there is no tensor `{0}`")]
    Missing(String),
    /// The tensor's numbers are of a type that the caller cannot use.
    #[error("tensor `{name}` holds {got} numbers; wanted {wanted}")]
    Type {
        /// The tensor.
        name: String,
        /// What it holds.
        got: Dtype,
        /// What can be read here.
        wanted: &'static str,
    },
    /// The tensor does not fit in memory.
    #[error("tensor `{0}` does not fit in memory")]
    Memory(String),
}

impl Fault {
    /// A [`Fault::Damaged`].
    pub(super) fn damaged(part: &'static str, what: impl Into<String>) -> Self {
        Self::Damaged { part, what: what.into() }
    }
}
