//! GMAC/s of the products on one core, beside what its instructions can do at most, in one interleaved run:
//!
//!     cargo bench -p varmint-cpu --bench products
//!
//! Medians of alternating rounds; look at ratios, machines are noisy. Quantizing the rows is inside the
//! timed region, as it is in the model.

mod ceilings;

use std::time::Instant;

use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Packed, Packed4, Taps};
use varmint_cpu::{Cpu, Isa};

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

/// Inputs x weights.
#[derive(Clone, Copy)]
enum Format {
    I8,
    I12,
    I4,
    F32,
    F16,
}

impl Format {
    const ALL: [(Self, &str); 5] = [
        (Self::I8, "8x8"),
        (Self::I12, "12x8"),
        (Self::I4, "8x4"),
        (Self::F32, "f32"),
        (Self::F16, "f16"),
    ];
}

/// One product.
struct Case {
    shape: (usize, usize, usize),
    x: Vec<f32>,
    q8: Vec<i8>,
    q12: Vec<i16>,
    row_scale: Vec<f32>,
    w8: Vec<i8>,
    w4: Vec<u8>,
    w32: Vec<f32>,
    w16: Vec<f16>,
    scale: Vec<f32>,
    out: Vec<f32>,
}

impl Case {
    fn new((m, k, n): (usize, usize, usize)) -> Self {
        let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as i32;
        let w32 = || (0..n * k).map(|i| (noise(i + 3) % 2001 - 1000) as f32 * 1e-3);
        Self {
            shape: (m, k, n),
            x: (0..m * k).map(|i| (noise(i) % 2001 - 1000) as f32 * 1e-3).collect(),
            q8: vec![0; m * k],
            q12: vec![0; m * k],
            row_scale: vec![0.0; m],
            w8: (0..n * k).map(|i| (noise(i + 7) % 255 - 127) as i8).collect(),
            w4: (0..n * k / 2).map(|i| noise(i + 9) as u8).collect(),
            w32: w32().collect(),
            w16: w32().map(f16::from_f32).collect(),
            scale: vec![0.01; n],
            out: vec![0.0; m * n],
        }
    }

    fn run(&mut self, ops: &dyn Ops, format: Format) {
        let (m, k, n) = self.shape;
        let out = &mut self.out[..m * n];
        let (scale, bias) = (&self.scale[..], &self.scale[..]);
        let w = Packed { w: &self.w8, scale, bias };
        if let Format::I8 | Format::I4 = format {
            let rows = self.q8.chunks_mut(k).zip(self.x.chunks(k));
            rows.zip(&mut self.row_scale).for_each(|((q, x), s)| *s = ops.quantize_i8(x, q));
        }
        match format {
            Format::I8 => ops.gemm_i8(Taps::matrix(&self.q8, m, k), &self.row_scale, w, out),
            Format::I4 => {
                let w = Packed4 { w: &self.w4, group: &self.w8, scale, bias };
                ops.gemm_i4(Taps::matrix(&self.q8, m, k), &self.row_scale, w, out);
            }
            Format::I12 => {
                let rows = self.q12.chunks_mut(k).zip(self.x.chunks(k));
                rows.zip(&mut self.row_scale).for_each(|((q, x), s)| *s = ops.quantize_i12(x, q));
                ops.gemm_i12(Taps::matrix(&self.q12, m, k), &self.row_scale, w, out);
            }
            Format::F32 => ops.gemm_f32(Taps::matrix(&self.x, m, k), &self.w32, bias, out),
            Format::F16 => ops.gemm_f16(Taps::matrix(&self.x, m, k), &self.w16, bias, out),
        }
    }

    /// Seconds of one product, of as many as take about 30 ms.
    fn time(&mut self, ops: &dyn Ops, format: Format) -> f64 {
        let start = Instant::now();
        let mut runs = 0;
        while start.elapsed().as_secs_f64() < 0.03 {
            self.run(ops, format);
            std::hint::black_box(&mut self.out);
            runs += 1;
        }
        start.elapsed().as_secs_f64() / runs as f64
    }
}

fn main() {
    println!("| at most, from registers | GMAC/s |\n|---|---|");
    for c in ceilings::measure() {
        println!("| {} | {:.1} |", c.name, c.gmacs);
    }
    // `avx512` has the integer products of `avx2` and the float products of `vnni`.
    let cpus: Vec<Cpu> = Isa::ALL.into_iter().filter_map(Cpu::with).collect();
    for cpu in cpus.iter().filter(|c| !matches!(c.isa(), Isa::Baseline | Isa::Avx512)) {
        print!("\n| {}, GMAC/s (M, K, N) |", cpu.isa().name());
        Format::ALL.iter().for_each(|(_, name)| print!(" {name} |"));
        println!("\n|---|{}", "---|".repeat(Format::ALL.len()));
        for shape in SHAPES {
            let mut case = Case::new(shape);
            let mut seconds = [const { Vec::new() }; Format::ALL.len()];
            for _ in 0..ROUNDS {
                for (s, (format, _)) in seconds.iter_mut().zip(Format::ALL) {
                    s.push(case.time(cpu, format));
                }
            }
            let (m, k, n) = shape;
            print!("| {m}, {k}, {n} |");
            for mut s in seconds {
                s.sort_by(f64::total_cmp);
                print!(" {:.1} |", (m * k * n) as f64 / s[ROUNDS / 2] / 1e9);
            }
            println!();
        }
    }
}
