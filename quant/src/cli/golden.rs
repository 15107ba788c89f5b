//! `varmint golden`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::ProgressBar;
use varmint::{Cpu, Scalar};
use varmint_quant::golden::{Golden, Report, Tolerance};
use varmint_quant::{Meta, Options, convert};

use super::Format;

const EXAMPLES: &str = "\
Examples:
  The f32 tier against what the official implementation computed (exit code 1 over tolerance):
    varmint golden --weights weights.safetensors --golden golden.safetensors
  What int8 costs on the same inputs:
    varmint golden --weights weights.safetensors --golden golden.safetensors --numbers int8
  Transformer and VQVAE in two files, another tolerance:
    varmint golden --weights var.pth --weights vae.pth --golden g.safetensors --tolerance-image 1e-4";

/// Compare weights with intermediates of the official implementation.
///
/// Converts the weights into a temporary model file, runs what the golden ran, and shows the largest
/// difference of every tensor. Tolerances are four times the f32_vs_f64 errors in the README.md beside
/// the golden, where there is one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Weights: one file with both models, or the option twice.
    #[arg(long, value_name = "FILE", required = true)]
    weights: Vec<PathBuf>,
    /// Intermediates, with `config` in the metadata.
    #[arg(long, value_name = "FILE")]
    golden: PathBuf,
    /// Number format. Only f32 is held to the tolerances.
    #[arg(long, value_enum, default_value = "f32")]
    numbers: Format,
    /// Kernels: the scalar reference, or the best that this processor has.
    #[arg(long, value_enum, default_value = "detect")]
    backend: Kernels,
    /// Largest difference of the residual stream and the logits.
    #[arg(long, value_name = "X")]
    tolerance_logits: Option<f32>,
    /// Largest difference of the latent.
    #[arg(long, value_name = "X")]
    tolerance_f_hat: Option<f32>,
    /// Largest difference of the decoder's maps and the image.
    #[arg(long, value_name = "X")]
    tolerance_image: Option<f32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kernels {
    Scalar,
    Detect,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let golden = Golden::open(&self.golden)?;
        let beside = Tolerance::beside(&self.golden);
        let tolerance = Tolerance {
            logits: self.tolerance_logits.unwrap_or(beside.logits),
            f_hat: self.tolerance_f_hat.unwrap_or(beside.f_hat),
            image: self.tolerance_image.unwrap_or(beside.image),
        };
        let spinner = ProgressBar::new_spinner();
        spinner.enable_steady_tick(Duration::from_millis(100));
        let report = self.compare(&golden, tolerance, &spinner);
        spinner.finish_and_clear();
        let report = report?;

        let exact = matches!(self.numbers, Format::F32);
        print(&report, exact);
        let over = report.rows.iter().filter(|r| !r.passes()).count();
        println!("\ntoken agreement {:.4}", report.token_agreement);
        println!("relative logit error {:.3e}", report.logit_error);
        if report.rows.is_empty() {
            bail!("{}: nothing in it could be compared", self.golden.display());
        }
        if exact && over > 0 {
            bail!("{over} of {} tensors are over tolerance", report.rows.len());
        }
        Ok(())
    }

    fn compare(
        &self,
        golden: &Golden,
        tolerance: Tolerance,
        spinner: &ProgressBar,
    ) -> anyhow::Result<Report> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        let file = folder.path().join("golden.vmt");
        let mut options = Options::new(self.weights.clone(), self.numbers.into());
        options.scales = Some(golden.config.patch_nums.iter().map(|&side| (side, side)).collect());
        options.heads = golden.config.heads;
        convert(&options, &Meta::default(), &file, |done, total| {
            spinner.set_message(format!("converting: {done} of {total} tensors"));
        })?;
        spinner.set_message("running");
        let file = super::open(&file)?;
        let model = file.model()?;
        let tier = model.tier_at(0)?;
        Ok(match self.backend {
            Kernels::Scalar => golden.compare(&model, &tier, Scalar, tolerance)?,
            Kernels::Detect => golden.compare(&model, &tier, Cpu::detect(), tolerance)?,
        })
    }
}

fn print(report: &Report, exact: bool) {
    println!(
        "{:<22} {:>8} {:>11} {:>11} {:>11}",
        "tensor", "values", "max error", "rel. rms", "tolerance"
    );
    for r in &report.rows {
        let verdict = match (exact, r.passes()) {
            (false, _) => "",
            (true, true) => "ok",
            (true, false) => "FAIL",
        };
        println!(
            "{:<22} {:>8} {:>11.3e} {:>11.3e} {:>11.3e}  {verdict}",
            r.name, r.count, r.max_abs, r.relative, r.tolerance
        );
    }
}
