//! The instructions, written out: their intrinsics are not stable.

use core::arch::asm;

/// The four signed bytes of a word as i16: (0, 2) and (1, 3).
#[inline(always)]
pub(crate) fn spread(word: u32) -> [u32; 2] {
    let (even, odd);
    // SAFETY: works on registers only; with the feature `dsp` the target has the instruction, or the
    // assembler refuses it.
    unsafe {
        asm!("sxtb16 {even}, {word}", even = lateout(reg) even, word = in(reg) word,
            options(pure, nomem, nostack, preserves_flags));
        asm!("sxtb16 {odd}, {word}, ror #8", odd = lateout(reg) odd, word = in(reg) word,
            options(pure, nomem, nostack, preserves_flags));
    }
    [even, odd]
}

/// `sum` plus the products of the lower and of the upper halves.
#[inline(always)]
pub(crate) fn smlad(a: u32, b: u32, sum: i32) -> i32 {
    let out;
    // SAFETY: as above. It may set the Q flag, so flags are not preserved.
    unsafe {
        asm!("smlad {out}, {a}, {b}, {sum}",
            out = lateout(reg) out, a = in(reg) a, b = in(reg) b, sum = in(reg) sum,
            options(pure, nomem, nostack));
    }
    out
}
