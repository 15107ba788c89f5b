//! Everything that can go wrong in the core, as one `Copy` value.
//!
//! Errors are numbered in families ([`Error::code`]): 1xx the model file, 2xx the request,
//! 3xx memory, 4xx the backend. They carry numbers, never strings: what a firmware does not
//! print costs it nothing.

use core::fmt;

/// What a model file got wrong; the number is stable across releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u16)]
#[non_exhaustive]
pub enum Fault {
    /// The buffer is shorter than the file says, or than any file can be.
    Truncated = 101,
    /// The first bytes are not `VARMINT\0`.
    Magic = 102,
    /// A format version that this build does not read.
    Version = 103,
    /// The buffer does not start at a multiple of 64 bytes.
    Misaligned = 104,
    /// There are bytes after the end that the header states.
    Trailing = 105,
    /// The checksum does not match the bytes.
    Checksum = 106,
    /// A section is missing, repeated, out of order, or leaves a hole.
    Section = 107,
    /// A number in the configuration is zero, too large, or contradicts another.
    Config = 108,
    /// The scale schedule is empty, too long, or a side is zero.
    Schedule = 109,
    /// A tier's name, number format, subnet list or tile size is not allowed.
    Tier = 110,
    /// A text or a label is not UTF-8, or its offsets do not ascend.
    Text = 111,
    /// A tensor record disagrees with the configuration (kind, shape, type, place).
    Tensor = 112,
    /// A quantization scale is negative, infinite or not a number.
    Scale = 113,
    /// An int8 weight or group scale is -128, which the format forbids.
    Weight = 114,
}

/// Any error of the core.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[non_exhaustive]
pub enum Error {
    /// The model file is refused: what, and at which byte.
    File {
        /// What is wrong.
        fault: Fault,
        /// Offset in the file of the field that is wrong.
        at: u64,
    },
    /// 201: the model has no tier of that name or number.
    UnknownTier,
    /// 202: condition table `table` has no row `row`; `rows` is the number of its labels.
    UnknownLabel {
        /// Which condition table (0 = class, 1 = style).
        table: u16,
        /// The row asked for.
        row: u32,
        /// Rows that exist.
        rows: u32,
    },
    /// 203: a sampling value is not usable (guidance not finite, temperature not above zero, top-p outside 0..=1).
    BadSampling,
    /// 204: forced tokens: `need` tokens below the vocabulary size are wanted.
    BadTokens {
        /// Tokens that the schedule has.
        need: usize,
        /// Tokens given, or the position of the first one out of range.
        got: usize,
    },
    /// 205: the tier or request asks for something this build, or this backend, cannot run.
    Unsupported,
    /// 207: an image cannot go on in that tier, or not now: a lower tier may leave out blocks, guidance and decoder
    /// work, at the start of a scale; it cannot use what the image has not kept.
    NotLower,
    /// 208: the encoder belongs to another model: latent channels, codebook or size of the picture differ.
    WrongEncoder,
    /// 209: what is to be encoded has `got` values and needs `need` (pixels `[height, width, 3]`; cells of a mask).
    BadImage {
        /// Values needed.
        need: usize,
        /// Values given.
        got: usize,
    },
    /// 210: a batch of `got` requests where there is room for 1 to `need`.
    BadBatch {
        /// Images that the plan, or any plan, can make at once.
        need: usize,
        /// Requests given.
        got: usize,
    },
    /// 206: no tier does its work in what the budget allows.
    TooMuchWork {
        /// Multiply-accumulates needed, of a step or of an image.
        need: u64,
        /// Multiply-accumulates allowed.
        got: u64,
    },
    /// 301: the arena is too small.
    ArenaTooSmall {
        /// Bytes the plan needs.
        need: usize,
        /// Bytes given.
        got: usize,
    },
    /// 302: the arena does not start at a multiple of `need` bytes.
    ArenaMisaligned {
        /// Alignment needed, in bytes.
        need: usize,
    },
    /// 303: the plan has more buffers, or more bytes, than a plan can hold.
    PlanTooLarge,
    /// 304: two buffers of the plan that live at the same time overlap (a defect: report it).
    PlanOverlap,
    /// 305: plan, model and generator do not belong together.
    PlanMismatch,
    /// 401: the backend failed; the number is its own.
    Backend(u32),
}

impl Error {
    /// The stable number of the error.
    pub const fn code(self) -> u16 {
        match self {
            Self::File { fault, .. } => fault as u16,
            Self::UnknownTier => 201,
            Self::UnknownLabel { .. } => 202,
            Self::BadSampling => 203,
            Self::BadTokens { .. } => 204,
            Self::Unsupported => 205,
            Self::TooMuchWork { .. } => 206,
            Self::NotLower => 207,
            Self::WrongEncoder => 208,
            Self::BadImage { .. } => 209,
            Self::BadBatch { .. } => 210,
            Self::ArenaTooSmall { .. } => 301,
            Self::ArenaMisaligned { .. } => 302,
            Self::PlanTooLarge => 303,
            Self::PlanOverlap => 304,
            Self::PlanMismatch => 305,
            Self::Backend(_) => 401,
        }
    }

    /// A file error at byte `at`.
    pub const fn file(fault: Fault, at: usize) -> Self {
        Self::File { fault, at: at as u64 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the file is cut short",
            Self::Magic => "not a .vmt model file",
            Self::Version => "a .vmt version this build does not read (it reads version 2)",
            Self::Misaligned => "the model bytes must start at a multiple of 64 bytes",
            Self::Trailing => "there are bytes after the end of the model",
            Self::Checksum => "the checksum does not match: the file is damaged",
            Self::Section => "a section is missing, repeated, out of order or leaves a hole",
            Self::Config => "a number in the configuration is out of range",
            Self::Schedule => "the scale schedule needs 1 to 16 scales of sides 1 to 256",
            Self::Tier => "a tier is not valid",
            Self::Text => "a text is not valid UTF-8 or its offsets do not ascend",
            Self::Tensor => "a tensor record disagrees with the configuration",
            Self::Scale => "a quantization scale is negative or not finite",
            Self::Weight => "an int8 weight or group scale is -128, which the format forbids",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "E{}: ", self.code())?;
        match *self {
            Self::File { fault, at } => write!(f, "{fault} (byte {at})"),
            Self::UnknownTier => f.write_str("the model has no such tier"),
            Self::UnknownLabel { table, row, rows } => {
                write!(
                    f,
                    "condition table {table} has rows 0 to {}, not {row}",
                    rows.saturating_sub(1)
                )
            }
            Self::BadSampling => f.write_str(
                "guidance must be finite, temperature above zero and top-p between 0 and 1",
            ),
            Self::BadTokens { need, got } => write!(
                f,
                "{need} tokens below the vocabulary size are needed; the count or position {got} is wrong"
            ),
            Self::Unsupported => f.write_str("this build or backend cannot run that tier or request"),
            Self::NotLower => f.write_str(
                "the image cannot go on in that tier here: only in one with fewer blocks or less guidance, at the start of a scale",
            ),
            Self::WrongEncoder => f.write_str(
                "the encoder belongs to another model: latent channels, codebook or size of the picture differ",
            ),
            Self::BadImage { need, got } => {
                write!(f, "{need} values of a picture or mask are needed, not {got}")
            }
            Self::BadBatch { need, got } => {
                write!(f, "1 to {need} images can be made at once, not {got}")
            }
            Self::TooMuchWork { need, got } => write!(
                f,
                "{got} multiply-accumulates are allowed and {need} are needed: {} more",
                need.saturating_sub(got)
            ),
            Self::ArenaTooSmall { need, got } => {
                write!(
                    f,
                    "the arena has {got} bytes and the plan needs {need}: {} more",
                    need.saturating_sub(got)
                )
            }
            Self::ArenaMisaligned { need } => {
                write!(f, "the arena must start at a multiple of {need} bytes")
            }
            Self::PlanTooLarge => f.write_str("the plan exceeds its limits (buffers, or 4 GiB)"),
            Self::PlanOverlap => f.write_str("two live buffers of the plan overlap"),
            Self::PlanMismatch => f.write_str("this plan was made for another model or tier"),
            Self::Backend(n) => write!(f, "the backend failed with its error {n}"),
        }
    }
}

impl core::error::Error for Error {}
