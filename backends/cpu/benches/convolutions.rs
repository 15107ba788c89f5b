//! GMAC/s of direct work in 3x3 convolutions of a whole map, strip by strip: `cargo bench -p varmint-cpu
//! --bench convolutions`. Winograd and direct per instruction set, medians of interleaved rounds.

use std::time::Instant;

use varmint_core::Ops;
use varmint_core::ops::{Packed, Strip};
use varmint_cpu::{Cpu, Isa};

/// Channels in and out, height and width, rows of a strip.
const SHAPES: [(usize, usize, usize, usize); 5] =
    [(640, 640, 16, 16), (320, 320, 64, 32), (160, 160, 256, 16), (64, 64, 32, 8), (32, 32, 64, 8)];

/// Integers that the kernels may work in.
const ROOM: usize = 1 << 20;

const ROUNDS: usize = 5;

struct Case {
    x8: Vec<i8>,
    x12: Vec<i16>,
    w: Vec<i8>,
    scale: Vec<f32>,
    out: Vec<f32>,
    scratch: Vec<i32>,
}

impl Case {
    fn new((c, n, side, strip): (usize, usize, usize, usize)) -> Self {
        let noise = |i: usize| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as i32;
        let inputs = (side + 2) * (side + 2) * c;
        Self {
            x8: (0..inputs).map(|i| (noise(i) % 255 - 127) as i8).collect(),
            x12: (0..inputs).map(|i| (noise(i) % 4095 - 2047) as i16).collect(),
            // As trained weights are: mostly far below the largest.
            w: (0..9 * c * n).map(|i| (noise(i) % 16 * (noise(i + 9) % 9 - 4) / 2) as i8).collect(),
            scale: vec![1e-4; n],
            out: vec![0.0; strip * side * n],
            scratch: vec![0; ROOM],
        }
    }

    /// Seconds of the whole map.
    fn time(
        &mut self,
        cpu: &Cpu,
        (c, n, side, strip): (usize, usize, usize, usize),
        wide: bool,
        room: usize,
    ) -> f64 {
        let start = Instant::now();
        let w = Packed { w: &self.w, scale: &self.scale, bias: &self.scale };
        let scratch = &mut self.scratch[..room];
        for y in (0..side).step_by(strip) {
            let (at, rows) = (y * (side + 2) * c, strip.min(side - y));
            let out = &mut self.out[..rows * side * n];
            if wide {
                let x = Strip { data: &self.x12[at..], rows, width: side, channels: c };
                cpu.conv_i12(x, 0.01, w, scratch, out);
            } else {
                let x = Strip { data: &self.x8[at..], rows, width: side, channels: c };
                cpu.conv_i8(x, 0.01, w, scratch, out);
            }
            std::hint::black_box(out);
        }
        start.elapsed().as_secs_f64()
    }
}

fn main() {
    let cpus: Vec<Cpu> = [Isa::Avx2, Isa::Vnni].into_iter().filter_map(Cpu::with).collect();
    let mut subjects = Vec::new();
    for cpu in &cpus {
        for (bits, wide) in [(8, false), (12, true)] {
            for (form, room) in [("direct", 0), ("Winograd", ROOM)] {
                subjects.push((format!("{} {bits}x8 {form}", cpu.isa().name()), cpu, wide, room));
            }
        }
    }
    print!("| GMAC/s (C in, C out, H = W) |");
    subjects.iter().for_each(|(name, ..)| print!(" {name} |"));
    println!("\n|---|{}", "---|".repeat(subjects.len()));
    for shape in SHAPES {
        let mut case = Case::new(shape);
        let mut seconds = vec![Vec::new(); subjects.len()];
        for _ in 0..ROUNDS {
            for (s, &(_, cpu, wide, room)) in seconds.iter_mut().zip(&subjects) {
                s.push(case.time(cpu, shape, wide, room));
            }
        }
        let (c, n, side, _) = shape;
        print!("| {c}, {n}, {side} |");
        for mut s in seconds {
            s.sort_by(f64::total_cmp);
            print!(" {:.0} |", (9 * c * n * side * side) as f64 / s[ROUNDS / 2] / 1e9);
        }
        println!();
    }
}
