//! One run in QEMU: an instruction is a nanosecond of its time, so every run counts the same.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use defmt_decoder::DecodeError;

use crate::image::Image;

/// Longest run, in seconds; one takes a few.
const PATIENCE: &str = "300";

/// What a run said.
pub struct Run {
    pub lines: Vec<String>,
    /// Lines `name = number`.
    pub numbers: BTreeMap<String, u64>,
    /// Of the line `checksum BOARD number`.
    pub checksum: Option<u32>,
    pub succeeded: bool,
}

/// Runs the firmware on a machine, with these bytes in the slots.
pub fn run(machine: &str, image: &Image, slots: [&[u8]; 2]) -> Result<Run> {
    let mut qemu = Command::new("timeout");
    qemu.args([PATIENCE, "qemu-system-arm", "-machine", machine]);
    qemu.args(["-display", "none", "-monitor", "none", "-serial", "null"]);
    qemu.args(["-icount", "shift=0", "-semihosting-config", "enable=on,target=native"]);
    for ((bytes, at), name) in slots.iter().zip(image.slots).zip(["a", "b"]) {
        let path = image.path.with_file_name(format!("slot-{name}.bin"));
        fs::write(&path, bytes)?;
        let path = path.to_str().context("a path that is not UTF-8")?;
        qemu.args(["-device", &format!("loader,file={path},addr={at:#x},force-raw=on")]);
    }
    let output = qemu.arg("-kernel").arg(&image.path).output().context("qemu-system-arm")?;

    let mut decoder = image.log.new_stream_decoder();
    decoder.received(&output.stdout);
    let mut lines = Vec::new();
    loop {
        match decoder.decode() {
            Ok(frame) => lines.push(frame.display_message().to_string()),
            Err(DecodeError::UnexpectedEof) => break,
            Err(DecodeError::Malformed) => anyhow::bail!("the log cannot be read: {lines:#?}"),
        }
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(!lines.is_empty(), "nothing was said: {} {errors}", output.status);
    let number = |line: &String| {
        let (name, number) = line.split_once(" = ")?;
        Some((name.to_owned(), number.parse().ok()?))
    };
    let checksum = |line: &String| {
        let number = line.strip_prefix("checksum ")?.split_once(" 0x")?.1;
        u32::from_str_radix(number, 16).ok()
    };
    Ok(Run {
        numbers: lines.iter().filter_map(number).collect(),
        checksum: lines.iter().find_map(checksum),
        succeeded: output.status.success(),
        lines,
    })
}
