//! varmint-core: Visual AutoRegressive (VAR) image models in a caller-given arena.
//!
//! `no_std`, no `alloc`, no `unsafe`, no panic. Data flows one way; a module uses only those above it:
//!
//! ```text
//! error, slices, num, rng, order  what can go wrong; slices without panics; float functions of fixed order; Philox; a sort
//! bytes, config, file, embed      the container and the shapes in it
//! tier, tensor, model             choices, weights, the checked file
//! heads, grid, stage              what a cache holds; which tokens stand for a map; the order of work
//! buf, lifetimes, plan            buffers -> lifetimes -> offsets, known before a run
//! operands, scalar, ops           the kernels: the scalar reference, and the trait that SIMD implements
//! request, host                   what to make; the backend over disjoint slices of the caller's memory
//! cache, look, keep               keys and values; who sees which; which stay
//! block, latent, sample, maps, decode   the stages of a run, on a host
//! device                          the arena's layout, for backends with a memory of their own
//! generator                       the loop: one bounded step per call
//! encoder, encode, edit           another file: pixels to tokens, and which of them stay when a picture is edited
//! budget                          which tier fits what a device has
//! ```
#![no_std]
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("model files are little-endian and read in place");

#[cfg(test)]
extern crate std;

mod block;
pub mod budget;
mod buf;
mod bytes;
mod cache;
pub mod config;
mod context;
mod decode;
pub mod device;
pub mod edit;
pub mod embed;
mod encode;
pub mod encoder;
pub mod error;
pub mod file;
pub mod generator;
mod grid;
mod heads;
pub mod host;
mod keep;
mod latent;
mod lifetimes;
mod look;
mod maps;
pub mod model;
pub mod num;
mod operands;
pub mod ops;
mod order;
pub mod plan;
mod request;
pub mod rng;
pub mod sample;
pub mod scalar;
pub mod slices;
pub mod stage;
pub mod tensor;
pub mod tier;

pub use budget::Budget;
pub use config::{Aln, Config, Decoder, Sampling, Scale, Shape, Table, Trunk};
pub use encode::Encoding;
pub use encoder::Encoder;
pub use error::{Error, Fault};
pub use generator::{Generator, Progress, Rows, ScaleView, Step};
pub use host::{Backend, Host, Job};
pub use model::Model;
pub use ops::{Ops, Scalar};
pub use plan::{Buf, Plan};
pub use request::Request;
pub use stage::{Pass, Stage, Tile};
pub use tier::{Keep, Store, Tier};
