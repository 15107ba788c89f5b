//! Checkpoints that lie: whatever the bytes, an error or numbers, never a panic, never a call, never much memory.

mod common;

use common::{Entry, Pickle, exercise, fixture_bytes, pth, zip};

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n as u64) as usize
    }
}

fn refused(bytes: &[u8]) -> String {
    exercise(bytes).expect_err("must be refused")
}

#[test]
fn every_truncation_is_refused() {
    let small = fixture_bytes("pth/wrapped_odd.pth");
    for n in 0..small.len() {
        refused(&small[..n]);
    }
    for name in ["pth/var_tiny.pth", "pth/training.pth", "pth/expected.safetensors"] {
        let bytes = fixture_bytes(name);
        for n in (0..bytes.len()).step_by(997).chain(bytes.len() - 200..bytes.len()) {
            refused(&bytes[..n]);
        }
    }
}

#[test]
fn flipped_bits_never_panic() {
    let small = fixture_bytes("pth/wrapped_odd.pth");
    let mut bytes = small.clone();
    for at in 0..small.len() {
        for value in (0..8).map(|bit| small[at] ^ (1 << bit)).chain([0, 0x7f, 0x80, 0xff]) {
            bytes[at] = value;
            let _ = exercise(&bytes);
        }
        bytes[at] = small[at];
    }
    let header = fixture_bytes("pth/expected.safetensors");
    let json = u64::from_le_bytes(header[..8].try_into().unwrap()) as usize + 8;
    let mut bytes = header.clone();
    for at in 0..json {
        for value in [header[at] ^ 1, header[at] ^ 0x10, 0, b'9', b'"', 0xff] {
            bytes[at] = value;
            let _ = exercise(&bytes);
        }
        bytes[at] = header[at];
    }
}

#[test]
fn random_damage_never_panics() {
    let seeds = [
        fixture_bytes("pth/wrapped_odd.pth"),
        fixture_bytes("pth/training.pth"),
        pth(&Pickle::one_f32(2, 0, &[2], &[1]), &[&[0; 8]]),
    ];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // Instructions that do something, so that damage makes programs rather than noise.
    let ops = b"(0122NJKMXGtule]})asuqrhjcRbQ.\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8f\x90\x91\x92\x93\x94\x95";
    let mut opened = 0;
    for _ in 0..60_000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        for _ in 0..=random.below(6) {
            let at = random.below(bytes.len());
            bytes[at] = if random.below(2) == 0 {
                ops[random.below(ops.len())]
            } else {
                random.below(256) as u8
            };
        }
        opened += usize::from(exercise(&bytes).is_ok());
    }
    assert!(opened > 100, "{opened}: the damage should leave some files readable");
}

#[test]
fn random_programs_never_panic() {
    let ops = b"(0122NJKMXGtule]})asuqrhjRbQ\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8f\x90\x91\x92\x93\x94\x95";
    let mut random = Random(42);
    for _ in 0..60_000 {
        let mut pickle = Pickle::new();
        for _ in 0..random.below(60) {
            pickle = match random.below(12) {
                0 => pickle.text("storage"),
                1 => pickle.global("torch", "FloatStorage"),
                2 => pickle.global("collections", "OrderedDict"),
                3 => pickle.global("torch._utils", "_rebuild_tensor_v2"),
                4 => pickle.tensor("FloatStorage", "0", 2, 0, &[2], &[1]),
                5 => pickle.ints(&[1, 2]),
                6 => pickle.op(&[random.below(4) as u8]),
                _ => pickle.op(&[ops[random.below(ops.len())]]),
            };
        }
        let _ = exercise(&pth(&pickle, &[&[0; 8]]));
    }
}

#[test]
fn a_call_of_anything_else_is_refused_by_name() {
    let calls = [
        Pickle::new().global("os", "system").text("echo pwned > /tmp/pwned").op(b"\x85R"),
        Pickle::new().text("os").text("system").op(b"\x93").text("true").op(b"\x85R"),
        Pickle::new().global("os", "system").text("true").op(b"\x85\x81"),
        Pickle::new().global("os", "system").text("true").op(b"\x85}\x92"),
        // Hidden in a place that is thrown away, and as a hook of a tensor.
        Pickle::new().op(b"}").global("os", "system").text("true").op(b"\x85R0"),
        Pickle::new().op(b"}").text("t").global("os", "system").text("true").op(b"\x85Rs"),
    ];
    for pickle in calls {
        let text = refused(&pth(&pickle, &[]));
        assert!(text.contains("calls `os.system`"), "{text}");
    }
    for (module, name) in [
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("torch.nn.modules.linear", "Linear"),
        ("posix", "system"),
    ] {
        let text = refused(&pth(&Pickle::new().global(module, name).op(b")R"), &[]));
        assert!(text.contains(&format!("calls `{module}.{name}`")), "{text}");
    }
    // INST, OBJ, PERSID, EXT1 and the texts of protocol 0 are not instructions here at all.
    for op in [b'i', b'o', b'P', 0x82, b'S', b'I', b'V'] {
        let text = refused(&pth(&Pickle::new().op(&[b'(', op]).op(b"os\nsystem\n"), &[]));
        assert!(text.contains(&format!("0x{op:02x}")), "{text}");
    }
}

#[test]
fn a_global_that_is_only_named_is_inert() {
    let pickle = Pickle::new().op(b"}(").text("f").global("os", "system");
    let pickle = pickle.text("t").tensor("FloatStorage", "0", 2, 0, &[2], &[1]).op(b"u");
    assert_eq!(exercise(&pth(&pickle, &[&[0; 8]])), Ok(1));
}

#[test]
fn sizes_that_overflow_are_refused() {
    const HUGE: i64 = i64::MAX;
    let cases: [(i64, i64, &[i64], &[i64]); 12] = [
        (2, 0, &[3], &[1]),                         // one element too many
        (2, 1, &[2], &[1]),                         // offset
        (2, 2, &[1], &[1]),                         // offset at the end
        (2, 0, &[2], &[2]),                         // stride
        (2, 0, &[1 << 32, 1 << 32], &[1, 1]),       // product wraps to 0
        (2, 0, &[(1 << 42) + 1, 1 << 22], &[0, 0]), // product wraps to a small number
        (2, 0, &[HUGE], &[1]),
        (2, HUGE, &[2], &[1]),
        (2, 0, &[2], &[HUGE]),
        (2, 1, &[3, 3], &[HUGE, HUGE]), // sum of strides wraps
        (2, 0, &[1 << 40], &[0]),       // 4 TiB from 8 bytes
        (2, 0, &[1; 17], &[1; 17]),     // too many dimensions
    ];
    for (len, offset, shape, strides) in cases {
        let text = refused(&pth(&Pickle::one_f32(len, offset, shape, strides), &[&[0; 8]]));
        assert!(text.contains("`t`") || text.contains("wrong kind"), "{text}");
    }
    let negative: [(i64, i64, &[i64], &[i64]); 4] =
        [(-2, 0, &[2], &[1]), (2, -1, &[2], &[1]), (2, 0, &[-2], &[1]), (2, 1, &[2], &[-1])];
    for (len, offset, shape, strides) in negative {
        refused(&pth(&Pickle::one_f32(len, offset, shape, strides), &[&[0; 8]]));
    }
    for len in [1, 3, 1 << 62, HUGE] {
        let text = refused(&pth(&Pickle::one_f32(len, 0, &[1], &[1]), &[&[0; 8]]));
        assert!(text.contains("storage `0` has 8 bytes"), "{text}");
    }
}

#[test]
fn deep_wide_and_circular_pickles_end() {
    // 100,000 lists in lists: nothing recurses while building; the walk stops at its limit.
    let mut deep = Pickle::new();
    for _ in 0..100_000 {
        deep = deep.op(b"]");
    }
    for _ in 1..100_000 {
        deep = deep.op(b"a");
    }
    assert!(refused(&pth(&deep, &[])).contains("nested deeper"));
    // A dictionary that contains itself.
    let circular = Pickle::new().op(b"}q\0").text("x").op(b"h\0s");
    assert!(refused(&pth(&circular, &[])).contains("nested deeper"));
    // 2^30 paths through 30 dictionaries.
    let mut laughs = Pickle::new().op(b"N");
    for _ in 0..30 {
        laughs = laughs.op(b"q\0").op(b"0}(").text("a").op(b"h\0").text("b").op(b"h\0u");
    }
    assert!(refused(&pth(&laughs, &[])).contains("more than"));
    // A long program, lengths that run off the end, a stack that is not there.
    let long = Pickle::new().op(&vec![b'N'; 5 << 20]);
    assert!(refused(&pth(&long, &[])).contains("instructions"));
    for tail in [
        &b"X\xff\xff\xff\xff"[..],
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x8b\xff\xff\xff\xff",
        b"cos",
    ] {
        refused(&pth(&Pickle::new().op(tail), &[]));
    }
    for tail in [
        &b"0"[..],
        b"t",
        b"u",
        b"a",
        b"R",
        b"Q",
        b"b",
        b"s",
        b"\x87",
        b"(0",
        b"h\0",
        b"q\0",
        b"\x93",
        b"(K\x01t.",
    ] {
        let _ = exercise(&pth(&Pickle::new().op(tail), &[]));
    }
}

#[test]
fn names_are_bounded_and_unique() {
    let long = "x".repeat(600);
    let tensor = |p: Pickle, name: &str| p.text(name).tensor("FloatStorage", "0", 2, 0, &[2], &[1]);
    let file = pth(&tensor(Pickle::new().op(b"}"), &long).op(b"s"), &[&[0; 8]]);
    assert!(refused(&file).contains("longer than"));
    let twice = tensor(tensor(Pickle::new().op(b"}("), "a"), "a").op(b"u");
    assert!(refused(&pth(&twice, &[&[0; 8]])).contains("two tensors are called `a`"));
}

#[test]
fn zip_entries_that_cannot_be_read_in_place_are_refused() {
    let pickle = Pickle::one_f32(2, 0, &[2], &[1]).stop();
    let good = vec![
        Entry::new("m/data.pkl", pickle),
        Entry::new("m/data/0", [0; 8]),
        Entry::new("m/version", "3"),
    ];
    assert_eq!(exercise(&zip(&good)), Ok(1));
    let mut entries = good.clone();
    entries[1].method = 8;
    assert!(refused(&zip(&entries)).contains("compressed"));
    let mut entries = good.clone();
    entries[2].method = 8; // nobody needs it
    assert_eq!(exercise(&zip(&entries)), Ok(1));
    let mut entries = good.clone();
    entries.remove(1);
    assert!(refused(&zip(&entries)).contains("`m/data/0` is missing"));
    let mut entries = good.clone();
    entries.push(entries[1].clone());
    assert!(refused(&zip(&entries)).contains("twice"));
    let mut entries = good.clone();
    entries.push(Entry::new("m/byteorder", "big"));
    assert!(refused(&zip(&entries)).contains("big-endian"));
    assert!(refused(&zip(&good[1..])).contains("without data.pkl"));
}

#[test]
fn other_kinds_of_file_are_named() {
    let cases: [(&[u8], &str); 8] = [
        (b"", "empty"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "before PyTorch 1.6"),
        (b"\x80\x04}.", "bare pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html>", "web page"),
        (b"VARMINT\0........", "already converted"),
        (b"GGUF....", "not known"),
        (b"PK\x03\x04", "zip directory"),
    ];
    for (bytes, want) in cases {
        let text = refused(bytes);
        assert!(text.contains(want), "{text}");
    }
}

#[test]
fn safetensors_headers_that_lie_are_refused() {
    let file = |json: &str, data: usize| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let entry = |dtype: &str, shape: &str, from: u64, to: u64| {
        format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{from},{to}]}}}}"#)
    };
    assert_eq!(exercise(&file(&entry("F32", "[2]", 0, 8), 8)), Ok(1));
    for bytes in [
        file(&entry("F32", "[2]", 0, 8), 7),
        file(&entry("F32", "[2]", 0, 8), 9),
        file(&entry("F32", "[3]", 0, 8), 8),
        file(&entry("F32", "[2]", 8, 0), 8),
        file(&entry("F32", "[4294967296,4294967296]", 0, 0), 0),
        file(&entry("U8", "[18446744073709551600]", 0, 18446744073709551600), 8),
        file(&entry("U8", "[18446744073709551615]", 0, 18446744073709551615), 8),
        file(&entry("F32", "[-2]", 0, 8), 8),
        file("{", 0),
        file(&"{\"a\":".repeat(100_000), 0),
        [&u64::MAX.to_le_bytes()[..], b"{}"].concat(),
        [&(1u64 << 40).to_le_bytes()[..], b"{}"].concat(),
    ] {
        refused(&bytes);
    }
    // A type that cannot be read does not spoil the rest.
    let odd = r#"{"t":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},"u":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#;
    assert_eq!(exercise(&file(odd, 8)), Ok(1));
}
