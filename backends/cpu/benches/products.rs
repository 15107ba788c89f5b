//! GMAC/s of the products on one core, beside the portable reference and beside what the core can do at
//! most, in one interleaved run:
//!
//!     cargo bench -p varmint-cpu --bench products
//!
//! With `--features threads` the last table compares as many threads as `RAYON_NUM_THREADS` says with one.
//!
//! The best run of each slot of 30 ms, medians over alternating rounds: another process that takes the core
//! away for a while does not count. Quantizing the rows is inside the timed region, as it is in the model. In
//! brackets: the share of the ceiling of the kernel's own instructions, loops in registers that run in the
//! same round just before the kernel.

mod ceilings;

use std::time::Instant;

use varmint_core::ops::{Packed, Packed4, Taps};
use varmint_core::{Ops, Scalar};
use varmint_cpu::{Cpu, Isa};

use ceilings::{Ceiling, Memory};

const SHAPES: [(usize, usize, usize); 7] = [
    (2, 1024, 3072),
    (32, 1024, 4096),
    (128, 1024, 1024),
    (512, 1024, 4096),
    (512, 4096, 1024),
    (16, 128, 512),
    (64, 256, 1024),
];
const ROUNDS: usize = 9;

/// Bits of inputs and of weights; 32 are floats.
type Bits = (u8, u8);

/// One product.
struct Case {
    shape: (usize, usize, usize),
    x: Vec<f32>,
    q8: Vec<i8>,
    q12: Vec<i16>,
    row_scale: Vec<f32>,
    w: Vec<i8>,
    w4: Vec<u8>,
    w32: Vec<f32>,
    scale: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new((m, k, n): (usize, usize, usize)) -> Self {
        let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as i32;
        Self {
            shape: (m, k, n),
            x: (0..m * k).map(|i| (noise(i) % 2001 - 1000) as f32 * 1e-3).collect(),
            q8: vec![0; m * k],
            q12: vec![0; m * k],
            row_scale: vec![0.0; m],
            w: (0..n * k).map(|i| (noise(i + 7) % 255 - 127) as i8).collect(),
            w4: (0..n * k / 2).map(|i| noise(i + 9) as u8).collect(),
            w32: (0..n * k).map(|i| (noise(i + 7) % 255 - 127) as f32 * 1e-2).collect(),
            scale: vec![0.01; n],
            out: vec![0.0; m * n],
        }
    }

    /// GMAC/s of the best of as many products as take about 30 ms.
    fn rate(&mut self, ops: &dyn Ops, bits: Bits) -> f64 {
        let (start, mut best) = (Instant::now(), f64::INFINITY);
        while start.elapsed().as_secs_f64() < 0.03 {
            let run = Instant::now();
            self.run(ops, bits);
            std::hint::black_box(&mut self.out);
            best = best.min(run.elapsed().as_secs_f64());
        }
        let (m, k, n) = self.shape;
        (m * k * n) as f64 / best / 1e9
    }

    fn run(&mut self, ops: &dyn Ops, bits: Bits) {
        let (m, k, n) = self.shape;
        let (scale, bias, out) = (&self.scale, &self.scale, &mut self.out[..m * n]);
        if bits == (32, 32) {
            return ops.gemm_f32(Taps::matrix(&self.x, m, k), &self.w32, bias, out);
        }
        for (i, (s, x)) in self.row_scale.iter_mut().zip(self.x.chunks(k)).enumerate() {
            let row = i * k..(i + 1) * k;
            *s = if bits.0 == 12 {
                ops.quantize_i12(x, &mut self.q12[row])
            } else {
                ops.quantize_i8(x, &mut self.q8[row])
            };
        }
        let w = Packed { w: &self.w, scale, bias };
        match bits {
            (12, _) => ops.gemm_i12(Taps::matrix(&self.q12, m, k), &self.row_scale, w, out),
            (_, 4) => {
                let w = Packed4 { w: &self.w4, group: &self.w, scale, bias };
                ops.gemm_i4(Taps::matrix(&self.q8, m, k), &self.row_scale, w, out);
            }
            _ => ops.gemm_i8(Taps::matrix(&self.q8, m, k), &self.row_scale, w, out),
        }
    }
}

/// A kernel to measure, and the loops whose best bounds it.
struct Subject<'a> {
    name: String,
    ops: &'a dyn Ops,
    bits: Bits,
    ceilings: &'static [Ceiling],
}

impl<'a> Subject<'a> {
    fn of(cpu: &'a Cpu, bits: Bits) -> Self {
        use Ceiling::*;
        let ceilings: &[Ceiling] = match (cpu.isa(), bits) {
            (_, (32, 32)) => &[MulAdd],
            (Isa::Vnni, (12, _)) => &[Dpwssd],
            (Isa::Vnni, (_, 4)) => &[GroupVnni],
            (Isa::Vnni, _) => &[Dpbusd],
            (_, (12, _)) => &[Maddwd],
            (_, (_, 4)) => &[Group],
            // Which of the two runs depends on the shape.
            _ => &[Maddwd, Sign],
        };
        let name = match bits {
            (32, 32) => format!("{} f32", cpu.isa().name()),
            (a, w) => format!("{} {a}x{w}", cpu.isa().name()),
        };
        Self { name, ops: cpu, bits, ceilings }
    }
}

fn median(mut v: Vec<f64>) -> f64 {
    v.sort_by(f64::total_cmp);
    v.get(v.len() / 2).copied().unwrap_or(f64::NAN)
}

fn header(first: &str, rest: impl ExactSizeIterator<Item = String>) {
    let rule = "---|".repeat(rest.len() + 1);
    print!("| {first} |");
    rest.for_each(|name| print!(" {name} |"));
    println!("\n|{rule}");
}

/// The largest warm product on all threads of the pool, beside one.
#[cfg(feature = "threads")]
fn threads(cpus: &[Cpu]) {
    println!();
    header("threads to one, 512, 1024, 4096", ["8x8".into(), "8x4".into()].into_iter());
    let mut case = Case::new((512, 1024, 4096));
    for cpu in cpus.iter().filter(|cpu| matches!(cpu.isa(), Isa::Avx2 | Isa::Vnni)) {
        let all = cpu.parallel();
        print!("| {} |", cpu.isa().name());
        for bits in [(8, 8), (8, 4)] {
            let ratio = |_| {
                let one = case.rate(cpu, bits);
                case.rate(&all, bits) / one
            };
            print!(" {:.2}x |", median((0..ROUNDS).map(ratio).collect()));
        }
        println!();
    }
}

fn main() {
    let cpus: Vec<Cpu> = Isa::ALL.into_iter().filter_map(Cpu::with).collect();
    let reference = |bits, name: &str| Subject {
        name: format!("reference {name}"),
        ops: &Scalar,
        bits,
        ceilings: &[],
    };
    let mut subjects = vec![reference((8, 8), "8x8"), reference((32, 32), "f32")];
    for cpu in &cpus {
        // Baseline is the reference; `avx512` has the integer products of `avx2`.
        if matches!(cpu.isa(), Isa::Avx2 | Isa::Vnni) {
            subjects.extend([(8, 8), (12, 8), (8, 4), (32, 32)].map(|b| Subject::of(cpu, b)));
        }
    }

    let loops = Ceiling::all();
    let memory = Memory::new();
    let mut ceilings = vec![Vec::new(); loops.len()];
    let (mut clocks, mut reads) = (Vec::new(), Vec::new());

    header("GMAC/s (M, K, N)", subjects.iter().map(|s| s.name.clone()));
    for shape in SHAPES {
        let mut case = Case::new(shape);
        let mut rates = vec![Vec::new(); subjects.len()];
        let mut shares = vec![Vec::new(); subjects.len()];
        for _ in 0..ROUNDS {
            clocks.extend(ceilings::clock());
            reads.push(memory.read());
            for ((subject, rates), shares) in subjects.iter().zip(&mut rates).zip(&mut shares) {
                let mut top = f64::NAN;
                for ceiling in subject.ceilings {
                    if let Some(i) = loops.iter().position(|l| l == ceiling) {
                        let rate = ceiling.measure();
                        ceilings[i].push(rate);
                        top = rate.max(top);
                    }
                }
                let rate = case.rate(subject.ops, subject.bits);
                rates.push(rate);
                shares.push(rate / top);
            }
            // No product runs on it: the order of its sums is fixed, one rounding per operation.
            if let Some(i) = loops.iter().position(|&l| l == Ceiling::Fma) {
                ceilings[i].push(Ceiling::Fma.measure());
            }
        }
        let (m, k, n) = shape;
        print!("| {m}, {k}, {n} |");
        for (rates, shares) in rates.into_iter().zip(shares) {
            print!(" {:.1}", median(rates));
            match median(shares) {
                share if share.is_nan() => print!(" |"),
                share => print!(" ({:.0} %) |", 100.0 * share),
            }
        }
        println!();
    }

    let clock = median(clocks);
    println!();
    header("ceiling", ["GMAC/s".into(), format!("MAC/cycle at {clock:.2} GHz")].into_iter());
    for (ceiling, rates) in loops.iter().zip(ceilings) {
        let rate = median(rates);
        println!("| {} | {rate:.1} | {:.1} |", ceiling.name(), rate / clock);
    }
    #[cfg(feature = "threads")]
    threads(&cpus);
    let read = median(reads);
    println!(
        "\nMemory is read at {read:.1} GB/s: weights that no cache holds let (2, K, N) reach {:.0} GMAC/s \
         with 8 bits, {:.0} with 4, {:.0} with floats.",
        2.0 * read,
        4.0 * read,
        read / 2.0
    );
}
