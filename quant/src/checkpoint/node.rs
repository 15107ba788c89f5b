//! The inert values that a pickle becomes.
//!
//! Values are small and copied; containers live in one arena and refer to each other by index, so shared and even circular
//! references need no counting, and dropping them does not recurse.

/// A value on the stack; containers live in the arena.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer of at most 64 bits.
    Int(i64),
    /// Index of a [`Node`].
    Node(usize),
}

/// A value of the arena.
#[derive(Debug)]
pub(super) enum Node {
    /// Text.
    Text(String),
    /// `module.name`, not looked up, not called.
    Global(String),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A list.
    List(Vec<Value>),
    /// A dictionary, in order of insertion.
    Dict(Vec<(Value, Value)>),
    /// `("storage", class, key, device, elements)`.
    Storage {
        /// Name of the class, such as `FloatStorage`.
        class: String,
        /// The entry `data/<key>`.
        key: String,
        /// Number of elements.
        len: usize,
    },
    /// A view of a storage.
    Tensor {
        /// Node of the storage.
        storage: usize,
        /// First element.
        offset: usize,
        /// Sizes.
        shape: Vec<usize>,
        /// In elements.
        strides: Vec<usize>,
        /// `torch.<name>`, only for tensors over untyped storages.
        dtype: Option<String>,
    },
    /// Something that was skipped: floats, bytes, long integers, sets, objects that `rebuild` lists.
    Opaque,
}

impl Node {
    /// What it is, for messages.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Global(_) => "a global",
            Self::Tuple(_) => "a tuple",
            Self::List(_) => "a list",
            Self::Dict(_) => "a dictionary",
            Self::Storage { .. } => "a storage",
            Self::Tensor { .. } => "a tensor",
            Self::Opaque => "a skipped value",
        }
    }
}
