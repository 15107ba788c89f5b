//! Floats as PTX has them, without `.ftz`.

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
    let (sign, rest) = ((h & 0x8000) << 16, h & 0x7fff);
    // Exponents are 112 apart; the product normalises what is subnormal.
    let magnitude = f32::from_bits(rest << 13) * f32::from_bits((254 - 15) << 23);
    let wide = magnitude.to_bits() | if rest >= 0x7c00 { 0x7f80_0000 } else { 0 };
    if rest > 0x7c00 { NAN } else { sign | wide }
}

/// The nearest half float, ties to even.
#[inline(always)]
pub(crate) fn narrow(f: u32) -> u32 {
    let (sign, rest) = ((f >> 16) & 0x8000, f & 0x7fff_ffff);
    // Normal: round at bit 13, which may carry into the exponent.
    let normal = rest.wrapping_sub(112 << 23).wrapping_add(0xfff + ((rest >> 13) & 1)) >> 13;
    // Subnormal (below 2^-14): the sum with 0.5 has the result in its lowest bits, rounded to even.
    let small = (f32::from_bits(rest) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let finite = if rest < 113 << 23 { small } else { normal };
    let magnitude = if rest >= 0x4780_0000 { 0x7c00 } else { finite };
    if rest > 0x7f80_0000 { 0x7fff } else { sign | magnitude }
}
