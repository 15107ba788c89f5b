//! The shipped model draws one picture per int8 tier, whoever computes it.

mod common;

use common::{crc, image, request};
use varmint::{Cpu, Isa, ModelFile, Plan};

/// Tier and checksum of its picture of seed 1. `small` is `int8` in smaller pieces: the same picture.
const PICTURES: [(&str, u32); 3] =
    [("int8", 0x1109_dfd9), ("small", 0x1109_dfd9), ("fast", 0x5e96_8ae0)];

#[test]
fn a_tier_has_one_picture_on_every_instruction_set() {
    let file = ModelFile::open("fixtures/emoji-64.vmt").unwrap();
    let model = file.model().unwrap();
    for (tier, want) in PICTURES {
        let plan = Plan::new(&model.shape, &model.tier(tier).unwrap()).unwrap();
        for cpu in Isa::ALL.into_iter().filter_map(Cpu::with) {
            let got = crc(&image(&model, &plan, cpu, request(&model, 1)));
            assert_eq!(got, want, "{tier} on {cpu:?}: {got:#010x}");
        }
    }
}
