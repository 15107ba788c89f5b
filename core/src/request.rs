//! A request: what to make, checked against the model before a run.

use crate::config::{MAX_TABLES, Sampling};
use crate::error::Error;
use crate::model::Model;

/// What to make.
#[derive(Clone, Copy, Debug)]
pub struct Request<'t> {
    /// A row of each condition table; `None` means "not given".
    pub labels: [Option<u32>; MAX_TABLES],
    /// Seed of every draw.
    pub seed: u64,
    /// Guidance and sampling.
    pub sampling: Sampling,
    /// All tokens, given instead of drawn (L of them): decodes a picture that was made before.
    pub tokens: Option<&'t [u16]>,
    /// Which of the given tokens stay (L of them); the others are drawn. All, if not given. See [`crate::edit`].
    pub keep: Option<&'t [bool]>,
}

impl Request<'_> {
    /// Seed 0, nothing given, the model's own sampling.
    pub fn new(model: &Model<'_>) -> Self {
        Self {
            labels: [None; MAX_TABLES],
            seed: 0,
            sampling: model.shape.config.sampling,
            tokens: None,
            keep: None,
        }
    }

    /// Token `i` of all, if it is given and stays.
    pub(crate) fn given(&self, i: usize) -> Option<u16> {
        let tokens = self.tokens?;
        match self.keep {
            Some(keep) if !keep.get(i).copied().unwrap_or(false) => None,
            _ => Some(tokens.get(i).copied().unwrap_or(0)),
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
        let need = c.tokens();
        if let Some(keep) = self.keep
            && (keep.len() != need || self.tokens.is_none())
        {
            return Err(Error::BadTokens { need, got: keep.len() });
        }
        if let Some(tokens) = self.tokens {
            if tokens.len() != need {
                return Err(Error::BadTokens { need, got: tokens.len() });
            }
            if let Some(got) = tokens.iter().position(|&t| t as u32 >= c.vocab) {
                return Err(Error::BadTokens { need, got });
            }
        }
        Ok(())
    }
}
