//! Bytes that are not a model: every truncation, every flipped byte, and lies under a correct checksum.

mod common;

use common::{Ram, request, tiny};
use varmint::file::{CRC_AT, checksum};
use varmint::{Error, Fault, Generator, Host, Model, ModelFile, Plan, Scalar, Step};

fn parse(bytes: &[u8]) -> Result<(), Error> {
    ModelFile::from_bytes(bytes).model().map(|_| ())
}

#[test]
fn truncated_extended_and_misaligned_files_are_refused() {
    let file = tiny();
    let bytes = file.bytes();
    for n in (0..4096).chain((4096..bytes.len()).step_by(9973)) {
        assert!(parse(&bytes[..n]).is_err(), "{n} bytes");
    }
    let mut long = bytes.to_vec();
    long.push(0);
    assert!(matches!(parse(&long), Err(Error::File { fault: Fault::Trailing, .. })));
    let mut ram = Ram::new(bytes.len() + 8, 0);
    ram.get()[8..].copy_from_slice(bytes);
    let crooked = Model::parse(&ram.get()[8..]).map(|_| ());
    assert!(matches!(crooked, Err(Error::File { fault: Fault::Misaligned, .. })));
}

/// The checksum finds any single flipped bit; the container check goes first and must not panic.
#[test]
fn every_flipped_bit_of_the_head_is_refused() {
    let file = tiny();
    let head = 64 + 7 * 24 + 256 + 64;
    let mut bad = ModelFile::from_bytes(file.bytes()).bytes().to_vec();
    for at in (0..head).chain((head..file.bytes().len()).step_by(19_997)) {
        for bit in [0, 7] {
            bad[at] ^= 1 << bit;
            assert!(parse(&bad).is_err(), "byte {at}, bit {bit}");
            bad[at] ^= 1 << bit;
        }
    }
}

/// A field is changed and the checksum made right again. Whatever still parses must run to its end.
#[test]
fn resealed_lies_never_panic() {
    let file = tiny();
    let original = file.bytes();
    let tensors_end = original.len().min(16 * 1024);
    let mut bytes = original.to_vec();
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut refused, mut ran) = (0, 0);
    for _ in 0..600 {
        let at = next() as usize % tensors_end;
        let old = bytes[at];
        bytes[at] = match next() % 4 {
            0 => 0,
            1 => 0xFF,
            2 => old.wrapping_add(1),
            _ => next() as u8,
        };
        let crc = checksum(&bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        let lie = ModelFile::from_bytes(&bytes);
        match lie.model() {
            Err(_) => refused += 1,
            Ok(model) => {
                let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap());
                if let Ok(plan) = plan.filter_large() {
                    run(&model, &plan);
                    ran += 1;
                }
            }
        }
        bytes[at] = old;
    }
    assert!(refused > 100 && ran > 50, "{refused} refused, {ran} ran");
}

trait FilterLarge {
    /// Plans that a test can afford to run.
    fn filter_large(self) -> Result<Plan, Error>;
}

impl FilterLarge for Result<Plan, Error> {
    fn filter_large(self) -> Result<Plan, Error> {
        self.and_then(|p| {
            let small = p.bytes() < 64 << 20 && p.total_macs() < 200_000_000;
            if small { Ok(p) } else { Err(Error::PlanTooLarge) }
        })
    }
}

fn run(model: &Model<'_>, plan: &Plan) {
    plan.verify().unwrap();
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), plan).unwrap();
    let mut request = request(model, 1);
    if !request.sampling.is_valid() || model.shape.config.table(0).rows < 4 {
        return;
    }
    request.labels = [None; 4];
    let mut g = Generator::new(model, plan, host, request).unwrap();
    let mut steps = 0u64;
    while !matches!(g.step().unwrap(), Step::Done) {
        steps += 1;
        assert!(steps < 1 << 20, "a run ends");
    }
}
