//! Relatives of VAR: weights that run in the same loop, with another view of the scales.
//!
//! | layout | keys and shapes | a scale sees | after |
//! |---|---|---|---|
//! | `var` | official | itself and all before it | arXiv 2404.02905 |
//! | `mvar` | as `var` | itself only; from the ninth scale on, 7 x 7 of its tokens | MVAR |

use std::fmt;
use std::str::FromStr;

use varmint_core::Keep;
use varmint_core::config::MAX_SCALES;

use crate::meta::Defaults;

/// Side of the neighbourhood that a token of a late scale of MVAR sees, and the first such scale.
const NEIGHBOURHOOD: (usize, usize) = (7, 8);

/// What kind of transformer the weights are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// VAR.
    #[default]
    Var,
    /// MVAR: keys and shapes of VAR, so that only the caller can know.
    Mvar,
}

impl Layout {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Var, Self::Mvar];

    /// Its name, as options have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Var => "var",
            Self::Mvar => "mvar",
        }
    }

    /// Whether a scale sees no other: nothing of it stays in a cache.
    pub const fn own_scale(self) -> bool {
        matches!(self, Self::Mvar)
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

    /// The sampling of its published figures.
    pub fn sampling(self) -> Defaults {
        let guidance = match self {
            Self::Var => 1.5,
            Self::Mvar => 1.4,
        };
        Defaults {
            guidance: Some(guidance),
            top_k: Some(900),
            top_p: Some(0.96),
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
