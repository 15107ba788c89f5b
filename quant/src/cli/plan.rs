//! `varmint plan`.

use std::path::PathBuf;

use anyhow::{Context, bail};
use serde_json::json;
use varmint::{Model, Plan};
use varmint_quant::inspect::blocks_line;

use super::board::Boards;

const EXAMPLES: &str = "\
Examples:
  What every tier of a model needs, and where each buffer lies over time:
    varmint plan emoji-64.vmt
  Does it fit a microcontroller with 512 KiB to spare? (exit code 1 if not)
    varmint plan emoji-micro.vmt --budget 524288
  Which tier runs on which board, and what the others are short of?
    varmint plan --board all emoji-64.vmt
  Does any tier run on this one? (exit code 1 if not; with --tier, if that one does not)
    varmint plan --board cortex-m-256k emoji-micro.vmt
  And for eight images at once?
    varmint plan emoji-64.vmt --batch 8
  For scripts:
    varmint plan emoji-64.vmt --tier int8 --json | jq .[0].arena_bytes";

/// Show the memory and work that a model needs, tier by tier.
///
/// Every byte of a run is planned before it: the arena named here is all that a device needs besides
/// the file itself, which is read in place.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model file.
    file: PathBuf,
    /// Only this tier [default: all].
    #[arg(long)]
    tier: Option<String>,
    /// For so many images at once.
    #[arg(long, value_name = "IMAGES", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Bytes of RAM that the arena may have: exit code 1 if a shown tier needs more.
    #[arg(long, value_name = "BYTES")]
    budget: Option<usize>,
    /// A table of tiers on this board, or on `all`: exit code 1 if none of the shown tiers runs on the one
    /// named.
    #[arg(long, value_name = "NAME|all", conflicts_with = "budget")]
    board: Option<Boards>,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = super::open(&self.file)?;
        let model = file.model().with_context(|| self.file.display().to_string())?;
        let tiers = match &self.tier {
            Some(name) => vec![super::tier(&model, Some(name))?],
            None => model.tiers().collect(),
        };
        // A tier that cannot be planned does not hide the others.
        let (mut plans, mut failed) = (Vec::new(), Vec::new());
        for tier in tiers {
            match Plan::new(&model.shape, &tier).and_then(|plan| plan.batch(self.batch.into())) {
                Ok(plan) => plans.push(plan),
                Err(e) => failed.push(format!("tier {}: {e}", tier.name())),
            }
        }
        let file_bytes = model.file_bytes() as u64;
        if self.json {
            let mut all: Vec<_> = plans.iter().map(|p| describe(&model, p)).collect();
            if let Some(boards) = self.board {
                for (tier, plan) in all.iter_mut().zip(&plans) {
                    tier["boards"] = boards.json(plan, file_bytes);
                }
            }
            println!("{}", serde_json::to_string_pretty(&all)?);
        } else if let Some(boards) = self.board {
            boards.print(&plans, file_bytes);
        } else {
            for (i, plan) in plans.iter().enumerate() {
                if i > 0 {
                    println!();
                }
                print(&model, plan)?;
            }
        }
        if let Some(Err(e)) = self.board.map(|boards| boards.check(&plans, file_bytes)) {
            failed.push(e.to_string());
        }
        let budget = self.budget.unwrap_or(usize::MAX);
        let short: Vec<String> = plans
            .iter()
            .filter(|p| p.bytes() > budget)
            .map(|p| {
                let missing = p.bytes() - budget;
                format!("tier {} needs {} bytes, {missing} more", p.tier.name(), p.bytes())
            })
            .collect();
        if !short.is_empty() {
            failed.push(format!("over the budget of {budget} bytes: {}", short.join("; ")));
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("; "));
        }
        Ok(())
    }
}

fn print(model: &Model<'_>, plan: &Plan) -> anyhow::Result<()> {
    let exact = |n: usize| format!("{n} bytes ({})", super::bytes(n as u64));
    let tier = &plan.tier;
    println!("tier {}", tier.name());
    println!("  blocks        {}", blocks_line(tier, model.shape.config.n_scales()));
    println!("  decoder       {} of {}", tier.decoder, model.shape.n_decoders());
    println!("  arena         {}", exact(plan.bytes()));
    println!("  of it, cache  {}", exact(plan.cache_bytes()));
    println!("  lower bound   {}", exact(plan.floor()));
    println!("  weights       {}", exact(model.file_bytes()));
    if plan.images() > 1 {
        println!("  images        {} at once, {} each", plan.images(), exact(plan.image_bytes()));
    }
    println!("  work          {:.2} million MACs per image", plan.image_macs() as f64 / 1e6);
    println!("  largest step  {:.2} million MACs", plan.max_step_macs() as f64 / 1e6);
    println!();
    let mut picture = String::new();
    plan.draw(&mut picture)?;
    print!("{picture}");
    Ok(())
}

fn describe(model: &Model<'_>, plan: &Plan) -> serde_json::Value {
    let buffers: Vec<_> = plan
        .buffers()
        .map(|(name, b)| {
            json!({
                "name": name.to_string(), "bytes": b.size, "offset": b.offset,
                "first_tick": b.first, "last_tick": b.last,
            })
        })
        .collect();
    json!({
        "tier": plan.tier.name(),
        "images": plan.images(),
        "arena_bytes": plan.bytes(),
        "floor_bytes": plan.floor(),
        "cache_bytes": plan.cache_bytes(),
        "weights_bytes": model.file_bytes(),
        "total_macs": plan.total_macs(),
        "max_step_macs": plan.max_step_macs(),
        "buffers": buffers,
    })
}
