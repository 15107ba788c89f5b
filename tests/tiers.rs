//! Tiers are rows of the file, chosen at run time: the same model in less memory, or with less work.

mod common;

use common::{image, request};
use varmint::{Cpu, ModelFile, Plan, Scalar};

#[test]
fn the_shipped_model_offers_a_choice() {
    let file = ModelFile::open("fixtures/emoji-64.vmt").unwrap();
    let model = file.model().unwrap();
    let plan = |name: &str| Plan::new(&model.shape, &model.tier(name).unwrap()).unwrap();
    let (full, small, fast) = (plan("int8"), plan("small"), plan("fast"));
    let mut r = request(&model, 11);
    r.labels[1] = Some(2);
    let picture = |p: &Plan| image(&model, p, Cpu::detect(), r);
    let want = picture(&full);

    // Smaller pieces: the same picture, less memory, less work per step.
    assert_eq!(picture(&small), want);
    assert!(small.bytes() < full.bytes() && small.max_step_macs() < full.max_step_macs());
    assert_eq!(small.total_macs(), full.total_macs());

    // Guidance dropped at the last scales: less work. The scales before are as they were.
    let cheap = picture(&fast);
    assert!(fast.total_macs() * 10 < full.total_macs() * 9);
    let guided = model.tier("fast").unwrap().guided;
    let same = model.shape.config.tokens_before(guided);
    assert!(guided < model.shape.config.n_scales());
    assert_eq!(cheap.tokens[..same], want.tokens[..same]);
    assert_ne!(cheap.tokens, want.tokens);
}

/// Subnets: blocks that end early leave their caches to others.
#[test]
fn a_tier_of_fewer_blocks_needs_less() {
    let file = common::tiny();
    let model = file.model().unwrap();
    let full = model.tier_at(0).unwrap();
    let n = model.shape.config.n_scales();
    let lean = full.with_blocks(&model.shape, |k| if k + 1 < n { 0b111 } else { 0b101 }).unwrap();
    let (full, lean) =
        (Plan::new(&model.shape, &full).unwrap(), Plan::new(&model.shape, &lean).unwrap());
    lean.verify().unwrap();
    assert!(lean.bytes() < full.bytes() && lean.total_macs() < full.total_macs());
    let (a, b) = (
        image(&model, &full, Scalar, request(&model, 3)),
        image(&model, &lean, Scalar, request(&model, 3)),
    );
    let last = model.shape.config.tokens_before(n - 1);
    assert_eq!(a.tokens[..last], b.tokens[..last], "the scales before the boundary are the same");
    assert_ne!(a.rgb, b.rgb);
    // A block that skipped a scale cannot come back: its cache has a hole.
    assert!(full.tier.with_blocks(&model.shape, |k| if k == 1 { 0b011 } else { 0b111 }).is_err());
}
