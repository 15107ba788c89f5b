//! What a run costs: stack, statics, flash.

use core::arch::asm;

unsafe extern "C" {
    // Of riscv-rt's linker script: the value is the address.
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
}

const PAINT: u32 = 0xcccc_cccc;

/// Paints the stack below its caller, for [`stack`] to look at: riscv-rt does not.
#[inline(never)]
pub(crate) fn paint_stack() {
    let sp: *const u32;
    // SAFETY: it reads a register.
    unsafe { asm!("mv {}, sp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    let mut at = (&raw const __estack).cast_mut();
    while at.cast_const() < sp {
        // SAFETY: above the statics and below the stack pointer, and this function calls nothing: nobody's memory.
        unsafe { at.write_volatile(PAINT) };
        at = at.wrapping_add(1);
    }
}

/// Bytes of stack that were used since it was painted.
pub(crate) fn stack() -> usize {
    let (mut at, top) = (&raw const __estack, &raw const _stack_start);
    // SAFETY: words of the stack's memory, painted or written since; volatile, since this function's own frame lies there.
    while at < top && unsafe { at.read_volatile() } == PAINT {
        at = at.wrapping_add(1);
    }
    top as usize - at as usize
}

fn bytes(from: *const u8, to: *const u8) -> usize {
    to as usize - from as usize
}

/// Bytes of all static variables, the arena among them.
pub(crate) fn statics() -> usize {
    bytes(&raw const __sdata, &raw const __edata) + bytes(&raw const __sbss, &raw const __ebss)
}

/// Bytes of code, of constants, the model among them, and of what variables begin with.
pub(crate) fn flash() -> usize {
    bytes(&raw const __stext, &raw const __etext)
        + bytes(&raw const __srodata, &raw const __erodata)
        + bytes(&raw const __sdata, &raw const __edata)
}
