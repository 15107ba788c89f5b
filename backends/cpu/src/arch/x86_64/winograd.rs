//! Exact integer Winograd convolution: F(4x4, 3x3) for 8-bit inputs, F(2x2, 3x3) for 12-bit ones.
//!
//! `V = B'dB` of the inputs and `U = G g G'` of the weights are integers that fit i16 (G is scaled to
//! integers), their products are summed per position of the transform by `vpmaddwd` or `vpdpwssd`, and
//! `A' M A` gives a multiple of the convolution modulo 2^32: 576 Y = 2^6 * 9 Y for F(4x4), 4 Y for
//! F(2x2). All of that is ring arithmetic, so wrapping is harmless; 9 has an inverse modulo 2^32, and what
//! is left is a shift, exact as long as the multiple of Y fits an i32. That is what [`is_exact`] checks.
//!
//! Matrices: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015.

use core::arch::x86_64::*;

use varmint_core::ops::{Packed, Strip};

/// Output channels that are transformed and multiplied together.
const BLOCK: usize = 16;

/// Tiles whose products are held at once.
const GROUP: usize = 16;

/// Most tiles that are transformed at once: beyond, their transform leaves the second cache.
const MAX_TILES: usize = 128;

/// Fewest: below, the transform of the weights costs more than it saves.
const MIN_TILES: usize = 8;

/// Fewest channels on either side.
pub(super) const FEWEST: usize = 16;

/// The same where the direct 8-bit product is `vpdpbusd`, which multiplies twice as many as `vpdpwssd`: what
/// is saved must pay for the transforms too.
pub(super) const FEWEST_VNNI: usize = 128;

/// 9^-1 modulo 2^32.
const NINTH: i32 = 0x38E3_8E39;

/// `out[t, n] = sum_c v[t, c] u[c, n]` for all tiles of `v`, [`BLOCK`] channels: v is `[tiles][C]`, u
/// `[C / 2][BLOCK][2]`, out `[tiles][BLOCK]`.
pub(super) type Gemm = unsafe fn(v: &[i16], channels: usize, u: &[i16], out: &mut [i32]);

/// Inputs of a convolution.
pub(super) trait Input: Copy {
    /// Largest input.
    const MAX: i64;

    /// 16 of them as i16.
    ///
    /// # Safety
    /// AVX2.
    unsafe fn load(from: &[Self; 16]) -> __m256i;
}

impl Input for i8 {
    const MAX: i64 = 127;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: &[Self; 16]) -> __m256i {
        // SAFETY: 16 bytes.
        unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.as_ptr().cast())) }
    }
}

impl Input for i16 {
    const MAX: i64 = 2047;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load(from: &[Self; 16]) -> __m256i {
        // SAFETY: 32 bytes.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }
}

/// See `varmint_core::Ops::conv_i8` and `conv_i12`: tiles of A x A inputs and (A - 2) x (A - 2) outputs, 6 for
/// 8 bits and 4 for 12. `None` below `fewest` channels and where else it does not pay or is not exact, and where
/// the slices do not hold what the shapes say.
///
/// # Safety
/// The processor has what `gemm` needs.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn conv<T: Input, const A: usize>(
    x: Strip<'_, T>,
    scale: f32,
    w: Packed<'_>,
    scratch: &mut [i32],
    out: &mut [f32],
    (gemm, fewest): (Gemm, usize),
) -> Option<()> {
    let (c, n, side) = (x.channels, w.bias.len(), A - 2);
    let (across, down) = (x.width.div_ceil(side), x.rows.div_ceil(side));
    // Tiles beyond the rim are work for nothing.
    let pays = 2 * across * down * side * side <= 3 * x.width * x.rows;
    let shaped = c.min(n) >= fewest && c.is_multiple_of(16) && n.is_multiple_of(BLOCK);
    if !shaped || !pays || across * down < MIN_TILES {
        return None;
    }
    let (inputs, weights) = ((x.rows + 2).checked_mul(x.line())?, n.checked_mul(9 * c)?);
    let outputs = x.rows.checked_mul(x.width)?.checked_mul(n)?;
    if x.data.len() < inputs || w.w.len() < weights || w.scale.len() < n || out.len() < outputs {
        return None;
    }
    if !is_exact::<T, A>(w, c) {
        return None;
    }
    let (u, rest) = scratch.split_at_mut_checked(A * A * c * BLOCK / 2)?;
    let (sums, v) = rest.split_at_mut_checked(A * A * GROUP * BLOCK)?;
    let (u, v) = (bytemuck::cast_slice_mut::<_, i16>(u), bytemuck::cast_slice_mut::<_, i16>(v));
    let most = (v.len() / (A * A * c)).min(MAX_TILES);
    if most < MIN_TILES {
        return None;
    }
    // Pieces of equal size: a short last one would pay for the weights as much as the others.
    let pieces = (across * down).div_ceil(most);
    let most = (across * down).div_ceil(pieces);
    for first in (0..across * down).step_by(most) {
        let tiles = (across * down - first).min(most);
        let at = |t: usize| ((first + t) / across * side, (first + t) % across * side);
        for t in 0..tiles {
            transform_input::<T, A>(x, at(t), v.get_mut(t * c..)?, tiles * c);
        }
        for block in 0..n / BLOCK {
            transform_weights::<A>(w.w.get(block * BLOCK * 9 * c..)?, c, u);
            for group in (0..tiles).step_by(GROUP) {
                let some = (tiles - group).min(GROUP);
                let positions = sums.chunks_exact_mut(GROUP * BLOCK).zip(u.chunks_exact(c * BLOCK));
                for (p, (sums, u)) in positions.enumerate() {
                    let v = v.get((p * tiles + group) * c..)?.get(..some * c)?;
                    // SAFETY: the caller's promise.
                    unsafe { gemm(v, c, u, sums.get_mut(..some * BLOCK)?) };
                }
                let channels = Channels { n, block, scale, w };
                for t in 0..some {
                    let sums = sums.get(t * BLOCK..)?;
                    store_tile::<A>(sums, channels, at(group + t), (x.rows, x.width), out);
                }
            }
        }
    }
    Some(())
}

/// Whether the multiple of every output fits an i32 whatever the inputs.
#[target_feature(enable = "avx2")]
fn is_exact<T: Input, const A: usize>(w: Packed<'_>, c: usize) -> bool {
    let factor = if A == 6 { 64 } else { 4 };
    w.w.chunks_exact(8 * 9 * c).all(|group| {
        // Absolute sums of the 8 channels of the group.
        let mut sums = [0i32; 8];
        for w in group.as_chunks::<32>().0 {
            for (sum, four) in sums.iter_mut().zip(w.as_chunks::<4>().0) {
                *sum += four.iter().map(|&w| (w as i32).abs()).sum::<i32>();
            }
        }
        sums.iter().all(|&sum| factor * T::MAX * (sum as i64) < 1 << 31)
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi16(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
fn sub(a: __m256i, b: __m256i) -> __m256i {
    _mm256_sub_epi16(a, b)
}

/// `a * 2^N`.
#[inline]
#[target_feature(enable = "avx2")]
fn shl<const N: i32>(a: __m256i) -> __m256i {
    _mm256_slli_epi16::<N>(a)
}

/// `B' d`, one column.
#[inline]
#[target_feature(enable = "avx2")]
fn inputs<const A: usize>(d: [__m256i; A]) -> [__m256i; A] {
    let mut o = d;
    if A == 6 {
        let (even, odd) = (sub(d[4], shl::<2>(d[2])), sub(d[3], shl::<2>(d[1])));
        let (half, twice) = (sub(d[4], d[2]), shl::<1>(sub(d[3], d[1])));
        // 4 d0 - 5 d2 + d4
        o[0] = add(shl::<2>(sub(d[0], d[2])), sub(d[4], d[2]));
        o[1] = add(even, odd);
        o[2] = sub(even, odd);
        o[3] = add(half, twice);
        o[4] = sub(half, twice);
        // 4 d1 - 5 d3 + d5
        o[5] = add(shl::<2>(sub(d[1], d[3])), sub(d[5], d[3]));
    } else {
        o[0] = sub(d[0], d[2]);
        o[1] = add(d[1], d[2]);
        o[2] = sub(d[2], d[1]);
        o[3] = sub(d[1], d[3]);
    }
    o
}

/// `G g`, one column.
#[inline]
#[target_feature(enable = "avx2")]
fn weights<const A: usize>(g: [__m256i; 3]) -> [__m256i; A] {
    let mut o = [_mm256_setzero_si256(); A];
    let ends = add(g[0], g[2]);
    if A == 6 {
        let (far, twice) = (add(g[0], shl::<2>(g[2])), shl::<1>(g[1]));
        o[0] = g[0];
        o[1] = sub(_mm256_setzero_si256(), add(ends, g[1]));
        o[2] = sub(g[1], ends);
        o[3] = add(far, twice);
        o[4] = sub(far, twice);
        o[5] = g[2];
    } else {
        o[0] = shl::<1>(g[0]);
        o[1] = add(ends, g[1]);
        o[2] = sub(ends, g[1]);
        o[3] = shl::<1>(g[2]);
    }
    o
}

/// The matrix with rows and columns exchanged.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose<const R: usize, const C: usize>(x: [[__m256i; C]; R]) -> [[__m256i; R]; C] {
    let mut o = [[_mm256_setzero_si256(); R]; C];
    for (i, row) in x.iter().enumerate() {
        for (o, &v) in o.iter_mut().zip(row) {
            o[i] = v;
        }
    }
    o
}

/// `V = B'dB` of the tile whose first input is at row `y`, column `x` of the strip: position p goes to
/// `v[p * stride..]`, C values. What lies beyond the strip is zero.
#[target_feature(enable = "avx2")]
fn transform_input<T: Input, const A: usize>(
    strip: Strip<'_, T>,
    (y, x): (usize, usize),
    v: &mut [i16],
    stride: usize,
) {
    let c = strip.channels;
    for at in (0..c).step_by(16) {
        let mut rows = [[_mm256_setzero_si256(); A]; A];
        for (i, row) in rows.iter_mut().enumerate().take(strip.rows + 2 - y) {
            let line = (y + i) * strip.line() + at;
            for (j, d) in row.iter_mut().enumerate().take(strip.width + 2 - x) {
                let from = strip.data.get(line + (x + j) * c..).and_then(|d| d.first_chunk());
                if let Some(from) = from {
                    // SAFETY: AVX2 is this function's own.
                    *d = unsafe { T::load(from) };
                }
            }
            *row = inputs(*row);
        }
        for (j, column) in transpose(rows).into_iter().enumerate() {
            for (i, value) in inputs(column).into_iter().enumerate() {
                if let Some(to) = v.get_mut((A * i + j) * stride + at..) {
                    store(value, to);
                }
            }
        }
    }
}

/// Writes 16 values, if there is room.
#[inline]
#[target_feature(enable = "avx2")]
fn store(value: __m256i, to: &mut [i16]) {
    if let Some(to) = to.first_chunk_mut::<16>() {
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), value) };
    }
}

/// `U = G g G'` of [`BLOCK`] output channels: packed weights `[2][9 C / 4][8][4]` to `[A A][C / 2][16][2]`.
#[target_feature(enable = "avx2")]
fn transform_weights<const A: usize>(w: &[i8], c: usize, u: &mut [i16]) {
    // Of a lane's 4 channels x 4 inputs: inputs 0 and 1 of all, then 2 and 3 of all.
    let pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    ));
    for (half, w) in w.chunks_exact(8 * 9 * c).enumerate().take(2) {
        for quad in 0..c / 4 {
            let mut taps = [[[_mm256_setzero_si256(); 3]; 3]; 2];
            for tap in 0..9 {
                let at = 32 * (tap * (c / 4) + quad);
                let Some(w) = w.get(at..).and_then(|w| w.first_chunk::<32>()) else { return };
                // SAFETY: 32 bytes.
                let w = unsafe { _mm256_loadu_si256(w.as_ptr().cast()) };
                let w = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(w, pairs));
                taps[0][tap / 3][tap % 3] = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(w));
                taps[1][tap / 3][tap % 3] = _mm256_cvtepi8_epi16(_mm256_extracti128_si256::<1>(w));
            }
            for (pair, taps) in taps.into_iter().enumerate() {
                let rows = taps.map(|row| weights::<A>(row));
                for (j, column) in transpose(rows).into_iter().enumerate() {
                    for (i, value) in weights::<A>(column).into_iter().enumerate() {
                        let at =
                            (A * i + j) * c * BLOCK + (2 * quad + pair) * 2 * BLOCK + half * BLOCK;
                        if let Some(to) = u.get_mut(at..) {
                            store(value, to);
                        }
                    }
                }
            }
        }
    }
}

/// Where a block of output channels goes.
#[derive(Clone, Copy)]
struct Channels<'a> {
    n: usize,
    block: usize,
    scale: f32,
    w: Packed<'a>,
}

/// `A' M`, one column; its first A - 2 values count.
#[inline]
#[target_feature(enable = "avx2")]
fn outputs<const A: usize>(m: [__m256i; A]) -> [__m256i; A] {
    let add = |a, b| _mm256_add_epi32(a, b);
    let sub = |a, b| _mm256_sub_epi32(a, b);
    let mut o = m;
    if A == 6 {
        let (a, b, c, d) = (add(m[1], m[2]), sub(m[1], m[2]), add(m[3], m[4]), sub(m[3], m[4]));
        let (b4, d2) = (_mm256_slli_epi32::<2>(b), _mm256_slli_epi32::<1>(d));
        let six = add(_mm256_slli_epi32::<2>(m[0]), _mm256_slli_epi32::<1>(m[0]));
        let three = add(_mm256_slli_epi32::<1>(m[5]), m[5]);
        o[0] = add(six, add(_mm256_slli_epi32::<2>(a), c));
        o[1] = add(b4, d2);
        o[2] = _mm256_slli_epi32::<2>(add(a, c));
        o[3] = add(b4, _mm256_slli_epi32::<3>(add(d, three)));
    } else {
        o[0] = add(add(m[0], m[1]), m[2]);
        o[1] = sub(sub(m[1], m[2]), m[3]);
    }
    o
}

/// `Y = A' M A` of one tile, its scale and bias; writes what is inside the strip.
#[target_feature(enable = "avx2")]
fn store_tile<const A: usize>(
    sums: &[i32],
    to: Channels<'_>,
    (y, x): (usize, usize),
    (rows, width): (usize, usize),
    out: &mut [f32],
) {
    let side = A - 2;
    for half in 0..2 {
        let first = to.block * BLOCK + half * 8;
        let scale = to.w.scale.get(first..).and_then(|s| s.first_chunk::<8>());
        let bias = to.w.bias.get(first..).and_then(|b| b.first_chunk::<8>());
        let (Some(scale), Some(bias)) = (scale, bias) else { return };
        // SAFETY: 32 bytes each.
        let (scale, bias) = unsafe {
            let scale = _mm256_loadu_ps(scale.as_ptr());
            (_mm256_mul_ps(_mm256_set1_ps(to.scale), scale), _mm256_loadu_ps(bias.as_ptr()))
        };
        let mut m = [[_mm256_setzero_si256(); A]; A];
        for (p, m) in m.as_flattened_mut().iter_mut().enumerate() {
            let at = p * GROUP * BLOCK + half * 8;
            let Some(sums) = sums.get(at..).and_then(|s| s.first_chunk::<8>()) else { return };
            // SAFETY: 32 bytes.
            *m = unsafe { _mm256_loadu_si256(sums.as_ptr().cast()) };
        }
        let columns = transpose(m.map(|row| outputs(row)));
        for (j, column) in columns.into_iter().enumerate().take(side.min(width - x)) {
            let column = outputs(column);
            for (i, value) in column.into_iter().enumerate().take(side.min(rows - y)) {
                let value = if A == 6 {
                    let ninth = _mm256_mullo_epi32(value, _mm256_set1_epi32(NINTH));
                    _mm256_srai_epi32::<6>(ninth)
                } else {
                    _mm256_srai_epi32::<2>(value)
                };
                let value = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(value), scale), bias);
                let at = ((y + i) * width + x + j) * to.n + first;
                if let Some(out) = out.get_mut(at..).and_then(|o| o.first_chunk_mut::<8>()) {
                    // SAFETY: 32 bytes.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), value) };
                }
            }
        }
    }
}

/// `acc += w . a`, pairs of i16, a pair of `a` at an address for all lanes. Not the intrinsic: compilers
/// take that apart into a product and a sum, which is slower.
macro_rules! dpwssd {
    ($acc:ident, $w:ident, $address:literal, $($operand:tt)*) => {
        core::arch::asm!(
            concat!("vpdpwssd {acc}, {w}, dword ptr ", $address, "{{1to16}}"),
            acc = inout(zmm_reg) *$acc,
            w = in(zmm_reg) $w,
            $($operand)*,
            options(pure, readonly, nostack, preserves_flags)
        )
    };
}

/// Fixed-size sides of [`Gemm`]: MR tiles.
macro_rules! tiles {
    ($kernel:ident, $v:ident, $channels:ident, $u:ident, $out:ident, [$($mr:literal)*]) => {
        let (mut v, mut out) = ($v, $out);
        let pairs = $channels / 2;
        assert!($u.len() >= pairs * 2 * BLOCK && v.len() * BLOCK <= out.len() * $channels);
        $(
            while v.len() >= $mr * $channels {
                // SAFETY: `v` holds MR rows of 2 * pairs values, `out` (as asserted) MR rows of BLOCK,
                // `u` `pairs` rows of 2 * BLOCK; the features are the caller's own.
                unsafe {
                    $kernel::<$mr>(v.as_ptr(), $channels, pairs, $u.as_ptr(), out.as_mut_ptr());
                }
                v = v.get($mr * $channels..).unwrap_or(&[]);
                out = out.get_mut($mr * BLOCK..).unwrap_or(&mut []);
            }
        )*
    };
}

/// [`Gemm`] with `vpmaddwd`.
#[target_feature(enable = "avx2")]
pub(super) fn gemm_avx2(v: &[i16], channels: usize, u: &[i16], out: &mut [i32]) {
    tiles!(tile_avx2, v, channels, u, out, [6 5 4 2 1]);
}

/// [`Gemm`] with `vpdpwssd`.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn gemm_vnni(v: &[i16], channels: usize, u: &[i16], out: &mut [i32]) {
    tiles!(tile_vnni, v, channels, u, out, [16 8 4 2 1]);
}

/// # Safety
/// `v` holds MR rows of `stride`, at least 2 * `pairs`; `u` holds `pairs` rows of 2 * [`BLOCK`]; `out` has
/// MR rows of [`BLOCK`]; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile_avx2<const MR: usize>(
    v: *const i16,
    stride: usize,
    pairs: usize,
    u: *const i16,
    out: *mut i32,
) {
    let mut acc = [[_mm256_setzero_si256(); 2]; MR];
    for pair in 0..pairs {
        // SAFETY: pair `pair` of every row and of u; see above.
        unsafe {
            let low = _mm256_loadu_si256(u.add(32 * pair).cast());
            let high = _mm256_loadu_si256(u.add(32 * pair + 16).cast());
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = v.add(i * stride + 2 * pair).cast::<i32>().read_unaligned();
                let a = _mm256_set1_epi32(a);
                acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(low, a));
                acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(high, a));
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        // SAFETY: row i of out.
        unsafe {
            _mm256_storeu_si256(out.add(i * BLOCK).cast(), acc[0]);
            _mm256_storeu_si256(out.add(i * BLOCK + 8).cast(), acc[1]);
        }
    }
}

/// # Safety
/// As [`tile_avx2`]; AVX-512 with VNNI.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn tile_vnni<const MR: usize>(
    v: *const i16,
    stride: usize,
    pairs: usize,
    u: *const i16,
    out: *mut i32,
) {
    let mut acc = [_mm512_setzero_si512(); MR];
    // Rows in fours, so that one address and two distances reach each of them.
    let (step, step3) = (2 * stride, 6 * stride);
    for pair in 0..pairs {
        // SAFETY: as in `tile_avx2`.
        unsafe {
            let w = _mm512_loadu_si512(u.add(32 * pair).cast());
            for (four, acc) in acc.chunks_mut(4).enumerate() {
                let a = v.add(4 * four * stride + 2 * pair);
                for (i, acc) in acc.iter_mut().enumerate() {
                    match i {
                        0 => dpwssd!(acc, w, "[{a}]", a = in(reg) a),
                        1 => dpwssd!(acc, w, "[{a} + {s}]", a = in(reg) a, s = in(reg) step),
                        2 => dpwssd!(acc, w, "[{a} + 2 * {s}]", a = in(reg) a, s = in(reg) step),
                        _ => dpwssd!(acc, w, "[{a} + {s}]", a = in(reg) a, s = in(reg) step3),
                    }
                }
            }
        }
    }
    for (i, &acc) in acc.iter().enumerate() {
        // SAFETY: row i of out.
        unsafe { _mm512_storeu_si512(out.add(i * BLOCK).cast(), acc) };
    }
}
