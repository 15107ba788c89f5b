//! `varmint calibrate`.

use std::path::PathBuf;

use anyhow::Context;
use varmint_quant::Calibration;
use varmint_quant::calibrate::{Settings, calibrate};
use varmint_quant::calibration::Method;

const EXAMPLES: &str = "\
Examples:
  Which heads need a long history, one by one (HACK), and a model file that makes use of it:
    varmint calibrate m.vmt -o calibration.json
    varmint convert --weights m.safetensors --calibration calibration.json \\
        --tier half:keep=calibrated --tier less:keep=10%/80% -o m-half.vmt
  Whole blocks (ScaleKV), two of them, and numbers of tokens for a tenth of the history:
    varmint calibrate m.vmt --method layers --wide 2 --share 0.1
  A quarter of all heads, whatever the gaps:
    varmint calibrate m.vmt --wide 0.25 --count 64 --seed 7";

/// Find the heads that look far back, so that tiers can keep more tokens for them.
///
/// Makes sample pictures with random labels on the file's first tier and measures what every head attends
/// to. The table shows each head's number (heads: 100 x the variance over queries of the attention
/// to a key, summed over keys; layers: also the selectivity of the block, in standard deviations), `#`
/// for those found wide, and two means over heads: the percentage of attention that stays in the own
/// scale, and that of the best eighth of the history.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model file, converted without --calibration.
    file: PathBuf,
    /// Pictures to make.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Seed of the first picture; the following ones count up, and labels follow from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// By head (HACK: variance over queries) or by block (ScaleKV: attention-selectivity index).
    #[arg(long, value_enum, default_value = "heads")]
    method: How,
    /// Which trunk: 0, or 1 for the refiner.
    #[arg(long, default_value_t = 0)]
    trunk: usize,
    /// How many are wide: with heads a share (0.25), with layers a number of blocks [default: heads above
    /// the widest gap; an eighth of the blocks].
    #[arg(long, value_name = "N")]
    wide: Option<f64>,
    /// What the suggested numbers of tokens keep on average, of all that the last scale sees of the others.
    #[arg(long, default_value_t = 0.5)]
    share: f64,
    /// The file to write.
    #[arg(short, long, value_name = "FILE", default_value = "calibration.json")]
    output: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum How {
    Heads,
    Layers,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = super::open(&self.file)?;
        let model = file.model().with_context(|| self.file.display().to_string())?;
        let settings = Settings {
            count: self.count as usize,
            seed: self.seed,
            method: match self.method {
                How::Heads => Method::Heads,
                How::Layers => Method::Layers,
            },
            trunk: self.trunk,
            wide: self.wide,
            share: self.share,
        };
        let bar = super::bar(settings.count, "pictures");
        let found = calibrate(&model, &settings, || bar.inc(1));
        bar.finish_and_clear();
        let found = found?;
        found.write(&self.output)?;
        print(&found);
        println!("{}: written; for varmint convert --calibration", self.output.display());
        Ok(())
    }
}

fn print(c: &Calibration) {
    let layers = c.method == Method::Layers;
    let (first, last) = (c.measured.first().unwrap_or(&0), c.measured.last().unwrap_or(&0));
    println!("{}: trunk {}, {} pictures, scales {first} to {last}", c.model, c.trunk, c.count);
    let unit = if layers { "selectivity; " } else { "" };
    println!("  {:>5}  {unit}head by head, # is wide", "block");
    for (b, block) in c.blocks.iter().enumerate() {
        let z = if layers { format!("{:>6.2};", block.selectivity) } else { String::new() };
        let mark = |(h, v): (usize, &f64)| {
            format!("{:>6.2}{}", 100.0 * v, if block.wide.contains(&h) { '#' } else { ' ' })
        };
        let heads: String = block.variance.iter().enumerate().map(mark).collect();
        println!(
            "  {b:>5} {z}{heads}  own {:>2.0} %, best {:>2.0} %",
            mean(&block.own),
            mean(&block.top)
        );
    }
    println!("{}", reading(c));
    let row = |list: &[usize]| list.iter().map(|n| format!("{n:>6}")).collect::<String>();
    let history: Vec<usize> =
        (1..c.scales.len()).map(|k| c.scales[..k].iter().sum::<usize>()).collect();
    println!("  tokens in the cache after each scale, {:.0} % of the longest:", 100.0 * c.share);
    println!("    all     {}", row(&history));
    println!("    wide    {}", row(&c.budgets.wide));
    println!("    others  {}", row(&c.budgets.others));
}

/// The mean, in percent.
fn mean(all: &[f64]) -> f64 {
    100.0 * all.iter().sum::<f64>() / all.len().max(1) as f64
}

/// What the table says, in a line.
fn reading(c: &Calibration) -> String {
    let percent = 100.0 * c.wide_share();
    let blocks = |test: &dyn Fn(usize) -> bool| {
        let all = c.blocks.iter().enumerate().filter(|(_, b)| test(b.wide.len()));
        let all: Vec<String> = all.map(|(b, _)| b.to_string()).collect();
        (all.len(), format!("block{} {}", if all.len() == 1 { "" } else { "s" }, all.join(", ")))
    };
    let ((_, some), (narrow, none)) = (blocks(&|n| n > 0), blocks(&|n| n == 0));
    let n: usize = c.blocks.iter().map(|b| b.wide.len()).sum();
    let total = c.heads * c.blocks.len();
    let mut line = format!("{n} of {total} heads are wide ({percent:.0} %)");
    if n > 0 && c.method == Method::Layers {
        line += &format!(": all of {some}, whose attention is the most spread out");
    } else if n > 0 {
        let of = |wide: bool| {
            let each = c.blocks.iter().flat_map(move |b| {
                b.variance.iter().enumerate().filter(move |(h, _)| b.wide.contains(h) == wide)
            });
            each.map(|(_, v)| 100.0 * v)
        };
        let least = of(true).fold(f64::INFINITY, f64::min);
        let most = of(false).fold(0.0, f64::max);
        line += &format!(": {least:.2} and more, the others {most:.2} and less");
        if least < 2.0 * most {
            line += " (no clear gap)";
        }
        if narrow > 0 {
            line += &format!("; none in {none}");
        }
    }
    line
}
