//! `varmint encoder`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use varmint::Model;
use varmint_quant::{convert_encoder, open_encoder};

use super::Format;

const EXAMPLES: &str = "\
Examples:
  For the released 256-pixel models, from the file that has their decoder (one encoder serves them all):
    varmint encoder --vae vae_ch160v4096z32.pth --model var-d16.vmt -o var-d16.vme
  For a model whose encoder was trained later, with train/train_encoder.py:
    varmint encoder --vae out/encoder.safetensors --model emoji-64.vmt -o emoji-64.vme";

/// Write the .vme file of a model: its tokenizer's encoder, which `varmint edit` needs.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Weights that have encoder.* and quant_conv.*, whatever else is there.
    #[arg(long, value_name = "FILE")]
    vae: PathBuf,
    /// The model file that it is for.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Number format; int8 has inputs of 12 bits.
    #[arg(long, value_enum, default_value = "int8")]
    numbers: Format,
    /// The file to write: found by `varmint edit` if it is called as the model, but .vme.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = super::open(&self.model)?;
        let model = file.model().with_context(|| self.model.display().to_string())?;
        write(&self.vae, &model, self.numbers, &self.output)
    }
}

/// Writes the encoder in `weights` to `out` and says what became of it.
pub(super) fn write(
    weights: &Path,
    model: &Model<'_>,
    numbers: Format,
    out: &Path,
) -> anyhow::Result<()> {
    let report = convert_encoder(weights, model, numbers.into(), out)?;
    let (tensors, size) = (report.tensors.len(), super::bytes(report.file_bytes));
    println!("{}: {}, {tensors} tensors, {size}", out.display(), report.name);
    let map = super::open(out)?;
    let encoder = open_encoder(out, &map, model)?;
    for tier in model.tiers() {
        let plan = encoder.plan(&model.shape, &tier)?;
        let (macs, step) = (plan.total_macs() / 1_000_000, plan.max_step_macs() / 1000);
        let (name, arena) = (tier.name(), plan.bytes());
        println!(
            "  as tier {name:<16} {arena:>10} bytes of arena, {macs} MMAC a picture, {step} kMAC a step"
        );
    }
    Ok(())
}
