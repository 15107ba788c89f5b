//! Attention over the int8 cache, around the two integer loops that an instruction set writes by hand.
//! (x86-64 has its own: there the whole function is compiled for the instruction set.)

use half::f16;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::scalar::{quantize_i8, softmax, value_weights};
use varmint_core::slices::{pieces, pieces_mut};

/// Largest head; its query is held in registers.
pub(crate) const MAX_DIM: usize = 64;

/// `scores[j] = float(query . k[j, h * dim..][..dim])`, `dim = query.len()`.
///
/// # Safety
/// `k` holds `scores.len()` rows of `width`; `dim` is a multiple of 16, at most [`MAX_DIM`], and
/// `(h + 1) * dim <= width`; the processor has the instruction set.
pub(crate) type Dots =
    unsafe fn(k: &[i8], width: usize, h: usize, query: &[i8], scores: &mut [f32]);

/// `sums[c] += probs[j] * v[j, at + c]` over all j.
///
/// # Safety
/// `v` holds `probs.len()` rows of `width`, `at + 16 <= width`; the processor has the instruction set.
pub(crate) type Weigh =
    unsafe fn(v: &[i8], width: usize, at: usize, probs: &[i16], sums: &mut [i32; 16]);

/// See `varmint_core::Ops::attend`; `None` for other storage, for heads that are not 16, 32, 48 or 64
/// channels wide, and where the slices do not hold what the shapes say.
///
/// # Safety
/// The processor has the instruction set of `dots` and `weigh`.
pub(crate) unsafe fn attend_i8(
    heads: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
    (dots, weigh): (Dots, Weigh),
) -> Option<()> {
    let Heads { width, dim } = heads;
    let n = kv.iter().map(|(_, n)| n).sum::<usize>();
    let shaped = width > 0
        && dim > 0
        && dim <= MAX_DIM
        && dim.is_multiple_of(16)
        && width.is_multiple_of(dim);
    if !shaped || q.len() != out.len() || !q.len().is_multiple_of(dim) {
        return None;
    }
    let n_heads = (width / dim).max(1);
    for (kv, n) in kv {
        let Kv::I8 { k, v, ks, vs } = kv else { return None };
        let (values, scales) = (n.checked_mul(width)?, n.checked_mul(n_heads)?);
        if k.len() < values || v.len() < values || ks.len() < scales || vs.len() < scales {
            return None;
        }
    }
    let scores = scratch.scores.get_mut(..n)?;
    let probs = scratch.probs.get_mut(..n)?;
    let query = scratch.query.get_mut(..dim)?;
    for (i, (q, out)) in pieces(q, dim).zip(pieces_mut(out, dim)).enumerate() {
        let h = i % n_heads;
        let sq = quantize_i8(q, query);
        let mut done = 0;
        for (kv, n) in kv {
            if let Kv::I8 { k, ks, .. } = kv {
                let scores = scores.get_mut(done..done + n)?;
                // SAFETY: `k` holds n keys of `width`, `query` holds `dim`, a multiple of 16 within
                // `MAX_DIM`; head h is one of `width / dim`.
                unsafe { dots(k, width, h, query, scores) };
                for (s, k) in scores.iter_mut().zip(pieces(ks, n_heads)) {
                    *s *= sq * k.get(h).copied().unwrap_or(f16::ZERO).to_f32();
                }
            }
            done += n;
        }
        let total = softmax(scores);
        let factor = value_weights(h, n_heads, kv, scores, probs, total);
        for (c, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let mut sums = [0; 16];
            let mut done = 0;
            for (kv, n) in kv {
                if let Kv::I8 { v, .. } = kv {
                    let probs = probs.get(done..done + n)?;
                    // SAFETY: `v` holds n values of `width`; these 16 channels are inside a row.
                    unsafe { weigh(v, width, h * dim + 16 * c, probs, &mut sums) };
                }
                done += n;
            }
            for (o, s) in out.iter_mut().zip(sums) {
                *o = s as f32 * factor;
            }
        }
    }
    Some(())
}
