//! `varmint quantize`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::bail;
use varmint::tensor::Dtype;
use varmint_quant::Keep;
use varmint_quant::requantize::{Layer, Settings, requantize};

use super::Format;

/// 12-bit inputs are advised where they bring so many dB.
const WORTH: f64 = 6.0;
/// A 4-bit layer is to be protected where it is so many dB below the median of all.
const OUTLIER: f64 = 3.0;

const EXAMPLES: &str = "\
Examples:
  4-bit weights whose errors make up for each other, learned from 32 sample pictures:
    varmint convert --var var_d16.pth --vae vae_ch160v4096z32.pth --numbers f16 -o d16-f16.vmt
    varmint quantize d16-f16.vmt -o d16-int4.vmt --numbers int4
  What every layer would lose, and which to protect; nothing is written:
    varmint quantize d16-f16.vmt --numbers int4 --report
  With what it advises:
    varmint quantize d16-f16.vmt -o d16-int4.vmt --numbers int4 --keep i8:fc1.0,qkv.15
  Every weight to the nearest, as `varmint convert --numbers int4` does it:
    varmint quantize d16-f16.vmt -o d16-nearest.vmt --numbers int4 --nearest";

/// Write a model file with smaller numbers, or say what they would cost layer by layer.
///
/// Sample pictures with random labels show what each layer's inputs are like. 4-bit weights are rounded so that
/// their errors make up for each other on such inputs (GPTQ). The report gives the signal-to-noise ratio of every
/// layer's output on them, in dB: int8 weights with 8-bit and with 12-bit inputs, and 4-bit weights to the nearest and
/// compensated, with 8-bit inputs; and what absorbing outliers gained. Begin with a file of float weights.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model file.
    model: PathBuf,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", required_unless_present = "report")]
    output: Option<PathBuf>,
    /// Number format.
    #[arg(long, value_enum, default_value = "int8")]
    numbers: Format,
    /// Store some tensors otherwise (as in `varmint convert`); repeat.
    #[arg(long, value_name = "STORAGE:ROLE,ROLE")]
    keep: Vec<String>,
    /// Sample pictures.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    images: u32,
    /// Seed of the first; labels follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Round every 4-bit weight to the nearest.
    #[arg(long)]
    nearest: bool,
    /// Move outliers of the inputs of qkv, fc1 and head into the weights, where the outputs gain by it: their modulation is
    /// divided, channel by channel, and the weights are multiplied (SmoothQuant). Costs nothing at run time.
    #[arg(long)]
    absorb: bool,
    /// Compare the outputs of all layers and say which to protect.
    #[arg(long)]
    report: bool,
    /// The report as JSON.
    #[arg(long, requires = "report")]
    json: bool,
    /// All layers, not the worst twenty.
    #[arg(long, requires = "report")]
    all: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = super::open(&self.model)?;
        let model = file.model()?;
        let mut keep = Vec::new();
        for text in &self.keep {
            keep.extend(Keep::parse(text)?);
        }
        if self.output.as_ref().is_some_and(|o| same(o, &self.model)) {
            bail!("-o {}: that is the model itself; give another name", self.model.display());
        }
        let whole = |i: usize| matches!(model.tensor(i), Some((_, Dtype::I8 | Dtype::I8Wide, _)));
        if (0..).map_while(|i| model.tensor(i).map(|_| i)).any(whole) {
            eprintln!(
                "note: {} has int8 weights already; what they have lost stays lost",
                self.model.display()
            );
        }
        let settings = Settings {
            numbers: self.numbers.into(),
            keep,
            images: self.images as usize,
            seed: self.seed,
            compensate: !self.nearest,
            absorb: self.absorb,
            report: self.report,
        };
        let bar = super::bar(settings.images, "pictures, then tensors");
        let report = requantize(&model, self.output.as_deref(), &settings, &mut |_, done, of| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        let report = report?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        if self.report {
            print(&report.layers, self.all);
        }
        if let Some(output) = &self.output {
            println!("{}: {}", output.display(), super::bytes(report.file_bytes));
        }
        Ok(())
    }
}

fn same(a: &std::path::Path, b: &std::path::Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

fn print(layers: &[Layer], all: bool) {
    let mut worst: Vec<&Layer> = layers.iter().collect();
    let chosen = |l: &Layer| l.chosen().unwrap_or(f64::INFINITY);
    worst.sort_by(|a, b| chosen(a).total_cmp(&chosen(b)));
    let shown = if all { worst.len() } else { 20 };
    println!("signal to noise of the outputs, dB; the worst of what was chosen first");
    println!(
        "  {:<14} {:>5}  {:<7} {:>7} {:>8} {:>8} {:>12} {:>9}",
        "layer", "trunk", "stored", "int8", "i8wide", "nearest", "compensated", "absorbed"
    );
    let db = |v: Option<f64>| v.map_or_else(String::new, |v| format!("{v:.1}"));
    for l in worst.iter().take(shown) {
        println!(
            "  {:<14} {:>5}  {:<7} {:>7.1} {:>8.1} {:>8} {:>12} {:>9}",
            l.name,
            l.trunk,
            l.storage,
            l.int8,
            l.int8_wide,
            db(l.int4),
            db(l.int4_compensated),
            l.absorbed.map_or_else(String::new, |v| format!("{v:+.1}"))
        );
    }
    if worst.len() > shown {
        println!("  ({} better ones not shown; --all)", worst.len() - shown);
    }
    println!(
        "\n  {:<10} {:>7} {:>8} {:>8} {:>12} {:>9}   means",
        "role", "int8", "i8wide", "nearest", "compensated", "absorbed"
    );
    let mut roles: BTreeMap<&str, Vec<&Layer>> = BTreeMap::new();
    for l in layers {
        roles.entry(l.name.split('.').next().unwrap_or(&l.name)).or_default().push(l);
    }
    for (role, all) in &roles {
        let mean = |of: &dyn Fn(&Layer) -> Option<f64>| -> Option<f64> {
            let v: Vec<f64> = all.iter().filter_map(|l| of(l)).collect();
            (!v.is_empty()).then(|| v.iter().sum::<f64>() / v.len() as f64)
        };
        println!(
            "  {role:<10} {:>7} {:>8} {:>8} {:>12} {:>9}",
            db(mean(&|l| Some(l.int8))),
            db(mean(&|l| Some(l.int8_wide))),
            db(mean(&|l| l.int4)),
            db(mean(&|l| l.int4_compensated)),
            mean(&|l| l.absorbed).map_or_else(String::new, |v| format!("{v:+.1}"))
        );
    }
    advise(layers);
}

fn advise(layers: &[Layer]) {
    let names = |some: Vec<&Layer>| {
        let mut all: Vec<&str> = some.iter().map(|l| l.name.as_str()).collect();
        all.dedup();
        all.join(",")
    };
    let wide = layers.iter().filter(|l| l.storage == "i8" && l.int8_wide - l.int8 >= WORTH);
    let wide = names(wide.collect());
    if !wide.is_empty() {
        println!("\n12-bit inputs bring {WORTH} dB and more: --keep i8wide:{wide}");
    }
    let mut four: Vec<&Layer> = layers.iter().filter(|l| l.storage == "i4").collect();
    four.sort_by(|a, b| a.chosen().unwrap_or(0.0).total_cmp(&b.chosen().unwrap_or(0.0)));
    if let Some(middle) = four.get(four.len() / 2).and_then(|l| l.chosen()) {
        let low = |l: &&Layer| l.chosen().is_some_and(|v| v < middle - OUTLIER);
        let low = names(four.into_iter().filter(low).collect());
        match low.as_str() {
            "" => println!(
                "\nno 4-bit layer stands out: all within {OUTLIER} dB below the median, {middle:.1} dB"
            ),
            _ => println!(
                "\n{OUTLIER} dB and more below the median of the 4-bit layers ({middle:.1} dB): --keep i8:{low}"
            ),
        }
    }
}
