//! The shipped model's pictures, pinned: one image a tier, the same bytes on every machine.

mod common;

use common::{crc, image, request};
use varmint::{Cpu, Isa, ModelFile, Plan};

/// The picture of seed 11 of fixtures/emoji-64.vmt in a tier. `small` is `full` in smaller pieces.
const PICTURES: [(&str, u32); 6] = [
    ("full", 0x78ff_0d7c),
    ("small", 0x78ff_0d7c),
    ("half", 0xabd6_fb44),
    ("balanced", 0x4c04_19ed),
    ("lite", 0x5eb4_c376),
    ("micro", 0x5c8f_3a17),
];

#[test]
fn every_tier_has_one_picture_everywhere() {
    let file = ModelFile::open("fixtures/emoji-64.vmt").unwrap();
    let model = file.model().unwrap();
    let mut r = request(&model, 11);
    r.labels[1] = Some(2);
    for (tier, want) in PICTURES {
        let plan = Plan::new(&model.shape, &model.tier(tier).unwrap()).unwrap();
        for cpu in Isa::ALL.into_iter().filter_map(Cpu::with) {
            let got = crc(&image(&model, &plan, cpu, r));
            assert_eq!(got, want, "tier {tier}, {cpu:?}: {got:#010x}");
            println!("{tier}: {cpu:?}");
        }
    }
}
