//! `varmint plan`, `generate`, `golden` and `compare`: output, files and exit codes, on a tiny model.

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::fixture;
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::{Meta, Numbers, Options, convert};

fn varmint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_varmint")).args(args).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a successful run prints.
fn good(args: &[&str]) -> String {
    let o = varmint(args);
    assert_eq!(o.status.code(), Some(0), "{args:?}: {}", text(&o.stderr));
    text(&o.stdout)
}

/// What a failing run says.
fn bad(args: &[&str]) -> String {
    let o = varmint(args);
    let said = text(&o.stderr);
    assert_eq!(o.status.code(), Some(1), "{args:?}: {said}");
    assert!(said.starts_with("error: "), "{args:?}: {said}");
    said
}

fn tmp(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

fn str(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

const META: &str = r#"{"name": "tiny", "licence": "MIT", "scale_sizes": [1, 2, 3, 4],
    "labels": {"class": ["cat", "dog", "red heart", "sun", "moon", "star", "tree", "fish", "car", "hat"]}}"#;

/// `dev_a` as a model file of this test's own.
fn tiny(test: &str, numbers: Numbers) -> PathBuf {
    let file = tmp(&format!("tools-{test}-{}.vmt", numbers.name()));
    let o = Options::new(vec![fixture("goldens/dev_a/weights.safetensors")], numbers);
    convert(&o, &serde_json::from_str::<Meta>(META).unwrap(), &file, |_, _| {}).unwrap();
    file
}

#[test]
fn plan() {
    let file = tiny("plan", Numbers::Int8);
    let shown = good(&["plan", str(&file)]);
    for part in ["tier int8", "arena ", "lower bound", "weights", "largest step", "####"] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&good(&["plan", str(&file), "--json"])).unwrap();
    let number = |key: &str| json[0][key].as_u64().unwrap();
    let bytes = number("arena_bytes");
    assert!(number("floor_bytes") <= bytes && bytes > 0);
    assert!(number("max_step_macs") < number("total_macs"));
    assert_eq!(number("weights_bytes"), std::fs::metadata(&file).unwrap().len());
    let end = |b: &serde_json::Value| b["bytes"].as_u64().unwrap() + b["offset"].as_u64().unwrap();
    let buffers = json[0]["buffers"].as_array().unwrap();
    assert_eq!(buffers.iter().map(end).max(), Some(bytes));

    good(&["plan", str(&file), "--tier", "int8", "--budget", &bytes.to_string()]);
    let said = bad(&["plan", str(&file), "--budget", &(bytes - 7).to_string()]);
    assert!(said.contains("int8") && said.contains(" 7 more"), "{said}");
    assert!(bad(&["plan", str(&file), "--tier", "f99"]).contains("int8"));
}

#[test]
fn plan_for_boards() {
    let file = tiny("boards", Numbers::Int8);
    let shown = good(&["plan", str(&file), "--board", "all"]);
    for part in ["int8", "cortex-m-256k", "agx-orin-64g", "fits"] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    good(&["plan", str(&file), "--board", "cortex-m-256k", "--tier", "int8"]);
    let json = good(&["plan", str(&file), "--board", "cortex-m-256k", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json[0]["boards"][0]["fits"], true);

    // One of several tiers is enough, unless one is named.
    let micro = fixture("emoji-micro.vmt");
    let on = ["plan", str(&micro), "--board", "cortex-m-256k"];
    let shown = good(&on);
    assert!(shown.contains("KiB") && shown.contains("+"), "{shown}");
    let said = bad(&[on.as_slice(), &["--tier", "int8"]].concat());
    assert!(said.contains("tier int8 does not run") && said.contains("245760"), "{said}");
    let large = fixture("emoji-64.vmt");
    let said = bad(&["plan", str(&large), "--board", "cortex-m-256k", "--tier", "full"]);
    assert!(said.contains("cortex-m-256k"), "{said}");
}

#[test]
fn generate_pictures() {
    let file = tiny("png", Numbers::Int8);
    let png = tmp("tools-one.png");
    let size = |path: &Path| {
        let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
        let reader = png::Decoder::new(file).read_info().unwrap();
        reader.info().size()
    };
    let said =
        good(&["generate", "--model", str(&file), "--class", "Red Heart", "--out", str(&png)]);
    assert!(said.contains("1 picture, tier int8"), "{said}");
    assert_eq!(size(&png), (8, 8));
    let args = ["generate", "--model", str(&file), "--count", "5", "--top-k", "3", "--out"];
    good(&[args.as_slice(), &[str(&png)]].concat());
    assert_eq!(size(&png), (3 * 12 + 4, 2 * 12 + 4));

    let model = ["generate", "--model", str(&file), "--out", "x.png"];
    let cases: [(&[&str], &str); 7] = [
        (&["--class", "heart"], "red heart"),
        (&["--class", "10"], "0 to 9"),
        (&["--style", "0"], "only class"),
        (&["--tier", "f16"], "int8"),
        (&["--temperature", "0"], "--temperature"),
        (&["--count", "0"], "no pictures"),
        (&["--requests", "nowhere.csv"], "nowhere.csv"),
    ];
    for (more, word) in cases {
        let said = bad(&[model.as_slice(), more].concat());
        assert!(said.contains(word), "{more:?}: {said}");
    }
    assert!(bad(&["generate", "--model", str(&file), "--out", "x.gif"]).contains(".png"));
    assert!(!Path::new("x.png").exists());
}

#[test]
fn generate_a_list() {
    let file = tiny("list", Numbers::Int8);
    let csv = tmp("tools-requests.csv");
    let [first, second, third] = [1, 2, 3].map(|i| tmp(&format!("tools-{i}.safetensors")));
    std::fs::write(&csv, "class,style,seed\n3,,1\n,,2\ncat,,7\n3,,1\n").unwrap();
    let model = ["generate", "--model", str(&file)];
    let run = |more: &[&str]| good(&[model.as_slice(), more].concat());
    run(&["--requests", str(&csv), "--jobs", "3", "--out", str(&first)]);
    run(&["--requests", str(&csv), "--jobs", "1", "--out", str(&second)]);
    assert!(
        std::fs::read(&first).unwrap() == std::fs::read(&second).unwrap(),
        "threads change bits"
    );

    let open = Checkpoint::open(&first).unwrap();
    assert_eq!(open.shape("images").unwrap(), [4, 8, 8, 3]);
    assert_eq!(open.shape("tokens").unwrap(), [4, 30]);
    let tokens = open.read_i64("tokens").unwrap();
    let row = |i: usize| &tokens[30 * i..30 * (i + 1)];
    assert_eq!(row(0), row(3));
    assert!(row(0) != row(1) && row(1) != row(2));

    // Its own tokens give its own pictures, without any request.
    run(&["--tokens", str(&first), "--out", str(&third)]);
    assert!(std::fs::read(&first).unwrap() == std::fs::read(&third).unwrap());

    let wrong = [
        ("class,size\n1,2\n", "header"),
        ("class,seed\n1\n", "line 2: 1 fields"),
        ("class,seed\n1,x\n", "line 2: seed x"),
        ("class,seed\n1,1\n\n77,1\n", "line 4"),
        ("class,style,seed\n1,1,1\n", "only class"),
        ("class,seed\n", "no pictures"),
    ];
    for (content, word) in wrong {
        std::fs::write(&csv, content).unwrap();
        let args = ["--requests", str(&csv), "--out", str(&second)];
        let said = bad(&[model.as_slice(), &args].concat());
        assert!(said.contains(word), "{content:?}: {said}");
    }
    let weights = fixture("goldens/dev_a/weights.safetensors");
    let args = ["--tokens", str(&weights), "--out", str(&second)];
    assert!(bad(&[model.as_slice(), &args].concat()).contains("`tokens`"));
}

#[test]
fn golden() {
    let weights = fixture("goldens/dev_a/weights.safetensors");
    let golden = fixture("goldens/dev_a/golden.safetensors");
    let args = ["golden", "--weights", str(&weights), "--golden", str(&golden)];
    let shown = good(&args);
    assert!(shown.contains("dec.up.0.block.2") && shown.contains("  ok"), "{shown}");
    assert!(!shown.contains("FAIL"), "{shown}");
    let strict = ["--tolerance-f-hat", "0", "--backend", "scalar"];
    assert!(bad(&[args.as_slice(), &strict].concat()).contains("over tolerance"));
    let shown = good(&[args.as_slice(), &["--numbers", "int8"]].concat());
    assert!(shown.contains("token agreement 0.9") && !shown.contains("FAIL"), "{shown}");
    // Not a golden; weights of another model.
    assert!(bad(&["golden", "--weights", str(&weights), "--golden", str(&weights)]).len() > 10);
    let other = fixture("goldens/dev_b/weights.safetensors");
    bad(&["golden", "--weights", str(&other), "--golden", str(&golden)]);
}

#[test]
fn compare() {
    let (a, b) = (tiny("compare", Numbers::Int8), tiny("compare", Numbers::F32));
    let args = ["compare", "--model", str(&a), "--reference"];
    let json = |reference: &Path| -> serde_json::Value {
        let more = [str(reference), "--count", "6", "--seed", "3", "--json"];
        serde_json::from_str(&good(&[args.as_slice(), &more].concat())).unwrap()
    };
    let same = json(&a);
    assert_eq!(
        (same["mean_psnr_db"].as_f64(), same["same_tokens"].as_f64()),
        (Some(100.0), Some(1.0))
    );
    assert_eq!((same["same_images"].as_f64(), same["count"].as_u64()), (Some(1.0), Some(6)));
    let other = json(&b);
    let db = other["mean_psnr_db"].as_f64().unwrap();
    assert!(db > 15.0 && db < 100.0, "{other}");
    assert!(other["min_psnr_db"].as_f64().unwrap() <= db);

    let shown = good(&[args.as_slice(), &[str(&b), "--count", "2"]].concat());
    assert!(shown.contains("mean PSNR") && shown.contains("equal tokens"), "{shown}");
    let foreign = tmp("tools-foreign.vmt");
    let o = Options::new(vec![fixture("goldens/dev_b/weights.safetensors")], Numbers::F16);
    convert(&o, &Meta::default(), &foreign, |_, _| {}).unwrap();
    assert!(bad(&[args.as_slice(), &[str(&foreign)]].concat()).contains("expected equal"));
}

#[test]
fn random_models_run() {
    use varmint_quant::description::TierRow;
    use varmint_quant::synth::{Shape, synth};
    let dir = std::env::temp_dir().join(format!("varmint-synth-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("random.vmt");
    let shape = Shape {
        depth: 1,
        scales: vec![1, 2],
        channels: 32,
        vocab: 64,
        cvae: 8,
        classes: 3,
        ..Shape::default()
    };
    let numbers = varmint_quant::Numbers::Int8;
    let tier = TierRow { tile: 4, strip: 2, ..shape.full_tier(numbers) };
    synth(&path, &shape, numbers, tier).unwrap();
    let file = varmint::ModelFile::open(&path).unwrap();
    let model = file.model().unwrap();
    let mut engine = varmint::Engine::new(&model, &model.tier_at(0).unwrap()).unwrap();
    let image = engine.generate(varmint::Request::new(&model)).unwrap();
    assert_eq!((image.width, image.height), (32, 32));
    std::fs::remove_dir_all(&dir).unwrap();
}
