//! varmint's attention: queries, keys and values come one after the other in `.x`.

use std::hint::black_box;

use anyhow::{Result, bail};
use half::f16;
use varmint_core::Ops;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::scalar::quantize_head;
use varmint_cpu::Cpu;

use crate::varmint::parse;
use crate::{Case, Engine};

/// Query rows that go together, as in the plan of a model of the shape of VAR-d16.
const ROWS: usize = 16;

struct Attention {
    cpu: Cpu,
    integer: bool,
    heads: Heads,
    keys: usize,
    q: Vec<f32>,
    /// Keys and values.
    float: [Vec<f32>; 2],
    int8: [Vec<i8>; 2],
    scale: [Vec<f16>; 2],
    scores: Vec<f32>,
    probs: Vec<i16>,
    sums: Vec<i32>,
    query: Vec<i8>,
    out: Vec<f32>,
}

pub fn make(engine: &str, case: &Case) -> Result<Box<dyn Engine>> {
    let [queries, keys, heads, dim] = case.dims()?;
    let (what, cpu) = parse(engine)?;
    let integer = match what {
        "int8" => true,
        "f32" => false,
        _ => bail!("no such attention"),
    };
    let width = heads * dim;
    let (q, kv) = case.x.split_at(queries * width);
    let (k, v) = kv.split_at(keys * width);
    let quantize = |x: &[f32]| {
        let mut q = vec![0; x.len()];
        let scale = x.chunks(dim).zip(q.chunks_mut(dim)).map(|(x, q)| quantize_head(x, q));
        let scale = scale.collect::<Vec<f16>>();
        (q, scale)
    };
    let ((k8, ks), (v8, vs)) = (quantize(k), quantize(v));
    Ok(Box::new(Attention {
        cpu,
        integer,
        heads: Heads { width, dim },
        keys,
        q: q.iter().map(|v| v / (dim as f32).sqrt()).collect(),
        float: [k.to_vec(), v.to_vec()],
        int8: [k8, v8],
        scale: [ks, vs],
        scores: vec![0.0; ROWS * keys],
        probs: vec![0; ROWS * keys],
        sums: vec![0; dim],
        query: vec![0; dim],
        out: vec![0.0; queries * width],
    }))
}

impl Engine for Attention {
    /// From f32 queries to f32 rows.
    fn run(&mut self) {
        let kv = if self.integer {
            let ([k, v], [ks, vs]) = (&self.int8, &self.scale);
            Kv::I8 { k, v, ks, vs }
        } else {
            let [k, v] = &self.float;
            Kv::F32 { k, v }
        };
        let mut scratch = Scratch {
            scores: &mut self.scores,
            probs: &mut self.probs,
            sums: &mut self.sums,
            query: &mut self.query,
        };
        let parts = [(kv, self.keys), (kv, 0)];
        self.cpu.attend(self.heads, &self.q, parts, &mut scratch, &mut self.out);
        black_box(&mut self.out);
    }

    fn output(&self) -> Vec<f32> {
        self.out.clone()
    }
}
