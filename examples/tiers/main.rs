//! An app whose memory and temperature change while it runs: per image it takes the best tier that
//! fits, in one arena that is allocated once.
//!
//! `cargo run --release --example tiers` needs nothing else: the model and a trace of twelve frames are
//! inside.

mod picture;
mod report;
#[cfg(test)]
mod tests;
mod trace;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use varmint::{Budget, Engine, Error, Event, Image, Model, ModelFile, Plan, Request, Tier};

use trace::Frame;

/// The shipped model: see fixtures/README.md.
static DEFAULT: &[u8] = varmint::include_model!("../../fixtures/emoji-64.vmt");

/// Plays a trace of memory and temperature, and changes the tier of the model with it.
#[derive(Parser)]
#[command(after_help = "Examples:
  tiers                                         the built-in trace
  tiers --class 'red heart' --style twemoji --seed 3
  tiers --trace day.csv --model my.vmt --out day.png

A trace is a table of text, a frame per line:
  ram,    celsius, drop
  100%,   45,              of what the best tier needs; 700KiB, 1MiB and bytes are understood, too
  720KiB, 66,      4       at scale 4 of this image the temperature of the next frame is reached already: where that
                           allows less work, the image goes on in a lower tier, if there is one that does less

From 70 degrees on an image may cost 80 % of the work of the best tier, from 85 on 50 %.")]
struct Args {
    /// Model file (.vmt) in place of the one inside the program
    #[arg(long)]
    model: Option<PathBuf>,
    /// What happens: a file of lines `ram, celsius, drop`
    #[arg(long)]
    trace: Option<PathBuf>,
    /// What to draw: a name or its number
    #[arg(long)]
    class: Option<String>,
    /// In which style: a name or its number
    #[arg(long)]
    style: Option<String>,
    /// Seed, the same for all frames: what changes is the tier
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// PNG to write; its folder is made if there is none
    #[arg(long, default_value = "out/tiers.png")]
    out: PathBuf,
}

fn main() {
    if let Err(error) = run(&Args::parse()) {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}

/// A frame, and what became of it.
struct Shown {
    frame: Frame,
    /// Bytes that the arena could use.
    budget: usize,
    /// The refusal, where no tier fits.
    made: Result<Made, Error>,
}

/// An image, and what it took.
struct Made {
    image: Image,
    tier: Tier,
    /// Bytes of the arena up to the last one that was touched.
    used: usize,
    macs: u64,
    time: Duration,
    /// The scale at which the image got too costly, with the work done before; where there was one,
    /// the lower tier in which it went on.
    hotter: Option<(usize, u64, Option<Tier>)>,
    /// How long the change to this tier took, if it was one.
    change: Option<Duration>,
}

fn run(args: &Args) -> Result<Vec<Shown>> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| cannot("read", path));
    let text = args.trace.as_deref().map_or(Ok(trace::BUILT_IN.to_owned()), read)?;
    let frames = trace::parse(&text)?;
    let open = |path: &PathBuf| ModelFile::open(path).with_context(|| cannot("read", path));
    let file = args.model.as_ref().map(open).transpose()?;
    let model = match &file {
        Some(f) => f.model().context("the model is refused")?,
        None => Model::parse(DEFAULT).context("the embedded model is refused")?,
    };
    let request = request(&model, args)?;

    // One arena for all frames: the largest budget, or what the best tier needs, if that is less.
    let best = Plan::new(&model.shape, &model.best_tier(Budget::default())?)?;
    let budgets: Vec<usize> = frames.iter().map(|f| f.ram.bytes(best.bytes())).collect();
    let largest = budgets.iter().copied().max().unwrap_or(0).min(best.bytes());
    let mut engine = Engine::with_arena(&model, largest).context("even the largest budget")?;
    let arena = engine.arena().len();
    print!("{}", report::head(&model, arena));

    let bar = ProgressBar::new(frames.len() as u64);
    let style = ProgressStyle::with_template("{bar:32} frame {pos} of {len}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let mut all: Vec<Shown> = Vec::new();
    let work = |frame: &Frame| best.total_macs() / 100 * frame.heat().work();
    for (i, (&frame, &budget)) in frames.iter().zip(&budgets).enumerate() {
        // What the device can do from a scale of this image on.
        let hotter = frame.drop.zip(frames.get(i + 1).map(work));
        let made = match choose(&model, budget, work(&frame)) {
            Ok(tier) => Ok(make(&mut engine, &model, &tier, request, hotter)?),
            Err(refusal) => Err(refusal),
        };
        all.push(Shown { frame, budget, made });
        bar.suspend(|| print!("{}", report::line(&all)));
        bar.inc(1);
    }
    bar.finish_and_clear();

    write(&picture::sheet(&all, arena, best.total_macs()), &args.out)?;
    print!("{}", report::end(&all, &model, &args.out));
    Ok(all)
}

/// The best tier for so much memory and work. Memory is a wall, work is a wish: where no tier does so
/// little, the error says how little one can do, and that one it is.
fn choose(model: &Model<'_>, ram: usize, work: u64) -> Result<Tier, Error> {
    let budget = Budget { image_macs: work, ..Budget::ram(ram) };
    match model.best_tier(budget) {
        Err(Error::TooMuchWork { need, .. }) => {
            model.best_tier(Budget { image_macs: need, ..budget })
        }
        chosen => chosen,
    }
}

/// One image in this tier, or in a lower one from the scale on at which it may cost only so much work.
fn make(
    engine: &mut Engine<'_>,
    model: &Model<'_>,
    tier: &Tier,
    request: Request<'_>,
    hotter: Option<(usize, u64)>,
) -> Result<Made> {
    let start = Instant::now();
    let changed = engine.plan().tier != *tier;
    if changed {
        engine.set_tier(tier)?;
    }
    let change = changed.then(|| start.elapsed());
    // Poison, so that what is touched can be told from what is left alone.
    engine.arena().fill(0xA5);
    let start = Instant::now();
    let (mut macs, mut seen) = (engine.plan().total_macs(), None);
    let done = Cell::new(0);
    let lower = |plan: &Plan, scale: usize| {
        hotter.filter(|&(at, work)| at == scale && plan.total_macs() > work)?;
        let low = cheaper(model, plan, scale, hotter?.1);
        macs = low.as_ref().unwrap_or(plan).total_macs();
        seen = Some((scale, done.get(), low.as_ref().map(|p| p.tier)));
        low
    };
    let image = engine.generate_lowering(request, lower, |event| match event {
        Event::Working(p) => done.set(p.done),
        Event::Scale(s) => done.set(s.progress.done),
        Event::Rows(_) => {}
    })?;
    let time = start.elapsed();
    let used = engine.arena().iter().rposition(|&b| b != 0xA5).map_or(0, |at| at + 1);
    Ok(Made { image, tier: *tier, used, macs, time, hotter: seen, change })
}

/// The plan of the best tier in which the image can go on with no more than `work` in all; else of the one that does least.
fn cheaper(model: &Model<'_>, plan: &Plan, scale: usize, work: u64) -> Option<Plan> {
    let lower = model.tiers().filter_map(|t| plan.lowered(&model.shape, &t, scale).ok());
    let less: Vec<Plan> = lower.filter(|p| p.total_macs() < plan.total_macs()).collect();
    let fits = less.iter().find(|p| p.total_macs() <= work);
    fits.or_else(|| less.iter().min_by_key(|p| p.total_macs())).copied()
}

/// The same picture for every frame.
fn request<'r>(model: &Model<'_>, args: &Args) -> Result<Request<'r>> {
    let mut request = Request::new(model);
    request.seed = args.seed;
    let label = |table, given: &Option<String>| match given {
        Some(text) => varmint::find_label(model, table, text).map(Some),
        None => Ok(None),
    };
    request.labels[0] = label(0, &args.class)?;
    request.labels[1] = label(1, &args.style)?;
    if args.class.is_none() && args.style.is_none() {
        // What the built-in model draws well.
        request.labels[0] = model.find_label(0, "automobile").map(|row| row as u32);
        request.labels[1] = model.find_label(1, "fluent-flat").map(|row| row as u32);
    }
    Ok(request)
}

fn cannot(what: &str, path: &Path) -> String {
    format!("cannot {what} {}", path.display())
}

fn write(sheet: &Image, out: &Path) -> Result<()> {
    let folder = out.parent().filter(|p| !p.as_os_str().is_empty());
    if let Some(folder) = folder {
        std::fs::create_dir_all(folder).with_context(|| cannot("make", folder))?;
    }
    let to = std::fs::File::create(out).with_context(|| cannot("write", out))?;
    sheet.write_png(std::io::BufWriter::new(to)).with_context(|| cannot("write", out))
}
