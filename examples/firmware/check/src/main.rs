//! Builds the firmware for emulated boards, runs it in QEMU, and holds what it says against the bars, against
//! `memory-budgets.toml` and against the same picture made on this machine.
//!
//! `cargo run -p varmint-firmware-check [BOARD..]`, in `examples/firmware`; all boards if none is named.
//! `VARMINT_BLESS=1` writes the measured numbers into `memory-budgets.toml`.

mod budgets;
mod image;
mod picture;
mod qemu;
mod slots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::budgets::Measured;
use crate::image::Image;
use crate::picture::Shown;

/// A machine of QEMU that the firmware runs on.
struct Board {
    /// The machine, and the file in `boards/`.
    name: &'static str,
    core: &'static str,
    target: &'static str,
}

const V7: &str = "thumbv7em-none-eabihf";
const V8: &str = "thumbv8m.main-none-eabihf";
const BOARDS: [Board; 4] = [
    Board { name: "mps2-an386", core: "Cortex-M4F", target: V7 },
    Board { name: "mps2-an500", core: "Cortex-M7", target: V7 },
    Board { name: "mps2-an505", core: "Cortex-M33", target: V8 },
    Board { name: "mps3-an547", core: "Cortex-M55", target: V8 },
];

/// Bars of the example. RAM: arena, statics and the deepest stack. Flash: code, and code with one model.
const RAM: u64 = 256 << 10;
const CODE: u64 = 96 << 10;
const FLASH: u64 = 2 << 20;
/// Parts in a thousand by which the light may be off: its powers are approximations.
const LIGHT: f64 = 3.0;
/// Instructions per multiply-accumulate of an 8-bit product.
const PRODUCT: f64 = 1.2;

/// The folder of the firmware, and the root of the repository.
fn folders() -> (PathBuf, PathBuf) {
    let firmware = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = firmware.join("../..");
    (firmware, root)
}

/// Builds the firmware for a board; returns the ELF file.
fn build(board: &Board) -> Result<PathBuf> {
    let (firmware, _) = folders();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "--release", "-p", "varmint-firmware", "--target", board.target])
        .current_dir(&firmware)
        .env("BOARD", board.name)
        .status()?;
    ensure!(built.success(), "{}: the build failed", board.name);
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(firmware.join("target"), Into::into);
    Ok(target.join(board.target).join("release/varmint-firmware"))
}

/// Runs the firmware with the shipped model in the first slot, checks and prints what it says.
fn measure(board: &Board, image: &Image, model: &[u8], shown: &Shown) -> Result<Measured> {
    let run = qemu::run(board.name, image, [&slots::slot(model)?, &slots::erased()])?;
    for line in &run.lines {
        println!("  {line}");
    }
    ensure!(run.succeeded, "the firmware failed");
    ensure!(
        run.checksum == Some(shown.crc),
        "not the picture of this machine, {:#010x}",
        shown.crc
    );
    let n = |name: &str| run.numbers.get(name).copied().context(name.to_owned());
    for (name, light) in ["light_red", "light_green", "light_blue"].into_iter().zip(shown.light) {
        ensure!((n(name)? as f64 - light).abs() <= LIGHT, "{name}: {light:.1} on this machine");
    }
    let measured = Measured {
        arena: n("arena")?,
        statics: n("statics")?,
        stack: n("stack")?,
        flash_code: image.flash_bytes,
        flash_model: n("model")?,
        image_instructions: n("image_instructions")?,
    };
    let ram = measured.arena + measured.statics + measured.stack;
    let flash = measured.flash_code + measured.flash_model;
    let per_mac = |i: &str, m: &str| Ok::<_, anyhow::Error>(n(i)? as f64 / n(m)? as f64);
    let product = per_mac("product_instructions", "product_macs")?;
    println!("ram: {ram} bytes of {RAM}");
    println!(
        "flash: {} bytes of code of {CODE}, {flash} with the model of {FLASH}",
        image.flash_bytes
    );
    println!(
        "instructions per MAC: {:.3} of the image, {product:.3} of an 8-bit product alone",
        per_mac("image_instructions", "image_macs")?,
    );
    ensure!(ram <= RAM && image.flash_bytes <= CODE && flash <= FLASH, "more memory than the bar");
    ensure!(product <= PRODUCT, "more than {PRODUCT} instructions per MAC");
    Ok(measured)
}

fn main() -> Result<()> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    if let Some(name) = names.iter().find(|n| BOARDS.iter().all(|b| b.name != **n)) {
        bail!("no board {name}; there are {}", BOARDS.map(|b| b.name).join(", "));
    }
    let boards = BOARDS.iter().filter(|b| names.is_empty() || names.iter().any(|n| n == b.name));

    let (_, root) = folders();
    let path = root.join("fixtures/emoji-micro.vmt");
    let model = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let shown = picture::picture(&model)?;
    let crc = shown.crc;
    println!("checksum host {crc:#010x}");
    let constant = picture::constant(&root.join("fixtures/edge-picture.txt"))?;
    ensure!(crc == constant, "fixtures/edge-picture.txt says {constant:#010x}");

    let mut measured = BTreeMap::new();
    for (i, board) in boards.enumerate() {
        println!("\n{}, {}", board.name, board.core);
        let image = Image::read(&build(board)?)?;
        let m = measure(board, &image, &model, &shown).context(board.name)?;
        measured.insert(board.name, m);
        if i == 0 {
            slots::check(board.name, &image, &model, crc)?;
        }
    }
    println!();
    budgets::check(&root.join("memory-budgets.toml"), &measured)
}
