//! varmint-quant: from trained weights to model files. Offline, with `std`; the library behind the
//! `varmint` command.
//!
//! ```text
//! checkpoint   .safetensors and .pth: named tensors, nothing executed
//! official     which of them are VAR transformers, their VQVAE and decoders, and of what sizes
//! defaults     how a model is sampled
//! meta         what weights do not say: names, licence, labels, sampling
//! schedule     scales and their phi convolutions
//! origin       official tensors -> ours
//! numbers      which tensor is stored how
//! encoded      a tensor in those numbers
//! quantize     values -> bytes, and back
//! classes      which conditions stay
//! options      what a conversion is asked for
//! describe     weights and options -> what the file says besides its tensors
//! description  header sections -> bytes
//! write        the .vmt file, tensor by tensor
//! tiers        what the ways to run a model do otherwise than the first
//! convert      all of the above in one call
//! watch        the kernels, and somebody who looks on while pictures are made
//! probe        a look at attention
//! calibrate    which heads look far back
//! calibration  what that found, as a file between two commands
//! permute      such heads first
//! samples      a look at the inputs of products
//! absorb       outliers of inputs into the weights
//! gptq         4-bit weights whose errors make up for each other
//! requantize   a model file with other numbers, and what they cost layer by layer
//! inspect      what a .vmt file holds
//! golden       a model against what the official implementation computed
//! encoder      the encoder of a tokenizer to a file of its own
//! picture      pictures and masks to edit, at the size of a model
//! batch        many images on many threads; lists of requests, files of tokens
//! synth        models of random weights, for benchmarks
//! compare      a model against another one on the same tokens
//! published    what the published models need, without their weights
//! boards       what boards have
//! ```
//!
//! Reading and running models is `varmint_core`; it accepts or refuses every file that is written
//! here before the file gets its name.

mod absorb;
pub mod batch;
pub mod boards;
pub mod calibrate;
pub mod calibration;
pub mod checkpoint;
mod classes;
pub mod compare;
pub mod convert;
mod defaults;
mod describe;
pub mod description;
mod encoded;
pub mod encoder;
pub mod error;
pub mod golden;
mod gptq;
pub mod inspect;
mod int4;
pub mod meta;
pub mod numbers;
pub mod official;
mod options;
mod origin;
mod permute;
pub mod picture;
mod probe;
pub mod published;
pub mod quantize;
pub mod requantize;
mod samples;
pub mod schedule;
pub mod synth;
pub mod tiers;
mod watch;
pub mod write;

pub use calibration::Calibration;
pub use convert::{MoreDecoder, Options, Report, convert};
pub use encoder::{convert_encoder, open_encoder};
pub use error::Error;
pub use meta::Meta;
pub use numbers::{Keep, Numbers};
pub use tiers::MoreTier;
