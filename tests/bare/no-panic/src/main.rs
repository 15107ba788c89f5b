//! A program that links only if nothing in it can panic: its panic handler calls a function that does not
//! exist, so a single panic that the optimiser has not proven away is an undefined symbol.
//!
//! It opens a model in memory of which the compiler knows neither place, length nor content, makes a picture
//! with numbers of the same kind, and (feature `everything`) calls whatever else is public in the core.
//! Linked is the proof; nothing is run. `./ci.sh no_panic` builds it, and measures code and stack on it.
#![no_std]
#![no_main]

#[cfg(feature = "everything")]
mod everything;

use core::panic::PanicInfo;
use core::slice;

use varmint_core::{Error, Generator, Host, Model, Ops, Plan, Request, Step};

unsafe extern "C" {
    /// Whatever is there when the program starts.
    static GIVEN: Given;
    /// Defined nowhere.
    fn varmint_can_panic() -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    // SAFETY: a program that has this call does not link.
    unsafe { varmint_can_panic() }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Given {
    file: *const u8,
    file_len: usize,
    ram: *mut u8,
    ram_len: usize,
    tokens: *const u16,
    tokens_len: usize,
    number: usize,
}

fn given() -> Given {
    // SAFETY: mapped memory; the linker says where.
    unsafe { (&raw const GIVEN).read_volatile() }
}

/// A number that may be any.
fn any() -> usize {
    given().number
}

/// A float that may be any.
fn any_float() -> f32 {
    f32::from_bits(any() as u32)
}

/// The bytes of a file.
fn file() -> &'static [u8] {
    let given = given();
    // SAFETY: whoever starts the program gives a place and its length.
    unsafe { slice::from_raw_parts(given.file, given.file_len) }
}

/// Memory to work in.
fn ram() -> &'static mut [u8] {
    let given = given();
    // SAFETY: as above; every call takes another piece.
    unsafe { slice::from_raw_parts_mut(given.ram, given.ram_len) }
}

fn tokens() -> &'static [u16] {
    let given = given();
    // SAFETY: as above.
    unsafe { slice::from_raw_parts(given.tokens, given.tokens_len) }
}

/// Somebody looks at it.
fn show(byte: u8) {
    let given = given();
    // SAFETY: as above.
    unsafe { given.ram.write_volatile(byte) }
}

fn request<'a>(model: &Model<'a>) -> Request<'a> {
    let mut request = Request::new(model);
    for label in &mut request.labels {
        *label = (any() > 0).then(|| any() as u32);
    }
    request.seed = any() as u64;
    request.sampling.guidance = any_float();
    request.sampling.top_k = any() as u32;
    request.sampling.top_p = any_float();
    request.sampling.temperature = any_float();
    request.tokens = (any() > 0).then(tokens);
    request
}

/// What a firmware does.
fn picture(ops: impl Ops) -> Result<(), Error> {
    let model = Model::parse(file())?;
    let plan = Plan::new(&model.shape, &model.tier_at(any())?)?;
    let host = Host::new(ops, ram(), &plan)?;
    let mut generator = Generator::new(&model, &plan, host, request(&model))?;
    loop {
        match generator.step()? {
            Step::Working(progress) => show((progress.done >> 8) as u8),
            Step::Scale(scale) => scale.preview().flatten().for_each(show),
            Step::Rows(rows) => rows.rgb.iter().for_each(|&v| show(v)),
            Step::Done => return Ok(()),
        }
    }
}

#[unsafe(no_mangle)]
extern "C" fn start() {
    #[cfg(not(feature = "cpu"))]
    let ops = varmint_core::Scalar;
    #[cfg(feature = "cpu")]
    let ops = varmint_cpu::Cpu::build();
    if let Err(e) = picture(ops) {
        show(e.code() as u8);
    }
    #[cfg(feature = "everything")]
    everything::everything(ops);
    #[cfg(feature = "control")]
    show(file()[any()]);
}
