//! The subcommands; one file each.

mod convert;
mod inspect;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a .vmt model file from the weights of a VAR model.
    Convert(Box<convert::Args>),
    /// Show what a .vmt model file holds.
    Inspect(inspect::Args),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Convert(args) => args.run(),
            Self::Inspect(args) => args.run(),
        }
    }
}

/// Bytes with a unit, for people.
fn bytes(n: u64) -> String {
    match n {
        0..10_240 => format!("{n} B"),
        10_240..10_485_760 => format!("{:.1} KiB", n as f64 / 1024.0),
        _ => format!("{:.1} MiB", n as f64 / 1_048_576.0),
    }
}

/// The table of bytes per group, and what is left for header, texts and padding.
fn print_groups(groups: &[varmint_quant::inspect::GroupInfo], file_bytes: u64) {
    println!("  {:<18} {:>8} {:>12} {:>12} {:>6}", "bytes", "tensors", "values", "size", "%");
    let percent = |n: u64| 100.0 * n as f64 / file_bytes.max(1) as f64;
    for g in groups {
        let (name, size) = (g.group, bytes(g.bytes));
        let p = percent(g.bytes);
        println!("  {name:<18} {:>8} {:>12} {size:>12} {p:>6.1}", g.tensors, g.values);
    }
    let rest = file_bytes - groups.iter().map(|g| g.bytes).sum::<u64>().min(file_bytes);
    let (tensors, values) = groups.iter().fold((0, 0), |(t, v), g| (t + g.tensors, v + g.values));
    let p = percent(rest);
    println!("  {:<18} {:>8} {:>12} {:>12} {p:>6.1}", "header, texts", "", "", bytes(rest));
    println!("  {:<18} {tensors:>8} {values:>12} {:>12}", "file", bytes(file_bytes));
}
