//! The model: a borrowed file, checked once. After [`Model::parse`] no accessor can fail.

use half::f16;

use crate::bytes::{slice, u8_at, u16_at, u32_at, u64_at, up};
use crate::config::{Aln, Shape};
use crate::error::{Error, Fault};
use crate::file::{ALIGN, CRC_AT, Container, Kind, checksum};
use crate::slices::part;
use crate::tensor::{
    Class, Data, Dtype, Layer, Matrix, RECORD_BYTES, Role, Spec, block_count, common_count,
    common_spec, for_each_spec, place, trunk_count, trunk_head_count, trunk_spec,
};
use crate::tier::Tier;

/// A model in memory or flash. `Copy`: it is a few references and the shapes.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The shapes.
    pub shape: Shape,
    /// Grows with every release; see [`Container`].
    pub sequence: u32,
    file: &'a [u8],
    tiers: &'a [u8],
    text: &'a [u8],
    records: &'a [u8],
}

impl<'a> Model<'a> {
    /// Checks the whole file: container, checksum, shapes, tiers, texts, every tensor record, every
    /// int8 weight and every scale. Work is linear in the length of the file; nothing is copied.
    ///
    /// # Errors
    /// [`Error::File`] with what is wrong and at which byte.
    #[inline(never)] // what it needs of the stack is free again before the run
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        Self::read(file, true)
    }

    /// As [`Model::parse`], but believes the numbers: the directory is checked, the checksum and the weights are not,
    /// so that a mapped file of gigabytes is ready at once. For files that were checked when they came to this
    /// machine. What a damaged one draws is not defined; it stays memory-safe.
    ///
    /// # Errors
    /// [`Error::File`] for what is wrong outside of the weights.
    pub fn trust(file: &'a [u8]) -> Result<Self, Error> {
        Self::read(file, false)
    }

    fn read(file: &'a [u8], numbers: bool) -> Result<Self, Error> {
        let container = Container::parse(file)?;
        if !(file.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(Error::file(Fault::Misaligned, 0));
        }
        if numbers && checksum(file) != u32_at(file, CRC_AT) {
            return Err(Error::file(Fault::Checksum, CRC_AT));
        }
        let shape = container.shape()?;
        let (tiers, tiers_at) = container.section(Kind::Tiers);
        for i in 0..shape.n_tiers() {
            let tier = Tier::parse(&shape, tiers, tiers_at, i)?;
            // Names are unique: a tier is found by name.
            for j in 0..i {
                if Tier::parse(&shape, tiers, tiers_at, j)?.name() == tier.name() {
                    return Err(Error::file(Fault::Tier, tiers_at + i * crate::tier::TIER_BYTES));
                }
            }
        }
        let (text, text_at) = container.section(Kind::Text);
        check_text(&shape, text, text_at)?;
        let (records, records_at) = container.section(Kind::Tensors);
        let data = container.section(Kind::Data);
        check_tensors(&shape, (records, records_at), data, file, numbers)?;
        Ok(Self { shape, sequence: container.sequence, file, tiers, text, records })
    }

    /// The model's name.
    pub fn name(&self) -> &'a str {
        self.string(0)
    }

    /// Licences and credits.
    pub fn licence(&self) -> &'a str {
        self.string(1)
    }

    /// The name of condition table `t` ("class", "style").
    pub fn table_name(&self, t: usize) -> &'a str {
        self.string(2 + t)
    }

    /// The name of row `row` of condition table `t`, where the file names rows.
    pub fn label(&self, t: usize, row: usize) -> Option<&'a str> {
        let c = &self.shape.config;
        let table = c.table(t);
        if t >= c.n_tables() || !table.labelled || row + 1 >= table.rows as usize {
            return None;
        }
        let before: usize = (0..t).map(|u| labels(c.table(u))).sum();
        Some(self.string(2 + c.n_tables() + before + row))
    }

    /// The row of table `t` that is named `name`.
    pub fn find_label(&self, t: usize, name: &str) -> Option<usize> {
        let rows = (self.shape.config.table(t).rows as usize).saturating_sub(1);
        (0..rows).find(|&r| self.label(t, r) == Some(name))
    }

    fn string(&self, i: usize) -> &'a str {
        let (from, to) = (u32_at(self.text, 4 + 4 * i), u32_at(self.text, 8 + 4 * i));
        let body = self.text.get(from as usize..to as usize).unwrap_or(&[]);
        core::str::from_utf8(body).unwrap_or("")
    }

    /// Tier `i` of the file.
    ///
    /// # Errors
    /// [`Error::UnknownTier`] past the end.
    pub fn tier_at(&self, i: usize) -> Result<Tier, Error> {
        Tier::parse(&self.shape, self.tiers, 0, i)
    }

    /// The tier of that name.
    ///
    /// # Errors
    /// [`Error::UnknownTier`].
    pub fn tier(&self, name: &str) -> Result<Tier, Error> {
        self.tiers().find(|t| t.name() == name).ok_or(Error::UnknownTier)
    }

    /// All tiers, best first.
    pub fn tiers(&self) -> impl Iterator<Item = Tier> + use<'a> {
        let this = *self;
        (0..this.shape.n_tiers()).filter_map(move |i| this.tier_at(i).ok())
    }

    /// The file itself, for backends that read it from a memory of their own.
    pub fn bytes(&self) -> &'a [u8] {
        self.file
    }

    /// Bytes of the whole file: what stays in flash or in the mapped file.
    pub fn file_bytes(&self) -> usize {
        self.file.len()
    }

    /// Tensor `i` in the file's order, as a matrix.
    fn matrix(&self, i: usize, spec: Spec) -> Matrix<'a> {
        matrix(self.file, self.records, i, spec)
    }

    fn vector(&self, i: usize, spec: Spec) -> &'a [f32] {
        match self.matrix(i, spec).data {
            Data::F32(v) => v,
            _ => &[],
        }
    }

    /// The tensor at position `i` of the directory, with its specification and storage. For tools.
    pub fn tensor(&self, i: usize) -> Option<(Spec, Dtype, Matrix<'a>)> {
        let mut n = 0;
        let mut found = None;
        let _ = for_each_spec(&self.shape, |spec| {
            if n == i {
                found = Some(spec);
                return Err(());
            }
            n += 1;
            Ok(())
        });
        let dtype = Dtype::parse(u8_at(self.records, i * RECORD_BYTES + 2))?;
        found.map(|spec| (spec, dtype, self.matrix(i, spec)))
    }

    /// The codebook, `[vocab, cvae]`.
    pub fn codebook(&self) -> Matrix<'a> {
        self.matrix(0, common_spec(&self.shape.config, 0))
    }

    /// A linear picture of the latent: weight `[3, cvae]` and bias `[3]`, RGB in 0..=1.
    pub fn preview(&self) -> (&'a [f32], &'a [f32]) {
        let c = &self.shape.config;
        (self.vector(1, common_spec(c, 1)), self.vector(2, common_spec(c, 2)))
    }

    /// Phi convolution `j`.
    pub fn phi(&self, j: usize) -> Linear<'a> {
        let c = &self.shape.config;
        self.linear(3 + 2 * j, |i| common_spec(c, i), 0)
    }

    fn linear(&self, i: usize, spec: impl Fn(usize) -> Spec, base: usize) -> Linear<'a> {
        Linear { w: self.matrix(base + i, spec(i)), bias: self.vector(base + i + 1, spec(i + 1)) }
    }

    fn trunk_base(&self, set: usize) -> usize {
        let c = &self.shape.config;
        (0..set).fold(common_count(c), |n, s| n + trunk_count(c, self.shape.trunk(s)))
    }

    /// The weights of trunk `set`.
    pub fn trunk(&self, set: usize) -> TrunkWeights<'a> {
        let (c, t) = (&self.shape.config, self.shape.trunk(set));
        let base = self.trunk_base(set);
        let after = place::TABLES + c.n_tables();
        let spec = |i| trunk_spec(c, t, set, i);
        let linear = |i| self.linear(i, spec, base);
        TrunkWeights {
            word: linear(place::WORD),
            pos_start: self.matrix(base + place::POS_START, spec(place::POS_START)),
            lvl_pos: self.matrix(base + place::LVL_POS, spec(place::LVL_POS)),
            head_ada: linear(after + place::HEAD_ADA),
            head_gain: self.vector(base + after + place::HEAD_GAIN, spec(after + place::HEAD_GAIN)),
            head: linear(after + place::HEAD),
            shared_ada: matches!(t.aln, Aln::Shared).then(|| linear(after + place::SHARED)),
        }
    }

    /// Condition table `table` of trunk `set`.
    pub fn table(&self, set: usize, table: usize) -> Matrix<'a> {
        let (c, t) = (&self.shape.config, self.shape.trunk(set));
        let i = place::TABLES + table.min(c.n_tables().saturating_sub(1));
        self.matrix(self.trunk_base(set) + i, trunk_spec(c, t, set, i))
    }

    /// The weights of block `b` of trunk `set`.
    pub fn block(&self, set: usize, b: usize) -> BlockWeights<'a> {
        let (c, t) = (&self.shape.config, self.shape.trunk(set));
        let at = trunk_head_count(c, t) + b.min(t.depth as usize - 1) * block_count(t);
        let base = self.trunk_base(set);
        let spec = |i| trunk_spec(c, t, set, i);
        let linear = |i| self.linear(at + i, spec, base);
        let vector = |i| self.vector(base + at + i, spec(at + i));
        BlockWeights {
            qkv: linear(place::QKV),
            query_scale: vector(place::QUERY_SCALE),
            proj: linear(place::PROJ),
            fc1: linear(place::FC1),
            fc2: linear(place::FC2),
            gain: vector(place::GAIN),
            ada: match t.aln {
                Aln::Own => Ada::Own(linear(place::ADA)),
                Aln::Shared => Ada::Offsets(vector(place::ADA)),
                Aln::Baked => Ada::Rows(self.matrix(base + at + place::ADA, spec(at + place::ADA))),
            },
        }
    }

    /// Layer `at` of decoder `set`, the level of its input, and its weights.
    pub fn layer(&self, set: usize, at: usize) -> (Layer, usize, LayerWeights<'a>) {
        let c = &self.shape.config;
        let z = c.cvae as usize;
        let d = self.shape.decoder(set);
        let decoders = self.trunk_base(self.shape.n_trunks());
        let base = (0..set).fold(decoders, |n, s| {
            let d = self.shape.decoder(s);
            n + d.tensors_before(z, d.n_layers())
        }) + d.tensors_before(z, at);
        let (layer, level) = d.layer(z, at);
        let spec = |j| layer.spec(set, at, j);
        let linear = |j| self.linear(j, spec, base);
        let norm = |j| self.vector(base + j, spec(j));
        let weights = match layer {
            Layer::Conv { .. } | Layer::Up { .. } => LayerWeights::Conv(linear(0)),
            Layer::Res { cin, cout } => LayerWeights::Res {
                norm1: norm(0),
                conv1: linear(1),
                norm2: norm(3),
                conv2: linear(4),
                shortcut: (cin != cout).then(|| linear(6)),
            },
            Layer::Attention { .. } => {
                LayerWeights::Attention { norm: norm(0), qkv: linear(1), proj: linear(3) }
            }
            Layer::Out { .. } => LayerWeights::Out { norm: norm(0), conv: linear(1) },
        };
        (layer, level, weights)
    }
}

/// A matrix or convolution and its bias `[rows]`.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// Weight.
    pub w: Matrix<'a>,
    /// Bias, f32.
    pub bias: &'a [f32],
}

/// The weights of a trunk outside its blocks.
#[derive(Clone, Copy, Debug)]
pub struct TrunkWeights<'a> {
    /// `word_embed` `[C, cvae]`.
    pub word: Linear<'a>,
    /// `pos_start` `[l_0, C]`.
    pub pos_start: Matrix<'a>,
    /// `lvl_embed[scale] + pos_1LC` `[L, C]`.
    pub lvl_pos: Matrix<'a>,
    /// `head_nm.ada_lin` `[2C, C]`: scale, then shift.
    pub head_ada: Linear<'a>,
    /// What the head's scale is added to `[C]`: ones, unless outliers were absorbed.
    pub head_gain: &'a [f32],
    /// `head` `[V, C]`.
    pub head: Linear<'a>,
    /// `shared_ada_lin` `[6C, C]`.
    pub shared_ada: Option<Linear<'a>>,
}

/// Where a block's six modulation vectors come from.
#[derive(Clone, Copy, Debug)]
pub enum Ada<'a> {
    /// Its own projection `[6C, C]` of SiLU(condition).
    Own(Linear<'a>),
    /// The shared projection plus these `[6C]`.
    Offsets(&'a [f32]),
    /// A row `[6C]` for every row of the condition table.
    Rows(Matrix<'a>),
}

/// The weights of one transformer block.
#[derive(Clone, Copy, Debug)]
pub struct BlockWeights<'a> {
    /// `[3C, C]`: queries, keys, values; head-major inside each.
    pub qkv: Linear<'a>,
    /// Factor of the queries per head: exp(min(scale_mul, ln 100)), or the softmax scale.
    pub query_scale: &'a [f32],
    /// `[C, C]`.
    pub proj: Linear<'a>,
    /// `[hidden, C]`.
    pub fc1: Linear<'a>,
    /// `[C, hidden]`.
    pub fc2: Linear<'a>,
    /// What the two modulation scales are added to `[2, C]`: ones, unless outliers were absorbed.
    pub gain: &'a [f32],
    /// The modulation.
    pub ada: Ada<'a>,
}

/// The weights of one decoder layer. A norm is `[2, C]`: gain, then shift.
#[allow(missing_docs, reason = "the names are those of the official state dict")]
#[derive(Clone, Copy, Debug)]
pub enum LayerWeights<'a> {
    /// 3x3 convolution.
    Conv(Linear<'a>),
    /// Residual block.
    Res {
        norm1: &'a [f32],
        conv1: Linear<'a>,
        norm2: &'a [f32],
        conv2: Linear<'a>,
        shortcut: Option<Linear<'a>>,
    },
    /// Attention; `qkv` has all queries, then keys, then values.
    Attention { norm: &'a [f32], qkv: Linear<'a>, proj: Linear<'a> },
    /// Norm and 3x3 convolution to RGB.
    Out { norm: &'a [f32], conv: Linear<'a> },
}

/// Tensor `i` of a directory, as a matrix.
pub(crate) fn matrix<'a>(file: &'a [u8], records: &[u8], i: usize, spec: Spec) -> Matrix<'a> {
    let o = i * RECORD_BYTES;
    let at = u64_at(records, o + 16) as usize;
    let scale_at = u64_at(records, o + 24) as usize;
    let dtype = Dtype::parse(u8_at(records, o + 2)).unwrap_or(Dtype::F32);
    let body = part(file, at, spec.data_bytes(dtype) as usize);
    let scale = cast::<f32>(part(file, scale_at, 4 * spec.scale_count(dtype)));
    let data = match dtype {
        Dtype::F32 => Data::F32(cast(body)),
        Dtype::F16 => Data::F16(cast::<f16>(body)),
        Dtype::I8Rows => Data::I8Rows(cast(body), scale),
        Dtype::I8 => Data::I8 { w: cast(body), scale, wide: false },
        Dtype::I8Wide => Data::I8 { w: cast(body), scale, wide: true },
        Dtype::I4 => {
            let (w, group) =
                body.split_at_checked(spec.nibble_bytes() as usize).unwrap_or_default();
            Data::I4 { w, group: cast(group), scale }
        }
    };
    Matrix { rows: spec.rows, cols: spec.cols, taps: spec.taps, data }
}

fn cast<T: bytemuck::AnyBitPattern>(bytes: &[u8]) -> &[T] {
    // Offsets are multiples of 64 (checked); a failure would be a defect and reads as empty.
    bytemuck::try_cast_slice(bytes).unwrap_or(&[])
}

fn labels(t: crate::config::Table) -> usize {
    if t.labelled { t.rows as usize - 1 } else { 0 }
}

fn check_text(shape: &Shape, text: &[u8], at: usize) -> Result<(), Error> {
    let c = &shape.config;
    let count = (0..c.n_tables()).fold(2 + c.n_tables(), |n, t| n + labels(c.table(t)));
    let body = 4 + 4 * (count + 1);
    if u32_at(text, 0) as usize != count || text.len() < body {
        return Err(Error::file(Fault::Text, at));
    }
    let mut from = body;
    for i in 0..=count {
        let o = 4 + 4 * i;
        let to = u32_at(text, o) as usize;
        let wanted = if i == 0 { to == body } else { to >= from && to <= text.len() };
        if !wanted {
            return Err(Error::file(Fault::Text, at + o));
        }
        if core::str::from_utf8(part(text, from, to - from)).is_err() {
            return Err(Error::file(Fault::Text, at + from));
        }
        from = to;
    }
    if from != text.len() {
        return Err(Error::file(Fault::Text, at + from));
    }
    Ok(())
}

fn check_tensors(
    shape: &Shape,
    records: (&[u8], usize),
    data: (&[u8], usize),
    file: &[u8],
    numbers: bool,
) -> Result<(), Error> {
    let mut directory = Directory::new(file, records, data, numbers);
    for_each_spec(shape, |spec| {
        // Scratch is planned from the widest input that the shapes state.
        let widest = match spec.role {
            Role::ConvWeight => shape.decoder(spec.set).act,
            Role::PhiWeight | Role::WordWeight => 4,
            _ => shape.trunk(spec.set).act,
        };
        directory.check(spec, widest)
    })?;
    directory.finish()
}

/// Tensor records, compared one after the other with what must be there.
pub(crate) struct Directory<'a> {
    file: &'a [u8],
    records: (&'a [u8], usize),
    data: (&'a [u8], usize),
    numbers: bool,
    /// The next record.
    i: usize,
    /// Where the last tensor ends, relative to the data section.
    end: usize,
}

impl<'a> Directory<'a> {
    /// `numbers`: weights and scales are looked at, too.
    pub(crate) fn new(
        file: &'a [u8],
        records: (&'a [u8], usize),
        data: (&'a [u8], usize),
        numbers: bool,
    ) -> Self {
        Self { file, records, data, numbers, i: 0, end: 0 }
    }

    /// The next record must be this tensor, reading inputs of at most `widest` bytes.
    pub(crate) fn check(&mut self, spec: Spec, widest: u32) -> Result<(), Error> {
        let (records, records_at) = self.records;
        let o = self.i * RECORD_BYTES;
        let bad = |field: usize| Err(Error::file(Fault::Tensor, records_at + o + field));
        self.i += 1;
        if o + RECORD_BYTES > records.len() {
            return bad(0);
        }
        let Some(dtype) = Dtype::parse(u8_at(records, o + 2)) else { return bad(2) };
        if spec.class == Class::Weight && dtype.act() > widest {
            return bad(2);
        }
        if u16_at(records, o) != spec.role as u16 {
            return bad(0);
        }
        if !spec.allows(dtype) {
            return bad(2);
        }
        if u8_at(records, o + 3) as usize != spec.set
            || u16_at(records, o + 4) as usize != spec.index
        {
            return bad(3);
        }
        if u16_at(records, o + 6) as usize != spec.taps {
            return bad(6);
        }
        if u32_at(records, o + 8) as usize != spec.rows {
            return bad(8);
        }
        if u32_at(records, o + 12) as usize != spec.cols {
            return bad(12);
        }
        let at = self.place(spec.data_bytes(dtype), o + 16)?;
        let n_scales = spec.scale_count(dtype);
        if n_scales == 0 {
            if u64_at(records, o + 24) != 0 {
                return bad(24);
            }
        } else {
            let scale_at = self.place(4 * n_scales as u64, o + 24)?;
            if self.numbers {
                check_numbers(self.file, (&spec, dtype), at, scale_at)?;
            }
        }
        Ok(())
    }

    /// Numbers, then scales, each at the next multiple of 64: no holes, no overlaps. The offset in the file
    /// that the field of the directory at `field` must state.
    fn place(&mut self, len: u64, field: usize) -> Result<usize, Error> {
        let ((records, records_at), (data, data_at)) = (self.records, self.data);
        let start = up(self.end, ALIGN);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let fits = start.checked_add(len).is_some_and(|e| e <= data.len());
        if u64_at(records, field) != (data_at + start) as u64 || !fits {
            return Err(Error::file(Fault::Tensor, records_at + field));
        }
        if self.numbers && part(data, self.end, start - self.end).iter().any(|&b| b != 0) {
            return Err(Error::file(Fault::Tensor, data_at + self.end));
        }
        self.end = start + len;
        Ok(data_at + start)
    }

    /// Nothing may come after the last one.
    pub(crate) fn finish(self) -> Result<(), Error> {
        let ((records, records_at), (data, data_at)) = (self.records, self.data);
        if self.i * RECORD_BYTES != records.len() {
            return Err(Error::file(Fault::Tensor, records_at + self.i * RECORD_BYTES));
        }
        if self.end != data.len() {
            return Err(Error::file(Fault::Trailing, data_at + self.end));
        }
        Ok(())
    }
}

/// Scales are finite and not negative, integers within ±127.
fn check_numbers(
    file: &[u8],
    (spec, dtype): (&Spec, Dtype),
    at: usize,
    scale_at: usize,
) -> Result<(), Error> {
    let scales = slice(file, scale_at, 4 * spec.scale_count(dtype)).unwrap_or(&[]);
    for (j, s) in cast::<f32>(scales).iter().enumerate() {
        if !(s.is_finite() && *s >= 0.0) {
            return Err(Error::file(Fault::Scale, scale_at + 4 * j));
        }
    }
    // Of 4-bit numbers every byte is good; their group scales are as int8 numbers are.
    let first = if dtype == Dtype::I4 { spec.nibble_bytes() as usize } else { 0 };
    let at = at + first;
    let integers = slice(file, at, spec.data_bytes(dtype) as usize - first).unwrap_or(&[]);
    // A whole piece is looked through, which takes a tenth of the time of a search that ends early.
    for (i, piece) in integers.chunks(1024).enumerate() {
        if piece.iter().fold(false, |found, &b| found | (b == 0x80)) {
            let j = piece.iter().position(|&b| b == 0x80).unwrap_or(0);
            return Err(Error::file(Fault::Weight, at + 1024 * i + j));
        }
    }
    Ok(())
}
