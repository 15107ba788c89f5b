//! Hand-made `.pth` files: a zip writer that can lie, and a pickle writer.
#![allow(dead_code, unreachable_pub, missing_docs)]

pub mod model;
pub mod procedural;

use std::io::{Cursor, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use varmint_quant::checkpoint::Checkpoint;

/// A file of `fixtures/`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures")).join(name)
}

/// The bytes of a file of `fixtures/`.
pub fn fixture_bytes(name: &str) -> Vec<u8> {
    let path = fixture(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// One entry of a zip file.
#[derive(Clone)]
pub struct Entry {
    pub name: String,
    pub data: Vec<u8>,
    /// Where its local header goes; after the entry before it if not given.
    pub at: Option<u64>,
    pub method: u16,
}

impl Entry {
    pub fn new(name: &str, data: impl Into<Vec<u8>>) -> Self {
        Self { name: name.into(), data: data.into(), at: None, method: 0 }
    }
}

/// Writes a zip file the way torch does: sizes only in the directory, a zip64 end always.
pub fn write_zip(out: &mut (impl Write + Seek), entries: &[Entry]) -> std::io::Result<()> {
    let mut directory = Vec::new();
    let mut at = 0;
    for e in entries {
        at = e.at.unwrap_or(at);
        out.seek(SeekFrom::Start(at))?;
        let pad = vec![b'Z'; 12];
        let mut head = b"PK\x03\x04\0\0\x08\x08\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
        head.extend((e.name.len() as u16).to_le_bytes());
        head.extend((4 + pad.len() as u16).to_le_bytes());
        head.extend(e.name.as_bytes());
        head.extend(b"FB");
        head.extend((pad.len() as u16).to_le_bytes());
        head.extend(pad);
        head.extend(&e.data);
        head.extend(b"PK\x07\x08\0\0\0\0");
        head.extend((e.data.len() as u32).to_le_bytes());
        head.extend((e.data.len() as u32).to_le_bytes());
        out.write_all(&head)?;

        let large = at > u64::from(u32::MAX) - 1;
        let size = (e.data.len() as u32).to_le_bytes();
        directory.extend(b"PK\x01\x02\0\0\0\0\x08\x08");
        directory.extend(e.method.to_le_bytes());
        directory.extend([0; 8]); // time, date, crc
        directory.extend(size);
        directory.extend(size);
        directory.extend((e.name.len() as u16).to_le_bytes());
        directory.extend(if large { 12u16 } else { 0 }.to_le_bytes());
        directory.extend([0; 10]); // comment, disk, attributes
        directory.extend(if large { u32::MAX } else { at as u32 }.to_le_bytes());
        directory.extend(e.name.as_bytes());
        if large {
            directory.extend([1, 0, 8, 0]); // zip64: the offset only
            directory.extend(at.to_le_bytes());
        }
        at += head.len() as u64;
    }
    let (count, size) = (entries.len() as u64, directory.len() as u64);
    let mut end = directory;
    end.extend(b"PK\x06\x06");
    end.extend(44u64.to_le_bytes());
    end.extend([0; 12]);
    for n in [count, count, size, at] {
        end.extend(n.to_le_bytes());
    }
    end.extend(b"PK\x06\x07\0\0\0\0");
    end.extend((at + size).to_le_bytes());
    end.extend(1u32.to_le_bytes());
    end.extend(b"PK\x05\x06\0\0\0\0");
    end.extend((count as u16).to_le_bytes());
    end.extend((count as u16).to_le_bytes());
    end.extend((size as u32).to_le_bytes());
    end.extend(u32::try_from(at).unwrap_or(u32::MAX).to_le_bytes());
    end.extend([0; 2]);
    out.seek(SeekFrom::Start(at))?;
    out.write_all(&end)
}

/// A `.pth` file in memory.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    write_zip(&mut out, entries).expect("memory");
    out.into_inner()
}

/// A `.pth` file of one pickle and storages `data/0`, `data/1`, ...
pub fn pth(pickle: &Pickle, storages: &[&[u8]]) -> Vec<u8> {
    let mut entries =
        vec![Entry::new("m/data.pkl", pickle.clone().stop()), Entry::new("m/byteorder", "little")];
    entries
        .extend(storages.iter().enumerate().map(|(i, s)| Entry::new(&format!("m/data/{i}"), *s)));
    entries.push(Entry::new("m/version", "3\n"));
    zip(&entries)
}

/// Opens bytes and, if that works, reads every tensor both ways. The message, if opening failed.
pub fn exercise(bytes: &[u8]) -> Result<usize, String> {
    let checkpoint = Checkpoint::from_bytes("test", bytes.to_vec()).map_err(|e| e.to_string())?;
    let mut read = 0;
    for name in checkpoint.names() {
        let count: usize = checkpoint.shape(name).expect("has a shape").iter().product();
        if let Ok(values) = checkpoint.read_f32(name) {
            assert_eq!(values.len(), count);
            read += 1;
        }
        if let Ok(values) = checkpoint.read_i64(name) {
            assert_eq!(values.len(), count);
            read += 1;
        }
    }
    Ok(read)
}

/// A pickle program under construction.
#[derive(Clone)]
pub struct Pickle(pub Vec<u8>);

impl Pickle {
    pub fn new() -> Self {
        Self(vec![0x80, 2])
    }
    pub fn op(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
    pub fn text(self, text: &str) -> Self {
        self.op(b"X").op(&(text.len() as u32).to_le_bytes()).op(text.as_bytes())
    }
    pub fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n").as_bytes())
    }
    /// An integer of any size up to 64 bits (LONG1).
    pub fn int(self, n: i64) -> Self {
        self.op(&[0x8a, 8]).op(&n.to_le_bytes())
    }
    pub fn ints(self, all: &[i64]) -> Self {
        all.iter().fold(self.op(b"("), |p, &n| p.int(n)).op(b"t")
    }
    /// A view of storage `key`, with `len` elements of `class`.
    pub fn tensor(
        self,
        class: &str,
        key: &str,
        len: i64,
        offset: i64,
        shape: &[i64],
        strides: &[i64],
    ) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op(b"((")
            .text("storage")
            .global("torch", class)
            .text(key)
            .text("cuda:0")
            .int(len)
            .op(b"tQ")
            .int(offset)
            .ints(shape)
            .ints(strides)
            .op(b"\x89")
            .global("collections", "OrderedDict")
            .op(b")RtR")
    }
    /// One tensor `t` of f32 in a dictionary.
    pub fn one_f32(len: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Self {
        Self::new()
            .op(b"}")
            .text("t")
            .tensor("FloatStorage", "0", len, offset, shape, strides)
            .op(b"s")
    }
    pub fn stop(self) -> Vec<u8> {
        self.op(b".").0
    }
}
