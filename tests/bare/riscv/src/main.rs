#![no_std]
#![no_main]
#![allow(long_running_const_eval, reason = "the planner runs in the compiler")]

use crc::{CRC_32_ISO_HDLC, Crc};
use riscv_rt::entry;
use semihosting::{println, process};
use varmint_core::{Error, Generator, Host, Model, Plan, Request, Scalar, Step, include_model};

static MODEL: &[u8] = include_model!("../../../../fixtures/emoji-micro.vmt");
const PLAN: Plan = match Plan::of_file(MODEL, 1) {
    Ok(plan) => plan,
    Err(_) => panic!("the model's header is not valid"),
};

#[repr(align(16))]
struct Arena([u8; PLAN.bytes()]);
static mut ARENA: Arena = Arena([0; PLAN.bytes()]);

fn draw(arena: &mut Arena) -> Result<u32, Error> {
    let model = Model::parse(MODEL)?;
    let mut request = Request::new(&model);
    request.labels[0] = model.find_label(0, "red heart").map(|row| row as u32);
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
    let from = riscv::register::minstret::read64();
    let crc = draw(unsafe { &mut *(&raw mut ARENA) }).unwrap();
    let n = riscv::register::minstret::read64() - from;
    println!("checksum riscv32imac {crc:#010x} {n}");
    process::exit(0)
}
