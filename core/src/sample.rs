//! Guidance and the draw of one token (official `models/helpers.py`, `models/var.py`).
//!
//! ```text
//! g = (1 + t) a - t b,   t = guidance * k / (S - 1), or k / d for a scale's own d
//! keep the top k (ties stay), then the smallest set whose mass exceeds top_p
//! token = argmax over the kept of g / temperature + Gumbel(seed, scale, token, entry)
//! ```
//! The last line draws from the softmax of the kept logits.

use crate::config::Sampling;
use crate::error::Error;
use crate::host::{Host, Job, nums, split};
use crate::num::exp;
use crate::ops::Ops;
use crate::order::{kth_largest, smallest, sort, to_front};
use crate::plan::Buf;
use crate::rng::TokenRng;
use crate::slices::{part, part_mut, pieces};
use crate::stage::HEAD_TILE;

impl<O: Ops> Host<'_, O> {
    /// Mixes the two rows' logits (in place, into the first) and draws the tokens.
    #[inline(never)] // or its frame would be in that of every stage
    pub(crate) fn draw(&mut self, job: &Job<'_>, scale: usize, at: usize) -> Result<(), Error> {
        let c = &job.model.shape.config;
        let v = c.vocab as usize;
        let l = c.scale(scale).tokens();
        let n = l.saturating_sub(at).min(HEAD_TILE);
        let [logits, tokens, scratch] =
            self.arena.take(job.plan, [Buf::Logits, Buf::Tokens, Buf::Candidates])?;
        let logits = nums::<f32>(logits)?;
        let (cond, null) = split(logits, HEAD_TILE * v)?;
        if job.plan.tier.rows(scale) == 2 && c.n_scales() > 1 {
            // As the official code: the strength is a double, rounded at the multiplication.
            let t = c.guidance(job.request.sampling.guidance, scale);
            let (a, b) = ((1.0 + t) as f32, t as f32);
            for (x, &y) in part_mut(cond, 0, n * v).iter_mut().zip(null.iter()) {
                *x = a * *x - b * y;
            }
        }
        let scratch = nums::<f32>(scratch)?;
        let first = c.tokens_before(scale) + at;
        let out = part_mut(nums::<u16>(tokens)?, first, n);
        let mut sampling = job.request.sampling;
        if c.scale(scale).greedy() {
            sampling.top_k = 1;
        }
        for (i, (token, logits)) in out.iter_mut().zip(pieces(cond, v)).enumerate() {
            // Others than codes were refused, but for those that say: draw.
            if let Some(all) = job.request.tokens {
                *token = all.get(first + i).copied().unwrap_or(0);
                if (*token as usize) < v {
                    continue;
                }
            }
            let rng = TokenRng::new(job.request.seed, scale, at + i);
            *token = draw(logits, &sampling, rng, part_mut(scratch, 0, v)) as u16;
        }
        Ok(())
    }
}

/// One token from its logits. `scratch` has the length of `logits`.
pub fn draw(logits: &[f32], s: &Sampling, rng: TokenRng, scratch: &mut [f32]) -> usize {
    if s.top_k == 1 {
        return argmax(logits.iter().copied());
    }
    let least = threshold(logits, s, scratch);
    let t = s.temperature;
    argmax(
        logits
            .iter()
            .enumerate()
            .map(|(e, &g)| if g >= least { g / t + rng.gumbel(e) } else { f32::NEG_INFINITY }),
    )
}

/// The first largest entry.
fn argmax(values: impl Iterator<Item = f32>) -> usize {
    let mut best = (0, f32::NEG_INFINITY);
    for (i, v) in values.enumerate() {
        if v > best.1 {
            best = (i, v);
        }
    }
    best.0
}

/// The smallest logit that top-k and top-p keep: every entry at or above it is kept.
///
/// The official filter removes, in ascending order, while the running mass is at most 1 - top_p. Where
/// equal logits straddle that line we keep them all (it keeps those that its sort puts last).
pub fn threshold(logits: &[f32], s: &Sampling, scratch: &mut [f32]) -> f32 {
    let n = logits.len().min(scratch.len());
    let k = if s.top_k == 0 { n } else { (s.top_k as usize).min(n) };
    if n == 0 || k == 0 {
        return f32::NEG_INFINITY;
    }
    let n = candidates(part(logits, 0, n), s.temperature, k, scratch);
    let kept = part_mut(scratch, 0, n);
    let kth = if k < n { kth_largest(kept, k) } else { smallest(kept, |_| true) };
    if s.top_p <= 0.0 || s.top_p >= 1.0 {
        return unscaled(logits, s.temperature, kth);
    }
    // Ties with the k-th stay.
    let m = to_front(kept, |g| g >= kth);
    let kept = part_mut(kept, 0, m);
    sort(kept);
    let max = kept.last().copied().unwrap_or(0.0);
    let total: f64 = kept.iter().map(|&g| exp(g - max) as f64).sum();
    let mut mass = 0.0f64;
    for &g in kept.iter() {
        mass += exp(g - max) as f64;
        if mass > (1.0 - s.top_p as f64) * total {
            return unscaled(logits, s.temperature, g);
        }
    }
    unscaled(logits, s.temperature, max)
}

/// Logits of a block of [`candidates`].
const BLOCK: usize = 16;

/// Puts quotients by the temperature into `out`, the k largest and all ties with them certainly among
/// them, and says how many. Not-a-number becomes what never wins a comparison, here or later.
fn candidates(logits: &[f32], temperature: f32, k: usize, out: &mut [f32]) -> usize {
    let known = |g: f32| if g > f32::NEG_INFINITY { g } else { f32::NEG_INFINITY };
    if temperature == 1.0 {
        // A quotient by 1 is exact; divisions would take most of the time.
        pick(logits, k, out, known)
    } else {
        pick(logits, k, out, |g| known(g) / temperature)
    }
}

/// [`candidates`], `scaled` being monotonous.
///
/// Where k is small, one look at the largest of every block tells most of the others to stay out: k
/// blocks reach the k-th largest of these, so the k-th logit does.
#[inline(always)]
fn pick(logits: &[f32], k: usize, out: &mut [f32], scaled: impl Fn(f32) -> f32) -> usize {
    let (blocks, rest) = logits.as_chunks::<BLOCK>();
    if k > blocks.len() / 2 {
        for (o, &g) in out.iter_mut().zip(logits) {
            *o = scaled(g);
        }
        return logits.len();
    }
    let larger = |m: f32, g: f32| if g > m { g } else { m };
    for (o, block) in out.iter_mut().zip(blocks) {
        let mut lanes = [f32::NEG_INFINITY; 4];
        for four in block.as_chunks::<4>().0 {
            for (lane, &g) in lanes.iter_mut().zip(four) {
                *lane = larger(*lane, g);
            }
        }
        let [a, b, c, d] = lanes;
        *o = scaled(larger(larger(a, b), larger(c, d)));
    }
    let least = kth_largest(part(out, 0, blocks.len()), k);
    let mut n = 0;
    let mut take = |g: f32| {
        if g >= least
            && let Some(o) = out.get_mut(n)
        {
            *o = g;
            n += 1;
        }
    };
    for block in blocks {
        // Most blocks have none.
        if block.iter().fold(false, |any, &g| any | (scaled(g) >= least)) {
            block.iter().for_each(|&g| take(scaled(g)));
        }
    }
    rest.iter().for_each(|&g| take(scaled(g)));
    n
}

/// The smallest logit whose quotient by the temperature reaches `least`.
fn unscaled(logits: &[f32], temperature: f32, least: f32) -> f32 {
    if temperature == 1.0 {
        return smallest(logits, |g| g >= least);
    }
    smallest(logits, |g| g / temperature >= least)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(top_k: u32, top_p: f32) -> Sampling {
        Sampling { guidance: 0.0, top_k, top_p, temperature: 1.0 }
    }

    #[test]
    fn ties_with_the_kth_stay() {
        let logits = [1.0, 3.0, 2.0, 2.0, 0.0];
        let least = threshold(&logits, &sampling(2, 0.0), &mut [0.0; 5]);
        assert_eq!(logits.iter().filter(|&&g| g >= least).count(), 3);
    }

    #[test]
    fn the_largest_always_stays() {
        let logits = [0.0, 50.0, 0.0];
        assert_eq!(threshold(&logits, &sampling(0, 1e-6), &mut [0.0; 3]), 50.0);
    }

    /// What `threshold` says, the long way round.
    #[allow(clippy::indexing_slicing, reason = "a test may panic")]
    fn plainly(logits: &[f32], s: &Sampling) -> f32 {
        let t = s.temperature;
        let mut all: std::vec::Vec<f32> = (logits.iter())
            .map(|&g| if g > f32::NEG_INFINITY { g / t } else { f32::NEG_INFINITY })
            .collect();
        all.sort_unstable_by(|a, b| b.total_cmp(a));
        let k = if s.top_k == 0 { all.len() } else { (s.top_k as usize).min(all.len()) };
        let mut least = all[k - 1];
        all.retain(|&g| g >= least);
        if s.top_p > 0.0 && s.top_p < 1.0 {
            all.reverse();
            let numerator = |g: &f32| exp(g - all[all.len() - 1]) as f64;
            let total: f64 = all.iter().map(numerator).sum();
            let mut mass = 0.0;
            least = all[all.len() - 1];
            for g in &all {
                mass += numerator(g);
                if mass > (1.0 - s.top_p as f64) * total {
                    least = *g;
                    break;
                }
            }
        }
        logits.iter().copied().filter(|&g| g / t >= least).fold(f32::INFINITY, f32::min)
    }

    #[test]
    fn thresholds_are_those_of_a_full_sort() {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            seed >> 8
        };
        for n in [1, 2, 15, 16, 17, 63, 64, 257, 1024, 1031] {
            for step in [0.0, 0.5, 1e-3] {
                let logits: std::vec::Vec<f32> = (0..n)
                    .map(|_| match random() % 64 {
                        0 => f32::NEG_INFINITY,
                        1 if step == 0.5 => f32::NAN,
                        r if step == 0.5 => r as f32 * step - 9.0, // ties
                        _ => (random() % 20_000) as f32 * step - 10.0,
                    })
                    .collect();
                for top_k in [0, 1, 2, 3, 7, 10, 16, 32, 33, 900] {
                    for (top_p, temperature) in [(0.0, 1.0), (0.5, 1.0), (0.96, 0.7), (1e-6, 3.0)] {
                        let s = Sampling { guidance: 0.0, top_k, top_p, temperature };
                        let got = threshold(&logits, &s, &mut std::vec![9.0; n]);
                        let want = plainly(&logits, &s);
                        assert_eq!(got, want, "{n} {step} {s:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn draws_follow_the_softmax() {
        // p = 0.5, 0.25, 0.25: 4,000 draws, three standard deviations.
        let logits = [libm::logf(2.0), 0.0, 0.0];
        let mut hits = [0u32; 3];
        for seed in 0..4000 {
            let rng = TokenRng::new(seed, 0, 0);
            if let Some(hit) = hits.get_mut(draw(&logits, &sampling(0, 0.0), rng, &mut [0.0; 3])) {
                *hit += 1;
            }
        }
        let [a, b, _] = hits;
        assert!(a.abs_diff(2000) < 95 && b.abs_diff(1000) < 83, "{hits:?}");
    }
}
