//! Firmware that draws a picture: two slots for models, an arena of the plan's bytes, a display that takes rows, a
//! watchdog. What it costs is logged as `name = number`; README.md says who reads that.
#![no_std]
#![no_main]
#![allow(long_running_const_eval, reason = "the planner runs in the compiler")]

extern crate alloc;

mod devices;
mod measure;

use core::panic::PanicInfo;
use core::slice;

use alloc::string::String;
use cortex_m_rt::{ExceptionFrame, entry, exception};
use cortex_m_semihosting::debug;
use defmt_semihosting as _;
use devices::{Display, Light, Watchdog};
use embedded_alloc::LlffHeap as Heap;
use heapless::Vec;
use measure::Clock;
use static_cell::ConstStaticCell;

use varmint_core::file::Container;
use varmint_core::ops::{Packed, Taps};
use varmint_core::{
    Error, Generator, Host, Model, Ops, Plan, Request, Shape, Stage, Step, include_model,
};
use varmint_cpu::{Cpu, Isa};

/// The model that the device is made for. Only the compiler reads it, to plan; what runs lies in a slot, and may be a
/// later release of the same shapes.
const MADE_FOR: &[u8] = include_model!("../../../fixtures/emoji-micro.vmt");
static SHAPE: Shape = match Container::parse(MADE_FOR) {
    Ok(file) => match file.shape() {
        Ok(shape) => shape,
        Err(_) => panic!("the model's shapes are not valid"),
    },
    Err(_) => panic!("the model's header is not valid"),
};
static PLAN: Plan = match Plan::of_file(MADE_FOR, 1) {
    Ok(plan) => plan,
    Err(_) => panic!("the model's tier is not valid"),
};
const ARENA_BYTES: usize = PLAN.bytes();
const TIER: &str = "fast";
const CLASS: &str = "red heart";
const SEED: u64 = 1;
const BOARD: &str = env!("BOARD");

#[repr(align(16))]
struct Arena([u8; ARENA_BYTES]);
static ARENA: ConstStaticCell<Arena> = ConstStaticCell::new(Arena([0; ARENA_BYTES]));

/// The application's.
const HEAP_BYTES: usize = 1024;
#[global_allocator]
static HEAP: Heap = Heap::empty();

/// Between two feeds of the watchdog: 20 ms at 200 million instructions a second.
const WATCHDOG_INSTRUCTIONS: u64 = 4_000_000;

unsafe extern "C" {
    // Of the board's linker script: the value is the address.
    static _slot_a: u8;
    static _slot_b: u8;
    static _slot_bytes: u8;
}

/// The two places for models in the serial flash.
fn slots() -> [&'static [u8]; 2] {
    let n = (&raw const _slot_bytes) as usize;
    // SAFETY: the linker script says so: that many readable bytes, which nothing writes while this program runs.
    [&raw const _slot_a, &raw const _slot_b].map(|p| unsafe { slice::from_raw_parts(p, n) })
}

/// Which part of an image a stage belongs to: 0 the condition, then the scales, then the decoder.
fn part(stage: Stage, scales: usize) -> usize {
    match stage {
        Stage::Setup { .. } | Stage::Ada { .. } | Stage::HeadAda { .. } => 0,
        Stage::Begin { scale, .. }
        | Stage::Head { scale, .. }
        | Stage::Draw { scale, .. }
        | Stage::Fold { scale } => 1 + scale,
        Stage::Keys(t) | Stage::Mix(t) | Stage::Keep(t) => 1 + t.scale,
        Stage::Decode { .. } | Stage::Done => 1 + scales,
    }
}

/// Instructions (in ticks) and multiply-accumulates.
#[derive(Clone, Copy, Default)]
struct Cost {
    ticks: u64,
    macs: u64,
}

/// A product of 8 bits alone, as the feed-forward part of a block has it for a tile of 4 tokens. `ram` and `flash`
/// hold any numbers: what it costs does not depend on them.
fn product(cpu: Cpu, ram: &mut [u8], flash: &[u8], clock: &mut Clock) -> Option<Cost> {
    let (rows, k, n) = (4, 128, 512);
    let (x, ram) = ram.split_at_mut_checked(rows * k)?;
    let (scale, ram) = ram.split_at_mut_checked(4 * n)?;
    let (bias, out) = ram.split_at_mut_checked(4 * n)?;
    let x = bytemuck::try_cast_slice(x).ok()?;
    let scale = bytemuck::try_cast_slice(scale).ok()?;
    let w = bytemuck::try_cast_slice(flash.get(..k * n)?).ok()?;
    let w = Packed { w, scale, bias: bytemuck::try_cast_slice(bias).ok()? };
    let out = bytemuck::try_cast_slice_mut(out.get_mut(..4 * rows * n)?).ok()?;
    clock.lap();
    cpu.gemm_i8(Taps::matrix(x, rows, k), &[1.0], w, out);
    Some(Cost { ticks: clock.lap(), macs: (rows * k * n) as u64 })
}

fn run(arena: &'static mut Arena, mut clock: Clock) -> Result<(), Error> {
    let cpu = Cpu::build();
    assert!(cpu.isa() == Isa::Dsp, "built with the DSP kernels");
    defmt::info!(
        "{=str}, {=str}: tier {=str}, {=str}, seed {=u64}",
        BOARD,
        cpu.name(),
        TIER,
        CLASS,
        SEED
    );

    // A model may run if the plan was made for its shapes.
    let accept = |model: &Model<'_>| match model.tier(TIER)? {
        tier if model.shape == SHAPE && tier == PLAN.tier => Ok(()),
        _ => Err(Error::PlanMismatch),
    };
    clock.lap();
    let choice = match varmint_slots::choose(slots(), accept) {
        Ok(choice) => choice,
        Err([a, b]) => {
            defmt::error!("slot A: {}; slot B: {}", a, b);
            return Err(a);
        }
    };
    let checked = clock.lap();
    let model = choice.model;
    if let Some(why) = choice.refused {
        defmt::warn!("slot {=usize} is newer and was refused: {}", choice.spare(), why);
    }
    defmt::info!("slot = {=usize}", choice.slot);
    defmt::info!("sequence = {=u32}", model.sequence);
    defmt::info!("check_instructions = {=u64}", clock.instructions(checked));

    // The application's own memory: the title of the picture.
    let title = String::from(CLASS);
    let heap = HEAP.used();
    let mut request = Request::new(&model);
    let rows = SHAPE.config.table(0).rows;
    let class = model.find_label(0, &title);
    let class = class.ok_or(Error::UnknownLabel { table: 0, row: rows, rows })?;
    request.labels[0] = Some(class as u32);
    request.seed = SEED;
    let host = Host::new(cpu, &mut arena.0, &PLAN)?;
    let mut generator = Generator::new(&model, &PLAN, host, request)?;
    let (height, width) = generator.size();
    let mut display = Display::new(width);
    let mut light = [0; 3];
    let mut watchdog = Watchdog::new(WATCHDOG_INSTRUCTIONS);
    let scales = model.shape.config.n_scales();
    let mut parts: Vec<Cost, 18> = Vec::new();
    parts.resize_default(scales + 2).map_err(|_| Error::PlanMismatch)?;

    clock.lap();
    loop {
        let stage = generator.stage();
        let done = match generator.step()? {
            Step::Working(_) => false,
            Step::Scale(scale) => {
                let mut mean = Light::new();
                for pixel in scale.preview() {
                    display.preview(pixel);
                    mean.add(pixel);
                }
                light = mean.duty();
                false
            }
            Step::Rows(rows) => {
                display.write(rows.y, rows.rgb);
                false
            }
            Step::Done => true,
        };
        let ticks = clock.lap();
        watchdog.feed(clock.instructions(ticks));
        let cost = &mut parts[part(stage, scales)];
        cost.ticks += ticks;
        cost.macs += stage.macs(&model.shape, &PLAN.tier);
        if done {
            break;
        }
    }
    assert!(HEAP.used() == heap, "the library allocated");
    let (rows, preview, crc) = display.finish();
    assert!(rows == height, "every row was shown");

    defmt::info!("checksum {=str} {=u32:#010x}", BOARD, crc);
    defmt::info!("arena = {=usize}", PLAN.bytes());
    defmt::info!("statics = {=usize}", measure::statics() - size_of::<Arena>());
    defmt::info!("heap = {=usize}", heap);
    defmt::info!("model = {=usize}", model.file_bytes());
    defmt::info!("preview_pixels = {=usize}", preview);
    for (name, duty) in ["red", "green", "blue"].into_iter().zip(light) {
        defmt::info!("light_{=str} = {=u16}", name, duty);
    }
    defmt::info!("watchdog_fed = {=u32}", watchdog.fed);
    defmt::info!("watchdog_longest = {=u64}", watchdog.longest);
    for (i, cost) in parts.iter().enumerate() {
        let instructions = clock.instructions(cost.ticks);
        match i {
            0 => {
                defmt::info!("condition: {=u64} instructions, {=u64} MACs", instructions, cost.macs)
            }
            i if i <= scales => {
                defmt::info!(
                    "scale {=usize}: {=u64} instructions, {=u64} MACs",
                    i - 1,
                    instructions,
                    cost.macs
                );
            }
            _ => defmt::info!("decoder: {=u64} instructions, {=u64} MACs", instructions, cost.macs),
        }
    }
    defmt::info!(
        "image_instructions = {=u64}",
        clock.instructions(parts.iter().map(|c| c.ticks).sum())
    );
    defmt::info!("image_macs = {=u64}", PLAN.total_macs());
    let slot = slots()[choice.slot];
    let alone = product(cpu, &mut arena.0, slot, &mut clock).expect("it fits the arena");
    defmt::info!("product_instructions = {=u64}", clock.instructions(alone.ticks));
    defmt::info!("product_macs = {=u64}", alone.macs);
    let (used, room) = measure::stack();
    defmt::info!("stack = {=usize}", used);
    defmt::info!("stack_room = {=usize}", room);
    Ok(())
}

#[entry]
fn main() -> ! {
    // SAFETY: before the first allocation, once.
    unsafe {
        embedded_alloc::init!(HEAP, HEAP_BYTES);
    }
    let peripherals = cortex_m::Peripherals::take().expect("taken once");
    let done = run(ARENA.take(), Clock::start(peripherals.SYST));
    if let Err(e) = done {
        defmt::error!("{}", e);
    }
    exit(done.is_ok())
}

fn exit(well: bool) -> ! {
    debug::exit(if well { debug::EXIT_SUCCESS } else { debug::EXIT_FAILURE });
    loop {
        cortex_m::asm::wfi();
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if let Some(at) = info.location() {
        defmt::error!("panicked at {=str}:{=u32}", at.file(), at.line());
    }
    exit(false)
}

#[exception]
unsafe fn HardFault(frame: &ExceptionFrame) -> ! {
    defmt::error!("hard fault at {=u32:#010x}", frame.pc());
    exit(false)
}
