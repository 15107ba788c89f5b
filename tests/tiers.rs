//! Tiers are rows of the file, chosen at run time: the same model in less memory, or with less work.

mod common;

use common::{image, request};
use varmint::{Budget, Cpu, Engine, Error, ModelFile, Plan, Scalar};

#[test]
fn the_shipped_model_offers_a_choice() {
    let file = ModelFile::open("fixtures/emoji-64.vmt").unwrap();
    let model = file.model().unwrap();
    let plan = |name: &str| Plan::new(&model.shape, &model.tier(name).unwrap()).unwrap();
    let mut r = request(&model, 11);
    r.labels[1] = Some(2);
    let picture = |p: &Plan| image(&model, p, Cpu::detect(), r);
    let full = plan("full");
    let want = picture(&full);

    // Smaller pieces: the same picture, less memory, less work per step.
    let small = plan("small");
    assert_eq!(picture(&small), want);
    assert!(small.bytes() < full.bytes() && small.max_step_macs() < full.max_step_macs());
    assert_eq!(small.total_macs(), full.total_macs());

    // Best first: every further tier needs less, and draws the scales before its own as `full` does.
    let mut before = small;
    for (name, from) in [("half", 4), ("balanced", 4), ("lite", 3), ("micro", 2)] {
        let lower = plan(name);
        assert!(
            lower.bytes() < before.bytes() && lower.total_macs() < before.total_macs(),
            "{name}"
        );
        let same = model.shape.config.tokens_before(from);
        let got = picture(&lower);
        assert_eq!(got.tokens[..same], want.tokens[..same], "{name}");
        assert_ne!(got.tokens, want.tokens, "{name}");
        before = lower;
    }
    // A board of 256 KiB has room for the last one.
    assert!(before.bytes() <= 256 << 10);
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

/// At the bytes of a tier it is chosen (or a better one of the same size); one byte less chooses the
/// next that fits, and below the smallest there is an error with both numbers.
#[test]
fn the_best_tier_is_exact_to_the_byte() {
    for path in ["fixtures/emoji-64.vmt", "fixtures/emoji-micro.vmt", "fixtures/tiny.vmt"] {
        let file = ModelFile::open(path).unwrap();
        let model = file.model().unwrap();
        let plans: Vec<Plan> =
            model.tiers().filter_map(|t| Plan::new(&model.shape, &t).ok()).collect();
        let smallest = plans.iter().map(Plan::bytes).min().unwrap();
        let best = |ram: usize| model.best_tier(Budget::ram(ram));
        assert_eq!(best(usize::MAX).unwrap(), plans[0].tier, "{path}");
        for plan in &plans {
            let first = plans.iter().find(|p| p.bytes() <= plan.bytes()).unwrap();
            assert_eq!(best(plan.bytes()).unwrap(), first.tier, "{path}");
            let less = plan.bytes() - 1;
            match plans.iter().find(|p| p.bytes() <= less) {
                Some(next) => assert_eq!(best(less).unwrap(), next.tier, "{path}"),
                None => {
                    let error = Error::ArenaTooSmall { need: smallest, got: less };
                    assert_eq!(best(less), Err(error), "{path}");
                }
            }
        }
    }
}

#[test]
fn the_best_tier_keeps_the_limits_of_work() {
    let file = ModelFile::open("fixtures/emoji-64.vmt").unwrap();
    let model = file.model().unwrap();
    let plans: Vec<Plan> = model.tiers().filter_map(|t| Plan::new(&model.shape, &t).ok()).collect();
    let step = plans.iter().map(Plan::max_step_macs).min().unwrap();
    let image = plans.iter().map(Plan::total_macs).min().unwrap();
    let chosen = |budget: Budget| Plan::new(&model.shape, &model.best_tier(budget).unwrap());
    assert_eq!(
        chosen(Budget { step_macs: step, ..Budget::default() }).unwrap().max_step_macs(),
        step
    );
    assert_eq!(
        chosen(Budget { image_macs: image, ..Budget::default() }).unwrap().total_macs(),
        image
    );
    // No tier works so little, though RAM is enough.
    let none = |budget: Budget| model.best_tier(budget).unwrap_err();
    assert_eq!(
        none(Budget { step_macs: step - 1, ..Budget::default() }),
        Error::TooMuchWork { need: step, got: step - 1 }
    );
    let cold = Budget { image_macs: image - 1, ..Budget::default() };
    assert_eq!(none(cold), Error::TooMuchWork { need: image, got: image - 1 });
    // What is short of RAM is said first.
    assert!(matches!(none(Budget { ram: 0, ..cold }), Error::ArenaTooSmall { got: 0, .. }));
    for plan in &plans {
        assert_eq!(Budget::ram(plan.bytes()).check(plan), Ok(()));
        assert!(Budget::ram(plan.bytes() - 1).check(plan).is_err());
    }
}

/// One arena for all tiers: what is made after a change is what a fresh engine makes, and what does
/// not fit changes nothing.
#[test]
fn an_engine_changes_tier_in_its_arena() {
    let file = ModelFile::open("fixtures/emoji-micro.vmt").unwrap();
    let model = file.model().unwrap();
    let plans: Vec<Plan> = model.tiers().filter_map(|t| Plan::new(&model.shape, &t).ok()).collect();
    let most = plans.iter().map(Plan::bytes).max().unwrap();
    let mut engine = Engine::with_arena(&model, most + 7).unwrap();
    assert_eq!(engine.plan().tier, plans[0].tier);
    let (at, len) = (engine.arena().as_ptr(), engine.arena().len());
    assert_eq!(len, most);
    for plan in plans.iter().chain(&plans[..1]) {
        engine.set_tier(&plan.tier).unwrap();
        let fresh = Engine::new(&model, &plan.tier).unwrap().generate(request(&model, 2));
        assert_eq!(engine.generate(request(&model, 2)).unwrap(), fresh.unwrap());
        assert_eq!((engine.arena().as_ptr(), engine.arena().len()), (at, len));
    }

    let (large, small) = (plans[0], plans[1]);
    assert!(small.bytes() < large.bytes());
    let mut engine = Engine::with_arena(&model, large.bytes() - 1).unwrap();
    let before = engine.plan().tier;
    let got = engine.arena().len();
    let error = Error::ArenaTooSmall { need: large.bytes(), got };
    assert_eq!(engine.set_tier(&large.tier), Err(error));
    assert_eq!(engine.plan().tier, before);
    let least = plans.iter().map(Plan::bytes).min().unwrap();
    let error = Engine::with_arena(&model, least - 1).unwrap_err();
    assert_eq!(error, Error::ArenaTooSmall { need: least, got: least - 1 });
}

/// Both guidance rows in one call: the same picture, working memory for both, and half the calls.
#[test]
fn rows_may_run_together() {
    use varmint::{Keep, Store, tier::KEEP_ALL};
    let file = common::tiny();
    let model = file.model().unwrap();
    let mut apart = model.tier_at(0).unwrap();
    for (guided, kept, tile) in [(4, KEEP_ALL, 16), (2, KEEP_ALL, 3), (3, 4, 5)] {
        for cache in [Store::I8, Store::F32] {
            (apart.guided, apart.cache, apart.tile) = (guided, cache, tile);
            let mut most = [KEEP_ALL; 16];
            most[2] = kept;
            apart.keep = Keep { most: [most; 2], grid: 2, ..Keep::ALL };
            let mut together = apart;
            together.together = true;
            let plans = [apart, together].map(|t| Plan::new(&model.shape, &t).unwrap());
            plans[1].verify().unwrap();
            let [a, b] = plans.each_ref().map(|p| image(&model, p, Scalar, request(&model, 3)));
            assert_eq!(a, b, "guided {guided}, tile {tile}");
            assert_eq!(image(&model, &plans[1], Cpu::detect(), request(&model, 3)), b);
            assert!(plans[1].bytes() >= plans[0].bytes());
            assert_eq!(plans[1].total_macs(), plans[0].total_macs());
        }
    }
}
