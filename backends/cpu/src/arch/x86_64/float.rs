//! Float products, in the order of the reference: eight lanes over the inputs, then a tree.
//!
//! Weights are rows, so a tile of outputs is a tile of scalar products. With AVX2 it is one row high: every
//! copied weight is an operand in memory, as loads into registers take the places of additions in the four
//! operations that a Zen starts per cycle.
//! Multiplication and addition stay apart (the integer tiers run these products too, and their bits do
//! not depend on the processor); where the two have units of their own, as on Zen, that costs nothing.

use core::arch::x86_64::*;
use core::mem::MaybeUninit;

use half::f16;
use varmint_core::ops::Taps;

/// Fewest rows for which weights are copied: some channels side by side, in pieces of [`DEPTH`] inputs.
/// Rows of weights lie a power of two apart as a rule, so that a handful of them fights for the same few
/// places of the first cache. Between pieces the lanes of the sums wait in memory: their order stays.
const PACK: usize = 8;
/// Inputs of a piece, a multiple of 8.
const DEPTH: usize = 352;

/// Weights of `C` channels side by side, and the lanes of a row's sums.
type Pack<const C: usize> = [Lanes<C>; DEPTH / 8];
type Lanes<const C: usize> = [__m256; C];

/// As registers of AVX-512 want it.
#[repr(align(64))]
struct Aligned<T>(T);

/// A weight as stored.
pub(super) trait Weight: Copy {
    /// Eight of them.
    ///
    /// # Safety
    /// `from` points to 8 readable ones; AVX2 and F16C.
    unsafe fn load(from: *const Self) -> __m256;

    /// The first `n` of them, zeros after that.
    ///
    /// # Safety
    /// `from` points to `n < 8` readable ones; AVX2 and F16C.
    unsafe fn load_part(from: *const Self, n: usize) -> __m256;

    /// Eight of them, or `n` if that is fewer.
    ///
    /// # Safety
    /// `from` points to as many readable ones; AVX2 and F16C.
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_up_to(from: *const Self, n: usize) -> __m256 {
        // SAFETY: the caller's.
        unsafe { if n >= 8 { Self::load(from) } else { Self::load_part(from, n) } }
    }
}

impl Weight for f32 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's.
        unsafe { _mm256_loadu_ps(from) }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_part(from: *const Self, n: usize) -> __m256 {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane);
        // SAFETY: lanes beyond `n` are not read.
        unsafe { _mm256_maskload_ps(from, mask) }
    }
}

impl Weight for f16 {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(from: *const Self) -> __m256 {
        // SAFETY: the caller's; `f16` is 16 bits.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load_part(from: *const Self, n: usize) -> __m256 {
        let mut all = [f16::ZERO; 8];
        for (i, to) in all.iter_mut().enumerate().take(n) {
            // SAFETY: the caller's.
            *to = unsafe { from.add(i).read() };
        }
        // SAFETY: 16 bytes.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(all.as_ptr().cast()) })
    }
}

/// A product whose shapes were checked against its slices.
struct Product<'a, W> {
    x: Taps<'a, f32>,
    w: &'a [W],
    bias: &'a [f32],
    out: *mut f32,
}

impl<'a, W: Weight> Product<'a, W> {
    fn new(x: Taps<'a, f32>, w: &'a [W], bias: &'a [f32], out: &'a mut [f32]) -> Option<Self> {
        let (n, k) = (bias.len(), x.segs.checked_mul(x.seg_len)?);
        let back = |count: usize, step: usize| count.checked_sub(1)?.checked_mul(step);
        let end = back(x.rows, x.stride)?
            .checked_add(back(x.segs, x.seg_stride)?)?
            .checked_add(x.seg_len)?;
        let fits = n > 0
            && k > 0
            && end <= x.data.len()
            && n.checked_mul(k)? <= w.len()
            && x.rows.checked_mul(n)? <= out.len();
        fits.then_some(Self { x, w, bias, out: out.as_mut_ptr() })
    }

    /// Input `at` of segment `s` of row `m`.
    fn row(&self, m: usize, s: usize, at: usize) -> *const f32 {
        self.x.data.as_ptr().wrapping_add(m * self.x.stride + s * self.x.seg_stride + at)
    }

    /// The weight of channel `n` for that input.
    fn weight(&self, n: usize, s: usize, at: usize) -> *const W {
        self.w.as_ptr().wrapping_add((n * self.x.segs + s) * self.x.seg_len + at)
    }

    /// Copies the weights of inputs `at..at + len` of segment `s` and of C channels from `n` on. Zeros
    /// follow the last input; places of channels that there are not stay as they are.
    ///
    /// # Safety
    /// The inputs and the first channel are the product's; AVX2 and F16C.
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn pack<const C: usize>(
        &self,
        n: usize,
        (s, at, len): (usize, usize, usize),
        to: &mut Pack<C>,
    ) {
        let channels = C.min(self.bias.len() - n);
        let mut at8 = 0;
        for to in to[..len.div_ceil(8)].chunks_mut(2) {
            for j in 0..channels {
                for (i, to) in to.iter_mut().enumerate() {
                    let from = self.weight(n + j, s, at + at8 + i * 8);
                    // SAFETY: weights of the product.
                    to[j] = unsafe { W::load_up_to(from, len - at8 - i * 8) };
                }
            }
            at8 += 16;
        }
    }

    /// Writes outputs of row `m` and channels from `n` on, as many as there are sums or channels.
    ///
    /// # Safety
    /// The first output is the product's; AVX2.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn finish<const C: usize>(&self, m: usize, n: usize, sums: &Lanes<C>) {
        let channels = self.bias.len();
        let (bias, to) =
            (self.bias.as_ptr().wrapping_add(n), self.out.wrapping_add(m * channels + n));
        for i in (0..C).step_by(4) {
            let mut four = [_mm256_setzero_ps(); 4];
            for (four, sum) in four.iter_mut().zip(&sums[i..]) {
                *four = *sum;
            }
            let sums = trees(four);
            let count = (C - i).min(4).min(channels.saturating_sub(n + i));
            // SAFETY: the biases and outputs of `count` channels.
            unsafe {
                if count == 4 {
                    _mm_storeu_ps(to.add(i), _mm_add_ps(sums, _mm_loadu_ps(bias.add(i))));
                } else {
                    let sums: [f32; 4] = core::mem::transmute(sums);
                    for (j, sum) in sums.into_iter().enumerate().take(count) {
                        to.add(i + j).write(sum + bias.add(i + j).read());
                    }
                }
            }
        }
    }
}

/// `varmint_core::num::tree` of four registers.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn trees(of: [__m256; 4]) -> __m128 {
    // l0 + l4 and so on, then with two lanes to the right, then with one.
    let [a, b, c, d] =
        of.map(|l| _mm_add_ps(_mm256_castps256_ps128(l), _mm256_extractf128_ps::<1>(l)));
    let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
    let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
    _mm_add_ps(_mm_shuffle_ps::<0b10_00_10_00>(ab, cd), _mm_shuffle_ps::<0b11_01_11_01>(ab, cd))
}

/// The products of a piece of MR rows with copied weights. A register holds the eights of one channel or,
/// with AVX-512, of two.
macro_rules! packed {
    ($name:ident, $features:literal, $channels:literal, $vec:ty,
     $set:ident, $twice:expr, $mul:ident, $add:ident) => {
        /// Rows from `m` and channels from `n` on; the piece is inputs `at..at + len` of segment `s`. The lanes
        /// wait in `sums` between the pieces.
        ///
        /// # Safety
        /// They are the product's; sums wait for each row unless this is the first piece; the features.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn $name<W: Weight, const MR: usize>(
            p: &Product<'_, W>,
            (m, n): (usize, usize),
            (s, at, len): (usize, usize, usize),
            w: &Pack<$channels>,
            sums: &mut [MaybeUninit<[$vec; $channels * size_of::<__m256>() / size_of::<$vec>()]>],
            (first, last): (bool, bool),
        ) {
            const ALL: usize = $channels * size_of::<__m256>() / size_of::<$vec>();
            let (x, row, w) = (p.row(m, s, at), p.x.stride, w.as_ptr().cast::<[$vec; ALL]>());
            let mut acc = [[$set(); ALL]; MR];
            if !first {
                for (acc, sums) in acc.iter_mut().zip(sums.iter()) {
                    // SAFETY: written by the piece before.
                    *acc = unsafe { sums.assume_init_read() };
                }
            }
            let step = |acc: &mut [[$vec; ALL]; MR], i: usize| {
                // SAFETY: the eights i of the rows and of the weights, which are aligned for their type.
                unsafe {
                    let mut inputs = [$set(); MR];
                    for (m, inputs) in inputs.iter_mut().enumerate() {
                        *inputs = $twice(_mm256_loadu_ps(x.add(m * row + i * 8)));
                    }
                    let w = &*w.add(i);
                    for j in 0..ALL {
                        for (acc, &x) in acc.iter_mut().zip(&inputs) {
                            acc[j] = $add(acc[j], $mul(x, w[j]));
                        }
                    }
                }
            };
            // In twos: to go round costs half a cycle of Zen.
            let eights = len / 8;
            for i in 0..eights / 2 {
                step(&mut acc, 2 * i);
                step(&mut acc, 2 * i + 1);
            }
            if eights % 2 > 0 {
                step(&mut acc, eights - 1);
            }
            if len % 8 > 0 {
                for (m, acc) in acc.iter_mut().enumerate() {
                    // SAFETY: the last inputs of the row, and their weights.
                    unsafe {
                        let x = $twice(f32::load_part(x.add(m * row + eights * 8), len % 8));
                        for (acc, &w) in acc.iter_mut().zip(&*w.add(eights)) {
                            *acc = $add(*acc, $mul(x, w));
                        }
                    }
                }
            }
            // A copy, so that what is walked through in memory is not what the loops add to.
            let lanes = acc;
            for (i, (lanes, sums)) in lanes.iter().zip(sums).enumerate() {
                if last {
                    // SAFETY: outputs of the product; the lanes of so many channels.
                    unsafe { p.finish(m + i, n, &*lanes.as_ptr().cast::<Lanes<$channels>>()) }
                } else {
                    sums.write(*lanes);
                }
            }
        }
    };
}
packed!(
    packed_avx2,
    "avx2,f16c",
    12,
    __m256,
    _mm256_setzero_ps,
    core::convert::identity,
    _mm256_mul_ps,
    _mm256_add_ps
);
packed!(
    packed_avx512,
    "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl",
    16,
    __m512,
    _mm512_setzero_ps,
    _mm512_broadcast_f32x8,
    _mm512_mul_ps,
    _mm512_add_ps
);

/// MR rows from `m` and NR channels from `n` on, with weights as stored.
///
/// # Safety
/// They are the product's; AVX2 and F16C.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn stored<W: Weight, const MR: usize, const NR: usize>(
    p: &Product<'_, W>,
    m: usize,
    n: usize,
) {
    let mut sums = [[_mm256_setzero_ps(); NR]; MR];
    for s in 0..p.x.segs {
        for at in (0..p.x.seg_len).step_by(8) {
            let rest = p.x.seg_len - at;
            let mut w = [_mm256_setzero_ps(); NR];
            for (j, w) in w.iter_mut().enumerate() {
                // SAFETY: a weight of the product.
                *w = unsafe { W::load_up_to(p.weight(n + j, s, at), rest) };
            }
            for (i, sums) in sums.iter_mut().enumerate() {
                // SAFETY: an input of the product.
                let x = unsafe { f32::load_up_to(p.row(m + i, s, at), rest) };
                for (sum, &w) in sums.iter_mut().zip(&w) {
                    *sum = _mm256_add_ps(*sum, _mm256_mul_ps(w, x));
                }
            }
        }
    }
    for (i, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's.
        unsafe { p.finish(m + i, n, sums) }
    }
}

/// Few rows: weights as stored.
#[target_feature(enable = "avx2,f16c")]
fn short<W: Weight>(p: &Product<'_, W>) {
    let mut n = 0;
    while n < p.bias.len() {
        let channels = if p.bias.len() - n >= 4 { 4 } else { 1 };
        for m in (0..p.x.rows).step_by(2) {
            // SAFETY: rows and channels of the product.
            unsafe {
                match (p.x.rows - m, channels) {
                    (1, 1) => stored::<W, 1, 1>(p, m, n),
                    (1, _) => stored::<W, 1, 4>(p, m, n),
                    (_, 1) => stored::<W, 2, 1>(p, m, n),
                    _ => stored::<W, 2, 4>(p, m, n),
                }
            }
        }
        n += channels;
    }
}

/// A product in tiles of so many rows. At most $rows of them pass while weights are in their place: the
/// copies and sums take 70 KiB of stack. Bytes $ahead of the next row are fetched ahead.
macro_rules! gemm {
    ($(#[$doc:meta])* $gemm:ident, $features:literal, $channels:literal, $packed:ident, [$mr:literal $($few:literal)*], $rows:literal, [$($ahead:literal)*]) => {
        $(#[$doc])*
        #[target_feature(enable = $features)]
        pub(super) fn $gemm<W: Weight>(
            x: Taps<'_, f32>,
            w: &[W],
            bias: &[f32],
            out: &mut [f32],
        ) -> Option<()> {
            let p = Product::new(x, w, bias, out)?;
            if x.rows < PACK {
                short(&p);
                return Some(());
            }
            let mut pack: Aligned<Pack<$channels>> =
                Aligned([[_mm256_setzero_ps(); $channels]; DEPTH / 8]);
            let mut sums = Aligned([MaybeUninit::uninit(); $rows]);
            for m in (0..x.rows).step_by($rows) {
                let sums = &mut sums.0[..$rows.min(x.rows - m)];
                for n in (0..bias.len()).step_by($channels) {
                    for s in 0..x.segs {
                        for at in (0..x.seg_len).step_by(DEPTH) {
                            let len = DEPTH.min(x.seg_len - at);
                            let ends = (s + at == 0, s + 1 == x.segs && at + len == x.seg_len);
                            let piece = (s, at, len);
                            // SAFETY: inputs and channels of the product.
                            unsafe { p.pack(n, piece, &mut pack.0) }
                            for (i, sums) in sums.chunks_mut($mr).enumerate() {
                                let to = (m + i * $mr, n);
                                $(
                                    let ahead = p.row(m + (i + 1) * $mr, s, at).cast::<i8>();
                                    _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add($ahead));
                                )*
                                // SAFETY: as many rows of the product as sums.
                                unsafe {
                                    match sums.len() {
                                        $($few => $packed::<W, $few>(&p, to, piece, &pack.0, sums, ends),)*
                                        _ => $packed::<W, $mr>(&p, to, piece, &pack.0, sums, ends),
                                    }
                                }
                            }
                        }
                    }
                }
            }
            Some(())
        }
    };
}

gemm! {
    /// See `varmint_core::Ops::gemm_f32` and `gemm_f16`, with AVX2; `None` where the slices do not hold
    /// what the shapes say.
    gemm_avx2, "avx2,f16c", 12, packed_avx2, [1], 128, [0 64 128 192]
}

gemm! {
    /// As [`gemm_avx2`] with AVX-512.
    gemm_avx512, "avx2,f16c,avx512f,avx512bw,avx512dq,avx512vl", 16, packed_avx512, [3 1 2], 96, []
}
