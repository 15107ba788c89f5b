//! Bytes that are not a model: every truncation, every flipped bit, and lies under a correct checksum. Whatever still
//! parses runs to its end, within the work that its plan states. (That nothing outside of the bytes is read follows from
//! the core having no `unsafe`; the fuzz targets run under the address sanitizer besides.)

mod common;
#[path = "common/work.rs"]
mod work;

use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use common::{Ram, tiny};
use varmint::file::{CRC_AT, HEADER_BYTES, SECTION_BYTES, SECTIONS, checksum};
use varmint::{Error, Fault, Generator, Host, Model, ModelFile, Plan, Request, Stage, Step};
use work::Counting;

/// How many lies are told unless `VARMINT_LIES` says another number: ci.sh tells 200,000.
const LIES: u64 = 20_000;
const THREADS: u64 = 2;

fn parse(bytes: &[u8]) -> Result<(), Error> {
    ModelFile::from_bytes(bytes).model().map(|_| ())
}

fn least() -> ModelFile {
    ModelFile::open("fixtures/small/least.vmt").unwrap()
}

/// A copy to be changed in place.
fn copy(file: &ModelFile) -> Ram {
    let mut ram = Ram::new(file.bytes().len(), 0);
    ram.get().copy_from_slice(file.bytes());
    ram
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

fn seal(bytes: &mut [u8]) {
    let crc = checksum(bytes).to_le_bytes();
    put(bytes, CRC_AT, &crc);
}

fn number(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap()) as usize
}

#[test]
fn every_truncation_is_refused() {
    let file = least();
    for n in 0..file.bytes().len() {
        assert!(parse(&file.bytes()[..n]).is_err(), "{n} bytes");
        // With the right length and checksum, and with the last section shortened as well.
        if n >= HEADER_BYTES + SECTIONS * SECTION_BYTES {
            let mut ram = copy(&file);
            let bytes = &mut ram.get()[..n];
            put(bytes, 16, &(n as u64).to_le_bytes());
            seal(bytes);
            assert!(Model::parse(bytes).is_err(), "{n} bytes, sealed");
            let data = HEADER_BYTES + (SECTIONS - 1) * SECTION_BYTES;
            let left = n.saturating_sub(number(bytes, data + 8));
            put(bytes, data + 16, &(left as u64).to_le_bytes());
            seal(bytes);
            assert!(Model::parse(bytes).is_err(), "{n} bytes, {left} of them data");
        }
    }
    assert!(parse(file.bytes()).is_ok());
}

#[test]
fn extended_and_misaligned_files_are_refused() {
    let file = tiny();
    let bytes = file.bytes();
    let mut long = bytes.to_vec();
    long.push(0);
    assert!(matches!(parse(&long), Err(Error::File { fault: Fault::Trailing, .. })));
    let mut ram = Ram::new(bytes.len() + 8, 0);
    ram.get()[8..].copy_from_slice(bytes);
    let crooked = Model::parse(&ram.get()[8..]).map(|_| ());
    assert!(matches!(crooked, Err(Error::File { fault: Fault::Misaligned, .. })));
}

#[test]
fn every_flipped_bit_is_refused() {
    let file = least();
    let bits = 8 * file.bytes().len();
    std::thread::scope(|s| {
        for first in 0..THREADS as usize {
            let file = &file;
            s.spawn(move || {
                let mut ram = copy(file);
                for at in (first..bits).step_by(THREADS as usize) {
                    ram.get()[at / 8] ^= 1 << (at % 8);
                    assert!(Model::parse(ram.get()).is_err(), "bit {} of byte {}", at % 8, at / 8);
                    ram.get()[at / 8] ^= 1 << (at % 8);
                }
                assert!(Model::parse(ram.get()).is_ok());
            });
        }
    });
}

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // splitmix64: any seed is good, also 0, 1, 2, ..
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

/// The fields of a file by section, as docs/format.md has them.
fn fields(bytes: &[u8]) -> Vec<Vec<Range<usize>>> {
    /// Lengths of the fields of a record, repeated while there are bytes.
    fn split(all: Range<usize>, record: &[usize]) -> Vec<Range<usize>> {
        let mut out = Vec::new();
        let mut at = all.start;
        for len in record.iter().cycle() {
            if at + len > all.end {
                return out;
            }
            out.push(at..at + len);
            at += len;
        }
        out
    }
    // Sections in which a lie may well be believed come more often.
    let often = |n: usize, fields: Vec<Range<usize>>| vec![fields; n];
    let many = |parts: &[(usize, usize)]| -> Vec<usize> {
        parts.iter().flat_map(|&(n, len)| vec![len; n]).collect()
    };
    let section = |i: usize| {
        let at = HEADER_BYTES + i * SECTION_BYTES;
        let start = number(bytes, at + 8);
        start..start + number(bytes, at + 16)
    };
    let table = HEADER_BYTES..HEADER_BYTES + SECTIONS * SECTION_BYTES;
    let config =
        many(&[(12, 4), (2, 8)]).into_iter().chain([2, 2, 1, 1, 2].repeat(16)).chain([4; 16]);
    let tier = many(&[(2, 8), (16, 1), (16, 8), (4, 1), (2, 2), (1, 4), (20, 1), (32, 2)]);
    [
        often(1, split(0..HEADER_BYTES, &[8, 4, 4, 8, 4, 4, 8, 8, 8, 8])),
        often(1, split(table, &[4, 4, 8, 8])),
        often(2, split(section(0), &config.collect::<Vec<_>>())),
        often(1, split(section(1), &many(&[(6, 4), (1, 8), (64, 1)]))),
        often(1, split(section(2), &many(&[(4, 4), (8, 2)]))),
        often(5, split(section(3), &tier)),
        often(1, split(section(4), &[4])),
        often(1, split(section(5), &[2, 1, 1, 2, 2, 4, 4, 8, 8])),
        often(4, split(section(6), &[4])),
        often(4, split(section(6), &[1])),
    ]
    .concat()
}

/// What a lie puts into a field.
fn value(random: &mut Random, bytes: &[u8], field: &Range<usize>, all: &[Range<usize>]) -> [u8; 8] {
    let read = |r: &Range<usize>| {
        let mut b = [0; 8];
        b[..r.len()].copy_from_slice(&bytes[r.clone()]);
        u64::from_le_bytes(b)
    };
    let old = read(field);
    let bits = 8 * field.len();
    let float =
        [f32::NAN, f32::INFINITY, -1.0, 0.0, -0.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, 300.0];
    let new = match random.below(10) {
        0 => 0,
        1 => u64::MAX - random.below(2) as u64,
        2 => old.wrapping_add(1),
        3 => old.wrapping_sub(1),
        4 => old ^ 1 << random.below(bits),
        5 => 1 << random.below(bits),
        6 => random.below(20) as u64,
        7 => read(&random.of(all)),
        8 if field.len() == 4 => u64::from(random.of(&float).to_bits()),
        _ => random.next(),
    };
    new.to_le_bytes()
}

#[derive(Debug, Default)]
struct Seen {
    refused: u64,
    trusted: u64,
    bad_sampling: u64,
    too_large: u64,
    ran: u64,
    steps: u64,
}

/// Tells lie number `i` about a file, in place, and takes it back.
fn lie(i: u64, ram: &mut Ram, fields: &[Vec<Range<usize>>], arena: &mut Ram, seen: &mut Seen) {
    let mut random = Random(i);
    let bytes = ram.get();
    let mut undo = vec![(CRC_AT, bytes[CRC_AT..CRC_AT + 4].to_vec())];
    for _ in 0..=random.below(3) {
        let all = random.of(fields);
        let field = random.of(&all);
        let new = value(&mut random, bytes, &field, &all);
        undo.push((field.start, bytes[field.clone()].to_vec()));
        put(bytes, field.start, &new[..field.len()]);
    }
    seal(bytes);
    match Model::parse(bytes) {
        Err(_) => {
            seen.refused += 1;
            // Numbers that are not what they should be, and believed.
            if let Ok(model) = Model::trust(bytes) {
                let mut trusted = Seen::default();
                run(&model, &mut random, arena, &mut trusted);
                seen.trusted += trusted.ran;
            }
        }
        Ok(model) => run(&model, &mut random, arena, seen),
    }
    for (at, old) in undo.iter().rev() {
        put(bytes, *at, old);
    }
}

/// One image in one of the tiers.
fn run(model: &Model<'_>, random: &mut Random, arena: &mut Ram, seen: &mut Seen) {
    let shape = &model.shape;
    let c = &shape.config;
    for t in 0..c.n_tables() {
        let _ = (model.table_name(t), model.label(t, 0), model.find_label(t, "star"));
    }
    let tier = model.tier_at(random.below(shape.n_tiers())).unwrap();
    let Ok(plan) = Plan::new(shape, &tier) else {
        seen.too_large += 1;
        return;
    };
    plan.verify().unwrap();
    // What a test can afford.
    if plan.bytes() > arena.get().len() || plan.total_macs() > 20_000_000 {
        seen.too_large += 1;
        return;
    }
    let mut request = Request::new(model);
    request.seed = random.next();
    request.labels[0] = random.of(&[None, Some(0), Some(c.table(0).rows - 1)]);
    let macs = Cell::new(0);
    let host = Host::new(Counting(&macs), arena.get(), &plan).unwrap();
    let mut g = match Generator::new(model, &plan, host, request) {
        Ok(g) => g,
        Err(e) => {
            // The file's own sampling is looked at when it is used.
            assert_eq!(e, Error::BadSampling);
            seen.bad_sampling += 1;
            return;
        }
    };
    let (mut done, mut rows) = (0, 0);
    let mut stage = Stage::START;
    while stage != Stage::Done {
        assert_eq!(g.stage(), stage);
        let stated = stage.macs(shape, &tier);
        assert!(stated <= plan.max_step_macs());
        macs.set(0);
        match g.step().unwrap_or_else(|e| panic!("{e} at {stage:?} of {tier:?}")) {
            Step::Working(p) => done = p.done,
            Step::Scale(s) => {
                assert_eq!(s.preview().count(), c.latent().tokens());
                done = s.progress.done;
            }
            Step::Rows(r) => {
                rows += r.rgb.len() / (3 * r.width);
                done = r.progress.done;
            }
            Step::Done => panic!("a run ends where its stages end"),
        }
        let counted = macs.get();
        assert!(counted <= stated, "{counted} for {stated} at {stage:?} of {tier:?}");
        stage = stage.next(shape, &tier);
        seen.steps += 1;
    }
    assert!(matches!(g.step(), Ok(Step::Done)));
    assert_eq!((done, rows), (plan.total_macs(), g.size().0));
    seen.ran += 1;
}

/// Fields are changed and the checksum made right again.
#[test]
fn resealed_lies_never_panic() {
    let lies = std::env::var("VARMINT_LIES").map_or(LIES, |n| n.parse().unwrap());
    let files = ["least", "mixed", "replaced"].map(|name| format!("fixtures/small/{name}.vmt"));
    let files = files.map(|path| ModelFile::open(path).unwrap());
    let tell = |first: u64| {
        let mut seen = Seen::default();
        let mut copies = files.each_ref().map(copy);
        let fields = files.each_ref().map(|f| fields(f.bytes()));
        let mut arena = Ram::new(1 << 20, 0xA5);
        for i in (first..lies).step_by(THREADS as usize) {
            let f = (i % 3) as usize;
            let tell = || lie(i, &mut copies[f], &fields[f], &mut arena, &mut seen);
            if catch_unwind(AssertUnwindSafe(tell)).is_err() {
                panic!("lie {i}");
            }
        }
        assert!(copies.iter_mut().all(|c| Model::parse(c.get()).is_ok()), "a lie was left behind");
        seen
    };
    let all: Vec<Seen> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..THREADS).map(|i| s.spawn(move || tell(i))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let sum = |f: fn(&Seen) -> u64| all.iter().map(f).sum::<u64>();
    let (refused, ran) = (sum(|s| s.refused), sum(|s| s.ran));
    let trusted = sum(|s| s.trusted);
    let (odd, large) = (sum(|s| s.bad_sampling), sum(|s| s.too_large));
    println!(
        "{lies} lies: {refused} refused (of them {trusted} ran where they were trusted), {odd} with sampling that is refused, {ran} ran in {} steps, {large} too large to run",
        sum(|s| s.steps)
    );
    assert_eq!(refused + odd + ran + large, lies);
    assert!(trusted > lies / 50);
    assert!(refused > lies / 3 && ran > lies / 5 && large < lies / 100);
}
