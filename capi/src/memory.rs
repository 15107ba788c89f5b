//! What comes from C, looked at before it is believed: null, alignment, extent.

use core::ffi::{CStr, c_char};

use crate::Status;

/// Refuses a pointer that cannot point to a `T`.
pub(crate) fn check<T>(pointer: *const T) -> Result<(), Status> {
    if pointer.is_null() {
        Err(Status::NullPointer)
    } else if !pointer.is_aligned() {
        Err(Status::MisalignedPointer)
    } else {
        Ok(())
    }
}

/// The addresses from `start` on, `bytes` of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    from: usize,
    to: usize,
}

impl Extent {
    /// Refuses null, and what no memory can hold.
    pub(crate) fn new(start: *const u8, bytes: usize) -> Result<Self, Status> {
        check(start)?;
        let from = start as usize;
        let to = from.checked_add(bytes).ok_or(Status::MemoryOverlap)?;
        if bytes > isize::MAX as usize {
            return Err(Status::MemoryOverlap);
        }
        Ok(Self { from, to })
    }

    /// Refuses a common byte.
    pub(crate) fn apart(self, others: &[Self]) -> Result<(), Status> {
        if others.iter().any(|o| self.from < o.to && o.from < self.to) {
            Err(Status::MemoryOverlap)
        } else {
            Ok(())
        }
    }
}

/// A text from C; one that is not UTF-8 is the name of nothing.
///
/// # Safety
/// `text` is null or points to bytes that end with a zero and stay as they are for `'a`.
pub(crate) unsafe fn text<'a>(text: *const c_char) -> Result<Option<&'a str>, Status> {
    check(text)?;
    // SAFETY: not null; the rest is the caller's promise.
    Ok(unsafe { CStr::from_ptr(text) }.to_str().ok())
}
