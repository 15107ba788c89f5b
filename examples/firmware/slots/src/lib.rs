//! Two places for a model, so that an update that is cut off never leaves a device without one.
//!
//! An update is written into the place that is not in use ([`Choice::spare`]). At the next start the newest
//! file whose checks hold runs. A file is its own witness: its checksum covers every byte, the sequence number
//! included, so there is no flag to set, and no order in which the bytes must be written.
#![no_std]
#![forbid(unsafe_code)]

use varmint_core::file::HEADER_BYTES;
use varmint_core::{Error, Fault, Model};

/// The two places.
pub const SLOTS: usize = 2;

/// What runs.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The place that it lies in.
    pub slot: usize,
    /// The checked model.
    pub model: Model<'a>,
    /// Why the other one was refused, if it claims to be newer. An older one is not looked at.
    pub refused: Option<Error>,
}

impl Choice<'_> {
    /// The place for the next update.
    pub fn spare(&self) -> usize {
        1 - self.slot
    }
}

/// The newest model whose checks hold, and `accept` too (does it fit the memory of this device?). Of two with the
/// same sequence number, the first. The older one is read only if the newer one is refused.
///
/// # Errors
/// Why each was refused, if both were.
pub fn choose<'a>(
    slots: [&'a [u8]; SLOTS],
    accept: impl Fn(&Model<'a>) -> Result<(), Error>,
) -> Result<Choice<'a>, [Error; SLOTS]> {
    let check = |slot: &'a [u8]| {
        let model = Model::parse(file(slot)?)?;
        accept(&model).map(|()| model)
    };
    let [a, b] = slots;
    let newer = sequence(b) > sequence(a);
    let (first, second) = if newer { (b, a) } else { (a, b) };
    let why = match check(first) {
        Ok(model) => return Ok(Choice { slot: newer as usize, model, refused: None }),
        Err(why) => why,
    };
    match check(second) {
        Ok(model) => Ok(Choice { slot: !newer as usize, model, refused: Some(why) }),
        Err(e) => Err(if newer { [e, why] } else { [why, e] }),
    }
}

/// The bytes of the file in a slot: as many as its header says. A slot is erased beyond them, or holds
/// the rest of an older file.
///
/// # Errors
/// [`Fault::Truncated`] if the slot ends first.
pub fn file(slot: &[u8]) -> Result<&[u8], Error> {
    let truncated = Error::file(Fault::Truncated, slot.len());
    let header = slot.first_chunk::<HEADER_BYTES>().ok_or(truncated)?;
    let length = u64::from_le_bytes(field(header, 16));
    usize::try_from(length).ok().and_then(|n| slot.get(..n)).ok_or(truncated)
}

/// What the header claims, for the order of the checks only; nothing that is not a header comes last.
fn sequence(slot: &[u8]) -> Option<u32> {
    let header = slot.first_chunk::<HEADER_BYTES>()?;
    (field(header, 0) == varmint_core::file::MAGIC).then(|| u32::from_le_bytes(field(header, 28)))
}

/// `N` bytes of a header.
fn field<const N: usize>(header: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    header.get(at..).and_then(|f| f.first_chunk()).copied().unwrap_or([0; N])
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;
    use varmint_core::embed::Aligned;
    use varmint_core::file::{CRC_AT, checksum};

    static TINY: &[u8] = varmint_core::include_model!("../../../../fixtures/tiny.vmt");

    /// A slot is larger than the file in it.
    type Slot = Aligned<[u8; 700_000]>;

    /// A release of the model, the rest of the slot erased as flash is.
    fn slot(sequence: u32) -> std::boxed::Box<Slot> {
        let mut slot = std::boxed::Box::new(Aligned([0xff; 700_000]));
        let file = &mut slot.0[..TINY.len()];
        file.copy_from_slice(TINY);
        file[28..32].copy_from_slice(&sequence.to_le_bytes());
        let crc = checksum(file);
        file[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// Which slot runs, and why the newer one does not.
    fn run(a: &Slot, b: &Slot) -> Result<(usize, Option<Error>), [Error; 2]> {
        choose([&a.0, &b.0], |_| Ok(())).map(|c| {
            assert_eq!(c.spare(), 1 - c.slot);
            (c.slot, c.refused)
        })
    }

    #[test]
    fn the_newest_runs_wherever_it_lies() {
        let (old, new) = (slot(7), slot(8));
        assert_eq!(run(&old, &new), Ok((1, None)));
        assert_eq!(run(&new, &old), Ok((0, None)));
        assert_eq!(run(&new, &new), Ok((0, None)));
        assert_eq!(choose([&old.0, &new.0], |_| Ok(())).unwrap().model.sequence, 8);
        // The first release, and an erased slot.
        let erased = std::boxed::Box::new(Aligned([0xff; 700_000]));
        assert_eq!(run(&slot(0), &erased), Ok((0, None)));
        assert_eq!(run(&erased, &slot(0)), Ok((1, None)));
    }

    #[test]
    fn a_torn_update_falls_back() {
        let old = slot(7);
        for written in [64, 232, 4096, TINY.len() / 2, TINY.len() - 1] {
            let mut torn = slot(8);
            torn.0[written..].fill(0xff);
            for (slots, good) in [([&old, &torn], 0), ([&torn, &old], 1)] {
                let (chosen, why) = run(slots[0], slots[1]).unwrap();
                assert_eq!(chosen, good, "{written} bytes");
                assert!(matches!(why, Some(Error::File { .. })), "{written} bytes: {why:?}");
            }
        }
        // Written over an older release: what is left of that one does not help.
        let mut over = slot(5);
        over.0[TINY.len() - 1] ^= 1;
        over.0[..1000].copy_from_slice(&slot(8).0[..1000]);
        assert_eq!(run(&old, &over), Ok((0, Some(Error::file(Fault::Checksum, CRC_AT)))));
    }

    #[test]
    fn any_flipped_bit_falls_back_and_a_lie_about_the_sequence_too() {
        let old = slot(7);
        let bits: Vec<usize> =
            (0..8 * 256).step_by(7).chain([8 * TINY.len() - 1, 4 * TINY.len()]).collect();
        for bit in bits {
            let mut bad = slot(8);
            bad.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(run(&old, &bad).unwrap().0, 0, "bit {bit}");
        }
    }

    #[test]
    fn what_the_device_cannot_run_falls_back() {
        let need = Error::ArenaTooSmall { need: 2, got: 1 };
        let accept = |m: &Model<'_>| if m.sequence == 8 { Err(need) } else { Ok(()) };
        let (old, new) = (slot(7), slot(8));
        let choice = choose([&old.0, &new.0], accept).unwrap();
        assert_eq!((choice.slot, choice.refused), (0, Some(need)));
    }

    #[test]
    fn two_bad_slots_are_an_error_that_says_why() {
        let (mut a, mut b) = (slot(3), slot(4));
        a.0[0] = 0;
        b.0[TINY.len() - 1] ^= 1;
        let (magic, crc) = (Error::file(Fault::Magic, 0), Error::file(Fault::Checksum, CRC_AT));
        assert_eq!(run(&a, &b), Err([magic, crc]));
        assert_eq!(run(&b, &a), Err([crc, magic]));
        assert!(choose([&[], &[0; 40]], |_| Ok(())).is_err());
        // A length beyond the slot.
        b = slot(4);
        b.0[16..24].fill(0xff);
        assert_eq!(run(&a, &b).unwrap_err()[1], Error::file(Fault::Truncated, 700_000));
    }
}
