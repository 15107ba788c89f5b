//! Compares what the operations of an int8 picture give on this processor with what they give on others.
#![no_std]
#![no_main]

mod fault;

use embedded_alloc::LlffHeap as Heap;
use riscv_rt::entry;
use semihosting::{println, process};
use varmint_core::Ops;
use varmint_cpu::Cpu;

#[global_allocator]
static HEAP: Heap = Heap::empty();

unsafe extern "C" {
    // Of memory.x: the value is the address.
    static _bench: u8;
    static _bench_bytes: u8;
}

#[entry]
fn main() -> ! {
    let (start, bytes) = (&raw const _bench, &raw const _bench_bytes);
    // SAFETY: before the first allocation, once; memory that nothing else uses.
    unsafe { HEAP.init(start as usize, bytes as usize) };
    let cpu = Cpu::build();
    match varmint_check::pinned(&cpu) {
        Ok(report) => println!("{} ({:?}): {report:?}", cpu.name(), cpu.isa()),
        Err(e) => panic!("{e}"),
    }
    process::exit(0)
}
