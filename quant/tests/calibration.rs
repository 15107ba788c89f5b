//! Wide heads: found in a model, put first without changing a picture, and given more tokens by tiers.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::fixture;
use varmint::ModelFile;
use varmint::{Engine, Image, Request};
use varmint_core::Model;
use varmint_quant::calibration::{BlockFound, Budgets, Method};
use varmint_quant::{Calibration, Meta, Numbers, Options, convert};

fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("calibration-{name}"))
}

fn weights() -> PathBuf {
    fixture("goldens/dev_a/weights.safetensors")
}

/// A calibration of the golden `dev_a` (4 scales) with these wide heads.
fn found(wide: &[&[usize]], heads: usize) -> Calibration {
    let block = |w: &&[usize]| BlockFound { wide: w.to_vec(), ..BlockFound::default() };
    Calibration {
        model: "dev_a".into(),
        method: Method::Heads,
        count: 1,
        seed: 0,
        trunk: 0,
        heads,
        scales: vec![1, 4, 9, 16],
        measured: vec![2, 3],
        blocks: wide.iter().map(block).collect(),
        share: 0.5,
        budgets: Budgets { others: vec![1, 3, 4], wide: vec![1, 5, 10] },
    }
}

fn converted(name: &str, numbers: Numbers, calibration: Option<Calibration>) -> ModelFile {
    let mut options = Options::new(vec![weights()], numbers);
    if calibration.is_some() {
        options.tiers = vec!["half:keep=calibrated,grid=2".parse().unwrap()];
    }
    options.calibration = calibration;
    let path = tmp(&format!("{name}-{}.vmt", numbers.name()));
    convert(&options, &Meta::default(), &path, |_, _| {}).unwrap();
    ModelFile::open(&path).unwrap()
}

fn greedy(model: &Model<'_>) -> Vec<Image> {
    let mut engine = Engine::new(model, &model.tier_at(0).unwrap()).unwrap();
    let image = |label: u32| {
        let mut request = Request::new(model);
        request.labels[0] = Some(label);
        (request.sampling.top_k, request.seed) = (1, u64::from(label));
        engine.generate(request).unwrap()
    };
    (0..4).map(image).collect()
}

/// Integer sums do not know an order: the same pictures, bit for bit. Float sums do, a little.
#[test]
fn the_order_of_heads_changes_no_picture() {
    for numbers in [Numbers::F32, Numbers::Int8] {
        let plain = converted("plain", numbers, None);
        let plain = plain.model().unwrap();
        let t = plain.shape.trunk(0);
        let last = t.heads as usize - 1;
        let wide: Vec<&[usize]> = vec![&[1], &[], &[1]];
        assert!(last >= 1 && t.depth == 3 && t.wide_heads.iter().all(|n| *n == 0));
        let map = converted("first", numbers, Some(found(&wide, last + 1)));
        let first = map.model().unwrap();
        assert_eq!(first.shape.trunk(0).wide_heads[..4], [1, 0, 1, 0]);
        let (before, after) = (plain.block(0, 0).query_scale, first.block(0, 0).query_scale);
        assert_eq!((after[0], after[1]), (before[1], before[0]), "the heads have moved");
        assert_eq!(first.block(0, 1).query_scale, plain.block(0, 1).query_scale);
        for (a, b) in greedy(&plain).iter().zip(&greedy(&first)) {
            assert_eq!(a.tokens, b.tokens, "{numbers:?}");
            assert!(a.rgb == b.rgb, "{numbers:?}: the same tokens are the same pixels");
        }
        let keep = first.tier("half").unwrap().keep;
        assert_eq!((keep.most[0][..4].to_vec(), keep.grid), (vec![u16::MAX, 3, 4, u16::MAX], 2));
        assert_eq!(keep.most[1][..4], [u16::MAX, u16::MAX, 10, u16::MAX]);
    }
}

fn varmint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_varmint")).args(args).output().expect("runs")
}

fn said(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned() + &String::from_utf8_lossy(&o.stderr)
}

#[test]
fn calibrate_convert_inspect() {
    let file = |name: &str| tmp(name).display().to_string();
    let (plain, json, wide) = (file("a.vmt"), file("a.json"), file("b.vmt"));
    let weights = weights().display().to_string();
    let o = varmint(&["convert", "--weights", &weights, "-o", &plain, "-q"]);
    assert!(o.status.success(), "{}", said(&o));

    for args in [&["--method", "layers"][..], &["--wide", "0.5", "--share", "0.4"]] {
        let all = [&["calibrate", &plain, "-o", &json, "--count", "2"][..], args].concat();
        let o = varmint(&all);
        assert!(o.status.success(), "{}", said(&o));
        for words in ["trunk 0, 2 pictures, scales 2 to 3", "heads are wide", "others"] {
            assert!(said(&o).contains(words), "{}", said(&o));
        }
    }
    let c = Calibration::read(Path::new(&json)).unwrap();
    assert_eq!((c.count, c.seed, c.scales.as_slice()), (2, 1, &[1, 4, 9, 16][..]));
    assert_eq!(c.wide_share(), 0.5);
    for b in &c.blocks {
        assert!(b.own.iter().zip(&b.top).all(|(o, t)| *o > 0.0 && *t > 0.0 && o + t <= 1.0));
        assert!(b.variance.iter().all(|v| *v >= 0.0 && *v < 1.0));
    }

    let tiers = ["half:keep=calibrated", "lean:keep=25%/90%@1,protect=1,window=3@2"];
    let mut args = vec!["convert", "--weights", &weights, "-o", &wide, "-q"];
    args.extend(["--calibration", &json, "--tier", tiers[0], "--tier", tiers[1]]);
    let o = varmint(&args);
    assert!(o.status.success(), "{}", said(&o));
    let o = varmint(&["inspect", &wide]);
    for words in [
        "wide heads by block: ",
        "after each scale 1 2 4 tokens, of wide heads 1 5 13; chosen by 4 x 4 queries",
        "first 1 scales of wide heads stay; own scale 3 x 3 from scale 2 on",
    ] {
        assert!(said(&o).contains(words), "no {words:?} in\n{}", said(&o));
    }
    let o = varmint(&["inspect", &wide, "--json"]);
    let shown: serde_json::Value = serde_json::from_slice(&o.stdout).unwrap();
    assert_eq!(shown["tiers"][0]["keep"], serde_json::Value::Null);
    assert_eq!(shown["tiers"][2]["keep"]["window_from"], 2);

    let (nothing, no) = (file("nothing.json"), file("no.vmt"));
    std::fs::write(&nothing, "{}").unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["calibrate", &wide, "-o", &json], "converted without --calibration"),
        (&["calibrate", &plain, "-o", &json, "--trunk", "1"], "the file has 1 of them"),
        (&["calibrate", &plain, "-o", &json, "--share", "2"], "above 0 up to 1"),
        (&["calibrate", &plain, "-o", &json, "--wide", "3"], "a share of the heads, 0 to 1"),
        (
            &["convert", "--weights", &weights, "-o", &no, "--calibration", &nothing],
            "missing field",
        ),
        (&["convert", "--weights", &weights, "-o", &no, "--tier", tiers[0]], "--calibration FILE"),
        (&["convert", "--weights", &weights, "-o", &no, "--tier", "a:keep=1@3"], "0 to 2"),
    ];
    for (args, words) in cases {
        let o = varmint(args);
        assert_eq!(o.status.code(), Some(1), "{args:?}");
        assert!(said(&o).contains(words), "{args:?}: {}", said(&o));
    }
}
