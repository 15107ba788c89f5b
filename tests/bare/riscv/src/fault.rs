//! What ends a program that went wrong; without it a fault would wait for ever.

use riscv::register::{mcause, mepc};
use riscv_rt::TrapFrame;
use semihosting::{eprintln, process};

#[unsafe(export_name = "ExceptionHandler")]
fn fault(_: &TrapFrame) -> ! {
    eprintln!("exception {:#x} at {:#010x}", mcause::read().bits(), mepc::read());
    process::exit(1)
}
