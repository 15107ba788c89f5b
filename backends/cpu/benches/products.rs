//! GMAC/s of the integer products on one core, beside the portable reference, in one interleaved run:
//!
//!     cargo bench -p varmint-cpu
//!
//! Medians of alternating rounds; look at ratios, machines are noisy. Quantizing the rows is inside the
//! timed region, as it is in the model.

use std::time::Instant;

use varmint_core::ops::{Packed, Packed4, Taps};
use varmint_core::{Ops, Scalar};
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

/// One product of quantized rows.
struct Case {
    shape: (usize, usize, usize),
    x: Vec<f32>,
    q8: Vec<i8>,
    q12: Vec<i16>,
    row_scale: Vec<f32>,
    w: Vec<i8>,
    w4: Vec<u8>,
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
            scale: vec![0.01; n],
            out: vec![0.0; m * n],
        }
    }

    /// Seconds of one product, of as many as take about 30 ms.
    fn time(&mut self, ops: &dyn Ops, bits: (u8, u8)) -> f64 {
        let (m, k, n) = self.shape;
        let start = Instant::now();
        let mut runs = 0;
        while start.elapsed().as_secs_f64() < 0.03 {
            let w = Packed { w: &self.w, scale: &self.scale, bias: &self.scale };
            for (i, (s, x)) in self.row_scale.iter_mut().zip(self.x.chunks(k)).enumerate() {
                let row = i * k..(i + 1) * k;
                *s = if bits.0 == 12 {
                    ops.quantize_i12(x, &mut self.q12[row])
                } else {
                    ops.quantize_i8(x, &mut self.q8[row])
                };
            }
            if bits.1 == 4 {
                let w =
                    Packed4 { w: &self.w4, group: &self.w, scale: &self.scale, bias: &self.scale };
                let x = Taps::matrix(&self.q8, m, k);
                ops.gemm_i4(x, &self.row_scale, w, &mut self.out[..m * n]);
            } else if bits.0 == 12 {
                ops.gemm_i12(
                    Taps::matrix(&self.q12, m, k),
                    &self.row_scale,
                    w,
                    &mut self.out[..m * n],
                );
            } else {
                ops.gemm_i8(
                    Taps::matrix(&self.q8, m, k),
                    &self.row_scale,
                    w,
                    &mut self.out[..m * n],
                );
            }
            std::hint::black_box(&mut self.out);
            runs += 1;
        }
        start.elapsed().as_secs_f64() / runs as f64
    }
}

fn main() {
    let cpus: Vec<Cpu> = Isa::ALL.into_iter().filter_map(Cpu::with).collect();
    let mut subjects: Vec<(String, &dyn Ops, (u8, u8))> =
        vec![("reference 8x8".into(), &Scalar, (8, 8))];
    for cpu in &cpus {
        // Baseline is the reference; `avx512` has the products of `avx2`.
        if matches!(cpu.isa(), Isa::Avx2 | Isa::Vnni) {
            for (a, w) in [(8, 8), (12, 8), (8, 4)] {
                subjects.push((format!("{} {a}x{w}", cpu.isa().name()), cpu, (a, w)));
            }
        }
    }
    print!("| GMAC/s (M, K, N) |");
    subjects.iter().for_each(|(name, ..)| print!(" {name} |"));
    println!("\n|---|{}", "---|".repeat(subjects.len()));
    for shape in SHAPES {
        let mut case = Case::new(shape);
        let mut seconds = vec![Vec::new(); subjects.len()];
        for _ in 0..ROUNDS {
            for (s, &(_, ops, bits)) in seconds.iter_mut().zip(&subjects) {
                s.push(case.time(ops, bits));
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
