//! `varmint plan --board`: which tier runs on which board, or what is missing.

use anyhow::bail;
use serde_json::{Value, json};
use varmint::Plan;
use varmint_quant::boards::{BOARDS, Board};

use super::bytes;

/// One board, or all of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boards(&'static [Board]);

impl std::str::FromStr for Boards {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        if name == "all" {
            return Ok(Self(&BOARDS));
        }
        let found = Board::find(name).map(|b| Self(std::slice::from_ref(b)));
        let names = || BOARDS.map(|b| b.name).join(", ");
        found.ok_or_else(|| format!("no such board; there are: all, {}", names()))
    }
}

/// What is missing, in few words.
fn missing((ram, flash): (u64, u64)) -> String {
    let part = |n: u64, of: &str| (n > 0).then(|| format!("+{}{of}", bytes(n)));
    let parts: Vec<String> = [part(ram, ""), part(flash, " flash")].into_iter().flatten().collect();
    if parts.is_empty() { "fits".to_owned() } else { parts.join(", ") }
}

impl Boards {
    /// A row per tier, a column per board.
    pub(super) fn print(self, plans: &[Plan], file_bytes: u64) {
        println!("weights {} ({file_bytes} bytes)\n", bytes(file_bytes));
        let mut head = vec!["tier", "arena", "floor", "cache", "step MMAC", "image MMAC"];
        head.extend(self.0.iter().map(|b| b.name));
        let mut table = vec![head.into_iter().map(str::to_owned).collect::<Vec<_>>()];
        table.extend(plans.iter().map(|p| {
            let size = |n: usize| bytes(n as u64);
            let mmac = |n: u64| format!("{:.1}", n as f64 / 1e6);
            let mut row = vec![p.tier.name().to_owned()];
            row.extend([p.bytes(), p.floor(), p.cache_bytes()].map(size));
            row.extend([p.max_step_macs(), p.total_macs()].map(mmac));
            row.extend(self.0.iter().map(|b| missing(b.short_of(p, file_bytes))));
            row
        }));
        let width = |i: usize| table.iter().map(|row| row[i].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
        for row in &table {
            let mut cells = row.iter().zip(&widths);
            if let Some((name, width)) = cells.next() {
                print!("{name:width$}");
            }
            cells.for_each(|(cell, width)| print!("  {cell:>width$}"));
            println!();
        }
        if self.0.len() > 1 {
            println!(
                "\n+ says what is missing: of the RAM that an arena may have there, or of flash"
            );
        }
    }

    /// What the boards make of a plan.
    pub(super) fn json(self, plan: &Plan, file_bytes: u64) -> Value {
        let board = |b: &Board| {
            let (ram, flash) = b.short_of(plan, file_bytes);
            json!({
                "name": b.name, "ram_bytes": b.ram, "flash_bytes": b.flash,
                "fits": (ram, flash) == (0, 0), "missing_ram_bytes": ram, "missing_flash_bytes": flash,
            })
        };
        self.0.iter().map(board).collect()
    }

    /// That one of the plans runs, if it is about one board.
    pub(super) fn check(self, plans: &[Plan], file_bytes: u64) -> anyhow::Result<()> {
        let [board] = self.0 else { return Ok(()) };
        let least = plans.iter().min_by_key(|p| board.short_of(p, file_bytes));
        let Some(plan) = least else { return Ok(()) };
        let (tier, need) = (plan.tier.name(), plan.bytes());
        let whose = match plans.len() {
            1 => format!("tier {tier} does not run"),
            n => format!("none of the {n} tiers runs"),
        };
        match board.short_of(plan, file_bytes) {
            (0, 0) => Ok(()),
            (0, flash) => bail!(
                "{whose} on {}: the file has {file_bytes} bytes, {flash} more than the {} there",
                board.name,
                board.flash
            ),
            (ram, _) => bail!(
                "{whose} on {}: tier {tier} needs {need} bytes, {ram} more than the {} there",
                board.name,
                board.ram
            ),
        }
    }
}
