//! The subcommands; one file each.

mod board;
mod calibrate;
mod compare;
mod convert;
mod edit;
mod encoder;
mod generate;
mod golden;
mod inspect;
mod plan;
mod quantize;
mod synth;

use anyhow::Context;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Write a .vmt model file from the weights of a VAR model.
    Convert(Box<convert::Args>),
    /// Write a model file with smaller numbers, or say what they would cost layer by layer.
    Quantize(quantize::Args),
    /// Show what a .vmt model file holds.
    Inspect(inspect::Args),
    /// Show the memory and work that a model needs, tier by tier.
    Plan(plan::Args),
    /// Make pictures: one, a sheet, or a list of requests on all cores.
    Generate(Box<generate::Args>),
    /// Draw a part of a picture anew.
    Edit(Box<edit::Args>),
    /// Write the .vme file of a model: its tokenizer's encoder, which `edit` needs.
    Encoder(encoder::Args),
    /// Compare weights with intermediates of the official implementation.
    Golden(golden::Args),
    /// Find the heads that look far back, so that tiers can keep more tokens for them.
    Calibrate(calibrate::Args),
    /// Compare two models on the same tokens, such as int8 with f32.
    Compare(compare::Args),
    /// Write a model of random weights.
    #[command(hide = true)]
    Synth(synth::Args),
}

impl Command {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Convert(args) => args.run(),
            Self::Quantize(args) => args.run(),
            Self::Inspect(args) => args.run(),
            Self::Plan(args) => args.run(),
            Self::Generate(args) => args.run(),
            Self::Edit(args) => args.run(),
            Self::Encoder(args) => args.run(),
            Self::Golden(args) => args.run(),
            Self::Calibrate(args) => args.run(),
            Self::Compare(args) => args.run(),
            Self::Synth(args) => args.run(),
        }
    }
}

/// A model file, mapped.
fn open(path: &std::path::Path) -> anyhow::Result<varmint::ModelFile> {
    varmint::ModelFile::open(path).with_context(|| path.display().to_string())
}

/// A number format on the command line.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    F32,
    F16,
    Int8,
    Int4,
}

impl From<Format> for varmint_quant::Numbers {
    fn from(f: Format) -> Self {
        match f {
            Format::F32 => Self::F32,
            Format::F16 => Self::F16,
            Format::Int8 => Self::Int8,
            Format::Int4 => Self::Int4,
        }
    }
}

/// A progress bar on stderr, and only where that is a terminal.
fn bar(len: usize, what: &str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(len as u64);
    let template = format!("{{bar:30}} {{pos}}/{{len}} {what}, {{elapsed}}, {{eta}} left");
    match indicatif::ProgressStyle::with_template(&template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// The named tier, else the file's first.
fn tier(model: &varmint::Model<'_>, name: Option<&str>) -> anyhow::Result<varmint::Tier> {
    let Some(name) = name else { return Ok(model.tier_at(0)?) };
    model.tier(name).map_err(|_| {
        let all: Vec<String> = model.tiers().map(|t| t.name().to_owned()).collect();
        anyhow::anyhow!("no tier is called `{name}`; this model has: {}", all.join(", "))
    })
}

/// The model's sampling with what the command line says: guidance, top-k, top-p, temperature.
fn sampling(
    model: &varmint::Model<'_>,
    given: (Option<f32>, Option<u32>, Option<f32>, Option<f32>),
) -> anyhow::Result<varmint::Sampling> {
    let d = model.shape.config.sampling;
    let s = varmint::Sampling {
        guidance: given.0.unwrap_or(d.guidance),
        top_k: given.1.unwrap_or(d.top_k),
        top_p: given.2.unwrap_or(d.top_p),
        temperature: given.3.unwrap_or(d.temperature),
    };
    if !s.is_valid() {
        anyhow::bail!(
            "--guidance must be finite, --temperature above 0, --top-p from 0 to 1 (got {}, {}, {})",
            s.guidance,
            s.temperature,
            s.top_p
        );
    }
    Ok(s)
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
        let (name, size) = (&g.group, bytes(g.bytes));
        let p = percent(g.bytes);
        println!("  {name:<18} {:>8} {:>12} {size:>12} {p:>6.1}", g.tensors, g.values);
    }
    let rest = file_bytes - groups.iter().map(|g| g.bytes).sum::<u64>().min(file_bytes);
    let (tensors, values) = groups.iter().fold((0, 0), |(t, v), g| (t + g.tensors, v + g.values));
    let p = percent(rest);
    println!("  {:<18} {:>8} {:>12} {:>12} {p:>6.1}", "header, texts", "", "", bytes(rest));
    println!("  {:<18} {tensors:>8} {values:>12} {:>12}", "file", bytes(file_bytes));
}
