//! Attention over float and half-float caches, in the reference's order: a score has eight lanes and a
//! tree, a value takes its keys one after the other.
//!
//! The rows of a head lie as far apart as tokens do, a power of two as a rule: no cache holds many of them, and
//! each is in a page of its own. Blocks of rows work on copies, whose numbers are operands in memory as in
//! `float.rs`; a few rows are done before a copy would be.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use varmint_core::num::tree;
use varmint_core::ops::{Heads, Kv, Scratch};

use super::attention::{exp_avx2, largest};
use super::float::{Weight, trees};

/// Most query rows of a block.
const ROWS: usize = 16;
/// Fewest rows for which keys and values are copied, if these fill one copy, and most channels of their heads.
const COPY: usize = 4;
const DIM: usize = 128;
/// Keys of a copy, and eights of values: with the queries 30 KiB of stack.
const KEYS: usize = 12;
const VALUES: usize = 512;
/// How many keys or values ahead of the copied one are fetched.
const AHEAD: usize = 8;
/// Keys of a step where nothing is copied.
const STEP: usize = 4;

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
            if block >= COPY && n >= KEYS && dim <= DIM {
                // SAFETY: as many rows of the block are inside `q` and `out`, `width` apart, and have n
                // scores each; the parts hold their keys and values.
                unsafe {
                    let (q, out) = (q.as_ptr(), out.as_mut_ptr());
                    rows_by_copies(&parts, (q, block, dim), (scores.as_mut_ptr(), n), out);
                }
                continue;
            }
            let mut r = 0;
            while r < block {
                // SAFETY: as above, from row r on.
                r += unsafe {
                    let (q, out) = (q.as_ptr().add(r * width), out.as_mut_ptr().add(r * width));
                    let scores = scores.as_mut_ptr().add(r * n);
                    match block - r {
                        3.. => rows_of::<T, 3, 3>(&parts, q, scores, n, dim, out),
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
                if part.n - j >= STEP {
                    let mut r = 0;
                    while r < R {
                        let (q, to) = (q.add(r * part.width), to.add(r * n));
                        r += if R - r >= 2 {
                            score::<T, 2, STEP>(part, j, q, dim, to, n)
                        } else {
                            score::<T, 1, STEP>(part, j, q, dim, to, n)
                        };
                    }
                    j += STEP;
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
        // SAFETY: K places.
        unsafe {
            let to = to.add(r * n);
            if let &[a, b, c, d] = &acc[..] {
                _mm_storeu_ps(to, trees([a, b, c, d]));
            } else {
                for (i, &a) in acc.iter().enumerate() {
                    _mm_store_ss(to.add(i), trees([a; 4]));
                }
            }
        }
    }
    R
}

/// Softmax of a row, in place.
#[target_feature(enable = "avx2,f16c")]
fn numerators(row: &mut [f32]) {
    // SAFETY: eight numbers.
    let load = |x: &[f32; 8]| unsafe { _mm256_loadu_ps(x.as_ptr()) };
    let save = |x: &mut [f32; 8], p| {
        // SAFETY: eight places.
        unsafe { _mm256_storeu_ps(x.as_mut_ptr(), p) }
    };
    let (eights, rest) = row.as_chunks_mut::<8>();
    let most = eights.iter().fold(_mm256_set1_ps(f32::MIN), |m, x| _mm256_max_ps(load(x), m));
    let mut lanes = [0.0; 8];
    save(&mut lanes, most);
    let max = rest.iter().fold(largest(&lanes, f32::MIN), |m, &s| if s > m { s } else { m });

    let max = _mm256_set1_ps(max);
    let mut sums = _mm256_setzero_ps();
    let (fours, ones) = eights.as_chunks_mut::<4>();
    for four in fours {
        let p = exp_avx2(four.each_ref().map(|x| _mm256_sub_ps(load(x), max)));
        for (x, p) in four.iter_mut().zip(p) {
            sums = _mm256_add_ps(sums, p);
            save(x, p);
        }
    }
    for x in ones {
        let [p] = exp_avx2([_mm256_sub_ps(load(x), max)]);
        sums = _mm256_add_ps(sums, p);
        save(x, p);
    }
    save(&mut lanes, sums);
    let mut last = [0.0; 8];
    for (last, &x) in last.iter_mut().zip(rest.iter()) {
        *last = x;
    }
    let [p] = exp_avx2([_mm256_sub_ps(load(&last), max)]);
    save(&mut last, p);
    for ((x, lane), p) in rest.iter_mut().zip(&mut lanes).zip(last) {
        *lane += p;
        *x = p;
    }
    let total = tree(lanes);
    let total = if total > 0.0 { total } else { 1.0 };
    let totals = _mm256_set1_ps(total);
    for x in eights {
        save(x, _mm256_div_ps(load(x), totals));
    }
    for x in rest {
        *x /= total;
    }
}

/// One head of a block of rows, with keys and values copied a few at a time.
///
/// # Safety
/// AVX2 and F16C. As [`rows_of`], with at most [`ROWS`] rows and [`DIM`] channels.
#[target_feature(enable = "avx2,f16c")]
unsafe fn rows_by_copies<T: Weight>(
    parts: &[Part<T>; 2],
    (q, rows, dim): (*const f32, usize, usize),
    (scores, n): (*mut f32, usize),
    out: *mut f32,
) {
    let (width, eights, zero) = (parts[0].width, dim / 8, _mm256_setzero_ps());
    let mut queries = [MaybeUninit::<__m256>::uninit(); ROWS * DIM / 8];
    for (r, row) in queries.chunks_exact_mut(eights).take(rows).enumerate() {
        for (c, to) in row.iter_mut().enumerate() {
            // SAFETY: eight channels of row r.
            to.write(unsafe { _mm256_loadu_ps(q.add(r * width + 8 * c)) });
        }
    }
    let mut keys = [MaybeUninit::<[__m256; KEYS]>::uninit(); DIM / 8];
    let keys = keys[..eights].as_mut_ptr().cast::<[__m256; KEYS]>();
    let mut before = 0;
    for part in parts {
        for j in (0..part.n).step_by(KEYS) {
            let count = KEYS.min(part.n - j);
            for i in 0..KEYS {
                let from = part.k.wrapping_add((j + i) * width);
                fetch(from.wrapping_add(AHEAD * width), dim);
                for c in 0..eights {
                    // SAFETY: eight channels of key j + i, if there is one; one of the eights of `keys`.
                    unsafe {
                        let key = if i < count { T::load(from.add(8 * c)) } else { zero };
                        (&raw mut (*keys.add(c))[i]).write(key);
                    }
                }
            }
            for r in 0..rows {
                // SAFETY: row r was copied, and has scores for `count` keys from here on.
                unsafe {
                    let q = queries.as_ptr().add(r * eights).cast::<__m256>();
                    let keys = core::slice::from_raw_parts(keys, eights);
                    copied_score(q, keys, scores.add(r * n + before + j), count);
                }
            }
        }
        before += part.n;
    }
    for r in 0..rows {
        // SAFETY: row r has n scores.
        numerators(unsafe { core::slice::from_raw_parts_mut(scores.add(r * n), n) });
    }
    let mut values = [MaybeUninit::<__m256>::uninit(); VALUES];
    let (at_once, mut before) = (VALUES / eights, 0);
    for part in parts {
        for j in (0..part.n).step_by(at_once) {
            let count = at_once.min(part.n - j);
            for (i, value) in values.chunks_exact_mut(eights).take(count).enumerate() {
                let from = part.v.wrapping_add((j + i) * width);
                fetch(from.wrapping_add(AHEAD * width), dim);
                for (c, to) in value.iter_mut().enumerate() {
                    // SAFETY: eight channels of value j + i.
                    to.write(unsafe { T::load(from.add(8 * c)) });
                }
            }
            for r in 0..rows {
                let mut c = 0;
                while c < eights {
                    // SAFETY: `count` values were copied; row r has weights for them from here on.
                    c += unsafe {
                        let v = (values.as_ptr().add(c).cast::<__m256>(), eights, count);
                        let p = scores.add(r * n + before + j);
                        let to = out.add(r * width + 8 * c);
                        match eights - c {
                            8.. => copied_values::<8>(v, p, to, before + j == 0),
                            4.. => copied_values::<4>(v, p, to, before + j == 0),
                            _ => copied_values::<1>(v, p, to, before + j == 0),
                        }
                    };
                }
            }
        }
        before += part.n;
    }
}

/// Asks for the lines of one key or value, which need not be there.
#[inline]
fn fetch<T>(from: *const T, dim: usize) {
    for line in (0..dim * size_of::<T>()).step_by(64) {
        // SAFETY: a hint; nothing is read.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast::<i8>().wrapping_add(line)) }
    }
}

/// Scores of one row with the first `count` of the copied keys.
///
/// # Safety
/// `q` points to as many eights as the keys have, `to` to `count` places; AVX2.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn copied_score(q: *const __m256, keys: &[[__m256; KEYS]], to: *mut f32, count: usize) {
    let mut acc = [_mm256_setzero_ps(); KEYS];
    for (c, keys) in keys.iter().enumerate() {
        // SAFETY: the caller's.
        let q = unsafe { q.add(c).read() };
        for (acc, &key) in acc.iter_mut().zip(keys) {
            *acc = _mm256_add_ps(*acc, _mm256_mul_ps(q, key));
        }
    }
    let [a, b, c, d, e, f, g, h, i, j, k, l] = acc;
    let scores = [trees([a, b, c, d]), trees([e, f, g, h]), trees([i, j, k, l])];
    // SAFETY: the caller's.
    unsafe {
        if count == KEYS {
            to.cast::<[__m128; 3]>().write_unaligned(scores);
        } else {
            let scores: [f32; KEYS] = core::mem::transmute(scores);
            for (i, score) in scores.into_iter().enumerate().take(count) {
                to.add(i).write(score);
            }
        }
    }
}

/// Adds `count` values, C eights of channels of each, to the output of a row.
///
/// # Safety
/// `v` points to the values, `stride` eights apart, `p` to their weights and `to` to the output, which holds a
/// sum unless these values are the first; AVX2.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn copied_values<const C: usize>(
    (v, stride, count): (*const __m256, usize, usize),
    p: *const f32,
    to: *mut f32,
    first: bool,
) -> usize {
    let mut acc = [_mm256_setzero_ps(); C];
    let step = |acc: &mut [__m256; C], j: usize| {
        // SAFETY: value j and its weight.
        let (v, p) = unsafe { (&*v.add(j * stride).cast::<[__m256; C]>(), p.add(j).read()) };
        let p = _mm256_set1_ps(p);
        for (acc, &v) in acc.iter_mut().zip(v) {
            *acc = _mm256_add_ps(*acc, _mm256_mul_ps(p, v));
        }
    };
    if !first {
        for (c, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller's.
            *acc = unsafe { _mm256_loadu_ps(to.add(8 * c)) };
        }
    }
    for j in 0..count / 2 {
        step(&mut acc, 2 * j);
        step(&mut acc, 2 * j + 1);
    }
    if count % 2 > 0 {
        step(&mut acc, count - 1);
    }
    for (c, &acc) in acc.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { _mm256_storeu_ps(to.add(8 * c), acc) };
    }
    C
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
