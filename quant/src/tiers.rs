//! The tiers of a fresh file, best first: the first runs every block of the drafter, and each further
//! one says what it does otherwise.
//!
//! ```text
//! small:tile=4,strip=2             the same picture in less memory
//! half:blocks=4@3,blocks=2@6       from scale 3 on 4 blocks, from scale 6 on 2 of them
//! code:refiner=4,decoder=narrow    from scale 4 on the second transformer; another image decoder
//! lean:keep=25%/90%                a cache of fewer tokens: see [`keep`]
//! ```

pub mod keep;

use std::fmt;
use std::str::FromStr;

use varmint_core::{Store, Trunk};

use crate::calibration::Budgets;
use crate::description::TierRow;
use crate::error::Error;
use keep::KeepKeys;

/// Which blocks run from a scale on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// So many, chosen evenly, the first and the last of the trunk among them: `4`.
    Evenly(usize),
    /// These: `0+2+5+7`.
    These(Vec<usize>),
}

impl Blocks {
    fn parse(text: &str) -> Option<Self> {
        let numbers: Vec<usize> = text.split('+').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        match *numbers.as_slice() {
            [n] => Some(Self::Evenly(n)),
            _ => Some(Self::These(numbers)),
        }
    }

    /// The blocks as a mask, for a trunk of `depth` blocks.
    fn mask(&self, depth: usize) -> Result<u64, String> {
        let blocks = match self {
            Self::Evenly(n) if *n == 0 || *n > depth => {
                return Err(format!("the trunk has {depth} blocks: 1 to {depth} of them can run"));
            }
            Self::Evenly(n) => (0..*n).map(|i| i * (depth - 1) / (n - 1).max(1)).collect(),
            Self::These(blocks) => blocks.clone(),
        };
        blocks.iter().try_fold(0, |mask, &b| match b {
            _ if b >= depth.min(64) => Err(format!(
                "the trunk has {depth} blocks: there is no block {b}, only 0 to {}",
                depth - 1
            )),
            _ if mask >> b & 1 == 1 => Err(format!("block {b} is there twice")),
            _ => Ok(mask | 1 << b),
        })
    }
}

impl fmt::Display for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Evenly(n) => write!(f, "{n}"),
            Self::These(blocks) => f.write_str(&joined(blocks.iter().copied())),
        }
    }
}

fn joined(blocks: impl Iterator<Item = usize>) -> String {
    blocks.map(|b| b.to_string()).collect::<Vec<_>>().join("+")
}

/// The blocks of a mask, as options write them.
fn listed(mask: u64) -> String {
    joined((0..64).filter(|b| mask >> b & 1 == 1))
}

/// All blocks of a trunk. The core refuses more than 64.
pub(crate) const fn all_blocks(depth: u32) -> u64 {
    u64::MAX >> 64u32.saturating_sub(depth)
}

/// A further tier: what it does otherwise than the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoreTier {
    /// Its name.
    pub name: String,
    /// Tokens per call of a block.
    pub tile: Option<u16>,
    /// Rows per call of a decoder layer.
    pub strip: Option<u16>,
    /// Bytes kept free for the kernels of 3x3 convolutions.
    pub conv_scratch: Option<u32>,
    /// Scales that are guided.
    pub guided: Option<u8>,
    /// How keys and values are stored.
    pub cache: Option<Store>,
    /// The image decoder's name.
    pub decoder: Option<String>,
    /// The first scale that the refiner runs.
    pub refiner: Option<usize>,
    /// Block lists, and the scale from which each holds.
    pub blocks: Vec<(Blocks, usize)>,
    /// Whether both guidance rows run in one call of a block.
    pub together: Option<bool>,
    /// What stays in the cache, and what a token sees.
    pub keep: KeepKeys,
}

/// What a value may be, in the order in which `--help` has them.
const KEYS: &str = "tile=N, strip=N, scratch=BYTES, guided=SCALES, rows=together|apart, \
                    cache=f32|f16|i8, decoder=NAME, \
                    refiner=SCALE, blocks=N@SCALE or blocks=0+2+5@SCALE, keep=OTHERS/WIDE@SCALE or \
                    keep=calibrated, grid=N, pool=N, protect=SCALES, window=SIDE@SCALE";

impl FromStr for MoreTier {
    type Err = Error;

    /// `NAME:tile=4,strip=2,blocks=4@3`, each value optional; `blocks` may be repeated.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| {
            Error::Option(format!("tier `{text}`: {why}; wanted is NAME:KEY=VALUE,.. of {KEYS}"))
        };
        let (name, values) = text.split_once(':').ok_or_else(|| bad("no values"))?;
        let mut tier = Self { name: name.to_owned(), ..Self::default() };
        for item in values.split(',') {
            let (key, value) =
                item.split_once('=').ok_or_else(|| bad(&format!("`{item}` is not KEY=VALUE")))?;
            let wrong = |_| bad(&format!("`{value}` is no number for {key}, or too large"));
            match key {
                "tile" => tier.tile = Some(value.parse().map_err(wrong)?),
                "strip" => tier.strip = Some(value.parse().map_err(wrong)?),
                "scratch" => tier.conv_scratch = Some(value.parse().map_err(wrong)?),
                "guided" => tier.guided = Some(value.parse().map_err(wrong)?),
                "refiner" => tier.refiner = Some(value.parse().map_err(wrong)?),
                "decoder" => tier.decoder = Some(value.to_owned()),
                "rows" => {
                    tier.together = match value {
                        "together" => Some(true),
                        "apart" => Some(false),
                        _ => {
                            return Err(bad(&format!("rows run together or apart, not `{value}`")));
                        }
                    };
                }
                "cache" => {
                    let stores = [("f32", Store::F32), ("f16", Store::F16), ("i8", Store::I8)];
                    let store = stores.into_iter().find(|(name, _)| *name == value);
                    let none = || bad(&format!("no cache is stored as `{value}`"));
                    tier.cache = Some(store.ok_or_else(none)?.1);
                }
                "blocks" => {
                    let list = value.split_once('@').and_then(|(blocks, scale)| {
                        Some((Blocks::parse(blocks)?, scale.parse().ok()?))
                    });
                    let none = || bad(&format!("`{value}` is not BLOCKS@SCALE"));
                    tier.blocks.push(list.ok_or_else(none)?);
                }
                _ if KeepKeys::has(key) => tier.keep.set(key, value).map_err(|e| bad(&e))?,
                _ => return Err(bad(&format!("no value is called `{key}`"))),
            }
        }
        Ok(tier)
    }
}

impl MoreTier {
    /// Its row, beside the first one, in a file of these trunks, of decoders with these names, and of scales
    /// of so many tokens.
    pub(crate) fn row(
        &self,
        first: &TierRow,
        trunks: &[Trunk],
        decoders: &[String],
        tokens: &[usize],
        budgets: Option<&Budgets>,
    ) -> Result<TierRow, Error> {
        let bad = |why: String| Error::Option(format!("tier `{}`: {why}", self.name));
        let decoder = match &self.decoder {
            None => usize::from(first.decoder),
            Some(name) => decoders.iter().position(|d| d == name).ok_or_else(|| {
                let all = decoders.join(", ");
                bad(format!(
                    "no image decoder is called `{name}`; there are: {all} (more with --decoder NAME=FILE)"
                ))
            })?,
        };
        Ok(TierRow {
            name: self.name.clone(),
            scales: self.scales(first.scales.len(), trunks).map_err(bad)?,
            cache: self.cache.unwrap_or(first.cache),
            maps: first.maps,
            guided: self.guided.unwrap_or(first.guided),
            decoder: decoder as u8,
            tile: self.tile.unwrap_or(first.tile),
            strip: self.strip.unwrap_or(first.strip),
            conv_scratch: self.conv_scratch.unwrap_or(first.conv_scratch),
            together: self.together.unwrap_or(first.together),
            keep: self.keep.rules(tokens, budgets, &first.keep).map_err(bad)?,
        })
    }

    /// Trunk and blocks of each of `n` scales.
    fn scales(&self, n: usize, trunks: &[Trunk]) -> Result<Vec<(u8, u64)>, String> {
        if let Some(k) = self.refiner {
            if trunks.len() < 2 {
                return Err(format!(
                    "refiner={k}: there is none; give its weights with --refiner FILE"
                ));
            }
            if k == 0 || k >= n {
                return Err(format!(
                    "refiner={k}: of {n} scales the refiner may start at 1 to {}, after the drafter's first",
                    n - 1
                ));
            }
        }
        let refined = self.refiner.unwrap_or(n);
        let trunk = |k: usize| usize::from(k >= refined);
        let mut rows: Vec<(u8, u64)> =
            (0..n).map(|k| (trunk(k) as u8, all_blocks(trunks[trunk(k)].depth))).collect();
        let mut lists: Vec<_> = self.blocks.iter().collect();
        lists.sort_by_key(|(_, from)| *from);
        if let Some(pair) = lists.windows(2).find(|pair| pair[0].1 == pair[1].1) {
            let ((a, from), (b, _)) = (pair[0], pair[1]);
            return Err(format!("blocks={a}@{from} and blocks={b}@{from}: only one can be right"));
        }
        for (blocks, from) in lists {
            let bad = |why: String| format!("blocks={blocks}@{from}: {why}");
            let &(number, before) = rows
                .get(*from)
                .ok_or_else(|| bad(format!("the model has scales 0 to {}", n - 1)))?;
            let mask = blocks.mask(trunks[usize::from(number)].depth as usize).map_err(bad)?;
            if mask & !before != 0 {
                let (mask, before) = (listed(mask), listed(before));
                return Err(bad(format!(
                    "a block that has stopped cannot come back; wanted are some of {before}, which run before, found {mask}"
                )));
            }
            rows[*from..].iter_mut().filter(|row| row.0 == number).for_each(|row| row.1 = mask);
        }
        Ok(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NINE: Trunk = Trunk {
        depth: 9,
        width: 64,
        heads: 1,
        hidden: 256,
        aln: varmint_core::Aln::Own,
        l2_norm: true,
        act: 1,
        wide_heads: [0; varmint_core::config::MAX_DEPTH],
    };
    const SIX: Trunk = Trunk { depth: 6, ..NINE };

    fn scales(text: &str) -> Result<String, String> {
        let tier: MoreTier = format!("t:{text}").parse().map_err(|e: Error| e.to_string())?;
        let rows = tier.scales(5, &[NINE, SIX])?;
        let row = |(trunk, mask): &(u8, u64)| format!("{trunk}/{}", listed(*mask));
        Ok(rows.iter().map(row).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn lists_of_blocks() {
        let all = "0/0+1+2+3+4+5+6+7+8";
        let even = format!("{all} {all} 0/0+2+5+8 0/0+2+5+8 0/0+8");
        assert_eq!(scales("blocks=4@2,blocks=2@4").as_ref(), Ok(&even));
        assert_eq!(scales("blocks=2@4,blocks=4@2").as_ref(), Ok(&even));
        assert_eq!(scales("blocks=0+8@4,blocks=5+2+0+8@2").as_ref(), Ok(&even));
        assert_eq!(scales("tile=1").unwrap(), [all; 5].join(" "));
        assert_eq!(scales("blocks=1@1").unwrap(), format!("{all} 0/0 0/0 0/0 0/0"));
        assert_eq!(scales("blocks=9@0").unwrap(), [all; 5].join(" "));
        assert_eq!((all_blocks(1), all_blocks(63), all_blocks(64)), (1, u64::MAX >> 1, u64::MAX));
    }

    #[test]
    fn the_refiner_has_blocks_of_its_own() {
        let (all, six) = ("0/0+1+2+3+4+5+6+7+8", "1/0+1+2+3+4+5");
        assert_eq!(scales("refiner=4").unwrap(), format!("{all} {all} {all} {all} {six}"));
        let both = format!("{all} 0/0+8 0/0+8 {six} 1/0+2+5");
        assert_eq!(scales("refiner=3,blocks=3@4,blocks=2@1").unwrap(), both);
        let at_once = format!("{all} {all} 1/1 1/1 1/1").replace("1/1", "1/0+1");
        assert_eq!(scales("refiner=2,blocks=0+1@2").unwrap(), at_once);
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, words) in [
            ("blocks=4@2,blocks=3@4", &["blocks=3@4", "0+4+8", "some of 0+2+5+8"][..]),
            ("blocks=10@2", &["9 blocks", "1 to 9"]),
            ("blocks=0@2", &["1 to 9"]),
            ("blocks=0+9@2", &["no block 9", "0 to 8"]),
            ("refiner=2,blocks=0+7@3", &["no block 7", "0 to 5"]),
            ("blocks=0+1+1@2", &["block 1 is there twice"]),
            ("blocks=4@5", &["scales 0 to 4"]),
            ("blocks=4@2,blocks=2@2", &["blocks=4@2 and blocks=2@2"]),
            ("blocks=4", &["BLOCKS@SCALE", "blocks=N@SCALE"]),
            ("blocks=x@1", &["`x@1`", "blocks=N@SCALE"]),
            ("refiner=0", &["1 to 4"]),
            ("refiner=5", &["1 to 4"]),
            ("cache=i9", &["`i9`", "f32|f16|i8"]),
            ("tile=70000", &["`70000`", "tile"]),
            ("tiles=7", &["`tiles`", "tile=N"]),
            ("tile", &["`tile` is not KEY=VALUE"]),
        ] {
            let said = scales(text).unwrap_err();
            assert!(words.iter().all(|w| said.contains(w)), "{text}: {said}");
        }
        let tier: MoreTier = "t:refiner=2".parse().unwrap();
        assert!(tier.scales(5, &[NINE]).is_err_and(|e| e.contains("--refiner FILE")));
    }
}
