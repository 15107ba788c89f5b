//! A request: what to make, checked against the model before a run.

use crate::config::{MAX_TABLES, Sampling};
use crate::error::Error;
use crate::model::Model;

/// In the place of a given token: this one is drawn. In a model of 65,536 codes it is the last of them, and nothing else.
pub const DRAW: u16 = u16::MAX;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Request<'t> {
    /// A row of each condition table; `None` means "not given".
    pub labels: [Option<u32>; MAX_TABLES],
    /// Seed of every draw.
    pub seed: u64,
    /// Guidance and sampling.
    pub sampling: Sampling,
    /// All tokens, given instead of drawn (L of them): decodes a picture that was made before. [`DRAW`] stands for one
    /// that is drawn all the same: see [`crate::edit`].
    pub tokens: Option<&'t [u16]>,
}

impl Request<'_> {
    /// Seed 0, nothing given, the model's own sampling.
    pub fn new(model: &Model<'_>) -> Self {
        Self {
            labels: [None; MAX_TABLES],
            seed: 0,
            sampling: model.shape.config.sampling,
            tokens: None,
        }
    }

    pub(crate) fn check(&self, model: &Model<'_>) -> Result<(), Error> {
        let c = &model.shape.config;
        for (t, label) in self.labels.iter().enumerate() {
            let rows = c.table(t).rows;
            match *label {
                Some(row) if t >= c.n_tables() || row >= rows => {
                    return Err(Error::UnknownLabel { table: t as u16, row, rows });
                }
                _ => {}
            }
        }
        if !self.sampling.is_valid() {
            return Err(Error::BadSampling);
        }
        if let Some(tokens) = self.tokens {
            let need = c.tokens();
            if tokens.len() != need {
                return Err(Error::BadTokens { need, got: tokens.len() });
            }
            if let Some(got) = tokens.iter().position(|&t| t as u32 >= c.vocab && t != DRAW) {
                return Err(Error::BadTokens { need, got });
            }
        }
        Ok(())
    }
}
