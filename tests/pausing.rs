//! Power is cut, a display is unplugged, a caller changes its mind: whatever happens after whichever step, the next image
//! is what it always is. And a backend that fails gives its error and can be used again.

mod common;

use std::cell::Cell;

use common::{Ram, image, request, run};
use varmint::{
    Backend, Buf, Cpu, Error, Generator, Host, Image, Job, Model, ModelFile, Ops, Plan, Request,
    Scalar, Stage, Tier,
};

/// How the image before ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    /// The generator is dropped; its memory stays as it is.
    Drop,
    /// The generator starts over.
    Reset,
    /// The memory is lost, and comes back filled with this.
    PowerCut(u8),
}

const ENDS: [End; 5] =
    [End::Drop, End::Reset, End::PowerCut(0x00), End::PowerCut(0xFF), End::PowerCut(0x7E)];

fn requests(model: &Model<'_>) -> [Request<'static>; 2] {
    [7, 8].map(|seed| Request { labels: [Some(1), None, None, None], ..request(model, seed) })
}

fn plan_of(model: &Model<'_>, tier: Tier) -> Plan {
    let plan = Plan::new(&model.shape, &tier).unwrap();
    plan.verify().unwrap();
    plan
}

/// Few, large steps: fewer places to stop at.
fn large_steps(mut tier: Tier) -> Tier {
    (tier.tile, tier.strip, tier.together) = (256, 64, true);
    tier
}

/// Stages of an image.
fn stages(model: &Model<'_>, tier: &Tier) -> impl Iterator<Item = Stage> {
    let (shape, tier) = (model.shape, *tier);
    let after = move |s: &Stage| Some(s.next(&shape, &tier));
    std::iter::successors(Some(Stage::START), after).take_while(|s| *s != Stage::Done)
}

/// Ends an image after every number of steps, in `each` of these ways or in one after the other.
fn ends<O: Ops + Copy>(model: &Model<'_>, plan: &Plan, ops: O, ways: &[End], each: bool) -> usize {
    let [before, next] = requests(model);
    let want = image(model, plan, ops, next);
    let steps = stages(model, &plan.tier).count();
    let mut ram = Ram::new(plan.bytes(), 0xA5);
    for n in 0..=steps {
        let skip = if each { 0 } else { n % ways.len() };
        for &way in ways.iter().skip(skip).take(if each { ways.len() } else { 1 }) {
            let host = Host::new(ops, ram.get(), plan).unwrap();
            let mut g = Generator::new(model, plan, host, before).unwrap();
            for _ in 0..n {
                g.step().unwrap();
            }
            assert_eq!(g.stage() == Stage::Done, n == steps);
            let got = if way == End::Reset {
                g.reset(next).unwrap();
                run(&mut g, |_, _| {}).unwrap()
            } else {
                if let End::PowerCut(fill) = way {
                    ram.get().fill(fill);
                }
                let host = Host::new(ops, ram.get(), plan).unwrap();
                let mut g = Generator::new(model, plan, host, next).unwrap();
                run(&mut g, |_, _| {}).unwrap()
            };
            assert!(got == want, "tier {}: {way:?} after {n} steps", plan.tier.name());
        }
    }
    steps
}

/// Its tiers have, between them, a drafter with a refiner, caches that keep a part, and neighbourhoods.
#[test]
fn an_image_may_end_after_any_step_in_every_tier_of_the_small_model() {
    let file = ModelFile::open("fixtures/small/mixed.vmt").unwrap();
    let model = file.model().unwrap();
    for tier in model.tiers() {
        assert!(ends(&model, &plan_of(&model, tier), Scalar, &ENDS, true) > 50);
    }
}

#[test]
fn an_image_may_end_after_any_step_of_tiny() {
    let file = common::tiny();
    let model = file.model().unwrap();
    let plan = plan_of(&model, large_steps(model.tier_at(0).unwrap()));
    ends(&model, &plan, Cpu::detect(), &ENDS[..4], true);
}

#[test]
fn an_image_may_end_after_any_step_of_the_shipped_micro_model() {
    let file = ModelFile::open("fixtures/emoji-micro.vmt").unwrap();
    let model = file.model().unwrap();
    let tier = large_steps(model.tier("fast").unwrap());
    ends(&model, &plan_of(&model, tier), Cpu::detect(), &ENDS, false);
}

/// A backend that fails at one of its calls.
struct Failing<'c, B> {
    inner: B,
    /// Calls that still work.
    left: usize,
    /// Calls so far.
    calls: usize,
    /// Whether the work of the call that fails is done all the same.
    late: bool,
    /// Where the calls are told.
    count: Option<&'c Cell<usize>>,
}

impl<B> Failing<'_, B> {
    fn new(inner: B, left: usize, late: bool) -> Self {
        Self { inner, left, calls: 0, late, count: None }
    }

    /// Whether this call fails; the one after it works again.
    fn fails(&mut self) -> bool {
        self.calls += 1;
        if let Some(count) = self.count {
            count.set(self.calls);
        }
        let fails = self.left == 0;
        self.left = self.left.wrapping_sub(1);
        fails
    }

    fn error(&self) -> Error {
        Error::Backend(self.calls as u32)
    }
}

impl<B: Backend> Backend for Failing<'_, B> {
    fn name(&self) -> &str {
        "failing"
    }

    fn run(&mut self, job: &Job<'_>, stage: Stage) -> Result<(), Error> {
        let fails = self.fails();
        if !fails || self.late {
            self.inner.run(job, stage)?;
        }
        if fails { Err(self.error()) } else { Ok(()) }
    }

    fn view(&mut self, plan: &Plan, image: usize, buf: Buf) -> Result<&[u8], Error> {
        if self.fails() { Err(self.error()) } else { self.inner.view(plan, image, buf) }
    }
}

/// Makes the backend fail at every one of its calls: with its work done, and, if `both`, without.
fn failures<O: Ops + Copy>(model: &Model<'_>, plan: &Plan, ops: O, both: bool) -> usize {
    let [before, next] = requests(model);
    let want = [before, next].map(|r| image(model, plan, ops, r));
    let mut ram = Ram::new(plan.bytes(), 0xA5);
    // All calls of an image that is run, and looked at, as `run` does it.
    let calls = {
        let count = Cell::new(0);
        let host = Failing::new(Host::new(ops, ram.get(), plan).unwrap(), usize::MAX, false);
        let host = Failing { count: Some(&count), ..host };
        let mut g = Generator::new(model, plan, host, before).unwrap();
        run(&mut g, |_, _| {}).unwrap();
        count.get()
    };
    assert!(calls > stages(model, &plan.tier).count(), "steps and views");
    for n in 0..calls {
        if both {
            // Nothing was done: the step may be tried again.
            let host = Failing::new(Host::new(ops, ram.get(), plan).unwrap(), n, false);
            let mut g = Generator::new(model, plan, host, before).unwrap();
            let (got, errors) = run_on(&mut g);
            assert_eq!(errors, [Error::Backend(n as u32 + 1)], "call {n}");
            assert!(got == want[0], "tier {}: tried again after call {n}", plan.tier.name());
        }
        // Something was done: the next image is as good as any.
        let host = Failing::new(Host::new(ops, ram.get(), plan).unwrap(), n, true);
        let mut g = Generator::new(model, plan, host, before).unwrap();
        assert_eq!(run(&mut g, |_, _| {}).unwrap_err(), Error::Backend(n as u32 + 1), "call {n}");
        g.reset(next).unwrap();
        let got = run(&mut g, |_, _| {}).unwrap();
        assert!(got == want[1], "tier {}: started over after call {n}", plan.tier.name());
    }
    calls
}

/// Runs to the end, trying again what failed.
fn run_on<B: Backend>(g: &mut Generator<'_, B>) -> (Image, Vec<Error>) {
    let (height, width) = g.size();
    let mut image = Image { width, height, rgb: Vec::new(), tokens: Vec::new() };
    let mut errors = Vec::new();
    loop {
        if let Stage::Decode { layer: 0, .. } = g.stage()
            && image.tokens.is_empty()
        {
            match g.tokens() {
                Ok(t) => image.tokens = t.to_vec(),
                Err(e) => {
                    errors.push(e);
                    continue;
                }
            }
        }
        let stage = g.stage();
        match g.step() {
            Ok(varmint::Step::Rows(rows)) => image.rgb.extend_from_slice(rows.rgb),
            Ok(varmint::Step::Done) => return (image, errors),
            Ok(_) => {}
            Err(e) => {
                errors.push(e);
                assert_eq!(g.stage(), stage, "a step that fails is not counted");
            }
        }
    }
}

#[test]
fn a_backend_may_fail_at_any_call_in_every_tier_of_the_small_model() {
    let file = ModelFile::open("fixtures/small/mixed.vmt").unwrap();
    let model = file.model().unwrap();
    for tier in model.tiers() {
        assert!(failures(&model, &plan_of(&model, tier), Scalar, true) > 50);
    }
}

#[test]
fn a_backend_may_fail_at_any_call_of_tiny() {
    let file = common::tiny();
    let model = file.model().unwrap();
    failures(&model, &plan_of(&model, large_steps(model.tier_at(0).unwrap())), Cpu::detect(), true);
}

#[test]
fn a_backend_may_fail_at_any_call_of_the_shipped_micro_model() {
    let file = ModelFile::open("fixtures/emoji-micro.vmt").unwrap();
    let model = file.model().unwrap();
    let plan = plan_of(&model, large_steps(model.tier("fast").unwrap()));
    failures(&model, &plan, Cpu::detect(), false);
}
