//! Between `Generator::new` and `Done` nothing is allocated. A binary of its own: the counter is global.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use common::{Ram, request, tiny};
use varmint::{Cpu, Generator, Host, Plan, Step};

thread_local! {
    static COUNT: Cell<Option<usize>> = const { Cell::new(None) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches a thread-local `Cell` that
// needs no allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|c| c.set(c.get().map(|n| n + 1)));
        // SAFETY: the caller's contract is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_run_allocates_nothing() {
    let file = tiny();
    let model = file.model().unwrap();
    let plan = Plan::new(&model.shape, &model.tier_at(0).unwrap()).unwrap();
    let mut ram = Ram::new(plan.bytes(), 0);
    let request = request(&model, 1);
    let mut pixels = 0u64;

    COUNT.set(Some(0));
    let host = Host::new(Cpu::detect(), ram.get(), &plan).unwrap();
    let mut g = Generator::new(&model, &plan, host, request).unwrap();
    loop {
        match g.step().unwrap() {
            Step::Rows(rows) => pixels += rows.rgb.iter().map(|&v| u64::from(v)).sum::<u64>(),
            Step::Scale(s) => pixels += s.preview().map(|p| u64::from(p[0])).sum::<u64>(),
            Step::Done => break,
            Step::Working(_) => {}
        }
    }
    let count = COUNT.replace(None);
    assert_eq!(count, Some(0));
    assert!(pixels > 0);
    // The counter counts.
    COUNT.set(Some(0));
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(COUNT.replace(None), Some(1));
}
