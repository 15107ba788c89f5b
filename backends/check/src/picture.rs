//! A whole picture, as `tests/steps.rs` requests it, and its checksum.

use crc::{CRC_32_ISO_HDLC, Crc};
use varmint_core::{Error, Generator, Host, Model, Ops, Plan, Request, Step};

/// Makes a picture in `ram`: row 3 of the first table, drawn with top-k and top-p. Returns the CRC-32 of
/// its pixels (RGB, row by row).
///
/// # Errors
/// As [`Host::new`], [`Generator::new`] and [`Generator::step`].
pub fn picture(
    model: &Model<'_>,
    plan: &Plan,
    ops: impl Ops,
    ram: &mut [u8],
    seed: u64,
) -> Result<u32, Error> {
    let mut r = Request::new(model);
    r.labels[0] = Some(3);
    r.seed = seed;
    r.sampling.top_k = 20;
    r.sampling.top_p = 0.9;
    let mut generator = Generator::new(model, plan, Host::new(ops, ram, plan)?, r)?;
    let crc = Crc::<u32>::new(&CRC_32_ISO_HDLC);
    let mut digest = crc.digest();
    loop {
        match generator.step()? {
            Step::Rows(rows) => digest.update(rows.rgb),
            Step::Done => return Ok(digest.finalize()),
            _ => {}
        }
    }
}
