//! The numbers that are written down in `memory-budgets.toml`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// What lies between these lines of the file is written here.
const FROM: &str = "# Written by examples/firmware from here on.\n";
const TO: &str = "# Code and stack of the programs of tests/bare/no-panic";
/// How far numbers that are the compiler's doing may be off, in percent, either way.
const TOLERANCE: u64 = 5;

/// What a board was seen to need.
#[derive(Clone, Copy)]
pub struct Measured {
    pub arena: u64,
    pub statics: u64,
    pub stack: u64,
    pub flash_code: u64,
    pub flash_model: u64,
    pub image_instructions: u64,
}

impl Measured {
    /// Name, value, whether it is exact.
    fn rows(&self) -> [(&'static str, u64, bool); 6] {
        [
            ("arena", self.arena, true),
            ("stack", self.stack, false),
            ("statics", self.statics, false),
            ("flash_code", self.flash_code, false),
            ("flash_model", self.flash_model, true),
            ("image_instructions", self.image_instructions, false),
        ]
    }
}

/// A number as TOML takes it: 1_002_816.
fn num(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join("_")
}

/// Compares, or writes where `VARMINT_BLESS` asks for it.
pub fn check(path: &Path, measured: &BTreeMap<&str, Measured>) -> Result<()> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let file: toml::Table = text.parse()?;
    let recorded = |board: &str, name: &str| {
        let number = file.get("firmware")?.get(board)?.get(name)?.as_integer()?;
        u64::try_from(number).ok()
    };
    if std::env::var_os("VARMINT_BLESS").is_some() {
        let (head, rest) = text.split_once(FROM).context("no place for the firmware's rows")?;
        let (_, tail) = rest.split_once(TO).context("no end of the firmware's rows")?;
        let mut rows = String::new();
        for (board, m) in measured {
            writeln!(rows, "\n[firmware.{board}]")?;
            for (name, value, _) in m.rows() {
                writeln!(rows, "{name} = {}", num(value))?;
            }
        }
        std::fs::write(path, format!("{head}{FROM}{rows}\n{TO}{tail}"))?;
        return Ok(());
    }
    let mut wrong = String::new();
    for (board, m) in measured {
        for (name, value, exact) in m.rows() {
            let Some(was) = recorded(board, name) else {
                bail!("{}: no {name} of firmware.{board}", path.display())
            };
            let off = was.abs_diff(value);
            if off > if exact { 0 } else { was * TOLERANCE / 100 } {
                writeln!(wrong, "firmware.{board}: {name} is {value}, was {was}")?;
            }
        }
    }
    ensure!(wrong.is_empty(), "{wrong}to write this: VARMINT_BLESS=1");
    println!("memory-budgets.toml agrees, to {TOLERANCE} % where the compiler decides");
    Ok(())
}
