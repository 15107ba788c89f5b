//! What is printed: a line per frame, and what to see in the picture.

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use varmint::{Error, Model};

use crate::picture;
use crate::{Made, Shown};

fn kib(n: usize) -> String {
    format!("{:.1} KiB", n as f64 / 1024.0)
}

pub(crate) fn head(model: &Model<'_>, arena: usize) -> String {
    format!(
        "{}: one arena of {arena} bytes for all frames\n\n{:>5}  {:>12}  {:<10}  {:<10}  {:>12}  {:>8}\n",
        model.name(),
        "frame",
        "budget",
        "state",
        "tier",
        "arena used",
        "ms"
    )
}

/// The line of the last frame.
pub(crate) fn line(all: &[Shown]) -> String {
    let Some(shown) = all.last() else { return String::new() };
    let (n, f) = (all.len(), &shown.frame);
    let (budget, heat) = (kib(shown.budget), f.heat());
    let mut out = format!("{n:>5}  {budget:>12}  {:>3.0} \u{b0}C {heat:<4}  ", f.celsius);
    match &shown.made {
        Ok(Made { tier, used, time, change, .. }) => {
            let (name, used) = (tier.name(), kib(*used));
            let ms = time.as_secs_f64() * 1e3;
            let _ = write!(out, "{name:<10}  {used:>12}  {ms:>8.1}");
            if change.is_some() {
                out.push_str("  changed");
            }
        }
        Err(Error::ArenaTooSmall { need, got }) => {
            let (need, more) = (kib(*need), kib(need.saturating_sub(*got)));
            let _ = write!(out, "none: the smallest needs {need}, {more} more");
        }
        Err(e) => {
            let _ = write!(out, "none: {e}");
        }
    }
    if let Ok(Made { hotter: Some((k, _, low)), .. }) = &shown.made {
        let _ = match low {
            Some(tier) => write!(out, "  went on as {} at scale {k}", tier.name()),
            None => write!(out, "  hotter at scale {k}, and no tier to go on in does less"),
        };
    }
    out.push('\n');
    out
}

/// The sum of it, and the legend of the picture.
pub(crate) fn end(all: &[Shown], model: &Model<'_>, out: &Path) -> String {
    let made: Vec<&Made> = all.iter().filter_map(|s| s.made.as_ref().ok()).collect();
    let changes: Vec<Duration> = made.iter().filter_map(|m| m.change).collect();
    let slowest = changes.iter().max().copied().unwrap_or_default().as_secs_f64() * 1e6;
    let colours = model.tiers().map(|t| format!("{} {}", t.name(), picture::colour(t.index).0));
    format!(
        "\n{} frames, {} images, {} changes of tier, {slowest:.0} \u{b5}s at most\n\
         picture  {}\n\
         above    green: cool, yellow: warm, red: hot; two colours where it changed inside the image;\n\
         {:9}a chequered frame: nothing fits\n\
         below    the arena: used (colour), free within the budget (light), not ours now (dark);\n\
         {:9}under it the work of the image, where the width is that of the best tier; two colours\n\
         {:9}where it went on in another one\n\
         colours  {}\n",
        all.len(),
        made.len(),
        changes.len(),
        out.display(),
        "",
        "",
        "",
        colours.collect::<Vec<_>>().join(", ")
    )
}
