//! Whatever parses runs to its end: a tier, a seed and a label by the file's sequence number, which means nothing to a model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use varmint_fuzz::{plan, run, sealed};

fuzz_target!(|bytes: &[u8]| {
    let file = sealed(bytes);
    let Ok(model) = file.model() else { return };
    let n = model.sequence as usize;
    let rows = model.shape.config.table(0).rows;
    let label = [None, Some(0), Some(rows - 1), Some(n as u32 % rows)][n % 4];
    let tier = n / 4 % model.shape.n_tiers();
    if let Some(plan) = plan(file.bytes(), tier) {
        run(&model, &plan, n as u64, label);
    }
});
