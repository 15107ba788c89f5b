//! Where one tensor lies in the file, and how its bytes become numbers.
//!
//! A tensor is a view of a storage: element `(i0, i1, ..)` is the storage's element `offset + i0*stride0 + i1*stride1 + ..`.
//! [`Tensor::view`] proves once, in checked arithmetic, that the last element lies inside the storage; reading then gathers
//! in C order, whatever the strides.

use std::fmt;
use std::ops::Range;

use half::{bf16, f16};

use super::Fault;

/// More dimensions than any model here has.
const MAX_RANK: usize = 16;
/// A view that repeats elements (stride 0) may be larger than its storage, but not beyond this many elements.
const MAX_REPEATED: usize = 1 << 24;

/// The type of a tensor's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs)] // the variants say what they are
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
    /// A type that this reader can name but not convert.
    Other(&'static str),
}

impl Dtype {
    /// Bytes of one number; 1 for [`Dtype::Other`], whose numbers are never read.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 | Self::U64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => 2,
            Self::I8 | Self::U8 | Self::Bool | Self::Other(_) => 1,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other(name) => f.write_str(name),
            known => write!(f, "{known:?}"),
        }
    }
}

/// One tensor of the file. Its byte range has been checked against the file, its last element against the range.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<usize>,
    /// In elements, one per dimension.
    strides: Vec<usize>,
    /// Bytes of the file from the first element to the last.
    pub(super) range: Range<u64>,
}

impl Tensor {
    /// The view `shape`, `strides`, `offset` (in elements) of a storage at bytes `storage` of the file.
    pub(super) fn view(
        dtype: Dtype,
        shape: Vec<usize>,
        strides: Vec<usize>,
        offset: usize,
        storage: Range<u64>,
    ) -> Result<Self, String> {
        if shape.len() > MAX_RANK || shape.len() != strides.len() {
            return Err(format!(
                "{} dimensions with {} strides; at most {MAX_RANK}, equal",
                shape.len(),
                strides.len()
            ));
        }
        let too_large = || format!("shape {shape:?} with strides {strides:?} overflows");
        let count =
            shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or_else(too_large)?;
        if count == 0 {
            return Ok(Self { dtype, shape, strides, range: storage.start..storage.start });
        }
        let last = shape
            .iter()
            .zip(&strides)
            .try_fold(offset, |at, (&d, &s)| at.checked_add(s.checked_mul(d - 1)?)) // d > 0: count is not 0
            .ok_or_else(too_large)?;
        let size = dtype.size() as u64;
        let end =
            (last as u64).checked_add(1).and_then(|n| n.checked_mul(size)).ok_or_else(too_large)?;
        let room = storage.end.saturating_sub(storage.start);
        if end > room {
            return Err(format!(
                "shape {shape:?}, strides {strides:?}, offset {offset} need {end} bytes; the storage has {room}"
            ));
        }
        if count as u64 > (room / size).max(MAX_REPEATED as u64) {
            return Err(format!(
                "shape {shape:?} repeats a storage of {} elements too often",
                room / size
            ));
        }
        // Both ends are at most storage.end: no overflow. offset <= last, so start <= end.
        let range = storage.start + offset as u64 * size..storage.start + end;
        Ok(Self { dtype, shape, strides, range })
    }

    /// A tensor in C order that fills `storage`.
    pub(super) fn dense(
        dtype: Dtype,
        shape: Vec<usize>,
        storage: Range<u64>,
    ) -> Result<Self, String> {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i]
                .checked_mul(shape[i].max(1))
                .ok_or_else(|| format!("shape {shape:?} overflows"))?;
        }
        Self::view(dtype, shape, strides, 0, storage)
    }

    /// A tensor of a [`Dtype::Other`]: it has a name and a shape, and reading it is an error.
    pub(super) fn unreadable(dtype: Dtype, shape: Vec<usize>, range: Range<u64>) -> Self {
        Self { dtype, strides: Vec::new(), shape, range }
    }

    /// The numbers as `f32`, from the bytes of [`Tensor::range`].
    pub(super) fn to_f32(&self, name: &str, bytes: &[u8]) -> Result<Vec<f32>, Fault> {
        match self.dtype {
            Dtype::F32 => self.gather(name, bytes, f32::from_le_bytes),
            Dtype::F16 => self.gather(name, bytes, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => self.gather(name, bytes, |b| bf16::from_le_bytes(b).to_f32()),
            Dtype::F64 => self.gather(name, bytes, |b| f64::from_le_bytes(b) as f32),
            got => Err(Fault::Type { name: name.into(), got, wanted: "F32, F16, BF16 or F64" }),
        }
    }

    /// The numbers as `i64`, from the bytes of [`Tensor::range`].
    pub(super) fn to_i64(&self, name: &str, bytes: &[u8]) -> Result<Vec<i64>, Fault> {
        match self.dtype {
            Dtype::I64 => self.gather(name, bytes, i64::from_le_bytes),
            Dtype::I32 => self.gather(name, bytes, |b| i32::from_le_bytes(b).into()),
            Dtype::I16 => self.gather(name, bytes, |b| i16::from_le_bytes(b).into()),
            Dtype::I8 => self.gather(name, bytes, |b| i8::from_le_bytes(b).into()),
            Dtype::U32 => self.gather(name, bytes, |b| u32::from_le_bytes(b).into()),
            Dtype::U16 => self.gather(name, bytes, |b| u16::from_le_bytes(b).into()),
            Dtype::U8 => self.gather(name, bytes, |b| u8::from_le_bytes(b).into()),
            Dtype::Bool => self.gather(name, bytes, |b| i64::from(u8::from_le_bytes(b) != 0)),
            got => {
                Err(Fault::Type { name: name.into(), got, wanted: "integers of at most 63 bits" })
            }
        }
    }

    /// All elements in C order: `N` bytes each, through `convert`.
    fn gather<const N: usize, T: Copy>(
        &self,
        name: &str,
        bytes: &[u8],
        convert: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Fault> {
        let short = || Fault::damaged("tensor", format!("`{name}`: its bytes end early"));
        let elements = bytes.as_chunks::<N>().0;
        let count: usize = self.shape.iter().product(); // checked in `view`
        let mut out = Vec::new();
        out.try_reserve_exact(count).map_err(|_| Fault::Memory(name.into()))?;
        if count == 0 {
            return Ok(out);
        }
        // Rows of the last dimension; `index` counts through the others like an odometer.
        let (&row, outer) = self.shape.split_last().unwrap_or((&1, &[]));
        let step = self.strides.last().copied().unwrap_or(1);
        let mut index = vec![0usize; outer.len()];
        loop {
            let start: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            if step == 1 {
                let run = elements.get(start..start + row).ok_or_else(short)?;
                out.extend(run.iter().map(|&e| convert(e)));
            } else {
                for i in 0..row {
                    out.push(convert(*elements.get(start + i * step).ok_or_else(short)?));
                }
            }
            let Some(at) = (0..outer.len()).rev().find(|&d| index[d] + 1 < outer[d]) else {
                return Ok(out);
            };
            index[at] += 1;
            index[at + 1..].fill(0);
        }
    }
}
