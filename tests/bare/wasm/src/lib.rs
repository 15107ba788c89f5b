//! A module without imports that compares the SIMD kernels with the reference and draws the picture of
//! `tests/steps.rs`; `node run.mjs MODULE` is the test.

use std::cell::RefCell;

use varmint_core::{Model, Ops, Plan, Scalar, include_model};
use varmint_cpu::{Cpu, Isa};

static MODEL: &[u8] = include_model!("../../../../fixtures/tiny.vmt");

thread_local! {
    static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
}

/// What the last function had to say: where it stands, and below its length.
#[unsafe(no_mangle)]
pub extern "C" fn text() -> *const u8 {
    TEXT.with_borrow(|t| t.as_ptr())
}

/// Bytes of [`text`].
#[unsafe(no_mangle)]
pub extern "C" fn text_len() -> usize {
    TEXT.with_borrow(|t| t.len())
}

/// Whether all kernels equal the reference.
#[unsafe(no_mangle)]
pub extern "C" fn check() -> bool {
    let cpu = Cpu::build();
    let (good, text) = match varmint_check::brief(&cpu) {
        Ok(report) => (cpu.isa() == Isa::Simd128, format!("{}: {report:?}", cpu.name())),
        Err(e) => (false, e.to_string()),
    };
    TEXT.set(text);
    good
}

/// The checksum of the picture of seed 1, by the kernels or by the reference.
#[unsafe(no_mangle)]
pub extern "C" fn picture(reference: bool) -> u32 {
    let model = Model::parse(MODEL).unwrap();
    let plan = Plan::new(&model.shape, &model.tier("int8").unwrap()).unwrap();
    let mut ram = vec![0u128; plan.bytes().div_ceil(16)];
    let ram: &mut [u8] = bytemuck::cast_slice_mut(&mut ram);
    let crc = if reference {
        varmint_check::picture(&model, &plan, Scalar, ram, 1)
    } else {
        varmint_check::picture(&model, &plan, Cpu::build(), ram, 1)
    };
    crc.unwrap()
}
