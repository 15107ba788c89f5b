//! `varmint inspect`.

use std::path::PathBuf;

use anyhow::Context;
use varmint::{Encoder, encoder};
use varmint_quant::inspect::{
    EncoderSummary, KeepInfo, Summary, TensorInfo, encoder_summary, summary,
};

const EXAMPLES: &str = "\
Examples:
  varmint inspect emoji-64.vmt
  varmint inspect emoji-64.vmt --tensors
  varmint inspect emoji-64.vmt --json | jq .tiers
  varmint inspect emoji-64.vme";

/// Show what a .vmt model file or a .vme encoder file holds.
///
/// The file is checked first, every byte of it, as a device would: a damaged file is an error that
/// names the fault and the byte.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The model or encoder file.
    file: PathBuf,
    /// List every tensor too.
    #[arg(long)]
    tensors: bool,
    /// As JSON.
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let file = super::open(&self.file)?;
        let name = || self.file.display().to_string();
        if file.bytes().starts_with(&encoder::MAGIC) {
            let encoder = Encoder::parse(file.bytes()).with_context(name)?;
            let s = encoder_summary(&encoder, self.tensors);
            if self.json {
                println!("{}", serde_json::to_string_pretty(&s)?);
            } else {
                print_encoder(&s);
            }
            return Ok(());
        }
        let model = file.model().with_context(name)?;
        let s = summary(&model, self.tensors);
        if self.json {
            println!("{}", serde_json::to_string_pretty(&s)?);
        } else {
            print(&s);
        }
        Ok(())
    }
}

fn print(s: &Summary) {
    println!("{} (release {}), {}", s.name, s.sequence, super::bytes(s.file_bytes));
    println!("  image     {} x {} pixels", s.image[0], s.image[1]);
    println!("  codebook  {} entries of {} channels, {} phi", s.vocab, s.cvae, s.n_phi);
    println!(
        "  sampling  guidance {}, top-k {}, top-p {}, temperature {}",
        s.guidance, s.top_k, s.top_p, s.temperature
    );
    println!("  schedule  {} scales, {} tokens", s.scales.len(), s.tokens);
    let row = |f: &dyn Fn(usize) -> String| {
        (0..s.scales.len()).map(|k| format!("{:>6}", f(k))).collect::<String>()
    };
    let size = |k: usize| match s.scales[k] {
        s if s.h == s.w => s.h.to_string(),
        s => format!("{}x{}", s.h, s.w),
    };
    println!("    size    {}", row(&size));
    if s.replace {
        println!("    latent  the last scale alone");
    } else {
        println!("    phi     {}", row(&|k| s.scales[k].phi.to_string()));
    }
    if s.scales.iter().any(|s| s.greedy) {
        println!("    greedy  {}", row(&|k| if s.scales[k].greedy { "yes" } else { "no" }.into()));
    }
    if s.scales.iter().any(|s| s.ramp != 0) {
        let share = |k: usize| match s.scales[k].ramp {
            0 => format!("{k}/{}", s.scales.len() - 1),
            d => format!("{k}/{d}"),
        };
        println!("    guided  {}", row(&share));
    }
    for t in &s.tables {
        let names = if t.labels == 0 { "no names".to_owned() } else { t.first.join(", ") };
        let dots = if t.labels > t.first.len() { ", .." } else { "" };
        println!("  table     {}: {} rows + \"not given\" ({names}{dots})", t.name, t.rows - 1);
    }
    for (i, t) in s.trunks.iter().enumerate() {
        let ada = match t.aln {
            "own" => "AdaLN per block",
            "shared" => "one AdaLN for all blocks",
            _ => "AdaLN multiplied out for every class",
        };
        let l2 = if t.l2_norm { "normalised" } else { "plain" };
        println!(
            "  trunk {i}   {} blocks, width {}, {} heads, hidden {}, {ada}, {l2} q and k, inputs of {} B",
            t.depth, t.width, t.heads, t.hidden, t.act
        );
        if t.wide_heads.iter().any(|n| *n > 0) {
            println!("            wide heads by block: {}", joined(&t.wide_heads));
        }
    }
    for (i, d) in s.decoders.iter().enumerate() {
        println!(
            "  decoder {i} widths {:?} (full resolution first), {} blocks per level, attention at {:?}, x{}, inputs of {} B",
            d.widths, d.blocks, d.attention_levels, d.factor, d.act
        );
    }
    for t in &s.tiers {
        println!(
            "  tier      {}: cache {}, maps {}, {} guided scales, decoder {}, tile {}, strip {}, conv scratch {} B",
            t.name, t.cache, t.maps, t.guided, t.decoder, t.tile, t.strip, t.conv_scratch
        );
        println!("    trunk   {}", row(&|k| t.trunks[k].to_string()));
        println!("    blocks  {}", row(&|k| t.blocks[k].to_string()));
        for (k, active) in t.active.iter().enumerate() {
            let all = active.len() == s.trunks[t.trunks[k]].depth as usize;
            let same = k > 0 && (t.trunks[k - 1], &t.active[k - 1]) == (t.trunks[k], active);
            if !all && !same {
                let list: Vec<String> = active.iter().map(u32::to_string).collect();
                println!("            only {} from scale {k} on", list.join("+"));
            }
        }
        if let Some(keep) = &t.keep {
            println!("    cache   {}", kept(keep));
        }
    }
    println!();
    super::print_groups(&s.groups, s.file_bytes);
    print_tensors(&s.tensors);
    println!("\nlicence\n{}", s.licence.trim_end());
}

fn print_tensors(tensors: &[TensorInfo]) {
    if tensors.is_empty() {
        return;
    }
    println!("\n  {:<36} {:>20} {:<7} {:>12}", "tensor", "rows x taps x cols", "storage", "bytes");
    for t in tensors {
        let [rows, taps, cols] = t.shape;
        let shape = format!("{rows} x {taps} x {cols}");
        println!("  {:<36} {shape:>20} {:<7} {:>12}", t.name, t.dtype, t.bytes);
    }
}

fn print_encoder(s: &EncoderSummary) {
    println!("an image encoder, {}", super::bytes(s.file_bytes));
    println!("  latent    {} channels, {} pixels to a side of one cell", s.cvae, s.factor);
    println!(
        "  layers    {} channels first, then widths {:?}, {} blocks per level, attention at {:?}, inputs of {} B",
        s.stem, s.widths, s.blocks, s.attention_levels, s.act
    );
    match s.codebook {
        Some(crc) => println!("  models    those whose codebook has the checksum {crc:08x}"),
        None => println!("  models    not said"),
    }
    print_tensors(&s.tensors);
}

fn joined(all: &[usize]) -> String {
    all.iter().map(usize::to_string).collect::<Vec<_>>().join(" ")
}

/// What stays in the cache, and what a token sees.
fn kept(k: &KeepInfo) -> String {
    let mut line =
        format!("after each scale {} tokens, of wide heads {}", joined(&k.others), joined(&k.wide));
    if k.grid > 0 {
        line += &format!(
            "; chosen by {0} x {0} queries, {1} neighbours together, first {2} scales of wide heads stay",
            k.grid, k.pool, k.protect
        );
    }
    if k.window > 0 {
        line += &format!("; own scale {0} x {0} from scale {1} on", k.window, k.window_from);
    }
    line
}
