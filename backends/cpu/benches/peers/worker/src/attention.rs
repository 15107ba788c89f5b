//! Attention of `queries` over `keys`. Nothing here yet: varmint's kernel for blocks of queries goes here,
//! and peers.py has the case and PyTorch's side of it. It will want q, k and v in one `.x` file.

use anyhow::{Result, bail};

use crate::{Case, Engine};

pub fn make(engine: &str, case: &Case) -> Result<Box<dyn Engine>> {
    let [_queries, _keys, _heads, _dim] = case.dims()?;
    bail!("{engine} is not there")
}
