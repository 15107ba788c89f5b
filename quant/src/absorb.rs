//! Outliers of inputs that go into the weights (SmoothQuant, arXiv 2211.10438).
//!
//! Before attention, feed-forward part and head, an input is normed and modulated. Dividing its channels by factors and
//! multiplying the weights of these channels by them changes nothing but what rounding loses:
//!
//! ```text
//! W x = (W diag(f)) (x / f)                   x = LN(..) (g0 + scale) + shift
//! f_j = max |x_j|^a / max_i |W_ij|^b          of mean 1, in logarithms
//! ```
//!
//! The division goes into g0, which the format has for this, and into the weights that make scale and shift of the
//! condition: a run does nothing more. Where all blocks share one modulation there is no place for it.

use std::collections::BTreeMap;

use varmint_core::tensor::{Dtype, Role, Spec};
use varmint_core::{Aln, Shape};

/// Exponents a and b that are tried: those of SmoothQuant, and of AWQ (arXiv 2306.00978), which spares the weights of channels
/// with large inputs.
pub(crate) const EXPONENTS: [(f32, f32); 6] =
    [(0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (0.25, 0.0), (0.5, 0.0), (0.75, 0.0)];

/// Which inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Attention(usize),
    Feed(usize),
    Head,
}

/// The factors of all inputs that have any.
#[derive(Debug, Default)]
pub(crate) struct Factors(BTreeMap<(usize, Place), Vec<f32>>);

/// Of which inputs the columns of a weight are, if they are such.
fn columns(spec: &Spec) -> Option<Place> {
    match spec.role {
        Role::QkvWeight => Some(Place::Attention(spec.index)),
        Role::Fc1Weight => Some(Place::Feed(spec.index)),
        Role::HeadWeight => Some(Place::Head),
        _ => None,
    }
}

/// Whether the inputs of this weight can be divided. A row of `tables` in int8 has one scale for all that is in it, so that
/// what is divided would take resolution from the rest.
pub(crate) fn possible(shape: &Shape, spec: &Spec, tables: Dtype) -> bool {
    let divisible = match shape.trunk(spec.set).aln {
        Aln::Own => true,
        Aln::Shared => false,
        Aln::Baked => tables != Dtype::I8Rows,
    };
    columns(spec).is_some_and(|place| place == Place::Head || divisible)
}

/// The largest absolute value of every column.
fn largest(rows: &[f32], cols: usize) -> Vec<f32> {
    let mut most = vec![0.0f32; cols];
    for row in rows.chunks_exact(cols) {
        most.iter_mut().zip(row).for_each(|(m, v)| *m = m.max(v.abs()));
    }
    most
}

/// Factors for a weight `values` and sample `inputs`, rows of as many columns.
pub(crate) fn factors(values: &[f32], inputs: &[f32], cols: usize, (a, b): (f32, f32)) -> Vec<f32> {
    let (x, w) = (largest(inputs, cols), largest(values, cols));
    let one = |(&x, &w): (&f32, &f32)| match x > 0.0 && w > 0.0 {
        true => a * x.ln() - b * w.ln(),
        false => f32::NAN,
    };
    let all: Vec<f32> = x.iter().zip(&w).map(one).collect();
    let known: Vec<f32> = all.iter().copied().filter(|v| v.is_finite()).collect();
    let mean = known.iter().sum::<f32>() / known.len().max(1) as f32;
    // Channels of which nothing is known stay as they are.
    all.into_iter().map(|v| if v.is_finite() { (v - mean).exp() } else { 1.0 }).collect()
}

/// Multiplies column j of all rows by `by(j)`.
fn scale_columns(rows: &mut [f32], cols: usize, by: impl Fn(usize) -> f32) {
    for row in rows.chunks_exact_mut(cols.max(1)) {
        row.iter_mut().enumerate().for_each(|(j, v)| *v *= by(j));
    }
}

/// Inputs divided by factors.
pub(crate) fn divide(inputs: &mut [f32], factors: &[f32]) {
    scale_columns(inputs, factors.len(), |j| factors[j].recip());
}

/// Weights multiplied by factors.
pub(crate) fn multiply(values: &mut [f32], factors: &[f32]) {
    scale_columns(values, factors.len(), |j| factors[j]);
}

impl Factors {
    /// Notes the factors for the inputs of a weight.
    pub(crate) fn note(&mut self, spec: &Spec, factors: Vec<f32>) {
        if let Some(place) = columns(spec) {
            self.0.insert((spec.set, place), factors);
        }
    }

    /// Those of the inputs of a weight.
    pub(crate) fn of(&self, spec: &Spec) -> Option<&[f32]> {
        self.0.get(&(spec.set, columns(spec)?)).map(Vec::as_slice)
    }

    /// What every part of a tensor, one after the other and each as long as the factors, is divided by; none for
    /// most tensors.
    fn parts(&self, spec: &Spec) -> Vec<Option<&[f32]>> {
        let at = |place| self.0.get(&(spec.set, place)).map(Vec::as_slice);
        let (attention, feed) = (at(Place::Attention(spec.index)), at(Place::Feed(spec.index)));
        match spec.role {
            Role::BlockGain => vec![attention, feed],
            Role::AdaWeight | Role::AdaBias | Role::AdaTable => {
                vec![None, None, attention, feed, attention, feed]
            }
            Role::HeadGain => vec![at(Place::Head)],
            Role::HeadAdaWeight | Role::HeadAdaBias => vec![at(Place::Head); 2],
            _ => Vec::new(),
        }
    }

    /// Whether a tensor has other values with them.
    pub(crate) fn concern(&self, spec: &Spec) -> bool {
        self.of(spec).is_some() || self.parts(spec).iter().any(Option::is_some)
    }

    /// Puts them into the values of a tensor.
    pub(crate) fn apply(&self, spec: &Spec, values: &mut [f32]) {
        if let Some(factors) = self.of(spec) {
            return multiply(values, factors);
        }
        let parts = self.parts(spec);
        let Some(width) = parts.iter().flatten().next().map(|f| f.len()) else { return };
        let by = |i: usize| {
            parts.get(i / width).copied().flatten().map_or(1.0, |f| f[i % width].recip())
        };
        match spec.role {
            // Rows make the parts.
            Role::AdaWeight | Role::HeadAdaWeight => {
                for (i, row) in values.chunks_exact_mut(spec.cols).enumerate() {
                    row.iter_mut().for_each(|v| *v *= by(i));
                }
            }
            Role::AdaTable => scale_columns(values, spec.cols, by),
            _ => values.iter_mut().enumerate().for_each(|(i, v)| *v *= by(i)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outliers_go_into_the_weights() {
        // Channel 1 has inputs a hundred times as large.
        let (x, w) = ([1.0, 100.0, 0.0, -0.5, 60.0, 0.0], [2.0, 1.0, 5.0, -1.0, -2.0, 5.0]);
        let f = factors(&w, &x, 3, (0.5, 0.5));
        assert!((f[1] / f[0] - 10.0).abs() < 1e-4, "{f:?}");
        assert_eq!(f[2], 1.0);
        assert!((f[0] * f[1] - 1.0).abs() < 1e-5);
        let product = |x: &[f32], w: &[f32]| -> f32 { x.iter().zip(w).map(|(a, b)| a * b).sum() };
        let (mut y, mut v) = (x, w);
        divide(&mut y, &f);
        multiply(&mut v, &f);
        assert!((product(&x[..3], &w[..3]) - product(&y[..3], &v[..3])).abs() < 1e-4);
    }
}
