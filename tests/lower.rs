//! An image that goes on in a lower tier: as if it had been planned so from the start, in the arena it has.

mod common;

use common::{Ram, image, request, run, tiny};
use varmint::{Buf, Error, Generator, Host, Model, Plan, Scalar, Step, Tier};

fn tiers(model: &Model<'_>) -> (Tier, [Tier; 4]) {
    let full = model.tier_at(0).unwrap();
    let few = full.with_blocks(&model.shape, |_| 0b101).unwrap();
    let one = full.with_blocks(&model.shape, |k| if k < 3 { 0b101 } else { 0b001 }).unwrap();
    let (mut cheap, mut small) = (few, full);
    cheap.guided = 0;
    (small.tile, small.strip, small.guided) = (1, 1, 3);
    (full, [few, one, cheap, small])
}

#[test]
fn it_goes_on_as_if_planned_so() {
    let file = tiny();
    let model = file.model().unwrap();
    let (full, lower) = tiers(&model);
    let plan = Plan::new(&model.shape, &full).unwrap();
    let plain = image(&model, &plan, Scalar, request(&model, 7));
    for scale in 1..4 {
        for tier in lower {
            let low = plan.lowered(&model.shape, &tier, scale).unwrap();
            low.verify().unwrap();
            assert_eq!(low.bytes(), plan.bytes());
            let want = image(
                &model,
                &Plan::new(&model.shape, &low.tier).unwrap(),
                Scalar,
                request(&model, 7),
            );

            let mut ram = Ram::new(plan.bytes(), 0);
            let host = Host::new(Scalar, ram.get(), &plan).unwrap();
            let mut g = Generator::new(&model, &plan, host, request(&model, 7)).unwrap();
            while g.boundary() != Some(scale) {
                assert_eq!(g.lower(&low), Err(Error::NotLower), "not the time");
                g.step().unwrap();
            }
            g.lower(&low).unwrap();
            let got = run(&mut g, |_, _| {}).unwrap();
            assert_eq!(got, want, "scale {scale}");
            let before = model.shape.config.tokens_before(scale);
            assert_eq!(got.tokens[..before], plain.tokens[..before]);
            // The next image begins as the first one did.
            g.reset(request(&model, 7)).unwrap();
            assert_eq!(run(&mut g, |_, _| {}).unwrap(), plain);
        }
    }
}

/// Down twice, and progress still ends at the whole.
#[test]
fn it_can_go_down_twice() {
    let file = tiny();
    let model = file.model().unwrap();
    let (full, [few, one, ..]) = tiers(&model);
    let plan = Plan::new(&model.shape, &full).unwrap();
    let low = plan.lowered(&model.shape, &few, 1).unwrap();
    let lowest = low.lowered(&model.shape, &one, 3).unwrap();
    let want =
        image(&model, &Plan::new(&model.shape, &lowest.tier).unwrap(), Scalar, request(&model, 7));
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), &plan).unwrap();
    let mut g = Generator::new(&model, &plan, host, request(&model, 7)).unwrap();
    let (mut rgb, mut last) = (Vec::new(), None);
    loop {
        match g.boundary() {
            Some(1) => g.lower(&low).unwrap(),
            Some(3) => {
                assert_eq!(g.lower(&low), Err(Error::NotLower), "that one is for scale 1");
                g.lower(&lowest).unwrap();
            }
            _ => {}
        }
        match g.step().unwrap() {
            Step::Rows(rows) => {
                rgb.extend_from_slice(rows.rgb);
                last = Some(rows.progress);
            }
            Step::Done => break,
            _ => {}
        }
    }
    assert_eq!(rgb, want.rgb);
    let last = last.unwrap();
    assert_eq!((last.done, last.total), (lowest.total_macs(), lowest.total_macs()));
}

#[test]
fn what_is_not_lower_is_refused() {
    let file = tiny();
    let model = file.model().unwrap();
    let (full, [few, _, cheap, small]) = tiers(&model);
    let lowered = |from: &Tier, to: &Tier, scale| {
        Plan::new(&model.shape, from).unwrap().lowered(&model.shape, to, scale).map(|_| ())
    };
    assert_eq!(lowered(&few, &full, 2), Err(Error::NotLower), "blocks that did not run");
    assert_eq!(lowered(&cheap, &few, 2), Err(Error::NotLower), "a row that did not run");
    assert_eq!(lowered(&full, &few, 0), Err(Error::NotLower), "nothing has begun");
    assert_eq!(lowered(&full, &few, 4), Err(Error::NotLower), "past the last scale");
    let mut f32 = full;
    f32.cache = varmint::Store::F32;
    assert_eq!(lowered(&full, &f32, 2), Err(Error::NotLower), "another storage");
    // Larger pieces do not fit where only small ones were planned.
    let (need, got) = match lowered(
        &small,
        &{
            let mut t = full;
            t.guided = 3;
            t.strip = 64;
            t
        },
        1,
    ) {
        Err(Error::ArenaTooSmall { need, got }) => (need, got),
        other => panic!("{other:?}"),
    };
    assert!(need > got);
    // A plan that takes over is none to begin with, and one of another arena does not take over.
    let plan = Plan::new(&model.shape, &full).unwrap();
    let low = plan.lowered(&model.shape, &few, 1).unwrap();
    assert_eq!(low.buffer(Buf::Cond).size, 0);
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), &plan).unwrap();
    assert!(matches!(Generator::new(&model, &low, host, request(&model, 7)), Err(Error::NotLower)));
}

/// Another tier for the next image, in the arena of the first.
#[test]
fn the_next_image_may_use_another_tier() {
    let file = tiny();
    let model = file.model().unwrap();
    let (full, [few, ..]) = tiers(&model);
    let (large, small) =
        (Plan::new(&model.shape, &full).unwrap(), Plan::new(&model.shape, &few).unwrap());
    let mut ram = Ram::new(large.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), &large).unwrap();
    let mut g = Generator::new(&model, &large, host, request(&model, 7)).unwrap();
    for plan in [&large, &small, &large] {
        g.reset_to(plan, request(&model, 7)).unwrap();
        let want = image(&model, plan, Scalar, request(&model, 7));
        assert_eq!(run(&mut g, |_, _| {}).unwrap(), want);
    }
    let mut ram = Ram::new(small.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), &small).unwrap();
    let mut g = Generator::new(&model, &small, host, request(&model, 7)).unwrap();
    let refused = g.reset_to(&large, request(&model, 7));
    assert_eq!(refused, Err(Error::ArenaTooSmall { need: large.bytes(), got: small.bytes() }));
    run(&mut g, |_, _| {}).unwrap();
}

/// The engine asks at every scale, and gives what the generator gives.
#[test]
fn the_engine_goes_down_when_told() {
    let file = tiny();
    let model = file.model().unwrap();
    let (full, [few, ..]) = tiers(&model);
    let mut engine = varmint::Engine::new(&model, &full).unwrap();
    let plain = engine.generate(request(&model, 7)).unwrap();
    let low = engine.plan().lowered(&model.shape, &few, 2).unwrap();
    let want =
        image(&model, &Plan::new(&model.shape, &low.tier).unwrap(), Scalar, request(&model, 7));
    let mut asked = Vec::new();
    let lower = |_: &Plan, scale| {
        asked.push(scale);
        (scale == 2).then_some(low)
    };
    assert_eq!(engine.generate_lowering(request(&model, 7), lower, |_| {}).unwrap(), want);
    assert_eq!(asked, [1, 2, 3]);
    assert_eq!(engine.generate(request(&model, 7)).unwrap(), plain);
    let wrong = engine.generate_lowering(request(&model, 7), |_, _| Some(low), |_| {});
    assert_eq!(wrong, Err(Error::NotLower), "made for another scale");
}
