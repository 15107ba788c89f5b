//! The picture that every platform makes: tier `fast`, class "red heart", seed 1.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use varmint_core::embed::Aligned;
use varmint_core::{Error, Generator, Host, Model, Plan, Request, Scalar, Step};

/// Memory at a multiple of 64, for the model and for the arena.
fn aligned(bytes: usize) -> Vec<Aligned<[u8; 64]>> {
    (0..bytes.div_ceil(64)).map(|_| Aligned([0; 64])).collect()
}

fn flat(memory: &mut [Aligned<[u8; 64]>]) -> &mut [u8] {
    let bytes = size_of_val(memory);
    // SAFETY: blocks of 64 bytes without padding, one after the other, every one of them initialised.
    unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), bytes) }
}

/// What the firmware has to show.
pub struct Shown {
    /// CRC-32 (ISO-HDLC) of the RGB bytes.
    pub crc: u32,
    /// The mean colour of the last preview as light: parts in a thousand of red, green and blue.
    pub light: [f64; 3],
}

fn run(file: &[u8]) -> Result<Shown, Error> {
    let model = Model::parse(file)?;
    let plan = Plan::new(&model.shape, &model.tier("fast")?)?;
    let mut request = Request::new(&model);
    request.labels[0] = model.find_label(0, "red heart").map(|row| row as u32);
    request.seed = 1;
    let mut arena = aligned(plan.bytes());
    let host = Host::new(Scalar, flat(&mut arena), &plan)?;
    let mut generator = Generator::new(&model, &plan, host, request)?;
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let (mut digest, mut light) = (crc.digest(), [0.0; 3]);
    loop {
        match generator.step()? {
            Step::Rows(rows) => digest.update(rows.rgb),
            Step::Scale(scale) => {
                let n = scale.preview().count() as f64;
                light = std::array::from_fn(|i| {
                    let sum: f64 = scale.preview().map(|pixel| f64::from(pixel[i])).sum();
                    1000.0 * (sum / n / 255.0).powf(2.2)
                });
            }
            Step::Done => return Ok(Shown { crc: digest.finalize(), light }),
            Step::Working(_) => {}
        }
    }
}

/// The picture as the scalar reference makes it on this machine.
pub fn picture(model: &[u8]) -> Result<Shown> {
    let mut file = aligned(model.len());
    let file = &mut flat(&mut file)[..model.len()];
    file.copy_from_slice(model);
    run(file).map_err(|e| anyhow!("{e}"))
}

/// The number that is written down.
pub fn constant(path: &Path) -> Result<u32> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let number = text.lines().find_map(|l| l.strip_prefix("crc32 = 0x"));
    let number = number.with_context(|| format!("{}: no crc32", path.display()))?;
    Ok(u32::from_str_radix(number.trim(), 16)?)
}
