//! What crosses the border: plain structs of C.

use core::ffi::c_char;

/// Condition tables that a request has room for.
pub const TABLES: usize = 4;

/// In place of a row: this condition is not given.
pub const NOT_GIVEN: u32 = 0xffff_ffff;

/// Alignment of a model's first byte.
pub const MODEL_ALIGN: usize = 64;

/// Alignment of an arena's first byte.
pub const ARENA_ALIGN: usize = 16;

const _: () = assert!(
    TABLES == varmint_core::config::MAX_TABLES
        && MODEL_ALIGN == varmint_core::file::ALIGN
        && ARENA_ALIGN == varmint_core::plan::ARENA_ALIGN
);

/// A tier of a model, and what an image in it costs.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tier {
    /// Multiply-accumulates of the largest step.
    pub step_macs: u64,
    /// Multiply-accumulates of an image.
    pub image_macs: u64,
    /// Bytes that the arena must have: all the RAM of a run but the stack and the generator itself.
    pub arena_bytes: usize,
    /// Pixels per row of the image.
    pub width: u32,
    /// Rows of the image.
    pub height: u32,
    /// Pixels per row of a preview.
    pub preview_width: u32,
    /// Rows of a preview.
    pub preview_height: u32,
    /// Scales that an image is drawn in.
    pub scales: u32,
    /// The name, ended with a zero.
    pub name: [c_char; 20],
}

/// A text inside the model. It is UTF-8 and does not end with a zero.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    /// Its bytes; null where the model has none.
    pub bytes: *const u8,
    /// How many.
    pub len: usize,
}

/// What to make. `varmint_request_default` fills it in.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Request {
    /// Seed of every draw: the same seed gives the same picture on every machine.
    pub seed: u64,
    /// A row of each condition table (0: class, 1: style), or VARMINT_NOT_GIVEN.
    pub labels: [u32; TABLES],
    /// Strength of classifier-free guidance.
    pub guidance: f32,
    /// Logits are divided by this; above 0.
    pub temperature: f32,
    /// Keep the likeliest tokens up to this mass; 0 or 1: all.
    pub top_p: f32,
    /// Keep so many of the likeliest tokens; 0: all, 1: greedy.
    pub top_k: u32,
    /// Where a small picture of every finished scale goes (RGB, row by row); null: none is made.
    pub preview: *mut u8,
    /// Bytes at `preview`.
    pub preview_bytes: usize,
}

/// What a step brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EventKind {
    /// Nothing to show yet.
    Working = 0,
    /// A scale is finished; `rgb` is its preview, if one was asked for.
    Scale = 1,
    /// Rows of the image are finished: `rgb`.
    Rows = 2,
    /// The image is complete.
    Done = 3,
}

/// The result of a step.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Event {
    /// Multiply-accumulates done: close to linear in time.
    pub done: u64,
    /// Multiply-accumulates of the image.
    pub total: u64,
    /// Pixels, RGB, `height` rows of `width`, or null. They stay until the next call with the generator.
    pub rgb: *const u8,
    /// What it brought.
    pub kind: EventKind,
    /// The scale that is finished.
    pub scale: u32,
    /// The first row of `rgb` in the image.
    pub y: u32,
    /// Pixels per row of `rgb`.
    pub width: u32,
    /// Rows of `rgb`.
    pub height: u32,
}
