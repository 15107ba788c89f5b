//! How large every buffer is, and from when to when it lives.
//!
//! Three lifetimes that a sum of shapes would miss: keys and values of the last scale at which a block runs
//! never enter its cache; a cache ends with its block (depth-reduced tiers), with its trunk, or with guidance; the
//! decoder's maps end with their level.

#![allow(
    clippy::indexing_slicing,
    reason = "const fn has no `get`; every index is a loop bound below the array's length"
)]

use crate::buf::{ARENA_ALIGN, Buf, Buffer, MAX_BUFFERS, STATS};
use crate::bytes::up;
use crate::config::{Aln, GROUPS, Shape};
use crate::heads::{near_bytes, now_bytes, past_bytes, row_last_scale};
use crate::num::{up4, up32};
use crate::stage::{HEAD_TILE, map_size, out_size};
use crate::tensor::Layer;
use crate::tier::Tier;

/// Sizes and lifetimes, not yet placed.
pub(crate) struct Builder {
    pub(crate) buffers: [Buffer; MAX_BUFFERS],
    pub(crate) overflow: bool,
}

impl Builder {
    pub(crate) const NEW: Self = {
        let empty = Buffer { size: 0, offset: 0, first: 0, last: 0 };
        Self { buffers: [empty; MAX_BUFFERS], overflow: false }
    };

    /// Grows the buffer to `bytes` and its lifetime to include `first..=last`.
    pub(crate) const fn add(&mut self, buf: Buf, bytes: usize, first: usize, last: usize) {
        let b = &mut self.buffers[buf.index()];
        let bytes = up(bytes, ARENA_ALIGN);
        if bytes > u32::MAX as usize / 2 {
            self.overflow = true;
            return;
        }
        if b.size == 0 {
            b.first = first as u16;
            b.last = last as u16;
        }
        if bytes as u32 > b.size {
            b.size = bytes as u32;
        }
        if (first as u16) < b.first {
            b.first = first as u16;
        }
        if last as u16 > b.last {
            b.last = last as u16;
        }
    }

    /// Makes the buffer larger by `bytes`.
    const fn grow(&mut self, buf: Buf, bytes: usize, first: usize, last: usize) {
        let size = self.buffers[buf.index()].size as usize;
        self.add(buf, size.saturating_add(bytes), first, last);
    }
}

/// A product that stays at its largest value instead of wrapping: `add` refuses it.
pub(crate) const fn product<const N: usize>(factors: [usize; N]) -> usize {
    let (mut p, mut i) = (1usize, 0);
    while i < N {
        p = p.saturating_mul(factors[i]);
        i += 1;
    }
    p
}

const fn max(a: usize, b: usize) -> usize {
    if a > b { a } else { b }
}

const fn min(a: usize, b: usize) -> usize {
    if a < b { a } else { b }
}

/// The tick of scale `k`.
pub(crate) const fn scale_tick(k: usize) -> usize {
    1 + k
}

/// Where the input of scale `k` is in [`Buf::Next`], in tokens: those that a refiner will read again stay.
pub const fn next_place(shape: &Shape, tier: &Tier, k: usize) -> usize {
    let handoff = tier.handoff();
    let k = if k <= handoff { k } else { handoff + 1 };
    if handoff == 0 { 0 } else { shape.config.tokens_before(k) }
}

/// Where the second row of the residual stream of trunk `set` begins, in tokens: behind the largest scale that has two.
pub const fn second_row(shape: &Shape, tier: &Tier, set: usize) -> usize {
    x_tokens(shape, tier, set, true)
}

/// The most tokens of a scale over which trunk `set` runs; or of one at which it runs both rows.
const fn x_tokens(shape: &Shape, tier: &Tier, set: usize, both: bool) -> usize {
    let c = &shape.config;
    let (mut k, mut most) = (0, 0);
    while k < c.n_scales() && tier.trunk(k) <= set {
        if !both || tier.rows_of(set, k) == 2 {
            most = max(most, c.scale(k).tokens());
        }
        k += 1;
    }
    most
}

/// The transformers. The sizes of what outlives a scale are those of `layout`, which is `tier` itself unless the
/// image began in another one.
pub(crate) const fn transformer(b: &mut Builder, shape: &Shape, tier: &Tier, layout: &Tier) {
    let c = &shape.config;
    let (s, v, z) = (c.n_scales(), c.vocab as usize, c.cvae as usize);
    let latent = c.latent();
    let end = scale_tick(s - 1);
    b.add(Buf::FHat, product([4, latent.tokens(), z]), 0, end + 1);
    b.add(Buf::Scores, up(4 * c.tokens(), ARENA_ALIGN) + 2 * c.tokens(), 1, end);
    b.add(Buf::Logits, product([4, layout.rows(0), HEAD_TILE, v]), 1, end);
    b.add(Buf::Candidates, 4 * v, 1, end);
    b.add(Buf::Tokens, 2 * c.tokens(), 0, end);
    fold_buffers(b, shape, tier, 1, end);
    let mut k = 0;
    while k < s {
        if k == 0 || tier.trunk(k) != tier.trunk(k - 1) {
            trunk(b, shape, (tier, layout), tier.trunk(k), k);
        }
        k += 1;
    }
}

/// What a scale needs to become a part of the latent, or to be taken from it.
pub(crate) const fn fold_buffers(
    b: &mut Builder,
    shape: &Shape,
    tier: &Tier,
    first: usize,
    last: usize,
) {
    let (c, z) = (&shape.config, shape.config.cvae as usize);
    let (ph, pw) = (c.latent().h as usize, c.latent().w as usize);
    // Codes of a scale stand behind the inputs that stay.
    let inputs = next_place(shape, tier, c.n_scales()) + c.max_tokens();
    b.add(Buf::Next, product([4, inputs, z]), first, last);
    let map = product([4, ph, pw, z]);
    b.add(Buf::Enlarged, up(map, ARENA_ALIGN).saturating_add(map), first, last);
    b.add(Buf::PhiStrip, 4 * (3 * (pw + 2) * z + pw * z), first, last);
}

/// Trunk `set`, which draws from scale `from` on.
const fn trunk(
    b: &mut Builder,
    shape: &Shape,
    (tier, layout): (&Tier, &Tier),
    set: usize,
    from: usize,
) {
    let c = &shape.config;
    let t = shape.trunk(set);
    let (w, hidden, heads) = (t.width as usize, t.hidden as usize, t.heads as usize);
    let s = c.n_scales();
    let rows = layout.rows(from);
    let mut until = from;
    while until + 1 < s && tier.trunk(until + 1) == set {
        until += 1;
    }
    let start = scale_tick(from);
    let (setup, end) = (if from == 0 { 0 } else { start }, scale_tick(until));
    let tile = min(tier.tile, x_tokens(shape, tier, set, false));
    let mods = if matches!(t.aln, Aln::Shared) { 1 } else { t.depth as usize };

    b.add(Buf::Cond, 4 * rows * w, setup, start);
    b.add(Buf::Ada, product([4, rows, mods, 6, w]), setup, end);
    b.add(Buf::HeadAda, 4 * rows * 2 * w, setup, end);
    let stream = max(x_tokens(shape, tier, set, false), 2 * second_row(shape, tier, set));
    b.add(Buf::X, product([4, stream, w]), start, end);
    let at_once = if tier.together { tier.rows(from) } else { 1 };
    b.add(Buf::Mod, product([4, at_once, 6, w]), start, end);
    let tile = tile * at_once;
    let head = if tile > HEAD_TILE { tile } else { HEAD_TILE };
    // Keys: input C, output 2C. Attention: input, query, output. Feed-forward: input, hidden.
    let work = max(max(3 * w, w + hidden).saturating_mul(tile), w * head);
    b.add(Buf::Work, product([4, work]), setup, end);
    let widest = max(up32(w), up32(hidden));
    // Beside float weights there may be integer ones, of any kind.
    let row = product([min(t.act as usize, 2), widest, head]);
    b.add(Buf::Rows, row, setup, end);
    b.add(Buf::RowScale, 4 * head, setup, end);
    b.add(Buf::Head, 5 * t.head_dim(), start, end);

    let mut block = 0;
    while block < t.depth as usize {
        if let Some(j) = layout.last_scale(set, block, s)
            && let Some(ends) = tier.last_scale(set, block, s)
        {
            let mut row = 0;
            while row < rows {
                if let Some(last) = row_last_scale(layout, row, j)
                    && let Some(ends) = row_last_scale(tier, row, ends)
                {
                    let now = now_bytes(shape, layout, set, block, last);
                    b.add(Buf::KvNow, now.saturating_mul(at_once), start, end);
                    let past = past_bytes(shape, layout, set, block, last);
                    if past > 0 {
                        b.grow(Buf::Kv(row, j), past, start, scale_tick(ends));
                    }
                }
                row += 1;
            }
        }
        block += 1;
    }
    let keep = &tier.keep;
    let mut k = 0;
    while k <= until {
        let tick = if k < from { start } else { scale_tick(k) };
        if k + 1 < s && (keep.drops(c, 0, k) || keep.drops(c, 1, k)) {
            let keys = max(keep.before(c, 0, k), keep.before(c, 1, k)) + c.scale(k).tokens();
            b.add(Buf::Seen, product([4, at_once, heads, keys]), tick, tick);
        }
        let side = keep.window_at(k);
        let (h, wide) = (c.scale(k).h as usize, c.scale(k).w as usize);
        if side > 0 {
            let near = min(side, h) * min(side, wide);
            b.add(Buf::Near, near_bytes(t, tier, near), tick, tick);
        }
        k += 1;
    }
}

/// The image decoder: a tick per layer.
pub(crate) const fn decoder(b: &mut Builder, shape: &Shape, tier: &Tier) {
    let d = shape.decoder(tier.decoder);
    let z = shape.config.cvae as usize;
    let t0 = scale_tick(shape.config.n_scales());
    let end = t0 + d.n_layers() - 1;
    let store = tier.maps.bytes();
    let top = d.levels as usize - 1;
    let mut c_max = max(max(z, d.inner(z)), GROUPS);
    let mut level = 0;
    while level < d.levels as usize {
        c_max = max(c_max, d.width(level));
        level += 1;
    }
    b.add(Buf::Stats, 4 * STATS * c_max, t0, end);
    b.add(Buf::ConvScratch, tier.conv_scratch, t0, end);
    let mut at = 0;
    while at < d.n_layers() {
        let tick = t0 + at;
        let (layer, level) = d.layer(z, at);
        let (h, w) = map_size(shape, tier, level);
        let (oh, ow) = out_size(shape, tier, layer, level);
        let strip = if tier.strip < oh { tier.strip } else { oh };
        let (cin, cout) = match layer {
            Layer::Conv { cin, cout } | Layer::Res { cin, cout } => (cin, cout),
            Layer::Attention { c } => (c, 3 * c),
            Layer::Up { c } => (c, c),
            Layer::Out { c } => (c, 3),
        };
        let widest = up4(max(cin, if let Layer::Res { .. } = layer { cout } else { cin }));
        let halo = product([strip + 2, ow + 2, widest, d.act as usize]);
        b.add(Buf::Strip, halo, tick, tick);
        let shortcut = if let Layer::Res { .. } = layer
            && cin != cout
        {
            ow * cout
        } else {
            0
        };
        let rows = product([strip, ow, cout]).saturating_add(ow * widest + shortcut);
        b.add(Buf::OutRows, product([4, rows]), tick, tick);
        match layer {
            Layer::Conv { .. } if at == 0 => {
                b.add(Buf::Z, product([h, w, cout, store]), tick, tick + 1)
            }
            Layer::Conv { .. } => b.add(Buf::Map(top), product([h, w, cout, store]), tick, tick),
            Layer::Res { .. } => {
                b.add(Buf::Hidden(level), product([h, w, cout, store]), tick, tick);
                let (input, output) = level_maps(shape, tier, at);
                b.add(input, product([h, w, cin, store]), tick, tick);
                b.add(output, product([h, w, cout, store]), tick, tick);
            }
            Layer::Attention { c } => {
                b.add(level_maps(shape, tier, at).0, product([h, w, c, store]), tick, tick);
                b.add(Buf::MapQkv, product([h, w, 3, c, store]), tick, tick);
                // Scores of one position, then scales of a row; probabilities need no own place in float.
                let rows = product([2, ow, widest]).saturating_add(product([h, w]));
                b.add(Buf::OutRows, product([4, rows]), tick, tick);
            }
            Layer::Up { c } => {
                b.add(level_maps(shape, tier, at).0, product([h, w, c, store]), tick, tick);
                b.add(Buf::Map(level - 1), product([oh, ow, c, store]), tick, tick);
            }
            Layer::Out { c } => {
                b.add(level_maps(shape, tier, at).0, product([h, w, c, store]), tick, tick);
                b.add(Buf::Rgb, strip * w * 3, tick, tick);
            }
        }
        at += 1;
    }
}

/// The maps that layer `at` reads and writes. Where the width changes inside a level, the level goes
/// on in a second map.
pub const fn level_maps(shape: &Shape, tier: &Tier, at: usize) -> (Buf, Buf) {
    let d = shape.decoder(tier.decoder);
    let z = shape.config.cvae as usize;
    let (layer, level) = d.layer(z, at);
    let top = d.levels as usize - 1;
    match layer {
        Layer::Conv { .. } if at == 0 => return (Buf::FHat, Buf::Z),
        Layer::Conv { .. } => return (Buf::Z, Buf::Map(top)),
        _ => {}
    }
    // The width that the level's first map has.
    let first = if level == top { d.top() } else { d.width(level + 1) };
    let own = d.width(level);
    let changed = Buf::Wide(level);
    let (input, output) = match layer {
        Layer::Res { cin, cout } if cin != cout => (Buf::Map(level), changed),
        _ if first != own => (changed, changed),
        _ => (Buf::Map(level), Buf::Map(level)),
    };
    if let Layer::Up { .. } = layer {
        return (input, Buf::Map(level.saturating_sub(1)));
    }
    (input, output)
}
