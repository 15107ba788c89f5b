//! Which tensor is stored how: one readable table, and exceptions from the command line.

use varmint_core::Store;
use varmint_core::tensor::{Class, Dtype, Role, Spec};

use crate::error::Error;
use crate::quantize::dtype_name;

/// The number format of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Everything f32: for tests.
    F32,
    /// Weights and tables f16.
    F16,
    /// int8 weights, activations of 8 or 12 bits.
    Int8,
    /// As `Int8`, but 4 bits for most weights of the trunk.
    Int4,
}

impl Numbers {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::Int8, Self::Int4];

    /// The name of the file's first tier.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// How that tier stores keys and values, and the decoder's maps.
    pub const fn stores(self) -> (Store, Store) {
        match self {
            Self::F32 => (Store::F32, Store::F32),
            Self::F16 => (Store::F16, Store::F16),
            Self::Int8 | Self::Int4 => (Store::I8, Store::F16),
        }
    }
}

/// Weights of 4 bits in `Int4`: nearly all of a transformer. The second feed-forward matrix stays out,
/// for its inputs have outliers (after GELU); and the head, for it is small.
const FOUR: [Role; 5] =
    [Role::QkvWeight, Role::ProjWeight, Role::Fc1Weight, Role::AdaWeight, Role::SharedAdaWeight];

/// How a tensor is stored by default.
///
/// `edge`: a decoder convolution at the decoder's rim (`post_quant_conv`, `conv_in`, the last residual
/// block, `conv_out`): few weights with a direct view of the latent or of the pixels. Of the error of
/// an image decoder whose other convolutions all read 8 bits, the last residual block alone makes
/// three quarters: nothing comes after it that could smooth its steps.
pub fn dtype(numbers: Numbers, spec: &Spec, edge: bool) -> Dtype {
    match (numbers, spec.class) {
        (Numbers::F32, _) | (_, Class::Vector) => Dtype::F32,
        (Numbers::F16, _) => Dtype::F16,
        (Numbers::Int4, _) if FOUR.contains(&spec.role) && spec.allows(Dtype::I4) => Dtype::I4,
        (Numbers::Int8 | Numbers::Int4, _) => match spec.role {
            Role::QkvWeight | Role::ProjWeight | Role::Fc1Weight => Dtype::I8,
            // Inputs with outliers (after GELU), or weights read once per image.
            Role::Fc2Weight | Role::HeadWeight => Dtype::I8Wide,
            Role::AdaWeight | Role::SharedAdaWeight | Role::HeadAdaWeight => Dtype::I8Wide,
            Role::ConvWeight if edge => Dtype::I8Wide,
            Role::ConvWeight => Dtype::I8,
            Role::CondTable if spec.rows > 64 => Dtype::I8Rows,
            // Small, and sums of them are what everything else starts from.
            _ => Dtype::F16,
        },
    }
}

/// An exception: tensors of this role are stored so, where their class allows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Which.
    pub role: Role,
    /// Only those of this block or decoder layer.
    pub index: Option<usize>,
    /// How.
    pub dtype: Dtype,
}

/// Roles whose storage can be chosen, as options write them.
const ROLES: [(&str, Role); 16] = [
    ("codebook", Role::Codebook),
    ("phi", Role::PhiWeight),
    ("word", Role::WordWeight),
    ("posstart", Role::PosStart),
    ("lvlpos", Role::LvlPos),
    ("table", Role::CondTable),
    ("headada", Role::HeadAdaWeight),
    ("head", Role::HeadWeight),
    ("sharedada", Role::SharedAdaWeight),
    ("qkv", Role::QkvWeight),
    ("proj", Role::ProjWeight),
    ("fc1", Role::Fc1Weight),
    ("fc2", Role::Fc2Weight),
    ("ada", Role::AdaWeight),
    ("adatable", Role::AdaTable),
    ("conv", Role::ConvWeight),
];

/// A role as `--keep` writes it.
pub(crate) fn role_name(role: Role) -> Option<&'static str> {
    ROLES.iter().find(|(_, r)| *r == role).map(|(name, _)| *name)
}

const DTYPES: [Dtype; 6] =
    [Dtype::F32, Dtype::F16, Dtype::I8Rows, Dtype::I8, Dtype::I8Wide, Dtype::I4];

impl Keep {
    /// Reads `f16:head,fc2`; `conv.3` is the convolutions of decoder layer 3 only.
    ///
    /// # Errors
    /// [`Error::Option`] that lists what is possible.
    pub fn parse(text: &str) -> Result<Vec<Self>, Error> {
        let wrong = |what: &str, name: &str, all: Vec<&str>| {
            Error::Option(format!(
                "--keep {text}: no {what} {name:?}; there are {}",
                all.join(", ")
            ))
        };
        let Some((dtype, roles)) = text.split_once(':') else {
            let m = format!("--keep {text}: write STORAGE:ROLE,ROLE (example: f16:head,fc2)");
            return Err(Error::Option(m));
        };
        let storage = DTYPES.into_iter().find(|d| dtype_name(*d) == dtype);
        let dtype =
            storage.ok_or_else(|| wrong("storage", dtype, DTYPES.map(dtype_name).to_vec()))?;
        let role = |name: &str| {
            let (start, index) = match name.rsplit_once('.') {
                Some((start, n)) if n.parse::<usize>().is_ok() => (start, n.parse().ok()),
                _ => (name, None),
            };
            let plain = start.trim().to_lowercase().replace(['_', '-', '.'], "");
            let found = ROLES.iter().find(|(n, _)| *n == plain);
            found
                .map(|(_, role)| Self { role: *role, index, dtype })
                .ok_or_else(|| wrong("role", name, ROLES.map(|(n, _)| n).to_vec()))
        };
        roles.split(',').map(role).collect()
    }
}

/// The storage of a tensor: the last exception for its role, else the default.
///
/// # Errors
/// [`Error::Option`] when an exception asks for what the role cannot have.
pub fn choose(numbers: Numbers, keep: &[Keep], spec: &Spec, edge: bool) -> Result<Dtype, Error> {
    let applies = |k: &&Keep| k.role == spec.role && k.index.is_none_or(|i| i == spec.index);
    let Some(k) = keep.iter().rev().find(applies) else {
        return Ok(dtype(numbers, spec, edge));
    };
    if spec.allows(k.dtype) {
        return Ok(k.dtype);
    }
    let name = dtype_name(k.dtype);
    Err(Error::Option(format!("--keep: {:?} cannot be stored as {name}", spec.role)))
}
