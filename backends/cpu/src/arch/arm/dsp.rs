//! The instructions, written out: their intrinsics are not stable.

use core::arch::asm;

/// A step's inputs of [`ROWS`] rows, each as [`spread`] has them.
pub(crate) type Inputs = [[u32; 2]; ROWS];

/// Rows that share a weight.
pub(crate) const ROWS: usize = 4;

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

/// Adds `steps` steps of four products to the sums of four rows: the weights of one channel, one word for
/// every 32 bytes, times the inputs. 15 instructions for 16 products, and two every fourth step: written
/// out, so that this does not depend on how the program around it is optimised.
///
/// # Safety
/// `weights` points at `steps` groups of 32 bytes (of which it reads the first four), `inputs` at as many inputs.
#[inline(always)]
pub(crate) unsafe fn four_rows(
    mut weights: *const i8,
    mut inputs: *const Inputs,
    steps: usize,
    [mut a, mut b, mut c, mut d]: [i32; ROWS],
) -> [i32; ROWS] {
    macro_rules! run {
        ($count:expr, $($step:expr)*) => {
            // SAFETY: reads what the caller vouches for; both pointers end right behind it. The words of the inputs
            // are aligned, those of the weights need not be.
            unsafe {
                asm!(
                    "2:",
                    $($step,
                    "ldr {odd}, [{w}], #32",
                    "sxtb16 {even}, {odd}",
                    "sxtb16 {odd}, {odd}, ror #8",
                    "ldrd {x}, {y}, [{xs}], #8",
                    "smlad {a}, {even}, {x}, {a}",
                    "smlad {a}, {odd}, {y}, {a}",
                    "ldrd {x}, {y}, [{xs}], #8",
                    "smlad {b}, {even}, {x}, {b}",
                    "smlad {b}, {odd}, {y}, {b}",
                    "ldrd {x}, {y}, [{xs}], #8",
                    "smlad {c}, {even}, {x}, {c}",
                    "smlad {c}, {odd}, {y}, {c}",
                    "ldrd {x}, {y}, [{xs}], #8",
                    "smlad {d}, {even}, {x}, {d}",
                    "smlad {d}, {odd}, {y}, {d}",)*
                    "subs {n}, {n}, #1",
                    "bne 2b",
                    a = inout(reg) a, b = inout(reg) b, c = inout(reg) c, d = inout(reg) d,
                    w = inout(reg) weights, xs = inout(reg) inputs, n = inout(reg) $count => _,
                    even = out(reg) _, odd = out(reg) _, x = out(reg) _, y = out(reg) _,
                    options(nostack, readonly),
                );
            }
        };
    }
    if steps >= 4 {
        run!(steps / 4, "" "" "" "");
    }
    if steps % 4 > 0 {
        run!(steps % 4, "");
    }
    let _ = (weights, inputs);
    [a, b, c, d]
}
