//! `varmint convert`.

use std::path::PathBuf;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use varmint_quant::inspect::groups;
use varmint_quant::meta::Defaults;
use varmint_quant::official::Layout;
use varmint_quant::official::var::parse_scales;
use varmint_quant::quantize::dtype_name;
use varmint_quant::{Calibration, Keep, Meta, MoreDecoder, MoreTier, Options, Report};

use super::Format;

const EXAMPLES: &str = "\
Examples:
  The released 256-pixel model in int8, and the encoder for editing (var-d16.vme):
    varmint convert --var var_d16.pth --vae vae_ch160v4096z32.pth --encoder vae_ch160v4096z32.pth \\
        -o var-d16.vmt
  A model that was trained with train/, in f16, with names, licence and labels:
    varmint convert --var out/var.safetensors --vae out/vae.safetensors --meta out/meta.json \\
        --numbers f16 -o emoji-64-f16.vmt
  Both in one file, the head left in f16, and a report of what int8 costs:
    varmint convert --weights weights.safetensors --scales 1,2,3,4 --keep f16:head --report -o m.vmt
  One file for many devices: fewer blocks at late scales, a narrower image decoder, and a second
  transformer that takes over at scale 4:
    varmint convert --var var.safetensors --vae vae.safetensors --meta meta.json \\
        --refiner refiner.safetensors --decoder narrow=narrow.safetensors --first-tier full \\
        --tier half:blocks=4@3,blocks=2@5 --tier duet:refiner=4,cache=f16 \\
        --tier micro:blocks=0+2+5+7@2,decoder=narrow,tile=4,strip=2 -o m.vmt
  For a device that draws three things: their modulation multiplied out, no other classes:
    varmint convert --var var_d16.pth --vae vae_ch160v4096z32.pth --numbers int4 --bake --classes 207,281,985 -o dog-cat-daisy.vmt
  Caches of a quarter or half of the history, more for heads that look far back:
    varmint calibrate m.vmt -o calibration.json
    varmint convert --var var.safetensors --vae vae.safetensors --calibration calibration.json \\
        --tier half:keep=calibrated --tier quarter:keep=25%/90%,window=7@8 -o m-half.vmt

A tier is the first one with other values. Its keys:
  tile=N, strip=N, guided=SCALES, scratch=BYTES   as the options; the last one is --conv-scratch
  cache=f32|f16|i8    how keys and values are stored
  decoder=NAME        an image decoder of --decoder, or full, that of --vae
  blocks=N@SCALE      from that scale on (counted from 0) only N blocks: evenly, with both ends
  blocks=0+2+5@SCALE  from that scale on only these. blocks= may be repeated; lists only shrink
  refiner=SCALE       from that scale on the refiner; a blocks= there or later is about its blocks
  keep=OTHERS/WIDE@SCALE   from after that scale on [0] so many tokens stay in the cache; WIDE is for the heads
                      that --calibration found to look far back, and all if it is left out. 64 is a
                      number, 25% is of what the next scale would see of earlier ones; all; 0: a scale sees
                      itself only. 12+30+64 goes from scale to scale, and on with the last
  keep=calibrated     the numbers that --calibration suggests
  grid=N [4], pool=N [5], protect=SCALES [2]   which tokens stay: those that the queries of an N x N grid of
                      the scale attend to, averaged over so many neighbours; wide heads keep the first scales
  window=SIDE@SCALE   from that scale on [0] a token sees only so many rows and columns of its own scale";

/// Write a .vmt model file from the weights of a VAR model.
///
/// Reads official-layout checkpoints, .safetensors or .pth (no Python needed, nothing in them is
/// executed): flat state dicts, both models in one file under prefixes, or a training checkpoint.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Transformer weights.
    #[arg(long, value_name = "FILE", required_unless_present = "weights", requires = "vae")]
    var: Option<PathBuf>,
    /// VQVAE weights (codebook and image decoder).
    #[arg(long, value_name = "FILE", requires = "var")]
    vae: Option<PathBuf>,
    /// One file that holds both.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["var", "vae"])]
    weights: Option<PathBuf>,
    /// Weights of a second transformer, of any depth and width, which tiers may use for late scales. It must
    /// have the vocabulary, scales and condition tables of the first.
    #[arg(long, value_name = "FILE")]
    refiner: Option<PathBuf>,
    /// A further image decoder of the same latent: post_quant_conv and decoder are read. The name is
    /// for --tier; may be repeated, up to 3 times.
    #[arg(long, value_name = "NAME=FILE")]
    decoder: Vec<MoreDecoder>,
    /// Also write the encoder, which editing needs, beside the output and called .vme: encoder and quant_conv of
    /// this file, which may be that of --vae. See `varmint encoder`.
    #[arg(long, value_name = "FILE")]
    encoder: Option<PathBuf>,
    /// Name, licence, labels, default sampling and schedule, as train/export.py writes them.
    #[arg(long, value_name = "FILE")]
    meta: Option<PathBuf>,
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Number format.
    #[arg(long, value_enum, default_value = "int8")]
    numbers: Format,
    /// Store tensors of these roles otherwise; may be repeated (example: f16:head,fc2). With a number,
    /// only in that block or decoder layer (example: i8wide:conv.13). Of every trunk and decoder.
    #[arg(long, value_name = "STORAGE:ROLE,..")]
    keep: Vec<String>,
    /// The model's name [default: from --meta, else the name of the output file].
    #[arg(long)]
    name: Option<String>,
    /// A text file with licences and credits.
    #[arg(long, value_name = "FILE")]
    licence_file: Option<PathBuf>,
    /// Default strength of guidance [default: from --meta, else the layout's, 1.5 of var].
    #[arg(long)]
    guidance: Option<f32>,
    /// Default number of tokens kept, 0 for all [default: from --meta, else 900].
    #[arg(long)]
    top_k: Option<u32>,
    /// Default mass kept, 0 for all [default: from --meta, else 0.96].
    #[arg(long)]
    top_p: Option<f32>,
    /// Default temperature [default: from --meta, else 1].
    #[arg(long)]
    temperature: Option<f32>,
    /// Scale sizes, sides or HxW; any for flexvar [default: from --meta, else from the weights, else those of
    /// the 256-pixel models].
    #[arg(long, value_name = "1,2,3,4")]
    scales: Option<String>,
    /// What kind of transformer it is: var, mvar, flexvar or hmar. mvar has to be said, since its weights look
    /// like those of var; the others are known by their keys.
    #[arg(long)]
    layout: Option<Layout>,
    /// Attention heads, for weights that do not say (no scale_mul_1H11); not of the refiner, which has
    /// width / 64 then [default: width / 64].
    #[arg(long)]
    heads: Option<usize>,
    /// Scales that run with guidance [default: all].
    #[arg(long, value_name = "SCALES")]
    guided: Option<usize>,
    /// Tokens per call of a block: more is faster, less needs less memory [default: 16; 128 for wide models].
    #[arg(long, value_name = "TOKENS")]
    tile: Option<u16>,
    /// Rows per call of a decoder layer.
    #[arg(long, default_value_t = 8)]
    strip: u16,
    /// Bytes to keep free for the kernels of 3x3 convolutions, for speed; they use what the arena has free
    /// anyway [default: 0; 1 MiB for large image decoders].
    #[arg(long, value_name = "BYTES")]
    conv_scratch: Option<u32>,
    /// The first tier's name [default: the number format].
    #[arg(long, value_name = "NAME")]
    first_tier: Option<String>,
    /// A further tier, best first: the first one with other values, listed below; may be repeated
    /// (example: small:tile=4,strip=2).
    #[arg(long, value_name = "NAME:KEY=VALUE,..")]
    tier: Vec<MoreTier>,
    /// What `varmint calibrate` found on an earlier file of these weights: heads that look far back are put
    /// first, so that tiers can keep more tokens for them. Changes no picture.
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Multiply the modulation (AdaLN) out: a row of numbers for every class takes the place of the projections, a third of
    /// the weights. A picture then reads two rows of every block's. For models of one condition table; the file is smaller
    /// with few --classes only.
    #[arg(long)]
    bake: bool,
    /// Keep only these classes, numbered anew in this order: numbers, ranges or names (example: 207,250-259,goldfish).
    #[arg(long, value_name = "CLASS,..", value_delimiter = ',')]
    classes: Vec<String>,
    /// Release number of the model; devices with two slots start the larger one.
    #[arg(long, default_value_t = 0)]
    sequence: u32,
    /// Measure the signal-to-noise ratio of every stored tensor and list the worst.
    #[arg(long)]
    report: bool,
    /// No progress bar.
    #[arg(short, long)]
    quiet: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let options = self.options()?;
        let meta = self.meta.as_deref().map_or(Ok(Meta::default()), Meta::read)?;
        let bar = if self.quiet { ProgressBar::hidden() } else { ProgressBar::new(0) };
        let style = "{bar:30} {pos}/{len} tensors, {elapsed}";
        bar.set_style(ProgressStyle::with_template(style)?);
        let report = varmint_quant::convert(&options, &meta, &self.output, |done, total| {
            bar.set_length(total as u64);
            bar.set_position(done as u64);
        });
        bar.finish_and_clear();
        self.print(&report?);
        if let Some(weights) = &self.encoder {
            let file = super::open(&self.output)?;
            let out = self.output.with_extension("vme");
            super::encoder::write(weights, &file.model()?, self.numbers, &out)?;
        }
        Ok(())
    }

    fn options(&self) -> anyhow::Result<Options> {
        let inputs = [&self.var, &self.vae, &self.weights].into_iter().flatten().cloned();
        let mut options = Options::new(inputs.collect(), self.numbers.into());
        for text in &self.keep {
            options.keep.extend(Keep::parse(text)?);
        }
        if let Some(path) = &self.licence_file {
            let text = std::fs::read_to_string(path);
            options.licence = Some(text.with_context(|| path.display().to_string())?);
        }
        if let Some(text) = &self.scales {
            options.scales =
                Some(parse_scales(text).map_err(|e| anyhow::anyhow!("--scales: {e}"))?);
        }
        options.name = self.name.clone();
        options.sampling = Defaults {
            guidance: self.guidance,
            top_k: self.top_k,
            top_p: self.top_p,
            temperature: self.temperature,
        };
        options.layout = self.layout;
        (options.heads, options.guided) = (self.heads, self.guided);
        (options.tile, options.strip) = (self.tile, self.strip);
        options.conv_scratch = self.conv_scratch;
        (options.refiner, options.decoders) = (self.refiner.clone(), self.decoder.clone());
        (options.first_tier, options.tiers) = (self.first_tier.clone(), self.tier.clone());
        options.calibration = self.calibration.as_deref().map(Calibration::read).transpose()?;
        (options.bake, options.classes) = (self.bake, self.classes.clone());
        (options.sequence, options.measure) = (self.sequence, self.report);
        Ok(options)
    }

    fn print(&self, report: &Report) {
        println!("{}: {}", self.output.display(), report.name);
        super::print_groups(
            &groups(report.tensors.iter().map(|t| (t.spec, t.bytes))),
            report.file_bytes,
        );
        if !self.report {
            return;
        }
        let mut worst: Vec<_> = report
            .tensors
            .iter()
            .filter_map(|t| Some((t.snr_db.filter(|db| db.is_finite())?, t)))
            .collect();
        if worst.is_empty() {
            println!("\n  every tensor is exact");
            return;
        }
        worst.sort_by(|a, b| a.0.total_cmp(&b.0));
        println!("\n  {:>8}  {:<7} tensor", "SNR dB", "storage");
        for (db, t) in worst.iter().take(20) {
            println!("  {db:>8.1}  {:<7} {}", dtype_name(t.dtype), t.key);
        }
        let more = worst.len().saturating_sub(20);
        let exact = report.tensors.len() - worst.len();
        println!("  ({more} better ones not shown; {exact} tensors are exact or f32 vectors)");
    }
}
