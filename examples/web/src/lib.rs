//! varmint's C interface as a WebAssembly module without imports: `page/varmint.js` is its caller, and gives it memory.
#![no_std]

pub use varmint_capi::*;

/// Where `varmint.js` finds the fields.
#[cfg(target_arch = "wasm32")]
const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(offset_of!(Tier, step_macs) == 0 && offset_of!(Tier, image_macs) == 8);
    assert!(offset_of!(Tier, arena_bytes) == 16);
    assert!(offset_of!(Tier, width) == 20 && offset_of!(Tier, height) == 24);
    assert!(offset_of!(Tier, preview_width) == 28 && offset_of!(Tier, preview_height) == 32);
    assert!(offset_of!(Tier, scales) == 36 && offset_of!(Tier, name) == 40);
    assert!(offset_of!(Text, bytes) == 0 && offset_of!(Text, len) == 4);
    assert!(offset_of!(Request, seed) == 0 && offset_of!(Request, labels) == 8);
    assert!(offset_of!(Request, preview) == 40 && offset_of!(Request, preview_bytes) == 44);
    assert!(offset_of!(Event, done) == 0 && offset_of!(Event, total) == 8);
    assert!(offset_of!(Event, rgb) == 16 && offset_of!(Event, kind) == 20);
    assert!(offset_of!(Event, scale) == 24 && offset_of!(Event, y) == 28);
    assert!(offset_of!(Event, width) == 32 && offset_of!(Event, height) == 36);
    assert!(size_of::<Tier>() == 64 && size_of::<Request>() == 48 && size_of::<Event>() == 40);
};
