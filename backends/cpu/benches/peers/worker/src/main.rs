//! Times the Rust engines on request of peers.py, one line in and one line out, fields separated by tabs:
//!
//! | request                                            | answer                                  |
//! |----------------------------------------------------|-----------------------------------------|
//! | `prepare <engine> <case> <kind> <dims> <copies> <folder>` | `ok <file with its f32 output>`  |
//! | `run <engine> <case> <ms>`                         | `ok <seconds of one run>`               |
//! | `drop <case>`                                      | `ok`                                    |
//!
//! Kinds: `linear` (dims M,K,N), `conv` (channels in, channels out, side; 3x3, stride 1, pad 1, NHWC) and
//! `attention` (queries, keys, heads, channels per head). Whatever goes wrong is `missing <why>`.
//! `<folder>` holds `<case>.x` and `<case>.w`, f32: rows `[M][K]` and weights `[N][K]`, or a halo-padded map
//! `[side + 2][side + 2][C]` and weights `[N][dy][dx][C]`. `copies` of the weights take turns.

mod attention;
mod linear;
mod varmint;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// One engine on one case.
trait Engine {
    fn run(&mut self);
    /// What the last run computed.
    fn output(&self) -> Vec<f32>;
}

/// What a case is made of.
struct Case {
    dims: Vec<usize>,
    copies: usize,
    x: Vec<f32>,
    w: Vec<f32>,
}

impl Case {
    fn load(name: &str, dims: &str, copies: &str, folder: &Path) -> Result<Self> {
        let read = |ending| -> Result<Vec<f32>> {
            let bytes = fs::read(folder.join(format!("{name}.{ending}")))?;
            let floats = bytes.chunks_exact(4).map(bytemuck::pod_read_unaligned);
            Ok(floats.collect())
        };
        Ok(Self {
            dims: dims.split(',').map(str::parse).collect::<Result<_, _>>()?,
            copies: copies.parse()?,
            x: read("x")?,
            w: read("w")?,
        })
    }

    fn dims<const N: usize>(&self) -> Result<[usize; N]> {
        self.dims.as_slice().try_into().context("another number of dimensions")
    }
}

/// An engine and the seconds that one run took last.
struct Subject {
    engine: Box<dyn Engine>,
    estimate: f64,
}

impl Subject {
    /// Seconds of one run, of as many as take about `budget` seconds.
    fn time(&mut self, budget: f64) -> f64 {
        if self.estimate * 10.0 < budget {
            self.engine.run(); // brings the caches back
        }
        let runs = (budget / self.estimate).ceil().clamp(1.0, 1e6) as u32;
        let start = Instant::now();
        for _ in 0..runs {
            self.engine.run();
        }
        self.estimate = start.elapsed().as_secs_f64() / f64::from(runs);
        self.estimate
    }
}

fn make(engine: &str, kind: &str, case: &Case) -> Result<Box<dyn Engine>> {
    match (kind, engine.starts_with("varmint ")) {
        ("linear", true) => varmint::linear(engine, case),
        ("linear", false) => linear::make(engine, case),
        ("conv", _) => varmint::conv(engine, case),
        ("attention", _) => attention::make(engine, case),
        _ => bail!("no such kind"),
    }
}

fn answer(subjects: &mut HashMap<(String, String), Subject>, line: &str) -> Result<String> {
    // Names of engines have blanks, hence tabs.
    let fields: Vec<&str> = line.trim_end().split('\t').collect();
    match *fields.as_slice() {
        ["prepare", engine, case, kind, dims, copies, folder] => {
            let folder = Path::new(folder);
            let loaded = Case::load(case, dims, copies, folder)?;
            let mut made = make(engine, kind, &loaded)?;
            // Once with every copy: some engines pack weights when they first meet them.
            (0..loaded.copies).for_each(|_| made.run());
            let start = Instant::now();
            made.run();
            let estimate = start.elapsed().as_secs_f64();
            let path = folder.join(format!("{case}.out"));
            fs::write(&path, bytemuck::cast_slice(&made.output()))?;
            subjects.insert((engine.into(), case.into()), Subject { engine: made, estimate });
            Ok(path.display().to_string())
        }
        ["run", engine, case, ms] => {
            let subject =
                subjects.get_mut(&(engine.into(), case.into())).context("not prepared")?;
            Ok(subject.time(ms.parse::<f64>()? * 1e-3).to_string())
        }
        ["drop", case] => {
            subjects.retain(|(_, c), _| c != case);
            Ok(String::new())
        }
        _ => bail!("not understood"),
    }
}

fn main() -> Result<()> {
    let mut subjects = HashMap::new();
    for line in io::stdin().lines() {
        let reply = match answer(&mut subjects, &line?) {
            Ok(text) => format!("ok\t{text}"),
            Err(why) => format!("missing\t{why:#}"),
        };
        println!("{}", reply.replace('\n', " "));
        io::stdout().flush()?;
    }
    Ok(())
}
