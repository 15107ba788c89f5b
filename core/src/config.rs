//! The shapes of a model: small `Copy` structs, read from the file in `const` context.
//!
//! What lives here: sizes and switches. Weights are `tensor` and `model`, choices are `tier`.
//!
//! ```text
//! Config ── scales, vocabulary, condition tables
//!   ├─ Trunk  (1..=2)  a transformer: the drafter or the refiner
//!   └─ Decoder (1..=4)  latent -> pixels
//! ```

use crate::bytes::{u8_at, u16_at, u32_at};
use crate::error::{Error, Fault};
use crate::slices::div;

/// Scales that a schedule may have.
pub const MAX_SCALES: usize = 16;
/// Blocks that a trunk may have (a subnet is a 64-bit mask).
pub const MAX_DEPTH: usize = 64;
/// Condition tables that are summed (class, style, ...).
pub const MAX_TABLES: usize = 4;
/// Trunks in one file.
pub const MAX_TRUNKS: usize = 2;
/// Decoders in one file.
pub const MAX_DECODERS: usize = 4;
/// Resolution levels of a decoder.
pub const MAX_LEVELS: usize = 8;

/// One step of the schedule: a token map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Height of the token map.
    pub h: u16,
    /// Width of the token map.
    pub w: u16,
    /// Which phi convolution smooths it.
    pub phi: u8,
    /// How it is drawn: [`GREEDY`], and d of its share k / d of the strength of guidance (0: S - 1). One byte: there
    /// are copies of all scales on small stacks.
    rule: u8,
}

/// The bit of a scale's rule that says [`Scale::greedy`].
const GREEDY: u8 = 0x80;

impl Scale {
    const NONE: Self = Self::new(0, 0, 0);

    /// A map of this size, drawn as VAR does.
    pub const fn new(h: u16, w: u16, phi: u8) -> Self {
        Self { h, w, phi, rule: 0 }
    }

    /// With a rule of its own, as a file has it: see [`Scale::greedy`] and [`Scale::ramp`].
    pub const fn with_rule(self, rule: u8) -> Self {
        Self { rule, ..self }
    }

    /// How it is drawn, as a file has it.
    pub const fn rule(self) -> u8 {
        self.rule
    }

    /// Whether its tokens are the most probable ones, whatever the request says (FlexVAR: sides that the model
    /// was not trained for).
    pub const fn greedy(self) -> bool {
        self.rule & GREEDY != 0
    }

    /// Scale k is guided by k / ramp of the strength; 0: by k / (S - 1).
    pub const fn ramp(self) -> u8 {
        self.rule & !GREEDY
    }

    /// Tokens of the scale.
    pub const fn tokens(self) -> usize {
        self.h as usize * self.w as usize
    }
}

/// What the model was shipped to be sampled with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Strength of classifier-free guidance at the last scale (it grows linearly from 0).
    pub guidance: f32,
    /// Keep the k most probable tokens; 0 keeps all, 1 is greedy.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose mass exceeds this; 0 or 1 keeps all.
    pub top_p: f32,
    /// Logits are divided by this.
    pub temperature: f32,
}

impl Sampling {
    /// Whether every value can be used.
    pub fn is_valid(&self) -> bool {
        self.guidance.is_finite()
            && self.temperature.is_finite()
            && self.temperature > 0.0
            && (0.0..=1.0).contains(&self.top_p)
    }
}

/// One embedding table of the condition; tables are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Rows; the last one means "not given".
    pub rows: u32,
    /// Whether the file names the rows (all but the last).
    pub labelled: bool,
}

/// What the trunks and decoders of a file share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// Codebook entries.
    pub vocab: u32,
    /// Channels of the latent.
    pub cvae: u32,
    /// Phi convolutions; none where scales replace the latent: see [`Config::replaces`].
    pub n_phi: u32,
    /// Defaults for a request.
    pub sampling: Sampling,
    n_scales: u8,
    n_tables: u8,
    scales: [Scale; MAX_SCALES],
    tables: [Table; MAX_TABLES],
}

/// Where the modulation of a trunk's blocks (AdaLN) comes from: how much of each channel, before and after attention
/// and feed-forward part, follows from the condition alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aln {
    /// A projection of the condition in every block.
    Own,
    /// One projection of it for all blocks, and offsets in each.
    Shared,
    /// In every block a row for every row of the condition table: projections that were multiplied out.
    Baked,
}

impl Aln {
    const fn parse(flags: u32) -> Self {
        match flags & 5 {
            0 => Self::Own,
            1 => Self::Shared,
            _ => Self::Baked,
        }
    }

    /// As the flags of a trunk's record have it.
    pub const fn flags(self) -> u32 {
        match self {
            Self::Own => 0,
            Self::Shared => 1,
            Self::Baked => 4,
        }
    }
}

/// A transformer (official class `VAR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trunk {
    /// Blocks, D.
    pub depth: u32,
    /// Width, C: a multiple of 8 and of `heads`.
    pub width: u32,
    /// Attention heads, H.
    pub heads: u32,
    /// Hidden width of the feed-forward part.
    pub hidden: u32,
    /// Where the modulation of its blocks comes from.
    pub aln: Aln,
    /// Queries and keys are L2-normalised per head.
    pub l2_norm: bool,
    /// Bytes of the widest input of a weight: 4 (float), 2 (12 bits) or 1 (8 bits).
    pub act: u32,
    /// Per block, how many of its heads, from the first on, are of the second class: see
    /// [`Trunk::wide`]. Found by calibration; zero where there was none.
    pub wide_heads: [u8; MAX_DEPTH],
}

/// A convolutional image decoder (official class `Decoder`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoder {
    /// Resolution levels; level 0 is full resolution and runs last.
    pub levels: u32,
    /// Residual blocks per level.
    pub blocks: u32,
    /// Bit i: every block of level i is followed by attention.
    pub attention: u16,
    /// Channels between `post_quant_conv` and `conv_in`; 0: those of the latent.
    pub inner: u16,
    /// Bytes of the widest input of a weight: 4 (float), 2 (12 bits) or 1 (8 bits).
    pub act: u32,
    /// Channels per level.
    widths: [u16; MAX_LEVELS],
}

/// All shapes of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// What is shared.
    pub config: Config,
    n_trunks: u8,
    n_decoders: u8,
    n_tiers: u8,
    trunks: [Trunk; MAX_TRUNKS],
    decoders: [Decoder; MAX_DECODERS],
}

/// Bytes of the config section.
pub const CONFIG_BYTES: usize = 256;
/// Bytes of one trunk record.
pub const TRUNK_BYTES: usize = 32 + MAX_DEPTH;
/// Bytes of one decoder record.
pub const DECODER_BYTES: usize = 32;
/// Most groups of a group norm.
pub const GROUPS: usize = 32;

/// Groups of the norm of a map of `width` channels: 32, or one per channel where there are fewer.
pub const fn groups(width: usize) -> usize {
    if width < GROUPS { width } else { GROUPS }
}

const fn bad<T>(fault: Fault, at: usize) -> Result<T, Error> {
    Err(Error::file(fault, at))
}

impl Config {
    /// Scales of the schedule.
    pub const fn n_scales(&self) -> usize {
        self.n_scales as usize
    }

    /// Condition tables.
    pub const fn n_tables(&self) -> usize {
        self.n_tables as usize
    }

    /// Scale `k`; the empty scale past the end.
    pub const fn scale(&self, k: usize) -> Scale {
        if k < MAX_SCALES { self.scales_at(k) } else { Scale::NONE }
    }

    #[allow(clippy::indexing_slicing, reason = "guarded by the caller; const fn has no `get`")]
    const fn scales_at(&self, k: usize) -> Scale {
        self.scales[k % MAX_SCALES]
    }

    /// Condition table `t`; an empty one past the end.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn table(&self, t: usize) -> Table {
        if t < MAX_TABLES { self.tables[t] } else { Table { rows: 0, labelled: false } }
    }

    /// Whether a scale is the whole latent at its size, in the place of the one before it (FlexVAR), and not a
    /// residual that a phi smooths and that is added.
    pub const fn replaces(&self) -> bool {
        self.n_phi == 0
    }

    /// How strongly scale `k` is guided, of `strength`: a double, which is rounded where it is used.
    pub const fn guidance(&self, strength: f32, k: usize) -> f64 {
        let d = match self.scale(k).ramp() {
            0 => self.n_scales().saturating_sub(1),
            d => d as usize,
        };
        strength as f64 * k as f64 / d as f64
    }

    /// The largest map: the last scale, whose size the latent has.
    pub const fn latent(&self) -> Scale {
        self.scale(self.n_scales().saturating_sub(1))
    }

    /// Tokens before scale `k`.
    pub const fn tokens_before(&self, k: usize) -> usize {
        let (mut i, mut n) = (0, 0);
        while i < k && i < MAX_SCALES {
            n += self.scale(i).tokens();
            i += 1;
        }
        n
    }

    /// Tokens of all scales, L.
    pub const fn tokens(&self) -> usize {
        self.tokens_before(self.n_scales())
    }

    /// Tokens of the largest scale.
    pub const fn max_tokens(&self) -> usize {
        let (mut k, mut m) = (0, 0);
        while k < self.n_scales() {
            if self.scale(k).tokens() > m {
                m = self.scale(k).tokens();
            }
            k += 1;
        }
        m
    }

    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    const fn parse(b: &[u8], at: usize) -> Result<Self, Error> {
        let vocab = u32_at(b, 0);
        let cvae = u32_at(b, 4);
        let n_scales = u32_at(b, 8);
        let n_phi = u32_at(b, 12);
        let n_tables = u32_at(b, 16);
        let sampling = Sampling {
            guidance: f32::from_bits(u32_at(b, 32)),
            top_k: u32_at(b, 36),
            top_p: f32::from_bits(u32_at(b, 40)),
            temperature: f32::from_bits(u32_at(b, 44)),
        };
        if vocab < 2 || vocab > 65_536 {
            return bad(Fault::Config, at);
        }
        if cvae == 0 || cvae > 256 {
            return bad(Fault::Config, at + 4);
        }
        if n_scales == 0 || n_scales as usize > MAX_SCALES {
            return bad(Fault::Schedule, at + 8);
        }
        if n_phi as usize > MAX_SCALES {
            return bad(Fault::Config, at + 12);
        }
        if n_tables == 0 || n_tables as usize > MAX_TABLES {
            return bad(Fault::Config, at + 16);
        }
        // Reserved: zero, so that a later version can give them a meaning.
        let mut z = 48;
        while z < CONFIG_BYTES {
            if u8_at(b, z) != 0 {
                return bad(Fault::Config, at + z);
            }
            z += if z == 63 { 224 - 63 } else { 1 };
        }
        let mut scales = [Scale::NONE; MAX_SCALES];
        let mut k = 0;
        let mut tokens = 0usize;
        while k < MAX_SCALES {
            let o = 64 + 8 * k;
            let s = Scale::new(u16_at(b, o), u16_at(b, o + 2), u8_at(b, o + 4))
                .with_rule(u8_at(b, o + 5));
            if u16_at(b, o + 6) != 0 {
                return bad(Fault::Schedule, at + o + 6);
            }
            if k < n_scales as usize {
                if s.h == 0 || s.w == 0 || s.h > 256 || s.w > 256 {
                    return bad(Fault::Schedule, at + o);
                }
                if s.phi as u32 >= n_phi && s.phi != 0 {
                    return bad(Fault::Schedule, at + o + 4);
                }
                tokens += s.tokens();
            } else if s.h != 0 || s.w != 0 || s.phi != 0 || s.rule != 0 {
                return bad(Fault::Schedule, at + o);
            }
            scales[k] = s;
            k += 1;
        }
        if tokens > 65_535 {
            return bad(Fault::Schedule, at + 8);
        }
        // The latent has the size of the last scale, and no scale may exceed it.
        let last = scales[n_scales as usize - 1];
        k = 0;
        while k < n_scales as usize {
            if scales[k].h > last.h || scales[k].w > last.w {
                return bad(Fault::Schedule, at + 64 + 8 * k);
            }
            k += 1;
        }
        let mut tables = [Table { rows: 0, labelled: false }; MAX_TABLES];
        let mut t = 0;
        while t < MAX_TABLES {
            let o = 192 + 8 * t;
            let (rows, labelled) = (u32_at(b, o), u32_at(b, o + 4));
            if t < n_tables as usize {
                if rows < 2 || rows > 1 << 20 || labelled > 1 {
                    return bad(Fault::Config, at + o);
                }
            } else if rows != 0 || labelled != 0 {
                return bad(Fault::Config, at + o);
            }
            tables[t] = Table { rows, labelled: labelled == 1 };
            t += 1;
        }
        Ok(Self {
            vocab,
            cvae,
            n_phi,
            sampling,
            n_scales: n_scales as u8,
            n_tables: n_tables as u8,
            scales,
            tables,
        })
    }
}

impl Trunk {
    const NONE: Self = Self {
        depth: 0,
        width: 0,
        heads: 1,
        hidden: 0,
        aln: Aln::Own,
        l2_norm: false,
        act: 4,
        wide_heads: [0; MAX_DEPTH],
    };

    /// Heads of block `b` that look far back (structural heads of HACK, all heads of a drafter layer of
    /// ScaleKV): the first ones. A tier may keep more tokens for them than for the others.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn wide(&self, b: usize) -> usize {
        if b < MAX_DEPTH { self.wide_heads[b] as usize } else { 0 }
    }

    /// Channels per head.
    pub const fn head_dim(&self) -> usize {
        div(self.width as usize, self.heads as usize)
    }

    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    const fn parse(b: &[u8], at: usize) -> Result<Self, Error> {
        let flags = u32_at(b, 16);
        let mut t = Self {
            depth: u32_at(b, 0),
            width: u32_at(b, 4),
            heads: u32_at(b, 8),
            hidden: u32_at(b, 12),
            aln: Aln::parse(flags),
            l2_norm: flags & 2 != 0,
            act: u32_at(b, 20),
            wide_heads: [0; MAX_DEPTH],
        };
        if t.depth == 0 || t.depth as usize > MAX_DEPTH {
            return bad(Fault::Config, at);
        }
        if t.width == 0 || t.width > 8192 || !t.width.is_multiple_of(8) {
            return bad(Fault::Config, at + 4);
        }
        if t.heads == 0 || t.heads > t.width || !t.width.is_multiple_of(t.heads) {
            return bad(Fault::Config, at + 8);
        }
        if t.hidden == 0 || t.hidden > 32_768 || !t.hidden.is_multiple_of(8) {
            return bad(Fault::Config, at + 12);
        }
        if flags > 7 || flags & 5 == 5 {
            return bad(Fault::Config, at + 16);
        }
        if !matches!(t.act, 1 | 2 | 4) {
            return bad(Fault::Config, at + 20);
        }
        if u32_at(b, 24) != 0 || u32_at(b, 28) != 0 {
            return bad(Fault::Config, at + 24);
        }
        let mut i = 0;
        while i < MAX_DEPTH {
            t.wide_heads[i] = u8_at(b, 32 + i);
            let most = if i < t.depth as usize { t.heads } else { 0 };
            if t.wide_heads[i] as u32 > most {
                return bad(Fault::Config, at + 32 + i);
            }
            i += 1;
        }
        Ok(t)
    }
}

impl Decoder {
    const NONE: Self =
        Self { levels: 0, blocks: 0, attention: 0, inner: 0, act: 4, widths: [0; MAX_LEVELS] };

    /// Channels of level `i`; 0 past the end.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn width(&self, i: usize) -> usize {
        if i < MAX_LEVELS { self.widths[i] as usize } else { 0 }
    }

    /// Channels that `post_quant_conv` makes of a latent of so many.
    pub const fn inner(&self, latent: usize) -> usize {
        if self.inner == 0 { latent } else { self.inner as usize }
    }

    /// Channels at latent resolution.
    pub const fn top(&self) -> usize {
        self.width((self.levels as usize).saturating_sub(1))
    }

    /// Pixels per latent side: 2^(levels - 1).
    pub const fn factor(&self) -> usize {
        1 << (self.levels - 1)
    }

    /// Whether a level may have so many channels: 8, 16, 24, or a multiple of 32 up to 4096.
    pub(crate) const fn is_width(w: usize) -> bool {
        w != 0 && w <= 4096 && w.is_multiple_of(if w < GROUPS { 8 } else { GROUPS })
    }

    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    pub(crate) const fn parse(b: &[u8], at: usize) -> Result<Self, Error> {
        let mut d = Self {
            levels: u32_at(b, 0),
            blocks: u32_at(b, 4),
            attention: u16_at(b, 8),
            inner: u16_at(b, 10),
            act: u32_at(b, 12),
            widths: [0; MAX_LEVELS],
        };
        if d.levels == 0 || d.levels as usize > MAX_LEVELS {
            return bad(Fault::Config, at);
        }
        if d.blocks == 0 || d.blocks > 16 {
            return bad(Fault::Config, at + 4);
        }
        if d.attention >> d.levels != 0 {
            return bad(Fault::Config, at + 8);
        }
        if d.inner > 4096 {
            return bad(Fault::Config, at + 10);
        }
        if !matches!(d.act, 1 | 2 | 4) {
            return bad(Fault::Config, at + 12);
        }
        let mut i = 0;
        while i < MAX_LEVELS {
            let w = u16_at(b, 16 + 2 * i);
            let wanted = if i < d.levels as usize { Self::is_width(w as usize) } else { w == 0 };
            if !wanted {
                return bad(Fault::Config, at + 16 + 2 * i);
            }
            d.widths[i] = w;
            i += 1;
        }
        Ok(d)
    }
}

impl Shape {
    /// Trunks in the file.
    pub const fn n_trunks(&self) -> usize {
        self.n_trunks as usize
    }

    /// Decoders in the file.
    pub const fn n_decoders(&self) -> usize {
        self.n_decoders as usize
    }

    /// Tiers in the file.
    pub const fn n_tiers(&self) -> usize {
        self.n_tiers as usize
    }

    /// Trunk `i`; the first one past the end.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn trunk(&self, i: usize) -> &Trunk {
        if i < self.n_trunks() && i < MAX_TRUNKS { &self.trunks[i] } else { &self.trunks[0] }
    }

    /// Decoder `i`; the first one past the end.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn decoder(&self, i: usize) -> &Decoder {
        if i < self.n_decoders() && i < MAX_DECODERS {
            &self.decoders[i]
        } else {
            &self.decoders[0]
        }
    }

    /// Reads the config, trunk and decoder sections; the offsets are for error messages.
    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    pub(crate) const fn parse(
        config: (&[u8], usize),
        trunks: (&[u8], usize),
        decoders: (&[u8], usize),
    ) -> Result<Self, Error> {
        if config.0.len() != CONFIG_BYTES {
            return bad(Fault::Section, config.1);
        }
        let (n_trunks, n_decoders) = (u32_at(config.0, 20), u32_at(config.0, 24));
        let n_tiers = u32_at(config.0, 28);
        if n_trunks == 0 || n_trunks as usize > MAX_TRUNKS {
            return bad(Fault::Config, config.1 + 20);
        }
        if n_decoders == 0 || n_decoders as usize > MAX_DECODERS {
            return bad(Fault::Config, config.1 + 24);
        }
        if n_tiers == 0 || n_tiers > 16 {
            return bad(Fault::Config, config.1 + 28);
        }
        if trunks.0.len() != n_trunks as usize * TRUNK_BYTES {
            return bad(Fault::Section, trunks.1);
        }
        if decoders.0.len() != n_decoders as usize * DECODER_BYTES {
            return bad(Fault::Section, decoders.1);
        }
        let shared = match Config::parse(config.0, config.1) {
            Ok(c) => c,
            Err(e) => return Err(e),
        };
        let mut s = Self {
            config: shared,
            n_trunks: n_trunks as u8,
            n_decoders: n_decoders as u8,
            n_tiers: n_tiers as u8,
            trunks: [Trunk::NONE; MAX_TRUNKS],
            decoders: [Decoder::NONE; MAX_DECODERS],
        };
        let mut i = 0;
        while i < n_trunks as usize {
            let o = i * TRUNK_BYTES;
            if let Some((_, rest)) = trunks.0.split_at_checked(o) {
                s.trunks[i] = match Trunk::parse(rest, trunks.1 + o) {
                    Ok(t) if matches!(t.aln, Aln::Baked) && s.config.n_tables() != 1 => {
                        return bad(Fault::Config, trunks.1 + o + 16);
                    }
                    Ok(t) => t,
                    Err(e) => return Err(e),
                };
            }
            i += 1;
        }
        i = 0;
        while i < n_decoders as usize {
            let o = i * DECODER_BYTES;
            if let Some((_, rest)) = decoders.0.split_at_checked(o) {
                s.decoders[i] = match Decoder::parse(rest, decoders.1 + o) {
                    Ok(d) => d,
                    Err(e) => return Err(e),
                };
            }
            i += 1;
        }
        Ok(s)
    }
}
