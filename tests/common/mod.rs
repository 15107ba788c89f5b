//! What the tests across crates share.
#![allow(dead_code, reason = "every test uses a part")]

use varmint::{
    Backend, Error, Generator, Host, Image, Model, ModelFile, Ops, Plan, Request, Scalar, Stage,
    Step,
};

/// The small model: golden dev_a in int8.
pub(crate) fn tiny() -> ModelFile {
    ModelFile::open("fixtures/tiny.vmt").expect("fixtures/tiny.vmt")
}

/// A request of the small model that draws (not greedy).
pub(crate) fn request(model: &Model<'_>, seed: u64) -> Request<'static> {
    let mut r = Request::new(model);
    r.labels[0] = Some(3);
    r.seed = seed;
    r.sampling.top_k = 20;
    r.sampling.top_p = 0.9;
    r
}

/// Memory whose first byte is at a multiple of 64.
pub(crate) struct Ram {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Ram {
    pub(crate) fn new(len: usize, fill: u8) -> Self {
        let bytes = vec![fill; len + 64];
        let start = bytes.as_ptr().align_offset(64);
        Self { bytes, start, len }
    }

    pub(crate) fn get(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.start + self.len]
    }
}

/// Runs to the end, calling `between` before every step.
pub(crate) fn run<B: Backend>(
    g: &mut Generator<'_, B>,
    mut between: impl FnMut(&mut Generator<'_, B>, Stage),
) -> Result<Image, Error> {
    let (height, width) = g.size();
    let mut image = Image { width, height, rgb: Vec::new(), tokens: Vec::new() };
    loop {
        let stage = g.stage();
        if let Stage::Decode { layer: 0, .. } = stage
            && image.tokens.is_empty()
        {
            image.tokens = g.tokens()?.to_vec();
        }
        between(g, stage);
        match g.step()? {
            Step::Rows(rows) => {
                assert_eq!(image.rgb.len(), rows.y * rows.width * 3, "rows come in order");
                image.rgb.extend_from_slice(rows.rgb);
            }
            Step::Done => return Ok(image),
            _ => {}
        }
    }
}

/// One image in a fresh arena.
pub(crate) fn image<O: Ops>(model: &Model<'_>, plan: &Plan, ops: O, request: Request<'_>) -> Image {
    let mut ram = Ram::new(plan.bytes(), 0);
    let host = Host::new(ops, ram.get(), plan).expect("the arena fits");
    let mut g = Generator::new(model, plan, host, request).expect("a good request");
    run(&mut g, |_, _| {}).expect("a run")
}

/// The reference image.
pub(crate) fn reference(model: &Model<'_>, plan: &Plan, seed: u64) -> Image {
    image(model, plan, Scalar, request(model, seed))
}

/// CRC-32 of an image, for checksums in tests.
pub(crate) fn crc(image: &Image) -> u32 {
    crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&image.rgb)
}
