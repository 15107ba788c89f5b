//! `varmint synth`, for those who measure; not in the help.

use std::path::PathBuf;

use varmint_quant::description::TierRow;
use varmint_quant::synth::{Shape, synth};

use super::Format;

/// Write a model of random weights, by default in the shape of VAR-d16 (256 x 256 pixels).
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file to write.
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Number format.
    #[arg(long, value_enum, default_value = "int8")]
    numbers: Format,
    /// Blocks; the width is 64 times that.
    #[arg(long, default_value_t = 16)]
    depth: u32,
    /// Sides of the scales [default: those of VAR-d16].
    #[arg(long, value_name = "1,2,3,4", value_delimiter = ',')]
    scales: Option<Vec<u16>>,
    /// Channels of the decoder at full resolution.
    #[arg(long, default_value_t = 160)]
    channels: u16,
    /// Tokens per call of a block.
    #[arg(long, default_value_t = 128)]
    tile: u16,
    /// Rows per call of a decoder layer.
    #[arg(long, default_value_t = 8)]
    strip: u16,
    /// Bytes to keep free for the kernels of 3x3 convolutions.
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    conv_scratch: u32,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let default = Shape::default();
        let scales = self.scales.unwrap_or_else(|| default.scales.clone());
        let shape = Shape { depth: self.depth, scales, channels: self.channels, ..default };
        let numbers = self.numbers.into();
        let (tile, strip, conv_scratch) = (self.tile, self.strip, self.conv_scratch);
        let tier = TierRow { tile, strip, conv_scratch, ..shape.full_tier(numbers) };
        let n = synth(&self.output, &shape, numbers, tier)?;
        println!("{}: {}", self.output.display(), super::bytes(n));
        Ok(())
    }
}
