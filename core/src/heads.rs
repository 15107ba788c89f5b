//! The heads of a block by class, and the bytes of what is kept of their keys and values: for plans, before anything runs.

use crate::buf::ARENA_ALIGN;
use crate::bytes::up;
use crate::config::{Config, Shape, Trunk};
use crate::tier::{Store, Tier};

/// Heads of one class in a block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Class {
    /// 0 for the other heads, 1 for wide ones.
    pub(crate) class: usize,
    /// The first head.
    pub(crate) first: usize,
    /// How many.
    pub(crate) heads: usize,
    /// Channels of one head.
    pub(crate) dim: usize,
}

impl Class {
    /// Channels.
    pub(crate) const fn width(self) -> usize {
        self.heads * self.dim
    }

    /// Bytes of `n` tokens: K, V, scales of K, scales of V, each aligned.
    pub(crate) const fn bytes(self, n: usize, store: Store) -> usize {
        kv_bytes(n, self.width(), self.heads, store)
    }
}

/// The classes of block `b`; the second one is empty where all heads are alike.
pub(crate) const fn classes(trunk: &Trunk, tier: &Tier, b: usize) -> [Class; 2] {
    let (heads, dim) = (trunk.heads as usize, trunk.head_dim());
    let wide = if tier.keep.alike() { 0 } else { trunk.wide(b) };
    [
        Class { class: 1, first: 0, heads: wide, dim },
        Class { class: 0, first: wide, heads: heads - wide, dim },
    ]
}

/// Tokens that a class's cache must hold when its last scale is `last`.
pub(crate) const fn rows(config: &Config, tier: &Tier, class: usize, last: usize) -> usize {
    let (mut k, mut n, mut most) = (0, 0, 0);
    while k < last {
        n = tier.keep.cut(class, k, n + config.scale(k).tokens());
        if n > most {
            most = n;
        }
        k += 1;
    }
    most
}

/// Bytes of the caches of block `b`, whose last scale is `last`.
pub(crate) const fn past_bytes(
    shape: &Shape,
    tier: &Tier,
    trunk: usize,
    b: usize,
    last: usize,
) -> usize {
    let [wide, other] = classes(shape.trunk(trunk), tier, b);
    let (c, store) = (&shape.config, tier.cache);
    wide.bytes(rows(c, tier, wide.class, last), store)
        .saturating_add(other.bytes(rows(c, tier, other.class, last), store))
}

/// Bytes of the keys and values of one scale that block `b` holds apart from its caches.
pub(crate) const fn now_bytes(
    shape: &Shape,
    tier: &Tier,
    trunk: usize,
    b: usize,
    last: usize,
) -> usize {
    let c = &shape.config;
    let (mut k, mut most) = (0, c.scale(last).tokens());
    while k < last {
        let drops = tier.keep.drops(c, 0, k) || tier.keep.drops(c, 1, k);
        if drops && c.scale(k).tokens() > most {
            most = c.scale(k).tokens();
        }
        k += 1;
    }
    let [wide, other] = classes(shape.trunk(trunk), tier, b);
    wide.bytes(most, tier.cache).saturating_add(other.bytes(most, tier.cache))
}

/// Bytes of the keys and values of `n` tokens, of the largest class of any block.
pub(crate) const fn near_bytes(trunk: &Trunk, tier: &Tier, n: usize) -> usize {
    kv_bytes(n, trunk.width as usize, trunk.heads as usize, tier.cache)
}

/// Bytes of keys and values of `n` tokens of so many heads.
const fn kv_bytes(n: usize, width: usize, heads: usize, store: Store) -> usize {
    let scales = if let Store::I8 = store {
        up(n.saturating_mul(2).saturating_mul(heads), ARENA_ALIGN)
    } else {
        0
    };
    up(n.saturating_mul(width).saturating_mul(store.bytes()), ARENA_ALIGN)
        .saturating_add(scales)
        .saturating_mul(2)
}

/// The scale whose keys and values never enter the cache of a block that last runs at `j`.
pub(crate) const fn row_last_scale(tier: &Tier, row: usize, j: usize) -> Option<usize> {
    if row == 0 {
        return Some(j);
    }
    if tier.guided == 0 {
        return None;
    }
    Some(if j < tier.guided { j } else { tier.guided - 1 })
}
