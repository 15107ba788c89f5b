//! Updates that go well and that do not, on the emulated board.

use anyhow::{Context, Result, ensure};
use varmint_core::file::{CRC_AT, checksum};

use crate::image::Image;
use crate::qemu;

/// Bytes of a slot: `_slot_bytes` of the boards.
const BYTES: usize = 2 << 20;

/// An erased slot.
pub fn erased() -> Vec<u8> {
    vec![0xff; BYTES]
}

/// A file in a slot.
pub fn slot(file: &[u8]) -> Result<Vec<u8>> {
    let mut slot = erased();
    slot.get_mut(..file.len()).context("a model larger than a slot")?.copy_from_slice(file);
    Ok(slot)
}

/// Runs the firmware with good and bad updates in its slots; every run that has a good file makes the picture.
pub fn check(machine: &str, image: &Image, model: &[u8], crc: u32) -> Result<()> {
    let release = |sequence: u32| {
        let mut file = model.to_vec();
        file[28..32].copy_from_slice(&sequence.to_le_bytes());
        let crc = checksum(&file);
        file[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        slot(&file)
    };
    let torn = |sequence| {
        let mut slot = release(sequence)?;
        slot[model.len() / 2..].fill(0xff);
        Ok::<_, anyhow::Error>(slot)
    };
    let mut flipped = release(2)?;
    flipped[model.len() - 1000] ^= 0x10;
    let cases = [
        ("an update", release(1)?, release(2)?, Some((1, 2)), None),
        ("an older file", release(2)?, release(1)?, Some((0, 2)), None),
        (
            "an update that was cut off",
            release(1)?,
            torn(2)?,
            Some((0, 1)),
            Some("slot 1 is newer"),
        ),
        (
            "the same in the first slot",
            torn(2)?,
            release(1)?,
            Some((1, 1)),
            Some("slot 0 is newer"),
        ),
        ("a flipped bit", release(1)?, flipped, Some((0, 1)), Some("slot 1 is newer")),
        ("no good file", torn(1)?, erased(), None, Some("slot A")),
    ];
    for (name, a, b, chosen, said) in cases {
        let run = qemu::run(machine, image, [&a, &b])?;
        let number = |name| run.numbers.get(name).copied();
        let got = number("slot").zip(number("sequence"));
        let note = run.lines.iter().find(|l| said.is_some_and(|said| l.starts_with(said)));
        let place = got.map_or("nothing".into(), |(slot, n)| format!("slot {slot}, release {n}"));
        let why = note.map_or(String::new(), |note| format!(" ({note})"));
        println!("{name}: {place}{why}");
        ensure!(
            got == chosen
                && note.is_some() == said.is_some()
                && run.succeeded == chosen.is_some()
                && run.checksum == chosen.map(|_| crc),
            "{name}: {:#?}",
            run.lines
        );
    }
    Ok(())
}
