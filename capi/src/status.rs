//! Error codes: those of the core, and what only a caller in C can get wrong.

use core::ffi::CStr;

use varmint_core::Error;

/// What a function says: 0 or an error. 1xx: the model file; 2xx: the request; 3xx: memory; 4xx: the kernels; 5xx: the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Status {
    /// It is done.
    Ok = 0,
    /// The file is cut short.
    FileTruncated = 101,
    /// Not a .vmt model file.
    FileMagic = 102,
    /// A .vmt version that this build does not read.
    FileVersion = 103,
    /// The model does not start at a multiple of 64 bytes.
    FileMisaligned = 104,
    /// There are bytes after the end of the model.
    FileTrailing = 105,
    /// The checksum does not match: the file is damaged.
    FileChecksum = 106,
    /// A section is missing, repeated, out of order or leaves a hole.
    FileSection = 107,
    /// A number in the configuration is out of range.
    FileConfig = 108,
    /// The scale schedule is not valid.
    FileSchedule = 109,
    /// A tier is not valid.
    FileTier = 110,
    /// A text is not valid.
    FileText = 111,
    /// A tensor record disagrees with the configuration.
    FileTensor = 112,
    /// A quantization scale is not valid.
    FileScale = 113,
    /// A weight is not valid.
    FileWeight = 114,
    /// The model has no such tier.
    UnknownTier = 201,
    /// The model has no such condition table, or the table no such row.
    UnknownLabel = 202,
    /// Guidance, temperature or top-p is out of range.
    BadSampling = 203,
    /// Forced tokens are not valid.
    BadTokens = 204,
    /// This build cannot run that tier.
    Unsupported = 205,
    /// No tier does its work in what is allowed.
    TooMuchWork = 206,
    /// The image cannot go on in that tier.
    NotLower = 207,
    /// The arena is smaller than the tier's `arena_bytes`, or no tier fits.
    ArenaTooSmall = 301,
    /// The arena does not start at a multiple of 16 bytes.
    ArenaMisaligned = 302,
    /// The plan needs more than 4 GiB.
    PlanTooLarge = 303,
    /// Two buffers of the plan overlap: a defect of varmint.
    PlanOverlap = 304,
    /// Plan and model do not belong together: a defect of varmint.
    PlanMismatch = 305,
    /// The kernels failed.
    Backend = 401,
    /// A pointer is null.
    NullPointer = 501,
    /// A pointer is not aligned for what it points to.
    MisalignedPointer = 502,
    /// The memory is smaller than `varmint_generator_size()`.
    MemoryTooSmall = 503,
    /// The memory for previews is smaller than the tier's `preview_width * preview_height * 3`.
    PreviewTooSmall = 504,
    /// Generator, model, arena and previews share bytes, or one reaches past the end of memory.
    MemoryOverlap = 505,
    /// No image has been started, or the last start failed.
    NotStarted = 506,
    /// An error that this interface has no number for.
    Other = 599,
}

/// A sentence for every status.
pub const MESSAGES: [(Status, &CStr); 35] = {
    use Status::*;
    [
        (Ok, c"no error"),
        (FileTruncated, c"the model file is cut short"),
        (FileMagic, c"not a .vmt model file"),
        (FileVersion, c"a .vmt version that this build does not read"),
        (FileMisaligned, c"the model must start at a multiple of 64 bytes"),
        (FileTrailing, c"there are bytes after the end of the model"),
        (FileChecksum, c"the checksum does not match: the model file is damaged"),
        (FileSection, c"a section of the model file is missing, repeated or out of order"),
        (FileConfig, c"a number in the model's configuration is out of range"),
        (FileSchedule, c"the model's scale schedule is not valid"),
        (FileTier, c"a tier of the model is not valid"),
        (FileText, c"a text of the model is not valid"),
        (FileTensor, c"a tensor record disagrees with the model's configuration"),
        (FileScale, c"a quantization scale is negative or not finite"),
        (FileWeight, c"a weight is -128, which the format forbids"),
        (UnknownTier, c"the model has no such tier"),
        (UnknownLabel, c"the model has no such condition table, or the table no such row"),
        (BadSampling, c"guidance must be finite, temperature above zero, top-p between 0 and 1"),
        (BadTokens, c"the forced tokens are not valid"),
        (Unsupported, c"this build cannot run that tier"),
        (TooMuchWork, c"no tier does its work in what is allowed"),
        (NotLower, c"the image cannot go on in that tier"),
        (ArenaTooSmall, c"the arena is too small"),
        (ArenaMisaligned, c"the arena must start at a multiple of 16 bytes"),
        (PlanTooLarge, c"the plan needs more than 4 GiB"),
        (PlanOverlap, c"two buffers of the plan overlap (a defect: report it)"),
        (PlanMismatch, c"plan and model do not belong together (a defect: report it)"),
        (Backend, c"the kernels failed"),
        (NullPointer, c"a pointer is null"),
        (MisalignedPointer, c"a pointer is not aligned for what it points to"),
        (MemoryTooSmall, c"the memory for the generator is too small"),
        (PreviewTooSmall, c"the memory for previews is too small"),
        (MemoryOverlap, c"generator, model, arena and previews must not share bytes"),
        (NotStarted, c"no image has been started"),
        (Other, c"unknown error"),
    ]
};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = i32::from(error.code());
        MESSAGES.iter().find(|(s, _)| *s as i32 == code).map_or(Self::Other, |(s, _)| *s)
    }
}
