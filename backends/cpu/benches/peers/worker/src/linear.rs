//! Other Rust engines on matrix products.

use std::hint::black_box;

use anyhow::{Result, bail};
use candle_core::quantized::{GgmlDType, QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use gemm::Parallelism;
use rten_gemm::{GemmExecutor, GemmInputA, GemmInputB, GemmOptions, PackedBMatrix, QuantParams};
use rten_tensor::NdTensor;
use rten_tensor::prelude::*;

use crate::varmint::quantize_rows;
use crate::{Case, Engine};

pub fn make(engine: &str, case: &Case) -> Result<Box<dyn Engine>> {
    Ok(match engine {
        "gemm f32" => Box::new(Gemm::new(case)?),
        "candle q8_0" => Box::new(Candle::new(case)?),
        "rten u8i8 (product alone)" => Box::new(Rten::new(case)?),
        _ => bail!("{engine} is not there"),
    })
}

/// Goes through the copies of the weights.
struct Turns {
    copies: usize,
    next: usize,
}

impl Turns {
    fn take(&mut self) -> usize {
        self.next = (self.next + 1) % self.copies;
        self.next
    }
}

/// The crate gemm, which packs the weights in every run.
struct Gemm {
    shape: [usize; 3],
    x: Vec<f32>,
    w: Vec<Vec<f32>>,
    out: Vec<f32>,
    turns: Turns,
}

impl Gemm {
    fn new(case: &Case) -> Result<Self> {
        let shape @ [m, _, n] = case.dims()?;
        Ok(Self {
            shape,
            x: case.x.clone(),
            w: vec![case.w.clone(); case.copies],
            out: vec![0.0; m * n],
            turns: Turns { copies: case.copies, next: 0 },
        })
    }
}

impl Engine for Gemm {
    fn run(&mut self) {
        let [m, k, n] = self.shape;
        let w = &self.w[self.turns.take()];
        assert!(self.x.len() == m * k && w.len() == n * k && self.out.len() == m * n);
        // SAFETY: the strides stay within the three slices, whose lengths were just checked; `out` is borrowed
        // mutably, so it overlaps neither of the others.
        unsafe {
            gemm::gemm(
                m,
                n,
                k,
                self.out.as_mut_ptr(),
                1,
                n as isize,
                false,
                self.x.as_ptr(),
                1,
                k as isize,
                w.as_ptr(),
                k as isize,
                1,
                0.0,
                1.0,
                false,
                false,
                false,
                Parallelism::None,
            );
        }
        black_box(&mut self.out);
    }

    fn output(&self) -> Vec<f32> {
        self.out.clone()
    }
}

/// candle's product of f32 rows, quantized as they come, and weights in blocks of 32.
struct Candle {
    x: Tensor,
    w: Vec<QMatMul>,
    out: Option<Tensor>,
    turns: Turns,
}

impl Candle {
    fn new(case: &Case) -> Result<Self> {
        let [m, k, n] = case.dims()?;
        let w = Tensor::from_slice(&case.w, (n, k), &Device::Cpu)?;
        let w = (0..case.copies)
            .map(|_| QMatMul::from_qtensor(QTensor::quantize(&w, GgmlDType::Q8_0)?))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            x: Tensor::from_slice(&case.x, (m, k), &Device::Cpu)?,
            w,
            out: None,
            turns: Turns { copies: case.copies, next: 0 },
        })
    }
}

impl Engine for Candle {
    fn run(&mut self) {
        let w = &self.w[self.turns.take()];
        self.out = Some(w.forward(&self.x).expect("the product of two matrices that fit"));
    }

    fn output(&self) -> Vec<f32> {
        let flat = self.out.as_ref().and_then(|t| t.flatten_all().ok());
        flat.and_then(|t| t.to_vec1().ok()).unwrap_or_default()
    }
}

/// rten-gemm from u8 to i32. It offers no way from f32 and back, so neither is timed.
struct Rten {
    executor: GemmExecutor<u8, i8, i32>,
    x: NdTensor<u8, 2>,
    zero: Vec<u8>,
    w: Vec<PackedBMatrix<i8>>,
    out: Vec<i32>,
    scales: [Vec<f32>; 2],
    turns: Turns,
}

impl Rten {
    fn new(case: &Case) -> Result<Self> {
        let [m, k, n] = case.dims()?;
        let executor = GemmExecutor::default();
        let (x, x_scale) = quantize_rows(&case.x, k);
        let (w, w_scale) = quantize_rows(&case.w, k);
        let x: Vec<u8> = x.into_iter().map(|v| v.wrapping_add(-128) as u8).collect();
        let w = NdTensor::from_data([n, k], w);
        Ok(Self {
            x: NdTensor::from_data([m, k], x),
            zero: vec![128; m],
            w: (0..case.copies).map(|_| executor.prepack_b(w.view().transposed())).collect(),
            out: vec![0; m * n],
            scales: [x_scale, w_scale],
            turns: Turns { copies: case.copies, next: 0 },
            executor,
        })
    }
}

impl Engine for Rten {
    fn run(&mut self) {
        let w = &self.w[self.turns.take()];
        let a_quant = Some(QuantParams { zero_point: &self.zero });
        let options = GemmOptions { a_quant, ..GemmOptions::default() };
        let x = GemmInputA::Unpacked(self.x.view());
        self.executor
            .gemm(&mut self.out, x, GemmInputB::Packed(w), options)
            .expect("the product of two matrices that fit");
        black_box(&mut self.out);
    }

    fn output(&self) -> Vec<f32> {
        let [x, w] = &self.scales;
        let rows = self.out.chunks(w.len()).zip(x);
        rows.flat_map(|(row, x)| row.iter().zip(w).map(move |(&o, w)| o as f32 * x * w)).collect()
    }
}
