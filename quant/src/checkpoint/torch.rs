//! `.pth` files: the zip directory and the pickle together give the place of every tensor.
//!
//! Nested dictionaries and lists become dotted names: `{"trainer": {"var_wo_ddp": {"pos_start": t}}}` is
//! `trainer.var_wo_ddp.pos_start`. What is neither a tensor nor a container is left out.

use std::collections::BTreeMap;

use super::Fault;
use super::node::{Node, Value};
use super::pickle::Pickle;
use super::tensor::{Dtype, Tensor};
use super::zip::Entries;

/// Pickles beyond this size are refused; that of the largest model is below 200 kB.
const MAX_PICKLE: u64 = 1 << 26;
/// Containers in containers.
const MAX_DEPTH: usize = 32;
/// Values looked at; a container that is shared is looked at once per path to it.
const MAX_VISITS: usize = 1 << 18;
/// Length of a dotted name.
const MAX_NAME: usize = 512;

/// First bytes of the format before PyTorch 1.6: a pickled magic number.
const LEGACY: [u8; 14] =
    [0x80, 0x02, 0x8a, 0x0a, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// Is this the format before PyTorch 1.6?
pub(super) fn is_legacy(file: &[u8]) -> bool {
    file.starts_with(&LEGACY)
}

/// Finds all tensors of a whole `.pth` file.
pub(super) fn tensors(file: &[u8]) -> Result<BTreeMap<String, Tensor>, Fault> {
    let entries = Entries::parse(file)?;
    let bytes = |range: std::ops::Range<u64>| {
        file.get(range.start as usize..range.end as usize).unwrap_or_default()
    };
    if let Some(order) = entries.find("byteorder")? {
        match bytes(order) {
            b"little" => {}
            b"big" => return Err(Fault::Kind("a file written on a big-endian machine")),
            _ => {
                return Err(Fault::damaged(
                    "zip directory",
                    "`byteorder` is neither little nor big",
                ));
            }
        }
    }
    let range = entries.need("data.pkl")?;
    if range.end - range.start > MAX_PICKLE {
        return Err(Fault::damaged("pickle", format!("longer than {MAX_PICKLE} bytes")));
    }
    let pickle = Pickle::parse(bytes(range))?;
    let mut walk = Walk {
        entries: &entries,
        pickle: &pickle,
        name: String::new(),
        visits: 0,
        found: BTreeMap::new(),
    };
    walk.visit(pickle.top, 0)?;
    Ok(walk.found)
}

struct Walk<'a> {
    entries: &'a Entries,
    pickle: &'a Pickle,
    /// Dotted name of the value in hand.
    name: String,
    visits: usize,
    found: BTreeMap<String, Tensor>,
}

impl Walk<'_> {
    fn visit(&mut self, value: Value, depth: usize) -> Result<(), Fault> {
        let pickle = self.pickle;
        self.visits += 1;
        if depth > MAX_DEPTH || self.visits > MAX_VISITS {
            let what = format!(
                "`{}`: containers nested deeper than {MAX_DEPTH} or more than {MAX_VISITS} values",
                self.name
            );
            return Err(Fault::damaged("pickle", what));
        }
        let Value::Node(n) = value else { return Ok(()) };
        match pickle.nodes.get(n) {
            Some(Node::Dict(pairs)) => {
                for &(key, value) in pairs {
                    if let Value::Int(key) = key {
                        self.enter(&key.to_string(), value, depth)?;
                    } else if let Some(key) = pickle.text(key) {
                        self.enter(key, value, depth)?;
                    } // else: no name, no weight of a model
                }
            }
            Some(Node::List(items) | Node::Tuple(items)) => {
                for (i, &item) in items.iter().enumerate() {
                    self.enter(&i.to_string(), item, depth)?;
                }
            }
            Some(Node::Tensor { storage, offset, shape, strides, dtype }) => {
                let tensor = self.place(*storage, *offset, shape, strides, dtype.as_deref())?;
                if self.found.insert(self.name.clone(), tensor).is_some() {
                    return Err(Fault::damaged(
                        "pickle",
                        format!("two tensors are called `{}`", self.name),
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, key: &str, value: Value, depth: usize) -> Result<(), Fault> {
        let length = self.name.len();
        if length + key.len() >= MAX_NAME {
            return Err(Fault::damaged(
                "pickle",
                format!("a name below `{}` is longer than {MAX_NAME} bytes", self.name),
            ));
        }
        if length > 0 {
            self.name.push('.');
        }
        self.name.push_str(key);
        self.visit(value, depth + 1)?;
        self.name.truncate(length);
        Ok(())
    }

    /// Checks a tensor against its storage.
    fn place(
        &self,
        storage: usize,
        offset: usize,
        shape: &[usize],
        strides: &[usize],
        dtype: Option<&str>,
    ) -> Result<Tensor, Fault> {
        let fault = |what: String| Fault::damaged("tensor", format!("`{}`: {what}", self.name));
        let Some(Node::Storage { class, key, len }) = self.pickle.nodes.get(storage) else {
            return Err(fault("no storage".into()));
        };
        let unit = class_dtype(class)
            .ok_or_else(|| fault(format!("its storage class `{class}` is not known")))?;
        let range = self.entries.need(&format!("data/{key}"))?;
        let (size, got) = (unit_size(unit), range.end - range.start);
        if (*len as u64).checked_mul(size) != Some(got) {
            return Err(fault(format!(
                "storage `{key}` has {got} bytes; {len} elements of {size} bytes are wanted"
            )));
        }
        let dtype = dtype.map_or(unit, torch_dtype);
        Tensor::view(dtype, shape.to_vec(), strides.to_vec(), offset, range).map_err(fault)
    }
}

/// Bytes of a storage's element; complex numbers are counted although they are never read.
fn unit_size(unit: Dtype) -> u64 {
    match unit {
        Dtype::Other("complex64") => 8,
        Dtype::Other("complex128") => 16,
        known => known.size() as u64,
    }
}

/// What a typed storage holds.
fn class_dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "DoubleStorage" => Dtype::F64,
        "FloatStorage" => Dtype::F32,
        "HalfStorage" => Dtype::F16,
        "BFloat16Storage" => Dtype::BF16,
        "LongStorage" => Dtype::I64,
        "IntStorage" => Dtype::I32,
        "ShortStorage" => Dtype::I16,
        "CharStorage" => Dtype::I8,
        "ByteStorage" | "UntypedStorage" => Dtype::U8,
        "BoolStorage" => Dtype::Bool,
        "ComplexFloatStorage" => Dtype::Other("complex64"),
        "ComplexDoubleStorage" => Dtype::Other("complex128"),
        _ => return None,
    })
}

/// `torch.float32` and the like, for tensors over untyped storages.
fn torch_dtype(name: &str) -> Dtype {
    match name.trim_start_matches("torch.") {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::BF16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        _ => Dtype::Other("exotic"),
    }
}
