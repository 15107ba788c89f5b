//! What a run costs: instructions, stack, statics.

use core::ptr;

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;

unsafe extern "C" {
    // Of the board's linker script: the value is the address.
    static _clock_hz: u8;
    // Of cortex-m-rt: where the stack begins (its top) and where it meets the statics.
    static _stack_start: u32;
    static _stack_end: u32;
    static __sdata: u32;
    static __edata: u32;
    static __sbss: u32;
    static __ebss: u32;
}

/// SysTick's counter is 24 bits wide and counts down.
const MASK: u32 = 0xff_ffff;

/// Counts instructions. Under `-icount shift=0` an instruction takes a nanosecond of the emulated time, and SysTick
/// counts that; the same in every run, to the tick (31 to 50 instructions). On a board it counts time.
pub(crate) struct Clock {
    last: u32,
    hz: u64,
}

impl Clock {
    pub(crate) fn start(mut timer: SYST) -> Self {
        timer.set_clock_source(SystClkSource::Core);
        timer.set_reload(MASK);
        timer.clear_current();
        timer.enable_counter();
        // SAFETY: only the address is taken; the linker script defines it.
        let hz = (&raw const _clock_hz) as u64;
        Self { last: SYST::get_current(), hz }
    }

    /// Ticks since the last lap: less than 2^24 of them, or they are not seen.
    pub(crate) fn lap(&mut self) -> u64 {
        let now = SYST::get_current();
        let ticks = self.last.wrapping_sub(now) & MASK;
        self.last = now;
        ticks as u64
    }

    /// Ticks as instructions of a nanosecond.
    pub(crate) fn instructions(&self, ticks: u64) -> u64 {
        ticks * 1_000_000_000 / self.hz
    }
}

/// Bytes of stack that were ever used, and bytes that there are. cortex-m-rt painted them before `main`.
pub(crate) fn stack() -> (usize, usize) {
    const PAINT: u32 = 0xcccc_cccc;
    let (low, high) = (&raw const _stack_end, &raw const _stack_start);
    let mut at = low;
    // SAFETY: words of the stack's memory, which is initialised (painted); volatile, since this function's own frame
    // lies at its top.
    while at < high && unsafe { ptr::read_volatile(at) } == PAINT {
        // Not past `high`, which the loop looked at.
        at = at.wrapping_add(1);
    }
    (high as usize - at as usize, high as usize - low as usize)
}

/// Bytes of all static variables, the arena among them.
pub(crate) fn statics() -> usize {
    let bytes = |from: *const u32, to: *const u32| to as usize - from as usize;
    bytes(&raw const __sdata, &raw const __edata) + bytes(&raw const __sbss, &raw const __ebss)
}
