//! The plan is the truth about memory: exactly its bytes, never one more, and nothing stale is read.

mod common;

use common::{Ram, reference, request, run, tiny};
use varmint::{Error, Generator, Host, Keep, Model, Plan, Scalar, Store, Tier};

fn plan_of(model: &Model<'_>) -> Plan {
    let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    plan.verify().unwrap();
    plan
}

#[test]
fn exactly_the_planned_bytes_pass_and_one_less_says_what_is_missing() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = plan_of(&model);
    let mut ram = Ram::new(plan.bytes(), 0);
    assert!(Host::new(Scalar, ram.get(), &plan).is_ok());
    let short = &mut ram.get()[..plan.bytes() - 1];
    let error = Host::new(Scalar, short, &plan).unwrap_err();
    assert_eq!(error, Error::ArenaTooSmall { need: plan.bytes(), got: plan.bytes() - 1 });
    assert!(error.to_string().contains("1 more"), "{error}");
    let crooked = &mut Ram::new(plan.bytes() + 16, 0);
    assert!(matches!(
        Host::new(Scalar, &mut crooked.get()[1..], &plan),
        Err(Error::ArenaMisaligned { .. })
    ));
}

#[test]
fn nothing_beyond_the_plan_is_touched() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = plan_of(&model);
    const CANARY: usize = 4096;
    let mut ram = Ram::new(CANARY + plan.bytes() + CANARY, 0xA5);
    {
        let host = Host::new(Scalar, &mut ram.get()[CANARY..], &plan).unwrap();
        let mut g = Generator::new(&model, &plan, host, request(&model, 1)).unwrap();
        assert_eq!(run(&mut g, |_, _| {}).unwrap(), reference(&model, &plan, 1));
    }
    let all = ram.get();
    assert!(all[..CANARY].iter().all(|&b| b == 0xA5));
    assert!(all[CANARY + plan.bytes()..].iter().all(|&b| b == 0xA5));
    // And the last planned byte is really needed: the arena is not padded.
    let used = all[CANARY..CANARY + plan.bytes()].iter().rposition(|&b| b != 0xA5).unwrap() + 1;
    assert!(plan.bytes() - used < 64, "{used} of {}", plan.bytes());
}

/// Whatever lies in the arena before a run, or is left there by the image before, changes nothing.
#[test]
fn the_content_of_a_fresh_arena_does_not_matter() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = plan_of(&model);
    let want = reference(&model, &plan, 5);
    for fill in [0x00, 0xFF, 0x7F] {
        let mut ram = Ram::new(plan.bytes(), fill);
        let host = Host::new(Scalar, ram.get(), &plan).unwrap();
        let mut g = Generator::new(&model, &plan, host, request(&model, 4)).unwrap();
        run(&mut g, |_, _| {}).unwrap();
        g.reset(request(&model, 5)).unwrap();
        assert_eq!(run(&mut g, |_, _| {}).unwrap(), want);
    }
}

/// Before each stage, every byte that no live buffer owns is poisoned: a value that is read after its
/// lifetime shows.
#[test]
fn dead_ranges_are_not_read() {
    use varmint::{Backend, Buf, Job, Stage};

    /// A host that poisons what is dead at the tick of the stage.
    struct Poisoning<'m> {
        ram: &'m mut [u8],
    }

    fn tick(model: &Model<'_>, stage: Stage) -> Option<u16> {
        let scales = model.shape.config.n_scales();
        Some(match stage {
            Stage::Setup { .. } | Stage::Ada { .. } | Stage::HeadAda { .. } => 0,
            Stage::Begin { scale, .. } | Stage::Head { scale, .. } => 1 + scale as u16,
            Stage::Draw { scale, .. } | Stage::Fold { scale } => 1 + scale as u16,
            Stage::Keys(t) | Stage::Mix(t) | Stage::Keep(t) => 1 + t.scale as u16,
            Stage::Decode { layer, .. } => (1 + scales + layer) as u16,
            Stage::Done => return None,
        })
    }

    impl Backend for Poisoning<'_> {
        fn name(&self) -> &str {
            "poisoning"
        }

        fn run(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error> {
            if let Some(now) = tick(job.model, stage) {
                let mut live = vec![false; job.plan.bytes()];
                for (_, b) in job.plan.buffers() {
                    if b.first <= now && now <= b.last {
                        live[b.offset as usize..(b.offset + b.size) as usize].fill(true);
                    }
                }
                for (byte, live) in self.ram.iter_mut().zip(live) {
                    if !live {
                        *byte = 0xFF;
                    }
                }
            }
            Host::new(Scalar, self.ram, job.plan)?.run(job, stage)
        }

        fn view(&mut self, plan: &Plan, _: usize, buf: Buf) -> Result<&[u8], Error> {
            let b = plan.buffer(buf);
            Ok(&self.ram[b.offset as usize..(b.offset + b.size) as usize])
        }
    }

    let file = tiny();
    let model = file.model().unwrap();
    let plain = model.tier_at(0).unwrap();
    let but = |change: fn(&mut Tier)| {
        let mut tier = plain;
        change(&mut tier);
        tier
    };
    let mut few = Keep { grid: 2, pool: 3, ..Keep::ALL };
    few.most.iter_mut().for_each(|m| m[1..3].copy_from_slice(&[3, 6]));
    let with_keep = |keep, together| {
        let mut tier = plain;
        (tier.keep, tier.together) = (keep, together);
        tier
    };
    for tier in [
        plain,
        but(|t| (t.tile, t.strip) = (3, 2)),
        but(|t| t.cache = Store::F16)
            .with_blocks(&model.shape, |k| if k < 2 { 0b111 } else { 0b101 })
            .unwrap(),
        with_keep(few, false),
        with_keep(few, true),
        with_keep(Keep { window: 3, window_from: 2, ..Keep::ALL }, false),
    ] {
        let plan = Plan::new(&model.shape, &tier).unwrap();
        let mut ram = Ram::new(plan.bytes(), 0xFF);
        let backend = Poisoning { ram: ram.get() };
        let mut g = Generator::new(&model, &plan, backend, request(&model, 9)).unwrap();
        assert_eq!(run(&mut g, |_, _| {}).unwrap(), reference(&model, &plan, 9), "{tier:?}");
    }
}
