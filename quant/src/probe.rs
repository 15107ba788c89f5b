//! A look at attention while pictures are made: the kernels of this processor, and beside them sums over
//! what every head of the conditional row attends to.
//!
//! ```text
//! Sums::begin(tile)    before the step of every tile, so that the probe knows where it is
//! Sums::attended       after the kernel, softmax once more in plain f32: own scale, history, columns
//! Sums::mean           per scale, block and head, over all pictures
//! ```

use std::cell::RefCell;

use varmint_core::ops::{Heads, Kv};
use varmint_core::stage::Tile;

use crate::watch::Witness;

/// What a head attends to at a scale: means over queries and pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Look {
    /// Attention to the tokens of its own scale, 0 to 1.
    pub(crate) own: f64,
    /// Attention to the eighth of the history that a query likes most, 0 to 1.
    pub(crate) top: f64,
    /// Variance over queries of the attention to a key, summed over keys: 0 where all queries look at the
    /// same keys, close to 1 where each has its own.
    pub(crate) variance: f64,
}

impl Look {
    fn add(&mut self, other: Self, factor: f64) {
        self.own += factor * other.own;
        self.top += factor * other.top;
        self.variance += factor * other.variance;
    }
}

/// Sums over attention, by scale, block and head.
#[derive(Debug)]
pub(crate) struct Sums {
    /// Tokens of each scale.
    tokens: Vec<usize>,
    depth: usize,
    heads: usize,
    /// `[scales][depth][heads]`, and over how many pictures.
    all: Vec<(Look, u32)>,
    /// Where attention happens now, if it is to be looked at.
    at: Option<Tile>,
    /// The block so far: queries seen, a look per head, and sum and sum of squares `[heads][keys]`.
    queries: usize,
    looks: Vec<Look>,
    columns: Vec<(f64, f64)>,
}

impl Sums {
    pub(crate) fn new(tokens: Vec<usize>, depth: usize, heads: usize) -> Self {
        Self {
            all: vec![(Look::default(), 0); tokens.len() * depth * heads],
            looks: vec![Look::default(); heads],
            at: None,
            queries: 0,
            columns: Vec::new(),
            tokens,
            depth,
            heads,
        }
    }

    /// The next step is this tile, or nothing to be looked at.
    pub(crate) fn begin(&mut self, tile: Option<Tile>) {
        self.at = tile;
        if tile.is_some_and(|t| t.at == 0) {
            self.queries = 0;
            self.looks.fill(Look::default());
            self.columns.clear();
        }
    }

    /// Means of a head over all pictures; zeros where it never ran.
    pub(crate) fn mean(&self, scale: usize, block: usize, head: usize) -> Look {
        let (sum, n) = self.all[(scale * self.depth + block) * self.heads + head];
        let mut mean = Look::default();
        mean.add(sum, 1.0 / f64::from(n.max(1)));
        mean
    }

    /// Looks at the queries of a tile, `[rows, width]`, and the keys that they see.
    fn attend(&mut self, heads: Heads, q: &[f32], kv: [(Kv<'_>, usize); 2]) {
        let Some(tile) = self.at else { return };
        let now = self.tokens[tile.scale];
        let n = kv[0].1 + kv[1].1;
        let history = n.saturating_sub(now);
        self.columns.resize(self.heads * n, (0.0, 0.0));
        let (mut keys, mut p) = (Vec::with_capacity(n * heads.dim), vec![0.0; n]);
        for h in 0..self.heads {
            keys.clear();
            for (kv, n) in kv {
                (0..n).for_each(|j| key(kv, heads, h, j, &mut keys));
            }
            let columns = &mut self.columns[h * n..][..n];
            for q in q.chunks_exact(heads.width) {
                softmax(&q[h * heads.dim..][..heads.dim], &keys, &mut p);
                for ((sum, squares), &p) in columns.iter_mut().zip(&p) {
                    *sum += f64::from(p);
                    *squares += f64::from(p).powi(2);
                }
                let look = &mut self.looks[h];
                look.own += p[history..].iter().map(|&p| f64::from(p)).sum::<f64>();
                look.top += largest(&mut p[..history], history.div_ceil(8));
            }
        }
        self.queries += q.len() / heads.width;
        if self.queries == now {
            self.finish(tile, n);
        }
    }

    /// All queries of a block have been seen: its means become part of the sums.
    fn finish(&mut self, tile: Tile, n: usize) {
        let queries = self.queries as f64;
        let place = (tile.scale * self.depth + tile.block) * self.heads;
        for (h, (sum, count)) in self.all[place..].iter_mut().take(self.heads).enumerate() {
            let spread = self.columns[h * n..][..n]
                .iter()
                .map(|(sum, squares)| squares / queries - (sum / queries).powi(2));
            self.looks[h].variance = queries * spread.sum::<f64>();
            sum.add(self.looks[h], 1.0 / queries);
            *count += 1;
        }
    }
}

/// Appends key `j` of head `h` as floats.
fn key(kv: Kv<'_>, heads: Heads, h: usize, j: usize, out: &mut Vec<f32>) {
    let at = j * heads.width + h * heads.dim;
    let range = at..at + heads.dim;
    match kv {
        Kv::F32 { k, .. } => out.extend_from_slice(&k[range]),
        Kv::F16 { k, .. } => out.extend(k[range].iter().map(|v| v.to_f32())),
        Kv::I8 { k, ks, .. } => {
            let scale = ks[j * (heads.width / heads.dim) + h].to_f32();
            out.extend(k[range].iter().map(|&v| f32::from(v) * scale));
        }
    }
}

/// `p = softmax(K q)`; the queries are scaled already.
fn softmax(q: &[f32], keys: &[f32], p: &mut [f32]) {
    for (p, key) in p.iter_mut().zip(keys.chunks_exact(q.len())) {
        *p = q.iter().zip(key).map(|(a, b)| a * b).sum();
    }
    let largest = p.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    p.iter_mut().for_each(|p| *p = (*p - largest).exp());
    let total: f32 = p.iter().sum();
    p.iter_mut().for_each(|p| *p /= total);
}

/// The sum of the `n` largest values, which are moved to the front.
fn largest(p: &mut [f32], n: usize) -> f64 {
    if n < p.len() {
        p.select_nth_unstable_by(n, |a, b| b.total_cmp(a));
    }
    p.iter().take(n).map(|&p| f64::from(p)).sum()
}

impl Witness for RefCell<Sums> {
    fn attended(&self, heads: Heads, q: &[f32], kv: [(Kv<'_>, usize); 2]) {
        self.borrow_mut().attend(heads, q, kv);
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    /// Two heads of two channels, two queries in tiles of one, a history of two keys: the first head
    /// looks at one key whatever the query, the second at the query's own.
    #[test]
    fn stripes_and_diagonals() {
        let heads = Heads { width: 4, dim: 2 };
        let big = 50.0;
        let past = [0.0f32, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let now = [0.0f32, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0];
        let queries = [[big, 0.0, big, 0.0], [big, 0.0, 0.0, big]];
        let mut sums = Sums::new(vec![1, 1, 2], 2, 2);
        for _ in 0..3 {
            for (at, q) in queries.iter().enumerate() {
                sums.begin(Some(Tile { trunk: 0, scale: 2, row: 0, block: 1, at }));
                let kv = [(&past, 2), (&now, 2)].map(|(k, n)| (Kv::F32 { k, v: k }, n));
                sums.attend(heads, q, kv);
            }
        }
        let close = |a: Look, own: f64, top: f64, variance: f64| {
            let off = [a.own - own, a.top - top, a.variance - variance];
            assert!(off.iter().all(|d| d.abs() < 1e-6), "{a:?}");
        };
        close(sums.mean(2, 1, 0), 0.0, 1.0, 0.0);
        // Half of the queries look at each of two keys: a variance of a quarter for both.
        close(sums.mean(2, 1, 1), 1.0, 0.0, 0.5);
        close(sums.mean(2, 0, 0), 0.0, 0.0, 0.0);
    }

    #[test]
    fn keys_of_every_storage() {
        let heads = Heads { width: 4, dim: 2 };
        let floats = [1.0f32, -2.0, 3.0, 4.0, 5.0, -6.0, 7.0, 8.0];
        let halves = floats.map(f16::from_f32);
        let ints = floats.map(|v| (2.0 * v) as i8);
        let ks = [0.5f32; 4].map(f16::from_f32);
        for kv in [
            Kv::F32 { k: &floats, v: &[] },
            Kv::F16 { k: &halves, v: &[] },
            Kv::I8 { k: &ints, v: &[], ks: &ks, vs: &[] },
        ] {
            let mut out = Vec::new();
            key(kv, heads, 1, 1, &mut out);
            key(kv, heads, 0, 0, &mut out);
            assert_eq!(out, [7.0, 8.0, 1.0, -2.0]);
        }
    }
}
