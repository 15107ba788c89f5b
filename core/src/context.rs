//! What a token sees: which keys and values of earlier scales stay in the caches, and how much of its own
//! scale. Data of a tier; `keep` chooses by it, `cache` and the plan reckon with it.

use crate::bytes::{u8_at, u16_at};
use crate::config::{Config, MAX_SCALES};
use crate::error::{Error, Fault};

/// [`Keep::most`] that keeps every token.
pub const KEEP_ALL: u16 = u16::MAX;

/// Which keys and values stay for later scales, and which of the current scale a token sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Tokens that stay after a scale, by class of head: `most[0]` for the other heads, `most[1]` for the
    /// wide ones ([`crate::Trunk::wide`]). [`KEEP_ALL`] keeps all of them, 0 makes a scale see itself only
    /// (HMAR, MVAR).
    pub most: [[u16; MAX_SCALES]; 2],
    /// Side of the grid of tokens of a scale whose attention says what stays; 0 where nothing is chosen.
    pub grid: usize,
    /// Neighbours whose scores are averaged before the choice: odd.
    pub pool: usize,
    /// Scales whose tokens always stay for wide heads, from the first on.
    pub protect: usize,
    /// Side of the neighbourhood of its own scale that a token sees, odd; 0 for the whole map (MVAR: 7).
    pub window: usize,
    /// The first scale with a neighbourhood.
    pub window_from: usize,
}

impl Keep {
    /// Everything stays and is seen.
    pub const ALL: Self = Self {
        most: [[KEEP_ALL; MAX_SCALES]; 2],
        grid: 0,
        pool: 1,
        protect: 0,
        window: 0,
        window_from: 0,
    };

    /// Whether both classes of heads keep the same tokens: as many of them, and none of them by choice.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub const fn alike(&self) -> bool {
        let (mut k, mut alike) = (0, true);
        while k < MAX_SCALES {
            let most = self.most[0][k];
            alike &= most == self.most[1][k] && (most == 0 || most == KEEP_ALL);
            k += 1;
        }
        alike
    }

    #[allow(clippy::indexing_slicing, reason = "every index is below the array's length")]
    /// Whether the two keep and show the same.
    pub(crate) const fn same(&self, other: &Self) -> bool {
        let (mut k, mut same) = (0, true);
        while k < MAX_SCALES {
            same &= self.most[0][k] == other.most[0][k] && self.most[1][k] == other.most[1][k];
            k += 1;
        }
        same && self.grid == other.grid
            && self.pool == other.pool
            && self.protect == other.protect
            && self.window == other.window
            && self.window_from == other.window_from
    }

    /// What stays of `n` tokens after scale `k`, for heads of `class`.
    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    pub(crate) const fn cut(&self, class: usize, k: usize, n: usize) -> usize {
        let most = if k < MAX_SCALES { self.most[class & 1][k] } else { KEEP_ALL };
        if most != KEEP_ALL && n > most as usize { most as usize } else { n }
    }

    /// Tokens of the cache after scale `k`, for heads of `class`.
    pub const fn after(&self, config: &Config, class: usize, k: usize) -> usize {
        let (mut n, mut j) = (0, 0);
        while j <= k && j < MAX_SCALES {
            n = self.cut(class, j, n + config.scale(j).tokens());
            j += 1;
        }
        n
    }

    /// Tokens of the cache before scale `k`.
    pub const fn before(&self, config: &Config, class: usize, k: usize) -> usize {
        if k == 0 { 0 } else { self.after(config, class, k - 1) }
    }

    /// Whether tokens are dropped after scale `k`.
    pub const fn drops(&self, config: &Config, class: usize, k: usize) -> bool {
        let all = self.before(config, class, k) + config.scale(k).tokens();
        self.after(config, class, k) < all
    }

    /// Side of the neighbourhood at scale `k`, 0 for the whole map.
    pub const fn window_at(&self, k: usize) -> usize {
        if k < self.window_from { 0 } else { self.window }
    }

    /// Reads the rules of the tier record at `o` in `b`; `at` is its place in the file.
    pub(crate) const fn parse(
        b: &[u8],
        at: usize,
        o: usize,
        n_scales: usize,
    ) -> Result<Self, Error> {
        let mut keep = Self {
            window: u8_at(b, o + 172) as usize,
            window_from: u8_at(b, o + 173) as usize,
            grid: u8_at(b, o + 174) as usize,
            pool: u8_at(b, o + 175) as usize,
            protect: u8_at(b, o + 176) as usize,
            ..Self::ALL
        };
        if keep.window != 0 && keep.window.is_multiple_of(2) || keep.window_from >= n_scales {
            return Err(Error::file(Fault::Tier, at + 172));
        }
        if keep.pool.is_multiple_of(2)
            || keep.pool > 63
            || keep.grid > 64
            || keep.protect > n_scales
        {
            return Err(Error::file(Fault::Tier, at + 174));
        }
        let mut i = 0;
        while i < 2 * MAX_SCALES {
            let most = u16_at(b, o + 192 + 2 * i);
            // Without a grid nothing says which tokens are worth more: all of them or none.
            let choice = most != 0 && most != KEEP_ALL;
            let past_end = i % MAX_SCALES >= n_scales && most != KEEP_ALL;
            if choice && keep.grid == 0 || past_end {
                return Err(Error::file(Fault::Tier, at + 192 + 2 * i));
            }
            keep.set(i / MAX_SCALES, i % MAX_SCALES, most);
            i += 1;
        }
        Ok(keep)
    }

    #[allow(clippy::indexing_slicing, reason = "guarded; const fn has no `get`")]
    const fn set(&mut self, class: usize, k: usize, most: u16) {
        if class < 2 && k < MAX_SCALES {
            self.most[class][k] = most;
        }
    }
}
