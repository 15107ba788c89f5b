//! Firmware that compares the DSP kernels with the reference and draws the picture of `tests/steps.rs` in a
//! static arena of exactly the plan's bytes. `cargo run --release` is the test; it exits with its verdict.
#![no_std]
#![no_main]
#![allow(long_running_const_eval, reason = "the planner runs in the compiler")]

use cortex_m::peripheral::SYST;
use cortex_m::peripheral::syst::SystClkSource;
use cortex_m_rt::entry;
use cortex_m_semihosting::{debug, hprintln};
use embedded_alloc::LlffHeap as Heap;
use panic_semihosting as _;
use varmint_core::{Model, Ops, Plan, Scalar, include_model};
use varmint_cpu::{Cpu, Isa};

static MODEL: &[u8] = include_model!("../../../../fixtures/tiny.vmt");
const PLAN: Plan = match Plan::of_file(MODEL, 0) {
    Ok(plan) => plan,
    Err(_) => panic!("the model's header is not valid"),
};

/// Of `tests/steps.rs`: the picture of seed 1.
const TINY_CRC: u32 = 0xf1b4_5b6f;

#[repr(align(16))]
struct Arena([u8; PLAN.bytes()]);

/// What the comparison allocates.
const HEAP_BYTES: usize = 2 << 20;
#[global_allocator]
static HEAP: Heap = Heap::empty();

/// Ticks of a thousand instructions: a nanosecond each, and the board runs at 25 MHz.
const TICKS: u32 = 25;

fn draw(model: &Model<'_>, ops: impl Ops, arena: &mut Arena, clock: &mut SYST) {
    let name = ops.name();
    clock.set_reload(0xff_ffff);
    clock.clear_current();
    clock.enable_counter();
    let crc = varmint_check::picture(model, &PLAN, ops, &mut arena.0, 1).unwrap();
    let ticks = 0xff_ffff - SYST::get_current();
    assert!(!clock.has_wrapped(), "the clock is too short");
    hprintln!("{name}: picture {crc:#010x}, {} thousand instructions", ticks / TICKS);
    assert_eq!(crc, TINY_CRC);
}

#[entry]
fn main() -> ! {
    // SAFETY: before the first allocation, once.
    unsafe {
        embedded_alloc::init!(HEAP, HEAP_BYTES);
    }
    let arena = cortex_m::singleton!(: Arena = Arena([0; PLAN.bytes()])).unwrap();
    let mut clock = cortex_m::Peripherals::take().unwrap().SYST;
    clock.set_clock_source(SystClkSource::Core);

    let cpu = Cpu::build();
    assert_eq!(cpu.isa(), Isa::Dsp);
    match varmint_check::brief(&cpu) {
        Ok(report) => hprintln!("{}: {report:?}", cpu.name()),
        Err(e) => panic!("{e}"),
    }
    let model = Model::parse(MODEL).unwrap();
    hprintln!("arena {} bytes, model {} bytes", PLAN.bytes(), MODEL.len());
    draw(&model, cpu, arena, &mut clock);
    draw(&model, Scalar, arena, &mut clock);
    debug::exit(debug::EXIT_SUCCESS);
    loop {
        cortex_m::asm::wfi();
    }
}
