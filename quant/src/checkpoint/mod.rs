//! Checkpoints: files of named tensors, as PyTorch writes them.
//!
//! ```text
//! .safetensors   length, JSON header, data                            read with the `safetensors` crate
//! .pth           zip (stored) of a pickle and raw storages            `zip`, `pickle`, `rebuild`, `torch`
//! ```
//!
//! [`Checkpoint::open`] looks at the content, not at the name, finds the place of every tensor and checks it against the
//! file. Tensors are then read one at a time: only the bytes of that tensor are mapped, and only for the call, so memory
//! stays at the size of the largest tensor. Nothing in a file is executed, trusted before it is checked, or able to panic.

mod error;
mod node;
mod pickle;
mod rebuild;
mod tensor;
mod torch;
mod zip;

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::{Bound, Range};
use std::path::{Path, PathBuf};

use memmap2::MmapOptions;
use safetensors::Dtype as Stored;
use safetensors::tensor::Metadata;

pub use error::{CheckpointError, Fault};
pub use tensor::Dtype;
use tensor::Tensor;

/// An open checkpoint: the names, shapes and places of its tensors.
#[derive(Debug)]
pub struct Checkpoint {
    path: PathBuf,
    source: Source,
    tensors: BTreeMap<String, Tensor>,
}

#[derive(Debug)]
enum Source {
    File { file: File, len: u64 },
    Bytes(Vec<u8>),
}

impl Checkpoint {
    /// Opens a `.safetensors` or `.pth` file.
    ///
    /// The file must not be changed while it is open: a file that is cut short during a read ends the process (SIGBUS),
    /// as with any mapped file. A length that changed between reads is noticed.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let path = path.as_ref();
        let source = File::open(path).and_then(|file| {
            let len = file.metadata()?.len();
            Ok(Source::File { file, len })
        });
        let fault = |fault| CheckpointError { path: path.to_owned(), fault };
        Self::from_source(path, source.map_err(|e| fault(e.into()))?)
    }

    /// Reads a checkpoint that is in memory; `name` stands for its path in messages.
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Result<Self, CheckpointError> {
        Self::from_source(&name.into(), Source::Bytes(bytes))
    }

    fn from_source(path: &Path, source: Source) -> Result<Self, CheckpointError> {
        let tensors = match &source {
            Source::Bytes(bytes) => tensors(bytes),
            Source::File { file, len } => {
                map(file, *len, 0..*len).and_then(|bytes| tensors(&bytes))
            }
        };
        let path = path.to_owned();
        match tensors {
            Ok(tensors) => Ok(Self { path, source, tensors }),
            Err(fault) => Err(CheckpointError { path, fault }),
        }
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All names, sorted. Nested dictionaries are joined with dots.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The names that start with `prefix`, sorted, whole.
    pub fn names_under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        let from = (Bound::Included(prefix), Bound::Unbounded);
        self.tensors
            .range::<str, _>(from)
            .map(|(name, _)| name.as_str())
            .take_while(move |name| name.starts_with(prefix))
    }

    /// Is there a tensor of this name?
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The sizes of a tensor; empty for a scalar.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|t| t.shape.as_slice())
    }

    /// The type of a tensor's numbers.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|t| t.dtype)
    }

    /// A floating-point tensor in C order; F16, BF16 and F64 are converted.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.read(name, Tensor::to_f32)
    }

    /// An integer (or boolean) tensor in C order.
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        self.read(name, Tensor::to_i64)
    }

    /// The part of the checkpoint below `prefix`, such as `trainer.var_wo_ddp.`.
    pub fn sub<'a>(&'a self, prefix: &'a str) -> Sub<'a> {
        Sub { checkpoint: self, prefix }
    }

    fn read<T>(
        &self,
        name: &str,
        convert: impl FnOnce(&Tensor, &str, &[u8]) -> Result<T, Fault>,
    ) -> Result<T, CheckpointError> {
        let run = || {
            let tensor = self.tensors.get(name).ok_or_else(|| Fault::Missing(name.into()))?;
            match &self.source {
                Source::Bytes(bytes) => {
                    let range = tensor.range.start as usize..tensor.range.end as usize;
                    convert(tensor, name, bytes.get(range).unwrap_or_default())
                }
                Source::File { file, len } => {
                    convert(tensor, name, &map(file, *len, tensor.range.clone())?)
                }
            }
        };
        run().map_err(|fault| CheckpointError { path: self.path.clone(), fault })
    }
}

/// A view of the names below a prefix; see [`Checkpoint::sub`].
#[derive(Clone, Copy, Debug)]
pub struct Sub<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'a str,
}

impl<'a> Sub<'a> {
    /// The names, without the prefix.
    pub fn names(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let cut = self.prefix.len();
        self.checkpoint.names_under(self.prefix).filter_map(move |name| name.get(cut..))
    }

    /// Is there a tensor of this name?
    pub fn contains(&self, name: &str) -> bool {
        self.checkpoint.contains(&self.full(name))
    }

    /// The sizes of a tensor.
    pub fn shape(&self, name: &str) -> Option<&'a [usize]> {
        self.checkpoint.shape(&self.full(name))
    }

    /// As [`Checkpoint::read_f32`].
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>, CheckpointError> {
        self.checkpoint.read_f32(&self.full(name))
    }

    /// As [`Checkpoint::read_i64`].
    pub fn read_i64(&self, name: &str) -> Result<Vec<i64>, CheckpointError> {
        self.checkpoint.read_i64(&self.full(name))
    }

    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

/// Maps `range` of `file`, whose length was `len` when it was opened.
fn map(file: &File, len: u64, range: Range<u64>) -> Result<memmap2::Mmap, Fault> {
    if file.metadata()?.len() != len {
        return Err(Fault::Io(std::io::Error::other("its length changed since it was opened")));
    }
    let size =
        usize::try_from(range.end.saturating_sub(range.start)).map_err(std::io::Error::other)?;
    // SAFETY: the mapping is private and read-only, `range` lies inside the file (checked at opening, and the length just
    // now), and callers keep it for one call only. Its bytes are read as plain `u8` by code that accepts any bytes. What
    // remains is that another process changes the file during the call, which `open` asks callers to rule out.
    Ok(unsafe { MmapOptions::new().offset(range.start).len(size).map(file) }?)
}

/// Finds the tensors of a whole file, of whichever kind.
fn tensors(file: &[u8]) -> Result<BTreeMap<String, Tensor>, Fault> {
    let header = file.first_chunk::<8>().map(|&n| u64::from_le_bytes(n));
    match file {
        [] => Err(Fault::Kind("the file is empty")),
        [b'P', b'K', ..] => torch::tensors(file),
        [_, _, _, _, _, _, _, _, b'{', ..] => safetensors(file, header.unwrap_or(0)),
        _ if torch::is_legacy(file) => Err(Fault::Kind(
            "the .pth format before PyTorch 1.6; load it with PyTorch and torch.save it again",
        )),
        [0x80, 2..=5, ..] => Err(Fault::Kind("a bare pickle")),
        _ if file.starts_with(b"version https://git-lfs") => {
            Err(Fault::Kind("a Git LFS pointer; the download did not fetch the file itself"))
        }
        [b'<', ..] => Err(Fault::Kind("a web page; the download did not fetch the file itself")),
        _ if file.starts_with(b"VARMINT\0") => {
            Err(Fault::Kind("a .vmt model, which is already converted"))
        }
        _ => Err(Fault::Kind("its first bytes are not known")),
    }
}

/// Finds the tensors of a safetensors file: `n: u64`, `n` bytes of JSON, data.
fn safetensors(file: &[u8], n: u64) -> Result<BTreeMap<String, Tensor>, Fault> {
    let fault = |what: String| Fault::damaged("header", what);
    let len = file.len() as u64;
    let json = n.checked_add(8).and_then(|end| file.get(8..usize::try_from(end).ok()?));
    let json =
        json.ok_or_else(|| fault(format!("it says it has {n} bytes; the file has {len}")))?;
    let header: Metadata = serde_json::from_slice(json).map_err(|e| fault(e.to_string()))?;
    let end = (header.data_len() as u64).saturating_add(8 + n);
    if end != len {
        return Err(fault(format!("its tensors end at byte {end}; the file has {len} bytes")));
    }
    let mut found = BTreeMap::new();
    for (name, info) in header.tensors() {
        let dtype = match info.dtype {
            Stored::F64 => Dtype::F64,
            Stored::F32 => Dtype::F32,
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::BF16,
            Stored::I64 => Dtype::I64,
            Stored::I32 => Dtype::I32,
            Stored::I16 => Dtype::I16,
            Stored::I8 => Dtype::I8,
            Stored::U64 => Dtype::U64,
            Stored::U32 => Dtype::U32,
            Stored::U16 => Dtype::U16,
            Stored::U8 => Dtype::U8,
            Stored::BOOL => Dtype::Bool,
            _ => Dtype::Other("exotic"),
        };
        // The crate has checked that the offsets ascend without holes; the last one is the file's end.
        let range = 8 + n + info.data_offsets.0 as u64..8 + n + info.data_offsets.1 as u64;
        let shape = info.shape.clone();
        let tensor = match dtype {
            Dtype::Other(_) => Ok(Tensor::unreadable(dtype, shape, range)),
            _ => Tensor::dense(dtype, shape, range),
        };
        let tensor = tensor.map_err(|what| fault(format!("`{name}`: {what}")))?;
        found.insert(name, tensor);
    }
    Ok(found)
}
