//! A model file with other numbers, and what they cost layer by layer.
//!
//! ```text
//! model -> sample pictures -> inputs of every weight of the trunks -> what rounding does to the outputs
//!                                                                  -> 4-bit weights whose errors make up for each other
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use varmint::Cpu;
use varmint_core::ops::{Ops, Taps};
use varmint_core::tensor::{Class, Data, Dtype, Matrix, Role, Spec};
use varmint_core::{Generator, Host, Model, Plan, Stage};

use crate::compare::requests;
use crate::convert::is_edge;
use crate::error::Error;
use crate::numbers::{Keep, Numbers, choose, role_name};
use crate::quantize::{Encoded, decode, dtype_name, encode, snr_db, view};
use crate::samples::{Kept, Samples};
use crate::watch::Watched;
use crate::write::{rewrite, specs};
use crate::{absorb, gptq, tiers::all_blocks};

/// Rows of inputs that outputs are compared on, at most.
const COMPARED: usize = 256;
/// Rows of inputs per input channel that are kept where compensation learns from them; and at most.
const LEARNED: (usize, usize) = (4, 16_384);
/// Of the kept rows, two of twice as many are for comparing and not learned from (of modulation, rows with and
/// without condition take turns).
const HELD_OUT: usize = 4;

/// Factors are taken where they gain more than so many dB on the rows that they were found on.
const GAIN: f64 = 0.1;

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Number format of the result.
    pub numbers: Numbers,
    /// Exceptions.
    pub keep: Vec<Keep>,
    /// Sample pictures; with none, 4-bit weights are rounded to the nearest and nothing is compared.
    pub images: usize,
    /// Seed of the first; their labels follow from it.
    pub seed: u64,
    /// Whether errors of 4-bit weights make up for each other.
    pub compensate: bool,
    /// Whether outliers of inputs go into the weights where that makes the outputs better.
    pub absorb: bool,
    /// Whether the outputs of layers are compared.
    pub report: bool,
}

/// What rounding does to the outputs of a layer: signal to noise in dB.
#[derive(Clone, Debug, Serialize)]
pub struct Layer {
    /// As `--keep` writes it: `fc1.3`.
    pub name: String,
    /// Which trunk.
    pub trunk: usize,
    /// How the result stores it.
    pub storage: &'static str,
    /// int8 weights, 8-bit inputs.
    pub int8: f64,
    /// int8 weights, 12-bit inputs.
    pub int8_wide: f64,
    /// 4-bit weights to the nearest, 8-bit inputs; where the role allows them.
    pub int4: Option<f64>,
    /// The same with compensation; where it was asked for.
    pub int4_compensated: Option<f64>,
    /// What absorbing outliers of the inputs gained; the other numbers are with it. Where there are factors.
    pub absorbed: Option<f64>,
}

impl Layer {
    /// Of the chosen storage.
    pub fn chosen(&self) -> Option<f64> {
        match self.storage {
            "i8" => Some(self.int8),
            "i8wide" => Some(self.int8_wide),
            "i4" => self.int4_compensated.or(self.int4),
            _ => None,
        }
    }
}

/// The outcome.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Bytes of the file; 0 where none was written.
    pub file_bytes: u64,
    /// The layers of all trunks, in the order of the file; empty without sample pictures.
    pub layers: Vec<Layer>,
}

/// Where the work is: pictures, then tensors.
pub type Progress<'p> = &'p mut dyn FnMut(&'static str, usize, usize);

/// Whether a tensor is a weight that a trunk multiplies its tokens with.
fn watched(spec: &Spec) -> bool {
    matches!(
        spec.role,
        Role::QkvWeight
            | Role::ProjWeight
            | Role::Fc1Weight
            | Role::Fc2Weight
            | Role::AdaWeight
            | Role::SharedAdaWeight
            | Role::HeadAdaWeight
            | Role::HeadWeight
    )
}

/// Writes `model` with other numbers to `path`, if there is one.
///
/// # Errors
/// [`Error::Option`] for what cannot be stored so, and what a run says; those of [`rewrite`].
pub fn requantize(
    model: &Model<'_>,
    path: Option<&Path>,
    settings: &Settings,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    let shape = &model.shape;
    let storage = |spec: &Spec| {
        let edge = spec.role == Role::ConvWeight && is_edge(shape, spec);
        choose(settings.numbers, &settings.keep, spec, edge)
    };
    let specs = specs(shape);
    // Float weights read their inputs as they are: nothing to gain.
    let absorbs = |spec: &Spec| -> Result<bool, Error> {
        let table = specs.iter().find(|s| s.role == Role::AdaTable && s.set == spec.set);
        let tables = table.map_or(Ok(Dtype::F16), storage)?;
        let rounds = storage(spec)?.act() < 4;
        Ok(settings.absorb && rounds && absorb::possible(shape, spec, tables))
    };
    let mut wanted = Vec::new();
    for (i, spec) in specs.iter().enumerate().filter(|(_, s)| watched(s)) {
        let learns = settings.compensate && storage(spec)? == Dtype::I4;
        let most = if learns { (LEARNED.0 * spec.cols).min(LEARNED.1) } else { 0 };
        let absorbs = absorbs(spec)?;
        let compared = if settings.report || absorbs { HELD_OUT * COMPARED } else { 0 };
        if most.max(compared) > 0 {
            wanted.push((i, most.max(compared)));
        }
    }
    let kept = Inputs(sample(model, wanted, settings, progress)?);
    let stored = |i: usize, spec: &Spec| {
        let tensor = model.tensor(i).filter(|(s, ..)| s == spec).map(|(_, dtype, m)| (dtype, m));
        tensor.ok_or_else(|| {
            Error::Option(format!("tensor {i} of {} is not what its shape says", model.name()))
        })
    };
    let mut factors = absorb::Factors::default();
    let mut gains = BTreeMap::new();
    for (i, spec) in specs.iter().enumerate().filter(|(_, s)| s.class == Class::Weight) {
        let inputs = kept.rows(i, spec, Part::Learned);
        if inputs.is_empty() || !absorbs(spec)? {
            continue;
        }
        let (dtype, values) = (storage(spec)?, decode(&stored(i, spec)?.1));
        if let Some((best, gain)) = absorbed(spec, dtype, &values, &inputs)? {
            factors.note(spec, best);
            gains.insert(i, gain);
        }
        progress("factors", i + 1, specs.len());
    }
    let mut layers = Vec::new();
    let mut encoded = |i: usize, spec: &Spec, dtype: Dtype| -> Result<Encoded, Error> {
        let (before, matrix) = stored(i, spec)?;
        let part = |which: Part| {
            let mut rows = kept.rows(i, spec, which);
            if let Some(factors) = factors.of(spec) {
                absorb::divide(&mut rows, factors);
            }
            rows
        };
        let values = || {
            let mut values = decode(&matrix);
            factors.apply(spec, &mut values);
            values
        };
        let compensated = |values: &[f32]| {
            let learn = settings.compensate && kept.has(i);
            learn.then(|| gptq::encode(spec, values, &part(Part::Learned)))
        };
        let mut four = None;
        if settings.report && kept.has(i) {
            let values = values();
            // Where the numbers of rows that this takes were kept.
            four = if dtype == Dtype::I4 { compensated(&values) } else { None };
            let mut layer = layer(spec, dtype, &values, &part(Part::HeldOut), four.as_ref())?;
            layer.absorbed = gains.get(&i).copied();
            layers.push(layer);
        }
        progress("tensors", i + 1, specs.len());
        if before == dtype && !factors.concern(spec) {
            return Ok(raw(&matrix));
        }
        if let (Dtype::I4, Some(four)) = (dtype, four) {
            return Ok(four);
        }
        let values = values();
        match compensated(&values) {
            Some(e) if dtype == Dtype::I4 => Ok(e),
            _ => encode(spec, dtype, &values, &name(spec)),
        }
    };
    let file_bytes = match path {
        Some(path) => rewrite(path, model, settings.numbers, storage, encoded)?,
        None => {
            for (i, spec) in specs.iter().enumerate().filter(|(_, s)| s.class == Class::Weight) {
                encoded(i, spec, storage(spec)?)?;
            }
            0
        }
    };
    Ok(Report { file_bytes, layers })
}

/// Which of the kept rows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Learned,
    HeldOut,
}

/// Sampled inputs, by the tensor that they are multiplied with.
struct Inputs(BTreeMap<usize, Kept>);

impl Inputs {
    fn has(&self, i: usize) -> bool {
        self.0.get(&i).is_some_and(|k| !k.rows.is_empty())
    }

    fn rows(&self, i: usize, spec: &Spec, part: Part) -> Vec<f32> {
        let all = self.0.get(&i).map_or(&[][..], |k| &k.rows).chunks_exact(spec.cols).enumerate();
        let some =
            all.filter(|(i, _)| (i / 2 % HELD_OUT == HELD_OUT - 1) == (part == Part::HeldOut));
        some.flat_map(|(_, row)| row).copied().collect()
    }
}

fn name(spec: &Spec) -> String {
    match role_name(spec.role) {
        Some(role) => format!("{role}.{}", spec.index),
        None => format!("{:?}", spec.role),
    }
}

/// Sample pictures, half of them in the first tier, the others in the tiers after it, so that every trunk runs.
fn sample(
    model: &Model<'_>,
    wanted: Vec<(usize, usize)>,
    settings: &Settings,
    progress: Progress<'_>,
) -> Result<BTreeMap<usize, Kept>, Error> {
    let samples = Samples::new(model, wanted.into_iter());
    let failed = |e: varmint_core::Error| Error::Option(e.to_string());
    let n_tiers = model.shape.n_tiers();
    for (i, item) in requests(model, settings.images, settings.seed).iter().enumerate() {
        let at = if i % 2 == 0 || n_tiers == 1 { 0 } else { 1 + i / 2 % (n_tiers - 1) };
        let mut tier = model.tier_at(at).map_err(failed)?;
        // Whole trunks, all scales guided: what a tier leaves out is still in the file.
        tier.guided = model.shape.config.n_scales();
        tier.keep = varmint_core::Keep::ALL;
        let all = |k: usize| all_blocks(model.shape.trunk(tier.trunk(k)).depth);
        let tier = tier.with_blocks(&model.shape, all).map_err(failed)?;
        let plan = Plan::new(&model.shape, &tier).map_err(failed)?;
        let mut arena = vec![0u128; plan.bytes().div_ceil(16)];
        let ram = bytemuck::cast_slice_mut(&mut arena);
        let host = Host::new(Watched::new(&samples), ram, &plan).map_err(failed)?;
        let mut run = Generator::new(model, &plan, host, item.request()).map_err(failed)?;
        while !matches!(run.stage(), Stage::Decode { .. } | Stage::Done) {
            run.step().map_err(failed)?;
        }
        progress("pictures", i + 1, settings.images);
    }
    Ok(samples.into_kept())
}

/// Some of the rows, not more than are compared.
fn thinned(inputs: &[f32], cols: usize) -> Vec<f32> {
    let every = (inputs.len() / cols).div_ceil(COMPARED).max(1);
    inputs.chunks_exact(cols).step_by(every).flat_map(<[f32]>::iter).copied().collect()
}

/// Products of rows with a weight.
fn product(spec: &Spec, x: &[f32], w: &[f32]) -> Vec<f32> {
    let (k, m) = (spec.cols, x.len() / spec.cols);
    let mut out = vec![0.0; m * spec.rows];
    Cpu::detect().gemm_f32(Taps::matrix(x, m, k), w, &vec![0.0; spec.rows], &mut out);
    out
}

/// Rows as a weight of this storage reads them.
fn rounded(dtype: Dtype, x: &[f32], cols: usize) -> Vec<f32> {
    let cpu = Cpu::detect();
    let (mut q8, mut q12) = (vec![0; cols], vec![0; cols]);
    let row = |row: &[f32]| -> Vec<f32> {
        match dtype.act() {
            1 => {
                let scale = cpu.quantize_i8(row, &mut q8);
                q8.iter().map(|&q| f32::from(q) * scale).collect()
            }
            2 => {
                let scale = cpu.quantize_i12(row, &mut q12);
                q12.iter().map(|&q| f32::from(q) * scale).collect()
            }
            _ => row.to_vec(),
        }
    };
    x.chunks_exact(cols).flat_map(row).collect()
}

/// What a storage does to the outputs `wanted` for some inputs.
fn outcome(
    spec: &Spec,
    dtype: Dtype,
    (values, x, wanted): (&[f32], &[f32], &[f32]),
) -> Result<f64, Error> {
    let e = encode(spec, dtype, values, &name(spec))?;
    let w = decode(&view(spec, dtype, &e, &mut Vec::new()));
    Ok(snr_db(wanted, &product(spec, &rounded(dtype, x, spec.cols), &w)))
}

/// The factors with which a storage, rounding to the nearest, does least to the outputs, and how many dB they gain; `None`
/// where that is less than [`GAIN`].
fn absorbed(
    spec: &Spec,
    dtype: Dtype,
    values: &[f32],
    inputs: &[f32],
) -> Result<Option<(Vec<f32>, f64)>, Error> {
    let x = thinned(inputs, spec.cols);
    let wanted = product(spec, &x, values);
    let plain = outcome(spec, dtype, (values, &x, &wanted))?;
    let mut best: Option<(Vec<f32>, f64)> = None;
    for exponents in absorb::EXPONENTS {
        let factors = absorb::factors(values, inputs, spec.cols, exponents);
        let (mut w, mut x) = (values.to_vec(), x.clone());
        absorb::multiply(&mut w, &factors);
        absorb::divide(&mut x, &factors);
        let gain = outcome(spec, dtype, (&w, &x, &wanted))? - plain;
        if gain > best.as_ref().map_or(GAIN, |(_, gain)| *gain) {
            best = Some((factors, gain));
        }
    }
    Ok(best)
}

/// What the storages do to the outputs for some inputs.
fn layer(
    spec: &Spec,
    dtype: Dtype,
    values: &[f32],
    inputs: &[f32],
    compensated: Option<&Encoded>,
) -> Result<Layer, Error> {
    let x = thinned(inputs, spec.cols);
    let wanted = product(spec, &x, values);
    let of = |dtype| outcome(spec, dtype, (values, &x, &wanted));
    let compensated = compensated.map(|e| {
        let w = decode(&view(spec, Dtype::I4, e, &mut Vec::new()));
        snr_db(&wanted, &product(spec, &rounded(Dtype::I4, &x, spec.cols), &w))
    });
    Ok(Layer {
        name: name(spec),
        trunk: spec.set,
        storage: dtype_name(dtype),
        int8: of(Dtype::I8)?,
        int8_wide: of(Dtype::I8Wide)?,
        int4: if spec.allows(Dtype::I4) { Some(of(Dtype::I4)?) } else { None },
        int4_compensated: compensated,
        absorbed: None,
    })
}

/// The bytes of a tensor as they stand in its file.
fn raw(m: &Matrix<'_>) -> Encoded {
    let bytes = |b: &[u8], scales: &[f32]| Encoded { data: b.to_vec(), scales: scales.to_vec() };
    match m.data {
        Data::F32(w) => bytes(bytemuck::cast_slice(w), &[]),
        Data::F16(w) => bytes(bytemuck::cast_slice(w), &[]),
        Data::I8Rows(w, scale) | Data::I8 { w, scale, .. } => bytes(bytemuck::cast_slice(w), scale),
        Data::I4 { w, group, scale } => bytes(&[w, bytemuck::cast_slice(group)].concat(), scale),
    }
}
