//! The `varmint` command: what it prints, where, and with which exit code.

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::fixture;

fn varmint(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_varmint")).args(args).output().expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn tmp(name: &str) -> String {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name).display().to_string()
}

#[test]
fn convert_then_inspect() {
    let weights = fixture("goldens/dev_a/weights.safetensors").display().to_string();
    let file = tmp("command.vmt");
    let o = varmint(&[
        "convert",
        "--weights",
        &weights,
        "-o",
        &file,
        "--report",
        "--name",
        "little",
        "--top-k",
        "5",
        "--guided",
        "2",
        "--tile",
        "4",
        "--strip",
        "2",
        "--sequence",
        "3",
        "-q",
    ]);
    assert!(o.status.success(), "{}", text(&o.stderr));
    assert!(text(&o.stdout).contains("image decoder") && text(&o.stdout).contains("SNR dB"));

    let o = varmint(&["inspect", &file, "--tensors"]);
    let shown = text(&o.stdout);
    for part in [
        "little (release 3)",
        "8 x 8 pixels",
        "top-k 5",
        "4 scales, 30 tokens",
        "2 guided scales",
        "tile 4, strip 2",
        "trunk0.block2.fc2weight",
        "i8wide",
        "unknown: see",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }

    let o = varmint(&["inspect", &file, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&o.stdout).expect("JSON");
    assert_eq!(json["tiers"][0]["blocks"], serde_json::json!([3, 3, 3, 3]));
    assert_eq!(json["trunks"][0]["width"], 64);
    assert_eq!(json["tensors"], serde_json::Value::Null);
    let bytes: u64 =
        json["groups"].as_array().unwrap().iter().map(|g| g["bytes"].as_u64().unwrap()).sum();
    assert!(bytes < json["file_bytes"].as_u64().unwrap());
}

#[test]
fn errors_go_to_stderr_with_exit_code_1() {
    let damaged = tmp("damaged.vmt");
    std::fs::write(&damaged, [b"VARMINT\0".as_slice(), &[0; 400]].concat()).unwrap();
    let weights = fixture("goldens/dev_a/weights.safetensors").display().to_string();
    let (nowhere, out) = (tmp("nowhere.vmt"), tmp("no.vmt"));
    let cases: [(&[&str], &str); 6] = [
        (&["inspect", &damaged], "E103"),
        (&["inspect", &nowhere], "nowhere.vmt"),
        (&["convert", "--weights", &nowhere, "-o", &out], "nowhere.vmt"),
        (&["convert", "--weights", &weights, "--scales", "1,2", "-o", &out], "scales"),
        (&["convert", "--weights", &weights, "--guided", "9", "-o", &out], "4 scales"),
        (&["convert", "--weights", &weights, "--tile", "0", "-o", &out], "E110"),
    ];
    for (args, word) in cases {
        let o = varmint(args);
        let said = text(&o.stderr);
        assert_eq!(o.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.starts_with("error: ") && said.contains(word), "{args:?}: {said}");
        assert!(o.stdout.is_empty(), "{args:?}");
    }
    assert!(!Path::new(&out).exists());
}

#[test]
fn help_has_examples() {
    for command in ["convert", "inspect", "plan", "generate", "golden", "calibrate", "compare"] {
        let o = varmint(&[command, "--help"]);
        assert!(o.status.success() && text(&o.stdout).contains("Examples:"), "{command}");
    }
    assert_eq!(varmint(&["convert"]).status.code(), Some(2));
}
