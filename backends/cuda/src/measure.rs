//! For benchmarks: the machine's ceiling, and products alone.

use std::time::Instant;

use crate::device::{Device, Kernel, Launch, Memory};
use crate::error::Error;
use crate::params;
use crate::queue::{PARTIAL, gemm_launch};

/// A device and memory for operands.
#[derive(Debug)]
pub struct Measure {
    memory: Memory,
    device: Device,
}

/// Bytes for each operand.
const ROOM: usize = 256 << 20;

impl Measure {
    /// Opens the first GPU.
    ///
    /// # Errors
    /// No GPU; too little memory.
    pub fn new() -> Result<Self, Error> {
        let device = Device::open()?;
        let memory = device.take(4 * ROOM)?;
        device.write(memory.at, &vec![3; ROOM])?;
        device.write(memory.at + ROOM as u64, &vec![5; ROOM])?;
        device.write(memory.at + 2 * ROOM as u64, &vec![0; 2 * ROOM])?;
        device.wait()?;
        Ok(Self { memory, device })
    }

    /// Seconds of one launch, the best of some graphs of `n` launches.
    fn seconds(&mut self, launches: &[Launch]) -> Result<f64, Error> {
        let mut best = f64::INFINITY;
        for _ in 0..8 {
            let start = Instant::now();
            self.device.submit(launches, true)?;
            self.device.wait()?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(best / launches.len() as f64)
    }

    /// Multiply-accumulates per second of int8 products on tensor cores that have nothing to wait for.
    ///
    /// # Errors
    /// The driver's.
    pub fn ceiling(&mut self) -> Result<f64, Error> {
        let (blocks, rounds) = (4 * self.device.facts.multiprocessors, 4096);
        let p = params::Peak { out: self.memory.at, rounds, unused: 0 };
        let launch = Launch::new(Kernel::mma_peak, [blocks, 1, 1], 256, 0, &p);
        let seconds = self.seconds(&[launch; 4])?;
        let macs = blocks as f64 * 8.0 * rounds as f64 * 8.0 * (16 * 8 * 32) as f64;
        Ok(macs / seconds)
    }

    /// Seconds of an int8 product of `[m, k]` by `[n, k]`, weights that no cache holds (`cold`) or the same again;
    /// `wide` for 12-bit inputs. Shapes below 256 MiB an operand.
    ///
    /// # Errors
    /// The driver's.
    pub fn product(
        &mut self,
        (m, n, k): (usize, usize, usize),
        wide: bool,
        cold: bool,
    ) -> Result<f64, Error> {
        let at = self.memory.at;
        let places = if cold { (ROOM / (n * k)).clamp(1, 64) } else { 1 };
        let launches: Vec<Launch> = (0..64)
            .map(|i| {
                let p = params::Gemm {
                    a: at,
                    plane: (m * k) as u64,
                    w: at + (ROOM + i % places * n * k) as u64,
                    m: m as i32,
                    n: n as i32,
                    k: k as i32,
                    width: m as i32,
                    stride: k as i32,
                    line: 0,
                    seg_len: k as i32,
                    seg_stride: 0,
                    tall: 0,
                    unused: 0,
                    partial: at + 3 * ROOM as u64,
                    arrived: at + (3 * ROOM + PARTIAL) as u64,
                    out: params::Out {
                        scale: at,
                        bias: at,
                        row_scale: at,
                        out: at + 2 * ROOM as u64,
                        ldo: n as i32,
                        per: m as i32,
                        ..Default::default()
                    },
                };
                gemm_launch(&p, wide, &self.device.facts)
            })
            .collect();
        self.seconds(&launches)
    }

    /// Facts of the device.
    pub fn facts(&self) -> &crate::Facts {
        &self.device.facts
    }
}
