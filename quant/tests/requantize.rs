//! A model file with other numbers.

mod common;

use std::path::{Path, PathBuf};

use common::fixture;
use common::model::{Tensors, tensors};
use common::procedural::{save, weights};
use varmint::tensor::Dtype;
use varmint::{Engine, Model, ModelFile, Request, Store};
use varmint_quant::compare::{compare, requests};
use varmint_quant::requantize::{Report, Settings, requantize};
use varmint_quant::{Keep, Meta, Numbers, Options, convert};

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("requantize-{name}.vmt"))
}

fn converted(name: &str, numbers: Numbers) -> ModelFile {
    let options = Options::new(vec![fixture("goldens/dev_a/weights.safetensors")], numbers);
    convert(&options, &Meta::default(), &path(name), |_, _| {}).unwrap();
    ModelFile::open(path(name)).unwrap()
}

fn settings(numbers: Numbers) -> Settings {
    Settings {
        numbers,
        keep: Vec::new(),
        images: 6,
        seed: 1,
        compensate: true,
        absorb: false,
        report: true,
    }
}

fn quantized(model: &Model<'_>, name: &str, settings: &Settings) -> (Report, ModelFile) {
    let report = requantize(model, Some(&path(name)), settings, &mut |_, _, _| {}).unwrap();
    (report, ModelFile::open(path(name)).unwrap())
}

/// Every tensor, and what the tiers say, as if the weights had been converted so.
#[test]
fn from_floats_as_if_converted() {
    let (floats, direct) = (converted("f32", Numbers::F32), converted("int8", Numbers::Int8));
    let (_, ours) = quantized(&floats.model().unwrap(), "f32-int8", &settings(Numbers::Int8));
    let (ours, direct) = (ours.model().unwrap(), direct.model().unwrap());
    let all = |m: &Model<'_>| -> Vec<String> {
        (0..).map_while(|i| m.tensor(i)).map(|(_, d, m)| format!("{d:?} {:?}", m.data)).collect()
    };
    assert!(all(&ours) == all(&direct));
    let (a, b) = (ours.tier("int8").unwrap(), direct.tier("int8").unwrap());
    assert_eq!((a.cache, a.maps), (Store::I8, Store::F16));
    assert_eq!((a.tile, a.guided, b.cache), (b.tile, b.guided, a.cache));
    assert_eq!(ours.shape.trunk(0), direct.shape.trunk(0));
}

#[test]
fn four_bits_learn_from_pictures() {
    let floats = converted("f32-again", Numbers::F32);
    let floats = floats.model().unwrap();
    let (report, file) = quantized(&floats, "f32-int4", &settings(Numbers::Int4));
    let model = file.model().unwrap();
    let four = |m: &Model<'_>| {
        (0..).map_while(|i| m.tensor(i)).filter(|(_, d, _)| *d == Dtype::I4).count()
    };
    // qkv, proj, fc1 and the modulation of three blocks.
    assert_eq!(four(&model), 12);
    let image = Engine::new(&model, &model.tier_at(0).unwrap()).unwrap();
    let image = { image }.generate(Request::new(&model)).unwrap();
    assert!(image.rgb.iter().any(|&v| v != image.rgb[0]));

    // Four weights of three blocks, fc2, and the two of the head.
    assert_eq!(report.layers.len(), 3 * 5 + 2);
    for l in &report.layers {
        assert!(l.int8 > 25.0 && l.int8_wide >= l.int8 - 0.5 && l.int8_wide < 80.0, "{l:?}");
        assert_eq!(l.int4_compensated.is_some(), l.storage == "i4", "{l:?}");
    }
    // Rows that were not learned from.
    let mean = |of: &dyn Fn(&varmint_quant::requantize::Layer) -> Option<f64>| {
        let all: Vec<f64> = report
            .layers
            .iter()
            .filter(|l| l.name.starts_with("proj") || l.name.starts_with("qkv"))
            .filter_map(of)
            .collect();
        all.iter().sum::<f64>() / all.len() as f64
    };
    let (nearest, compensated) = (mean(&|l| l.int4), mean(&|l| l.int4_compensated));
    assert!(compensated > nearest + 1.0, "{compensated} dB, {nearest} dB to the nearest");

    // The same again is the same file; nothing learned is what the converter writes.
    let (_, again) = quantized(&floats, "f32-int4-again", &settings(Numbers::Int4));
    assert!(again.bytes() == file.bytes());
    let nearest = Settings { compensate: false, report: false, ..settings(Numbers::Int4) };
    let (_, nearest) = quantized(&floats, "f32-nearest", &nearest);
    let direct = converted("int4", Numbers::Int4);
    let numbers = |f: &ModelFile| {
        let m = f.model().unwrap();
        let all = (0..).map_while(|i| m.tensor(i)).map(|(_, d, m)| format!("{d:?} {:?}", m.data));
        all.collect::<Vec<_>>()
    };
    assert!(numbers(&nearest) == numbers(&direct));
    // Quantized once more, nothing changes, whatever is reported.
    let (_, twice) = quantized(&model, "f32-int4-twice", &settings(Numbers::Int4));
    assert!(numbers(&twice) == numbers(&file));
    // What the format does not allow is refused before anything is written.
    let keep = Keep::parse("i4:lvlpos").unwrap();
    let refused = Settings { keep, images: 1, ..settings(Numbers::Int4) };
    let e = requantize(&floats, Some(&path("refused")), &refused, &mut |_, _, _| {}).unwrap_err();
    assert!(e.to_string().contains("cannot be stored as i4"), "{e}");
    assert!(!path("refused").exists());
}

/// Channels of the inputs of attention and feed-forward part that are 61 times as large as they were, and weights that
/// make up for it.
fn with_outliers() -> Tensors {
    let mut all = tensors("dev_a");
    let mut change = |key: String, to: &dyn Fn(usize, f32) -> f32| {
        let (_, _, bytes) = all.get_mut(&key).unwrap();
        for (i, b) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
            *b = to(i, f32::from_le_bytes(*b)).to_le_bytes();
        }
    };
    // Of the head: scales, then shifts.
    change("var.head_nm.ada_lin.1.weight".into(), &|i, v| {
        if i / 64 % 64 == 7 { 61.0 * v } else { v }
    });
    change("var.head_nm.ada_lin.1.bias".into(), &|i, v| match i {
        7 => 61.0 * v + 60.0,
        71 => 61.0 * v,
        _ => v,
    });
    change("var.head.weight".into(), &|i, v| if i % 64 == 7 { v / 61.0 } else { v });
    for b in 0..3 {
        let block = |key: &str| format!("var.blocks.{b}.{key}");
        // Scales and shifts of attention and feed-forward part are parts 2 to 5 of six.
        let modulation = [2 * 64 + 5, 3 * 64 + 9, 4 * 64 + 5, 5 * 64 + 9];
        change(block("ada_lin.1.weight"), &|i, v| {
            if modulation.contains(&(i / 64)) { 61.0 * v } else { v }
        });
        change(block("ada_lin.1.bias"), &|i, v| match modulation.iter().position(|&m| m == i) {
            Some(which) => 61.0 * v + if which < 2 { 60.0 } else { 0.0 },
            None => v,
        });
        change(block("attn.mat_qkv.weight"), &|i, v| if i % 64 == 5 { v / 61.0 } else { v });
        change(block("ffn.fc1.weight"), &|i, v| if i % 64 == 9 { v / 61.0 } else { v });
    }
    all
}

#[test]
fn outliers_are_absorbed() {
    let file = save("requantize-outliers", &with_outliers());
    for (name, bake) in [("outliers", false), ("outliers-baked", true)] {
        let options = Options { bake, ..Options::new(vec![file.clone()], Numbers::F32) };
        let options = Options { scales: Some((1..=4).map(|n| (n, n)).collect()), ..options };
        convert(&options, &Meta::default(), &path(name), |_, _| {}).unwrap();
        let floats = ModelFile::open(path(name)).unwrap();
        let floats = floats.model().unwrap();
        let plain = settings(Numbers::Int8);
        let absorb = Settings { absorb: true, ..plain.clone() };
        let same = |file: &ModelFile| {
            let m = file.model().unwrap();
            let tiers = (m.tier_at(0).unwrap(), floats.tier_at(0).unwrap());
            let items = requests(&floats, 16, 99);
            compare((&m, &tiers.0), (&floats, &tiers.1), &items, 1, &|| ()).unwrap().same_tokens
        };
        let (before, file) = quantized(&floats, &format!("{name}-plain"), &plain);
        let plain = same(&file);
        let (after, file) = quantized(&floats, &format!("{name}-absorbed"), &absorb);
        let absorbed = same(&file);
        for (a, b) in after.layers.iter().zip(&before.layers) {
            assert_eq!(b.absorbed, None);
            if a.name == "head.0" {
                let gain = a.int8_wide - b.int8_wide;
                assert!(gain > 6.0 && a.absorbed.unwrap() > 6.0, "{a:?}, {gain} dB");
            }
            if a.name.starts_with("qkv") || a.name.starts_with("fc1") {
                // Rows that the factors were not found on.
                let gain = a.int8 - b.int8;
                assert!(gain > 6.0 && a.absorbed.unwrap() > 6.0, "{a:?}, {gain} dB");
            }
        }
        assert!(absorbed > plain + 0.05 && absorbed > 0.8, "{name}: {absorbed}, {plain} without");
    }
}

/// Where all blocks share one modulation, the inputs of its blocks cannot be divided, whatever outliers they have.
#[test]
fn shared_modulation_is_left_alone() {
    let mut all = weights("shared");
    let mut change = |key: String, to: &dyn Fn(usize, f32) -> f32| {
        let (_, _, bytes) = all.get_mut(&format!("trainer.var_wo_ddp.{key}")).unwrap();
        for (i, b) in bytes.as_chunks_mut().0.iter_mut().enumerate() {
            *b = to(i, f32::from_le_bytes(*b)).to_le_bytes();
        }
    };
    for b in 0..3 {
        let block = |key: &str| format!("blocks.{b}.{key}");
        change(block("ada_gss"), &|i, v| {
            if i == 2 * 32 + 5 || i == 3 * 32 + 9 { v + 60.0 } else { v }
        });
        change(block("attn.mat_qkv.weight"), &|i, v| if i % 32 == 5 { v / 61.0 } else { v });
        change(block("ffn.fc1.weight"), &|i, v| if i % 32 == 9 { v / 61.0 } else { v });
    }
    let mut options = Options::new(vec![save("requantize-shared", &all)], Numbers::F32);
    options.scales = Some([1, 2, 3, 4, 6].map(|n| (n, n)).to_vec());
    convert(&options, &Meta::default(), &path("shared"), |_, _| {}).unwrap();
    let floats = ModelFile::open(path("shared")).unwrap();
    let absorb = Settings { absorb: true, ..settings(Numbers::Int8) };
    let (report, _) = quantized(&floats.model().unwrap(), "shared-absorbed", &absorb);
    for l in report.layers.iter().filter(|l| l.name.starts_with("qkv") || l.name.starts_with("fc1"))
    {
        // Outliers there are.
        assert!(l.int8 < 25.0, "{l:?}");
        assert_eq!(l.absorbed, None, "{l:?}");
    }
}
