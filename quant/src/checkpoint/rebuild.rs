//! The few calls that a checkpoint's pickle may make: each becomes an inert node, none runs code.
//!
//! | call | becomes |
//! |---|---|
//! | `_rebuild_tensor_v2(storage, offset, size, stride, ..)` | [`Node::Tensor`] |
//! | `_rebuild_parameter(tensor, ..)` | the tensor |
//! | `OrderedDict()`, `defaultdict(..)` | an empty dictionary |
//! | what [`INERT`] lists | [`Node::Opaque`] |
//! | anything else | an error that names it |

use super::Fault;
use super::node::{Node, Value};
use super::pickle::Machine;

/// Dimensions that a rebuilt tensor may have.
const MAX_RANK: usize = 16;

/// Calls that give values of no interest here: options and random states of training scripts.
const INERT: &[&str] = &[
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.frozenset",
    "builtins.set",
    "builtins.slice",
    "datetime.datetime",
    "datetime.timedelta",
    "numpy._core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "torch.Size",
    "torch.device",
];

impl Machine<'_> {
    /// `function(*args)`: pushes what it becomes.
    pub(super) fn call(&mut self, function: Value, args: Value) -> Result<(), Fault> {
        let Some(Node::Global(name)) = self.lookup(function) else {
            return Err(self.fault("a call of something that is not a function"));
        };
        // Protocol 2 keeps the module's name of Python 2.
        let name = name
            .strip_prefix("__builtin__.")
            .map_or_else(|| name.clone(), |name| format!("builtins.{name}"));
        let Some(Node::Tuple(args)) = self.lookup(args) else {
            return Err(
                self.fault(format!("`{name}` is called with something that is not a tuple"))
            );
        };
        let bad =
            |m: &Self| m.fault(format!("`{name}` is called with arguments of the wrong kind"));
        match name.as_str() {
            // _rebuild_tensor_v3 is v2 with an untyped storage and the type of its numbers.
            "torch._utils._rebuild_tensor"
            | "torch._utils._rebuild_tensor_v2"
            | "torch._utils._rebuild_tensor_v3" => {
                let &[Value::Node(storage), Value::Int(offset), shape, strides, ..] =
                    args.as_slice()
                else {
                    return Err(bad(self));
                };
                let dtype = match args.get(6) {
                    Some(&dtype) if name.ends_with("v3") => match self.lookup(dtype) {
                        Some(Node::Global(dtype)) => Some(dtype.clone()),
                        _ => return Err(bad(self)),
                    },
                    _ => None,
                };
                let is_storage = matches!(self.nodes.get(storage), Some(Node::Storage { .. }));
                let (shape, strides) = (self.sizes(shape), self.sizes(strides));
                match (shape, strides, usize::try_from(offset)) {
                    (Some(shape), Some(strides), Ok(offset)) if is_storage => {
                        self.node(Node::Tensor { storage, offset, shape, strides, dtype });
                    }
                    _ => return Err(bad(self)),
                }
            }
            "torch._utils._rebuild_parameter" | "torch._utils._rebuild_parameter_with_state" => {
                match args.first() {
                    Some(&inner) if matches!(self.lookup(inner), Some(Node::Tensor { .. })) => {
                        self.stack.push(inner)
                    }
                    _ => return Err(bad(self)),
                }
            }
            "collections.OrderedDict" | "collections.defaultdict" | "collections.Counter" => {
                // With arguments it would be a copy of them; torch.save fills it afterwards instead.
                if name.ends_with("OrderedDict") && !args.is_empty() {
                    return Err(bad(self));
                }
                self.node(Node::Dict(Vec::new()));
            }
            _ if INERT.contains(&name.as_str()) => self.node(Node::Opaque),
            _ => return Err(Fault::Forbidden(name)),
        }
        Ok(())
    }

    /// BINPERSID: pops `("storage", class, key, device, elements)`, pushes the storage.
    pub(super) fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let parts = match self.lookup(id) {
            Some(Node::Tuple(parts)) => match parts.as_slice() {
                &[tag, class, key, _device, Value::Int(len), ..] => Some((tag, class, key, len)),
                _ => None,
            },
            _ => None,
        };
        let node = parts.and_then(|(tag, class, key, len)| {
            let (Some(Node::Global(class)), Some(Node::Text(key))) =
                (self.lookup(class), self.lookup(key))
            else {
                return None;
            };
            let known = matches!(self.lookup(tag), Some(Node::Text(tag)) if tag == "storage");
            // torch.FloatStorage, torch.cuda.FloatStorage, torch.storage.UntypedStorage
            let class =
                class.strip_prefix("torch.").filter(|_| known)?.rsplit('.').next()?.to_owned();
            Some(Node::Storage { class, key: key.clone(), len: usize::try_from(len).ok()? })
        });
        let node = node.ok_or_else(|| {
            self.fault("a persistent id that is not ('storage', torch class, key, device, length)")
        })?;
        self.node(node);
        Ok(())
    }

    /// The node of a value.
    fn lookup(&self, value: Value) -> Option<&Node> {
        match value {
            Value::Node(n) => self.nodes.get(n),
            _ => None,
        }
    }

    /// A text short enough for a part of a global's name.
    pub(super) fn short_text(&self, value: Value) -> Result<&str, Fault> {
        match self.lookup(value) {
            Some(Node::Text(text)) if text.len() <= 256 => Ok(text),
            _ => Err(self.fault("a global's name is not a short text")),
        }
    }

    /// A tuple (or list) of sizes.
    fn sizes(&self, value: Value) -> Option<Vec<usize>> {
        let (Node::Tuple(items) | Node::List(items)) = self.lookup(value)? else {
            return None;
        };
        if items.len() > MAX_RANK {
            return None;
        }
        items
            .iter()
            .map(|&item| match item {
                Value::Int(n) => usize::try_from(n).ok(),
                _ => None,
            })
            .collect()
    }
}
