//! Modules, and launches over the CPU's threads.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::block::{Fault, Machine};
use crate::config::Config;
use crate::decode::{Kernel, decode};
use crate::grid::Grid;
use crate::memory::{Memory, Releases, Table, clear};
use crate::parse::{Error, parse};

/// A text whose kernels run.
pub(crate) struct Module {
    pub(crate) kernels: Vec<Kernel>,
    pub(crate) version: (u32, u32),
    pub(crate) target: (u32, u32),
    lines: Vec<String>,
}

impl Module {
    /// Decodes a text; its variables go to `memory`.
    pub(crate) fn new(source: &str, memory: &mut Memory) -> Result<Self, Error> {
        let text = parse(source)?;
        let mut globals = HashMap::new();
        for v in &text.globals {
            let Some(at) = memory.take(v.bytes as usize) else {
                return Err(Error { line: 0, what: "no memory for variables".into() });
            };
            if let Some(a) = memory.holder(at, v.bytes as usize) {
                let bytes = v.value.unwrap_or(0).to_le_bytes();
                for i in 0..v.bytes as usize {
                    // SAFETY: inside of what was allocated just now.
                    unsafe { *a.host.add(i) = bytes.get(i).copied().unwrap_or(0) };
                }
                a.mark_written(at, v.bytes as usize);
            }
            globals.insert(v.name.clone(), at);
        }
        let kernels = text.entries.iter().map(|e| decode(&text, e, &globals));
        let kernels = kernels.collect::<Result<_, _>>()?;
        let lines = source.lines().map(|l| l.trim().to_string()).collect();
        Ok(Self { kernels, version: text.version, target: text.target, lines })
    }

    /// A line of the text.
    pub(crate) fn line(&self, n: u32) -> &str {
        self.lines.get((n as usize).wrapping_sub(1)).map_or("", String::as_str)
    }
}

/// How a kernel is launched.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    /// Bytes of shared memory beside the kernel's own.
    pub(crate) dynamic: u32,
    pub(crate) params: Vec<u8>,
    /// Whether it may begin before the launch before it has ended.
    pub(crate) early: bool,
}

/// Runs a launch. On failure the driver's number and a line that says what and where.
pub(crate) fn launch(
    config: &Config,
    module: &Module,
    kernel: &Kernel,
    shape: &Shape,
    graph: u32,
    table: Table,
) -> Result<(), (u32, String)> {
    let releases = Releases::default();
    let grid = Grid {
        kernel,
        grid: shape.grid,
        block: shape.block,
        shared: kernel.shared + shape.dynamic,
        params: &shape.params,
        table,
        checks: config.checks,
        graph,
        early: shape.early,
        releases: &releases,
    };
    let blocks: u64 = shape.grid.iter().map(|&g| u64::from(g)).product();
    let (next, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let fault: Mutex<Option<Fault>> = Mutex::new(None);
    let work = || {
        let mut machine = Machine::new(&grid);
        while !stop.load(Relaxed) {
            let block = next.fetch_add(1, Relaxed);
            if block >= blocks {
                break;
            }
            if let Err(e) = machine.block(block) {
                stop.store(true, Relaxed);
                fault.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert(e);
            }
        }
    };
    let workers = config.threads.min(blocks as usize);
    std::thread::scope(|s| {
        for _ in 1..workers {
            s.spawn(work);
        }
        work();
    });
    if config.checks.races && blocks > 1 {
        clear(&grid.table);
    }
    let fault = fault.into_inner().unwrap_or_else(|e| e.into_inner());
    fault.map_or(Ok(()), |f| {
        let text = format!(
            "kernel {}, PTX line {} ({}), block {:?}, thread {:?}: {}",
            kernel.name,
            f.line,
            module.line(f.line),
            f.block,
            f.thread,
            f.trouble.what
        );
        Err((f.trouble.code, text))
    })
}
