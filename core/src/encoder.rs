//! The encoder file, `.vme`: from pixels to the latent of a model's tokenizer (official `models/basic_vae.py`:
//! `Encoder`, then `quant_conv`). Only editing needs it, so it is a file of its own: a program that draws has neither
//! its bytes nor this code, and models of one tokenizer share it.
//!
//! ```text
//! 0 header 64 B | 64 tensor directory, 32 B a record | tensors, each at a multiple of 64
//! ```
//!
//! docs/format.md is normative.

use half::f16;

use crate::bytes::{slice, u8_at, u16_at, u32_at, u64_at, up};
use crate::config::{DECODER_BYTES, Decoder};
use crate::error::{Error, Fault};
use crate::file::{ALIGN, CRC_AT, checksum};
use crate::model::{Directory, LayerWeights, Linear, Model, matrix};
use crate::tensor::{Data, Dtype, Layer, Matrix, RECORD_BYTES, Spec};

/// First bytes of an encoder file.
pub const MAGIC: [u8; 8] = *b"VARMENC\0";
/// The version that this build reads.
pub const VERSION: u32 = 1;
/// Header bytes.
pub const HEADER_BYTES: usize = 64;
/// Offset of the record of sizes in the header.
pub const SIZES_AT: usize = 32;

/// Sizes of an encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Levels, residual blocks per level, attention and widths, as a decoder's; level 0 has the full resolution and
    /// runs first.
    pub levels: Decoder,
    /// Channels of `conv_in`.
    pub stem: usize,
    /// Channels of the latent.
    pub cvae: usize,
}

/// One layer of an encoder, in order of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// 3x3 convolution: `conv_in`, and at the end `quant_conv`.
    Conv {
        /// Input channels.
        cin: usize,
        /// Output channels.
        cout: usize,
    },
    /// Residual block.
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
    /// 3x3 convolution with stride 2, a row and a column of zeros at the far ends only.
    Down {
        /// Channels.
        c: usize,
    },
    /// Norm, SiLU, 3x3 convolution to the latent's channels.
    Out {
        /// Input channels.
        c: usize,
        /// Output channels.
        cout: usize,
    },
}

impl Part {
    /// Tensors of the layer.
    pub const fn count(self) -> usize {
        match self {
            Self::Conv { .. } | Self::Down { .. } => 2,
            Self::Res { cin, cout } => Layer::Res { cin, cout }.count(),
            Self::Attention { c } => Layer::Attention { c }.count(),
            Self::Out { .. } => 3,
        }
    }

    /// Tensor `j` of layer `at`.
    pub fn spec(self, at: usize, j: usize) -> Spec {
        match (self, j) {
            (Self::Conv { cin, cout }, j) => Layer::Conv { cin, cout }.spec(0, at, j),
            (Self::Res { cin, cout }, j) => Layer::Res { cin, cout }.spec(0, at, j),
            (Self::Attention { c }, j) => Layer::Attention { c }.spec(0, at, j),
            (Self::Down { c }, j) => Layer::Up { c }.spec(0, at, j),
            (Self::Out { c, .. }, 0) => Layer::Out { c }.spec(0, at, 0),
            (Self::Out { c, cout }, j) => Layer::Conv { cin: c, cout }.spec(0, at, j - 1),
        }
    }
}

impl Sizes {
    /// From the header of a file.
    ///
    /// # Errors
    /// [`Fault::Config`], with the byte.
    pub fn parse(header: &[u8]) -> Result<Self, Error> {
        let (stem, cvae) = (u16_at(header, 24) as usize, u16_at(header, 26) as usize);
        let record = slice(header, SIZES_AT, DECODER_BYTES).unwrap_or(&[]);
        let levels = Decoder::parse(record, SIZES_AT)?;
        // Of decoders only.
        if levels.inner != 0 {
            return Err(Error::file(Fault::Config, SIZES_AT + 10));
        }
        if !Decoder::is_width(stem) {
            return Err(Error::file(Fault::Config, 24));
        }
        if cvae == 0 || cvae > 256 {
            return Err(Error::file(Fault::Config, 26));
        }
        Ok(Self { levels, stem, cvae })
    }

    /// Pixels per latent side.
    pub const fn factor(&self) -> usize {
        self.levels.factor()
    }

    /// Channels with which level `i` begins.
    pub const fn first(&self, i: usize) -> usize {
        if i == 0 { self.stem } else { self.levels.width(i - 1) }
    }

    /// Layers.
    pub const fn n_layers(&self) -> usize {
        // conv_in, the middle's three, conv_out, quant_conv: as many as the decoder has beside its levels.
        self.levels.n_layers()
    }

    /// Layer `at`, and the level of its input; the last one past the end.
    pub const fn layer(&self, at: usize) -> (Part, usize) {
        if at == 0 {
            return (Part::Conv { cin: 3, cout: self.stem }, 0);
        }
        let d = &self.levels;
        let (mut left, mut cin, mut level) = (at - 1, self.stem, 0);
        let levels = d.levels as usize;
        while level < levels {
            let c = d.width(level);
            let attention = d.attention >> level & 1 == 1;
            let mut j = 0;
            while j < d.blocks as usize {
                if left == 0 {
                    return (Part::Res { cin, cout: c }, level);
                }
                left -= 1;
                cin = c;
                if attention {
                    if left == 0 {
                        return (Part::Attention { c }, level);
                    }
                    left -= 1;
                }
                j += 1;
            }
            if level + 1 < levels {
                if left == 0 {
                    return (Part::Down { c }, level);
                }
                left -= 1;
            }
            level += 1;
        }
        let (c, top) = (d.top(), levels - 1);
        let part = match left {
            0 | 2 => Part::Res { cin: c, cout: c },
            1 => Part::Attention { c },
            3 => Part::Out { c, cout: self.cvae },
            _ => Part::Conv { cin: self.cvae, cout: self.cvae },
        };
        (part, top)
    }

    /// All tensors that a file of these sizes must have, in order.
    ///
    /// # Errors
    /// The first error of `visit`.
    pub fn for_each_spec<E>(&self, mut visit: impl FnMut(Spec) -> Result<(), E>) -> Result<(), E> {
        for at in 0..self.n_layers() {
            let (part, _) = self.layer(at);
            for j in 0..part.count() {
                visit(part.spec(at, j))?;
            }
        }
        Ok(())
    }

    /// Tensors before layer `at`.
    const fn tensors_before(&self, at: usize) -> usize {
        let (mut n, mut i) = (0, 0);
        while i < at {
            n += self.layer(i).0.count();
            i += 1;
        }
        n
    }
}

/// An encoder in memory or flash, checked. `Copy`: a few references and the sizes.
#[derive(Clone, Copy, Debug)]
pub struct Encoder<'a> {
    /// The sizes.
    pub sizes: Sizes,
    /// [`codebook_crc`] of the model it was trained for; 0 where that is not known.
    pub codebook: u32,
    file: &'a [u8],
    records: &'a [u8],
}

impl<'a> Encoder<'a> {
    /// Checks the whole file, as [`Model::parse`] does a model's.
    ///
    /// # Errors
    /// [`Error::File`] with what is wrong and at which byte.
    pub fn parse(file: &'a [u8]) -> Result<Self, Error> {
        if file.len() < HEADER_BYTES {
            return Err(Error::file(Fault::Truncated, file.len()));
        }
        if u64_at(file, 0) != u64::from_le_bytes(MAGIC) {
            return Err(Error::file(Fault::Magic, 0));
        }
        if u32_at(file, 8) != VERSION {
            return Err(Error::file(Fault::Version, 8));
        }
        let len = u64_at(file, 16);
        if len > file.len() as u64 {
            return Err(Error::file(Fault::Truncated, file.len()));
        }
        if len < file.len() as u64 {
            return Err(Error::file(Fault::Trailing, len as usize));
        }
        if !(file.as_ptr() as usize).is_multiple_of(ALIGN) {
            return Err(Error::file(Fault::Misaligned, 0));
        }
        if checksum(file) != u32_at(file, CRC_AT) {
            return Err(Error::file(Fault::Checksum, CRC_AT));
        }
        let sizes = Sizes::parse(file)?;
        let directory = sizes.tensors_before(sizes.n_layers()) * RECORD_BYTES;
        let data_at = up(HEADER_BYTES + directory, ALIGN);
        let (Some(records), Some(data), Some(zeros)) = (
            slice(file, HEADER_BYTES, directory),
            file.get(data_at..),
            file.get(HEADER_BYTES + directory..data_at),
        ) else {
            return Err(Error::file(Fault::Section, HEADER_BYTES));
        };
        if let Some(i) = zeros.iter().position(|&b| b != 0) {
            return Err(Error::file(Fault::Section, HEADER_BYTES + directory + i));
        }
        let mut check = Directory::new(file, (records, HEADER_BYTES), (data, data_at), true);
        sizes.for_each_spec(|spec| check.check(spec, sizes.levels.act))?;
        check.finish()?;
        Ok(Self { sizes, codebook: u32_at(file, 28), file, records })
    }

    /// Whether it makes latents of this model.
    ///
    /// # Errors
    /// [`Error::WrongEncoder`].
    pub fn belongs_to(&self, model: &Model<'_>) -> Result<(), Error> {
        let shape = &model.shape;
        let same = self.sizes.cvae == shape.config.cvae as usize
            && self.sizes.factor() == shape.decoder(0).factor();
        let known = match codebook_crc(model) {
            Some(crc) if self.codebook != 0 => crc == self.codebook,
            _ => true,
        };
        if same && known { Ok(()) } else { Err(Error::WrongEncoder) }
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> usize {
        self.file.len()
    }

    /// The tensor at position `i` of the directory, with its specification and storage. For tools.
    pub fn tensor(&self, i: usize) -> Option<(Spec, Dtype, Matrix<'a>)> {
        let (mut n, mut found) = (0, None);
        let _ = self.sizes.for_each_spec(|spec| {
            if n == i {
                found = Some(spec);
                return Err(());
            }
            n += 1;
            Ok(())
        });
        let dtype = Dtype::parse(u8_at(self.records, i * RECORD_BYTES + 2))?;
        found.map(|spec| (spec, dtype, matrix(self.file, self.records, i, spec)))
    }

    /// The weights of layer `at`.
    pub fn layer(&self, at: usize) -> LayerWeights<'a> {
        let (part, _) = self.sizes.layer(at);
        let base = self.sizes.tensors_before(at);
        let get = |j| matrix(self.file, self.records, base + j, part.spec(at, j));
        let vector = |j| match get(j).data {
            Data::F32(v) => v,
            _ => &[],
        };
        let linear = |j| Linear { w: get(j), bias: vector(j + 1) };
        match part {
            Part::Conv { .. } | Part::Down { .. } => LayerWeights::Conv(linear(0)),
            Part::Res { cin, cout } => LayerWeights::Res {
                norm1: vector(0),
                conv1: linear(1),
                norm2: vector(3),
                conv2: linear(4),
                shortcut: (cin != cout).then(|| linear(6)),
            },
            Part::Attention { .. } => {
                LayerWeights::Attention { norm: vector(0), qkv: linear(1), proj: linear(3) }
            }
            Part::Out { .. } => LayerWeights::Out { norm: vector(0), conv: linear(1) },
        }
    }
}

/// What an encoder knows its model by: CRC-32 (ISO-HDLC) of the codebook's numbers as little-endian f16, never 0.
/// `None` where the codebook is stored in int8, whose numbers are others.
pub fn codebook_crc(model: &Model<'_>) -> Option<u32> {
    const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let mut digest = CRC.digest();
    match model.codebook().data {
        Data::F16(w) => w.iter().for_each(|v| digest.update(&v.to_le_bytes())),
        Data::F32(w) => w.iter().for_each(|v| digest.update(&f16::from_f32(*v).to_le_bytes())),
        _ => return None,
    }
    Some(digest.finalize().max(1))
}
