//! Floats as PTX has them, without `.ftz`.

use half::f16;

/// The only result of 32-bit arithmetic that is not a number.
const NAN: u32 = 0x7fff_ffff;

/// The bits of a result.
#[inline(always)]
pub(crate) fn bits(v: f32) -> u32 {
    if v.is_nan() { NAN } else { v.to_bits() }
}

/// `min.f32` of bits: a number wins over none, -0 is less than +0.
#[inline(always)]
pub(crate) fn min(a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let less = if x < y || (x == y && a > b) { a } else { b };
    let one = if x.is_nan() { b } else { less };
    let one = if y.is_nan() { a } else { one };
    if x.is_nan() && y.is_nan() { NAN } else { one }
}

/// `max.f32` of bits.
#[inline(always)]
pub(crate) fn max(a: u32, b: u32) -> u32 {
    let (x, y) = (f32::from_bits(a), f32::from_bits(b));
    let more = if x > y || (x == y && a < b) { a } else { b };
    let one = if x.is_nan() { b } else { more };
    let one = if y.is_nan() { a } else { one };
    if x.is_nan() && y.is_nan() { NAN } else { one }
}

/// A half float as a float, exactly.
#[inline(always)]
pub(crate) fn widen(h: u32) -> u32 {
    bits(f16::from_bits(h as u16).to_f32_const())
}

/// The nearest half float, ties to even.
#[inline(always)]
pub(crate) fn narrow(f: u32) -> u32 {
    let f = f32::from_bits(f);
    if f.is_nan() { 0x7fff } else { f16::from_f32_const(f).to_bits().into() }
}
