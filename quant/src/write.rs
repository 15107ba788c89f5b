//! The `.vmt` writer: one tensor after the other to disk, so that memory stays at the size of the
//! largest tensor.
//!
//! ```text
//! description -> shape -> storage of every tensor -> all offsets -> head
//! head | tensor, scales | tensor, scales | ..       the checksum runs along and is put in last
//! ```
//!
//! The file appears under its name only when it is whole and the core has accepted it.

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use varmint::ModelFile;
use varmint_core::config::{DECODER_BYTES, TRUNK_BYTES};
use varmint_core::encoder::{HEADER_BYTES, Sizes};
use varmint_core::file::{ALIGN, CRC_AT, Container, Kind};
use varmint_core::tensor::{Class, Dtype, RECORD_BYTES, Role, Spec, for_each_spec};
use varmint_core::tier::TIER_BYTES;
use varmint_core::{Encoder, Model, Shape};

use crate::description::{Description, EncoderSizes, head};
use crate::error::Error;
use crate::numbers::Numbers;
use crate::quantize::Encoded;

/// All tensors of a shape, in the order of the file.
pub fn specs(shape: &Shape) -> Vec<Spec> {
    let mut all = Vec::new();
    let _ = for_each_spec(shape, |spec| {
        all.push(spec);
        Ok::<(), std::convert::Infallible>(())
    });
    all
}

/// Writes a model to `path`: `dtype` chooses the storage of a tensor, `tensor` gives its bytes
/// (called once for every tensor, in the order of the file). Returns the length of the file.
///
/// The activation widths of trunks and decoders in `description` are replaced by those that follow
/// from the storage.
///
/// # Errors
/// Those of `dtype` and `tensor`; [`Error::Io`]; [`Error::Model`] when the core refuses the result.
pub fn write(
    path: &Path,
    description: &Description,
    mut dtype: impl FnMut(&Spec) -> Result<Dtype, Error>,
    tensor: impl FnMut(usize, &Spec, Dtype) -> Result<Encoded, Error>,
) -> Result<u64, Error> {
    put_all(path, &layout(&mut description.clone(), &mut dtype)?, tensor)
}

/// Writes `model` with other numbers. Besides the tensors' storage this changes how tiers store keys, values and maps,
/// if they do it as the first one does, and the name of a tier that is called after its numbers.
///
/// # Errors
/// As [`write()`].
pub fn rewrite(
    path: &Path,
    model: &Model<'_>,
    numbers: Numbers,
    dtype: impl FnMut(&Spec) -> Result<Dtype, Error>,
    tensor: impl FnMut(usize, &Spec, Dtype) -> Result<Encoded, Error>,
) -> Result<u64, Error> {
    let container = Container::parse(model.bytes()).map_err(Error::Shape)?;
    let kinds = [Kind::Config, Kind::Trunks, Kind::Decoders, Kind::Tiers, Kind::Text];
    let mut sections = kinds.map(|k| container.section(k).0.to_vec());
    let specs = specs(&model.shape);
    let dtypes = specs.iter().map(dtype).collect::<Result<Vec<_>, _>>()?;
    let [_, trunks, decoders, tiers, _] = &mut sections;
    for (set, t) in trunks.chunks_exact_mut(TRUNK_BYTES).enumerate() {
        t[20..24].copy_from_slice(&widest(&specs, &dtypes, false, set).to_le_bytes());
    }
    for (set, d) in decoders.chunks_exact_mut(DECODER_BYTES).enumerate() {
        d[12..16].copy_from_slice(&widest(&specs, &dtypes, true, set).to_le_bytes());
    }
    let (cache, maps) = numbers.stores();
    let first = tiers.get(160..162).map(<[u8]>::to_vec).unwrap_or_default();
    for t in tiers.chunks_exact_mut(TIER_BYTES) {
        for (at, store) in [(160, cache), (161, maps)] {
            if t[at] == first[at - 160] {
                t[at] = store as u8;
            }
        }
        let name: Vec<u8> = t[..16].iter().copied().take_while(|&b| b != 0).collect();
        if Numbers::ALL.iter().any(|n| n.name().as_bytes() == name) {
            t[..16].fill(0);
            t[..numbers.name().len()].copy_from_slice(numbers.name().as_bytes());
        }
    }
    let (head, data_len) = whole_head(model.sequence, sections.to_vec(), &specs, &dtypes);
    put_all(path, &Layout { specs, dtypes, head, data_len }, tensor)
}

/// The head, then one tensor after the other.
fn put_all(
    path: &Path,
    layout: &Layout,
    mut tensor: impl FnMut(usize, &Spec, Dtype) -> Result<Encoded, Error>,
) -> Result<u64, Error> {
    let mut out = Output::create(path)?;
    out.put(&layout.head)?;
    for (i, (spec, dtype)) in layout.specs.iter().zip(&layout.dtypes).enumerate() {
        out.tensor(spec, *dtype, &tensor(i, spec, *dtype)?)?;
    }
    out.finish(|file| Model::parse(file).map(|_| ()))
}

/// Writes an encoder file to `path`: `dtype` and `tensor` as of [`write()`], `codebook` as
/// [`varmint_core::encoder::codebook_crc`] of its model. Returns its length.
///
/// # Errors
/// As [`write()`].
pub fn write_encoder(
    path: &Path,
    sizes: &EncoderSizes,
    codebook: u32,
    mut dtype: impl FnMut(&Spec) -> Dtype,
    mut tensor: impl FnMut(usize, &Spec, Dtype) -> Result<Encoded, Error>,
) -> Result<u64, Error> {
    let mut sizes = sizes.clone();
    sizes.levels.act = 4;
    let mut specs = Vec::new();
    let core = Sizes::parse(&sizes.head(codebook, 0)?).map_err(Error::Shape)?;
    let _ = core.for_each_spec(|spec| {
        specs.push(spec);
        Ok::<(), std::convert::Infallible>(())
    });
    let dtypes: Vec<Dtype> = specs.iter().map(&mut dtype).collect();
    let acts = specs.iter().zip(&dtypes).filter(|(s, _)| s.class == Class::Weight);
    sizes.levels.act = acts.map(|(_, d)| d.act()).max().unwrap_or(4);
    let data_at = (HEADER_BYTES + specs.len() * RECORD_BYTES).next_multiple_of(ALIGN) as u64;
    let (directory, data_len) = records(&specs, &dtypes, data_at);
    let mut head = sizes.head(codebook, data_at + data_len)?;
    head.extend(directory);
    let mut out = Output::create(path)?;
    out.put(&head)?;
    for (i, (spec, dtype)) in specs.iter().zip(&dtypes).enumerate() {
        out.tensor(spec, *dtype, &tensor(i, spec, *dtype)?)?;
    }
    out.finish(|file| Encoder::parse(file).map(|_| ()))
}

/// Without a tensor at hand: the description as [`write()`] would store it, and the length of the file.
///
/// # Errors
/// As [`write()`], of the description and `dtype`.
pub fn measure(
    description: &Description,
    mut dtype: impl FnMut(&Spec) -> Result<Dtype, Error>,
) -> Result<(Description, u64), Error> {
    let mut description = description.clone();
    let layout = layout(&mut description, &mut dtype)?;
    Ok((description, layout.head.len() as u64 + layout.data_len))
}

/// Everything of a file but its tensors.
struct Layout {
    specs: Vec<Spec>,
    dtypes: Vec<Dtype>,
    head: Vec<u8>,
    data_len: u64,
}

/// The activation widths in `description` become those that follow from the storage.
fn layout(
    description: &mut Description,
    dtype: &mut dyn FnMut(&Spec) -> Result<Dtype, Error>,
) -> Result<Layout, Error> {
    let specs = specs(&description.shape()?);
    let dtypes = specs.iter().map(dtype).collect::<Result<Vec<_>, _>>()?;
    for (set, t) in description.trunks.iter_mut().enumerate() {
        t.act = widest(&specs, &dtypes, false, set);
    }
    for (set, d) in description.decoders.iter_mut().enumerate() {
        d.act = widest(&specs, &dtypes, true, set);
    }
    let sections = description.sections()?;
    let (head, data_len) = whole_head(description.sequence, sections, &specs, &dtypes);
    Ok(Layout { specs, dtypes, head, data_len })
}

/// The widest input that a weight of a trunk or decoder reads. Word embedding and phi read
/// floats from buffers of their own and do not count.
fn widest(specs: &[Spec], dtypes: &[Dtype], decoder: bool, set: usize) -> u32 {
    let counts = |s: &Spec| {
        s.class == Class::Weight
            && s.set == set
            && !matches!(s.role, Role::PhiWeight | Role::WordWeight)
            && matches!(s.role, Role::ConvWeight) == decoder
    };
    let acts = specs.iter().zip(dtypes).filter(|(s, _)| counts(s)).map(|(_, d)| d.act());
    acts.max().unwrap_or(4)
}

/// Of the first five sections and the tensors' storage: the head, and the length of the data section.
fn whole_head(
    sequence: u32,
    mut sections: Vec<Vec<u8>>,
    specs: &[Spec],
    dtypes: &[Dtype],
) -> (Vec<u8>, u64) {
    // Where the data starts follows from the length of the directory, not from its content.
    sections.push(vec![0; specs.len() * RECORD_BYTES]);
    let (_, data_at) = head(sequence, &sections, 0);
    let (directory, data_len) = records(specs, dtypes, data_at);
    sections.pop();
    sections.push(directory);
    (head(sequence, &sections, data_len).0, data_len)
}

/// Records of tensors that lie one after the other from `data_at` on, and how many bytes these are.
fn records(specs: &[Spec], dtypes: &[Dtype], data_at: u64) -> (Vec<u8>, u64) {
    let mut end = data_at;
    let mut place = |len: u64| {
        let at = end.next_multiple_of(ALIGN as u64);
        end = at + len;
        at
    };
    let mut out = Vec::new();
    for (s, d) in specs.iter().zip(dtypes) {
        let at = place(s.data_bytes(*d));
        let scales = s.scale_count(*d) as u64;
        let scale_at = if scales == 0 { 0 } else { place(4 * scales) };
        out.extend((s.role as u16).to_le_bytes());
        out.extend([*d as u8, s.set as u8]);
        out.extend((s.index as u16).to_le_bytes());
        out.extend((s.taps as u16).to_le_bytes());
        out.extend((s.rows as u32).to_le_bytes());
        out.extend((s.cols as u32).to_le_bytes());
        out.extend(at.to_le_bytes());
        out.extend(scale_at.to_le_bytes());
    }
    (out, end - data_at)
}

/// A file in the making, under a temporary name beside its own; removed unless finished.
struct Output<'a> {
    path: &'a Path,
    part: PathBuf,
    file: BufWriter<File>,
    crc: crc::Digest<'static, u32>,
    len: u64,
    done: bool,
}

static CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

impl<'a> Output<'a> {
    fn create(path: &'a Path) -> Result<Self, Error> {
        let name = path.file_name().ok_or_else(|| {
            Error::Option(format!("{}: not the name of a file to write", path.display()))
        })?;
        let mut part = name.to_owned();
        part.push(format!(".{}.tmp", std::process::id()));
        let part = path.with_file_name(part);
        let file = File::create(&part).map_err(|e| Error::io(&part, e))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        Ok(Self { path, part, file, crc: CRC.digest(), len: 0, done: false })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.crc.update(bytes);
        self.len += bytes.len() as u64;
        self.file.write_all(bytes).map_err(|e| Error::io(&self.part, e))
    }

    fn align(&mut self) -> Result<(), Error> {
        let pad = (self.len.next_multiple_of(ALIGN as u64) - self.len) as usize;
        self.put(&[0; ALIGN][..pad])
    }

    fn tensor(&mut self, spec: &Spec, dtype: Dtype, e: &Encoded) -> Result<(), Error> {
        let wanted = (spec.data_bytes(dtype), spec.scale_count(dtype));
        if (e.data.len() as u64, e.scales.len()) != wanted {
            let found = (e.data.len(), e.scales.len());
            let what = format!("{:?} {}: bytes and scales", spec.role, spec.index);
            return Err(Error::mismatch(what, format!("{wanted:?}"), format!("{found:?}")));
        }
        self.align()?;
        self.put(&e.data)?;
        if !e.scales.is_empty() {
            self.align()?;
            let bytes: Vec<u8> = e.scales.iter().flat_map(|s| s.to_le_bytes()).collect();
            self.put(&bytes)?;
        }
        Ok(())
    }

    /// Puts the checksum in, has the core read the file, and gives it its name.
    fn finish(
        mut self,
        parse: impl FnOnce(&[u8]) -> Result<(), varmint_core::Error>,
    ) -> Result<u64, Error> {
        let crc = std::mem::replace(&mut self.crc, CRC.digest()).finalize();
        let end = self
            .file
            .seek(SeekFrom::Start(CRC_AT as u64))
            .and_then(|_| self.file.write_all(&crc.to_le_bytes()))
            .and_then(|()| self.file.flush());
        end.map_err(|e| Error::io(&self.part, e))?;
        let file = ModelFile::open(&self.part).map_err(|e| Error::io(&self.part, e))?;
        let parsed = parse(file.bytes());
        drop(file);
        parsed.map_err(|source| Error::Model { path: self.path.to_owned(), source })?;
        std::fs::rename(&self.part, self.path).map_err(|e| Error::io(self.path, e))?;
        self.done = true;
        Ok(self.len)
    }
}

impl Drop for Output<'_> {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what is reported is the error that led here.
            let _ = std::fs::remove_file(&self.part);
        }
    }
}
