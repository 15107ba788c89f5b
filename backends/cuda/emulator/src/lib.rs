//! A CUDA driver for tests: `libcuda.so` that runs PTX on the CPU, and stops a launch where a kernel does what
//! compute-sanitizer would report.
//!
//! ```text
//! parse      PTX text to statements
//! allocate   registers to slots
//! decode     statements to instructions; what is not known is an error that names the line
//! float      floats as PTX has them
//! integer    integers, where Rust has no operation for it
//! memory     global memory, what is known of its bytes, races between blocks
//! grid       what a launch is
//! access     memory as a warp reaches it: shared memory, races between warps
//! warp       registers, lanes that part and meet
//! exec       the instructions
//! block      warps from barrier to barrier
//! trouble    what goes wrong in a kernel
//! launch     a grid over the CPU's threads
//! driver     the functions of the driver that varmint-cuda calls
//! config     what device it pretends to be
//! ```
//!
//! ```sh
//! cargo build --release --manifest-path backends/cuda/emulator/Cargo.toml
//! LD_LIBRARY_PATH=backends/cuda/emulator/target/release VARMINT_REQUIRE_CUDA=1 cargo test -p varmint-cuda
//! ```
//!
//! # Environment
//!
//! | variable | |
//! |---|---|
//! | `VARMINT_EMU_CAPABILITY` | 7.2 (Xavier), 8.7 (Orin, the default), 9.0 (Hopper); others have Orin's or Hopper's sizes |
//! | `VARMINT_EMU_MEMORY` | MiB of memory; 8192 |
//! | `VARMINT_EMU_INTEGRATED` | 1 where it shares the host's memory: for Xavier and Orin; 0 |
//! | `VARMINT_EMU_MULTIPROCESSORS` | 8; 132 for 9.0 |
//! | `VARMINT_EMU_DRIVER` | CUDA version of the driver; 12.6 |
//! | `VARMINT_EMU_THREADS` | threads that run blocks: all; 1 makes every run the same, order of blocks included |
//! | `VARMINT_EMU_SKIP` | checks not to make, separated by commas: `unwritten`, `races`, `shared`, `early` |
//! | `VARMINT_EMU_STEPS` | instructions of a warp before it is called endless; 1,000,000,000 |

mod access;
mod allocate;
mod block;
mod config;
mod decode;
pub mod driver;
mod exec;
mod float;
mod grid;
mod integer;
mod launch;
mod memory;
mod parse;
#[cfg(test)]
mod tests;
mod trouble;
mod warp;
