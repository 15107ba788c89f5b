//! varmint's kernels.

use std::hint::black_box;

use anyhow::{Context, Result, bail};
use varmint_core::Ops;
use varmint_core::ops::{Packed, Strip, Taps};
use varmint_cpu::{Cpu, Isa};

use crate::{Case, Engine};

/// Integers that a convolution may work in.
const ROOM: usize = 1 << 20;

/// Instruction sets whose products differ.
const ISAS: [Isa; 2] = [Isa::Avx2, Isa::Vnni];

/// "varmint <what> <instruction set>", taken apart.
fn parse(engine: &str) -> Result<(&str, Cpu)> {
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

/// Quantized rows of the input.
enum Rows {
    I8(Vec<i8>),
    I12(Vec<i16>),
}

/// A product. W4A8 (`Ops::gemm_i4`) comes here: "W4A8" in [`linear`], its weights, an arm in `run`; peers.py
/// asks for it already.
struct Linear {
    cpu: Cpu,
    shape: [usize; 3],
    x: Vec<f32>,
    rows: Rows,
    row_scale: Vec<f32>,
    w: Vec<Vec<i8>>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    out: Vec<f32>,
    next: usize,
}

pub fn linear(engine: &str, case: &Case) -> Result<Box<dyn Engine>> {
    let (what, cpu) = parse(engine)?;
    let shape @ [m, k, n] = case.dims()?;
    let (w, scale) = quantize_rows(&case.w, k);
    let rows = match what {
        "W8A8" => Rows::I8(vec![0; m * k]),
        "W8A12" => Rows::I12(vec![0; m * k]),
        _ => bail!("no such product"),
    };
    Ok(Box::new(Linear {
        cpu,
        shape,
        x: case.x.clone(),
        rows,
        row_scale: vec![0.0; m],
        w: vec![pack(&w, k); case.copies],
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
        self.next = (self.next + 1) % self.w.len();
        let w = Packed { w: &self.w[self.next], scale: &self.scale, bias: &self.bias };
        let cpu = &self.cpu;
        let rows = self.row_scale.iter_mut().zip(self.x.chunks(k));
        match &mut self.rows {
            Rows::I8(q) => {
                rows.zip(q.chunks_mut(k)).for_each(|((s, x), q)| *s = cpu.quantize_i8(x, q));
                cpu.gemm_i8(Taps::matrix(q, m, k), &self.row_scale, w, &mut self.out);
            }
            Rows::I12(q) => {
                rows.zip(q.chunks_mut(k)).for_each(|((s, x), q)| *s = cpu.quantize_i12(x, q));
                cpu.gemm_i12(Taps::matrix(q, m, k), &self.row_scale, w, &mut self.out);
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
