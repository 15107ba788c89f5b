//! Any bytes as an encoder file, as they are and with a right header; those that are one encode a picture.
#![no_main]

use libfuzzer_sys::fuzz_target;
use varmint::{Encoder, ModelFile};
use varmint_fuzz::{encode, sealed_encoder};

fuzz_target!(|bytes: &[u8]| {
    let asis = ModelFile::from_bytes(bytes);
    let _ = Encoder::parse(asis.bytes());
    let sealed = sealed_encoder(bytes);
    if let Ok(encoder) = Encoder::parse(sealed.bytes()) {
        assert_eq!(encoder.file_bytes(), bytes.len());
        encode(&encoder);
    }
});
