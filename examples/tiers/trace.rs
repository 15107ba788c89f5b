//! What happens to the device: a row per frame, from a table of text.

use std::fmt;

use anyhow::{Context, Result, bail};

/// The built-in trace: memory gets short and comes back, then the device gets hot, once inside an image.
pub(crate) const BUILT_IN: &str = "\
# ram,  celsius, drop
  100%, 41,
  100%, 48,
  95%,  55,
  80%,  58,
  60%,  60,
  38%,  61,
  25%,  60,
  80%,  64,
  100%, 68,      5
  100%, 79,
  100%, 86,
  100%, 66,
";

/// The state of the device while an image is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Frame {
    /// Memory that the arena may use.
    pub(crate) ram: Ram,
    /// Temperature of the processor.
    pub(crate) celsius: f32,
    /// The scale at which, in the middle of the image, the temperature of the next frame is reached.
    pub(crate) drop: Option<usize>,
}

/// An amount of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ram {
    Bytes(usize),
    /// Of what the best tier needs.
    Percent(f64),
}

impl Ram {
    pub(crate) fn bytes(self, best: usize) -> usize {
        match self {
            Self::Bytes(n) => n,
            Self::Percent(p) => (best as f64 * p / 100.0) as usize,
        }
    }

    /// `716800`, `700KiB`, `1MiB`, `80%`.
    fn parse(text: &str) -> Result<Self> {
        let number = |s: &str| s.trim().parse::<f64>().ok().filter(|n| (0.0..1e15).contains(n));
        let units = [("KiB", 1024.0), ("MiB", 1_048_576.0), ("", 1.0)];
        let percent = text.strip_suffix('%').and_then(number).map(Self::Percent);
        let bytes = || {
            units.iter().find_map(|(unit, size)| {
                let n = number(text.strip_suffix(unit)?)?;
                Some(Self::Bytes((n * size) as usize))
            })
        };
        percent.or_else(bytes).with_context(|| {
            format!("`{text}` is no amount of memory; wanted is 716800, 700KiB, 1MiB or 80%")
        })
    }
}

/// How hot it is, and what that allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heat {
    Cool,
    Warm,
    Hot,
}

impl Heat {
    /// Percent of the best tier's work that an image may cost.
    pub(crate) fn work(self) -> u64 {
        match self {
            // Rounding must not cost the best tier.
            Self::Cool => 101,
            Self::Warm => 80,
            Self::Hot => 50,
        }
    }
}

impl fmt::Display for Heat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cool => "cool",
            Self::Warm => "warm",
            Self::Hot => "hot",
        })
    }
}

impl Frame {
    pub(crate) fn heat(&self) -> Heat {
        match self.celsius {
            c if c < 70.0 => Heat::Cool,
            c if c < 85.0 => Heat::Warm,
            _ => Heat::Hot,
        }
    }

    fn parse(line: &str) -> Result<Self> {
        let mut cells = line.split(',').map(str::trim);
        let (ram, celsius) = (cells.next().unwrap_or(""), cells.next().unwrap_or(""));
        let drop = cells.next().unwrap_or("");
        if cells.next().is_some() {
            bail!("more than three columns: wanted are ram, celsius, drop");
        }
        let celsius = celsius.parse::<f32>().ok().filter(|c| c.is_finite());
        Ok(Self {
            ram: Ram::parse(ram)?,
            celsius: celsius.context("the second column, celsius, is no number")?,
            drop: match drop {
                "" => None,
                k => Some(k.parse().context("the third column, drop, is no scale")?),
            },
        })
    }
}

/// Reads `ram, celsius, drop` per line; empty lines, a head, and what follows a # do not count.
pub(crate) fn parse(text: &str) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() || line.starts_with("ram") {
            continue;
        }
        frames.push(Frame::parse(line).with_context(|| format!("line {} of the trace", i + 1))?);
    }
    if frames.is_empty() {
        bail!("the trace has no frames");
    }
    Ok(frames)
}
