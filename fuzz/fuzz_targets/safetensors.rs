//! `.safetensors` files: the header and the places of tensors.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| varmint_fuzz::read(bytes));
