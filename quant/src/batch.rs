//! Many images on many threads, and the files that go in and come out.
//!
//! ```text
//! requests.csv, tokens.safetensors -> [Item] -> an Engine per thread -> [Image] -> images.safetensors
//! ```

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use varmint::{Engine, Image, Model, Request, Sampling, Tier};
use varmint_core::config::MAX_TABLES;

use crate::checkpoint::Checkpoint;
use crate::error::Error;

/// A request that owns its tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// A row of each condition table; `None` means "not given".
    pub labels: [Option<u32>; MAX_TABLES],
    /// Seed of every draw.
    pub seed: u64,
    /// Guidance and sampling.
    pub sampling: Sampling,
    /// Tokens to decode instead of drawing.
    pub tokens: Option<Vec<u16>>,
}

impl Item {
    /// Nothing given.
    pub fn new(sampling: Sampling, seed: u64) -> Self {
        Self { labels: [None; MAX_TABLES], seed, sampling, tokens: None }
    }

    /// The request.
    pub(crate) fn request(&self) -> Request<'_> {
        Request {
            labels: self.labels,
            seed: self.seed,
            sampling: self.sampling,
            tokens: self.tokens.as_deref(),
        }
    }
}

/// As many threads as the machine runs at once.
pub fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Makes every image, in the order of `items`, whatever the number of threads. `done` is called once
/// per image, from any of them.
///
/// # Errors
/// The first that any thread meets; the others then stop.
pub fn generate(
    model: &Model<'_>,
    tier: &Tier,
    items: &[Item],
    jobs: usize,
    done: &(dyn Fn() + Sync),
) -> Result<Vec<Image>, Error> {
    let next = AtomicUsize::new(0);
    let images: Vec<Mutex<Option<Image>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let work = || -> Result<(), varmint::Error> {
        let mut engine = Engine::new(model, tier)?;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            let (Some(item), Some(place)) = (items.get(i), images.get(i)) else { return Ok(()) };
            let image = engine.generate(item.request()).inspect_err(|_| {
                next.store(items.len(), Ordering::Relaxed);
            })?;
            if let Ok(mut place) = place.lock() {
                *place = Some(image);
            }
            done();
        }
    };
    let jobs = jobs.clamp(1, items.len().max(1));
    let outcome = std::thread::scope(|s| {
        let threads: Vec<_> = (1..jobs).map(|_| s.spawn(work)).collect();
        let mine = work();
        threads.into_iter().fold(mine, |all, t| match t.join() {
            Ok(one) => all.and(one),
            Err(panic) => std::panic::resume_unwind(panic),
        })
    });
    outcome.map_err(|e| Error::Option(e.to_string()))?;
    Ok(images.into_iter().filter_map(|i| i.into_inner().ok().flatten()).collect())
}

/// Reads a table of requests: a header of `class`, `style` and `seed` in any order, then a line per
/// image. An empty field is "not given"; for the seed, `first.seed` plus the number of the line.
///
/// # Errors
/// [`Error::Option`] with the line.
pub fn read_requests(path: &Path, model: &Model<'_>, first: &Item) -> Result<Vec<Item>, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
    let at =
        |line: usize, why: String| Error::Option(format!("{}, line {line}: {why}", path.display()));
    let mut lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let header: Vec<&str> =
        lines.next().map_or(Vec::new(), |(_, l)| l.split(',').map(str::trim).collect());
    let known = |name: &&str| ["class", "style", "seed"].contains(name);
    if header.is_empty() || !header.iter().all(known) {
        let m = "the header must name columns of class, style, seed".to_owned();
        return Err(at(1, m));
    }
    let mut items = Vec::new();
    for (n, line) in lines {
        let fields: Vec<&str> = line.split(',').map(str::trim).collect();
        if fields.len() != header.len() {
            return Err(at(
                n + 1,
                format!("{} fields where the header has {}", fields.len(), header.len()),
            ));
        }
        let mut item = first.clone();
        item.seed = first.seed.wrapping_add(items.len() as u64);
        for (name, field) in header.iter().zip(fields).filter(|(_, f)| !f.is_empty()) {
            let row =
                |t| varmint::find_label(model, t, field).map_err(|e| at(n + 1, e.to_string()));
            match *name {
                "class" => item.labels[0] = Some(row(0)?),
                "style" => item.labels[1] = Some(row(1)?),
                _ => {
                    item.seed =
                        field.parse().map_err(|e| at(n + 1, format!("seed {field}: {e}")))?;
                }
            }
        }
        items.push(item);
    }
    Ok(items)
}

/// Reads `tokens` [N, L] of a safetensors file: a list per image.
///
/// # Errors
/// A file that cannot be read, or without integers of that name and shape.
pub fn read_tokens(path: &Path, length: usize) -> Result<Vec<Vec<u16>>, Error> {
    let wrong = |why: String| Error::Option(format!("{}: {why}", path.display()));
    let file = Checkpoint::open(path)?;
    if !file.contains("tokens") {
        return Err(wrong("no tensor is called `tokens`".into()));
    }
    let shape = file.shape("tokens").unwrap_or(&[]).to_vec();
    let all = file.read_i64("tokens")?;
    if !matches!(shape.as_slice(), [_, l] if *l == length) {
        return Err(wrong(format!("tokens {shape:?}: the model needs [N, {length}]")));
    }
    let token =
        |&t: &i64| u16::try_from(t).map_err(|_| wrong(format!("token {t} is out of range")));
    all.chunks(length).map(|row| row.iter().map(token).collect()).collect()
}

/// Writes `images` U8 [N, H, W, 3] and `tokens` I32 [N, L].
///
/// # Errors
/// Those of the file system.
pub fn write_images(path: &Path, images: &[Image]) -> Result<(), Error> {
    let failed =
        |e: safetensors::SafeTensorError| Error::Option(format!("{}: {e}", path.display()));
    let n = images.len();
    let (h, w) = images.first().map_or((0, 0), |i| (i.height, i.width));
    let l = images.first().map_or(0, |i| i.tokens.len());
    let rgb: Vec<u8> = images.iter().flat_map(|i| i.rgb.iter().copied()).collect();
    let tokens: Vec<u8> = images
        .iter()
        .flat_map(|i| i.tokens.iter().flat_map(|&t| i32::from(t).to_le_bytes()))
        .collect();
    let tensors = [
        ("images", TensorView::new(Dtype::U8, vec![n, h, w, 3], &rgb).map_err(failed)?),
        ("tokens", TensorView::new(Dtype::I32, vec![n, l], &tokens).map_err(failed)?),
    ];
    serialize_to_file(tensors, None, path).map_err(failed)
}
