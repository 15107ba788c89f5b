//! The edge picture: the one that every platform program draws and compares. Its checksum is kept in
//! `fixtures/edge-picture.txt`, where programs in other languages read it, too.

mod common;

use common::{crc, image};
use varmint::{Cpu, Isa, ModelFile, Plan, Request, Scalar};

#[test]
fn the_reference_and_the_kernels_draw_it() {
    let text = std::fs::read_to_string("fixtures/edge-picture.txt").unwrap();
    let want = text.lines().find_map(|l| l.strip_prefix("crc32 = 0x")).unwrap();
    let want = u32::from_str_radix(want, 16).unwrap();

    let file = ModelFile::open("fixtures/emoji-micro.vmt").unwrap();
    let model = file.model().unwrap();
    let plan = Plan::new(&model.shape, &model.tier("fast").unwrap()).unwrap();
    let mut request = Request::new(&model);
    request.labels[0] = model.find_label(0, "red heart").map(|row| row as u32);
    request.seed = 1;
    assert!(request.labels[0].is_some());

    let got = crc(&image(&model, &plan, Scalar, request));
    let platform = std::env::consts::ARCH;
    println!("checksum {platform}-scalar {got:#010x}");
    assert_eq!(got, want, "the reference: {got:#010x}");
    for (isa, cpu) in Isa::ALL.into_iter().filter_map(|isa| Some((isa, Cpu::with(isa)?))) {
        let got = crc(&image(&model, &plan, cpu, request));
        println!("checksum {platform}-{} {got:#010x}", isa.name());
        assert_eq!(got, want, "{cpu:?}: {got:#010x}");
    }
}
