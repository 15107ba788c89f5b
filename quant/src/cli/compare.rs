//! `varmint compare`.

use std::path::PathBuf;

use anyhow::Context;
use varmint_quant::batch::default_jobs;
use varmint_quant::compare::{compare, requests};

const EXAMPLES: &str = "\
Examples:
  What int8 costs in the pictures:
    varmint compare --model emoji-64.vmt --reference emoji-64-f32.vmt
  What a tier of fewer blocks or a smaller decoder costs:
    varmint compare --model m.vmt --tier micro --reference m.vmt --reference-tier full
  For a table of quality:
    varmint compare --model a.vmt --reference b.vmt --count 256 --seed 7 --json | jq .mean_psnr_db";

/// Compare two models on the same tokens, such as int8 with f32, or two tiers of one.
///
/// Draws random requests on the model, decodes its tokens with both, and shows how far the pictures
/// are apart (PSNR; equal pictures count as 100 dB). Also draws the same requests on the reference,
/// and shows how many tokens came out alike: one different draw changes all that follow.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// The model file that it is compared with.
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// Requests.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Seed of the first request; the following ones count up.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tier of the model [default: its first].
    #[arg(long)]
    tier: Option<String>,
    /// Tier of the reference [default: its first].
    #[arg(long)]
    reference_tier: Option<String>,
    /// Threads [default: as many as run at once].
    #[arg(long)]
    jobs: Option<usize>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let (file_a, file_b) = (super::open(&self.model)?, super::open(&self.reference)?);
        let a = file_a.model().with_context(|| self.model.display().to_string())?;
        let b = file_b.model().with_context(|| self.reference.display().to_string())?;
        let a_tier = super::tier(&a, self.tier.as_deref())?;
        let b_tier = super::tier(&b, self.reference_tier.as_deref())?;
        let items = requests(&a, self.count as usize, self.seed);
        let bar = super::bar(3 * items.len(), "pictures");
        let jobs = self.jobs.unwrap_or_else(default_jobs);
        let c = compare((&a, &a_tier), (&b, &b_tier), &items, jobs, &|| bar.inc(1));
        bar.finish_and_clear();
        let c = c?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&c)?);
            return Ok(());
        }
        let tiers = (a_tier.name(), b_tier.name());
        println!(
            "{} requests, seeds from {}, tiers {} and {}",
            c.count, self.seed, tiers.0, tiers.1
        );
        println!("  same tokens, decoded by both");
        println!("    mean PSNR           {:>7.2} dB", c.mean_psnr_db);
        println!("    worst image         {:>7.2} dB", c.min_psnr_db);
        println!("    all pixels together {:>7.2} dB", c.pooled_psnr_db);
        println!("    largest difference  {:>7} of 255", c.max_difference);
        println!("  same requests, drawn by both");
        println!("    all tokens equal    {:>7.2} % of the pictures", 100.0 * c.same_images);
        println!("    equal tokens        {:>7.2} %", 100.0 * c.same_tokens);
        Ok(())
    }
}
