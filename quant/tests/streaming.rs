//! Conversion holds one tensor at a time: the most memory that it allocates does not grow with the number of blocks.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::model::{only, random, tensors};
use common::procedural::save;
use varmint_quant::official::VarConfig;
use varmint_quant::{Meta, Numbers, Options, convert};

/// Counts the bytes that are allocated, and the most there have been.
struct Counting;

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

fn more(bytes: usize) {
    MOST.fetch_max(NOW.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call goes to the system allocator unchanged; counting touches two atomics and allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        more(layout.size());
        // SAFETY: the caller keeps the promises of `alloc`, which are those of the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: `at` came from `alloc` above with this layout, so from the system's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that conversion of a transformer of `depth` blocks held at once, and the length of the file.
fn most(depth: usize, numbers: Numbers) -> (usize, u64) {
    let name = format!("streaming-{depth}-{}", numbers.name());
    let var = {
        let config = VarConfig { depth, ..config() };
        save(&format!("{name}-var"), &random(&config.keys(), 1))
    };
    let vae = save(&format!("{name}-vae"), &only(&tensors("dev_a"), "vae.", ""));
    let out = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.vmt"));
    let mut options = Options::new(vec![var, vae], numbers);
    options.scales = Some([1, 2, 3, 4].map(|n| (n, n)).to_vec());
    let before = NOW.load(Relaxed);
    MOST.store(before, Relaxed);
    let report = convert(&options, &Meta::default(), &out, |_, _| {}).unwrap();
    (MOST.load(Relaxed) - before, report.file_bytes)
}

fn config() -> VarConfig {
    VarConfig {
        layout: varmint_quant::official::Layout::Var,
        positions: None,
        depth: 1,
        width: 128,
        heads: 2,
        head_dim: 64,
        mlp_hidden: 512,
        vocab: 96,
        cvae: 8,
        num_scales: 4,
        tokens: 30,
        first: 1,
        tables: vec![("class_emb.weight", 11)],
        shared_aln: false,
        attn_l2_norm: true,
        scales: None,
    }
}

#[test]
fn memory_does_not_grow_with_depth() {
    // Of the largest tensor: the values, the packed numbers, and what the writer has not written yet (1 MiB).
    let largest = 4 * 6 * 128 * 128;
    for numbers in [Numbers::Int8, Numbers::F16, Numbers::Int4] {
        let (few, small) = most(3, numbers);
        let (many, large) = most(30, numbers);
        assert!(large > 5 * small, "{large} {small}");
        // Names, shapes and places of more tensors: a thousand bytes each at most.
        assert!(many < few + 27 * 17 * 1000, "{numbers:?}: {many} after {few}");
        assert!(few < 6 * largest + (1 << 20), "{numbers:?}: {few}, a tensor has {largest}");
    }
}
