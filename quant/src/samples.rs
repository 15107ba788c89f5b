//! A look at the inputs of products while pictures are made: some rows of every weight's.

use std::cell::RefCell;
use std::collections::BTreeMap;

use varmint_core::Model;
use varmint_core::tensor::{Data, Matrix};

use crate::watch::{Inputs, Witness};

/// Rows of inputs of one weight.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// `[rows][K]`.
    pub(crate) rows: Vec<f32>,
    /// Most rows.
    most: usize,
    /// Every how many of those that come by is kept.
    every: usize,
    seen: usize,
}

/// Rows of the inputs of some weights.
#[derive(Debug)]
pub(crate) struct Samples {
    /// From where a weight lies to its place in the directory.
    at: BTreeMap<usize, usize>,
    kept: RefCell<BTreeMap<usize, Kept>>,
}

/// Where a matrix lies in memory.
fn address(m: &Matrix<'_>) -> usize {
    match m.data {
        Data::F32(w) => w.as_ptr() as usize,
        Data::F16(w) => w.as_ptr() as usize,
        Data::I8Rows(w, _) | Data::I8 { w, .. } => w.as_ptr() as usize,
        Data::I4 { w, .. } => w.as_ptr() as usize,
    }
}

impl Samples {
    /// Of the tensors at these places of the directory, at most so many rows each.
    pub(crate) fn new(model: &Model<'_>, wanted: impl Iterator<Item = (usize, usize)>) -> Self {
        let (mut at, mut kept) = (BTreeMap::new(), BTreeMap::new());
        for (i, most) in wanted {
            if let Some((_, _, matrix)) = model.tensor(i) {
                at.insert(address(&matrix), i);
                kept.insert(i, Kept { most: most.max(1), every: 1, ..Kept::default() });
            }
        }
        Self { at, kept: RefCell::new(kept) }
    }

    /// What was kept, by place in the directory.
    pub(crate) fn into_kept(self) -> BTreeMap<usize, Kept> {
        self.kept.into_inner()
    }
}

impl Witness for Samples {
    fn multiplied(&self, weights: usize, inputs: Inputs<'_>) {
        // A part of a matrix (keys and values) has the inputs of the whole, which come by as well.
        let Some(i) = self.at.get(&weights) else { return };
        let mut kept = self.kept.borrow_mut();
        let Some(kept) = kept.get_mut(i) else { return };
        for m in 0..inputs.rows() {
            kept.seen += 1;
            if !kept.seen.is_multiple_of(kept.every) {
                continue;
            }
            let before = kept.rows.len();
            inputs.row(m, &mut kept.rows);
            let k = kept.rows.len() - before;
            if k > 0 && kept.rows.len() / k > kept.most {
                // Every second one goes, and comes from now on.
                let rows = kept.rows.chunks_exact(k).skip(1).step_by(2);
                kept.rows = rows.flatten().copied().collect();
                kept.every *= 2;
            }
        }
    }
}
