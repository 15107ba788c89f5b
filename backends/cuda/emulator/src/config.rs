//! What device it pretends to be.

use crate::grid::Checks;

/// The device, from the environment.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) name: String,
    pub(crate) capability: (u32, u32),
    pub(crate) memory: usize,
    pub(crate) integrated: bool,
    pub(crate) multiprocessors: u32,
    /// Bytes of shared memory that a block may have.
    pub(crate) shared: u32,
    pub(crate) driver: (u32, u32),
    pub(crate) threads: usize,
    pub(crate) checks: Checks,
}

/// A variable as `read` understands it, or what is there without one.
///
/// # Panics
/// It is not understood: a test must not run as something else than was asked for.
fn variable<T>(name: &str, default: T, read: impl Fn(&str) -> Option<T>) -> T {
    match std::env::var(name) {
        Ok(v) => match read(&v) {
            Some(v) => v,
            None => panic!("{name}={v} is not understood"),
        },
        Err(_) => default,
    }
}

fn version(s: &str) -> Option<(u32, u32)> {
    let (a, b) = s.split_once('.')?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

impl Config {
    /// # Panics
    /// A variable is not understood.
    pub(crate) fn from_env() -> Self {
        let capability = variable("VARMINT_EMU_CAPABILITY", (8, 7), version);
        let (chip, multiprocessors, shared, integrated) = match capability {
            (0..8, _) => ("Xavier", 8, 96 << 10, true),
            (8, _) => ("Orin", 8, 163 << 10, true),
            _ => ("Hopper", 132, 227 << 10, false),
        };
        let skip = variable("VARMINT_EMU_SKIP", Vec::new(), |s| {
            let known = |w: &&str| ["unwritten", "races", "shared", "early"].contains(w);
            let words: Vec<&str> = s.split(',').filter(|w| !w.is_empty()).collect();
            words.iter().all(known).then(|| words.iter().map(ToString::to_string).collect())
        });
        let on = |check: &str| !skip.iter().any(|s| s == check);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let number = |s: &str| s.parse::<u64>().ok();
        Self {
            name: format!("{chip} emulated on the CPU"),
            capability,
            memory: (variable("VARMINT_EMU_MEMORY", 8192, number) as usize) << 20,
            integrated: variable("VARMINT_EMU_INTEGRATED", u64::from(integrated), number) != 0,
            multiprocessors: variable("VARMINT_EMU_MULTIPROCESSORS", multiprocessors, number)
                as u32,
            shared,
            driver: variable("VARMINT_EMU_DRIVER", (12, 6), version),
            threads: variable("VARMINT_EMU_THREADS", cores as u64, number).max(1) as usize,
            checks: Checks {
                unwritten: on("unwritten"),
                races: on("races"),
                shared: on("shared"),
                early: on("early"),
                steps: variable("VARMINT_EMU_STEPS", 1_000_000_000, number),
            },
        }
    }
}
