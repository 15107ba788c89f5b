//! Puts the board's memory where the linker looks: BOARD names a file of `boards/`.

use std::path::Path;
use std::{env, fs};

fn main() {
    println!("cargo:rerun-if-env-changed=BOARD");
    println!("cargo:rerun-if-changed=boards");
    let board = env::var("BOARD").unwrap_or_else(|_| "mps2-an386".into());
    let out = env::var("OUT_DIR").expect("cargo sets it");
    let from = format!("boards/{board}.x");
    fs::copy(&from, Path::new(&out).join("memory.x")).unwrap_or_else(|e| panic!("{from}: {e}"));
    println!("cargo:rustc-env=BOARD={board}");
    println!("cargo:rustc-link-search={out}");
}
