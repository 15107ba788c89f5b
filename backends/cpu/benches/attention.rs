//! GMAC/s of attention on one core (2 x rows x keys x width), int8 beside this crate's own f32, in one
//! interleaved run:
//!
//!     cargo bench -p varmint-cpu --bench attention
//!
//! Medians of alternating rounds; look at ratios, machines are noisy. Quantizing the queries is inside the
//! timed region, as it is in the model.

use std::time::Instant;

use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_cpu::{Cpu, Isa};

/// Queries, keys, heads, channels of a head.
const SHAPES: [(usize, usize, usize, usize); 4] =
    [(256, 680, 16, 64), (64, 155, 16, 64), (64, 149, 4, 32), (1, 680, 16, 64)];
const ROUNDS: usize = 9;
/// Query rows that the scratch has room for, as in the plan of a model of the shape of VAR-d16.
const ROOM: usize = 16;

/// One attention.
struct Case {
    shape: (usize, usize, usize, usize),
    q: Vec<f32>,
    f32: Vec<f32>,
    i8: Vec<i8>,
    scale: Vec<f16>,
    out: Vec<f32>,
}

impl Case {
    fn new((rows, keys, heads, dim): (usize, usize, usize, usize)) -> Self {
        let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as i32;
        let width = heads * dim;
        let i8: Vec<i8> = (0..2 * keys * width).map(|i| (noise(i) % 255 - 127) as i8).collect();
        Self {
            shape: (rows, keys, heads, dim),
            q: (0..rows * width).map(|i| (noise(i) % 2001 - 1000) as f32 * 1e-3).collect(),
            f32: i8.iter().map(|&v| v as f32 * 1e-3).collect(),
            i8,
            scale: vec![f16::from_f32(1e-3); 2 * keys * heads],
            out: vec![0.0; rows * width],
        }
    }

    /// Seconds of one run, of as many as take about 30 ms.
    fn time(&mut self, ops: &dyn Ops, integer: bool) -> f64 {
        let (_, keys, heads, dim) = self.shape;
        let width = heads * dim;
        let kv = if integer {
            let (k, v) = self.i8.split_at(keys * width);
            let (ks, vs) = self.scale.split_at(keys * heads);
            Kv::I8 { k, v, ks, vs }
        } else {
            let (k, v) = self.f32.split_at(keys * width);
            Kv::F32 { k, v }
        };
        let (mut scores, mut probs) = (vec![0.0; ROOM * keys], vec![0; ROOM * keys]);
        let (mut sums, mut query) = (vec![0; dim], vec![0; dim]);
        let start = Instant::now();
        let mut runs = 0;
        while start.elapsed().as_secs_f64() < 0.03 {
            let mut scratch = Scratch {
                scores: &mut scores,
                probs: &mut probs,
                sums: &mut sums,
                query: &mut query,
            };
            let parts = [(kv, keys), (kv, 0)];
            ops.attend(Heads { width, dim }, &self.q, parts, &mut scratch, &mut self.out);
            std::hint::black_box(&mut self.out);
            runs += 1;
        }
        start.elapsed().as_secs_f64() / runs as f64
    }
}

fn main() {
    let cpus: Vec<Cpu> = Isa::ALL.into_iter().filter_map(Cpu::with).collect();
    let mut subjects: Vec<(String, &dyn Ops, bool)> = Vec::new();
    for cpu in &cpus {
        for (name, integer) in [("int8", true), ("f32", false)] {
            subjects.push((format!("{} {name}", cpu.isa().name()), cpu, integer));
        }
    }
    print!("| GMAC/s (queries, keys, heads, channels) |");
    subjects.iter().for_each(|(name, ..)| print!(" {name} |"));
    println!("\n|---|{}", "---|".repeat(subjects.len()));
    for shape in SHAPES {
        let mut case = Case::new(shape);
        let mut seconds = vec![Vec::new(); subjects.len()];
        for _ in 0..ROUNDS {
            for (s, &(_, ops, integer)) in seconds.iter_mut().zip(&subjects) {
                s.push(case.time(ops, integer));
            }
        }
        let (rows, keys, heads, dim) = shape;
        print!("| {rows}, {keys}, {heads}, {dim} |");
        for mut s in seconds {
            s.sort_by(f64::total_cmp);
            let macs = 2 * rows * keys * heads * dim;
            print!(" {:.1} |", macs as f64 / s[ROUNDS / 2] / 1e9);
        }
        println!();
    }
}
