//! varmint's kernels.

use std::hint::black_box;

use anyhow::{Context, Result, bail};
use varmint_core::Ops;
use varmint_core::ops::{Packed, Packed4, Strip, Taps};
use varmint_cpu::{Cpu, Isa};

use crate::{Case, Engine};

/// Integers that a convolution may work in.
const ROOM: usize = 1 << 20;

/// Instruction sets whose products differ.
const ISAS: [Isa; 2] = [Isa::Avx2, Isa::Vnni];

/// "varmint <what> <instruction set>", taken apart.
pub fn parse(engine: &str) -> Result<(&str, Cpu)> {
    let rest = engine.strip_prefix("varmint ").context("not varmint")?;
    let (what, isa) = rest.rsplit_once(' ').context("no instruction set")?;
    let isa = ISAS.into_iter().find(|i| i.name() == isa).context("no such instruction set")?;
    Ok((what, Cpu::with(isa).with_context(|| format!("this CPU has no {}", isa.name()))?))
}

/// Rows of `k` as integers within ±127, and a scale for each.
pub fn quantize_rows(x: &[f32], k: usize) -> (Vec<i8>, Vec<f32>) {
    let mut q = Vec::with_capacity(x.len());
    let scales = x.chunks(k).map(|row| {
        let scale = row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0;
        q.extend(row.iter().map(|v| (v / scale).round() as i8));
        scale
    });
    let scales = scales.collect();
    (q, scales)
}

/// `[N][K]` as `[N / 8][K / 4][8][4]`; N is a multiple of 8 and K of 4.
fn pack(w: &[i8], k: usize) -> Vec<i8> {
    let mut packed = Vec::with_capacity(w.len());
    for panel in w.chunks(8 * k) {
        for at in (0..k).step_by(4) {
            panel.chunks(k).for_each(|row| packed.extend(&row[at..at + 4]));
        }
    }
    packed
}

/// 4-bit weights as `gemm_i4` takes them, and a scale per output channel.
struct Int4 {
    w: Vec<u8>,
    group: Vec<i8>,
}

/// Groups of 32 inputs by their largest weight, integer group scales; N is a multiple of 8, K of 32.
fn pack4(w: &[f32], k: usize) -> (Int4, Vec<f32>) {
    let blocks = k / 32;
    let largest = |v: &[f32]| v.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let (mut scale, mut group, mut q) = (Vec::new(), Vec::new(), Vec::new());
    for row in w.chunks(k) {
        let s = largest(row) / 7.0 / 127.0;
        for block in row.chunks(32) {
            let g = (largest(block) / 7.0 / s).ceil().clamp(1.0, 127.0);
            group.push(g as i8);
            q.extend(block.iter().map(|v| (v / (g * s)).round().clamp(-8.0, 7.0) as i8));
        }
        scale.push(s);
    }
    let n = scale.len();
    // Inputs `4 * step..` of the 8 channels of a panel, biased by 8.
    let mut packed = Int4 { w: Vec::with_capacity(n * k / 2), group: Vec::new() };
    for panel in (0..n).step_by(8) {
        for block in 0..blocks {
            for pair in 0..4 {
                let at = |c: usize, i: usize| (panel + c) * k + 32 * block + 8 * pair + i;
                for (c, i) in (0..8).flat_map(|c| (0..4).map(move |i| (c, i))) {
                    let (low, high) = (q[at(c, i)] + 8, q[at(c, i + 4)] + 8);
                    packed.w.push(low as u8 | (high as u8) << 4);
                }
            }
            packed.group.extend((0..8).map(|c| group[(panel + c) * blocks + block]));
        }
    }
    (packed, scale)
}

/// Rows of the input as the product takes them, and copies of its weights.
enum Rows {
    I8(Vec<i8>, Vec<Vec<i8>>),
    I12(Vec<i16>, Vec<Vec<i8>>),
    I4(Vec<i8>, Vec<Int4>),
    F32(Vec<Vec<f32>>),
}

/// A product.
struct Linear {
    cpu: Cpu,
    shape: [usize; 3],
    x: Vec<f32>,
    rows: Rows,
    row_scale: Vec<f32>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
    next: usize,
}

pub fn linear(engine: &str, case: &Case) -> Result<Box<dyn Engine>> {
    let (what, cpu) = parse(engine)?;
    let shape @ [m, k, n] = case.dims()?;
    let copies = case.copies;
    let (w, mut scale) = quantize_rows(&case.w, k);
    let rows = match what {
        "W8A8" => Rows::I8(vec![0; m * k], vec![pack(&w, k); copies]),
        "W8A12" => Rows::I12(vec![0; m * k], vec![pack(&w, k); copies]),
        "W4A8" => {
            let copy = || {
                let (w, s) = pack4(&case.w, k);
                scale = s;
                w
            };
            Rows::I4(vec![0; m * k], std::iter::repeat_with(copy).take(copies).collect())
        }
        "f32" => Rows::F32(vec![case.w.clone(); copies]),
        _ => bail!("no such product"),
    };
    Ok(Box::new(Linear {
        cpu,
        shape,
        x: case.x.clone(),
        rows,
        row_scale: vec![0.0; m],
        scale,
        bias: vec![0.0; n],
        out: vec![0.0; m * n],
        next: 0,
    }))
}

impl Engine for Linear {
    /// From f32 rows to f32 rows.
    fn run(&mut self) {
        let [m, k, _] = self.shape;
        self.next += 1;
        let (cpu, next, bias, scale) = (&self.cpu, self.next, &self.bias, &self.scale);
        let rows = self.row_scale.iter_mut().zip(self.x.chunks(k));
        match &mut self.rows {
            Rows::I8(q, w) => {
                rows.zip(q.chunks_mut(k)).for_each(|((s, x), q)| *s = cpu.quantize_i8(x, q));
                let w = Packed { w: &w[next % w.len()], scale, bias };
                cpu.gemm_i8(Taps::matrix(q, m, k), &self.row_scale, w, &mut self.out);
            }
            Rows::I12(q, w) => {
                rows.zip(q.chunks_mut(k)).for_each(|((s, x), q)| *s = cpu.quantize_i12(x, q));
                let w = Packed { w: &w[next % w.len()], scale, bias };
                cpu.gemm_i12(Taps::matrix(q, m, k), &self.row_scale, w, &mut self.out);
            }
            Rows::I4(q, w) => {
                rows.zip(q.chunks_mut(k)).for_each(|((s, x), q)| *s = cpu.quantize_i8(x, q));
                let Int4 { w, group } = &w[next % w.len()];
                let w = Packed4 { w, group, scale, bias };
                cpu.gemm_i4(Taps::matrix(q, m, k), &self.row_scale, w, &mut self.out);
            }
            Rows::F32(w) => {
                let w = &w[next % w.len()];
                cpu.gemm_f32(Taps::matrix(&self.x, m, k), w, bias, &mut self.out);
            }
        }
        black_box(&mut self.out);
    }

    fn output(&self) -> Vec<f32> {
        self.out.clone()
    }
}

struct Conv {
    cpu: Cpu,
    channels: usize,
    side: usize,
    strip: usize,
    x: Vec<i8>,
    x_scale: f32,
    w: Vec<i8>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    scratch: Vec<i32>,
    out: Vec<f32>,
}

pub fn conv(engine: &str, case: &Case) -> Result<Box<dyn Engine>> {
    let (what, cpu) = parse(engine)?;
    let [c, n, side] = case.dims()?;
    let room = match what {
        "int8 Winograd" => ROOM,
        "int8 direct" => 0,
        _ => bail!("no such convolution"),
    };
    let (x, x_scale) = quantize_rows(&case.x, case.x.len());
    let (w, scale) = quantize_rows(&case.w, 9 * c);
    Ok(Box::new(Conv {
        cpu,
        channels: c,
        side,
        strip: (2048 / side).clamp(16, 32).min(side),
        x,
        x_scale: x_scale[0],
        w: pack(&w, 9 * c),
        scale,
        bias: vec![0.0; n],
        scratch: vec![0; room],
        out: vec![0.0; side * side * n],
    }))
}

impl Engine for Conv {
    /// From an int8 map to a f32 map, strip by strip.
    fn run(&mut self) {
        let Self { channels, side, strip, .. } = *self;
        let n = self.bias.len();
        let w = Packed { w: &self.w, scale: &self.scale, bias: &self.bias };
        for (i, out) in self.out.chunks_mut(strip * side * n).enumerate() {
            let data = &self.x[i * strip * (side + 2) * channels..];
            let rows = out.len() / (side * n);
            let x = Strip { data, rows, width: side, channels };
            self.cpu.conv_i8(x, self.x_scale, w, &mut self.scratch, out);
        }
        black_box(&mut self.out);
    }

    fn output(&self) -> Vec<f32> {
        self.out.clone()
    }
}
