//! Every kernel of this machine against the scalar reference, bit for bit. The cases are in
//! `varmint-check`, which runs them on machines without a system, too (`tests/bare`).

use varmint_check as check;
use varmint_check::Mismatch;
use varmint_core::Ops;
use varmint_cpu::{Cpu, Isa};

/// The instruction sets of this machine; panics if `VARMINT_REQUIRE_KERNELS` names another.
fn kernels() -> Vec<Cpu> {
    let found: Vec<_> = Isa::ALL.into_iter().filter_map(Cpu::with).collect();
    for name in std::env::var("VARMINT_REQUIRE_KERNELS").unwrap_or_default().split(',') {
        let ran = found.iter().any(|c| c.isa().name() == name);
        assert!(name.is_empty() || ran, "kernel `{name}` was required and this machine lacks it");
    }
    found
}

/// Runs a comparison on every instruction set; panics at the first difference.
fn each(check: fn(&dyn Ops) -> Result<usize, Mismatch>) {
    for cpu in kernels() {
        match check(&cpu) {
            Ok(cases) => println!("{}: {cases} cases", cpu.isa().name()),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn integer_products_equal_the_reference() {
    each(check::integer_products_equal_the_reference);
}

#[test]
fn short_slices_shorten_the_work_as_in_the_reference() {
    each(check::short_slices_shorten_the_work_as_in_the_reference);
}

#[test]
fn rows_equal_the_reference() {
    each(check::rows_equal_the_reference);
}

#[test]
fn int8_attention_equals_the_reference() {
    each(check::int8_attention_equals_the_reference);
}
