//! What a run took.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use varmint::{Engine, Model, Ops, Tier};

/// The times of one image.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timing {
    /// Per scale.
    pub(crate) scales: Vec<Duration>,
    /// Latent to pixels.
    pub(crate) decoder: Duration,
}

/// The figures of a run.
pub(crate) struct Report {
    model: String,
    file_bytes: usize,
    backend: &'static str,
    tier: String,
    planned: usize,
    floor: usize,
    touched: usize,
    macs: u64,
    images: usize,
    scales: Vec<(String, f64)>,
    decoder: f64,
    out: String,
}

fn median_ms(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

impl Report {
    /// Medians over the images.
    pub(crate) fn new(
        model: &Model<'_>,
        engine: &Engine<'_>,
        tier: &Tier,
        timings: &[Timing],
        touched: usize,
        out: &Path,
    ) -> Self {
        let c = &model.shape.config;
        let scale = |k: usize| {
            let of = |t: &Timing| t.scales.get(k).copied();
            let s = c.scale(k);
            (format!("{}x{}", s.h, s.w), median_ms(timings.iter().filter_map(of).collect()))
        };
        Self {
            model: model.name().to_owned(),
            file_bytes: model.file_bytes(),
            backend: engine.cpu().name(),
            tier: tier.name().to_owned(),
            planned: engine.plan().bytes(),
            floor: engine.plan().floor(),
            touched,
            macs: engine.plan().total_macs(),
            images: timings.len(),
            scales: (0..c.n_scales()).map(scale).collect(),
            decoder: median_ms(timings.iter().map(|t| t.decoder).collect()),
            out: out.display().to_string(),
        }
    }

    fn total(&self) -> f64 {
        self.scales.iter().map(|s| s.1).sum::<f64>() + self.decoder
    }

    /// The same as one JSON object.
    pub(crate) fn json(&self) -> serde_json::Value {
        json!({
            "model": self.model,
            "file_bytes": self.file_bytes,
            "backend": self.backend,
            "tier": self.tier,
            "arena_planned_bytes": self.planned,
            "arena_used_bytes": self.touched,
            "arena_lower_bound_bytes": self.floor,
            "macs_per_image": self.macs,
            "images": self.images,
            "scale_ms": self.scales.iter().map(|s| json!({"scale": s.0, "ms": s.1})).collect::<Vec<_>>(),
            "decoder_ms": self.decoder,
            "image_ms": self.total(),
            "out": self.out,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model    {} ({} bytes, read in place)", self.model, self.file_bytes)?;
        writeln!(f, "backend  {}, tier {}", self.backend, self.tier)?;
        writeln!(
            f,
            "arena    {} bytes planned, {} bytes used (lower bound of any plan: {})",
            self.planned, self.touched, self.floor
        )?;
        write!(f, "time     ")?;
        for (name, ms) in &self.scales {
            write!(f, "{name} {ms:.1} | ")?;
        }
        writeln!(
            f,
            "decoder {:.1} | image {:.1} ms (median of {})",
            self.decoder,
            self.total(),
            self.images
        )?;
        writeln!(f, "picture  {}", self.out)
    }
}
