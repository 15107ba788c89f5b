//! What a tier keeps in the cache, as options say it (docs/format.md has the numbers that a file holds).
//!
//! ```text
//! keep=25%            after every scale a quarter of what the next one would see; wide heads keep all
//! keep=25%/90%@3      from after scale 3 on; of wide heads 90 %
//! keep=12+30+64/all   12 tokens after scale 0, 30 after scale 1, 64 from then on
//! keep=0/0            a scale sees itself only
//! keep=calibrated     what a calibration suggests
//! window=7@8          from scale 8 on a token sees 7 x 7 tokens of its scale
//! ```

use std::str::FromStr;

use varmint_core::Keep;
use varmint_core::config::MAX_SCALES;
use varmint_core::tier::KEEP_ALL;

use crate::calibration::Budgets;

/// Side of the grid of queries where tokens are chosen.
const GRID: usize = 4;
/// Neighbours whose scores are averaged.
const POOL: usize = 5;
/// Scales that always stay for wide heads.
const PROTECT: usize = 2;

/// How much stays after a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Everything.
    All,
    /// So many tokens.
    Tokens(u16),
    /// So many hundredths of what the next scale would see of earlier ones, rounded up.
    Percent(u8),
}

impl Amount {
    /// As the file has it, after a scale with `history` tokens up to its end.
    fn most(self, history: usize) -> u16 {
        let n = match self {
            Self::All => history,
            Self::Tokens(n) => usize::from(n),
            Self::Percent(p) => (history * usize::from(p)).div_ceil(100),
        };
        if n >= history { KEEP_ALL } else { n as u16 }
    }
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let amount = match text.strip_suffix('%') {
            _ if text == "all" => Some(Self::All),
            Some(p) => p.parse().ok().filter(|p| *p <= 100).map(Self::Percent),
            None => text.parse().ok().map(Self::Tokens),
        };
        amount.ok_or_else(|| format!("`{text}` is no amount; wanted is 64, 25%, all or 0"))
    }
}

/// The value of `keep=`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amounts {
    /// Those that a calibration suggests.
    Calibrated,
    /// For the other heads and for the wide ones, scale after scale, the last one going on; from after
    /// scale `from` on.
    Given([Vec<Amount>; 2], usize),
}

impl FromStr for Amounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "calibrated" {
            return Ok(Self::Calibrated);
        }
        let (lists, from) = from_scale(text)?;
        let (others, wide) = lists.split_once('/').unwrap_or((lists, "all"));
        let list = |text: &str| text.split('+').map(str::parse).collect::<Result<Vec<_>, _>>();
        Ok(Self::Given([list(others)?, list(wide)?], from))
    }
}

/// `VALUE@SCALE`, or from scale 0 on.
fn from_scale(text: &str) -> Result<(&str, usize), String> {
    match text.split_once('@') {
        None => Ok((text, 0)),
        Some((value, scale)) => match scale.parse() {
            Ok(scale) => Ok((value, scale)),
            Err(_) => Err(format!("`{scale}` is no scale")),
        },
    }
}

/// The keys of a tier that are about its cache.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeepKeys {
    /// What stays.
    pub amounts: Option<Amounts>,
    /// Side of the grid of queries that say which tokens stay.
    pub grid: Option<usize>,
    /// Neighbours whose scores are averaged.
    pub pool: Option<usize>,
    /// First scales that always stay for wide heads.
    pub protect: Option<usize>,
    /// Side of the neighbourhood that a token sees, and the first scale with one.
    pub window: Option<(usize, usize)>,
}

impl KeepKeys {
    /// Whether a key is one of these.
    pub(crate) fn has(key: &str) -> bool {
        ["keep", "grid", "pool", "protect", "window"].contains(&key)
    }

    /// Reads a value.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        let said = |why: String| format!("{key}={value}: {why}");
        let number = |text: &str| text.parse().map_err(|_| said(format!("`{text}` is no number")));
        match key {
            "keep" if self.amounts.is_some() => {
                return Err(said(
                    "there is a keep= already; one list goes from scale to scale".into(),
                ));
            }
            "keep" => self.amounts = Some(value.parse().map_err(said)?),
            "grid" => self.grid = Some(number(value)?),
            "pool" => self.pool = Some(number(value)?),
            "protect" => self.protect = Some(number(value)?),
            _ => {
                let (side, from) = from_scale(value).map_err(said)?;
                self.window = Some((number(side)?, from));
            }
        }
        Ok(())
    }

    /// The rules, for a schedule of so many tokens a scale; those of the first tier where nothing is said.
    pub(crate) fn rules(
        &self,
        tokens: &[usize],
        budgets: Option<&Budgets>,
        first: &Keep,
    ) -> Result<Keep, String> {
        let mut keep = Keep {
            most: if self.amounts.is_some() { self.most(tokens, budgets)? } else { first.most },
            window: first.window,
            window_from: first.window_from,
            ..Keep::ALL
        };
        let choice = keep.most.iter().flatten().any(|n| *n != 0 && *n != KEEP_ALL);
        if choice {
            let n = tokens.len();
            keep.grid = within("grid", self.grid.unwrap_or(GRID), 1, 64)?;
            keep.pool = odd("pool", within("pool", self.pool.unwrap_or(POOL), 1, 63)?)?;
            keep.protect = within("protect", self.protect.unwrap_or(PROTECT.min(n)), 0, n)?;
        } else if self.grid.or(self.pool).or(self.protect).is_some() {
            return Err("grid=, pool= and protect= say how tokens are chosen, but no keep= drops a part of them".into());
        }
        if let Some((side, from)) = self.window {
            keep.window = odd("window", within("window", side, 1, 255)?)?;
            keep.window_from = within("window=..@SCALE", from, 0, tokens.len() - 1)?;
        }
        Ok(keep)
    }

    /// Tokens that stay, by class and scale. After the last scale nothing is read.
    fn most(
        &self,
        tokens: &[usize],
        budgets: Option<&Budgets>,
    ) -> Result<[[u16; MAX_SCALES]; 2], String> {
        let mut most = Keep::ALL.most;
        let last = tokens.len() - 1;
        let history = tokens.iter().scan(0, |sum, n| {
            *sum += n;
            Some(*sum)
        });
        let given: [Vec<Amount>; 2];
        let (lists, from) = match (&self.amounts, budgets) {
            (None, _) => return Ok(most),
            (Some(Amounts::Given(lists, from)), _) => (lists, *from),
            (Some(Amounts::Calibrated), None) => {
                return Err(
                    "keep=calibrated: there is none; give it with --calibration FILE".into()
                );
            }
            (Some(Amounts::Calibrated), Some(b)) => {
                let amount = |n: &usize| u16::try_from(*n).map_or(Amount::All, Amount::Tokens);
                given = [&b.others, &b.wide].map(|list| list.iter().map(amount).collect());
                (&given, 0)
            }
        };
        if from >= last {
            return Err(format!(
                "keep=..@{from}: of {} scales, wanted is one before the last, 0 to {}; nothing reads the cache later",
                tokens.len(),
                last.saturating_sub(1)
            ));
        }
        for (k, history) in history.enumerate().take(last).skip(from) {
            for (most, list) in most.iter_mut().zip(lists) {
                let amount = list.get(k - from).or(list.last()).copied().unwrap_or(Amount::All);
                most[k] = amount.most(history);
            }
        }
        if let Some(list) = lists.iter().find(|list| list.len() > last - from) {
            return Err(format!(
                "keep: {} amounts from scale {from} on, but only {} scales before the last",
                list.len(),
                last - from
            ));
        }
        Ok(most)
    }
}

fn within(key: &str, n: usize, least: usize, most: usize) -> Result<usize, String> {
    if (least..=most).contains(&n) {
        return Ok(n);
    }
    Err(format!("{key}: {n} is not in {least} to {most}"))
}

fn odd(key: &str, n: usize) -> Result<usize, String> {
    if n % 2 == 1 {
        Ok(n)
    } else {
        Err(format!("{key}={n}: wanted is an odd number, with a middle"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::tiers::MoreTier;

    const A: u16 = KEEP_ALL;
    /// Sides 1, 2, 3, 4: the history is 1, 5, 14.
    const TOKENS: [usize; 4] = [1, 4, 9, 16];

    fn rules(text: &str) -> Result<Keep, String> {
        let tier: MoreTier = format!("t:{text}").parse().map_err(|e: Error| e.to_string())?;
        let budgets = Budgets { others: vec![1, 2, 3], wide: vec![1, 5, 9] };
        tier.keep.rules(&TOKENS, Some(&budgets), &Keep::ALL)
    }

    #[test]
    fn amounts_by_class_and_scale() {
        for (text, others, wide) in [
            ("tile=4", [A, A, A], [A, A, A]),
            ("keep=50%", [A, 3, 7], [A, A, A]),
            ("keep=25%/90%", [A, 2, 4], [A, A, 13]),
            ("keep=0/0", [0, 0, 0], [0, 0, 0]),
            ("keep=0%@1", [A, 0, 0], [A, A, A]),
            ("keep=6/2@2", [A, A, 6], [A, A, 2]),
            ("keep=1+3+4/all", [A, 3, 4], [A, A, A]),
            ("keep=4+8/50%+all@1", [A, 4, 8], [A, 3, A]),
            ("keep=all/0", [A, A, A], [0, 0, 0]),
            ("keep=calibrated", [A, 2, 3], [A, A, 9]),
        ] {
            let keep = rules(text).unwrap();
            let row = |class: usize| [0, 1, 2].map(|k| keep.most[class][k]);
            assert_eq!((row(0), row(1)), (others, wide), "{text}");
            assert!(keep.most.iter().all(|m| m[3..].iter().all(|n| *n == A)), "{text}");
            let choice = others.iter().chain(&wide).any(|n| *n != 0 && *n != A);
            let chosen = if choice { (4, 5, 2) } else { (0, 1, 0) };
            assert_eq!((keep.grid, keep.pool, keep.protect), chosen, "{text}");
        }
        let keep = rules("keep=3,grid=2,pool=1,protect=0,window=7@3").unwrap();
        assert_eq!((keep.grid, keep.pool, keep.protect), (2, 1, 0));
        assert_eq!((keep.window, keep.window_from), (7, 3));
        assert_eq!(rules("window=3").unwrap(), Keep { window: 3, ..Keep::ALL });
    }

    #[test]
    fn mistakes_say_what_would_be_right() {
        for (text, words) in [
            ("keep=x", &["keep=x", "`x` is no amount", "25%"][..]),
            ("keep=120%", &["`120%`", "64, 25%, all or 0"]),
            ("keep=4+/2", &["`` is no amount"]),
            ("keep=1/2/3", &["`2/3` is no amount"]),
            ("keep=4@x", &["`x` is no scale"]),
            ("keep=4@3", &["keep=..@3", "0 to 2"]),
            ("keep=1+2+3+4", &["4 amounts", "only 3 scales"]),
            ("keep=4,keep=3@2", &["keep= already"]),
            ("keep=3,grid=0", &["grid: 0 is not in 1 to 64"]),
            ("keep=3,pool=4", &["pool=4", "odd"]),
            ("keep=3,protect=5", &["protect: 5", "0 to 4"]),
            ("keep=0,grid=4", &["no keep= drops a part"]),
            ("window=6", &["window=6", "odd"]),
            ("window=0", &["window: 0"]),
            ("window=7@4", &["window=..@SCALE: 4", "0 to 3"]),
            ("window=q", &["window=q", "`q` is no number", "window=SIDE@SCALE"]),
        ] {
            let said = rules(text).unwrap_err();
            assert!(words.iter().all(|w| said.contains(w)), "{text}: {said}");
        }
        let tier: MoreTier = "t:keep=calibrated".parse().unwrap();
        assert!(
            tier.keep
                .rules(&TOKENS, None, &Keep::ALL)
                .is_err_and(|e| e.contains("--calibration FILE"))
        );
        // A model of one scale has no cache.
        assert!(
            tier.keep
                .rules(&[1], Some(&Budgets { others: vec![], wide: vec![] }), &Keep::ALL)
                .is_err()
        );
    }
}
