//! What both programs know of the machine.
#![allow(dead_code, reason = "one program measures, the other compares")]

use core::arch::asm;

use riscv::register::{mcause, mepc};
use riscv_rt::TrapFrame;
use semihosting::{eprintln, process};

unsafe extern "C" {
    // Of the linker scripts: the value is the address.
    static __stext: u8;
    static __etext: u8;
    static __srodata: u8;
    static __erodata: u8;
    static __sdata: u8;
    static __edata: u8;
    static __sbss: u8;
    static __ebss: u8;
    /// Where the stack meets the statics.
    static __estack: u32;
    /// Its top.
    static _stack_start: u32;
    static _bench: u8;
    static _bench_bytes: u8;
}

/// Without it a fault would wait for ever.
#[unsafe(export_name = "ExceptionHandler")]
fn fault(_: &TrapFrame) -> ! {
    eprintln!("exception {:#x} at {:#010x}", mcause::read().bits(), mepc::read());
    process::exit(1)
}

/// The stack, painted below whoever asked for it: riscv-rt has no such feature.
pub(crate) struct Stack(());

impl Stack {
    const PAINT: u32 = 0xcccc_cccc;

    #[inline(never)]
    pub(crate) fn paint() -> Self {
        let (sp, mut at): (*mut u32, _);
        // SAFETY: it reads a register.
        unsafe { asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
        at = (&raw const __estack).cast_mut();
        while at < sp {
            // SAFETY: below the stack pointer, above the statics: nobody's. This function calls nothing.
            unsafe { at.write_volatile(Self::PAINT) };
            at = at.wrapping_add(1);
        }
        Self(())
    }

    /// Bytes that were ever used.
    pub(crate) fn used(&self) -> usize {
        let (mut at, top) = (&raw const __estack, &raw const _stack_start);
        // SAFETY: words of the stack's memory, painted or used since.
        while at < top && unsafe { at.read_volatile() } == Self::PAINT {
            at = at.wrapping_add(1);
        }
        top as usize - at as usize
    }
}

fn bytes(from: *const u8, to: *const u8) -> usize {
    to as usize - from as usize
}

/// Bytes of all static variables.
pub(crate) fn statics() -> usize {
    bytes(&raw const __sdata, &raw const __edata) + bytes(&raw const __sbss, &raw const __ebss)
}

/// Bytes of code, constants and the first values of static variables.
pub(crate) fn flash() -> usize {
    bytes(&raw const __stext, &raw const __etext)
        + bytes(&raw const __srodata, &raw const __erodata)
        + bytes(&raw const __sdata, &raw const __edata)
}

/// Memory of the test, and how much there is.
pub(crate) fn bench() -> (usize, usize) {
    ((&raw const _bench) as usize, (&raw const _bench_bytes) as usize)
}
