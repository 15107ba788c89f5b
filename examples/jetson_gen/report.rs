//! What a run took.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use varmint::{Engine, Model, Tier};

use crate::board::Board;

/// The times of an image, or of a batch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timing {
    /// Images in the batch.
    pub(crate) images: usize,
    /// Per scale.
    pub(crate) scales: Vec<Duration>,
    /// Latent to pixels.
    pub(crate) decoder: Duration,
}

/// What a GPU says, in bytes.
struct Gpu {
    name: String,
    extra: usize,
    weights_shared: bool,
    driver: usize,
    graphs: usize,
}

impl Gpu {
    #[cfg(feature = "cuda")]
    fn of(engine: &Engine<'_>) -> Option<Self> {
        let gpu = engine.gpu()?;
        let f = gpu.footprint();
        Some(Self {
            name: gpu.facts().name.clone(),
            extra: f.extra,
            weights_shared: f.weights_shared,
            driver: f.driver,
            graphs: gpu.launches().0,
        })
    }

    #[cfg(not(feature = "cuda"))]
    fn of(_: &Engine<'_>) -> Option<Self> {
        None
    }
}

/// The figures of a run.
pub(crate) struct Report {
    model: String,
    file_bytes: usize,
    backend: String,
    board: Option<String>,
    /// The GPU and what of its memory is taken.
    gpu: Option<Gpu>,
    tier: String,
    planned: usize,
    floor: usize,
    touched: usize,
    macs: u64,
    start: f64,
    images: usize,
    batch: usize,
    scales: Vec<(String, f64)>,
    decoder: f64,
    out: String,
}

fn median_ms(mut all: Vec<Duration>) -> f64 {
    all.sort();
    all.get(all.len() / 2).map_or(0.0, |d| d.as_secs_f64() * 1e3)
}

impl Report {
    /// Medians over the batches, a last one that is not full left out; `start` is the time until the first one begins.
    pub(crate) fn new(
        model: &Model<'_>,
        engine: &Engine<'_>,
        tier: &Tier,
        (start, timings): (Duration, &[Timing]),
        touched: usize,
        out: &Path,
    ) -> Self {
        let c = &model.shape.config;
        let batch = timings.first().map_or(1, |t| t.images);
        let images = timings.iter().map(|t| t.images).sum();
        let timings: Vec<&Timing> = timings.iter().filter(|t| t.images == batch).collect();
        let scale = |k: usize| {
            let of = |t: &Timing| t.scales.get(k).copied();
            let s = c.scale(k);
            (
                format!("{}x{}", s.h, s.w),
                median_ms(timings.iter().copied().filter_map(of).collect()),
            )
        };
        Self {
            model: model.name().to_owned(),
            file_bytes: model.file_bytes(),
            backend: engine.backend().to_owned(),
            board: Board::read(Path::new("/")).line(),
            gpu: Gpu::of(engine),
            tier: tier.name().to_owned(),
            planned: engine.plan().bytes(),
            floor: engine.plan().floor(),
            touched,
            macs: engine.plan().image_macs(),
            start: start.as_secs_f64() * 1e3,
            images,
            batch,
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
            "board": self.board,
            "gpu": self.gpu.as_ref().map(|g| json!({
                "name": g.name,
                "beside_the_arena_bytes": g.extra,
                "weights_are_the_host_s": g.weights_shared,
                "driver_bytes": g.driver,
                "graphs": g.graphs,
            })),
            "macs_per_image": self.macs,
            "start_ms": self.start,
            "images": self.images,
            "batch": self.batch,
            "scale_ms": self.scales.iter().map(|s| json!({"scale": s.0, "ms": s.1})).collect::<Vec<_>>(),
            "decoder_ms": self.decoder,
            "image_ms": self.total() / self.batch as f64,
            "out": self.out,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (model, bytes) = (&self.model, self.file_bytes);
        writeln!(
            f,
            "model    {model} ({bytes} bytes, read in place), ready in {:.1} ms",
            self.start
        )?;
        writeln!(f, "backend  {}, tier {}", self.backend, self.tier)?;
        if let Some(board) = &self.board {
            writeln!(f, "board    {board}")?;
        }
        match &self.gpu {
            None => writeln!(
                f,
                "arena    {} bytes planned, {} bytes used (lower bound of any plan: {})",
                self.planned, self.touched, self.floor
            )?,
            Some(g) => writeln!(
                f,
                "GPU      {}: arena {} bytes, beside it {}, weights {}, driver {} (context and kernels)",
                g.name,
                self.planned,
                g.extra,
                if g.weights_shared { "as the host has them" } else { "copied once" },
                g.driver
            )?,
        }
        write!(f, "time     ")?;
        for (name, ms) in &self.scales {
            write!(f, "{name} {ms:.1} | ")?;
        }
        let (decoder, total, images, batch) = (self.decoder, self.total(), self.images, self.batch);
        match batch {
            1 => writeln!(f, "decoder {decoder:.1} | image {total:.1} ms (median of {images})")?,
            _ => writeln!(
                f,
                "decoder {decoder:.1} | {batch} at once {total:.1} ms, {:.1} ms an image ({images} in all)",
                total / batch as f64
            )?,
        }
        writeln!(f, "picture  {}", self.out)
    }
}
