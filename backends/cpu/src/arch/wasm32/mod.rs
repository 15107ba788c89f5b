//! WebAssembly with 128-bit SIMD. A module is compiled for it as a whole (`-C target-feature=+simd128`), so
//! what is not written here is the reference as the compiler made it.

mod attention;
mod products;

use varmint_core::ops::{Heads, Kv, Packed, Scratch, Taps};
use varmint_core::{Ops, Scalar};

use super::by_hand;

/// 128-bit SIMD.
pub(super) struct Simd128;

impl Ops for Simd128 {
    by_hand!(
        "cpu (wasm simd128)",
        products::gemm,
        products::gemm,
        (attention::dots, attention::weigh)
    );
}
