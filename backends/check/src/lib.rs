//! varmint-check: kernels against the scalar reference, bit for bit: op x shape x alignment x values, with
//! sentinels around the output.
//!
//! `no_std` with `alloc`, so that the same cases run on a desktop, in a browser and in firmware:
//!
//! ```
//! let report = varmint_check::brief(&varmint_core::Scalar).unwrap();
//! assert!(report.products > 0);
//! ```
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod attention;
mod convolutions;
mod floats;
mod int4;
mod picture;
mod pinned;
mod products;
mod random;
mod rows;

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use varmint_core::Ops;

pub use attention::{
    float_attention_equals_the_reference, int8_attention_equals_the_reference,
    some_int8_attention_equals_the_reference,
};
pub use convolutions::{
    Transformed, convolutions_equal_the_reference_whatever_the_scratch,
    large_sums_are_convolved_without_a_transform,
};
pub use floats::float_products_equal_the_reference;
pub use int4::{
    products_of_4_bit_weights_equal_the_reference, short_slices_of_4_bit_weights_shorten_the_work,
};
pub use picture::picture;
pub use pinned::pinned;
pub use products::{
    integer_products_equal_the_reference, short_slices_shorten_the_work_as_in_the_reference,
};
pub use rows::rows_equal_the_reference;

/// What an output holds before the kernel runs.
const SENTINEL: f32 = -7.25e33;

/// How many cases [`brief`] compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Integer products.
    pub products: usize,
    /// Products whose output is shorter than the shapes say.
    pub short: usize,
    /// Operations on rows.
    pub rows: usize,
    /// Attentions over an int8 cache.
    pub attentions: usize,
}

/// The first difference from the reference, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch(pub String);

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for Mismatch {}

/// The comparisons that a microcontroller has time for, of the operations that are written by hand there.
///
/// # Errors
/// The first output that is not the reference's.
pub fn brief(ops: &dyn Ops) -> Result<Report, Mismatch> {
    Ok(Report {
        products: integer_products_equal_the_reference(ops)?,
        short: short_slices_shorten_the_work_as_in_the_reference(ops)?,
        rows: rows_equal_the_reference(ops)?,
        attentions: some_int8_attention_equals_the_reference(ops)?,
    })
}

/// An error that names the kernels, the case and the first place that differs.
fn same<T: PartialEq + fmt::Debug>(
    ops: &dyn Ops,
    want: &[T],
    got: &[T],
    case: fmt::Arguments<'_>,
) -> Result<(), Mismatch> {
    let at = want.iter().zip(got).position(|(a, b)| a != b);
    if at.is_none() && want.len() == got.len() {
        return Ok(());
    }
    let i = at.unwrap_or(want.len().min(got.len()));
    let (want, got) = (want.get(i), got.get(i));
    let name = ops.name();
    Err(Mismatch(alloc::format!("{name}: {case}: value {i} is {got:x?}, should be {want:x?}")))
}

/// The bits of floats: what is compared.
fn bits(v: &[f32]) -> Vec<u32> {
    v.iter().map(|v| v.to_bits()).collect()
}
