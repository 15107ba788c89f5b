//! The C interface, called as C calls it: the edge picture, and every way to call it wrongly.

use core::ffi::{CStr, c_void};
use core::ptr::{null, null_mut};

use varmint_capi::*;

const FILL: u8 = 0xa5;

/// Memory whose first byte is at a multiple of 64, with as many guarding bytes before and after.
struct Memory {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Self {
        let bytes = vec![FILL; len + 192];
        let start = 64 + bytes.as_ptr().align_offset(64);
        Self { bytes, start, len }
    }

    fn at(&mut self) -> *mut u8 {
        self.bytes[self.start..].as_mut_ptr()
    }

    fn is_guarded(&self) -> bool {
        let (before, rest) = self.bytes.split_at(self.start);
        before.iter().chain(&rest[self.len..]).all(|&b| b == FILL)
    }
}

struct Open {
    memory: Memory,
    model: Memory,
    generator: *mut Generator,
}

fn file(name: &str) -> Memory {
    let bytes =
        std::fs::read(format!("{}/../fixtures/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let mut model = Memory::new(bytes.len());
    model.bytes[model.start..][..bytes.len()].copy_from_slice(&bytes);
    model
}

fn open() -> Open {
    let (mut memory, mut model) = (Memory::new(varmint_generator_size()), file("emoji-micro.vmt"));
    let mut generator = null_mut();
    let (m, n) = (memory.at().cast(), memory.len);
    // SAFETY: memory and model live in the result, beside the generator.
    let status = unsafe { varmint_open(m, n, model.at(), model.len, &mut generator) };
    assert_eq!(status, Status::Ok);
    assert_eq!(generator.cast(), memory.at());
    Open { memory, model, generator }
}

impl Open {
    fn tier(&self, index: usize) -> Result<Tier, Status> {
        let mut tier = core::mem::MaybeUninit::uninit();
        // SAFETY: open.
        match unsafe { varmint_tier_at(self.generator, index, tier.as_mut_ptr()) } {
            // SAFETY: written.
            Status::Ok => Ok(unsafe { tier.assume_init() }),
            error => Err(error),
        }
    }

    fn find_tier(&self, name: &CStr) -> Result<usize, Status> {
        let mut index = usize::MAX;
        // SAFETY: open; a name of C.
        match unsafe { varmint_find_tier(self.generator, name.as_ptr(), &mut index) } {
            Status::Ok => Ok(index),
            error => Err(error),
        }
    }

    fn request(&self) -> Request {
        let mut request = core::mem::MaybeUninit::uninit();
        // SAFETY: open.
        let status = unsafe { varmint_request_default(self.generator, request.as_mut_ptr()) };
        assert_eq!(status, Status::Ok);
        // SAFETY: written.
        unsafe { request.assume_init() }
    }

    fn heart(&self) -> Request {
        let mut request = self.request();
        request.seed = 1;
        let name = c"red heart".as_ptr();
        // SAFETY: open; a name of C.
        let status = unsafe { varmint_find_label(self.generator, 0, name, &mut request.labels[0]) };
        assert_eq!(status, Status::Ok);
        request
    }

    fn start(&mut self, tier: usize, arena: &mut Memory, request: &Request) -> Status {
        // SAFETY: open; the callers keep the arena until the image is done.
        unsafe { varmint_start(self.generator, tier, arena.at(), arena.len, request) }
    }

    fn step(&mut self) -> Result<Event, Status> {
        let mut event = core::mem::MaybeUninit::uninit();
        // SAFETY: open; the callers keep the arena.
        match unsafe { varmint_step(self.generator, event.as_mut_ptr()) } {
            // SAFETY: written.
            Status::Ok => Ok(unsafe { event.assume_init() }),
            error => Err(error),
        }
    }
}

fn pinned() -> u32 {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures/edge-picture.txt");
    let text = std::fs::read_to_string(path).unwrap();
    let hex = text.lines().find_map(|l| l.strip_prefix("crc32 = 0x")).unwrap();
    u32::from_str_radix(hex, 16).unwrap()
}

/// The rest of the image: rows in order, previews, work that only grows.
fn finish(g: &mut Open, tier: &Tier) -> (u32, Vec<Vec<u8>>) {
    let (mut rgb, mut previews, mut done) = (Vec::new(), Vec::new(), 0);
    loop {
        let e = g.step().unwrap();
        assert!(e.done >= done && e.done - done <= tier.step_macs && e.total == tier.image_macs);
        done = e.done;
        let pixels = (e.height * e.width * 3) as usize;
        let shown = if e.rgb.is_null() {
            &[]
        } else {
            // SAFETY: until the next call.
            unsafe { core::slice::from_raw_parts(e.rgb, pixels) }
        };
        match e.kind {
            EventKind::Working => assert!(shown.is_empty()),
            EventKind::Scale => {
                assert_eq!(e.scale as usize, previews.len());
                previews.push(shown.to_vec());
            }
            EventKind::Rows => {
                assert_eq!((e.width, e.y as usize), (tier.width, rgb.len() / 3 / e.width as usize));
                rgb.extend_from_slice(shown);
            }
            EventKind::Done => break,
        }
    }
    assert_eq!(done, tier.image_macs);
    assert_eq!(rgb.len(), (tier.height * tier.width * 3) as usize);
    assert_eq!(previews.len(), tier.scales as usize);
    (crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&rgb), previews)
}

#[test]
fn the_edge_picture_again_and_again_in_exactly_the_bytes_it_says() {
    let mut g = open();
    let fast = g.find_tier(c"fast").unwrap();
    let tier = g.tier(fast).unwrap();
    let (mut arena, mut request) = (Memory::new(tier.arena_bytes), g.heart());
    let mut room = Memory::new((tier.preview_width * tier.preview_height * 3) as usize);
    (request.preview, request.preview_bytes) = (room.at(), room.len);
    assert_eq!(g.start(fast, &mut arena, &request), Status::Ok);
    let (crc, previews) = finish(&mut g, &tier);
    assert_eq!(crc, pinned());
    assert!(previews.windows(2).all(|p| p[0] != p[1] && p[0].len() == room.len));
    assert_eq!(g.step().unwrap().kind, EventKind::Done);

    // Without previews; and given up half way first.
    let request = g.heart();
    assert_eq!(g.start(fast, &mut arena, &request), Status::Ok);
    for _ in 0..100 {
        g.step().unwrap();
    }
    assert_eq!(g.start(fast, &mut arena, &request), Status::Ok);
    let (crc, previews) = finish(&mut g, &tier);
    assert_eq!(crc, pinned());
    assert!(previews.iter().all(Vec::is_empty));

    assert!(g.memory.is_guarded() && arena.is_guarded() && room.is_guarded());
    assert_eq!(g.model.bytes, file("emoji-micro.vmt").bytes);
}

#[test]
fn tiers_and_labels() {
    let mut g = open();
    let mut tiers = Vec::new();
    while let Ok(tier) = g.tier(tiers.len()) {
        tiers.push(tier);
    }
    assert_eq!(g.tier(tiers.len()).unwrap_err(), Status::UnknownTier);
    assert_eq!(g.tier(usize::MAX).unwrap_err(), Status::UnknownTier);
    assert!(tiers.len() >= 2);
    for (i, tier) in tiers.iter().enumerate() {
        // SAFETY: ends with a zero.
        let name = unsafe { CStr::from_ptr(tier.name.as_ptr()) };
        assert_eq!(g.find_tier(name), Ok(i));
    }
    assert_eq!(g.find_tier(c"slow"), Err(Status::UnknownTier));
    assert_eq!(g.find_tier(c"\xff"), Err(Status::UnknownTier));

    let best = |bytes, macs| {
        let mut index = usize::MAX;
        // SAFETY: open.
        match unsafe { varmint_best_tier(g.generator, bytes, u64::MAX, macs, &mut index) } {
            Status::Ok => Ok(index),
            error => Err(error),
        }
    };
    let least = tiers.iter().map(|t| t.arena_bytes).min().unwrap();
    assert_eq!(best(usize::MAX, u64::MAX), Ok(0));
    assert_eq!(tiers[best(least, u64::MAX).unwrap()].arena_bytes, least);
    assert_eq!(best(least - 1, u64::MAX), Err(Status::ArenaTooSmall));
    assert_eq!(best(usize::MAX, 1), Err(Status::TooMuchWork));

    let label = |table, row| {
        let mut text = Text { bytes: null(), len: 0 };
        // SAFETY: open; the text is in the model.
        match unsafe { varmint_label_at(g.generator, table, row, &mut text) } {
            // SAFETY: a text of the model, which lives.
            Status::Ok => Ok(unsafe { core::slice::from_raw_parts(text.bytes, text.len) }),
            error => Err(error),
        }
    };
    let names: Vec<_> = (0..).map_while(|row| label(0, row).ok()).collect();
    let heart = g.heart().labels[0];
    assert_eq!(names[heart as usize], b"red heart");
    assert_eq!(label(0, names.len() as u32), Err(Status::UnknownLabel));
    assert_eq!(label(0, u32::MAX), Err(Status::UnknownLabel));
    assert_eq!(label(u32::MAX, 0), Err(Status::UnknownLabel));

    let mut row = 7;
    for (table, name) in [(0, c"red hart"), (0, c"\xff"), (9, c"red heart")] {
        // SAFETY: open; a name of C.
        let status = unsafe { varmint_find_label(g.generator, table, name.as_ptr(), &mut row) };
        assert_eq!((status, row), (Status::UnknownLabel, 7));
    }

    // The row past the names is "not given", as NOT_GIVEN is; the next one is nothing.
    let tier = tiers[tiers.len() - 1];
    let mut arena = Memory::new(tier.arena_bytes);
    let mut crcs = [0; 2];
    for (crc, row) in crcs.iter_mut().zip([names.len() as u32, NOT_GIVEN]) {
        let mut request = g.request();
        request.labels[0] = row;
        assert_eq!(g.start(tiers.len() - 1, &mut arena, &request), Status::Ok);
        *crc = finish(&mut g, &tier).0;
    }
    assert_eq!(crcs[0], crcs[1]);
}

#[test]
fn a_file_or_a_memory_that_is_wrong_does_not_open() {
    let (mut memory, mut model) = (Memory::new(varmint_generator_size()), file("emoji-micro.vmt"));
    let (m, size) = (memory.at(), varmint_generator_size());
    let (f, len) = (model.at(), model.len);
    let mut generator = m.cast();
    let mut open = |memory: *mut u8, size, model: *const u8, len| {
        // SAFETY: both live; the generator is not used.
        let status =
            unsafe { varmint_open(memory.cast::<c_void>(), size, model, len, &mut generator) };
        assert_eq!(generator.is_null(), status != Status::Ok);
        status
    };
    assert_eq!(open(null_mut(), size, f, len), Status::NullPointer);
    assert_eq!(open(m, size, null(), len), Status::NullPointer);
    assert_eq!(open(m.wrapping_add(1), size, f, len), Status::MisalignedPointer);
    assert_eq!(open(m, size - 1, f, len), Status::MemoryTooSmall);
    assert_eq!(open(m, size, f, usize::MAX), Status::MemoryOverlap);
    assert_eq!(open(m, usize::MAX, f, len), Status::MemoryOverlap);
    assert_eq!(open(f, size, f, len), Status::MemoryOverlap);
    assert_eq!(open(m, size, m.wrapping_add(size - 1), 64), Status::MemoryOverlap);
    assert_eq!(open(m, size, f, 0), Status::FileTruncated);
    assert_eq!(open(m, size, f, len - 1), Status::FileTruncated);
    assert_eq!(open(m, size, f, len), Status::Ok);
    assert_eq!(open(m, size, f, len + 1), Status::FileTrailing);
    let start = model.start;
    model.bytes[start + len / 2] ^= 1;
    assert_eq!(open(m, size, f, len), Status::FileChecksum);
    model.bytes.copy_within(start..start + len, start + 8);
    assert_eq!(open(m, size, f.wrapping_add(8), len), Status::FileMisaligned);
    // SAFETY: null is refused.
    let status = unsafe { varmint_open(m.cast(), size, f, len, null_mut()) };
    assert_eq!(status, Status::NullPointer);
    assert!(memory.is_guarded());
}

#[test]
fn a_start_that_is_wrong_does_not_start() {
    let mut g = open();
    let fast = g.find_tier(c"fast").unwrap();
    let tier = g.tier(fast).unwrap();
    let mut arena = Memory::new(tier.arena_bytes);
    let good = g.heart();
    assert_eq!(g.step().unwrap_err(), Status::NotStarted);

    let (a, n, p, file) = (arena.at(), arena.len, g.generator, g.model.at());
    let mut wrong = |tier, arena: *mut u8, bytes, request: *const Request, want| {
        // A good one before: what it left is gone.
        // SAFETY: open; the arena lives.
        assert_eq!(unsafe { varmint_start(p, fast, a, n, &good) }, Status::Ok);
        // SAFETY: open; refused before anything is touched.
        assert_eq!(unsafe { varmint_start(p, tier, arena, bytes, request) }, want);
        assert_eq!(g.step().unwrap_err(), Status::NotStarted);
    };
    wrong(99, a, n, &good, Status::UnknownTier);
    wrong(fast, null_mut(), n, &good, Status::NullPointer);
    wrong(fast, a, n, null(), Status::NullPointer);
    wrong(fast, a, n, (&raw const good).wrapping_byte_add(1), Status::MisalignedPointer);
    wrong(fast, a, n - 1, &good, Status::ArenaTooSmall);
    wrong(fast, a, 0, &good, Status::ArenaTooSmall);
    wrong(fast, a.wrapping_add(8), n, &good, Status::ArenaMisaligned);
    wrong(fast, a, usize::MAX, &good, Status::MemoryOverlap);
    wrong(fast, p.cast(), n, &good, Status::MemoryOverlap);
    wrong(fast, file, n, &good, Status::MemoryOverlap);
    let change = |f: fn(&mut Request)| {
        let mut r = good;
        f(&mut r);
        r
    };
    wrong(fast, a, n, &change(|r| r.labels[0] = 1 << 20), Status::UnknownLabel);
    wrong(fast, a, n, &change(|r| r.labels[3] = 0), Status::UnknownLabel);
    wrong(fast, a, n, &change(|r| r.guidance = f32::NAN), Status::BadSampling);
    wrong(fast, a, n, &change(|r| r.temperature = 0.0), Status::BadSampling);
    wrong(fast, a, n, &change(|r| r.top_p = 1.5), Status::BadSampling);
    let mut room = Memory::new((tier.preview_width * tier.preview_height * 3) as usize);
    let mut preview = |at: *mut u8, bytes, want| {
        let mut r = good;
        (r.preview, r.preview_bytes) = (at, bytes);
        wrong(fast, a, n, &r, want);
    };
    preview(room.at(), room.len - 1, Status::PreviewTooSmall);
    preview(a.wrapping_add(n - 1), room.len, Status::MemoryOverlap);
    preview(room.at(), usize::MAX, Status::MemoryOverlap);
    assert!(g.memory.is_guarded() && arena.is_guarded() && room.is_guarded());
}

#[test]
fn null_and_misaligned_pointers_are_refused_everywhere() {
    let g = open();
    let (p, odd) = (g.generator, g.generator.wrapping_byte_add(1));
    let (mut index, mut row) = (0usize, 0u32);
    let mut tier = g.tier(0).unwrap();
    let mut request = g.request();
    let mut text = Text { bytes: null(), len: 0 };
    let name = c"fast".as_ptr();
    for (p, want) in [(null_mut(), Status::NullPointer), (odd, Status::MisalignedPointer)] {
        let mut arena = Memory::new(64);
        let (a, n) = (arena.at(), arena.len);
        let mut event = core::mem::MaybeUninit::uninit();
        // SAFETY: refused.
        let all = unsafe {
            [
                varmint_tier_at(p, 0, &mut tier),
                varmint_find_tier(p, name, &mut index),
                varmint_best_tier(p, 0, 0, 0, &mut index),
                varmint_label_at(p, 0, 0, &mut text),
                varmint_find_label(p, 0, name, &mut row),
                varmint_request_default(p, &mut request),
                varmint_start(p, 0, a, n, &request),
                varmint_step(p, event.as_mut_ptr()),
            ]
        };
        assert_eq!(all, [want; 8]);
    }
    let bad = |offset: usize, want| {
        // SAFETY: refused.
        let all = unsafe {
            [
                varmint_tier_at(p, 0, core::ptr::without_provenance_mut(offset)),
                varmint_find_tier(p, name, core::ptr::without_provenance_mut(offset)),
                varmint_best_tier(p, 0, 0, 0, core::ptr::without_provenance_mut(offset)),
                varmint_label_at(p, 0, 0, core::ptr::without_provenance_mut(offset)),
                varmint_find_label(p, 0, name, core::ptr::without_provenance_mut(offset)),
                varmint_request_default(p, core::ptr::without_provenance_mut(offset)),
                varmint_step(p, core::ptr::without_provenance_mut(offset)),
            ]
        };
        assert_eq!(all, [want; 7]);
    };
    bad(0, Status::NullPointer);
    bad(1, Status::MisalignedPointer);
    // SAFETY: refused.
    let all = unsafe {
        [varmint_find_tier(p, null(), &mut index), varmint_find_label(p, 0, null(), &mut row)]
    };
    assert_eq!(all, [Status::NullPointer; 2]);
}

#[test]
fn every_error_of_the_core_has_its_number_and_every_number_a_sentence() {
    use varmint_core::{Error, Fault};
    let faults = [
        Fault::Truncated,
        Fault::Magic,
        Fault::Version,
        Fault::Misaligned,
        Fault::Trailing,
        Fault::Checksum,
        Fault::Section,
        Fault::Config,
        Fault::Schedule,
        Fault::Tier,
        Fault::Text,
        Fault::Tensor,
        Fault::Scale,
        Fault::Weight,
    ];
    let others = [
        Error::UnknownTier,
        Error::UnknownLabel { table: 0, row: 0, rows: 0 },
        Error::BadSampling,
        Error::BadTokens { need: 0, got: 0 },
        Error::Unsupported,
        Error::NotLower,
        Error::TooMuchWork { need: 0, got: 0 },
        Error::ArenaTooSmall { need: 0, got: 0 },
        Error::ArenaMisaligned { need: 0 },
        Error::PlanTooLarge,
        Error::PlanOverlap,
        Error::PlanMismatch,
        Error::Backend(0),
    ];
    for error in faults.map(|f| Error::file(f, 0)).into_iter().chain(others) {
        assert_eq!(Status::from(error) as i32, i32::from(error.code()), "{error}");
    }
    let mut texts: Vec<_> = MESSAGES.iter().map(|(s, _)| *s as i32).collect();
    assert!(texts.is_sorted());
    texts.dedup();
    assert_eq!(texts.len(), MESSAGES.len());
    for number in -2..1000 {
        // SAFETY: never null, ends with a zero.
        let text = unsafe { CStr::from_ptr(varmint_message(number)) }.to_str().unwrap();
        assert_eq!(text == "unknown error", number == 599 || !texts.contains(&number));
    }
}
