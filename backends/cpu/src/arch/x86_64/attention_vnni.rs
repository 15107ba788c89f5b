//! Attention over the int8 cache with AVX-512 VNNI: scores from four bytes a lane, values from pairs.

use core::arch::x86_64::*;

use varmint_core::num::tree;
use varmint_core::scalar::quantize_levels;

use super::attention::{
    Block, Kernel, MAX_DIM, Part, ROWS, STEP, Sums, largest, value_scales, values_avx2,
};
use super::vnni::dpwssd;

/// AVX-512 VNNI.
pub(super) struct Fours;

impl Kernel for Fours {
    /// Words of four bytes, plus 128: the instruction multiplies unsigned with signed ones.
    fn arrange(query: &[i8], words: &mut [i32; MAX_DIM / 2]) {
        for (w, four) in words.iter_mut().zip(query.as_chunks::<4>().0) {
            *w = i32::from_le_bytes(four.map(|q| q as u8 ^ 0x80));
        }
    }

    unsafe fn scores(part: &Part<'_>, block: &mut Block, scores: *mut f32, stride: usize) {
        // SAFETY: the caller's promises.
        unsafe { scores_vnni(part, block, scores, stride) };
    }

    unsafe fn softmax(parts: &[Part<'_>], block: &Block, scores: *mut f32, n: usize) -> Sums {
        // SAFETY: the caller's promises.
        unsafe { softmax_avx512(parts, block, scores, n) }
    }

    unsafe fn levels(x: &[f32], inverse: f32, levels: f32, out: &mut [i16]) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
        fn levels_avx512(x: &[f32], inverse: f32, levels: f32, out: &mut [i16]) {
            quantize_levels(x, inverse, levels, out);
        }
        // SAFETY: the caller's promises.
        unsafe { levels_avx512(x, inverse, levels, out) }
    }

    unsafe fn values(
        parts: &[Part<'_>],
        rows: usize,
        probs: *const i16,
        n: usize,
        factor: &[f32; ROWS],
        out: *mut f32,
    ) {
        let dim = parts.first().map_or(0, |p| p.dim);
        // SAFETY: the caller's promises; the channels are inside the head.
        unsafe {
            for c in (0..dim / 32 * 32).step_by(32) {
                values_vnni(parts, c, rows, probs, n, factor, out);
            }
            if !dim.is_multiple_of(32) {
                values_avx2(parts, dim - 16, rows, probs, n, factor, out);
            }
        }
    }
}

/// See `Kernel::scores`.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn scores_vnni(part: &Part<'_>, block: &mut Block, scores: *mut f32, stride: usize) {
    let mut keys = [_mm512_setzero_si512(); MAX_DIM / 4];
    for j in (0..part.n).step_by(STEP) {
        // 128 times the sum of a key, which the offset of the queries adds.
        let mut offset = _mm512_setzero_si512();
        let at = part.keys(j);
        for (c, keys) in keys.as_chunks_mut::<4>().0.iter_mut().enumerate().take(part.dim / 16) {
            let mut four = [_mm512_setzero_si512(); 4];
            for (i, four) in four.iter_mut().enumerate() {
                // SAFETY: 16 channels of the head of a key that is there.
                let [k0, k1, k2, k3] = [at[i], at[i + 4], at[i + 8], at[i + 12]]
                    .map(|at| unsafe { _mm_loadu_si128(part.k.as_ptr().add(at + 16 * c).cast()) });
                let (low, high) = (_mm256_set_m128i(k1, k0), _mm256_set_m128i(k3, k2));
                *four = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high);
            }
            let [a, b, c, d] = four;
            let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
            let (ab2, cd2) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
            *keys = [
                _mm512_unpacklo_epi64(ab, cd),
                _mm512_unpackhi_epi64(ab, cd),
                _mm512_unpacklo_epi64(ab2, cd2),
                _mm512_unpackhi_epi64(ab2, cd2),
            ];
            for &k in keys.iter() {
                offset = _mm512_dpbusd_epi32(offset, _mm512_set1_epi8(-128), k);
            }
        }
        let start = _mm512_sub_epi32(_mm512_setzero_si512(), offset);
        let [low, high] = part.scales(part.ks, j);
        let scale = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
        let keys = &keys[..part.dim / 4];
        let left = (part.n - j).min(STEP);
        let mut r = 0;
        while r < block.rows {
            // SAFETY: the caller's promises; `left` keys of the part remain.
            unsafe {
                let scores = scores.add(r * stride + part.before + j);
                if block.rows - r >= 8 {
                    score_rows::<8>(keys, start, scale, block, r, scores, stride, left);
                    r += 8;
                } else if block.rows - r >= 4 {
                    score_rows::<4>(keys, start, scale, block, r, scores, stride, left);
                    r += 4;
                } else {
                    score_rows::<1>(keys, start, scale, block, r, scores, stride, left);
                    r += 1;
                }
            }
        }
    }
}

/// Lanes of the first `left` of 16.
fn first(left: usize) -> __mmask16 {
    (u32::MAX >> (32 - left.clamp(1, STEP))) as __mmask16
}

/// Scores of up to 16 keys for rows `r..r + N`.
///
/// # Safety
/// AVX-512 VNNI; N rows from r on are in the block, `scores` has `left` places in each, `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn score_rows<const N: usize>(
    keys: &[__m512i],
    start: __m512i,
    scale: __m512,
    block: &mut Block,
    r: usize,
    scores: *mut f32,
    stride: usize,
    left: usize,
) {
    let mut acc = [start; N];
    let (Some(words), Some(row_scale), Some(max)) =
        (block.words.get(r..r + N), block.scale.get(r..r + N), block.max.get_mut(r..r + N))
    else {
        return;
    };
    for (i, &k) in keys.iter().enumerate().take(MAX_DIM / 4) {
        for (acc, words) in acc.iter_mut().zip(words) {
            *acc = _mm512_dpbusd_epi32(*acc, _mm512_set1_epi32(words[i]), k);
        }
    }
    for (i, ((&acc, &row_scale), max)) in acc.iter().zip(row_scale).zip(max).enumerate() {
        let scale = _mm512_mul_ps(_mm512_set1_ps(row_scale), scale);
        let s = _mm512_mul_ps(_mm512_cvtepi32_ps(acc), scale);
        // SAFETY: a row of maxima is 16 floats; lanes beyond `left` repeat the last key and are not
        // stored.
        unsafe {
            let m = _mm512_max_ps(s, _mm512_loadu_ps(max.as_ptr()));
            _mm512_storeu_ps(max.as_mut_ptr(), m);
            _mm512_mask_storeu_ps(scores.add(i * stride), first(left), s);
        }
    }
}

/// `num::exp`, sixteen at once.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn exp_avx512(x: __m512) -> __m512 {
    let set = |v: f32| _mm512_set1_ps(v);
    let magic = set(12_582_912.0);
    // NaN takes the second operand, as in the reference.
    let c = _mm512_min_ps(_mm512_max_ps(x, set(-87.3)), set(88.3));
    let shifted = _mm512_add_ps(_mm512_mul_ps(c, set(core::f32::consts::LOG2_E)), magic);
    let n = _mm512_sub_ps(shifted, magic);
    let r = _mm512_sub_ps(
        _mm512_sub_ps(c, _mm512_mul_ps(n, set(0.693_359_4))),
        _mm512_mul_ps(n, set(-2.121_944_4e-4)),
    );
    let mut p = set(1.987_569_2e-4);
    for k in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        p = _mm512_add_ps(_mm512_mul_ps(p, r), set(k));
    }
    let y = _mm512_add_ps(_mm512_mul_ps(p, _mm512_mul_ps(r, r)), r);
    let y = _mm512_add_ps(y, set(1.0));
    let bits = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    let two_n = _mm512_castsi512_ps(_mm512_add_epi32(bits, _mm512_set1_epi32(127 << 23)));
    let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x, set(-87.3));
    _mm512_maskz_mul_ps(above, y, two_n)
}

/// See `Kernel::softmax`.
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn softmax_avx512(parts: &[Part<'_>], block: &Block, scores: *mut f32, n: usize) -> Sums {
    let mut sums = [[0.0f32; 8]; ROWS];
    let mut most = [[0.0f32; STEP]; ROWS];
    let max = block.max.map(|m| largest(&m, f32::MIN));
    for j in (0..n).step_by(STEP) {
        let [low, high] = value_scales(parts, j);
        let scale = _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high);
        let left = (n - j).min(STEP);
        let lanes = sums.iter_mut().zip(&mut most).zip(&max).enumerate();
        for (r, ((sum, most), &max)) in lanes.take(block.rows) {
            // SAFETY: the caller's promise; `left` keys remain. Arrays are as long as what is moved.
            unsafe {
                let at = scores.add(r * n + j);
                let mask = first(left);
                let x = _mm512_maskz_loadu_ps(mask, at);
                let p = exp_avx512(_mm512_sub_ps(x, _mm512_set1_ps(max)));
                let p = _mm512_maskz_mov_ps(mask, p);
                let total = _mm256_loadu_ps(sum.as_ptr());
                let total = _mm256_add_ps(total, _mm512_castps512_ps256(p));
                let total = _mm256_add_ps(total, _mm512_extractf32x8_ps::<1>(p));
                _mm256_storeu_ps(sum.as_mut_ptr(), total);
                let w = _mm512_mul_ps(p, scale);
                let m = _mm512_max_ps(_mm512_abs_ps(w), _mm512_loadu_ps(most.as_ptr()));
                _mm512_storeu_ps(most.as_mut_ptr(), m);
                _mm512_mask_storeu_ps(at, mask, w);
            }
        }
    }
    Sums { total: sums.map(tree), largest: most.map(|m| largest(&m, 0.0)) }
}

/// `acc[0] += low . w`, `acc[1] += high . w` for the pair of weights at `w`.
///
/// # Safety
/// AVX-512 VNNI; `w` points at two weights.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_pair(acc: &mut [__m512i; 2], low: __m512i, high: __m512i, w: *const i16) {
    // SAFETY: reads the two weights.
    let w = _mm512_set1_epi32(unsafe { w.cast::<i32>().read_unaligned() });
    *acc = [dpwssd(acc[0], low, w), dpwssd(acc[1], high, w)];
}

/// 32 channels of the head from `c` on for all rows; see `Kernel::values`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn values_vnni(
    parts: &[Part<'_>],
    c: usize,
    rows: usize,
    probs: *const i16,
    n: usize,
    factor: &[f32; ROWS],
    out: *mut f32,
) {
    let width = parts.first().map_or(0, |p| p.width);
    let mut r = 0;
    while r < rows {
        let Some(factor) = factor.get(r..) else { return };
        // SAFETY: the caller's promises, from row r on.
        unsafe {
            let (probs, out) = (probs.add(r * n), out.add(r * width + c));
            if rows - r >= 8 {
                value_rows::<8>(parts, c, probs, n, factor, out);
                r += 8;
            } else if rows - r >= 4 {
                value_rows::<4>(parts, c, probs, n, factor, out);
                r += 4;
            } else {
                value_rows::<1>(parts, c, probs, n, factor, out);
                r += 1;
            }
        }
    }
}

/// 32 channels of N rows.
///
/// # Safety
/// As `values_vnni`, of N rows.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn value_rows<const N: usize>(
    parts: &[Part<'_>],
    c: usize,
    probs: *const i16,
    n: usize,
    factor: &[f32],
    out: *mut f32,
) {
    let mut acc = [[_mm512_setzero_si512(); 2]; N];
    let mut width = 0;
    for part in parts {
        width = part.width;
        let at = part.head * part.dim + c;
        // SAFETY: 32 channels inside row j of the part.
        let value = |j: usize| unsafe {
            _mm512_cvtepi8_epi16(_mm256_loadu_si256(part.v.as_ptr().add(j * width + at).cast()))
        };
        for j in (0..part.n / 2 * 2).step_by(2) {
            let (a, b) = (value(j), value(j + 1));
            let (low, high) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: row i of `probs` has the part's keys.
                unsafe { add_pair(acc, low, high, probs.add(i * n + part.before + j)) };
            }
        }
        if part.n % 2 == 1 {
            let (a, b) = (value(part.n - 1), _mm512_setzero_si512());
            let (low, high) = (_mm512_unpacklo_epi16(a, b), _mm512_unpackhi_epi16(a, b));
            for (i, acc) in acc.iter_mut().enumerate() {
                // SAFETY: row i of `probs` has the part's keys; the pair is on the stack.
                unsafe {
                    let pair = [*probs.add(i * n + part.before + part.n - 1), 0];
                    add_pair(acc, low, high, pair.as_ptr());
                }
            }
        }
    }
    // Lanes of `low`: channels 0..4, 8..12, 16..20 and 24..28; of `high`, the others.
    let turn = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
    let turn2 = _mm512_add_epi32(turn, _mm512_set1_epi32(8));
    for (i, (&[low, high], &factor)) in acc.iter().zip(factor).enumerate() {
        let factor = _mm512_set1_ps(factor);
        let first = _mm512_permutex2var_epi32(low, turn, high);
        let second = _mm512_permutex2var_epi32(low, turn2, high);
        // SAFETY: 32 places of row i.
        unsafe {
            let out = out.add(i * width);
            _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_cvtepi32_ps(first), factor));
            _mm512_storeu_ps(out.add(16), _mm512_mul_ps(_mm512_cvtepi32_ps(second), factor));
        }
    }
}
