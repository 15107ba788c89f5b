//! State dicts to be changed: a golden's weights in memory, renamed, cut, or with more in them.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, TensorView, serialize};
use varmint_quant::checkpoint::Checkpoint;
use varmint_quant::official::{Hints, Official, VaeConfig, VarConfig};

use super::fixture;

/// Name → type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

pub fn golden(name: &str) -> Checkpoint {
    Checkpoint::open(fixture(&format!("goldens/{name}/weights.safetensors"))).unwrap()
}

/// A golden's weights, to be changed.
pub fn tensors(name: &str) -> Tensors {
    let file = golden(name);
    let item = |key: &str| {
        let bytes = file.read_f32(key).unwrap().iter().flat_map(|v| v.to_le_bytes()).collect();
        (key.to_owned(), (Dtype::F32, file.shape(key).unwrap().to_vec(), bytes))
    };
    file.names().map(item).collect()
}

pub fn build(name: &str, tensors: &Tensors) -> Checkpoint {
    let views = tensors
        .iter()
        .map(|(k, (t, shape, data))| (k, TensorView::new(*t, shape.clone(), data).unwrap()));
    Checkpoint::from_bytes(name, serialize(views, None).unwrap()).unwrap()
}

pub fn renamed(tensors: &Tensors, rename: impl Fn(&str) -> Option<String>) -> Tensors {
    tensors.iter().filter_map(|(k, v)| Some((rename(k)?, v.clone()))).collect()
}

pub fn only(tensors: &Tensors, prefix: &str, new: &str) -> Tensors {
    renamed(tensors, |k| Some(format!("{new}{}", k.strip_prefix(prefix)?)))
}

pub fn with_levels(mut tensors: Tensors, key: &str, lengths: &[usize]) -> Tensors {
    let levels = lengths.iter().enumerate().flat_map(|(i, &n)| vec![i as i64; n]);
    let bytes = levels.flat_map(|v| v.to_le_bytes()).collect();
    tensors.insert(key.into(), (Dtype::I64, vec![1, lengths.iter().sum()], bytes));
    tensors
}

pub fn find(files: &[Checkpoint]) -> Result<(VarConfig, VaeConfig), String> {
    match Official::find(files, &Hints::default()) {
        Ok(o) => Ok((o.var_config, o.vae_config)),
        Err(e) => Err(e.to_string()),
    }
}

/// Numbers that look random, in tensors of these names and shapes.
pub fn random(keys: &[(String, Vec<usize>)], seed: u32) -> Tensors {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    let mut tensor = |(key, shape): &(String, Vec<usize>)| {
        let bytes = (0..shape.iter().product()).flat_map(|_: usize| (0.1 * number()).to_le_bytes());
        (key.clone(), (Dtype::F32, shape.clone(), bytes.collect()))
    };
    keys.iter().map(&mut tensor).collect()
}
