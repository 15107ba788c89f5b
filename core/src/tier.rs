//! A tier: one way to run the model, chosen at run time. A row of the file, never code.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::config::{MAX_SCALES, Shape};
pub use crate::context::{KEEP_ALL, Keep};
use crate::error::{Error, Fault};

/// Bytes of one tier record.
pub const TIER_BYTES: usize = 256;

/// Largest [`Tier::conv_scratch`].
pub const MAX_CONV_SCRATCH: usize = 1 << 26;

/// How a number is stored in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Store {
    /// 32-bit float.
    F32 = 0,
    /// 16-bit float.
    F16 = 1,
    /// 8-bit integer with one f16 scale per (token, head). Key/value cache only.
    I8 = 2,
}

impl Store {
    /// Bytes of one value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::I8 => 1,
        }
    }

    const fn parse(b: u8) -> Option<Self> {
        match b {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            2 => Some(Self::I8),
            _ => None,
        }
    }
}

/// A row of the tier table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tier {
    name: [u8; 16],
    trunks: [u8; MAX_SCALES],
    blocks: [u64; MAX_SCALES],
    /// Position in the file's table.
    pub index: usize,
    /// How keys and values are stored.
    pub cache: Store,
    /// How the decoder's feature maps are stored.
    pub maps: Store,
    /// Scales before this one run the unconditional row too (guidance).
    pub guided: usize,
    /// Which decoder makes the pixels.
    pub decoder: usize,
    /// Tokens per call of a block: the working memory and the work of one step.
    pub tile: usize,
    /// Rows per call of a decoder layer.
    pub strip: usize,
    /// Bytes kept free for the kernels of the decoder's 3x3 convolutions, which hold transformed inputs
    /// and weights there. They use whatever the arena has free anyway, so 0 is common; more is faster,
    /// the bits are the same.
    pub conv_scratch: usize,
    /// Whether both rows of a tile run in one call of a block, which reads its weights once for both but
    /// needs working memory for both; else one after the other. The same bits.
    pub together: bool,
    /// What stays in the cache, and what a token sees.
    pub keep: Keep,
}

const fn bad(at: usize) -> Result<Tier, Error> {
    Err(Error::file(Fault::Tier, at))
}

impl Tier {
    /// The tier's name.
    pub fn name(&self) -> &str {
        let end = self.name.iter().position(|&b| b == 0).unwrap_or(self.name.len());
        self.name.get(..end).and_then(|n| core::str::from_utf8(n).ok()).unwrap_or("")
    }

    /// Which trunk runs scale `k`.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn trunk(&self, k: usize) -> usize {
        if k < MAX_SCALES { self.trunks[k] as usize } else { 0 }
    }

    /// The first scale that `trunk` draws. A refiner first runs over the scales before it, to fill its caches.
    pub const fn first_scale(&self, trunk: usize) -> usize {
        let mut k = 0;
        while k < MAX_SCALES && self.trunk(k) != trunk {
            k += 1;
        }
        k
    }

    /// Where the last trunk takes over: it needs the inputs of all scales up to here. 0 with one trunk.
    pub const fn handoff(&self) -> usize {
        let (mut k, mut at) = (1, 0);
        while k < MAX_SCALES {
            if self.trunk(k) > self.trunk(k - 1) {
                at = k;
            }
            k += 1;
        }
        at
    }

    /// The scale whose blocks and rows `trunk` uses at scale `k`: its first one where it only fills its caches.
    const fn ruled_by(&self, trunk: usize, k: usize) -> usize {
        if self.trunk(k) == trunk { k } else { self.first_scale(trunk) }
    }

    /// The blocks of `trunk` that run over scale `k`, as a mask.
    pub const fn blocks_of(&self, trunk: usize, k: usize) -> u64 {
        self.blocks(self.ruled_by(trunk, k))
    }

    /// Rows of `trunk` at scale `k`.
    pub const fn rows_of(&self, trunk: usize, k: usize) -> usize {
        self.rows(self.ruled_by(trunk, k))
    }

    /// The blocks that run at scale `k`, as a mask.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn blocks(&self, k: usize) -> u64 {
        if k < MAX_SCALES { self.blocks[k] } else { 0 }
    }

    /// This tier with other active blocks: `blocks(k)` is the mask of scale `k`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for a scale without a block, a block that does not exist, or one that
    /// comes back after it skipped a scale (its cache would have a hole).
    pub fn with_blocks(
        mut self,
        shape: &Shape,
        blocks: impl Fn(usize) -> u64,
    ) -> Result<Self, Error> {
        let (mut before, mut last) = (u64::MAX, 0);
        let scales = self.blocks.iter_mut().zip(self.trunks);
        for (k, (mask, trunk)) in scales.enumerate().take(shape.config.n_scales()) {
            *mask = blocks(k);
            let depth = shape.trunk(trunk as usize).depth;
            let beyond = depth < 64 && *mask >> depth != 0;
            if *mask == 0 || beyond || trunk == last && *mask & !before != 0 {
                return Err(Error::Unsupported);
            }
            (before, last) = (*mask, trunk);
        }
        Ok(self)
    }

    /// Rows at scale `k`: 2 with guidance, 1 without.
    pub const fn rows(&self, k: usize) -> usize {
        if k < self.guided { 2 } else { 1 }
    }

    /// Rows of `trunk` at scale `k` that run in one call.
    pub const fn rows_at_once(&self, trunk: usize, k: usize) -> usize {
        if self.together { self.rows_of(trunk, k) } else { 1 }
    }

    /// The last scale at which block `b` of `trunk` runs, if it runs at all.
    pub const fn last_scale(&self, trunk: usize, b: usize, n_scales: usize) -> Option<usize> {
        let mut k = n_scales;
        while k > 0 {
            k -= 1;
            if self.trunk(k) == trunk && self.blocks(k) >> b & 1 == 1 {
                return Some(k);
            }
        }
        None
    }

    /// This tier up to scale `scale`, then `to`: `None` where `to` needs what this one has not kept.
    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    pub(crate) const fn lowered(&self, to: &Self, scale: usize, n_scales: usize) -> Option<Self> {
        if self.cache as u8 != to.cache as u8 || !self.keep.same(&to.keep) {
            return None;
        }
        let mut all = *to;
        let mut k = 0;
        while k < n_scales && k < MAX_SCALES {
            if k < scale {
                all.trunks[k] = self.trunks[k];
                all.blocks[k] = self.blocks[k];
            } else if to.trunks[k] != self.trunks[k]
                || to.blocks[k] & !self.blocks[k] != 0
                || to.rows(k) > self.rows(k)
            {
                return None;
            }
            k += 1;
        }
        if to.guided < scale {
            all.guided = if self.guided < scale { self.guided } else { scale };
        }
        Some(all)
    }

    /// Reads record `index` of the tier section `b`, which starts at byte `at` of the file.
    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    pub(crate) const fn parse(
        shape: &Shape,
        b: &[u8],
        at: usize,
        index: usize,
    ) -> Result<Self, Error> {
        if b.len() != shape.n_tiers() * TIER_BYTES {
            return Err(Error::file(Fault::Section, at));
        }
        if index >= shape.n_tiers() {
            return Err(Error::UnknownTier);
        }
        let o = index * TIER_BYTES;
        let at = at + o;
        let n = shape.config.n_scales();
        let mut t = Self {
            name: [0; 16],
            trunks: [0; MAX_SCALES],
            blocks: [0; MAX_SCALES],
            index,
            cache: Store::F32,
            maps: Store::F32,
            guided: u8_at(b, o + 162) as usize,
            decoder: u8_at(b, o + 163) as usize,
            tile: u16_at(b, o + 164) as usize,
            strip: u16_at(b, o + 166) as usize,
            conv_scratch: u32_at(b, o + 168) as usize,
            together: u8_at(b, o + 177) == 1,
            keep: match Keep::parse(b, at, o, n) {
                Ok(keep) => keep,
                Err(e) => return Err(e),
            },
        };
        let mut i = 0;
        let mut ended = false;
        while i < 16 {
            let c = u8_at(b, o + i);
            // Printable ASCII without spaces, then zeros.
            let printable = c > b' ' && c < 0x7f;
            if !(printable && !ended || c == 0 && i > 0) {
                return bad(at + i);
            }
            ended = c == 0;
            t.name[i] = c;
            i += 1;
        }
        let mut k = 0;
        while k < MAX_SCALES {
            let (trunk, blocks) = (u8_at(b, o + 16 + k), u64_at(b, o + 32 + 8 * k));
            if k >= n {
                if trunk != 0 || blocks != 0 {
                    return bad(at + 32 + 8 * k);
                }
            } else {
                // Trunks follow one another, from the first on.
                let least = if k == 0 { 0 } else { t.trunks[k - 1] };
                if trunk as usize >= shape.n_trunks() || trunk < least || k == 0 && trunk != 0 {
                    return bad(at + 16 + k);
                }
                let depth = shape.trunk(trunk as usize).depth;
                let beyond = if depth < 64 { blocks >> depth != 0 } else { false };
                // A block that has skipped a scale has a hole in its cache: lists only shrink.
                let grows = k > 0 && trunk == t.trunks[k - 1] && blocks & !t.blocks[k - 1] != 0;
                if blocks == 0 || beyond || grows {
                    return bad(at + 32 + 8 * k);
                }
            }
            t.trunks[k] = trunk;
            t.blocks[k] = blocks;
            k += 1;
        }
        t.cache = match Store::parse(u8_at(b, o + 160)) {
            Some(s) => s,
            None => return bad(at + 160),
        };
        t.maps = match Store::parse(u8_at(b, o + 161)) {
            Some(Store::I8) | None => return bad(at + 161),
            Some(s) => s,
        };
        if t.guided > n {
            return bad(at + 162);
        }
        if t.decoder >= shape.n_decoders() {
            return bad(at + 163);
        }
        if t.tile == 0 || t.tile > 1024 {
            return bad(at + 164);
        }
        if t.strip == 0 || t.strip > 256 {
            return bad(at + 166);
        }
        if t.conv_scratch > MAX_CONV_SCRATCH {
            return bad(at + 168);
        }
        if u8_at(b, o + 177) > 1 {
            return bad(at + 177);
        }
        let mut z = 178;
        while z < 192 {
            if u8_at(b, o + z) != 0 {
                return bad(at + z);
            }
            z += 1;
        }
        Ok(t)
    }
}
