//! Every kernel of this machine against the scalar reference, bit for bit. The cases are in
//! `varmint-check`, which runs them on machines without a system, too (`tests/bare`).

use varmint_check::{self as check, Mismatch};
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

/// Whether convolutions of this instruction set use a transform.
fn transforms(cpu: &Cpu) -> bool {
    matches!(cpu.isa(), Isa::Avx2 | Isa::Avx512 | Isa::Vnni)
}

/// Runs a comparison on every instruction set; panics at the first difference.
fn each(check: fn(&dyn Ops) -> Result<usize, Mismatch>) {
    for cpu in kernels() {
        match check(&cpu) {
            Ok(cases) => {
                println!("{}: {cases} cases", cpu.isa().name());
                assert!(cases > 0);
            }
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
fn products_of_4_bit_weights_equal_the_reference() {
    each(check::products_of_4_bit_weights_equal_the_reference);
}

#[test]
fn short_slices_of_4_bit_weights_shorten_the_work() {
    each(check::short_slices_of_4_bit_weights_shorten_the_work);
}

#[test]
fn float_products_equal_the_reference() {
    each(check::float_products_equal_the_reference);
}

#[test]
fn rows_equal_the_reference() {
    each(check::rows_equal_the_reference);
}

#[test]
fn int8_attention_equals_the_reference() {
    each(check::int8_attention_equals_the_reference);
}

#[test]
fn float_attention_equals_the_reference() {
    each(check::float_attention_equals_the_reference);
}

#[test]
fn convolutions_equal_the_reference_whatever_the_scratch() {
    for cpu in kernels() {
        let used = check::convolutions_equal_the_reference_whatever_the_scratch(&cpu).unwrap();
        let all = used.i8 >= 9 && used.i12 >= 18;
        assert_eq!(all, transforms(&cpu), "{:?}: {used:?}", cpu.isa());
    }
}

#[test]
fn a_convolution_that_a_transform_cannot_hold_is_done_without() {
    for cpu in kernels() {
        let used = check::large_sums_are_convolved_without_a_transform(&cpu).unwrap();
        assert_eq!(used, [false, transforms(&cpu)], "{:?}", cpu.isa());
    }
}

#[test]
fn operations_give_what_they_gave_when_they_were_pinned() {
    for cpu in kernels() {
        println!("{cpu:?}: {:?}", check::pinned(&cpu).unwrap_or_else(|e| panic!("{e}")));
    }
}
