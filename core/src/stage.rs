//! The stages of a run: what one `step()` does, in which order, and how much work it is.
//!
//! ```text
//! for each trunk:
//!   Setup, Ada.., HeadAda..                       the condition
//!   for each scale:  Begin
//!     for each block, row:  Keys per tile, Mix per tile, Keep
//!     Head, Draw per few tokens;  Fold            logits, tokens, latent
//! Decode: for each layer, its passes, strip by strip
//! ```
//!
//! A trunk that takes over (a refiner) first runs over the scales before its own, without a head: so its
//! caches come to hold what they would hold if it had drawn those tokens.
//!
//! `const`, so that a plan made at compile time knows its work too.

use crate::config::{Aln, Scale, Shape};
use crate::grid::on_grid;
use crate::heads::classes;
use crate::tensor::Layer;
use crate::tier::Tier;

/// Tokens whose logits are held at once.
pub const HEAD_TILE: usize = 4;

/// One bounded piece of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Stage {
    /// Sums the condition tables; the first one clears the latent.
    Setup {
        /// Trunk.
        trunk: usize,
    },
    /// Modulation of a block for one row (of all blocks, where the projection is shared).
    Ada {
        /// Trunk.
        trunk: usize,
        /// 0 conditional, 1 unconditional.
        row: usize,
        /// Block, or 0.
        block: usize,
    },
    /// Modulation before the head.
    HeadAda {
        /// Trunk.
        trunk: usize,
        /// 0 conditional, 1 unconditional.
        row: usize,
    },
    /// Embeds the inputs of a scale.
    Begin {
        /// Trunk.
        trunk: usize,
        /// Scale.
        scale: usize,
    },
    /// Keys and values of a tile of tokens.
    Keys(Tile),
    /// Attention and feed-forward of a tile of tokens.
    Mix(Tile),
    /// Chooses which tokens of a row of a block stay in its cache.
    Keep(Tile),
    /// Logits of a few tokens.
    Head {
        /// Scale.
        scale: usize,
        /// First token.
        at: usize,
    },
    /// Guidance and draw of those tokens.
    Draw {
        /// Scale.
        scale: usize,
        /// First token.
        at: usize,
    },
    /// Adds the scale to the latent; reduces it for the next scale.
    Fold {
        /// Scale.
        scale: usize,
    },
    /// A strip of a pass of a decoder layer.
    Decode {
        /// Layer in order of execution.
        layer: usize,
        /// Pass.
        pass: Pass,
        /// First output row.
        y: usize,
    },
    /// Nothing left.
    Done,
}

/// A tile of tokens in a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Tile {
    /// Trunk.
    pub trunk: usize,
    /// Scale.
    pub scale: usize,
    /// 0 conditional, 1 unconditional; the first of both where they run together.
    pub row: usize,
    /// Block.
    pub block: usize,
    /// First token in the scale.
    pub at: usize,
}

/// The passes of a decoder layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Pass {
    /// Range of the latent, which no layer wrote.
    Scan,
    /// Variance of the input map, for its norm.
    Norm1,
    /// First convolution, or queries, keys and values.
    First,
    /// Variance of the hidden map.
    Norm2,
    /// Second convolution, or attention.
    Second,
}

/// Both of a layer's norm passes go over the whole map at once: they multiply nothing.
const fn first_pass(layer: Layer, at: usize) -> Pass {
    match layer {
        Layer::Conv { .. } if at == 0 => Pass::Scan,
        Layer::Conv { .. } | Layer::Up { .. } => Pass::First,
        Layer::Res { .. } | Layer::Attention { .. } | Layer::Out { .. } => Pass::Norm1,
    }
}

const fn next_pass(layer: Layer, pass: Pass) -> Option<Pass> {
    match (layer, pass) {
        (_, Pass::Scan | Pass::Norm1) => Some(Pass::First),
        (Layer::Res { .. }, Pass::First) => Some(Pass::Norm2),
        (Layer::Res { .. }, Pass::Norm2) | (Layer::Attention { .. }, Pass::First) => {
            Some(Pass::Second)
        }
        _ => None,
    }
}

/// The lowest block of a mask that is not below `from`.
const fn next_block(mask: u64, from: usize) -> Option<usize> {
    if from >= 64 {
        return None;
    }
    let rest = mask >> from;
    if rest == 0 { None } else { Some(from + rest.trailing_zeros() as usize) }
}

/// Height and width of the output map of a layer whose input is at `level`.
pub const fn out_size(shape: &Shape, tier: &Tier, layer: Layer, level: usize) -> (usize, usize) {
    let level = if let Layer::Up { .. } = layer { level.saturating_sub(1) } else { level };
    map_size(shape, tier, level)
}

/// Height and width of the maps of a level.
pub const fn map_size(shape: &Shape, tier: &Tier, level: usize) -> (usize, usize) {
    let d = shape.decoder(tier.decoder);
    let latent = shape.config.latent();
    let f = 1 << (d.levels as usize - 1).saturating_sub(level);
    (latent.h as usize * f, latent.w as usize * f)
}

impl Stage {
    /// The first stage of an image.
    pub const START: Self = Self::Setup { trunk: 0 };

    /// The stage after this one.
    pub const fn next(self, shape: &Shape, tier: &Tier) -> Self {
        let c = &shape.config;
        match self {
            Self::Setup { trunk } => Self::Ada { trunk, row: 0, block: 0 },
            Self::Ada { trunk, row, block } => {
                let shared = matches!(shape.trunk(trunk).aln, Aln::Shared);
                let mask = if shared { 0 } else { tier.blocks_of(trunk, 0) };
                match next_block(mask, block + 1) {
                    Some(block) => Self::Ada { trunk, row, block },
                    None if row + 1 < tier.rows_of(trunk, 0) => {
                        Self::Ada { trunk, row: row + 1, block: 0 }
                    }
                    None => Self::HeadAda { trunk, row: 0 },
                }
            }
            Self::HeadAda { trunk, row } if row + 1 < tier.rows_of(trunk, 0) => {
                Self::HeadAda { trunk, row: row + 1 }
            }
            Self::HeadAda { trunk, .. } => Self::Begin { trunk, scale: 0 },
            Self::Begin { trunk, scale } => {
                let block = match next_block(tier.blocks_of(trunk, scale), 0) {
                    Some(b) => b,
                    None => 0,
                };
                Self::Keys(Tile { trunk, scale, row: 0, block, at: 0 })
            }
            Self::Keys(t) => {
                let at = t.at + tier.tile;
                if at < c.scale(t.scale).tokens() {
                    Self::Keys(Tile { at, ..t })
                } else {
                    Self::Mix(Tile { at: 0, ..t })
                }
            }
            Self::Mix(t) => {
                let at = t.at + tier.tile;
                if at < c.scale(t.scale).tokens() {
                    return Self::Mix(Tile { at, ..t });
                }
                let keep = &tier.keep;
                if keep.drops(c, 0, t.scale) || keep.drops(c, 1, t.scale) {
                    return Self::Keep(Tile { at: 0, ..t });
                }
                let row = t.row + tier.rows_at_once(t.trunk, t.scale) - 1;
                Self::Keep(Tile { row, ..t }).next(shape, tier)
            }
            Self::Keep(t) => {
                // Both rows of a block one after the other: its weights are still near.
                if t.row + 1 < tier.rows_of(t.trunk, t.scale) {
                    let next = Tile { row: t.row + 1, at: 0, ..t };
                    return if tier.together { Self::Keep(next) } else { Self::Keys(next) };
                }
                match next_block(tier.blocks_of(t.trunk, t.scale), t.block + 1) {
                    Some(block) => Self::Keys(Tile { row: 0, block, at: 0, ..t }),
                    None if tier.trunk(t.scale) == t.trunk => Self::Head { scale: t.scale, at: 0 },
                    None => Self::Begin { trunk: t.trunk, scale: t.scale + 1 },
                }
            }
            Self::Head { scale, at } => Self::Draw { scale, at },
            Self::Draw { scale, at } => {
                let at = at + HEAD_TILE;
                if at < c.scale(scale).tokens() {
                    Self::Head { scale, at }
                } else {
                    Self::Fold { scale }
                }
            }
            Self::Fold { scale } if scale + 1 < c.n_scales() => {
                let trunk = tier.trunk(scale + 1);
                if trunk == tier.trunk(scale) {
                    Self::Begin { trunk, scale: scale + 1 }
                } else {
                    Self::Setup { trunk }
                }
            }
            Self::Fold { .. } => Self::Decode { layer: 0, pass: Pass::Scan, y: 0 },
            Self::Decode { layer, pass, y } => {
                let d = shape.decoder(tier.decoder);
                let z = c.cvae as usize;
                let (kind, level) = d.layer(z, layer);
                let (h, _) = out_size(shape, tier, kind, level);
                let whole = matches!(pass, Pass::Scan | Pass::Norm1 | Pass::Norm2);
                let y = y + tier.strip;
                if !whole && y < h {
                    return Self::Decode { layer, pass, y };
                }
                if let Some(pass) = next_pass(kind, pass) {
                    return Self::Decode { layer, pass, y: 0 };
                }
                if layer + 1 < d.n_layers() {
                    let pass = first_pass(d.layer(z, layer + 1).0, layer + 1);
                    return Self::Decode { layer: layer + 1, pass, y: 0 };
                }
                Self::Done
            }
            Self::Done => Self::Done,
        }
    }

    /// Multiply-accumulates of the stage (matrix products, convolutions and attention).
    #[allow(clippy::indexing_slicing, reason = "a loop bound; const fn has no `get`")]
    pub const fn macs(self, shape: &Shape, tier: &Tier) -> u64 {
        let c = &shape.config;
        let (v, z) = (c.vocab as u64, c.cvae as u64);
        let latent = c.latent();
        match self {
            Self::Setup { .. } | Self::Done | Self::Keep(_) | Self::Begin { scale: 0, .. } => 0,
            Self::Ada { trunk, .. } => match shape.trunk(trunk).aln {
                Aln::Baked => 0,
                _ => 6 * width(shape, trunk) * width(shape, trunk),
            },
            Self::HeadAda { trunk, .. } => 2 * width(shape, trunk) * width(shape, trunk),
            Self::Begin { trunk, scale } => {
                c.scale(scale).tokens() as u64 * width(shape, trunk) * z
            }
            Self::Keys(t) => {
                let w = width(shape, t.trunk);
                let rows = tier.rows_at_once(t.trunk, t.scale) as u64;
                rows * tile_len(c.scale(t.scale).tokens(), t.at, tier.tile) * 2 * w * w
            }
            Self::Mix(t) => {
                let (w, hidden) = (width(shape, t.trunk), shape.trunk(t.trunk).hidden as u64);
                let map = c.scale(t.scale);
                let n = tile_len(map.tokens(), t.at, tier.tile);
                let own = match tier.keep.window_at(t.scale) {
                    0 => map.tokens(),
                    side => least(side, map.h as usize) * least(side, map.w as usize),
                };
                let (mut looks, mut i) = (0, 0);
                let classes = classes(shape.trunk(t.trunk), tier, t.block);
                while i < classes.len() {
                    let before = tier.keep.before(c, classes[i].class, t.scale);
                    let mut rows = 2 * n * (before + own) as u64;
                    if tier.keep.drops(c, classes[i].class, t.scale) {
                        let seen = on_grid_from(map, tier.keep.grid, t.at, n as usize);
                        rows += seen * (before + map.tokens()) as u64;
                    }
                    looks += classes[i].width() as u64 * rows;
                    i += 1;
                }
                let rows = tier.rows_at_once(t.trunk, t.scale) as u64;
                rows * (n * (2 * w * w + 2 * w * hidden) + looks)
            }
            Self::Head { scale, at } => {
                let n = tile_len(c.scale(scale).tokens(), at, HEAD_TILE);
                tier.rows(scale) as u64 * n * v * width(shape, tier.trunk(scale))
            }
            Self::Draw { scale, at } => tile_len(c.scale(scale).tokens(), at, HEAD_TILE) * v,
            Self::Fold { scale } => {
                // Enlarged, or enlarged twice; the last scale has its size already.
                let up = if scale + 1 < c.n_scales() { 8 } else { 0 };
                let other = if c.replaces() { 8 } else { 9 * z };
                latent.tokens() as u64 * z * (other + up)
            }
            Self::Decode { layer, pass, y } => {
                let (kind, level) = shape.decoder(tier.decoder).layer(z as usize, layer);
                let (h, wide) = out_size(shape, tier, kind, level);
                let pixels = tile_len(h, y, tier.strip) * wide as u64;
                let per = match (kind, pass) {
                    (_, Pass::Scan | Pass::Norm1 | Pass::Norm2) => 0,
                    (Layer::Conv { cin, cout }, _) => 9 * cin * cout,
                    (Layer::Res { cin, cout }, Pass::First) => 9 * cin * cout,
                    (Layer::Res { cin, cout }, _) => {
                        9 * cout * cout + if cin == cout { 0 } else { cin * cout }
                    }
                    (Layer::Attention { c }, Pass::First) => 3 * c * c,
                    (Layer::Attention { c }, _) => c * c + 2 * c * h * wide,
                    (Layer::Up { c }, _) => 9 * c * c,
                    (Layer::Out { c }, _) => 27 * c,
                };
                pixels * per as u64
            }
        }
    }
}

/// Items of a tile that starts at `at`.
const fn tile_len(n: usize, at: usize, tile: usize) -> u64 {
    let left = n.saturating_sub(at);
    (if left < tile { left } else { tile }) as u64
}

const fn least(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

/// How many of `n` tokens from `at` on stand on the grid.
const fn on_grid_from(map: Scale, side: usize, at: usize, n: usize) -> u64 {
    let (mut i, mut count) = (at, 0);
    while i < at + n {
        count += on_grid(map, side, i) as u64;
        i += 1;
    }
    count
}

const fn width(shape: &Shape, trunk: usize) -> u64 {
    shape.trunk(trunk).width as u64
}
