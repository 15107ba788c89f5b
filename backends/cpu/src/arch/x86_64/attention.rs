//! Attention over the int8 cache: a block of query rows at once, so that what it takes to read a key or a
//! value (widening, transposing, its scale) serves all of them. Keys are turned so that a lane is a key,
//! which leaves no sums across lanes.

use core::arch::x86_64::*;

use half::f16;
use varmint_core::num::tree;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::scalar::{prob_levels, quantize_i8, quantize_levels, row_scale};

/// Largest head.
pub(super) const MAX_DIM: usize = 64;
/// Most query rows of a block.
pub(super) const ROWS: usize = 16;
/// Keys of a step: lanes of the widest register.
pub(super) const STEP: usize = 16;

/// One part of the keys and values, and one head in it. Slices hold `n` rows of `width`, or of `heads`
/// scales; `n` is not 0.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub(super) k: &'a [i8],
    pub(super) v: &'a [i8],
    pub(super) ks: &'a [f16],
    pub(super) vs: &'a [f16],
    pub(super) n: usize,
    /// Keys before this part.
    pub(super) before: usize,
    pub(super) width: usize,
    pub(super) dim: usize,
    pub(super) heads: usize,
    pub(super) head: usize,
}

impl Part<'_> {
    /// Sixteen scales of the head from key `j` on, the last one again beyond the end.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    pub(super) fn scales(&self, scales: &[f16], j: usize) -> [__m256; 2] {
        let mut bits = [0u16; STEP];
        for (i, b) in bits.iter_mut().enumerate() {
            let at = (j + i).min(self.n - 1) * self.heads + self.head;
            *b = scales.get(at).map_or(0, |s| s.to_bits());
        }
        let [low, high] = [0, 8].map(|i| {
            // SAFETY: there are 16 values.
            unsafe { _mm_loadu_si128(bits.as_ptr().add(i).cast()) }
        });
        [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
    }

    /// Where the head's channels of sixteen keys from `j` on begin in `k`; those of the last key for those beyond.
    #[inline]
    pub(super) fn keys(&self, j: usize) -> [usize; STEP] {
        let first = self.head * self.dim;
        core::array::from_fn(|i| (j + i).min(self.n - 1) * self.width + first)
    }
}

/// The rows of a block, one head.
pub(super) struct Block {
    pub(super) rows: usize,
    /// The quantized queries as a kernel wants them.
    pub(super) words: [[i32; MAX_DIM / 2]; ROWS],
    /// Their scales.
    pub(super) scale: [f32; ROWS],
    /// Largest score, by lane.
    pub(super) max: [[f32; STEP]; ROWS],
}

/// The numbers of a softmax.
pub(super) struct Sums {
    /// Sums of the numerators.
    pub(super) total: [f32; ROWS],
    /// Largest |numerator times scale of its value|.
    pub(super) largest: [f32; ROWS],
}

/// What differs between instruction sets.
pub(super) trait Kernel {
    /// Lays a query out for `scores`.
    fn arrange(query: &[i8], words: &mut [i32; MAX_DIM / 2]);

    /// Scores of a part, `stride` from row to row, and their maxima.
    ///
    /// # Safety
    /// The instructions; `scores` holds `block.rows` rows of `stride`, which reach beyond the part; `dim`
    /// is a multiple of 16 within `MAX_DIM`.
    unsafe fn scores(part: &Part<'_>, block: &mut Block, scores: *mut f32, stride: usize);

    /// Scores to numerators times scale of their value.
    ///
    /// # Safety
    /// The instructions; `scores` holds `block.rows` rows of `n`, the keys of all parts.
    unsafe fn softmax(parts: &[Part<'_>], block: &Block, scores: *mut f32, n: usize) -> Sums;

    /// Rounds a row.
    ///
    /// # Safety
    /// The instructions.
    unsafe fn levels(x: &[f32], inverse: f32, levels: f32, out: &mut [i16]);

    /// `out[r] = sum_j probs[r, j] v[j] * factor[r]`.
    ///
    /// # Safety
    /// The instructions; `probs` holds `rows` rows of `n`, the keys of all parts; `out` has `dim` places
    /// in each of `rows` rows that lie `width` apart.
    unsafe fn values(
        parts: &[Part<'_>],
        rows: usize,
        probs: *const i16,
        n: usize,
        factor: &[f32; ROWS],
        out: *mut f32,
    );
}

/// See `varmint_core::Ops::attend`; `None` for other storage, for heads that are not 16, 32, 48 or 64
/// channels wide, and where the slices do not hold what the shapes say.
#[target_feature(enable = "avx2,f16c")]
pub(super) fn attend_i8<K: Kernel>(
    heads: Heads,
    q: &[f32],
    kv: [(Kv<'_>, usize); 2],
    scratch: &mut Scratch<'_>,
    out: &mut [f32],
) -> Option<()> {
    let Heads { width, dim } = heads;
    let n = kv[0].1.checked_add(kv[1].1)?;
    let shaped = dim > 0 && dim <= MAX_DIM && dim.is_multiple_of(16) && width.is_multiple_of(dim);
    if !shaped || width == 0 || n == 0 || !q.len().is_multiple_of(width) || out.len() != q.len() {
        return None;
    }
    let n_heads = width / dim;
    let mut parts = [None; 2];
    let mut before = 0;
    for (part, (kv, n)) in parts.iter_mut().zip(kv) {
        let Kv::I8 { k, v, ks, vs } = kv else { return None };
        let (values, scales) = (n.checked_mul(width)?, n.checked_mul(n_heads)?);
        if k.len() < values || v.len() < values || ks.len() < scales || vs.len() < scales {
            return None;
        }
        *part = Some(Part { k, v, ks, vs, n, before, width, dim, heads: n_heads, head: 0 });
        before += n;
    }
    let [Some(past), Some(now)] = parts else { return None };
    let mut parts = [past, now];
    // Parts without keys are not handed on.
    let parts = match (past.n, now.n) {
        (0, _) => parts.get_mut(1..)?,
        (_, 0) => parts.get_mut(..1)?,
        _ => &mut parts[..],
    };
    let rows = q.len() / width;
    let fits = (scratch.scores.len() / n).min(scratch.probs.len() / n).min(ROWS);
    let query = scratch.query.get_mut(..dim)?;
    if fits == 0 {
        return None;
    }
    let mut block = Block {
        rows: 0,
        words: [[0; MAX_DIM / 2]; ROWS],
        scale: [0.0; ROWS],
        max: [[f32::MIN; STEP]; ROWS],
    };
    let levels = prob_levels(n) as f32;
    for h in 0..n_heads {
        for part in parts.iter_mut() {
            part.head = h;
        }
        for first in (0..rows).step_by(fits) {
            block.rows = fits.min(rows - first);
            block.max = [[f32::MIN; STEP]; ROWS];
            let at = first * width + h * dim;
            for (r, (words, scale)) in
                block.words.iter_mut().zip(&mut block.scale).enumerate().take(block.rows)
            {
                *scale = quantize_i8(q.get(at + r * width..)?.get(..dim)?, query);
                K::arrange(query, words);
            }
            let scores = scratch.scores.get_mut(..block.rows * n)?;
            let probs = scratch.probs.get_mut(..block.rows * n)?;
            for part in parts.iter() {
                // SAFETY: instructions: whoever chose K. `scores` holds the block's rows of n keys.
                unsafe { K::scores(part, &mut block, scores.as_mut_ptr(), n) };
            }
            // SAFETY: as above.
            let sums = unsafe { K::softmax(parts, &block, scores.as_mut_ptr(), n) };
            let mut factor = [0.0; ROWS];
            for (r, (x, probs)) in
                scores.chunks_exact(n).zip(probs.chunks_exact_mut(n)).enumerate().take(ROWS)
            {
                let total = if sums.total[r] > 0.0 { sums.total[r] } else { 1.0 };
                let (step, inverse) = row_scale(sums.largest[r], levels);
                // SAFETY: as above.
                unsafe { K::levels(x, inverse, levels, probs) };
                factor[r] = step / total;
            }
            let out = out.get_mut(at..at + (block.rows - 1) * width + dim)?;
            // SAFETY: as above; `out` reaches to the end of the head in the last row.
            unsafe {
                K::values(parts, block.rows, probs.as_ptr(), n, &factor, out.as_mut_ptr());
            }
        }
    }
    Some(())
}

/// AVX2: pairs of 16 bits.
pub(super) struct Pairs;

impl Kernel for Pairs {
    /// Words of 2 x 16 bits: channels 0 and 2 of four, then 1 and 3.
    fn arrange(query: &[i8], words: &mut [i32; MAX_DIM / 2]) {
        let pair = |a: i8, b: i8| a as i16 as u16 as i32 | (b as i32) << 16;
        for (w, &[a, b, c, d]) in words.as_chunks_mut::<2>().0.iter_mut().zip(query.as_chunks().0) {
            *w = [pair(a, c), pair(b, d)];
        }
    }

    unsafe fn scores(part: &Part<'_>, block: &mut Block, scores: *mut f32, stride: usize) {
        // SAFETY: the caller's promises.
        unsafe { scores_avx2(part, block, scores, stride) };
    }

    unsafe fn softmax(parts: &[Part<'_>], block: &Block, scores: *mut f32, n: usize) -> Sums {
        // SAFETY: the caller's promises.
        unsafe { softmax_avx2(parts, block, scores, n) }
    }

    unsafe fn levels(x: &[f32], inverse: f32, levels: f32, out: &mut [i16]) {
        #[target_feature(enable = "avx2")]
        fn levels_avx2(x: &[f32], inverse: f32, levels: f32, out: &mut [i16]) {
            quantize_levels(x, inverse, levels, out);
        }
        // SAFETY: the caller's promises.
        unsafe { levels_avx2(x, inverse, levels, out) }
    }

    unsafe fn values(
        parts: &[Part<'_>],
        rows: usize,
        probs: *const i16,
        n: usize,
        factor: &[f32; ROWS],
        out: *mut f32,
    ) {
        // SAFETY: the caller's promises.
        unsafe { values_avx2(parts, 0, rows, probs, n, factor, out) };
    }
}

/// See `Kernel::scores`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn scores_avx2(part: &Part<'_>, block: &mut Block, scores: *mut f32, stride: usize) {
    let mut keys = [[_mm256_setzero_si256(); 2]; MAX_DIM / 2];
    for j in (0..part.n).step_by(STEP) {
        let at = part.keys(j);
        for (half, at) in at.as_chunks::<8>().0.iter().enumerate() {
            for (c, keys) in keys.as_chunks_mut::<8>().0.iter_mut().enumerate().take(part.dim / 16)
            {
                let mut four = [_mm256_setzero_si256(); 4];
                for (i, four) in four.iter_mut().enumerate() {
                    // SAFETY: 16 channels of the head of a key that is there.
                    let [low, high] = [at[i], at[i + 4]].map(|at| unsafe {
                        _mm_loadu_si128(part.k.as_ptr().add(at + 16 * c).cast())
                    });
                    *four = _mm256_set_m128i(high, low);
                }
                let [a, b, c, d] = four;
                let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
                let (ab2, cd2) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
                let fours = [
                    _mm256_unpacklo_epi64(ab, cd),
                    _mm256_unpackhi_epi64(ab, cd),
                    _mm256_unpacklo_epi64(ab2, cd2),
                    _mm256_unpackhi_epi64(ab2, cd2),
                ];
                for (keys, four) in keys.as_chunks_mut::<2>().0.iter_mut().zip(fours) {
                    keys[0][half] = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(four));
                    keys[1][half] = _mm256_srai_epi16::<8>(four);
                }
            }
        }
        let scale = part.scales(part.ks, j);
        let keys = &keys[..part.dim / 2];
        let left = (part.n - j).min(STEP);
        let mut r = 0;
        while r < block.rows {
            // SAFETY: the caller's promises; `left` keys of the part remain.
            unsafe {
                let scores = scores.add(r * stride + part.before + j);
                if block.rows - r >= 4 {
                    score_rows::<4>(keys, scale, block, r, scores, stride, left);
                    r += 4;
                } else {
                    score_rows::<1>(keys, scale, block, r, scores, stride, left);
                    r += 1;
                }
            }
        }
    }
}

/// Scores of up to 16 keys for rows `r..r + N`.
///
/// # Safety
/// AVX2; N rows from r on are in the block, `scores` has `left` places in each, `stride` apart.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn score_rows<const N: usize>(
    keys: &[[__m256i; 2]],
    scale: [__m256; 2],
    block: &mut Block,
    r: usize,
    scores: *mut f32,
    stride: usize,
    left: usize,
) {
    let mut acc = [[_mm256_setzero_si256(); 2]; N];
    let (Some(words), Some(row_scale), Some(max)) =
        (block.words.get(r..r + N), block.scale.get(r..r + N), block.max.get_mut(r..r + N))
    else {
        return;
    };
    for (i, &[k0, k1]) in keys.iter().enumerate().take(MAX_DIM / 2) {
        for (acc, words) in acc.iter_mut().zip(words) {
            let q = _mm256_set1_epi32(words[i]);
            acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(k0, q));
            acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(k1, q));
        }
    }
    for (i, ((acc, &row_scale), max)) in acc.iter().zip(row_scale).zip(max).enumerate() {
        let row_scale = _mm256_set1_ps(row_scale);
        let mut both = [_mm256_setzero_ps(); 2];
        for (h, ((s, &acc), &scale)) in both.iter_mut().zip(acc).zip(&scale).enumerate() {
            *s = _mm256_mul_ps(_mm256_cvtepi32_ps(acc), _mm256_mul_ps(row_scale, scale));
            // SAFETY: 16 floats; lanes beyond `left` repeat the last key.
            unsafe {
                let max = max.as_mut_ptr().add(8 * h);
                _mm256_storeu_ps(max, _mm256_max_ps(*s, _mm256_loadu_ps(max)));
            }
        }
        // SAFETY: the caller's promise.
        unsafe { save(both, scores.add(i * stride), left) };
    }
}

/// Writes `left` of 16 floats.
///
/// # Safety
/// `to` has `left` places; `left <= 16`; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn save(from: [__m256; 2], to: *mut f32, left: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        if left == STEP {
            _mm256_storeu_ps(to, from[0]);
            _mm256_storeu_ps(to.add(8), from[1]);
        } else {
            core::ptr::copy_nonoverlapping(from.as_ptr().cast(), to, left);
        }
    }
}

/// Up to 16 floats, the rest far below any score.
///
/// # Safety
/// `from` has `left` values; `left <= 16`; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const f32, left: usize) -> [__m256; 2] {
    // SAFETY: the caller's promise.
    unsafe {
        if left == STEP {
            [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]
        } else {
            let mut all = [_mm256_set1_ps(f32::MIN); 2];
            core::ptr::copy_nonoverlapping(from, all.as_mut_ptr().cast(), left);
            all
        }
    }
}

/// Largest of some lanes.
#[inline(always)]
pub(super) fn largest<const N: usize>(lanes: &[f32; N], least: f32) -> f32 {
    lanes.iter().fold(least, |m, &v| if v > m { v } else { m })
}

/// The scales of 16 values from key `j` of all parts on.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn value_scales(parts: &[Part<'_>], j: usize) -> [__m256; 2] {
    let mut both = [_mm256_setzero_ps(); 2];
    for part in parts {
        if j >= part.before && j + STEP <= part.before + part.n {
            return part.scales(part.vs, j - part.before);
        }
    }
    // Where parts meet, and at the end.
    let mut bits = [0u16; STEP];
    for (i, b) in bits.iter_mut().enumerate() {
        for part in parts {
            if let Some(j) = (j + i).checked_sub(part.before)
                && j < part.n
            {
                *b = part.vs.get(j * part.heads + part.head).map_or(0, |s| s.to_bits());
            }
        }
    }
    for (o, i) in both.iter_mut().zip([0, 8]) {
        // SAFETY: there are 16 values.
        *o = _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bits.as_ptr().add(i).cast()) });
    }
    both
}

/// `num::exp` of what is not above 88.3 (of numbers less their maximum), eight by eight. The registers go step by step
/// together: one alone would wait for itself.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn exp_avx2<const M: usize>(x: [__m256; M]) -> [__m256; M] {
    let set = |v: f32| _mm256_set1_ps(v);
    let magic = set(12_582_912.0);
    let mut p = [_mm256_setzero_ps(); M];
    let (mut r, mut two_n) = (p, p);
    for i in 0..M {
        // NaN takes the second operand, as in the reference.
        let c = _mm256_max_ps(x[i], set(-87.3));
        let shifted = _mm256_add_ps(_mm256_mul_ps(c, set(core::f32::consts::LOG2_E)), magic);
        let n = _mm256_sub_ps(shifted, magic);
        r[i] = _mm256_sub_ps(
            _mm256_sub_ps(c, _mm256_mul_ps(n, set(0.693_359_4))),
            _mm256_mul_ps(n, set(-2.121_944_4e-4)),
        );
        let bits = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted));
        let bits = _mm256_add_epi32(bits, _mm256_set1_epi32(127 << 23));
        let above = _mm256_cmp_ps::<_CMP_GT_OQ>(x[i], set(-87.3));
        // 0 below, where the product has no other sign: y is not negative.
        two_n[i] = _mm256_and_ps(_mm256_castsi256_ps(bits), above);
        p[i] = set(1.987_569_2e-4);
    }
    for k in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        for i in 0..M {
            p[i] = _mm256_add_ps(_mm256_mul_ps(p[i], r[i]), set(k));
        }
    }
    for i in 0..M {
        let y = _mm256_add_ps(_mm256_mul_ps(p[i], _mm256_mul_ps(r[i], r[i])), r[i]);
        p[i] = _mm256_mul_ps(_mm256_add_ps(y, set(1.0)), two_n[i]);
    }
    p
}

/// A softmax on its way, lane by lane of every row.
struct Lanes {
    max: [f32; ROWS],
    sum: [[f32; 8]; ROWS],
    most: [[f32; 8]; ROWS],
}

impl Lanes {
    /// Sixteen scores of N rows to numerators times `scale`.
    ///
    /// # Safety
    /// AVX2; N rows from `r` on are there, `scores` has 16 places in each, `stride` apart.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn numerators<const N: usize>(
        &mut self,
        r: usize,
        scores: *mut f32,
        stride: usize,
        scale: [__m256; 2],
    ) {
        let (Some(max), Some(sums), Some(mosts)) = (
            self.max.get(r..).and_then(|m| m.first_chunk::<N>()),
            self.sum.get_mut(r..).and_then(|s| s.first_chunk_mut::<N>()),
            self.most.get_mut(r..).and_then(|m| m.first_chunk_mut::<N>()),
        ) else {
            return;
        };
        let sign = _mm256_set1_ps(-0.0);
        for (half, scale) in scale.into_iter().enumerate() {
            let mut x = [_mm256_setzero_ps(); N];
            for i in 0..N {
                // SAFETY: the caller's promise.
                let score = unsafe { _mm256_loadu_ps(scores.add(i * stride + 8 * half)) };
                x[i] = _mm256_sub_ps(score, _mm256_set1_ps(max[i]));
            }
            let p = exp_avx2(x);
            for i in 0..N {
                let w = _mm256_mul_ps(p[i], scale);
                let (sum, most) = (sums[i].as_mut_ptr(), mosts[i].as_mut_ptr());
                // SAFETY: rows are eight lanes long; `scores` as above.
                unsafe {
                    _mm256_storeu_ps(sum, _mm256_add_ps(_mm256_loadu_ps(sum), p[i]));
                    let m = _mm256_max_ps(_mm256_andnot_ps(sign, w), _mm256_loadu_ps(most));
                    _mm256_storeu_ps(most, m);
                    _mm256_storeu_ps(scores.add(i * stride + 8 * half), w);
                }
            }
        }
    }
}

/// See `Kernel::softmax`.
#[target_feature(enable = "avx2,f16c")]
unsafe fn softmax_avx2(parts: &[Part<'_>], block: &Block, scores: *mut f32, n: usize) -> Sums {
    let max = block.max.map(|m| largest(&m, f32::MIN));
    let mut lanes = Lanes { max, sum: [[0.0; 8]; ROWS], most: [[0.0; 8]; ROWS] };
    for j in (0..n).step_by(STEP) {
        let scale = value_scales(parts, j);
        let left = (n - j).min(STEP);
        let mut r = 0;
        while r < block.rows {
            // SAFETY: the caller's promise; `left` keys remain. The buffer has 16 places.
            unsafe {
                let at = scores.add(r * n + j);
                if left == STEP && block.rows - r >= 4 {
                    lanes.numerators::<4>(r, at, n, scale);
                    r += 4;
                } else {
                    let mut buffer = load(at, left);
                    lanes.numerators::<1>(r, buffer.as_mut_ptr().cast(), 0, scale);
                    save(buffer, at, left);
                    r += 1;
                }
            }
        }
    }
    Sums { total: lanes.sum.map(tree), largest: lanes.most.map(|m| largest(&m, 0.0)) }
}

/// Sixteen channels of two values, interleaved: channels 0..4 and 8..12, then 4..8 and 12..16.
type Pair = [__m256i; 2];
/// The values of [`CHUNK`] keys, turned once for all rows: rows of values lie a power of two apart as a
/// rule, and too many of them share the same few places of the first cache to be found there again.
type Chunk = [[Pair; MAX_DIM / 16]; CHUNK / 2];
/// Keys of a chunk, even.
const CHUNK: usize = 64;

/// The channels of the head from `c` on; see `Kernel::values`.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn values_avx2(
    parts: &[Part<'_>],
    c: usize,
    rows: usize,
    probs: *const i16,
    n: usize,
    factor: &[f32; ROWS],
    out: *mut f32,
) {
    let Some(&Part { width, dim, .. }) = parts.first() else { return };
    let zero = _mm256_setzero_si256();
    let mut sums = [[[zero; 2]; MAX_DIM / 16]; ROWS];
    let mut chunk: Chunk = [[[zero; 2]; MAX_DIM / 16]; CHUNK / 2];
    for part in parts {
        for first in (0..part.n).step_by(CHUNK) {
            let keys = CHUNK.min(part.n - first);
            let tiles = (dim - c) / 16;
            let at = first * width + part.head * dim + c;
            // SAFETY: so many channels of the head of keys that are there.
            unsafe {
                let v = part.v.as_ptr().add(at);
                match tiles {
                    1 => turn::<1>(v, width, keys, &mut chunk),
                    2 => turn::<2>(v, width, keys, &mut chunk),
                    3 => turn::<3>(v, width, keys, &mut chunk),
                    _ => turn::<4>(v, width, keys, &mut chunk),
                }
            }
            for tile in 0..tiles {
                let mut r = 0;
                while r < rows {
                    // SAFETY: rows from r on of `probs` have the part's keys.
                    unsafe {
                        let probs = probs.add(r * n + part.before + first);
                        if rows - r >= 4 {
                            add_pairs::<4>(&chunk, tile, keys, probs, n, &mut sums[r..]);
                            r += 4;
                        } else {
                            add_pairs::<1>(&chunk, tile, keys, probs, n, &mut sums[r..]);
                            r += 1;
                        }
                    }
                }
            }
        }
    }
    for (r, (sums, &factor)) in sums.iter().zip(factor).enumerate().take(rows) {
        let factor = _mm256_set1_ps(factor);
        for (at, &[low, high]) in (c..dim).step_by(16).zip(sums) {
            let first = _mm256_permute2x128_si256::<0x20>(low, high);
            let second = _mm256_permute2x128_si256::<0x31>(low, high);
            // SAFETY: 16 places of row r.
            unsafe {
                let out = out.add(r * width + at);
                _mm256_storeu_ps(out, _mm256_mul_ps(_mm256_cvtepi32_ps(first), factor));
                _mm256_storeu_ps(out.add(8), _mm256_mul_ps(_mm256_cvtepi32_ps(second), factor));
            }
        }
    }
}

/// Interleaves the values of two keys at a time, 16 T channels of each.
///
/// # Safety
/// AVX2; `v` has `keys` rows of 16 T channels that lie `width` apart; `keys <= CHUNK`, `T <= MAX_DIM / 16`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn turn<const T: usize>(v: *const i8, width: usize, keys: usize, chunk: &mut Chunk) {
    // SAFETY: the caller's promise.
    let value = |j: usize, t: usize| unsafe {
        _mm256_cvtepi8_epi16(_mm_loadu_si128(v.add(j * width + 16 * t).cast()))
    };
    let pair = |a, b| [_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)];
    for (j, pairs) in chunk.iter_mut().enumerate().take(keys / 2) {
        for (t, to) in pairs.iter_mut().enumerate().take(T) {
            *to = pair(value(2 * j, t), value(2 * j + 1, t));
        }
    }
    if let (true, Some(pairs)) = (keys % 2 == 1, chunk.get_mut(keys / 2)) {
        for (t, to) in pairs.iter_mut().enumerate().take(T) {
            *to = pair(value(keys - 1, t), _mm256_setzero_si256());
        }
    }
}

/// Adds the weighted values of a chunk to 16 channels of N rows.
///
/// # Safety
/// AVX2; `probs` has N rows of `keys` that lie `n` apart, `sums` has N rows.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_pairs<const N: usize>(
    chunk: &Chunk,
    tile: usize,
    keys: usize,
    probs: *const i16,
    n: usize,
    sums: &mut [[Pair; MAX_DIM / 16]],
) {
    let mut acc = [[_mm256_setzero_si256(); 2]; N];
    for (acc, sums) in acc.iter_mut().zip(&*sums) {
        *acc = sums[tile];
    }
    let mut add = |[low, high]: Pair, two: [i32; N]| {
        for (acc, two) in acc.iter_mut().zip(two) {
            let two = _mm256_set1_epi32(two);
            acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(low, two));
            acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(high, two));
        }
    };
    for (j, pairs) in chunk.iter().enumerate().take(keys / 2) {
        // SAFETY: a pair of every row.
        let two = |i| unsafe { probs.add(i * n + 2 * j).cast::<i32>().read_unaligned() };
        add(pairs[tile], core::array::from_fn(two));
    }
    if let (true, Some(pairs)) = (keys % 2 == 1, chunk.get(keys / 2)) {
        // SAFETY: the last weight of every row.
        let one = |i| unsafe { *probs.add(i * n + keys - 1) as u16 as i32 };
        add(pairs[tile], core::array::from_fn(one));
    }
    for (acc, sums) in acc.iter().zip(sums) {
        sums[tile] = *acc;
    }
}
