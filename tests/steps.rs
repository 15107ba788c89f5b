//! `step()`: bounded, resumable, and the same picture whoever computes it.

mod common;
#[path = "common/work.rs"]
mod work;

use std::cell::Cell;

use common::{Ram, crc, image, reference, request, tiny};
use varmint::{
    Cpu, Error, Generator, Host, Isa, ModelFile, Plan, Progress, Request, Scalar, Stage, Step,
};
use work::Counting;

/// The picture of seed 1 of fixtures/tiny.vmt in its int8 tier, on every machine.
const TINY_CRC: u32 = 0xf1b4_5b6f;

#[test]
fn the_integer_tier_has_one_picture_everywhere() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = Plan::new(&model.shape, &model.tier("int8").unwrap()).unwrap();
    let want = reference(&model, &plan, 1);
    assert_eq!(crc(&want), TINY_CRC, "{:#x}", crc(&want));
    let mut ran = Vec::new();
    for isa in Isa::ALL {
        if let Some(cpu) = Cpu::with(isa) {
            assert_eq!(image(&model, &plan, cpu, request(&model, 1)), want, "{isa:?}");
            ran.push(isa.name());
        }
    }
    // A job that promises an instruction set must have run it.
    for name in std::env::var("VARMINT_REQUIRE_KERNELS").unwrap_or_default().split(',') {
        assert!(
            name.is_empty() || ran.contains(&name),
            "kernel `{name}` was required; ran {ran:?}"
        );
    }
    println!("ran: {}", ran.join(", "));
}

#[test]
fn tiles_and_strips_do_not_change_the_picture() {
    let file = tiny();
    let model = file.model().unwrap();
    let mut tier = model.tier("int8").unwrap();
    let want = reference(&model, &Plan::new(&model.shape, &tier).unwrap(), 2);
    let mut arenas = Vec::new();
    for (tile, strip) in [(1, 1), (3, 2), (7, 3), (256, 64)] {
        (tier.tile, tier.strip) = (tile, strip);
        let plan = Plan::new(&model.shape, &tier).unwrap();
        plan.verify().unwrap();
        assert_eq!(reference(&model, &plan, 2), want, "tile {tile}, strip {strip}");
        arenas.push((plan.bytes(), plan.max_step_macs()));
    }
    assert!(
        arenas.is_sorted(),
        "smaller pieces need less memory and less work per step: {arenas:?}"
    );
}

#[test]
fn progress_is_monotone_bounded_and_complete() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(Scalar, ram.get(), &plan).unwrap();
    let mut g = Generator::new(&model, &plan, host, request(&model, 1)).unwrap();
    let (mut last, mut scales, mut rows) = (0, 0, 0);
    let mut total = 0;
    loop {
        let p: Progress = match g.step().unwrap() {
            Step::Working(p) => p,
            Step::Scale(s) => {
                assert_eq!(s.scale, scales);
                assert_eq!(s.preview().count(), s.size.0 * s.size.1);
                scales += 1;
                s.progress
            }
            Step::Rows(r) => {
                rows += r.rgb.len() / (3 * r.width);
                r.progress
            }
            Step::Done => break,
        };
        assert!(p.done >= last && p.done - last <= plan.max_step_macs());
        (last, total) = (p.done, p.total);
    }
    assert_eq!((last, scales, rows), (total, 4, g.size().0));
    assert!(matches!(g.step(), Ok(Step::Done)));
}

/// What a step is said to multiply and accumulate at most, counted in the kernels; over an image hardly less is done.
#[test]
fn the_work_that_is_stated_is_the_work_that_is_done() {
    for (path, tier) in [("fixtures/tiny.vmt", "int8"), ("fixtures/emoji-micro.vmt", "fast")] {
        let file = ModelFile::open(path).unwrap();
        let model = file.model().unwrap();
        let plan = Plan::new(&model.shape, &model.tier(tier).unwrap()).unwrap();
        let mut ram = Ram::new(plan.bytes(), 0);
        let macs = Cell::new(0);
        let host = Host::new(Counting(&macs), ram.get(), &plan).unwrap();
        let mut g = Generator::new(&model, &plan, host, request(&model, 1)).unwrap();
        let mut all = 0;
        while g.stage() != Stage::Done {
            let stage = g.stage();
            macs.set(0);
            g.step().unwrap();
            let (counted, stated) = (macs.get(), stage.macs(&model.shape, &plan.tier));
            assert!(counted <= stated, "{counted} for {stated} at {stage:?}");
            all += counted;
        }
        assert!(all <= plan.total_macs() && all > plan.total_macs() / 10 * 9, "{all}");
        println!("{path} {tier}: {all} of {}", plan.total_macs());
    }
}

#[test]
fn tokens_given_are_tokens_drawn() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    let want = reference(&model, &plan, 3);
    assert_eq!(want.tokens.len(), model.shape.config.tokens());
    let mut forced = request(&model, 99);
    forced.tokens = Some(&want.tokens);
    assert_eq!(image(&model, &plan, Scalar, forced), want);
}

#[test]
fn wrong_requests_are_refused_with_the_reason() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    let mut ram = Ram::new(plan.bytes(), 0);
    let mut refuse = |change: &dyn Fn(&mut Request<'static>)| {
        let mut r = request(&model, 0);
        change(&mut r);
        let host = Host::new(Scalar, ram.get(), &plan).unwrap();
        Generator::new(&model, &plan, host, r).map(|_| ()).unwrap_err()
    };
    assert_eq!(
        refuse(&|r| r.labels[0] = Some(11)),
        Error::UnknownLabel { table: 0, row: 11, rows: 11 }
    );
    assert!(matches!(refuse(&|r| r.labels[1] = Some(0)), Error::UnknownLabel { table: 1, .. }));
    assert_eq!(refuse(&|r| r.sampling.guidance = f32::NAN), Error::BadSampling);
    assert_eq!(refuse(&|r| r.sampling.temperature = 0.0), Error::BadSampling);
    assert_eq!(refuse(&|r| r.sampling.top_p = 1.5), Error::BadSampling);
    assert_eq!(refuse(&|r| r.tokens = Some(&[1, 2])), Error::BadTokens { need: 30, got: 2 });
    assert_eq!(refuse(&|r| r.tokens = Some(&[999; 30])), Error::BadTokens { need: 30, got: 0 });
    assert!(model.tier("nope").is_err());
}
