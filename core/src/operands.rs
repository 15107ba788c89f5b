//! What kernels work on: slices with the shapes that give them meaning.

use half::f16;

use crate::slices::pieces_mut;

/// Inputs of a matrix product: row `m` is `segs` runs of `seg_len` values, the first at
/// `m * stride`, each `seg_stride` after the one before.
///
/// A matrix `[M, K]` is one run of K with stride K. A 3x3 convolution of a halo-padded strip
/// `[rows + 2][W + 2][C]` is three runs of 3 C, one strip row apart, with stride C.
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a, T> {
    /// The values.
    pub data: &'a [T],
    /// Rows M.
    pub rows: usize,
    /// Distance of two rows.
    pub stride: usize,
    /// Runs per row.
    pub segs: usize,
    /// Values of a run; a multiple of 4 for integers.
    pub seg_len: usize,
    /// Distance of two runs.
    pub seg_stride: usize,
}

impl<'a, T> Taps<'a, T> {
    /// A dense matrix of rows of `k`.
    pub fn matrix(data: &'a [T], rows: usize, k: usize) -> Self {
        Self { data, rows, stride: k, segs: 1, seg_len: k, seg_stride: 0 }
    }

    /// Run `s` of row `m`.
    #[inline(always)]
    pub fn run(&self, m: usize, s: usize) -> &'a [T] {
        let at = m * self.stride + s * self.seg_stride;
        self.data.get(at..at + self.seg_len).unwrap_or(&[])
    }

    /// Inputs of one row, K.
    pub const fn k(&self) -> usize {
        self.segs * self.seg_len
    }
}

/// Inputs of a 3x3 convolution: rows `[rows + 2][width + 2][channels]` of a map with a halo of one pixel,
/// zeros where that lies outside of the map.
#[derive(Clone, Copy, Debug)]
pub struct Strip<'a, T> {
    /// The values.
    pub data: &'a [T],
    /// Output rows.
    pub rows: usize,
    /// Output columns.
    pub width: usize,
    /// Channels; a multiple of 4 for integers.
    pub channels: usize,
}

impl<'a, T> Strip<'a, T> {
    /// Values of one row with its halo.
    pub const fn line(&self) -> usize {
        (self.width + 2) * self.channels
    }

    /// What output row `r` reads, as inputs of a matrix product.
    pub fn taps(&self, r: usize) -> Taps<'a, T> {
        let (line, stride) = (self.line(), self.channels);
        let data = self.data.get(r * line..).unwrap_or(&[]);
        Taps { data, rows: self.width, stride, segs: 3, seg_len: 3 * stride, seg_stride: line }
    }

    /// Hands every output row of `n` channels a pixel to a matrix product.
    pub fn each_row(self, n: usize, out: &mut [f32], gemm: impl Fn(Taps<'a, T>, &mut [f32])) {
        for (r, out) in pieces_mut(out, self.width * n).take(self.rows).enumerate() {
            gemm(self.taps(r), out);
        }
    }
}

/// Packed int8 weights of a matrix product; see [`crate::tensor::Data::I8`].
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a> {
    /// `[N / 8][K / 4][8][4]`.
    pub w: &'a [i8],
    /// Scale per output channel, padded to 8.
    pub scale: &'a [f32],
    /// Bias `[N]`; its length is N.
    pub bias: &'a [f32],
}

/// Packed 4-bit weights of a matrix product; see [`crate::tensor::Data::I4`].
#[derive(Clone, Copy, Debug)]
pub struct Packed4<'a> {
    /// `[N / 8][K / 32][4][32]`: byte `4 c + i` of block j is input `8 j + i` of channel c in its low
    /// half, input `8 j + 4 + i` in its high half, both plus 8.
    pub w: &'a [u8],
    /// Scale per (channel, 32 inputs), `[N / 8][K / 32][8]`, within ±127.
    pub group: &'a [i8],
    /// Scale per output channel, padded to 8.
    pub scale: &'a [f32],
    /// Bias `[N]`; its length is N.
    pub bias: &'a [f32],
}

/// Keys and values that attention reads: `[tokens, C]`, and for int8 a scale per (token, head).
#[derive(Clone, Copy, Debug)]
pub enum Kv<'a> {
    /// Float.
    F32 {
        /// Keys.
        k: &'a [f32],
        /// Values.
        v: &'a [f32],
    },
    /// Half float.
    F16 {
        /// Keys.
        k: &'a [f16],
        /// Values.
        v: &'a [f16],
    },
    /// int8.
    I8 {
        /// Keys.
        k: &'a [i8],
        /// Values.
        v: &'a [i8],
        /// Scales of the keys `[tokens, heads]`.
        ks: &'a [f16],
        /// Scales of the values.
        vs: &'a [f16],
    },
}

/// Scratch of attention: for one query row at least, and for more where a kernel is to take more at once.
#[derive(Debug)]
pub struct Scratch<'a> {
    /// `[rows, keys]`.
    pub scores: &'a mut [f32],
    /// `[rows, keys]`.
    pub probs: &'a mut [i16],
    /// `[hd]`.
    pub sums: &'a mut [i32],
    /// `[hd]`.
    pub query: &'a mut [i8],
}

/// Where the heads lie.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Width C.
    pub width: usize,
    /// Channels per head.
    pub dim: usize,
}
