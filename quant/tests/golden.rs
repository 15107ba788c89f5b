//! Every tensor of the official goldens, in every number format; every backend gives the same bits.

mod common;

use std::collections::BTreeSet;
use std::path::Path;

use common::fixture;
use varmint::ModelFile;
use varmint::{Cpu, Engine, Generator, Host, Isa, Model, Ops, Plan, Request, Scalar, Step, Tier};
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::golden::{Golden, Tolerance};
use varmint_quant::{Meta, Numbers, Options, convert};

const GOLDENS: [&str; 2] = ["dev_a", "dev_b"];

fn model(test: &str, golden: &str, numbers: Numbers) -> (Golden, ModelFile) {
    let path = fixture(&format!("goldens/{golden}/golden.safetensors"));
    let open = Golden::open(&path).unwrap();
    let mut o =
        Options::new(vec![fixture(&format!("goldens/{golden}/weights.safetensors"))], numbers);
    o.scales = Some(open.config.patch_nums.iter().map(|&side| (side, side)).collect());
    let file = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("{test}-{golden}-{}.vmt", numbers.name()));
    convert(&o, &Meta::default(), &file, |_, _| {}).unwrap();
    (open, ModelFile::open(&file).unwrap())
}

fn within_tolerance<O: Ops + Copy>(test: &str, ops: O) {
    for name in GOLDENS {
        let (golden, file) = model(test, name, Numbers::F32);
        let model = file.model().unwrap();
        let tolerance = Tolerance::beside(&fixture(&format!("goldens/{name}/golden.safetensors")));
        let report = golden.compare(&model, &model.tier_at(0).unwrap(), ops, tolerance).unwrap();
        for row in &report.rows {
            assert!(row.passes(), "{name}: {row:?}");
        }
        // Everything in the file but what a run is given.
        let inputs = ["smp.idx", "tf.idx"];
        let file =
            Checkpoint::open(fixture(&format!("goldens/{name}/golden.safetensors"))).unwrap();
        let wanted: BTreeSet<&str> = file.names().filter(|n| !inputs.contains(n)).collect();
        let seen: BTreeSet<&str> = report.rows.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(seen, wanted, "{name}");
        assert_eq!(report.token_agreement, 1.0, "{name}");
    }
}

#[test]
fn f32_scalar_is_within_tolerance() {
    within_tolerance("scalar", Scalar);
}

#[test]
fn f32_cpu_is_within_tolerance() {
    within_tolerance("cpu", Cpu::detect());
}

#[test]
fn f16_and_int8_are_close() {
    for (numbers, limit) in [(Numbers::F16, 1e-3), (Numbers::Int8, 5e-2)] {
        for name in GOLDENS {
            let (golden, file) = model("close", name, numbers);
            let model = file.model().unwrap();
            let tier = model.tier_at(0).unwrap();
            let r = golden.compare(&model, &tier, Cpu::detect(), Tolerance::default()).unwrap();
            let what = format!("{name} {numbers:?}: {} {}", r.logit_error, r.token_agreement);
            assert!(r.logit_error > 0.0 && r.logit_error < limit, "{what}");
            assert!(r.token_agreement >= 0.9, "{what}");
        }
    }
}

/// Pixels and tokens of one image.
fn image<O: Ops>(
    model: &Model<'_>,
    tier: &Tier,
    ops: O,
    request: Request<'_>,
) -> (Vec<u8>, Vec<u16>) {
    let plan = Plan::new(&model.shape, tier).unwrap();
    let mut arena = vec![0u128; plan.bytes().div_ceil(16)];
    let host = Host::new(ops, bytemuck::cast_slice_mut(&mut arena), &plan).unwrap();
    let mut g = Generator::new(model, &plan, host, request).unwrap();
    let (mut rgb, mut tokens) = (Vec::new(), Vec::new());
    loop {
        let scale = match g.step().unwrap() {
            Step::Rows(rows) => {
                rgb.extend_from_slice(rows.rgb);
                continue;
            }
            Step::Scale(view) => view.scale,
            Step::Working(_) => continue,
            Step::Done => return (rgb, tokens),
        };
        if scale + 1 == model.shape.config.n_scales() {
            tokens = g.tokens().unwrap().to_vec();
        }
    }
}

#[test]
fn int8_has_the_same_bits_on_every_instruction_set() {
    for name in GOLDENS {
        let (golden, file) = model("bits", name, Numbers::Int8);
        let model = file.model().unwrap();
        let tier = model.tier_at(0).unwrap();
        for seed in 0..3 {
            let mut request = Request::new(&model);
            request.labels[0] = golden.config.labels.first().copied();
            request.seed = seed;
            let wanted = image(&model, &tier, Scalar, request);
            assert!(!wanted.0.is_empty() && wanted.1.len() == model.shape.config.tokens());
            for isa in Isa::ALL {
                let Some(cpu) = Cpu::with(isa) else { continue };
                let got = image(&model, &tier, cpu, request);
                assert!(got == wanted, "{name}, seed {seed}, {}", isa.name());
            }
            let mut engine = Engine::new(&model, &tier).unwrap();
            let got = engine.generate(request).unwrap();
            assert!((got.rgb, got.tokens) == wanted, "{name}, seed {seed}, engine");
        }
    }
}
