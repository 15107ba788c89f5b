//! A tensor in the numbers of the file.

/// A tensor as it will stand in the file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Encoded {
    /// The numbers, little-endian.
    pub data: Vec<u8>,
    /// One f32 scale per row (packed: per padded row); empty for floats.
    pub scales: Vec<f32>,
}
