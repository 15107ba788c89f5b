//! A plan made by the compiler: the arena is a `static` of exactly its bytes, and equals the plan of the
//! same file at run time. A model that does not fit a board does not compile.
#![allow(long_running_const_eval, reason = "the planner runs in the compiler; that is the point")]

use std::sync::Mutex;

use varmint::{Cpu, Generator, Host, Model, Plan, Request, Step, include_model};

static MODEL: &[u8] = include_model!("../fixtures/tiny.vmt");
const PLAN: Plan = match Plan::of_file(MODEL, 0) {
    Ok(plan) => plan,
    Err(_) => panic!("the model's header is not valid"),
};
const _: () = assert!(PLAN.bytes() <= 96 * 1024, "the board has 96 KiB");

#[repr(align(16))]
struct Arena([u8; PLAN.bytes()]);
static ARENA: Mutex<Arena> = Mutex::new(Arena([0; PLAN.bytes()]));

#[test]
fn the_compilers_plan_is_the_run_time_plan() {
    let model = Model::parse(MODEL).unwrap();
    assert_eq!(PLAN, Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap());
    let mut arena = ARENA.lock().unwrap();
    let host = Host::new(Cpu::build(), &mut arena.0, &PLAN).unwrap();
    let mut g = Generator::new(&model, &PLAN, host, Request::new(&model)).unwrap();
    let mut rows = 0;
    loop {
        match g.step().unwrap() {
            Step::Rows(r) => rows += r.rgb.len() / (3 * r.width),
            Step::Done => break,
            _ => {}
        }
    }
    assert_eq!(rows, 8);
}
