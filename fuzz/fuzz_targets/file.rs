//! Any bytes as a model file, as they are and with a right header.
#![no_main]

use libfuzzer_sys::fuzz_target;
use varmint::ModelFile;
use varmint_fuzz::{look, sealed};

fuzz_target!(|bytes: &[u8]| {
    let asis = ModelFile::from_bytes(bytes);
    if let Ok(model) = asis.model() {
        look(&model);
    }
    let sealed = sealed(bytes);
    if let Ok(model) = sealed.model() {
        look(&model);
        assert_eq!(model.file_bytes(), bytes.len());
    }
});
