//! varmint: Visual AutoRegressive (VAR) image models in a fixed amount of memory.
//!
//! The library proper is [`varmint_core`], re-exported here: `no_std`, no allocation, no panic. The
//! kernels are [`varmint_cpu`]. With the feature `std` (default) an [`Engine`] owns the memory:
//!
//! ```no_run
//! use varmint::{Engine, ModelFile, Request};
//!
//! let file = ModelFile::open("fixtures/emoji-64.vmt")?;
//! let model = file.model()?;
//! let mut engine = Engine::new(&model, &model.tier("full")?)?;
//! println!("{} bytes of arena", engine.plan().bytes());
//! let mut request = Request::new(&model);
//! request.labels[0] = model.find_label(0, "red heart").map(|row| row as u32);
//! let image = engine.generate(request)?;
//! image.write_png(std::fs::File::create("heart.png")?)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! With the feature `cuda`, `Engine::on_gpu` makes the same pictures on an NVIDIA GPU.
#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

pub use varmint_core::*;
pub use varmint_cpu::{Cpu, Isa};
#[cfg(feature = "cuda")]
pub use varmint_cuda as cuda;

#[cfg(feature = "std")]
mod encode;
#[cfg(feature = "std")]
mod engine;
#[cfg(feature = "std")]
mod image;
#[cfg(feature = "std")]
mod labels;
#[cfg(feature = "std")]
mod model_file;

#[cfg(feature = "std")]
pub use encode::{Encoded, encode};
#[cfg(feature = "std")]
pub use engine::{Engine, Event};
#[cfg(feature = "std")]
pub use image::{Image, PngRows};
#[cfg(feature = "std")]
pub use labels::{LabelError, find_label};
#[cfg(feature = "std")]
pub use model_file::ModelFile;
