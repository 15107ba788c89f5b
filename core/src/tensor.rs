//! Tensors: which ones a model must have, in which order, of which shape; and their views.
//!
//! Shapes follow from the configuration. The directory of the file repeats them and says how each
//! tensor is stored; a record that disagrees is refused. The order is fixed, so a tensor is found
//! by arithmetic:
//!
//! ```text
//! common | trunk 0: head part, then its blocks | trunk 1 | decoder 0, layer by layer | decoder 1 ..
//! ```

use half::f16;

use crate::bytes::up;
use crate::config::{Aln, Config, Decoder, Shape, Trunk};
use crate::num::{GROUP4, up4, up32};
use crate::slices::part;

/// Packed inputs per row, at most, of int8 weights with 12-bit inputs: 2047 * 127 * 8256 fits i32.
pub const MAX_WIDE: usize = 8256;
/// As `MAX_WIDE`, of 4-bit weights: 127 (scale) * 8 * 127 * 16640 fits i32.
pub const MAX_I4: usize = 16_640;

/// Bytes of one directory record.
pub const RECORD_BYTES: usize = 32;

/// How a tensor's numbers are stored. The numbers are those of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Dtype {
    /// f32, row-major.
    F32 = 0,
    /// f16, row-major.
    F16 = 1,
    /// int8, row-major, one f32 scale per row: embedding tables.
    I8Rows = 2,
    /// int8, groups of 8 rows, 4 inputs together, one f32 scale per row: weights; the input is
    /// quantized to 8 bits per row.
    I8 = 3,
    /// As `I8`, the input quantized to 12 bits (stored as i16).
    I8Wide = 4,
    /// 4 bits, groups of 8 rows, an int8 scale per 32 inputs, one f32 scale per row: dense weights;
    /// the input is quantized to 8 bits per row.
    I4 = 5,
}

impl Dtype {
    /// Bytes of one input of a weight that is stored so.
    pub const fn act(self) -> u32 {
        match self {
            Self::F32 | Self::F16 | Self::I8Rows => 4,
            Self::I8 | Self::I4 => 1,
            Self::I8Wide => 2,
        }
    }

    /// From the file's number.
    pub const fn parse(n: u8) -> Option<Self> {
        match n {
            0 => Some(Self::F32),
            1 => Some(Self::F16),
            2 => Some(Self::I8Rows),
            3 => Some(Self::I8),
            4 => Some(Self::I8Wide),
            5 => Some(Self::I4),
            _ => None,
        }
    }
}

/// What a tensor is for; decides which storage is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Biases, norms, gains: f32 only.
    Vector,
    /// Rows that are looked up: f32, f16 or int8 rows.
    Table,
    /// A matrix or convolution: f32, f16, packed int8, or (dense ones of a trunk) 4 bits.
    Weight,
}

/// The role of a tensor. The numbers are those of the file.
#[allow(missing_docs, reason = "the names are those of the official state dict")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Role {
    Codebook = 1,
    PreviewWeight,
    PreviewBias,
    PhiWeight,
    PhiBias,
    WordWeight = 16,
    WordBias,
    PosStart,
    LvlPos,
    CondTable,
    HeadAdaWeight,
    HeadAdaBias,
    HeadGain,
    HeadWeight,
    HeadBias,
    SharedAdaWeight,
    SharedAdaBias,
    QkvWeight = 48,
    QkvBias,
    QueryScale,
    ProjWeight,
    ProjBias,
    Fc1Weight,
    Fc1Bias,
    Fc2Weight,
    Fc2Bias,
    BlockGain,
    AdaWeight,
    AdaBias,
    AdaGss,
    AdaTable,
    ConvWeight = 80,
    ConvBias,
    NormAffine,
}

/// What a tensor must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spec {
    /// Role.
    pub role: Role,
    /// Which trunk or decoder (0 for the common ones).
    pub set: usize,
    /// Which block, decoder tensor, phi or table.
    pub index: usize,
    /// Output channels or rows.
    pub rows: usize,
    /// Inputs per tap, or columns.
    pub cols: usize,
    /// 9 for a 3x3 convolution, else 1. Row order: tap (dy, dx), then channel.
    pub taps: usize,
    /// Which storage is allowed.
    pub class: Class,
}

impl Spec {
    const fn new(role: Role, set: usize, index: usize, rows: usize, cols: usize) -> Self {
        let (taps, class) = (1, Class::Weight);
        Self { role, set, index, rows, cols, taps, class }
    }

    const fn vector(mut self) -> Self {
        self.class = Class::Vector;
        self
    }

    const fn table(mut self) -> Self {
        self.class = Class::Table;
        self
    }

    const fn conv(mut self) -> Self {
        self.taps = 9;
        self
    }

    /// Whether the storage suits the class.
    pub const fn allows(&self, dtype: Dtype) -> bool {
        match self.class {
            Class::Vector => matches!(dtype, Dtype::F32),
            Class::Table => matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::I8Rows),
            Class::Weight => match dtype {
                Dtype::F32 | Dtype::F16 => true,
                Dtype::I8Rows => false,
                Dtype::I8 => !self.float_only(),
                Dtype::I8Wide => !self.float_only() && self.packed_cols() <= MAX_WIDE,
                Dtype::I4 => {
                    let dense = !self.float_only() && !matches!(self.role, Role::ConvWeight);
                    dense && up32(self.cols) <= MAX_I4
                }
            },
        }
    }

    /// Whether the inputs are floats whatever the storage of others: phi and the word embedding read
    /// them from buffers of their own.
    pub const fn float_only(&self) -> bool {
        matches!(self.role, Role::PhiWeight | Role::WordWeight)
    }

    /// Inputs of one row as packed int8: every tap padded to a multiple of 4.
    pub const fn packed_cols(&self) -> usize {
        self.taps * up4(self.cols)
    }

    /// Bytes of the numbers, without scales. Cannot overflow under the limits of `config`.
    pub const fn data_bytes(&self, dtype: Dtype) -> u64 {
        let n = self.rows as u64 * (self.taps * self.cols) as u64;
        match dtype {
            Dtype::F32 => 4 * n,
            Dtype::F16 => 2 * n,
            Dtype::I8Rows => n,
            Dtype::I8 | Dtype::I8Wide => up(self.rows, 8) as u64 * self.packed_cols() as u64,
            Dtype::I4 => self.nibble_bytes() + self.group_count(),
        }
    }

    /// Bytes of 4-bit numbers, a multiple of 128; the group scales follow.
    pub const fn nibble_bytes(&self) -> u64 {
        up(self.rows, 8) as u64 * up32(self.cols) as u64 / 2
    }

    /// Group scales of 4-bit numbers, a byte each.
    pub const fn group_count(&self) -> u64 {
        up(self.rows, 8) as u64 * (up32(self.cols) / GROUP4) as u64
    }

    /// How many f32 scales go with it (packed rows come in groups of 8).
    pub const fn scale_count(&self, dtype: Dtype) -> usize {
        match dtype {
            Dtype::F32 | Dtype::F16 => 0,
            Dtype::I8Rows => self.rows,
            Dtype::I8 | Dtype::I8Wide | Dtype::I4 => up(self.rows, 8),
        }
    }
}

/// Tensors of the common part.
pub const fn common_count(c: &Config) -> usize {
    3 + 2 * c.n_phi as usize
}

/// Tensor `i` of the common part.
pub fn common_spec(c: &Config, i: usize) -> Spec {
    let (v, z) = (c.vocab as usize, c.cvae as usize);
    match i {
        0 => Spec::new(Role::Codebook, 0, 0, v, z).table(),
        1 => Spec::new(Role::PreviewWeight, 0, 0, 3, z).vector(),
        2 => Spec::new(Role::PreviewBias, 0, 0, 1, 3).vector(),
        i if i % 2 == 1 => Spec::new(Role::PhiWeight, 0, (i - 3) / 2, z, z).conv(),
        i => Spec::new(Role::PhiBias, 0, (i - 4) / 2, 1, z).vector(),
    }
}

/// Tensors of a trunk before its blocks.
pub const fn trunk_head_count(c: &Config, t: &Trunk) -> usize {
    9 + c.n_tables() + if matches!(t.aln, Aln::Shared) { 2 } else { 0 }
}

/// Tensors of one block.
pub const fn block_count(t: &Trunk) -> usize {
    if matches!(t.aln, Aln::Own) { 12 } else { 11 }
}

/// Tensors of a trunk.
pub const fn trunk_count(c: &Config, t: &Trunk) -> usize {
    trunk_head_count(c, t) + t.depth as usize * block_count(t)
}

/// Places in the head part of a trunk, after the condition tables.
pub(crate) mod place {
    pub(crate) const WORD: usize = 0;
    pub(crate) const POS_START: usize = 2;
    pub(crate) const LVL_POS: usize = 3;
    pub(crate) const TABLES: usize = 4;
    /// After the tables.
    pub(crate) const HEAD_ADA: usize = 0;
    pub(crate) const HEAD_GAIN: usize = 2;
    pub(crate) const HEAD: usize = 3;
    pub(crate) const SHARED: usize = 5;
    /// In a block.
    pub(crate) const QKV: usize = 0;
    pub(crate) const QUERY_SCALE: usize = 2;
    pub(crate) const PROJ: usize = 3;
    pub(crate) const FC1: usize = 5;
    pub(crate) const FC2: usize = 7;
    pub(crate) const GAIN: usize = 9;
    pub(crate) const ADA: usize = 10;
}

/// Tensor `i` of trunk `set`.
pub fn trunk_spec(c: &Config, t: &Trunk, set: usize, i: usize) -> Spec {
    let (w, h, n) = (t.width as usize, t.hidden as usize, c.n_tables());
    let new = |role, index, rows, cols| Spec::new(role, set, index, rows, cols);
    let head = trunk_head_count(c, t);
    if i < head {
        return match i {
            0 => new(Role::WordWeight, 0, w, c.cvae as usize),
            1 => new(Role::WordBias, 0, 1, w).vector(),
            2 => new(Role::PosStart, 0, c.scale(0).tokens(), w).table(),
            3 => new(Role::LvlPos, 0, c.tokens(), w).table(),
            i if i < 4 + n => new(Role::CondTable, i - 4, c.table(i - 4).rows as usize, w).table(),
            i => match i - 4 - n {
                0 => new(Role::HeadAdaWeight, 0, 2 * w, w),
                1 => new(Role::HeadAdaBias, 0, 1, 2 * w).vector(),
                2 => new(Role::HeadGain, 0, 1, w).vector(),
                3 => new(Role::HeadWeight, 0, c.vocab as usize, w),
                4 => new(Role::HeadBias, 0, 1, c.vocab as usize).vector(),
                5 => new(Role::SharedAdaWeight, 0, 6 * w, w),
                _ => new(Role::SharedAdaBias, 0, 1, 6 * w).vector(),
            },
        };
    }
    let (b, j) = ((i - head) / block_count(t), (i - head) % block_count(t));
    match j {
        0 => new(Role::QkvWeight, b, 3 * w, w),
        1 => new(Role::QkvBias, b, 1, 3 * w).vector(),
        2 => new(Role::QueryScale, b, 1, t.heads as usize).vector(),
        3 => new(Role::ProjWeight, b, w, w),
        4 => new(Role::ProjBias, b, 1, w).vector(),
        5 => new(Role::Fc1Weight, b, h, w),
        6 => new(Role::Fc1Bias, b, 1, h).vector(),
        7 => new(Role::Fc2Weight, b, w, h),
        8 => new(Role::Fc2Bias, b, 1, w).vector(),
        9 => new(Role::BlockGain, b, 2, w).vector(),
        10 => match t.aln {
            Aln::Own => new(Role::AdaWeight, b, 6 * w, w),
            Aln::Shared => new(Role::AdaGss, b, 6, w).vector(),
            Aln::Baked => new(Role::AdaTable, b, c.table(0).rows as usize, 6 * w).table(),
        },
        _ => new(Role::AdaBias, b, 1, 6 * w).vector(),
    }
}

/// One layer of a decoder, in order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// 3x3 convolution of the latent: `post_quant_conv`, then `conv_in`.
    Conv {
        /// Input channels.
        cin: usize,
        /// Output channels.
        cout: usize,
    },
    /// Residual block; a 1x1 shortcut where the widths differ.
    Res {
        /// Input channels.
        cin: usize,
        /// Output channels.
        cout: usize,
    },
    /// Attention over all positions.
    Attention {
        /// Channels.
        c: usize,
    },
    /// Nearest enlargement by 2, then a 3x3 convolution.
    Up {
        /// Channels.
        c: usize,
    },
    /// Norm, SiLU, 3x3 convolution to RGB.
    Out {
        /// Input channels.
        c: usize,
    },
}

impl Layer {
    /// Tensors of the layer.
    pub const fn count(self) -> usize {
        match self {
            Self::Conv { .. } | Self::Up { .. } => 2,
            Self::Res { cin, cout } => 6 + if cin == cout { 0 } else { 2 },
            Self::Attention { .. } => 5,
            Self::Out { .. } => 3,
        }
    }

    pub(crate) fn spec(self, set: usize, index: usize, j: usize) -> Spec {
        let conv = |co, ci| Spec::new(Role::ConvWeight, set, index, co, ci);
        let bias = |co| Spec::new(Role::ConvBias, set, index, 1, co).vector();
        let norm = |c| Spec::new(Role::NormAffine, set, index, 2, c).vector();
        match (self, j) {
            (Self::Conv { cin, cout }, 0) => conv(cout, cin).conv(),
            (Self::Conv { cout, .. }, _) => bias(cout),
            (Self::Res { cin, .. }, 0) => norm(cin),
            (Self::Res { cin, cout }, 1) => conv(cout, cin).conv(),
            (Self::Res { cout, .. }, 2 | 5 | 7) => bias(cout),
            (Self::Res { cout, .. }, 3) => norm(cout),
            (Self::Res { cout, .. }, 4) => conv(cout, cout).conv(),
            (Self::Res { cin, cout }, _) => conv(cout, cin),
            (Self::Attention { c }, 0) => norm(c),
            (Self::Attention { c }, 1) => conv(3 * c, c),
            (Self::Attention { c }, 2) => bias(3 * c),
            (Self::Attention { c }, 3) => conv(c, c),
            (Self::Attention { c }, _) => bias(c),
            (Self::Up { c }, 0) => conv(c, c).conv(),
            (Self::Up { c }, _) => bias(c),
            (Self::Out { c }, 0) => norm(c),
            (Self::Out { c }, 1) => conv(3, c).conv(),
            (Self::Out { .. }, _) => bias(3),
        }
    }
}

impl Decoder {
    /// Layers of the decoder.
    pub const fn n_layers(&self) -> usize {
        let mut n = 2 + 3 + 1;
        let mut i = 0;
        while i < self.levels as usize {
            let per = if self.attention >> i & 1 == 1 { 2 } else { 1 };
            n += per * self.blocks as usize + if i > 0 { 1 } else { 0 };
            i += 1;
        }
        n
    }

    /// Layer `at` (execution order) and the level of its input; the output layer past the end.
    pub const fn layer(&self, latent: usize, at: usize) -> (Layer, usize) {
        let top = self.levels as usize - 1;
        let (w, inner) = (self.top(), self.inner(latent));
        match at {
            0 => return (Layer::Conv { cin: latent, cout: inner }, top),
            1 => return (Layer::Conv { cin: inner, cout: w }, top),
            2 | 4 => return (Layer::Res { cin: w, cout: w }, top),
            3 => return (Layer::Attention { c: w }, top),
            _ => {}
        }
        let mut left = at - 5;
        let mut level = self.levels as usize;
        let mut cin = w;
        while level > 0 {
            level -= 1;
            let c = self.width(level);
            let attention = self.attention >> level & 1 == 1;
            let mut j = 0;
            while j < self.blocks as usize {
                if left == 0 {
                    return (Layer::Res { cin, cout: c }, level);
                }
                left -= 1;
                cin = c;
                if attention {
                    if left == 0 {
                        return (Layer::Attention { c }, level);
                    }
                    left -= 1;
                }
                j += 1;
            }
            if level > 0 {
                if left == 0 {
                    return (Layer::Up { c }, level);
                }
                left -= 1;
            }
        }
        (Layer::Out { c: self.width(0) }, 0)
    }

    /// Tensors before layer `at`.
    pub const fn tensors_before(&self, latent: usize, at: usize) -> usize {
        let (mut n, mut i) = (0, 0);
        while i < at {
            n += self.layer(latent, i).0.count();
            i += 1;
        }
        n
    }
}

/// All tensors that a file of this shape must have, in order.
///
/// # Errors
/// The first error of `visit`.
pub fn for_each_spec<E>(
    shape: &Shape,
    mut visit: impl FnMut(Spec) -> Result<(), E>,
) -> Result<(), E> {
    let c = &shape.config;
    for i in 0..common_count(c) {
        visit(common_spec(c, i))?;
    }
    for set in 0..shape.n_trunks() {
        let t = shape.trunk(set);
        for i in 0..trunk_count(c, t) {
            visit(trunk_spec(c, t, set, i))?;
        }
    }
    for set in 0..shape.n_decoders() {
        let d = shape.decoder(set);
        for at in 0..d.n_layers() {
            let (layer, _) = d.layer(c.cvae as usize, at);
            for j in 0..layer.count() {
                visit(layer.spec(set, at, j))?;
            }
        }
    }
    Ok(())
}

/// A weight or table as it stands in the file.
#[derive(Clone, Copy, Debug)]
pub enum Data<'a> {
    /// Row-major.
    F32(&'a [f32]),
    /// Row-major.
    F16(&'a [f16]),
    /// Row-major, with a scale per row.
    I8Rows(&'a [i8], &'a [f32]),
    /// Packed, with a scale per row (rows padded to 8); `wide`: 12-bit inputs.
    I8 {
        /// `[rows / 8][packed_cols / 4][8][4]`.
        w: &'a [i8],
        /// Scale per row.
        scale: &'a [f32],
        /// Whether inputs have 12 bits.
        wide: bool,
    },
    /// 4 bits; rows padded to 8, columns to 32: `w = scale * group * (nibble - 8)`.
    I4 {
        /// `[rows / 8][cols / 32][4][8][4]`: inputs 8 j + i (low half) and 8 j + 4 + i (high half).
        w: &'a [u8],
        /// `[rows / 8][cols / 32][8]`, within ±127.
        group: &'a [i8],
        /// Scale per row.
        scale: &'a [f32],
    },
}

/// A matrix `rows x (taps * cols)`; see [`Spec`].
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Output channels or rows.
    pub rows: usize,
    /// Inputs per tap.
    pub cols: usize,
    /// 9 or 1.
    pub taps: usize,
    /// The numbers.
    pub data: Data<'a>,
}

impl<'a> Matrix<'a> {
    /// Inputs of one row as stored: padded per tap when packed.
    pub const fn stored_cols(&self) -> usize {
        match self.data {
            Data::I8 { .. } => self.taps * up4(self.cols),
            Data::I4 { .. } => up32(self.cols),
            _ => self.taps * self.cols,
        }
    }

    /// Output channels `from..from + n` as a matrix of their own; `from` a multiple of 8.
    pub fn rows_from(&self, from: usize, n: usize) -> Matrix<'a> {
        let k = self.stored_cols();
        let data = match self.data {
            Data::F32(w) => Data::F32(part(w, from * k, n * k)),
            Data::F16(w) => Data::F16(part(w, from * k, n * k)),
            Data::I8Rows(w, s) => Data::I8Rows(part(w, from * k, n * k), part(s, from, n)),
            Data::I8 { w, scale, wide } => {
                let padded = up(n, 8);
                Data::I8 {
                    w: part(w, from * k, padded * k),
                    scale: part(scale, from, padded),
                    wide,
                }
            }
            Data::I4 { w, group, scale } => {
                let (padded, groups) = (up(n, 8), k / GROUP4);
                Data::I4 {
                    w: part(w, from * k / 2, padded * k / 2),
                    group: part(group, from * groups, padded * groups),
                    scale: part(scale, from, padded),
                }
            }
        };
        Matrix { rows: n, data, ..*self }
    }

    /// Adds row `r` of a table to `out`, channel by channel.
    pub fn add_row(&self, r: usize, out: &mut [f32]) {
        let n = self.cols;
        match self.data {
            Data::F32(w) => {
                for (o, v) in out.iter_mut().zip(part(w, r * n, n)) {
                    *o += *v;
                }
            }
            Data::F16(w) => {
                for (o, v) in out.iter_mut().zip(part(w, r * n, n)) {
                    *o += v.to_f32();
                }
            }
            Data::I8Rows(w, s) => {
                let s = s.get(r).copied().unwrap_or(0.0);
                for (o, v) in out.iter_mut().zip(part(w, r * n, n)) {
                    *o += *v as f32 * s;
                }
            }
            Data::I8 { .. } | Data::I4 { .. } => {}
        }
    }
}
