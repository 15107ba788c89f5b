//! Relatives of VAR: weights that run in the same loop, with another view of the scales, another latent, or both.
//!
//! | layout | a scale sees | latent | known by |
//! |---|---|---|---|
//! | `var` | itself and all before it | sum of residuals | |
//! | `mvar` | itself only; from the ninth scale on, 7 x 7 of its tokens | as `var` | the caller: its keys are those of `var` |
//! | `flexvar` | as `var` | the last map alone | positions that are a map |
//! | `hmar` | itself only | as `var` | `base_blocks`, `ns_blocks` |
//!
//! Of HMAR this is the next-scale path, a pass per scale. Its masked passes (`mask_blocks`, `mask_head`) are not there.

use std::fmt;
use std::str::FromStr;

use varmint_core::config::MAX_SCALES;
use varmint_core::{Keep, Scale};

use super::{OfficialError, StateDict};
use crate::defaults::Defaults;

/// Side of the neighbourhood that a token of a late scale of MVAR sees, and the first such scale.
const NEIGHBOURHOOD: (usize, usize) = (7, 8);
/// Sides of FlexVAR's scales up to which guidance grows.
const GUIDED_SIDE: u16 = 16;
/// Sides that FlexVAR was trained for; at others it takes the most probable tokens.
const TRAINED_SIDES: [u16; 10] = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16];

/// What kind of transformer the weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// VAR, arXiv 2404.02905.
    #[default]
    Var,
    /// MVAR.
    Mvar,
    /// FlexVAR, arXiv 2502.20313.
    FlexVar,
    /// HMAR, arXiv 2506.04421.
    Hmar,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Var, Self::Mvar, Self::FlexVar, Self::Hmar];

    /// Its name, as options have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Var => "var",
            Self::Mvar => "mvar",
            Self::FlexVar => "flexvar",
            Self::Hmar => "hmar",
        }
    }

    /// What its keys look like.
    pub(super) const fn by_keys(self) -> Self {
        match self {
            Self::Mvar => Self::Var,
            other => other,
        }
    }

    /// This one, if weights whose keys are those of `found` can be it.
    pub(super) fn check(self, dict: &StateDict<'_>, found: Self) -> Result<Self, OfficialError> {
        if self.by_keys() == found {
            return Ok(self);
        }
        Err(dict.config(format!("its keys are those of the layout {found}, not of {self}")))
    }

    /// Whether a scale sees no other: nothing of it stays in a cache.
    pub const fn own_scale(self) -> bool {
        matches!(self, Self::Mvar | Self::Hmar)
    }

    /// What a token sees in a tier that does not say otherwise, of a model of `n_scales` scales.
    pub fn keep(self, n_scales: usize) -> Keep {
        let mut keep = Keep::ALL;
        if self.own_scale() {
            // After the last scale nothing is read.
            for most in &mut keep.most {
                most[..n_scales.min(MAX_SCALES).saturating_sub(1)].fill(0);
            }
        }
        let (side, from) = NEIGHBOURHOOD;
        if self == Self::Mvar && n_scales > from {
            (keep.window, keep.window_from) = (side, from);
        }
        keep
    }

    /// Says of each scale how its tokens are drawn, where that is not VAR's way.
    pub(crate) fn draw(self, scales: &mut [Scale]) {
        if self != Self::FlexVar {
            return;
        }
        // Guidance grows until the tenth scale, then goes on to grow; VAR's own law is what is not said.
        let last = scales.len().saturating_sub(1);
        for (k, s) in scales.iter_mut().enumerate() {
            let greedy = s.h != s.w || !TRAINED_SIDES.contains(&s.h);
            let ramp = match (s.h.max(s.w) <= GUIDED_SIDE, last) {
                // k / k: all of it.
                (false, _) => k as u8,
                (true, 10..) => 9,
                (true, _) => 0,
            };
            *s = s.with_rule(u8::from(greedy) << 7 | ramp);
        }
    }

    /// The sampling of its published figures, for a model of `depth` blocks and scales of these sizes.
    pub fn sampling(self, depth: usize, scales: &[(u16, u16)]) -> Defaults {
        let large = scales.iter().any(|&(h, w)| h.max(w) > GUIDED_SIDE);
        let (guidance, top_k, top_p) = match self {
            Self::Var => (1.5, 900, 0.96),
            Self::Mvar => (1.4, 900, 0.96),
            Self::FlexVar => (if large { 3.0 } else { 2.5 }, 900, 0.95),
            Self::Hmar => match depth {
                0..20 => (1.7, 1000, 0.99),
                20..24 => (1.9, 950, 0.99),
                24..30 => (2.1, 900, 0.99),
                _ => (1.7, 1000, 0.99),
            },
        };
        Defaults {
            guidance: Some(guidance),
            top_k: Some(top_k),
            top_p: Some(top_p),
            temperature: Some(1.0),
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|l| l.name() == text).ok_or_else(|| {
            let all = Self::ALL.map(Self::name).join(", ");
            format!("no layout is called `{text}`; there are {all}")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flexvar_draws_by_side() {
        let scales = |sides: &[u16]| {
            let mut all: Vec<_> = sides.iter().map(|&n| Scale::new(n, n, 0)).collect();
            Layout::FlexVar.draw(&mut all);
            all.iter().map(|s| (s.greedy(), s.ramp())).collect::<Vec<_>>()
        };
        // Ten scales: as VAR, k / 9.
        assert_eq!(scales(&[1, 2, 3, 4, 5, 6, 8, 10, 13, 16]), [(false, 0); 10]);
        // Thirteen: up to 12 / 9 of the strength.
        let all = scales(&[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 14, 16]);
        assert_eq!(all[0], (false, 9));
        assert_eq!(all[6], (true, 9));
        assert_eq!(all[12], (false, 9));
        // Beyond side 16 all of it.
        assert_eq!(scales(&[1, 16, 32]), [(false, 0), (false, 0), (true, 2)]);
    }
}
