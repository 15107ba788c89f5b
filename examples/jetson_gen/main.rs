//! Makes pictures with a VAR model in a fixed arena, and says what it took.
//!
//! `cargo run --release --example jetson_gen` needs nothing else: the default model is inside.

mod args;
mod board;
mod report;
mod terminal;

use std::fs::File;
use std::io::{BufWriter, IsTerminal};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use varmint::{Cpu, Engine, Event, Image, Isa, Model, ModelFile, PngRows, Request, Tier};

use args::{Args, Choice};
use report::{Report, Timing};

/// The shipped model: see fixtures/README.md.
static DEFAULT: &[u8] = varmint::include_model!("../../fixtures/emoji-64.vmt");

/// What the contact sheet of a run without arguments shows: rows are emoji, columns are styles.
const SHOW: [&str; 8] = [
    "smiling face with sunglasses",
    "red heart",
    "red apple",
    "strawberry",
    "four leaf clover",
    "rainbow",
    "automobile",
    "penguin",
];

fn main() {
    let args = Args::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads.into()).build();
    let done = match pool {
        Ok(pool) => pool.install(|| run(&args)),
        Err(error) => Err(error).context("cannot start the threads"),
    };
    if let Err(error) = done {
        eprintln!("error: {error:#}");
        std::process::exit(1);
    }
}

/// One picture to make: a label per table, and a seed.
#[derive(Clone, Copy)]
struct Cell {
    labels: [Option<u32>; varmint::config::MAX_TABLES],
    seed: u64,
}

fn run(args: &Args) -> Result<()> {
    let begun = Instant::now();
    let file = match &args.model {
        Some(path) => Some(
            ModelFile::open(path)
                .with_context(|| format!("cannot read the model {}", path.display()))?,
        ),
        None => None,
    };
    let model = match &file {
        Some(f) if args.trust => f.trusted().context("the model is refused")?,
        Some(f) => f.model().context("the model is refused")?,
        None => Model::parse(DEFAULT).context("the embedded model is refused")?,
    };
    let tier = choose_tier(&model, args.tier.as_deref())?;
    let mut engine = choose_engine(&model, &tier, args)?;
    let (cells, columns) = choose_cells(&model, args)?;

    if let Some(folder) = args.folder() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let start = begun.elapsed();

    // Poison, so that what a run touches can be told from what it was given.
    engine.arena().fill(0xA5);
    let mut images = Vec::with_capacity(cells.len());
    let mut timings = Vec::with_capacity(cells.len());
    let bar = progress_bar(args, engine.plan().image_macs() * cells.len() as u64);
    for some in cells.chunks(args.batch.into()) {
        bar.set_prefix(format!("{}/{}", images.len() + some.len(), cells.len()));
        let (made, timing) = make(&model, &mut engine, some, args, &bar, images.len())?;
        images.extend(made);
        timings.push(timing);
    }
    bar.finish_and_clear();
    let touched = engine.arena().iter().rposition(|&b| b != 0xA5).map_or(0, |at| at + 1);

    if args.folder().is_none() {
        let sheet = match images.as_slice() {
            [one] => one.clone(),
            many => Image::sheet(many, columns, 2),
        };
        sheet.write_png(create(&args.out)?)?;
    }

    let report = Report::new(&model, &engine, &tier, (start, &timings), touched, &args.out);
    if args.json {
        println!("{}", report.json());
    } else {
        if !args.no_picture && std::io::stdout().is_terminal() {
            print!("{}", terminal::picture(&images, columns));
        }
        print!("{report}");
    }
    Ok(())
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path);
    Ok(BufWriter::new(file.with_context(|| format!("cannot write {}", path.display()))?))
}

fn progress_bar(args: &Args, total: u64) -> ProgressBar {
    if args.json {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(total);
    let style =
        ProgressStyle::with_template("{prefix:>7} {bar:32} {percent:>3}%  {msg}  {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}

/// Images made at once, with the time that each scale and the decoder took for all of them.
fn make(
    model: &Model<'_>,
    engine: &mut Engine<'_>,
    cells: &[Cell],
    args: &Args,
    bar: &ProgressBar,
    first: usize,
) -> Result<(Vec<Image>, Timing)> {
    let request = |cell: &Cell| {
        let mut request = Request::new(model);
        (request.labels, request.seed) = (cell.labels, cell.seed);
        args.sampling(&mut request.sampling);
        request
    };
    let requests: Vec<Request<'_>> = cells.iter().map(request).collect();
    let base = first as u64 * engine.plan().image_macs();
    // With a folder, a file each: named by number, and written while it is made.
    let png = |(folder, i): (&Path, usize)| {
        let path = folder.join(format!("{:04}.png", first + i + 1));
        PngRows::new(create(&path)?, engine.size()).map_err(anyhow::Error::from)
    };
    let files = args.folder().into_iter().flat_map(|f| (0..cells.len()).map(move |i| (f, i)));
    let mut files = files.map(png).collect::<Result<Vec<_>>>()?;
    let mut written = Ok(());
    let scales = model.shape.config.n_scales();
    let mut timing = Timing { images: cells.len(), ..Timing::default() };
    let mut last = Instant::now();
    bar.set_message(format!("scale 1 of {scales}"));
    let images = engine.generate_batch(&requests, |event| match event {
        Event::Working(p) => bar.set_position(base + p.done),
        Event::Scale(s) => {
            if s.image == 0 {
                timing.scales.push(last.elapsed());
                last = Instant::now();
            }
            bar.set_position(base + s.progress.done);
            if args.preview && !args.json {
                let latent: Vec<[u8; 3]> = s.preview().collect();
                bar.println(terminal::blocks(&latent, s.size.1));
            }
            let next = s.scale + 2;
            bar.set_message(if next > scales {
                "pixels".into()
            } else {
                format!("scale {next} of {scales}")
            });
        }
        Event::Rows(r) => {
            bar.set_position(base + r.progress.done);
            if let (Some(file), Ok(())) = (files.get_mut(r.image), &written) {
                written = file.push(r);
            }
        }
    })?;
    written.and_then(|()| files.into_iter().try_for_each(PngRows::finish))?;
    timing.decoder = last.elapsed();
    Ok((images, timing))
}

fn choose_tier(model: &Model<'_>, name: Option<&str>) -> Result<Tier> {
    let Some(name) = name else { return Ok(model.tier_at(0)?) };
    model.tier(name).ok().with_context(|| {
        let names: Vec<String> = model.tiers().map(|t| t.name().to_owned()).collect();
        format!("the model has no tier `{name}`; it has {}", names.join(", "))
    })
}

/// The GPU or the processor; where the GPU was wanted if possible and is not, one line says why.
fn choose_engine<'m>(model: &'m Model<'m>, tier: &Tier, args: &Args) -> Result<Engine<'m>> {
    #[cfg(feature = "cuda")]
    if args.device != Choice::Cpu && args.backend.is_none() {
        match Engine::batch_on_gpu(model, tier, args.batch.into()) {
            Ok(engine) => return Ok(engine),
            Err(error) if args.device == Choice::Cuda => {
                return Err(error).context("cannot use a GPU");
            }
            Err(error) => eprintln!("on the processor, not on a GPU: {error}"),
        }
    }
    if args.device == Choice::Cuda {
        bail!("this build has no GPU support: build it with `--features cuda`");
    }
    let mut engine = Engine::batch(model, tier, args.batch.into())?;
    let cpu = choose_cpu(args.backend.as_deref())?;
    engine.set_cpu(if args.threads > 1 { cpu.parallel() } else { cpu });
    Ok(engine)
}

fn choose_cpu(name: Option<&str>) -> Result<Cpu> {
    let Some(name) = name else { return Ok(Cpu::detect()) };
    let Some(isa) = Isa::ALL.into_iter().find(|i| i.name() == name) else {
        let names = Isa::ALL.map(Isa::name).join(", ");
        bail!("no backend `{name}`; there are {names}");
    };
    Cpu::with(isa).with_context(|| format!("this processor has no {name}"))
}

/// The pictures of this run, and how many stand in a row of the sheet.
fn choose_cells(model: &Model<'_>, args: &Args) -> Result<(Vec<Cell>, usize)> {
    let none = [None; varmint::config::MAX_TABLES];
    let tables = model.shape.config.n_tables();
    let mut labels = none;
    if let Some(class) = &args.class {
        labels[0] = Some(varmint::find_label(model, 0, class)?);
    }
    if let Some(style) = &args.style {
        labels[1] = Some(varmint::find_label(model, 1, style)?);
    }
    let seeds = |count: u64| (0..count).map(|i| args.seed.wrapping_add(i));
    if args.class.is_none() && args.style.is_none() && args.count.is_none() && tables == 2 {
        let found: Vec<u32> =
            SHOW.iter().filter_map(|n| model.find_label(0, n)).map(|r| r as u32).collect();
        let styles = model.shape.config.table(1).rows - 1;
        if !found.is_empty() {
            let cells = found
                .iter()
                .flat_map(|&c| (0..styles).map(move |s| (c, s)))
                .map(|(class, style)| {
                    let mut labels = none;
                    (labels[0], labels[1]) = (Some(class), Some(style));
                    Cell { labels, seed: args.seed }
                })
                .collect();
            return Ok((cells, styles as usize));
        }
    }
    // A class without a style: one picture per style.
    if args.class.is_some() && args.style.is_none() && args.count.is_none() && tables == 2 {
        let styles = model.shape.config.table(1).rows - 1;
        let cells =
            (0..styles).map(|s| Cell { labels: [labels[0], Some(s), None, None], seed: args.seed });
        return Ok((cells.collect(), styles as usize));
    }
    let count = args.count.unwrap_or(1).max(1);
    let cells: Vec<Cell> = seeds(count).map(|seed| Cell { labels, seed }).collect();
    Ok((cells, 8))
}
