//! Attention over float and half-float caches, in the reference's order: a score has eight lanes and a
//! tree, a value takes its keys one after the other. A step of keys, or of channels, serves several rows.

use core::arch::x86_64::*;

use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::scalar::softmax;

use super::float::Weight;

/// Most query rows of a block.
const ROWS: usize = 8;
/// Keys of a step.
const KEYS: usize = 4;

/// One part of the keys and values: `n` of them, `width` apart, from the head's first channel on.
#[derive(Clone, Copy)]
struct Part<T> {
    k: *const T,
    v: *const T,
    n: usize,
    width: usize,
}

/// See `varmint_core::Ops::attend`; `None` for the int8 cache, for heads that are not whole eights of
/// channels, and where the slices do not hold what the shapes say.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn attend(
    heads: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
) -> Option<()> {
    match kv {
        [(Kv::F32 { k, v }, n), (Kv::F32 { k: k2, v: v2 }, n2)] => {
            blocks(heads, q, [(k, v, n), (k2, v2, n2)], scratch, out)
        }
        [(Kv::F16 { k, v }, n), (Kv::F16 { k: k2, v: v2 }, n2)] => {
            blocks(heads, q, [(k, v, n), (k2, v2, n2)], scratch, out)
        }
        _ => None,
    }
}

/// Checks the shapes and goes through heads and blocks of rows.
#[target_feature(enable = "avx2,f16c")]
fn blocks<T: Weight>(
    Heads { width, dim }: Heads,
    q: &[f32],
    kv: [(&[T], &[T], usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
) -> Option<()> {
    let n = kv[0].2.checked_add(kv[1].2)?;
    let shaped = dim > 0 && dim.is_multiple_of(8) && width >= dim && width.is_multiple_of(dim);
    if !shaped || n == 0 || q.is_empty() || q.len() != out.len() {
        return None;
    }
    // Whole rows, or one that has fewer heads.
    let (rows, used) = if q.len() < width { (1, q.len()) } else { (q.len() / width, width) };
    if q.len() != rows * used || !used.is_multiple_of(dim) {
        return None;
    }
    for (k, v, n) in kv {
        let end = if n == 0 { 0 } else { (n - 1).checked_mul(width)?.checked_add(used)? };
        if k.len() < end || v.len() < end {
            return None;
        }
    }
    let fits = (scratch.scores.len() / n).min(ROWS);
    if fits == 0 {
        return None;
    }
    for h in 0..used / dim {
        let parts = kv.map(|(k, v, n)| {
            // Without keys there is nothing to point to.
            let at = if n == 0 { 0 } else { h * dim };
            // SAFETY: a part with keys reaches to the end of its last row, as checked.
            unsafe { Part { k: k.as_ptr().add(at), v: v.as_ptr().add(at), n, width } }
        });
        for first in (0..rows).step_by(fits) {
            let block = fits.min(rows - first);
            let at = first * width + h * dim;
            let q = q.get(at..at + (block - 1) * width + dim)?;
            let out = out.get_mut(at..at + (block - 1) * width + dim)?;
            let scores = scratch.scores.get_mut(..block * n)?;
            let mut r = 0;
            while r < block {
                // SAFETY: rows r.. of the block are inside `q` and `out`, `width` apart, and have n
                // scores each; the parts hold their keys and values.
                r += unsafe {
                    let (q, out) = (q.as_ptr().add(r * width), out.as_mut_ptr().add(r * width));
                    let scores = scores.as_mut_ptr().add(r * n);
                    match block - r {
                        4.. => rows_of::<T, 4, 2>(&parts, q, scores, n, dim, out),
                        3 => rows_of::<T, 3, 3>(&parts, q, scores, n, dim, out),
                        2 => rows_of::<T, 2, 4>(&parts, q, scores, n, dim, out),
                        _ => rows_of::<T, 1, 8>(&parts, q, scores, n, dim, out),
                    }
                };
            }
        }
    }
    Some(())
}

/// One head of R rows; values by C eights of channels at once.
///
/// # Safety
/// AVX2 and F16C. R queries of `dim` (whole eights), the parts' `width` apart; R times `n` scores, the
/// keys of all parts; R outputs like the queries.
#[target_feature(enable = "avx2,f16c")]
unsafe fn rows_of<T: Weight, const R: usize, const C: usize>(
    parts: &[Part<T>; 2],
    q: *const f32,
    scores: *mut f32,
    n: usize,
    dim: usize,
    out: *mut f32,
) -> usize {
    let mut before = 0;
    for part in parts {
        // SAFETY: the caller's promises; the scores of this part begin at `before`.
        unsafe {
            let mut j = 0;
            while j < part.n {
                let to = scores.add(before + j);
                // The rows two by two: four keys for each are eight sums, and what they read.
                if part.n - j >= KEYS {
                    let mut r = 0;
                    while r < R {
                        let (q, to) = (q.add(r * part.width), to.add(r * n));
                        r += if R - r >= 2 {
                            score::<T, 2, KEYS>(part, j, q, dim, to, n)
                        } else {
                            score::<T, 1, KEYS>(part, j, q, dim, to, n)
                        };
                    }
                    j += KEYS;
                } else {
                    score::<T, R, 1>(part, j, q, dim, to, n);
                    j += 1;
                }
            }
        }
        before += part.n;
    }
    for r in 0..R {
        // SAFETY: row r has n scores.
        let row = unsafe { core::slice::from_raw_parts_mut(scores.add(r * n), n) };
        numerators(row);
    }
    let mut c = 0;
    while c < dim {
        // SAFETY: the caller's promises; the channels from c on are inside the head.
        c += unsafe {
            if dim - c >= 8 * C {
                weigh::<T, R, C>(parts, c, scores, n, out)
            } else {
                weigh::<T, R, 1>(parts, c, scores, n, out)
            }
        };
    }
    R
}

/// Scores of R rows with K keys (1 or 4) from `j` on.
///
/// # Safety
/// As [`rows_of`]; `to` is where the first row's score of key j goes.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn score<T: Weight, const R: usize, const K: usize>(
    part: &Part<T>,
    j: usize,
    q: *const f32,
    dim: usize,
    to: *mut f32,
    n: usize,
) -> usize {
    let mut acc = [[_mm256_setzero_ps(); K]; R];
    for c in (0..dim).step_by(8) {
        let mut keys = [_mm256_setzero_ps(); K];
        for (i, key) in keys.iter_mut().enumerate() {
            // SAFETY: eight channels of key j + i.
            *key = unsafe { T::load(part.k.add((j + i) * part.width + c)) };
        }
        for (r, acc) in acc.iter_mut().enumerate() {
            // SAFETY: eight channels of row r.
            let q = unsafe { _mm256_loadu_ps(q.add(r * part.width + c)) };
            for (acc, &key) in acc.iter_mut().zip(&keys) {
                *acc = _mm256_add_ps(*acc, _mm256_mul_ps(q, key));
            }
        }
    }
    for (r, acc) in acc.iter().enumerate() {
        // The tree: l0 + l4 and so on, then with two lanes to the right, then with one.
        let fold = |a: __m256| _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
        // SAFETY: K places.
        unsafe {
            let to = to.add(r * n);
            if let &[a, b, c, d] = &acc[..] {
                let (a, b, c, d) = (fold(a), fold(b), fold(c), fold(d));
                let (ab, ab2) = (_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
                let (cd, cd2) = (_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
                let (ab, cd) = (_mm_add_ps(ab, ab2), _mm_add_ps(cd, cd2));
                let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
                let odd = _mm_shuffle_ps::<0b11_01_11_01>(ab, cd);
                _mm_storeu_ps(to, _mm_add_ps(even, odd));
            } else {
                for (i, &a) in acc.iter().enumerate() {
                    let a = fold(a);
                    let a = _mm_add_ps(a, _mm_movehl_ps(a, a));
                    let a = _mm_add_ss(a, _mm_movehdup_ps(a));
                    _mm_store_ss(to.add(i), a);
                }
            }
        }
    }
    R
}

/// Softmax of a row, in place.
#[target_feature(enable = "avx2,f16c")]
fn numerators(row: &mut [f32]) {
    let total = softmax(row);
    for p in row {
        *p /= total;
    }
}

/// Channels `c..c + 8 C` of R outputs.
///
/// # Safety
/// As [`rows_of`]; the channels are inside the head; `p` holds R rows of n weights.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn weigh<T: Weight, const R: usize, const C: usize>(
    parts: &[Part<T>; 2],
    c: usize,
    p: *const f32,
    n: usize,
    out: *mut f32,
) -> usize {
    let mut acc = [[_mm256_setzero_ps(); C]; R];
    let mut before = 0;
    for part in parts {
        for j in 0..part.n {
            let mut values = [_mm256_setzero_ps(); C];
            for (i, value) in values.iter_mut().enumerate() {
                // SAFETY: eight channels of value j.
                *value = unsafe { T::load(part.v.add(j * part.width + c + 8 * i)) };
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                // SAFETY: row r has n weights, j of this part among them.
                let p = _mm256_set1_ps(unsafe { p.add(r * n + before + j).read() });
                for (acc, &value) in acc.iter_mut().zip(&values) {
                    *acc = _mm256_add_ps(*acc, _mm256_mul_ps(p, value));
                }
            }
        }
        before += part.n;
    }
    for (r, acc) in acc.iter().enumerate() {
        for (i, &acc) in acc.iter().enumerate() {
            // SAFETY: eight channels of output r.
            unsafe { _mm256_storeu_ps(out.add(r * parts[0].width + c + 8 * i), acc) };
        }
    }
    8 * C
}
