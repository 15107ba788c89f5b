//! The encoder of a tokenizer to a file of its own, beside a model file: what editing needs.

use std::path::Path;

use varmint::ModelFile;
use varmint_core::encoder::{Encoder, codebook_crc};
use varmint_core::tensor::{Class, Dtype, Role, Spec};
use varmint_core::{Error as CoreError, Model};

use crate::checkpoint::Checkpoint;
use crate::convert::{Converted, Report};
use crate::description::{DecoderSizes, EncoderSizes};
use crate::error::Error;
use crate::numbers::Numbers;
use crate::official::{EncoderConfig, StateDict};
use crate::quantize::{conv_order, encode};
use crate::write::write_encoder;

/// Writes `encoder.*` and `quant_conv.*` of `weights` to `out`, as an encoder for `model`.
///
/// Weights are f32, f16, or int8 with 12-bit inputs: a token flips easily, and an encoder runs once per picture.
///
/// # Errors
/// Any of [`Error`]; a wrong tensor is named by its official key. An encoder whose latent or picture has another size
/// than the model's.
pub fn convert_encoder(
    weights: &Path,
    model: &Model<'_>,
    numbers: Numbers,
    out: &Path,
) -> Result<Report, Error> {
    let file = Checkpoint::open(weights)?;
    let (dict, config) = EncoderConfig::find(&file)?;
    let sizes = sizes(&dict, &config)?;
    let shape = &model.shape;
    for (what, encoder, model) in [
        ("channels of the latent", config.cvae, shape.config.cvae as usize),
        ("pixels per latent side", 1 << (config.widths.len() - 1), shape.decoder(0).factor()),
    ] {
        if encoder != model {
            let what = format!("{}: {what} of the encoder", dict.place());
            return Err(Error::mismatch(what, format!("{model}, as the model"), encoder));
        }
    }
    let dtype = |spec: &Spec| match (numbers, spec.class) {
        (Numbers::F32, _) | (_, Class::Vector) => Dtype::F32,
        (Numbers::F16, _) => Dtype::F16,
        (Numbers::Int8 | Numbers::Int4, _) if spec.allows(Dtype::I8Wide) => Dtype::I8Wide,
        (Numbers::Int8 | Numbers::Int4, _) => Dtype::I8,
    };
    // Keys in the order of the file, which is that of execution: a norm is two keys, anything else one.
    let mut keys = config.keys().into_iter().map(|(key, _)| key);
    let mut tensors = Vec::new();
    let codebook = codebook_crc(model).unwrap_or(0);
    let file_bytes = write_encoder(out, &sizes, codebook, dtype, |_, spec, dtype| {
        let key = keys.next().unwrap_or_default();
        let values = match spec.role {
            Role::NormAffine => {
                let mut all = dict.need(&key, &[spec.cols])?;
                all.extend(dict.need(&keys.next().unwrap_or_default(), &[spec.cols])?);
                all
            }
            Role::ConvBias => dict.need(&key, &[spec.cols])?,
            _ => {
                let side = if spec.taps == 9 { 3 } else { 1 };
                let w = dict.need(&key, &[spec.rows, spec.cols, side, side])?;
                conv_order(&w, spec.cols, spec.taps)
            }
        };
        let e = encode(spec, dtype, &values, &key)?;
        let bytes = (e.data.len() + 4 * e.scales.len()) as u64;
        tensors.push(Converted { spec: *spec, key, dtype, bytes, snr_db: None });
        Ok(e)
    })?;
    Ok(Report { name: format!("encoder for {}", model.name()), file_bytes, tensors })
}

/// The sizes as the format has them; the core checks the numbers.
fn sizes(dict: &StateDict<'_>, config: &EncoderConfig) -> Result<EncoderSizes, Error> {
    let narrow = |what: &str, n: usize| {
        u16::try_from(n)
            .map_err(|_| Error::mismatch(format!("{}: {what}", dict.place()), "at most 65535", n))
    };
    let widths = config.widths.iter().map(|&w| narrow("channels of a level", w));
    let bits = config.attention.iter().enumerate().map(|(i, &on)| u32::from(on) << i.min(31));
    let levels = DecoderSizes {
        widths: widths.collect::<Result<_, _>>()?,
        blocks: config.blocks as u32,
        attention: bits.sum(),
        inner: 0,
        act: 4,
    };
    let stem = narrow("channels of conv_in", config.stem)?;
    Ok(EncoderSizes { levels, stem, cvae: narrow("channels of the latent", config.cvae)? })
}

/// Reads and checks the encoder file at `path`, `file`, for this model.
///
/// # Errors
/// [`Error::Model`] with the path: a damaged file, or one for another model.
pub fn open_encoder<'a>(
    path: &Path,
    file: &'a ModelFile,
    model: &Model<'_>,
) -> Result<Encoder<'a>, Error> {
    let failed = |source: CoreError| Error::Model { path: path.to_owned(), source };
    let encoder = Encoder::parse(file.bytes()).map_err(failed)?;
    encoder.belongs_to(model).map_err(failed)?;
    Ok(encoder)
}
