//! Little-endian numbers out of a byte slice, in `const` context and without a panic.

/// `len` bytes from `at`, or `None` past the end.
pub(crate) const fn slice(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.split_at_checked(len) {
            Some((wanted, _)) => Some(wanted),
            None => None,
        },
        None => None,
    }
}

/// The u32 at `at`; 0 past the end (callers have checked the length of the section).
pub(crate) const fn u32_at(bytes: &[u8], at: usize) -> u32 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first_chunk::<4>() {
            Some(c) => u32::from_le_bytes(*c),
            None => 0,
        },
        None => 0,
    }
}

/// The u64 at `at`; 0 past the end.
pub(crate) const fn u64_at(bytes: &[u8], at: usize) -> u64 {
    (u32_at(bytes, at + 4) as u64) << 32 | u32_at(bytes, at) as u64
}

/// The u16 at `at`; 0 past the end.
pub(crate) const fn u16_at(bytes: &[u8], at: usize) -> u16 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first_chunk::<2>() {
            Some(c) => u16::from_le_bytes(*c),
            None => 0,
        },
        None => 0,
    }
}

/// The byte at `at`; 0 past the end.
pub(crate) const fn u8_at(bytes: &[u8], at: usize) -> u8 {
    match bytes.split_at_checked(at) {
        Some((_, rest)) => match rest.first() {
            Some(b) => *b,
            None => 0,
        },
        None => 0,
    }
}

/// `n` rounded up to a multiple of `to`, a power of two.
pub(crate) const fn up(n: usize, to: usize) -> usize {
    n.saturating_add(to - 1) & !(to - 1)
}
