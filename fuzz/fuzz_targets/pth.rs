//! `.pth` files: the zip directory, the pickle, views of storages. (Whatever else the first bytes say is read as that.)
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| varmint_fuzz::read(bytes));
