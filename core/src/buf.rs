//! The buffers that a plan may have, and their names.

use core::fmt;

use crate::config::{MAX_LEVELS, MAX_SCALES};

/// Alignment of the arena and of every buffer in it.
pub const ARENA_ALIGN: usize = 16;

/// Values per channel that the decoder's statistics hold: see [`Buf::Stats`].
pub const STATS: usize = 10;

/// A buffer of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Buf {
    /// Condition `[rows, C]` f32.
    Cond,
    /// Modulation `[rows, blocks or 1, 6C]` f32.
    Ada,
    /// Modulation before the head `[rows, 2C]` f32.
    HeadAda,
    /// Latent `[P_h, P_w, cvae]` f32.
    FHat,
    /// Residual stream `[rows, l_max, C]` f32.
    X,
    /// Keys and values of the current scale, for blocks that run no later one.
    KvNow,
    /// Working memory of a tile f32.
    Work,
    /// Modulation of the current block `[6C]` f32.
    Mod,
    /// Quantized rows of a tile.
    Rows,
    /// Scales of those rows `[tile]` f32.
    RowScale,
    /// Attention scores `[keys]` f32, then probabilities `[keys]` i16.
    Scores,
    /// One head: sums `[hd]` i32, query `[hd]` i8.
    Head,
    /// Logits `[rows, HEAD_TILE, V]` f32.
    Logits,
    /// Candidates of a draw `[V]` f32.
    Candidates,
    /// All tokens `[L]` u16.
    Tokens,
    /// Reduced latent: the inputs of the next scale `[l, cvae]` f32.
    Next,
    /// Enlarged code map `[P_h, P_w, cvae]` f32 and its half-way form `[pn_h, P_w, cvae]`.
    Enlarged,
    /// Halo strip of a phi convolution f32.
    PhiStrip,
    /// `post_quant_conv` output.
    Z,
    /// Statistics of the decoder's maps `[STATS, c_max]` f32.
    Stats,
    /// Halo strip of a decoder convolution: quantized or f32.
    Strip,
    /// Bytes kept free for the kernels of 3x3 convolutions: [`crate::Tier::conv_scratch`].
    ConvScratch,
    /// Output rows of a strip f32, and one input row.
    OutRows,
    /// Finished pixels of a strip `[rows, W, 3]` u8.
    Rgb,
    /// Queries, keys, values of the decoder's attention `[H W, 3c]`.
    MapQkv,
    /// Cache of the blocks whose last scale is `j`: row 0, then row 1.
    Kv(usize, usize),
    /// Map that a level begins with.
    Map(usize),
    /// Map of a level after its width changed.
    Wide(usize),
    /// Hidden map of a level's residual blocks.
    Hidden(usize),
    /// What the grid's tokens of the current block saw `[heads, keys]` f32: see [`crate::Keep`].
    Seen,
    /// Keys and values of the neighbourhood of one token.
    Near,
    /// No bytes: stands where an operation has one buffer less.
    Nothing,
    /// The largest stretch of the arena in which nothing lives while a decoder layer runs, `ConvScratch`
    /// included: the kernels of 3x3 convolutions work in it.
    Spare(usize),
}

const FIXED: usize = 27;
const KV0: usize = FIXED;
const MAP0: usize = KV0 + 2 * MAX_SCALES;
/// Buffers that a plan can have.
pub const MAX_BUFFERS: usize = MAP0 + 3 * MAX_LEVELS;

impl Buf {
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Cond => 0,
            Self::Ada => 1,
            Self::HeadAda => 2,
            Self::FHat => 3,
            Self::X => 4,
            Self::KvNow => 5,
            Self::Work => 6,
            Self::Mod => 7,
            Self::Rows => 8,
            Self::RowScale => 9,
            Self::Scores => 10,
            Self::Head => 11,
            Self::Logits => 12,
            Self::Candidates => 13,
            Self::Tokens => 14,
            Self::Next => 15,
            Self::Enlarged => 16,
            Self::PhiStrip => 17,
            Self::Z => 18,
            Self::Stats => 19,
            Self::Strip => 20,
            Self::OutRows => 21,
            Self::Rgb => 22,
            Self::MapQkv => 23,
            Self::ConvScratch | Self::Spare(_) | Self::Nothing => 24,
            Self::Seen => 25,
            Self::Near => 26,
            Self::Kv(row, j) => KV0 + (row & 1) * MAX_SCALES + j % MAX_SCALES,
            Self::Map(l) => MAP0 + l % MAX_LEVELS,
            Self::Wide(l) => MAP0 + MAX_LEVELS + l % MAX_LEVELS,
            Self::Hidden(l) => MAP0 + 2 * MAX_LEVELS + l % MAX_LEVELS,
        }
    }

    /// Whether the buffer of that index holds something between two scales.
    pub(crate) const fn outlives_scale(i: usize) -> bool {
        let cache = i >= KV0 && i < MAP0;
        cache
            || i == Self::Ada.index()
            || i == Self::HeadAda.index()
            || i == Self::FHat.index()
            || i == Self::Tokens.index()
            || i == Self::Next.index()
    }

    pub(crate) const NAMES: [&'static str; FIXED] = [
        "cond",
        "ada",
        "head ada",
        "f_hat",
        "x",
        "kv now",
        "work",
        "mod",
        "rows",
        "row scale",
        "scores",
        "head",
        "logits",
        "candidates",
        "tokens",
        "next",
        "enlarged",
        "phi strip",
        "z",
        "stats",
        "strip",
        "out rows",
        "rgb",
        "map qkv",
        "conv scratch",
        "seen",
        "near",
    ];
}

/// A place in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Bytes; 0 where the model needs no such buffer.
    pub size: u32,
    /// First byte in the arena.
    pub offset: u32,
    /// First tick at which it is live.
    pub first: u16,
    /// Last tick at which it is live.
    pub last: u16,
}

/// The name of a buffer, for pictures of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufName(pub(crate) usize);

impl fmt::Display for BufName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = self.0;
        if let Some(name) = Buf::NAMES.get(i) {
            return f.pad(name);
        }
        let (what, n) = match i {
            i if i < KV0 + MAX_SCALES => ("kv", i - KV0),
            i if i < MAP0 => ("kv null", i - KV0 - MAX_SCALES),
            i if i < MAP0 + MAX_LEVELS => ("map", i - MAP0),
            i if i < MAP0 + 2 * MAX_LEVELS => ("wide map", i - MAP0 - MAX_LEVELS),
            i => ("hidden", i - MAP0 - 2 * MAX_LEVELS),
        };
        let width =
            f.width().unwrap_or(0).saturating_sub(what.len() + 1 + if n > 9 { 2 } else { 1 });
        write!(f, "{:width$}{what} {n}", "")
    }
}
