//! Products of 4-bit weights, AVX2 and AVX-512 VNNI.
//!
//! Halves of a byte stand for `w + 8`, so that they are the unsigned side of `vpmaddubsw` and
//! `vpdpbusd`. A group of 32 inputs starts at `-8 * sum(a)`, from a table per row; after that its sum
//! fits i16, and one multiplication by the group scale brings it into the i32 sums.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use varmint_core::ops::{Packed4, Taps};

/// Starts kept at once, on the stack: 16 KiB.
const STARTS: usize = 4096;
/// Rows that share one unpacking of the weights, at most.
const BLOCK: usize = 128;

/// A product whose shapes were checked against its slices.
struct Product<'a> {
    x: Taps<'a, i8>,
    row_scale: &'a [f32],
    w: Packed4<'a>,
    /// Groups of 32 inputs.
    blocks: usize,
    /// Groups of 8 output channels.
    groups: usize,
}

impl<'a> Product<'a> {
    /// `None` if a slice is shorter than the shapes say, or a row is more than one run.
    fn new(x: Taps<'a, i8>, row_scale: &'a [f32], w: Packed4<'a>, out: &[f32]) -> Option<Self> {
        let (n, k) = (w.bias.len(), x.seg_len);
        let (blocks, groups) = (k / 32, n.div_ceil(8));
        let end = x.rows.checked_sub(1)?.checked_mul(x.stride)?.checked_add(k)?;
        let fits = x.segs == 1
            && n > 0
            && (1..=STARTS).contains(&blocks)
            && k.is_multiple_of(32)
            && end <= x.data.len()
            && groups.checked_mul(4 * k)? <= w.w.len()
            && groups.checked_mul(8 * blocks)? <= w.group.len()
            && 8 * groups <= w.scale.len()
            && x.rows.checked_mul(n)? <= out.len()
            && (row_scale.len() == 1 || x.rows <= row_scale.len());
        fits.then_some(Self { x, row_scale, w, blocks, groups })
    }

    /// The inputs of row `m`.
    fn row(&self, m: usize) -> &'a [i8] {
        &self.x.data[m * self.x.stride..][..32 * self.blocks]
    }

    /// The weights of group `g`, 128 bytes per 32 inputs.
    fn weights(&self, g: usize) -> &'a [u8] {
        &self.w.w[128 * self.blocks * g..][..128 * self.blocks]
    }

    /// Their group scales, 8 per 32 inputs.
    fn scales(&self, g: usize) -> &'a [i8] {
        &self.w.group[8 * self.blocks * g..][..8 * self.blocks]
    }

    /// Writes the 8 channels of group `g` of row `m`, fewer at the end.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn store(&self, m: usize, g: usize, sums: __m256i, out: &mut [f32]) {
        let n = self.w.bias.len();
        let bias = &self.w.bias[8 * g..n.min(8 * g + 8)];
        let out = &mut out[m * n + 8 * g..][..bias.len()];
        let scale = &self.w.scale[8 * g..][..8];
        let sx = self.row_scale.get(m).or(self.row_scale.first()).copied().unwrap_or(0.0);
        // SAFETY: there are 8 scales; of outputs and biases 8 where they are read as 8.
        unsafe {
            let scale = _mm256_mul_ps(_mm256_set1_ps(sx), _mm256_loadu_ps(scale.as_ptr()));
            let y = _mm256_mul_ps(_mm256_cvtepi32_ps(sums), scale);
            if bias.len() == 8 {
                let y = _mm256_add_ps(y, _mm256_loadu_ps(bias.as_ptr()));
                _mm256_storeu_ps(out.as_mut_ptr(), y);
            } else {
                let y: [f32; 8] = core::mem::transmute(y);
                for ((o, y), b) in out.iter_mut().zip(y).zip(bias) {
                    *o = y + b;
                }
            }
        }
    }
}

/// `-8 * sum(a)` for every 32 inputs of a row: of the first and second of every four in the low half,
/// of the others in the high half.
#[target_feature(enable = "avx2")]
fn starts(row: &[i8], out: &mut [i32]) {
    for (o, a) in out.iter_mut().zip(row.as_chunks::<32>().0) {
        // SAFETY: a chunk holds 32 values.
        let a = unsafe { _mm256_loadu_si256(a.as_ptr().cast()) };
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(8), a);
        let sum =
            _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256::<1>(pairs));
        let sum = _mm_add_epi16(sum, _mm_srli_si128::<8>(sum));
        let sum = _mm_add_epi16(sum, _mm_srli_si128::<4>(sum));
        *o = _mm_cvtsi128_si32(_mm_sub_epi16(_mm_setzero_si128(), sum));
    }
}

/// As [`starts`], of all 32 inputs.
#[target_feature(enable = "avx2")]
fn whole_starts(row: &[i8], out: &mut [i32]) {
    starts(row, out);
    for o in out {
        *o = (*o as i16 as i32) + (*o >> 16);
    }
}

/// Rows `first..first + MR`: `32 * blocks` inputs and `blocks` starts each.
#[derive(Clone, Copy)]
struct Rows<const MR: usize> {
    first: usize,
    a: [*const i8; MR],
    start: [*const i32; MR],
}

impl<const MR: usize> Rows<MR> {
    /// Rows from `m` on; `start` holds those of rows `block..`.
    #[inline(always)]
    fn new(p: &Product<'_>, m: usize, block: usize, start: &[i32]) -> Self {
        let mut r = Self { first: m, a: [core::ptr::null(); MR], start: [core::ptr::null(); MR] };
        for i in 0..MR {
            r.a[i] = p.row(m + i).as_ptr();
            r.start[i] = start[(m + i - block) * p.blocks..][..p.blocks].as_ptr();
        }
        r
    }
}

/// See `varmint_core::Ops::gemm_i4`; `None` where the slices do not hold what the shapes say.
#[target_feature(enable = "avx2")]
pub(super) fn avx2(
    x: Taps<'_, i8>,
    row_scale: &[f32],
    w: Packed4<'_>,
    out: &mut [f32],
) -> Option<()> {
    let p = Product::new(x, row_scale, w, out)?;
    let mut table = [0i32; STARTS];
    let block = (STARTS / p.blocks).min(BLOCK);
    for first in (0..x.rows).step_by(block) {
        let end = x.rows.min(first + block);
        for (m, start) in (first..end).zip(table.chunks_exact_mut(p.blocks)) {
            starts(p.row(m), start);
        }
        if end - first >= SHARE {
            panels(&p, first, end, &table, out);
            continue;
        }
        if end - first <= 2 {
            // Few rows wait for memory, which is read fastest as one stream.
            for g in 0..p.groups {
                match end - first {
                    2 => direct::<2, 1>(&p, Rows::new(&p, first, first, &table), g, out),
                    _ => direct::<1, 1>(&p, Rows::new(&p, first, first, &table), g, out),
                };
            }
            continue;
        }
        for g in (0..p.groups).step_by(2) {
            let mut m = first;
            while m < end {
                m += match end - m {
                    4.. => direct::<4, 2>(&p, Rows::new(&p, m, first, &table), g, out),
                    3 => direct::<3, 2>(&p, Rows::new(&p, m, first, &table), g, out),
                    2 => direct::<2, 2>(&p, Rows::new(&p, m, first, &table), g, out),
                    _ => direct::<1, 2>(&p, Rows::new(&p, m, first, &table), g, out),
                };
            }
        }
    }
    Some(())
}

/// The scales of 8 channels, each twice as i16.
///
/// # Safety
/// 8 readable bytes; AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn twice(scales: *const i8) -> __m256i {
    // SAFETY: the caller's.
    let wide = _mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(scales.cast()) });
    let low = _mm_setr_epi32(0x0100_0100, 0x0504_0504, 0x0908_0908, 0x0D0C_0D0C);
    _mm256_shuffle_epi8(wide, _mm256_broadcastsi128_si256(low))
}

/// Rows of a tile times NG channel groups from `g` on, unpacked in registers.
#[inline]
#[target_feature(enable = "avx2")]
fn direct<const MR: usize, const NG: usize>(
    p: &Product<'_>,
    r: Rows<MR>,
    g: usize,
    out: &mut [f32],
) -> usize {
    let (mut w, mut scales) = ([p.weights(g); NG], [p.scales(g); NG]);
    for j in 1..NG {
        // A group beyond the last is the last again.
        let g = (g + j).min(p.groups - 1);
        (w[j], scales[j]) = (p.weights(g), p.scales(g));
    }
    let mask = _mm256_set1_epi8(15);
    let mut acc = [[_mm256_setzero_si256(); NG]; MR];
    for b in 0..p.blocks {
        let mut sum = [[_mm256_setzero_si256(); NG]; MR];
        // SAFETY: every row has `32 * blocks` inputs and `blocks` starts, every group `128 * blocks`
        // bytes and `8 * blocks` scales, and `b` is below `blocks`.
        unsafe {
            for (sum, start) in sum.iter_mut().zip(r.start) {
                *sum = [_mm256_set1_epi32(*start.add(b)); NG];
            }
            for j in 0..4 {
                let mut low = [mask; NG];
                let mut high = low;
                for c in 0..NG {
                    let both = _mm256_loadu_si256(w[c].as_ptr().add(128 * b + 32 * j).cast());
                    low[c] = _mm256_and_si256(both, mask);
                    high[c] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                }
                for (step, w) in [(2 * j, low), (2 * j + 1, high)] {
                    for (sum, a) in sum.iter_mut().zip(r.a) {
                        let a = a.add(32 * b + 4 * step).cast::<i32>();
                        let a = _mm256_set1_epi32(a.read_unaligned());
                        for (sum, w) in sum.iter_mut().zip(w) {
                            *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, a));
                        }
                    }
                }
            }
            let mut scale = [mask; NG];
            for (scale, scales) in scale.iter_mut().zip(scales) {
                *scale = twice(scales.as_ptr().add(8 * b));
            }
            for (acc, sum) in acc.iter_mut().zip(sum) {
                for ((acc, sum), scale) in acc.iter_mut().zip(sum).zip(scale) {
                    *acc = _mm256_add_epi32(*acc, _mm256_madd_epi16(sum, scale));
                }
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        for (g, acc) in (g..p.groups).zip(acc) {
            p.store(r.first + i, g, acc, out);
        }
    }
    MR
}

/// Rows from which on a panel of weights is unpacked once for all.
const SHARE: usize = 24;
/// Blocks of 32 inputs that are unpacked at once: 18 KiB, which stay in the first cache.
const DEPTH: usize = 32;
/// 16 channels times 32 inputs, unpacked, and their scales.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
struct Unpacked {
    /// `[step][group]`.
    w: [[__m256i; 2]; 8],
    scale: [__m256i; 2],
}

/// Rows `first..end` over all channels, by panels of 16 channels.
#[target_feature(enable = "avx2")]
fn panels(p: &Product<'_>, first: usize, end: usize, table: &[i32], out: &mut [f32]) {
    let mut room = [const { MaybeUninit::<Unpacked>::uninit() }; DEPTH];
    let mut sums = [[_mm256_setzero_si256(); 2]; BLOCK];
    for g in (0..p.groups).step_by(2) {
        sums[..end - first].fill([_mm256_setzero_si256(); 2]);
        for from in (0..p.blocks).step_by(DEPTH) {
            let n = (p.blocks - from).min(DEPTH);
            let panel = unpack(p, g, from, &mut room[..n]);
            let mut m = first;
            while m < end {
                let sums = &mut sums[m - first..];
                m += match end - m {
                    4.. => tile::<4>(Rows::new(p, m, first, table), from, panel, sums),
                    3 => tile::<3>(Rows::new(p, m, first, table), from, panel, sums),
                    2 => tile::<2>(Rows::new(p, m, first, table), from, panel, sums),
                    _ => tile::<1>(Rows::new(p, m, first, table), from, panel, sums),
                };
            }
        }
        for (m, sums) in (first..end).zip(sums) {
            for (g, sums) in (g..p.groups).zip(sums) {
                p.store(m, g, sums, out);
            }
        }
    }
}

/// Unpacks the two groups from `g` on, blocks `from..from + room.len()`; a group beyond the last is the
/// last again.
#[target_feature(enable = "avx2")]
fn unpack<'r>(
    p: &Product<'_>,
    g: usize,
    from: usize,
    room: &'r mut [MaybeUninit<Unpacked>],
) -> &'r [Unpacked] {
    let gs = [g, (g + 1).min(p.groups - 1)];
    let w = [p.weights(gs[0]), p.weights(gs[1])];
    let scales = [p.scales(gs[0]), p.scales(gs[1])];
    let mask = _mm256_set1_epi8(15);
    let mut n = 0;
    for (b, to) in (from..p.blocks).zip(room.iter_mut()) {
        // SAFETY: `b` is below `blocks`, and a group has 128 bytes and 8 scales for each.
        unsafe {
            let scale =
                [twice(scales[0].as_ptr().add(8 * b)), twice(scales[1].as_ptr().add(8 * b))];
            let mut u = Unpacked { w: [[mask; 2]; 8], scale };
            for (c, w) in w.into_iter().enumerate() {
                for j in 0..4 {
                    let both = _mm256_loadu_si256(w.as_ptr().add(128 * b + 32 * j).cast());
                    u.w[2 * j][c] = _mm256_and_si256(both, mask);
                    u.w[2 * j + 1][c] = _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask);
                }
            }
            to.write(u);
        }
        n += 1;
    }
    // SAFETY: the first `n` were written just now.
    unsafe { room[..n].assume_init_ref() }
}

/// Adds the products of an unpacked panel, whose first block is `from`, to the sums of the rows.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const MR: usize>(
    r: Rows<MR>,
    from: usize,
    panel: &[Unpacked],
    sums: &mut [[__m256i; 2]],
) -> usize {
    let sums = &mut sums[..MR];
    for (b, u) in (from..).zip(panel) {
        let mut sum = [[_mm256_setzero_si256(); 2]; MR];
        // SAFETY: `b` is below the panel's length, for which inputs and starts were cut above.
        unsafe {
            for (sum, start) in sum.iter_mut().zip(r.start) {
                *sum = [_mm256_set1_epi32(*start.add(b)); 2];
            }
            for (step, w) in u.w.iter().enumerate() {
                for (sum, a) in sum.iter_mut().zip(r.a) {
                    let a = a.add(32 * b + 4 * step).cast::<i32>();
                    let a = _mm256_set1_epi32(a.read_unaligned());
                    for (sum, &w) in sum.iter_mut().zip(w) {
                        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, a));
                    }
                }
            }
        }
        for (total, sum) in sums.iter_mut().zip(sum) {
            for ((total, sum), scale) in total.iter_mut().zip(sum).zip(u.scale) {
                *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, scale));
            }
        }
    }
    MR
}

/// See `varmint_core::Ops::gemm_i4`; `None` as above.
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub(super) fn vnni(
    x: Taps<'_, i8>,
    row_scale: &[f32],
    w: Packed4<'_>,
    out: &mut [f32],
) -> Option<()> {
    if x.rows <= 2 {
        return avx2(x, row_scale, w, out); // which reads the weights as one stream
    }
    let p = Product::new(x, row_scale, w, out)?;
    let mut table = [0i32; STARTS];
    let block = (STARTS / p.blocks).min(BLOCK);
    for first in (0..x.rows).step_by(block) {
        let end = x.rows.min(first + block);
        for (m, start) in (first..end).zip(table.chunks_exact_mut(p.blocks)) {
            whole_starts(p.row(m), start);
        }
        for g in (0..p.groups).step_by(2) {
            let mut m = first;
            while m < end {
                m += match end - m {
                    12.. => wide::<12>(&p, Rows::new(&p, m, first, &table), g, out),
                    8.. => wide::<8>(&p, Rows::new(&p, m, first, &table), g, out),
                    4.. => wide::<4>(&p, Rows::new(&p, m, first, &table), g, out),
                    2.. => wide::<2>(&p, Rows::new(&p, m, first, &table), g, out),
                    _ => wide::<1>(&p, Rows::new(&p, m, first, &table), g, out),
                };
            }
        }
    }
    Some(())
}

/// Rows of a tile times the two channel groups from `g` on, side by side in a register.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn wide<const MR: usize>(p: &Product<'_>, r: Rows<MR>, g: usize, out: &mut [f32]) -> usize {
    let gs = [g, (g + 1).min(p.groups - 1)];
    let w = [p.weights(gs[0]), p.weights(gs[1])];
    let scales = [p.scales(gs[0]), p.scales(gs[1])];
    let mask = _mm512_set1_epi8(15);
    let mut acc = [_mm512_setzero_si512(); MR];
    for b in 0..p.blocks {
        let mut sum = [_mm512_setzero_si512(); MR];
        // SAFETY: every row has `32 * blocks` inputs and `blocks` starts, every group `128 * blocks`
        // bytes and `8 * blocks` scales, and `b` is below `blocks`.
        unsafe {
            for (sum, start) in sum.iter_mut().zip(r.start) {
                *sum = _mm512_set1_epi32(*start.add(b));
            }
            for j in 0..4 {
                let x = _mm256_loadu_si256(w[0].as_ptr().add(128 * b + 32 * j).cast());
                let y = _mm256_loadu_si256(w[1].as_ptr().add(128 * b + 32 * j).cast());
                let both = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(x), y);
                let low = _mm512_and_si512(both, mask);
                let high = _mm512_and_si512(_mm512_srli_epi16::<4>(both), mask);
                for (step, w) in [(2 * j, low), (2 * j + 1, high)] {
                    for (sum, a) in sum.iter_mut().zip(r.a) {
                        let a = a.add(32 * b + 4 * step).cast::<i32>();
                        let a = _mm512_set1_epi32(a.read_unaligned());
                        *sum = _mm512_dpbusd_epi32(*sum, w, a);
                    }
                }
            }
            // A sum fits the low half of its lane; the scale's high half is zero.
            let x = _mm_loadl_epi64(scales[0].as_ptr().add(8 * b).cast());
            let y = _mm_loadl_epi64(scales[1].as_ptr().add(8 * b).cast());
            let scale = _mm256_cvtepi8_epi16(_mm_unpacklo_epi64(x, y));
            let scale = _mm512_cvtepu16_epi32(scale);
            for (acc, sum) in acc.iter_mut().zip(sum) {
                *acc = _mm512_dpwssd_epi32(*acc, sum, scale);
            }
        }
    }
    for (i, acc) in acc.into_iter().enumerate() {
        let halves = [_mm512_castsi512_si256(acc), _mm512_extracti64x4_epi64::<1>(acc)];
        for (g, half) in (g..p.groups).zip(halves) {
            p.store(r.first + i, g, half, out);
        }
    }
    MR
}
