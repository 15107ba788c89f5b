//! What the fuzz targets share.

#[path = "../../tests/common/work.rs"]
mod work;

use std::cell::Cell;

use varmint::file::{
    ALIGN, CRC_AT, Container, HEADER_BYTES, Kind, MAGIC, SECTION_BYTES, SECTIONS, VERSION, checksum,
};
use varmint::plan::ARENA_ALIGN;
use varmint::tensor::{Data, Matrix};
use varmint::tier::TIER_BYTES;
use varmint::{
    Encoder, Encoding, Error, Generator, Host, Model, ModelFile, Plan, Request, Shape, Stage, Step,
    encoder,
};
use work::Counting;

/// The bytes as a file whose header is right as far as it can be known: what would otherwise stop nearly every changed
/// file at the door.
pub fn sealed(bytes: &[u8]) -> ModelFile {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= HEADER_BYTES + SECTIONS * SECTION_BYTES {
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        let len = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
        bytes[24..28].copy_from_slice(&(SECTIONS as u32).to_le_bytes());
        bytes[32..64].fill(0);
        let crc = checksum(&bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
    }
    ModelFile::from_bytes(&bytes)
}

/// The same for an encoder file. Of which models it is, nobody says.
pub fn sealed_encoder(bytes: &[u8]) -> ModelFile {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= encoder::HEADER_BYTES {
        bytes[..8].copy_from_slice(&encoder::MAGIC);
        bytes[8..12].copy_from_slice(&encoder::VERSION.to_le_bytes());
        let len = bytes.len() as u64;
        bytes[16..24].copy_from_slice(&len.to_le_bytes());
        bytes[28..32].fill(0);
        let crc = checksum(&bytes).to_le_bytes();
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc);
    }
    ModelFile::from_bytes(&bytes)
}

/// Bytes of a tensor's numbers and scales, as they can be reached.
fn bytes(matrix: &Matrix<'_>) -> u64 {
    let (numbers, scales) = match matrix.data {
        Data::F32(w) => (4 * w.len(), 0),
        Data::F16(w) => (2 * w.len(), 0),
        Data::I8Rows(w, scale) | Data::I8 { w, scale, .. } => (w.len(), scale.len()),
        Data::I4 { w, group, scale } => (w.len() + group.len(), scale.len()),
    };
    (numbers + 4 * scales) as u64
}

/// Encodes a picture for the small model, if it is an encoder for it and takes little time; in all tiers.
pub fn encode(encoder: &Encoder<'_>) {
    let mut i = 0;
    while let Some((spec, dtype, matrix)) = encoder.tensor(i) {
        assert_eq!(bytes(&matrix), spec.data_bytes(dtype) + 4 * spec.scale_count(dtype) as u64);
        i += 1;
    }
    assert!(i > 0);
    let file = ModelFile::from_bytes(include_bytes!("../../fixtures/small/mixed.vmt"));
    let model = file.model().unwrap();
    // What a plan looks at: layers times strips.
    if encoder.belongs_to(&model).is_err() || encoder.sizes.n_layers() > 100 {
        return;
    }
    for tier in model.tiers() {
        let plan = match encoder.plan(&model.shape, &tier) {
            Ok(plan) => plan,
            Err(Error::PlanTooLarge) => continue,
            Err(e) => panic!("{e}"),
        };
        plan.verify().unwrap();
        if plan.bytes() > 1 << 20 || plan.total_macs() > 4_000_000 {
            continue;
        }
        let (h, w) = encoder.size(&model.shape);
        let rgb: Vec<u8> = (0..h * w * 3).map(|i| (i * 37) as u8).collect();
        let mut ram = vec![0xA5; plan.bytes() + ARENA_ALIGN];
        let start = ram.as_ptr().align_offset(ARENA_ALIGN);
        let ram = &mut ram[start..start + plan.bytes()];
        let macs = Cell::new(0);
        let host = Host::new(Counting(&macs), ram, &plan).unwrap();
        let mut encoding = Encoding::new(&model, encoder, &plan, host, &rgb).unwrap();
        while encoding.step().unwrap().is_some() {
            assert!(macs.take() <= plan.max_step_macs());
        }
        let tokens = encoding.tokens().unwrap();
        assert!(tokens.iter().all(|&t| u32::from(t) < model.shape.config.vocab));
    }
}

/// A file of these sections, and empty ones after them, as a writer lays it out.
pub fn file_of(sections: &[&[u8]]) -> ModelFile {
    let mut bytes = vec![0; HEADER_BYTES + SECTIONS * SECTION_BYTES];
    for i in 0..SECTIONS {
        bytes.resize(bytes.len().next_multiple_of(ALIGN), 0);
        let (start, body) = (bytes.len() as u64, sections.get(i).copied().unwrap_or_default());
        let at = HEADER_BYTES + i * SECTION_BYTES;
        bytes[at..at + 4].copy_from_slice(&(i as u32 + 1).to_le_bytes());
        bytes[at + 8..at + 16].copy_from_slice(&start.to_le_bytes());
        bytes[at + 16..at + 24].copy_from_slice(&(body.len() as u64).to_le_bytes());
        bytes.extend(body);
    }
    sealed(&bytes)
}

/// About how many stages an image has. A plan looks at each of them once, which for the largest shapes that the format
/// allows takes longer than a fuzzer waits.
fn stages(shape: &Shape, decoder: usize, tile: usize, strip: usize) -> u64 {
    let c = &shape.config;
    let blocks: u64 = (0..shape.n_trunks()).map(|t| u64::from(shape.trunk(t).depth)).sum();
    let tiles = |tile: usize| -> u64 {
        (0..c.n_scales()).map(|k| c.scale(k).tokens().div_ceil(tile.max(1)) as u64).sum()
    };
    let d = shape.decoder(decoder);
    let strips = (c.latent().h as usize * d.factor()).div_ceil(strip.max(1)) as u64;
    4 * blocks * (tiles(tile) + 1) + 2 * tiles(4) + 4 * d.n_layers() as u64 * (strips + 1)
}

/// Everything that can be asked of a model without running it.
pub fn look(model: &Model<'_>) {
    let c = &model.shape.config;
    let _ = (model.name(), model.licence(), model.file_bytes(), model.preview());
    for t in 0..c.n_tables() {
        assert!(model.label(t, c.table(t).rows as usize - 1).is_none());
        if let Some(name) = model.label(t, 0) {
            assert_eq!(model.find_label(t, name), Some(0));
        }
        let _ = model.table_name(t);
    }
    let mut i = 0;
    while let Some((spec, dtype, matrix)) = model.tensor(i) {
        assert_eq!(bytes(&matrix), spec.data_bytes(dtype) + 4 * spec.scale_count(dtype) as u64);
        i += 1;
    }
    assert!(i > 0);
}

/// The plan of tier `i` of a file whose header is sound, if it can be made in little time; it always holds together.
pub fn plan(file: &[u8], i: usize) -> Option<Plan> {
    let container = Container::parse(file).ok()?;
    let shape = container.shape().ok()?;
    let record = container.section(Kind::Tiers).0.get(TIER_BYTES * i..TIER_BYTES * (i + 1))?;
    let number = |at: usize| usize::from(u16::from_le_bytes([record[at], record[at + 1]]));
    if stages(&shape, usize::from(record[163]), number(164), number(166)) > 100_000 {
        return None;
    }
    match Plan::of_file(file, i) {
        Ok(plan) => {
            plan.verify().unwrap();
            assert!(plan.floor() <= plan.bytes() && plan.max_step_macs() <= plan.total_macs());
            Some(plan)
        }
        Err(Error::PlanTooLarge | Error::File { .. }) => None,
        Err(e) => panic!("{e}"),
    }
}

/// Runs an image to its end, within the work that the plan states; not one that takes long.
pub fn run(model: &Model<'_>, plan: &Plan, seed: u64, label: Option<u32>) {
    if plan.bytes() > 1 << 20 || plan.total_macs() > 4_000_000 {
        return;
    }
    let mut request = Request::new(model);
    (request.seed, request.labels[0]) = (seed, label);
    let mut ram = vec![0xA5; plan.bytes() + ARENA_ALIGN];
    let start = ram.as_ptr().align_offset(ARENA_ALIGN);
    let ram = &mut ram[start..start + plan.bytes()];
    let macs = Cell::new(0);
    let host = Host::new(Counting(&macs), ram, plan).unwrap();
    let Ok(mut g) = Generator::new(model, plan, host, request) else { return };
    let (shape, mut stage) = (&model.shape, Stage::START);
    while stage != Stage::Done {
        macs.set(0);
        assert!(!matches!(g.step().unwrap(), Step::Done));
        let (counted, stated) = (macs.get(), stage.macs(shape, &plan.tier));
        assert!(
            counted <= stated && stated <= plan.max_step_macs(),
            "{counted}, {stated}: {stage:?}"
        );
        stage = stage.next(shape, &plan.tier);
        assert_eq!(g.stage(), stage);
    }
}

/// Opens a checkpoint and reads every tensor of it that is not large, both ways.
pub fn read(bytes: &[u8]) {
    use varmint_quant::checkpoint::Checkpoint;
    let Ok(file) = Checkpoint::from_bytes("input", bytes.to_vec()) else { return };
    // A small file may have many views of one storage.
    let mut left = 1usize << 20;
    for name in file.names() {
        let Some(count) =
            file.shape(name).unwrap().iter().try_fold(1usize, |n, &d| n.checked_mul(d))
        else {
            continue;
        };
        match left.checked_sub(count) {
            Some(rest) => left = rest,
            None => continue,
        }
        let floats = file.read_f32(name).map(|v| v.len());
        let integers = file.read_i64(name).map(|v| v.len());
        assert!(floats.is_err() || integers.is_err(), "one or the other");
        assert!([floats, integers].into_iter().flatten().all(|n| n == count));
    }
}
