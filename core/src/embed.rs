//! A model inside the program: bytes that lie as the format wants them.

/// Bytes at a multiple of 64.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

/// The bytes of a model file, compiled into the program (into flash, on a microcontroller), aligned.
///
/// ```ignore
/// static MODEL: &[u8] = varmint_core::include_model!("../fixtures/emoji-micro.vmt");
/// const PLAN: Plan = match Plan::of_file(MODEL, 0) { Ok(p) => p, Err(_) => panic!() };
/// ```
#[macro_export]
macro_rules! include_model {
    ($path:expr) => {{
        const MODEL: &$crate::embed::Aligned<[u8]> =
            &$crate::embed::Aligned(*include_bytes!($path));
        &MODEL.0
    }};
}
