//! x86-64.

pub(crate) mod attention;
pub(crate) mod avx2;
pub(crate) mod half;
pub(crate) mod vnni;
