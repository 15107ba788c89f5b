//! Reserved bytes of a file: the core refuses any that is not zero, also when the checksum is right.

mod common;

use common::fixture;
use varmint::ModelFile;
use varmint_core::file::{CRC_AT, checksum};
use varmint_core::{Error, Fault, Model};
use varmint_quant::{Meta, Numbers, Options, convert};

#[test]
fn reserved_bytes_are_zero() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("reserved.vmt");
    let weights = fixture("goldens/dev_a/weights.safetensors");
    let options = Options::new(vec![weights], Numbers::Int8);
    convert(&options, &Meta::default(), &path, |_, _| {}).unwrap();
    let file = ModelFile::open(&path).unwrap();
    let file = file.bytes();
    // Aligned as the core wants it.
    let mut room = vec![0u8; file.len() + 64];
    let shift = room.as_ptr().align_offset(64);
    let section = |i: usize| {
        let at = 64 + 24 * i + 8;
        u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize
    };
    let (config, trunk, tier) = (section(0), section(1), section(3));
    // docs/format.md: header, config, scale record, trunk, tier, padding before the config.
    let places = [
        (32, Fault::Section),
        (63, Fault::Section),
        (68, Fault::Section),
        (config + 48, Fault::Config),
        (config + 63, Fault::Config),
        (config + 224, Fault::Config),
        (config + 255, Fault::Config),
        (config + 64 + 6, Fault::Schedule),
        (config + 64 + 7, Fault::Schedule),
        (trunk + 24, Fault::Config),
        (trunk + 31, Fault::Config),
        (trunk + 32 + 3, Fault::Config),
        (trunk + 95, Fault::Config),
        (tier + 178, Fault::Tier),
        (tier + 191, Fault::Tier),
        (config - 1, Fault::Section),
    ];
    for (at, wanted) in places {
        let bytes = &mut room[shift..shift + file.len()];
        bytes.copy_from_slice(file);
        assert_eq!(bytes[at], 0, "byte {at} is in use");
        bytes[at] = 1;
        let crc = checksum(bytes);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        match Model::parse(bytes) {
            Err(Error::File { fault, at: _ }) => assert_eq!(fault, wanted, "byte {at}"),
            other => panic!("byte {at}: {:?}", other.map(|_| ())),
        }
    }
}
