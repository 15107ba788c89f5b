//! Everything that a model file says besides its tensors, and the bytes of its sections
//! (docs/format.md is normative; `varmint_core` is the reader).

use varmint_core::config::{
    CONFIG_BYTES, DECODER_BYTES, MAX_DECODERS, MAX_LEVELS, MAX_SCALES, MAX_TABLES, TRUNK_BYTES,
};
use varmint_core::file::{ALIGN, Container, HEADER_BYTES, MAGIC, SECTION_BYTES, SECTIONS, VERSION};
use varmint_core::tier::TIER_BYTES;
use varmint_core::{Keep, Plan, Sampling, Scale, Shape, Store, Trunk, encoder};

use crate::error::Error;

/// A condition table: its name, its rows (the last one means "not given"), and names for the rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// `class`, `style`.
    pub name: String,
    /// Rows, with the last one.
    pub rows: usize,
    /// Names of all rows but the last; empty when the rows have no names.
    pub labels: Vec<String>,
}

/// Sizes of an image decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct DecoderSizes {
    /// Channels per level, level 0 (full resolution) first.
    pub widths: Vec<u16>,
    /// Residual blocks per level.
    pub blocks: u32,
    /// Bit i: every block of level i is followed by attention.
    pub attention: u32,
    /// Channels between `post_quant_conv` and `conv_in`; 0: those of the latent.
    pub inner: u16,
    /// Bytes of the widest input of a weight: 4, 2 or 1. [`crate::write::write`] sets it.
    pub act: u32,
}

/// A row of the tier table.
#[derive(Clone, Debug, PartialEq)]
pub struct TierRow {
    /// At most 16 printable ASCII characters, without spaces.
    pub name: String,
    /// Per scale: which trunk runs it, and a mask of its blocks that do.
    pub scales: Vec<(u8, u64)>,
    /// How keys and values are stored.
    pub cache: Store,
    /// How the decoder's maps are stored: f32 or f16.
    pub maps: Store,
    /// Scales before this one are guided.
    pub guided: u8,
    /// Which decoder.
    pub decoder: u8,
    /// Tokens per call of a block.
    pub tile: u16,
    /// Rows per call of a decoder layer.
    pub strip: u16,
    /// Bytes kept free for the kernels of the decoder's 3x3 convolutions.
    pub conv_scratch: u32,
    /// Whether both rows of a tile run in one call of a block.
    pub together: bool,
    /// What stays in the cache, and what a token sees.
    pub keep: Keep,
}

/// A model file without its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// A number that grows with every release.
    pub sequence: u32,
    /// The model's name.
    pub name: String,
    /// Licences and credits.
    pub licence: String,
    /// Codebook entries.
    pub vocab: u32,
    /// Channels of the latent.
    pub cvae: u32,
    /// Phi convolutions; none where scales replace the latent.
    pub n_phi: u32,
    /// Defaults for a request.
    pub sampling: Sampling,
    /// The schedule.
    pub scales: Vec<Scale>,
    /// Condition tables.
    pub tables: Vec<Table>,
    /// Transformers. [`crate::write::write`] sets `act`.
    pub trunks: Vec<Trunk>,
    /// Image decoders.
    pub decoders: Vec<DecoderSizes>,
    /// Tiers, best first.
    pub tiers: Vec<TierRow>,
}

/// A buffer of known length, filled by offset as the tables of docs/format.md are written.
struct Record(Vec<u8>);

impl Record {
    fn new(len: usize) -> Self {
        Self(vec![0; len])
    }

    fn put(&mut self, at: usize, bytes: &[u8]) -> &mut Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u32(&mut self, at: usize, v: u32) -> &mut Self {
        self.put(at, &v.to_le_bytes())
    }

    fn u16(&mut self, at: usize, v: u16) -> &mut Self {
        self.put(at, &v.to_le_bytes())
    }

    fn f32(&mut self, at: usize, v: f32) -> &mut Self {
        self.u32(at, v.to_bits())
    }
}

impl Description {
    /// The shapes, as the core reads them.
    ///
    /// # Errors
    /// [`Error::Option`] when something has no place in the format, [`Error::Shape`] when the core
    /// refuses a number.
    pub fn shape(&self) -> Result<Shape, Error> {
        let file = self.without_tensors()?;
        Container::parse(&file).and_then(|c| c.shape()).map_err(Error::Shape)
    }

    /// The plan of tier `tier`: memory and work are known without a weight.
    ///
    /// # Errors
    /// As [`Description::shape`], and [`Error::Shape`] for a tier that the core refuses.
    pub fn plan(&self, tier: usize) -> Result<Plan, Error> {
        Plan::of_file(&self.without_tensors()?, tier).map_err(Error::Shape)
    }

    /// The file with its last two sections empty.
    fn without_tensors(&self) -> Result<Vec<u8>, Error> {
        let mut sections = self.sections()?;
        sections.push(Vec::new());
        Ok(head(self.sequence, &sections, 0).0)
    }

    /// The first five sections: config, trunks, decoders, tiers, text.
    pub(crate) fn sections(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.fits()?;
        let all = |records: Vec<Record>| records.into_iter().flat_map(|r| r.0).collect();
        Ok(vec![
            self.config().0,
            all(self.trunks.iter().map(trunk).collect()),
            all(self.decoders.iter().map(decoder).collect()),
            all(self.tiers.iter().map(tier).collect()),
            self.text(),
        ])
    }

    /// Refuses what has no place in the records; the core checks everything else.
    fn fits(&self) -> Result<(), Error> {
        let at_most = |what: &str, n: usize, limit: usize| {
            if n <= limit {
                return Ok(());
            }
            Err(Error::Option(format!("{what}: {n} of them; the format holds {limit}")))
        };
        at_most("scales", self.scales.len(), MAX_SCALES)?;
        at_most("condition tables", self.tables.len(), MAX_TABLES)?;
        at_most("image decoders", self.decoders.len(), MAX_DECODERS)?;
        for d in &self.decoders {
            at_most("decoder levels", d.widths.len(), MAX_LEVELS)?;
            // What the core refuses must not look good for lack of bits.
            at_most(
                "levels with attention",
                d.attention.checked_ilog2().map_or(0, |n| n as usize + 1),
                16,
            )?;
        }
        for t in &self.tiers {
            at_most("characters of a tier's name", t.name.len(), 16)?;
            at_most("scales of a tier", t.scales.len(), MAX_SCALES)?;
        }
        for t in &self.tables {
            if !t.labels.is_empty() && t.labels.len() + 1 != t.rows {
                let what = format!("labels of table {:?}", t.name);
                return Err(Error::mismatch(what, t.rows - 1, t.labels.len()));
            }
        }
        Ok(())
    }

    fn config(&self) -> Record {
        let mut r = Record::new(CONFIG_BYTES);
        r.u32(0, self.vocab).u32(4, self.cvae);
        r.u32(8, self.scales.len() as u32).u32(12, self.n_phi).u32(16, self.tables.len() as u32);
        r.u32(20, self.trunks.len() as u32).u32(24, self.decoders.len() as u32);
        r.u32(28, self.tiers.len() as u32);
        let s = &self.sampling;
        r.f32(32, s.guidance).u32(36, s.top_k).f32(40, s.top_p).f32(44, s.temperature);
        for (k, s) in self.scales.iter().enumerate() {
            r.u16(64 + 8 * k, s.h).u16(66 + 8 * k, s.w);
            r.put(68 + 8 * k, &[s.phi, s.rule()]);
        }
        for (t, table) in self.tables.iter().enumerate() {
            r.u32(192 + 8 * t, table.rows as u32);
            r.u32(196 + 8 * t, u32::from(!table.labels.is_empty()));
        }
        r
    }

    /// Count, `count + 1` offsets from the start of the section, then the strings.
    fn text(&self) -> Vec<u8> {
        let mut strings = vec![self.name.as_str(), self.licence.as_str()];
        strings.extend(self.tables.iter().map(|t| t.name.as_str()));
        strings.extend(self.tables.iter().flat_map(|t| t.labels.iter().map(String::as_str)));
        let mut at = (4 + 4 * (strings.len() + 1)) as u32;
        let mut out = (strings.len() as u32).to_le_bytes().to_vec();
        out.extend(at.to_le_bytes());
        for s in &strings {
            at += s.len() as u32;
            out.extend(at.to_le_bytes());
        }
        out.extend(strings.iter().flat_map(|s| s.bytes()));
        out
    }
}

fn trunk(t: &Trunk) -> Record {
    let mut r = Record::new(TRUNK_BYTES);
    r.u32(0, t.depth).u32(4, t.width).u32(8, t.heads).u32(12, t.hidden);
    r.u32(16, t.aln.flags() | u32::from(t.l2_norm) << 1).u32(20, t.act);
    r.put(32, &t.wide_heads);
    r
}

fn decoder(d: &DecoderSizes) -> Record {
    let mut r = Record::new(DECODER_BYTES);
    r.u32(0, d.widths.len() as u32).u32(4, d.blocks).u32(12, d.act);
    r.u16(8, d.attention as u16).u16(10, d.inner);
    for (i, w) in d.widths.iter().enumerate() {
        r.u16(16 + 2 * i, *w);
    }
    r
}

/// Sizes of an encoder: those of a decoder, and channels of its first convolution and of the latent.
#[derive(Clone, Debug, PartialEq)]
pub struct EncoderSizes {
    /// Levels, blocks, attention; [`crate::write::write_encoder`] sets `act`.
    pub levels: DecoderSizes,
    /// Channels of `conv_in`.
    pub stem: u16,
    /// Channels of the latent.
    pub cvae: u16,
}

impl EncoderSizes {
    /// The header of an encoder file of so many bytes, its checksum zero.
    ///
    /// # Errors
    /// [`Error::Option`] for more levels than the format holds.
    pub(crate) fn head(&self, codebook: u32, len: u64) -> Result<Vec<u8>, Error> {
        if self.levels.widths.len() > MAX_LEVELS {
            let n = self.levels.widths.len();
            let m = format!("encoder levels: {n} of them; the format holds {MAX_LEVELS}");
            return Err(Error::Option(m));
        }
        let mut r = Record::new(encoder::HEADER_BYTES);
        r.put(0, &encoder::MAGIC).u32(8, encoder::VERSION).put(16, &len.to_le_bytes());
        r.u16(24, self.stem).u16(26, self.cvae).u32(28, codebook);
        r.put(encoder::SIZES_AT, &decoder(&self.levels).0);
        Ok(r.0)
    }
}

fn tier(t: &TierRow) -> Record {
    let mut r = Record::new(TIER_BYTES);
    r.put(0, t.name.as_bytes());
    for (k, (trunk, blocks)) in t.scales.iter().enumerate() {
        r.put(16 + k, &[*trunk]).put(32 + 8 * k, &blocks.to_le_bytes());
    }
    r.put(160, &[t.cache as u8, t.maps as u8, t.guided, t.decoder]);
    r.u16(164, t.tile).u16(166, t.strip).u32(168, t.conv_scratch);
    r.put(177, &[u8::from(t.together)]);
    let k = &t.keep;
    r.put(172, &[k.window, k.window_from, k.grid, k.pool, k.protect].map(|v| v as u8));
    for (i, most) in k.most.iter().flatten().enumerate() {
        r.u16(192 + 2 * i, *most);
    }
    r
}

/// Header, section table and the first six sections, padded to where the data section starts; and
/// that place. The checksum is zero; `data_len` is the length of the data section.
pub(crate) fn head(sequence: u32, sections: &[Vec<u8>], data_len: u64) -> (Vec<u8>, u64) {
    let mut file = vec![0u8; HEADER_BYTES + SECTIONS * SECTION_BYTES];
    for i in 0..SECTIONS {
        file.resize(file.len().next_multiple_of(ALIGN), 0);
        let start = file.len() as u64;
        let section = sections.get(i).map_or(&[][..], Vec::as_slice);
        let len = if i + 1 == SECTIONS { data_len } else { section.len() as u64 };
        let mut r = Record::new(SECTION_BYTES);
        r.u32(0, i as u32 + 1).put(8, &start.to_le_bytes()).put(16, &len.to_le_bytes());
        let at = HEADER_BYTES + i * SECTION_BYTES;
        file[at..at + SECTION_BYTES].copy_from_slice(&r.0);
        file.extend(section);
    }
    let data_at = file.len() as u64;
    let mut header = Record::new(HEADER_BYTES);
    header.put(0, &MAGIC).u32(8, VERSION).put(16, &(data_at + data_len).to_le_bytes());
    header.u32(24, SECTIONS as u32).u32(28, sequence);
    file[..HEADER_BYTES].copy_from_slice(&header.0);
    (file, data_at)
}
