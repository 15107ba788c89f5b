//! Draws the edge picture on a processor without floats, in a static arena of the plan's bytes. There is no allocator in
//! this program. `cargo run --release` is the test; it exits with its verdict.
#![no_std]
#![no_main]

mod fault;
mod measure;

use crc::{CRC_32_ISO_HDLC, Crc};
use riscv::register::minstret;
use riscv_rt::entry;
use semihosting::{println, process};
use static_cell::ConstStaticCell;
use varmint_core::{Error, Generator, Host, Model, Plan, Request, Scalar, Step, include_model};

static MODEL: &[u8] = include_model!("../../../../fixtures/emoji-micro.vmt");
const TIER: &str = "fast";
static PLAN: Plan = match Plan::of_file(MODEL, 1) {
    Ok(plan) => plan,
    Err(_) => panic!("the model's header is not valid"),
};
const ARENA_BYTES: usize = PLAN.bytes();
const EDGE: &str = include_str!("../../../../fixtures/edge-picture.txt");

#[repr(align(16))]
struct Arena([u8; ARENA_BYTES]);
static ARENA: ConstStaticCell<Arena> = ConstStaticCell::new(Arena([0; ARENA_BYTES]));

/// The checksum of the picture.
fn draw(arena: &mut Arena) -> Result<u32, Error> {
    let model = Model::parse(MODEL)?;
    assert!(model.tier(TIER)? == PLAN.tier, "the plan is for another tier");
    let mut request = Request::new(&model);
    request.labels[0] = model.find_label(0, "red heart").map(|row| row as u32);
    assert!(request.labels[0].is_some());
    request.seed = 1;
    let host = Host::new(Scalar, &mut arena.0, &PLAN)?;
    let mut generator = Generator::new(&model, &PLAN, host, request)?;
    let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    let mut digest = crc.digest();
    loop {
        match generator.step()? {
            Step::Rows(rows) => digest.update(rows.rgb),
            Step::Done => return Ok(digest.finalize()),
            _ => {}
        }
    }
}

#[entry]
fn main() -> ! {
    measure::paint_stack();
    let arena = ARENA.take();
    let before = minstret::read64();
    let crc = draw(arena).unwrap_or_else(|e| panic!("{e}"));
    let instructions = minstret::read64() - before;
    println!("checksum riscv32imac {crc:#010x}");
    println!("instructions = {instructions}");
    println!("arena = {ARENA_BYTES}");
    println!("stack = {}", measure::stack());
    println!("statics = {}", measure::statics() - ARENA_BYTES);
    println!("code = {}", measure::flash() - MODEL.len());
    println!("model = {}", MODEL.len());
    let want = EDGE.trim().strip_prefix("crc32 = 0x").map(|v| u32::from_str_radix(v, 16));
    process::exit(if want == Some(Ok(crc)) { 0 } else { 1 })
}
