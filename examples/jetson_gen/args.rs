//! The command line.

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use varmint::Sampling;

/// Makes pictures with a VAR model inside a fixed arena.
///
/// Without arguments: a contact sheet of a few emoji in every drawing style, from the model inside the
/// program.
#[derive(Parser)]
#[command(after_help = "Examples:
  jetson_gen                                          the contact sheet
  jetson_gen --class 'red heart' --style twemoji      one picture
  jetson_gen --class pizza                            a picture in every style
  jetson_gen --class 812 --style noto --count 16 --seed 7 --out sixteen.png
  jetson_gen --model my.vmt --tier int8 --json
  jetson_gen --device cuda                            on an NVIDIA GPU, or an error
  jetson_gen --device cuda --class pizza --count 64 --batch 16 --out pictures/
                                                      sixteen pictures at once, a file each")]
pub(crate) struct Args {
    /// Model file (.vmt) in place of the one inside the program
    #[arg(long)]
    pub(crate) model: Option<PathBuf>,
    /// Believe the weights of --model: a large file is ready at once, its checksum is not computed
    #[arg(long, requires = "model")]
    pub(crate) trust: bool,
    /// What to draw: a name or its number
    #[arg(long)]
    pub(crate) class: Option<String>,
    /// In which style: a name or its number
    #[arg(long)]
    pub(crate) style: Option<String>,
    /// Seed; the same seed gives the same picture on every machine
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Strength of classifier-free guidance
    #[arg(long, value_parser = finite)]
    pub(crate) guidance: Option<f32>,
    /// Keep the k likeliest tokens (0 = all, 1 = greedy)
    #[arg(long)]
    pub(crate) top_k: Option<u32>,
    /// Keep the likeliest tokens up to this mass (0 or 1 = all)
    #[arg(long, value_parser = finite)]
    pub(crate) top_p: Option<f32>,
    /// Tier of the model (default: its first)
    #[arg(long)]
    pub(crate) tier: Option<String>,
    /// Where to work: auto takes the GPU where this build (--features cuda) and the machine have one
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) device: Choice,
    /// Instruction set on the CPU: baseline, avx2, avx512, vnni, neon or dotprod (default: the best that this
    /// processor has)
    #[arg(long)]
    pub(crate) backend: Option<String>,
    /// Threads for large products and convolutions; small models do not gain from more than one
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// Pictures, with consecutive seeds
    #[arg(long)]
    pub(crate) count: Option<u64>,
    /// Pictures made at once: the same ones, in an arena for so many; on a GPU they take less time together
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) batch: u16,
    /// PNG to write; a folder (`pictures/`) gets one for every picture, written row by row as these are made
    #[arg(long, default_value = "varmint.png")]
    pub(crate) out: PathBuf,
    /// Show the latent after each scale
    #[arg(long)]
    pub(crate) preview: bool,
    /// Print the figures as JSON and nothing else
    #[arg(long)]
    pub(crate) json: bool,
    /// No picture in the terminal
    #[arg(long)]
    pub(crate) no_picture: bool,
}

/// Where to work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// The GPU if there is one.
    Auto,
    /// The GPU, or an error.
    Cuda,
    /// The processor.
    Cpu,
}

fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(v) if v.is_finite() => Ok(v),
        _ => Err("a finite number is wanted, like 2.0".into()),
    }
}

impl Args {
    /// The folder for the pictures, if it is to be one.
    pub(crate) fn folder(&self) -> Option<&Path> {
        let slash = self.out.as_os_str().to_string_lossy().ends_with(std::path::is_separator);
        (slash || self.out.is_dir()).then_some(&self.out)
    }

    /// Applies what was given to the model's defaults.
    pub(crate) fn sampling(&self, s: &mut Sampling) {
        s.guidance = self.guidance.unwrap_or(s.guidance);
        s.top_k = self.top_k.unwrap_or(s.top_k);
        s.top_p = self.top_p.unwrap_or(s.top_p);
    }
}
