//! Weights from a recipe: value = center + m(i) 2^exp, m from a hash of the tensor's name and the index.

use std::path::PathBuf;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::Deserialize;

use super::fixture;
use super::model::Tensors;

/// `manifest.json` of a golden.
#[derive(Deserialize)]
struct Manifest {
    seed: u64,
    tensors: Vec<Recipe>,
}

#[derive(Deserialize)]
struct Recipe {
    name: String,
    shape: Vec<usize>,
    center: f64,
    exp: i32,
}

impl Recipe {
    fn values(&self, seed: u64) -> Vec<f32> {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let hash = |key: u64, byte: u8| (key ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3);
        let key = self.name.bytes().fold(0xCBF2_9CE4_8422_2325, hash) ^ seed.wrapping_mul(STEP);
        let value = |i: u64| {
            let mut z = key.wrapping_add((i + 1).wrapping_mul(STEP));
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            let m = z.to_le_bytes()[..4].iter().map(|&b| i32::from(b)).sum::<i32>() - 510;
            let v = (self.center + f64::from(m) * f64::from(self.exp).exp2()) as f32;
            if self.center == 0.0 { v } else { half::f16::from_f32(v).to_f32() }
        };
        (0..self.shape.iter().product::<usize>() as u64).map(value).collect()
    }
}

/// The weights of golden `name`.
pub fn weights(name: &str) -> Tensors {
    let text = std::fs::read(fixture(&format!("goldens/{name}/manifest.json"))).unwrap();
    let manifest: Manifest = serde_json::from_slice(&text).unwrap();
    let tensor = |r: &Recipe| {
        let bytes = r.values(manifest.seed).iter().flat_map(|v| v.to_le_bytes()).collect();
        (r.name.clone(), (Dtype::F32, r.shape.clone(), bytes))
    };
    manifest.tensors.iter().map(tensor).collect()
}

/// Writes tensors to a file of the test's own.
pub fn save(name: &str, tensors: &Tensors) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.safetensors"));
    let views =
        tensors.iter().map(|(k, (t, s, d))| (k, TensorView::new(*t, s.clone(), d).unwrap()));
    serialize_to_file(views, None, &path).unwrap();
    path
}
