//! Numbers to bytes: f32, f16, int8 rows and packed int8, and back again for the report. 4 bits are
//! in `int4`.
//!
//! Values come row-major, `[rows][taps][cols]`. int8 is symmetric per row:
//!
//! ```text
//! scale = max |v| / 127          q = round_half_even(v / scale), never -128
//! ```
//!
//! Packed int8 is what the kernels read in place: groups of 8 rows, 4 inputs together. Rows are
//! padded to 8 and the inputs of a tap to 4, with zeros:
//!
//! ```text
//! byte of (row, tap, col):  k = tap * up4(cols) + col
//!     ((row / 8 * packed_cols / 4 + k / 4) * 8 + row % 8) * 4 + k % 4
//! ```

use half::f16;
use varmint_core::tensor::{Data, Dtype, Matrix, Spec};

pub use crate::encoded::Encoded;
use crate::error::Error;
use crate::int4;

/// The name of a storage, as options and tables write it.
pub const fn dtype_name(dtype: Dtype) -> &'static str {
    match dtype {
        Dtype::F32 => "f32",
        Dtype::F16 => "f16",
        Dtype::I8Rows => "i8rows",
        Dtype::I8 => "i8",
        Dtype::I8Wide => "i8wide",
        Dtype::I4 => "i4",
    }
}

/// Encodes `values` (row-major, `[rows][taps][cols]`) as `dtype`. `name` is for the message.
///
/// # Errors
/// [`Error::Mismatch`] when the number of values is wrong; [`Error::Value`] for a value that is not
/// finite or does not fit.
pub fn encode(spec: &Spec, dtype: Dtype, values: &[f32], name: &str) -> Result<Encoded, Error> {
    let n = spec.rows * spec.taps * spec.cols;
    if values.len() != n {
        return Err(Error::mismatch(name, format!("{n} values"), values.len()));
    }
    let refuse = |at: usize| Error::Value {
        tensor: name.to_owned(),
        at,
        value: values.get(at).copied().unwrap_or(f32::NAN),
        dtype: dtype_name(dtype),
    };
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        return Err(refuse(at));
    }
    match dtype {
        Dtype::F32 => Ok(floats(values.iter().flat_map(|v| v.to_le_bytes()))),
        Dtype::F16 => {
            if let Some(at) = values.iter().position(|v| f16::from_f32(*v).is_infinite()) {
                return Err(refuse(at));
            }
            Ok(floats(values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes())))
        }
        Dtype::I8Rows => Ok(rows(spec, values)),
        Dtype::I8 | Dtype::I8Wide => Ok(packed(spec, values)),
        Dtype::I4 => Ok(int4::encode(spec, values)),
    }
}

fn floats(bytes: impl Iterator<Item = u8>) -> Encoded {
    Encoded { data: bytes.collect(), scales: Vec::new() }
}

/// The scale of a row: its largest value becomes 127; a row of zeros has scale 0.
fn row_scale(row: &[f32]) -> f32 {
    row.iter().fold(0.0f32, |m, v| m.max(v.abs())) / 127.0
}

/// One value, given its row's scale. The clamp matters for denormal scales only.
fn quantized(v: f32, scale: f32) -> u8 {
    if scale == 0.0 {
        return 0;
    }
    let q = (v / scale).round_ties_even().clamp(-127.0, 127.0) as i8;
    q.to_le_bytes()[0]
}

fn rows(spec: &Spec, values: &[f32]) -> Encoded {
    let mut e = Encoded::default();
    for row in values.chunks_exact(spec.taps * spec.cols) {
        let scale = row_scale(row);
        e.scales.push(scale);
        e.data.extend(row.iter().map(|v| quantized(*v, scale)));
    }
    e
}

fn packed(spec: &Spec, values: &[f32]) -> Encoded {
    let packed_cols = spec.packed_cols();
    let (padded_rows, padded_cols) = (spec.rows.next_multiple_of(8), packed_cols / spec.taps);
    let mut e =
        Encoded { data: vec![0; padded_rows * packed_cols], scales: vec![0.0; padded_rows] };
    for (r, row) in values.chunks_exact(spec.taps * spec.cols).enumerate() {
        let scale = row_scale(row);
        e.scales[r] = scale;
        for (tap, inputs) in row.chunks_exact(spec.cols).enumerate() {
            for (c, v) in inputs.iter().enumerate() {
                e.data[packed_at(packed_cols, r, tap * padded_cols + c)] = quantized(*v, scale);
            }
        }
    }
    e
}

/// Where input `k` of row `r` stands in a packed matrix.
const fn packed_at(packed_cols: usize, r: usize, k: usize) -> usize {
    ((r / 8 * (packed_cols / 4) + k / 4) * 8 + r % 8) * 4 + k % 4
}

/// The values that a stored matrix stands for, row-major `[rows][taps][cols]`.
pub fn decode(m: &Matrix<'_>) -> Vec<f32> {
    let width = m.taps * m.cols;
    match m.data {
        Data::F32(w) => w.to_vec(),
        Data::F16(w) => w.iter().map(|v| v.to_f32()).collect(),
        Data::I8Rows(w, scale) => {
            let rows = w.chunks_exact(width).zip(scale);
            rows.flat_map(|(row, s)| row.iter().map(move |v| f32::from(*v) * s)).collect()
        }
        Data::I8 { w, scale, .. } => {
            let (packed_cols, padded) = (m.stored_cols(), m.stored_cols() / m.taps);
            let mut out = Vec::with_capacity(m.rows * width);
            for (r, s) in scale.iter().enumerate().take(m.rows) {
                for k in 0..width {
                    let at = packed_at(packed_cols, r, k / m.cols * padded + k % m.cols);
                    out.push(f32::from(w[at]) * s);
                }
            }
            out
        }
        Data::I4 { .. } => int4::decode(m),
    }
}

/// An encoded tensor as the core would see it, to measure what encoding costs.
pub fn view<'a>(spec: &Spec, dtype: Dtype, e: &'a Encoded, buffer: &'a mut Vec<f32>) -> Matrix<'a> {
    let data = match dtype {
        Dtype::F32 | Dtype::F16 => {
            // Copied: the bytes of a Vec<u8> need not be aligned.
            *buffer = match dtype {
                Dtype::F32 => e
                    .data
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                    .collect(),
                _ => e
                    .data
                    .chunks_exact(2)
                    .map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32())
                    .collect(),
            };
            Data::F32(buffer)
        }
        Dtype::I8Rows => Data::I8Rows(bytemuck::cast_slice(&e.data), &e.scales),
        Dtype::I8 | Dtype::I8Wide => Data::I8 {
            w: bytemuck::cast_slice(&e.data),
            scale: &e.scales,
            wide: matches!(dtype, Dtype::I8Wide),
        },
        Dtype::I4 => {
            let (w, group) = e.data.split_at(spec.nibble_bytes() as usize);
            Data::I4 { w, group: bytemuck::cast_slice(group), scale: &e.scales }
        }
    };
    Matrix { rows: spec.rows, cols: spec.cols, taps: spec.taps, data }
}

/// Signal-to-noise ratio in dB of `got` against `wanted`; infinite when they are equal.
pub fn snr_db(wanted: &[f32], got: &[f32]) -> f64 {
    let (mut signal, mut noise) = (0.0f64, 0.0f64);
    for (w, g) in wanted.iter().zip(got) {
        signal += f64::from(*w) * f64::from(*w);
        noise += (f64::from(*w) - f64::from(*g)).powi(2);
    }
    if noise == 0.0 { f64::INFINITY } else { 10.0 * (signal / noise).log10() }
}

/// A PyTorch convolution `[co, ci, taps]` in our order `[co][tap][ci]`.
pub fn conv_order(w: &[f32], ci: usize, taps: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(w.len());
    for channel in w.chunks_exact(ci * taps) {
        for tap in 0..taps {
            out.extend(channel.iter().skip(tap).step_by(taps));
        }
    }
    out
}
