//! Integer products with AVX2.
//!
//! 8 bits: `|w| * sign(a, w)` by `vpmaddubsw`. Weights and inputs are within ±127, so a pair is at most
//! 2 * 127 * 127 = 32258: it cannot saturate. 12 bits: both sides as i16, by `vpmaddwd`.

use core::arch::x86_64::*;

use varmint_core::ops::{Packed, Taps};

use crate::arch::product::Product;

/// Rows of a tile of the wider product.
const TILE: usize = 6;
/// Inputs that are widened at once, on the stack (48 KiB): the wider product is the faster one where
/// several rows share the widening.
const ROOM: usize = 24_576;
/// As many of them as the first cache keeps beside the weights that pass by.
const NEAR: usize = 8192;

/// Inputs of rows, widened: each of them once, also where the segments of neighbours overlap.
struct Widened<'a> {
    x: Taps<'a, i8>,
    /// From row to row of the widened ones.
    stride: usize,
    overlap: bool,
}

impl<'a> Widened<'a> {
    fn new(x: Taps<'a, i8>) -> Option<Self> {
        let overlap = x.stride < x.seg_len;
        let k = x.segs.checked_mul(x.seg_len)?;
        Some(Self { x, stride: if overlap { x.stride } else { k }, overlap })
    }

    /// Places that so many rows take.
    fn places(&self, rows: usize) -> Option<usize> {
        let more = rows.checked_sub(1)?.checked_mul(self.stride)?;
        if self.overlap {
            more.checked_add(self.x.seg_len)?.checked_mul(self.x.segs)
        } else {
            more.checked_add(self.x.k())
        }
    }

    /// Rows of a block: what is near, or a tile; `None` where there is no room for one.
    fn block(&self) -> Option<usize> {
        let tile = self.places(TILE).filter(|&n| n <= ROOM)?;
        let more = NEAR.saturating_sub(tile).checked_div(self.places(TILE + 1)? - tile)?;
        Some((TILE + more) / TILE * TILE)
    }

    /// Rows `first..first + rows`, which are the product's and fit.
    #[target_feature(enable = "avx2")]
    fn rows<'r>(&self, first: usize, rows: usize, room: &'r mut [i16]) -> Option<Taps<'r, i16>> {
        let Taps { segs, seg_len, .. } = self.x;
        let widen = |to: &mut [i16], from: &[i8]| {
            for (o, &v) in to.iter_mut().zip(from) {
                *o = v as i16;
            }
        };
        if !self.overlap {
            for (i, wide) in room.chunks_exact_mut(self.stride).enumerate().take(rows) {
                for (s, wide) in wide.chunks_exact_mut(seg_len).enumerate() {
                    widen(wide, self.x.run(first + i, s));
                }
            }
            return Some(Taps::matrix(room, rows, self.stride));
        }
        let span = (rows - 1) * self.stride + seg_len;
        for (s, wide) in room.chunks_exact_mut(span).enumerate().take(segs) {
            let from = first * self.x.stride + s * self.x.seg_stride;
            widen(wide, self.x.data.get(from..)?);
        }
        let stride = self.stride;
        Some(Taps { data: room, rows, stride, segs, seg_stride: span, seg_len })
    }

    /// The product in blocks of at most so many rows, `N` widened inputs.
    #[target_feature(enable = "avx2")]
    fn gemm<const N: usize>(
        &self,
        block: usize,
        scale: &[f32],
        w: Packed<'_>,
        out: &mut [f32],
    ) -> Option<()> {
        let mut room = [0i16; N];
        let tiles = self.x.rows.div_ceil(TILE);
        for (tile, count) in pieces(tiles, block / TILE) {
            let first = tile * self.x.rows / tiles;
            let rows = (tile + count) * self.x.rows / tiles - first;
            let scale = if scale.len() == 1 { scale } else { scale.get(first..)? };
            let x = self.rows(first, rows, &mut room)?;
            gemm_i12(x, scale, w, out.get_mut(first * w.bias.len()..)?)?;
        }
        Some(())
    }
}

/// `count` in pieces of at most `most`, of nearly one size: their starts and lengths.
fn pieces(count: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let n = count.div_ceil(most).max(1);
    (0..n).map(move |i| (i * count / n, (i + 1) * count / n - i * count / n))
}

/// See `varmint_core::Ops::gemm_i8`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "avx2")]
pub(crate) fn gemm_i8(
    x: Taps<'_, i8>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let wide = Widened::new(x)?;
    if x.rows >= TILE
        && let Some(block) = wide.block()
    {
        // Checks the shapes for all blocks.
        Product::new(x, scale, w, out)?;
        // The smaller room is the sooner cleared one.
        return if wide.places(block.min(x.rows))? <= NEAR {
            wide.gemm::<NEAR>(block, scale, w, out)
        } else {
            wide.gemm::<ROOM>(block, scale, w, out)
        };
    }
    let p = Product::new(x, scale, w, out)?;
    if p.rows() <= 2 {
        // Few rows wait for memory, which is read fastest as one stream.
        for g in 0..p.groups() {
            // SAFETY: `Product::new` checked every row, group and output of the shapes.
            unsafe {
                match p.rows() {
                    2 => tile_i8::<2, 1>(&p, 0, g),
                    _ => tile_i8::<1, 1>(&p, 0, g),
                };
            }
        }
        return Some(());
    }
    for g in (0..p.groups()).step_by(2) {
        let mut m = 0;
        while m < p.rows() {
            // SAFETY: `Product::new` checked every row, group and output of the shapes; the tile's
            // rows and groups are below `rows()` and `groups()`, and AVX2 is this function's own.
            m += unsafe {
                match (p.rows() - m, p.groups() - g) {
                    (4.., 2..) => tile_i8::<4, 2>(&p, m, g),
                    (4.., _) => tile_i8::<4, 1>(&p, m, g),
                    (2.., 2..) => tile_i8::<2, 2>(&p, m, g),
                    (_, 2..) => tile_i8::<1, 2>(&p, m, g),
                    _ => tile_i8::<1, 1>(&p, m, g),
                }
            };
        }
    }
    Some(())
}

/// Rows `m..m + MR`, channel groups `g..g + NG`.
///
/// # Safety
/// The rows and groups are inside the product; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile_i8<const MR: usize, const NG: usize>(
    p: &Product<'_, i8>,
    m: usize,
    g: usize,
) -> usize {
    let ones = _mm256_set1_epi16(1);
    let mut acc = [[_mm256_setzero_si256(); NG]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: the group's and the rows' values of this step lie inside their slices.
            unsafe {
                let mut w = [_mm256_setzero_si256(); NG];
                let mut abs = w;
                for j in 0..NG {
                    if MR <= 2 {
                        p.prefetch(g + j, s, step);
                    }
                    w[j] = _mm256_loadu_si256(p.weights(g + j, s, step).cast());
                    abs[j] = _mm256_abs_epi8(w[j]);
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a =
                        _mm256_set1_epi32(p.input(m + i, s, step).cast::<i32>().read_unaligned());
                    for j in 0..NG {
                        let pairs = _mm256_maddubs_epi16(abs[j], _mm256_sign_epi8(a, w[j]));
                        acc[j] = _mm256_add_epi32(acc[j], _mm256_madd_epi16(pairs, ones));
                    }
                }
            }
        }
    }
    for (i, acc) in acc.iter().enumerate() {
        for (j, &acc) in acc.iter().enumerate() {
            // SAFETY: row and group are inside the product.
            unsafe { store(p, m + i, g + j, acc) };
        }
    }
    MR
}

/// See `varmint_core::Ops::gemm_i12`; `None` as above.
#[target_feature(enable = "avx2")]
pub(crate) fn gemm_i12(
    x: Taps<'_, i16>,
    scale: &[f32],
    w: Packed<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, scale, w, out)?;
    for g in 0..p.groups() {
        for (m, rows) in pieces(p.rows(), TILE) {
            // SAFETY: as in `gemm_i8`; a piece is within the rows and no longer than a tile.
            unsafe {
                match rows {
                    1 => tile_i12::<1>(&p, m, g),
                    2 => tile_i12::<2>(&p, m, g),
                    3 => tile_i12::<3>(&p, m, g),
                    4 => tile_i12::<4>(&p, m, g),
                    5 => tile_i12::<5>(&p, m, g),
                    _ => tile_i12::<TILE>(&p, m, g),
                }
            }
        }
    }
    Some(())
}

/// Rows `m..m + MR` of one group of 8 channels.
///
/// # Safety
/// As [`tile_i8`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile_i12<const MR: usize>(p: &Product<'_, i16>, m: usize, g: usize) {
    // Channels 0..4 and 4..8, two partial sums each.
    let mut acc = [[_mm256_setzero_si256(); 2]; MR];
    for s in 0..p.segs() {
        for step in 0..p.seg_steps() {
            // SAFETY: as in `tile_i8`.
            unsafe {
                if MR <= 2 {
                    p.prefetch(g, s, step);
                }
                let w = p.weights(g, s, step);
                let lo = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.cast()));
                let hi = _mm256_cvtepi8_epi16(_mm_loadu_si128(w.add(16).cast()));
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a =
                        _mm256_set1_epi64x(p.input(m + i, s, step).cast::<i64>().read_unaligned());
                    acc[0] = _mm256_add_epi32(acc[0], _mm256_madd_epi16(lo, a));
                    acc[1] = _mm256_add_epi32(acc[1], _mm256_madd_epi16(hi, a));
                }
            }
        }
    }
    for (i, &[lo, hi]) in acc.iter().enumerate() {
        let sums = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_hadd_epi32(lo, hi));
        // SAFETY: as in `tile_i8`.
        unsafe { store(p, m + i, g, sums) };
    }
}

/// Writes the 8 channels of group `g` of row `m`, fewer at the end.
///
/// # Safety
/// Row and group are inside the product; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) unsafe fn store<T>(p: &Product<'_, T>, m: usize, g: usize, sums: __m256i) {
    let n = p.channels(8 * g).min(8);
    // SAFETY: scales come in eights; output and bias are read and written for `n` channels only.
    unsafe {
        let scale = _mm256_mul_ps(_mm256_set1_ps(p.row_scale(m)), _mm256_loadu_ps(p.scale(8 * g)));
        let y = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
        let to = p.out(m, 8 * g);
        if n == 8 {
            _mm256_storeu_ps(to, _mm256_add_ps(y, _mm256_loadu_ps(p.bias(8 * g))));
        } else {
            let y: [f32; 8] = core::mem::transmute(y);
            for (i, &y) in y.iter().enumerate().take(n) {
                to.add(i).write(y + p.bias(8 * g + i).read());
            }
        }
    }
}
