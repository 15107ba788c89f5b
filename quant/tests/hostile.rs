//! The files of `fixtures/small/` and `fixtures/hostile/`: each is what its recipe here makes, byte for byte, and each
//! hostile one is refused with the message that stands beside it. Files are named after the attack; most attacks are
//! known from parsers of other model formats. `VARMINT_WRITE_FIXTURES=1` writes the files instead.

mod common;
#[path = "common/small.rs"]
mod small;

use std::collections::BTreeSet;
use std::path::PathBuf;

use common::{Entry, Pickle, fixture, fixture_bytes, pth, zip};
use varmint::ModelFile;
use varmint_core::file::{CRC_AT, HEADER_BYTES, Kind, SECTION_BYTES, checksum};
use varmint_core::tensor::RECORD_BYTES;
use varmint_quant::checkpoint::Checkpoint;

/// Name, bytes, and what is said about them.
type Attack = (&'static str, Vec<u8>, String);

fn said(text: &str) -> String {
    text.to_owned()
}

/// The core's message for a fault at a byte.
fn e(code: u16, at: u64) -> String {
    let text = match code {
        101 => "the file is cut short",
        102 => "not a .vmt model file",
        103 => "a .vmt version this build does not read (it reads version 2)",
        105 => "there are bytes after the end of the model",
        106 => "the checksum does not match: the file is damaged",
        107 => "a section is missing, repeated, out of order or leaves a hole",
        108 => "a number in the configuration is out of range",
        109 => "the scale schedule needs 1 to 16 scales of sides 1 to 256",
        110 => "a tier is not valid",
        111 => "a text is not valid UTF-8 or its offsets do not ascend",
        112 => "a tensor record disagrees with the configuration",
        113 => "a quantization scale is negative or not finite",
        _ => "an int8 weight or group scale is -128, which the format forbids",
    };
    format!("E{code}: {text} (byte {at})")
}

fn calls(function: &str) -> String {
    format!(
        "refused: the pickle calls `{function}`, which rebuilds no tensor; \
         save plain weights instead: torch.save(model.state_dict(), ..)"
    )
}

fn nested(name: &str, depth: usize) -> String {
    let name = vec![name; depth].join(".");
    format!("damaged pickle: `{name}`: containers nested deeper than 32 or more than 262144 values")
}

fn kind(what: &str) -> String {
    format!(
        "not a checkpoint: {what}; expected a .safetensors file, or a .pth file as torch.save of \
         PyTorch 1.6 or newer writes it"
    )
}

fn writes() -> bool {
    std::env::var_os("VARMINT_WRITE_FIXTURES").is_some_and(|v| v == "1")
}

/// Compares a folder with its recipes, or writes it.
fn check_folder(folder: &str, recipes: &[(String, Vec<u8>)]) {
    let names: BTreeSet<_> = recipes.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names.len(), recipes.len(), "two recipes of one name in {folder}");
    if writes() {
        let path = fixture(folder);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        for (name, bytes) in recipes {
            std::fs::write(path.join(name), bytes).unwrap();
        }
    }
    let there = std::fs::read_dir(fixture(folder)).unwrap();
    let there: BTreeSet<_> = there.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, names, "the files of {folder}");
    for (name, bytes) in recipes {
        assert!(fixture_bytes(&format!("{folder}/{name}")) == *bytes, "{folder}/{name} differs");
    }
}

fn check(folder: &str, attacks: Vec<Attack>, open: impl Fn(PathBuf) -> String) {
    let recipes: Vec<_> =
        attacks.iter().map(|(name, bytes, _)| ((*name).to_owned(), bytes.clone())).collect();
    check_folder(folder, &recipes);
    let mut wrong = Vec::new();
    for (name, _, want) in attacks {
        let got = open(fixture(&format!("{folder}/{name}")));
        if got != want {
            wrong.push(format!("{name}\n  wanted: {want}\n  got:    {got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn small(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.vmt"));
    small::write(&path, name).unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn the_small_models_are_what_the_writer_makes() {
    let file = |name| (format!("{name}.vmt"), small(name));
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("mixed.vme");
    small::write_encoder(&path).unwrap();
    let encoder = ("mixed.vme".to_owned(), std::fs::read(&path).unwrap());
    check_folder("small", &[file("least"), file("mixed"), encoder, file("replaced")]);
}

/// A model file to be changed.
struct Lie(Vec<u8>);

impl Lie {
    fn u64(&self, at: usize) -> usize {
        u64::from_le_bytes(self.0[at..at + 8].try_into().unwrap()) as usize
    }

    /// Where a section starts.
    fn section(&self, kind: Kind) -> usize {
        self.u64(record(kind) + 8)
    }

    /// Where field `field` of tensor `i` stands.
    fn tensor(&self, i: usize, field: usize) -> usize {
        self.section(Kind::Tensors) + i * RECORD_BYTES + field
    }

    /// The first tensor with scales.
    fn scaled(&self) -> usize {
        (0..).find(|&i| self.u64(self.tensor(i, 24)) != 0).unwrap()
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn u32(self, at: usize, v: u32) -> Self {
        self.put(at, &v.to_le_bytes())
    }

    /// Makes the checksum right again.
    fn sealed(self) -> Vec<u8> {
        let crc = checksum(&self.0).to_le_bytes();
        self.put(CRC_AT, &crc).0
    }
}

/// Where the section record of a kind stands.
fn record(kind: Kind) -> usize {
    HEADER_BYTES + (kind as usize - 1) * SECTION_BYTES
}

fn models() -> Vec<Attack> {
    let least = small("least");
    let mixed = small("mixed");
    let whole = || Lie(least.clone());
    let large = || Lie(mixed.clone());
    let (config, trunks) = (whole().section(Kind::Config), whole().section(Kind::Trunks));
    let (tiers, text) = (whole().section(Kind::Tiers), whole().section(Kind::Text));
    let scaled = whole().scaled();
    let scales = whole().u64(whole().tensor(scaled, 24));
    let numbers = whole().u64(whole().tensor(scaled, 16));
    let huge = u64::MAX.to_le_bytes();
    let near = (u64::MAX - 15).to_le_bytes();
    let in_config = |at: usize, v: u32| whole().u32(config + at, v).sealed();
    let in_trunk = |at: usize, v: u32| whole().u32(trunks + at, v).sealed();
    let in_tier = |at: usize, bytes: &[u8]| whole().put(tiers + at, bytes).sealed();
    let in_tensor = |i: usize, field: usize, bytes: &[u8]| {
        let at = whole().tensor(i, field);
        whole().put(at, bytes).sealed()
    };
    let in_record = |kind, at: usize, bytes: &[u8]| whole().put(record(kind) + at, bytes).sealed();
    // Every number of the config and of the trunk at its limit, in a file of a few kilobytes.
    let limits = whole()
        .u32(config, 65_536)
        .u32(config + 4, 256)
        .put(config + 72, &[255, 0, 0, 1])
        .u32(config + 192, 1 << 20)
        .u32(trunks + 4, 8192)
        .u32(trunks + 12, 32_768)
        .sealed();
    let mut flipped_count = least.clone();
    flipped_count[24] ^= 2;
    let mut flipped_weight = least.clone();
    flipped_weight[numbers] ^= 1;
    let mut longer = least.clone();
    longer.extend([0; 64]);
    let second_name = large().section(Kind::Tiers) + varmint_core::tier::TIER_BYTES;
    vec![
        // Sizes whose product wraps, and numbers beyond the arrays that they count.
        ("rows-times-cols-wraps.vmt", in_tensor(0, 8, &[0, 0, 0, 128, 0, 0, 0, 128]), e(112, 1032)),
        ("rows-2-32-minus-1.vmt", in_tensor(0, 8, &[255; 4]), e(112, 1032)),
        ("width-2-30.vmt", in_trunk(4, 1 << 30), e(108, 516)),
        ("all-sizes-at-their-limits.vmt", limits, e(112, 1032)),
        (
            "tokens-beyond-16-bits.vmt",
            whole().put(config + 64, &[0, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1]).sealed(),
            e(109, 264),
        ),
        ("17-scales.vmt", in_config(8, 17), e(109, 264)),
        ("5-condition-tables.vmt", in_config(16, 5), e(108, 272)),
        ("3-trunks.vmt", in_config(20, 3), e(108, 276)),
        ("2-32-minus-1-tiers.vmt", in_config(28, u32::MAX), e(108, 284)),
        ("65-blocks.vmt", in_trunk(0, 65), e(108, 512)),
        ("8-sections.vmt", whole().u32(24, 8).sealed(), e(107, 24)),
        ("block-64-of-1.vmt", in_tier(32, &[0, 0, 0, 0, 0, 0, 0, 128]), e(110, 736)),
        // Numbers that stand for a choice and are none.
        ("storage-6.vmt", in_tensor(scaled, 2, &[6]), e(112, 1346)),
        ("role-255.vmt", in_tensor(0, 0, &[255]), e(112, 1024)),
        ("set-9.vmt", in_tensor(0, 3, &[9]), e(112, 1027)),
        ("cache-stored-as-3.vmt", in_tier(160, &[3]), e(110, 864)),
        ("decoder-1-of-1.vmt", in_tier(163, &[1]), e(110, 867)),
        ("trunk-1-of-1.vmt", in_tier(17, &[1]), e(110, 721)),
        ("phi-1-of-1.vmt", whole().put(config + 68, &[1]).sealed(), e(109, 324)),
        ("aln-shared-and-baked.vmt", in_trunk(16, 7), e(108, 528)),
        (
            "baked-for-two-tables.vmt",
            {
                let at = large().section(Kind::Trunks) + 16;
                large().u32(at, 6).sealed()
            },
            e(108, 528),
        ),
        // Numbers that something is divided by.
        ("no-heads.vmt", in_trunk(8, 0), e(108, 520)),
        ("heads-that-do-not-divide.vmt", in_trunk(8, 3), e(108, 520)),
        ("tile-of-0.vmt", in_tier(164, &[0, 0]), e(110, 868)),
        ("strip-of-0.vmt", in_tier(166, &[0, 0]), e(110, 870)),
        ("scale-of-no-width.vmt", whole().put(config + 66, &[0]).sealed(), e(109, 320)),
        // Offsets and lengths.
        ("eight-bytes.vmt", least[..8].to_vec(), e(101, 8)),
        ("length-2-64-minus-1.vmt", whole().put(16, &huge).sealed(), e(101, 12940)),
        ("section-of-2-64-minus-1-bytes.vmt", in_record(Kind::Text, 16, &huge), e(107, 176)),
        (
            "section-far-outside.vmt",
            in_record(Kind::Tensors, 8, &(1u64 << 40).to_le_bytes()),
            e(107, 192),
        ),
        (
            "section-offset-near-the-end-of-numbers.vmt",
            in_record(Kind::Data, 8, &near),
            e(107, 216),
        ),
        ("section-not-aligned.vmt", in_record(Kind::Config, 8, &[4, 1]), e(107, 72)),
        ("section-twice.vmt", in_record(Kind::Trunks, 0, &[1]), e(107, 88)),
        ("tensor-offset-near-the-end-of-numbers.vmt", in_tensor(1, 16, &near), e(112, 1072)),
        (
            "tensor-past-the-end.vmt",
            in_tensor(1, 16, &(least.len() as u64).to_le_bytes()),
            e(112, 1072),
        ),
        (
            "tensor-not-aligned.vmt",
            {
                let at = whole().u64(whole().tensor(1, 16)) as u64 + 2;
                in_tensor(1, 16, &at.to_le_bytes())
            },
            e(112, 1072),
        ),
        (
            "tensor-over-another.vmt",
            {
                let at = whole().u64(whole().tensor(0, 16)) as u64;
                in_tensor(1, 16, &at.to_le_bytes())
            },
            e(112, 1072),
        ),
        ("scales-where-none-belong.vmt", in_tensor(1, 24, &[64]), e(112, 1080)),
        ("text-count-2-32-minus-1.vmt", whole().u32(text, u32::MAX).sealed(), e(111, 960)),
        ("text-offset-2-32-minus-1.vmt", whole().u32(text + 8, u32::MAX).sealed(), e(111, 968)),
        ("text-offsets-that-descend.vmt", whole().u32(text + 12, 21).sealed(), e(111, 972)),
        ("text-not-utf-8.vmt", whole().put(text + 20, &[0xff]).sealed(), e(111, 980)),
        ("tier-name-twice.vmt", large().put(second_name, b"all\0\0\0\0\0").sealed(), e(110, 1024)),
        ("tier-name-that-goes-on-after-its-end.vmt", in_tier(4, b"x"), e(110, 708)),
        // Numbers for the kernels.
        (
            "scale-not-a-number.vmt",
            whole().put(scales, &f32::NAN.to_le_bytes()).sealed(),
            e(113, 3712),
        ),
        (
            "scale-infinite.vmt",
            whole().put(scales, &f32::INFINITY.to_le_bytes()).sealed(),
            e(113, 3712),
        ),
        ("scale-negative.vmt", whole().put(scales, &(-1f32).to_le_bytes()).sealed(), e(113, 3712)),
        ("weight-minus-128.vmt", whole().put(numbers, &[0x80]).sealed(), e(114, 3584)),
        ("inputs-wider-than-planned.vmt", in_trunk(20, 1), e(112, 1346)),
        // Damage.
        ("empty.vmt", Vec::new(), e(101, 0)),
        ("cut-short.vmt", least[..least.len() - 1].to_vec(), e(101, 12939)),
        ("bytes-after-the-end.vmt", longer, e(105, 12940)),
        ("one-flipped-bit-of-the-section-count.vmt", flipped_count, e(107, 24)),
        ("one-flipped-bit-of-a-weight.vmt", flipped_weight, e(106, 12)),
        ("version-3.vmt", whole().u32(8, 3).sealed(), e(103, 8)),
        ("magic-in-small-letters.vmt", whole().put(0, b"varmint").sealed(), e(102, 0)),
        ("reserved-byte-of-the-header.vmt", whole().put(40, &[1]).sealed(), e(107, 40)),
        ("byte-between-sections.vmt", whole().put(240, &[1]).sealed(), e(107, 232)),
    ]
}

#[test]
fn hostile_models_are_refused() {
    check("hostile/vmt", models(), |path| {
        let file = ModelFile::open(path).unwrap();
        file.model().map_or_else(|e| e.to_string(), |_| "accepted".to_owned())
    });
}

/// What opening a checkpoint and reading its first tensor says, without the file's path.
fn read(path: PathBuf) -> String {
    let read = Checkpoint::open(&path).and_then(|c| {
        let name = c.names().next().unwrap_or("nothing").to_owned();
        c.read_f32(&name)
    });
    read.map_or_else(|e| e.fault.to_string(), |_| "accepted".to_owned())
}

fn checkpoints() -> Vec<Attack> {
    let view = |offset, shape: &[i64], strides: &[i64]| {
        pth(&Pickle::one_f32(2, offset, shape, strides), &[&[0; 8]])
    };
    let class = |class: &str, bytes: usize| {
        let pickle = Pickle::new().op(b"}").text("t").tensor(class, "0", 1, 0, &[1], &[1]).op(b"s");
        pth(&pickle, &[&vec![0; bytes]])
    };
    let entries = || {
        vec![
            Entry::new("m/data.pkl", Pickle::one_f32(2, 0, &[2], &[1]).stop()),
            Entry::new("m/data/0", [0; 8]),
        ]
    };
    let program = |p: Pickle| pth(&p, &[]);
    let marker = "touch varmint-was-here";
    let mut deflated = entries();
    deflated[0].method = 8;
    let mut lists = Pickle::new();
    for _ in 0..4096 {
        lists = lists.op(b"]");
    }
    for _ in 1..4096 {
        lists = lists.op(b"a");
    }
    let mut laughs = Pickle::new().op(b"N");
    for _ in 0..30 {
        laughs = laughs.op(b"q\0").op(b"0}(").text("a").op(b"h\0").text("b").op(b"h\0u");
    }
    let good = zip(&entries());
    // The directory's second entry begins where the first one does.
    let mut overlapping = zip(&[
        Entry::new("m/data.pkl", Pickle::one_f32(2, 0, &[2], &[1]).stop()),
        Entry::new("m/data/0", [0; 8]),
        Entry::new("m/data/1", [0; 8]),
    ]);
    let places: Vec<_> = (0..overlapping.len() - 4)
        .filter(|&i| overlapping[i..].starts_with(b"PK\x01\x02"))
        .collect();
    let first = overlapping[places[1] + 42..places[1] + 46].to_vec();
    overlapping[places[2] + 42..places[2] + 46].copy_from_slice(&first);
    let tensor = |p: Pickle, name| p.text(name).tensor("FloatStorage", "0", 2, 0, &[2], &[1]);
    let twice = tensor(tensor(Pickle::new().op(b"}("), "a"), "a").op(b"u");
    vec![
        // Programs.
        (
            "calls-os-system.pth",
            program(Pickle::new().global("os", "system").text(marker).op(b"\x85R")),
            calls("os.system"),
        ),
        (
            "calls-eval-of-a-text.pth",
            program(Pickle::new().text("builtins").text("eval").op(b"\x93").text("1").op(b"\x85R")),
            calls("builtins.eval"),
        ),
        (
            "calls-where-nobody-looks.pth",
            program(Pickle::new().op(b"}").global("posix", "system").text(marker).op(b"\x85R0")),
            calls("posix.system"),
        ),
        (
            "instruction-of-protocol-0.pth",
            program(Pickle::new().op(b"(ios\nsystem\n")),
            said(
                "refused: byte 3 of the pickle is the instruction 0x69, which torch.save never writes",
            ),
        ),
        ("lists-in-lists.pth", program(lists), nested("0", 33)),
        (
            "dictionary-in-itself.pth",
            program(Pickle::new().op(b"}q\0").text("x").op(b"h\0s")),
            nested("x", 33),
        ),
        (
            "a-billion-laughs.pth",
            program(laughs),
            said(
                "damaged pickle: `a.a.a.a.a.a.a.a.a.a.a.a.a.b.b.b.b.b.b.b.b.b.b.b.b.b.b.a.a.a`: containers nested deeper than 32 or more than 262144 values",
            ),
        ),
        (
            "text-of-2-32-minus-1-bytes.pth",
            program(Pickle::new().op(b"X\xff\xff\xff\xff")),
            said("damaged pickle: before byte 7: 4294967295 more bytes are wanted, 1 are left"),
        ),
        (
            "nothing-on-the-stack.pth",
            program(Pickle::new().op(b"000")),
            said("damaged pickle: before byte 3: nothing on the stack"),
        ),
        (
            "two-tensors-of-one-name.pth",
            pth(&twice, &[&[0; 8]]),
            said("damaged pickle: two tensors are called `a`"),
        ),
        // Views.
        (
            "shape-2-40.pth",
            view(0, &[1 << 40], &[1]),
            said(
                "damaged tensor: `t`: shape [1099511627776], strides [1], offset 0 need 4398046511104 bytes; the storage has 8",
            ),
        ),
        (
            "shape-2-40-of-one-number.pth",
            view(0, &[1 << 40], &[0]),
            said(
                "damaged tensor: `t`: shape [1099511627776] repeats a storage of 2 elements too often",
            ),
        ),
        (
            "shape-that-wraps.pth",
            view(0, &[1 << 40, 1 << 40], &[1 << 40, 1]),
            said(
                "damaged tensor: `t`: shape [1099511627776, 1099511627776] with strides [1099511627776, 1] overflows",
            ),
        ),
        (
            "stride-outside.pth",
            view(0, &[2], &[1 << 40]),
            said(
                "damaged tensor: `t`: shape [2], strides [1099511627776], offset 0 need 4398046511108 bytes; the storage has 8",
            ),
        ),
        (
            "offset-outside.pth",
            view(2, &[1], &[1]),
            said(
                "damaged tensor: `t`: shape [1], strides [1], offset 2 need 12 bytes; the storage has 8",
            ),
        ),
        (
            "shape-negative.pth",
            view(0, &[-1], &[1]),
            said(
                "damaged pickle: before byte 169: `torch._utils._rebuild_tensor_v2` is called with arguments of the wrong kind",
            ),
        ),
        (
            "17-dimensions.pth",
            view(0, &[1; 17], &[1; 17]),
            said(
                "damaged pickle: before byte 489: `torch._utils._rebuild_tensor_v2` is called with arguments of the wrong kind",
            ),
        ),
        // Storages.
        (
            "storage-of-doubles-that-are-floats.pth",
            class("DoubleStorage", 4),
            said("damaged tensor: `t`: storage `0` has 4 bytes; 1 elements of 8 bytes are wanted"),
        ),
        (
            "storage-of-no-known-class.pth",
            class("QUInt4x2Storage", 4),
            said("damaged tensor: `t`: its storage class `QUInt4x2Storage` is not known"),
        ),
        (
            "complex-numbers.pth",
            class("ComplexFloatStorage", 8),
            said("tensor `t` holds complex64 numbers; wanted F32, F16, BF16 or F64"),
        ),
        (
            "integers.pth",
            class("LongStorage", 8),
            said("tensor `t` holds I64 numbers; wanted F32, F16, BF16 or F64"),
        ),
        (
            "storage-shorter-than-it-says.pth",
            pth(&Pickle::one_f32(1 << 40, 0, &[2], &[1]), &[&[0; 8]]),
            said(
                "damaged tensor: `t`: storage `0` has 8 bytes; 1099511627776 elements of 4 bytes are wanted",
            ),
        ),
        (
            "storage-missing.pth",
            zip(&entries()[..1]),
            said("damaged zip directory: entry `m/data/0` is missing"),
        ),
        // Containers.
        (
            "compressed.pth",
            zip(&deflated),
            said(
                "damaged zip directory: entry `data.pkl` is compressed or encrypted; torch.save stores entries as they are",
            ),
        ),
        (
            "overlapping-entries.pth",
            overlapping,
            said("damaged zip directory: entries `m/data/0` and `m/data/1` overlap"),
        ),
        (
            "entry-twice.pth",
            zip(&[entries(), entries()].concat()),
            said("damaged zip directory: entry `m/data.pkl` is there twice"),
        ),
        ("no-pickle.pth", zip(&entries()[1..]), kind("a ZIP file without data.pkl")),
        (
            "cut-short.pth",
            good[..good.len() - 30].to_vec(),
            said("damaged zip directory: Missing end of central directory"),
        ),
        (
            "half.pth",
            good[..good.len() / 2].to_vec(),
            said("damaged zip directory: Missing end of central directory"),
        ),
        (
            "bare-pickle.pth",
            Pickle::new().global("os", "system").text(marker).op(b"\x85R").stop(),
            kind("a bare pickle"),
        ),
    ]
}

#[test]
fn hostile_checkpoints_are_refused_and_nothing_runs() {
    check("hostile/pth", checkpoints(), read);
    let marker = std::path::Path::new("varmint-was-here");
    assert!(!marker.exists(), "a pickle was executed");
}

fn tensors() -> Vec<Attack> {
    let file = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    let two = |from: u64, to: u64| {
        format!(
            r#"{{"a":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}},"b":{{"dtype":"F32","shape":[2],"data_offsets":[{from},{to}]}}}}"#
        )
    };
    let with_length = |n: u64| [&n.to_le_bytes()[..], b"{}"].concat();
    vec![
        (
            "header-of-2-64-minus-1-bytes.safetensors",
            with_length(u64::MAX),
            said("damaged header: it says it has 18446744073709551615 bytes; the file has 10"),
        ),
        (
            "header-of-2-40-bytes.safetensors",
            with_length(1 << 40),
            said("damaged header: it says it has 1099511627776 bytes; the file has 10"),
        ),
        (
            "header-cut-short.safetensors",
            file("{", 0),
            said("damaged header: EOF while parsing an object at line 1 column 1"),
        ),
        (
            "objects-in-objects.safetensors",
            file(&"{\"a\":".repeat(4096), 0),
            said("damaged header: recursion limit exceeded at line 1 column 636"),
        ),
        (
            "shape-2-40.safetensors",
            file(&entry("F32", "[1099511627776]", 0, 8), 8),
            said("damaged header: invalid shape, data type, or offset for tensor"),
        ),
        (
            "shape-that-wraps.safetensors",
            file(&entry("F32", "[4294967296,4294967296]", 0, 0), 0),
            said("damaged header: overflow computing buffer size from shape and/or element type"),
        ),
        (
            "shape-negative.safetensors",
            file(&entry("F32", "[-2]", 0, 8), 8),
            said("damaged header: invalid value: integer `-2`, expected usize at line 1 column 55"),
        ),
        (
            "offset-2-64-minus-1.safetensors",
            file(&entry("U8", "[18446744073709551615]", 0, u64::MAX), 8),
            said("damaged header: overflow computing buffer size from shape and/or element type"),
        ),
        (
            "offsets-that-descend.safetensors",
            file(&entry("F32", "[2]", 8, 0), 8),
            said("damaged header: invalid offset for tensor `t`"),
        ),
        (
            "tensors-that-overlap.safetensors",
            file(&two(4, 12), 12),
            said("damaged header: invalid offset for tensor `b`"),
        ),
        (
            "tensors-that-leave-a-hole.safetensors",
            file(&two(12, 20), 20),
            said("damaged header: invalid offset for tensor `b`"),
        ),
        (
            "bytes-after-the-end.safetensors",
            file(&entry("F32", "[2]", 0, 8), 9),
            said("damaged header: its tensors end at byte 70; the file has 71 bytes"),
        ),
        (
            "cut-short.safetensors",
            file(&entry("F32", "[2]", 0, 8), 7),
            said("damaged header: its tensors end at byte 70; the file has 69 bytes"),
        ),
        (
            "type-of-no-known-name.safetensors",
            file(&entry("F33", "[2]", 0, 8), 8),
            said(
                "damaged header: unknown variant `F33`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, `U16`, `F16`, `BF16`, `I32`, `U32`, `F32`, `C64`, `F64`, `I64`, `U64` at line 1 column 54",
            ),
        ),
        (
            "integers.safetensors",
            file(&entry("I64", "[1]", 0, 8), 8),
            said("tensor `t` holds I64 numbers; wanted F32, F16, BF16 or F64"),
        ),
    ]
}

#[test]
fn hostile_safetensors_are_refused() {
    check("hostile/safetensors", tensors(), read);
}
