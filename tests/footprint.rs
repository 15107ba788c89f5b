//! Code and stack of the linked programs of `tests/bare/no-panic`, held against `memory-budgets.toml`:
//! `./ci.sh no_panic` builds them and runs `cargo test --test footprint -- FOLDER`, a file per row.
//!
//! Code is `.text` and `.rodata`, within [`TOLERANCE`]; only the row of the firmware's kernels, built for
//! size, has a bar. Stack is read from the instructions: what each function pushes and subtracts, and the deepest
//! chain of calls, where a call through a pointer may reach every function whose address is in a table. It
//! must not be more than the file says. A chain that comes back to itself has no depth and is an error.
//!
//! `VARMINT_BLESS=1` writes the rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::{Object, ObjectSection, ObjectSymbol, SectionKind, SymbolKind};
use serde::Deserialize;

const BUDGETS: &str = "memory-budgets.toml";
const BEGIN: &str = "# Written by tests/footprint.rs from here on.\n";
const END: &str = "\n# Written by tests/budgets.rs from here on.\n";

/// By how much of what is written code may be larger or smaller: compilers differ.
const TOLERANCE: f64 = 0.02;
/// The most code that a firmware may take: the row [`FIRMWARE`].
const MOST_CODE: u64 = 96 << 10;
const FIRMWARE: &str = "dsp-small";

#[derive(Deserialize)]
struct Budgets {
    code: BTreeMap<String, u64>,
    stack: BTreeMap<String, Stack>,
}

#[derive(Deserialize, Clone, Copy)]
struct Stack {
    frame: u64,
    depth: u64,
}

struct Function {
    name: String,
    frame: u64,
    calls: BTreeSet<u64>,
    through_pointer: bool,
}

struct Footprint {
    code: u64,
    stack: Stack,
    /// The largest frames, and the functions of the deepest chain.
    largest: Vec<(u64, String)>,
    chain: Vec<(u64, String)>,
}

/// The number that a 32-bit Thumb instruction holds in 12 bits (ThumbExpandImm).
fn expand(imm: u32) -> u32 {
    let byte = imm & 0xff;
    match imm >> 8 {
        0 => byte,
        1 => byte << 16 | byte,
        2 => byte << 24 | byte << 8,
        3 => byte * 0x0101_0101,
        _ => (byte | 0x80).rotate_right(imm >> 7),
    }
}

/// What a piece of code does to the stack and whom it calls.
fn read(at: u64, code: &[u8], function: &mut Function) {
    let half =
        |i: usize| code.get(2 * i..2 * i + 2).map(|b| u32::from(b[0]) | u32::from(b[1]) << 8);
    let mut i = 0;
    while let Some(a) = half(i) {
        let here = at + 2 * i as u64;
        let target = |offset: i32| here.wrapping_add(4).wrapping_add_signed(offset.into());
        if a >> 11 < 0b11101 {
            match a {
                _ if a >> 9 == 0b101_1010 => {
                    function.frame += u64::from(4 * (a & 0x1ff).count_ones())
                }
                _ if a >> 7 == 0b1_0110_0001 => function.frame += u64::from(4 * (a & 0x7f)),
                // A jump beyond the function is a call in its last place.
                _ if a >> 11 == 0b11100 => {
                    function.calls.insert(target(((a << 21) as i32) >> 20));
                }
                // `blx` and `bx` of a register other than the return address.
                _ if a & 0xff87 == 0x4780 || a & 0xff87 == 0x4700 && a != 0x4770 => {
                    function.through_pointer = true;
                }
                _ => {}
            }
            i += 1;
            continue;
        }
        let b = half(i + 1).unwrap_or(0);
        let imm12 = (a >> 10 & 1) << 11 | (b >> 12 & 7) << 8 | b & 0xff;
        function.frame += u64::from(match (a, b) {
            (0xe92d, _) => 4 * b.count_ones(),
            (0xf84d, _) if b & 0xfff == 0xd04 => 4,
            // `vpush` of double or single registers.
            (_, _) if a & 0xffbf == 0xed2d && b & 0xe00 == 0xa00 => 4 * (b & 0xff),
            (_, _) if a & 0xfbff == 0xf1ad && b >> 8 & 0xf == 0xd => expand(imm12),
            (_, _) if a & 0xfbff == 0xf2ad && b >> 8 & 0xf == 0xd => imm12,
            _ => 0,
        });
        // `bl` and `b.w`.
        if a >> 11 == 0b11110 && b & 0x9000 == 0x9000 {
            let (s, j1, j2) = (a >> 10 & 1, b >> 13 & 1, b >> 11 & 1);
            let top = s << 24 | (1 ^ j1 ^ s) << 23 | (1 ^ j2 ^ s) << 22;
            let offset = top | (a & 0x3ff) << 12 | (b & 0x7ff) << 1;
            function.calls.insert(target(((offset << 7) as i32) >> 7));
        }
        i += 2;
    }
}

fn footprint(path: &Path) -> Result<Footprint> {
    let bytes = std::fs::read(path)?;
    let file = object::File::parse(&*bytes)?;
    let kind = |k: SectionKind| file.sections().filter(move |s| s.kind() == k);
    let code = kind(SectionKind::Text)
        .chain(kind(SectionKind::ReadOnlyData))
        .filter(|s| matches!(s.name(), Ok(".text" | ".rodata")))
        .map(|s| s.size())
        .sum();

    // `$d` begins data between instructions, `$t` ends it.
    let marks: BTreeMap<u64, bool> = (file.symbols())
        .filter_map(|s| match s.name().ok()?.get(..2)? {
            "$d" => Some((s.address(), true)),
            "$t" => Some((s.address(), false)),
            _ => None,
        })
        .collect();
    let mut functions = BTreeMap::new();
    for s in file.symbols().filter(|s| s.kind() == SymbolKind::Text && s.size() > 0) {
        let (at, section) = (s.address() & !1, s.section_index().context("a function nowhere")?);
        let mut f = Function {
            name: format!("{:#}", rustc_demangle::demangle(s.name()?)),
            frame: 0,
            calls: BTreeSet::new(),
            through_pointer: false,
        };
        let end = at + s.size();
        let section = file.section_by_index(section)?;
        let mut from = at;
        while from < end {
            let data = marks.range(..=from).next_back().is_some_and(|m| *m.1);
            let to = marks.range(from + 1..end).next().map_or(end, |m| *m.0);
            if !data {
                let code =
                    section.data_range(from, to - from)?.context("a function without code")?;
                read(from, code, &mut f);
            }
            from = to;
        }
        f.calls.retain(|c| !(at..end).contains(c));
        functions.insert(at, f);
    }

    let mut pointers = BTreeSet::new();
    for s in kind(SectionKind::ReadOnlyData).chain(kind(SectionKind::Data)) {
        for word in s.data()?.as_chunks::<4>().0 {
            let at = u64::from(u32::from_le_bytes(*word));
            if at & 1 == 1 && functions.contains_key(&(at - 1)) {
                pointers.insert(at - 1);
            }
        }
    }
    let start = file.entry() & !1;
    let mut known = BTreeMap::new();
    let (depth, chain) = deepest(start, &functions, &pointers, &mut known, &mut Vec::new())?;
    let mut largest: Vec<_> = functions.values().map(|f| (f.frame, f.name.clone())).collect();
    largest.sort_by(|a, b| b.cmp(a));
    let frame = largest.first().context("no functions")?.0;
    let chain = chain.iter().map(|at| (functions[at].frame, functions[at].name.clone())).collect();
    Ok(Footprint { code, stack: Stack { frame, depth }, largest, chain })
}

type Chain = (u64, Vec<u64>);

/// The most stack that a call of a function takes, and by which functions.
fn deepest(
    at: u64,
    functions: &BTreeMap<u64, Function>,
    pointers: &BTreeSet<u64>,
    known: &mut BTreeMap<u64, Chain>,
    open: &mut Vec<u64>,
) -> Result<Chain> {
    if let Some(chain) = known.get(&at) {
        return Ok(chain.clone());
    }
    let name = |at: &u64| functions.get(at).map_or("?", |f| f.name.as_str());
    if open.contains(&at) {
        let chain: Vec<_> = open.iter().map(name).collect();
        bail!("{} calls itself: {}", name(&at), chain.join(" > "));
    }
    let f =
        functions.get(&at).with_context(|| format!("a call of {at:#x}, which is no function"))?;
    open.push(at);
    let mut most: Chain = (0, Vec::new());
    let any = f.through_pointer.then_some(pointers).into_iter().flatten();
    for &callee in f.calls.iter().chain(any) {
        let chain = deepest(callee, functions, pointers, known, open)?;
        if chain.0 > most.0 || most.1.is_empty() {
            most = chain;
        }
    }
    open.pop();
    most.0 += f.frame;
    most.1.insert(0, at);
    known.insert(at, most.clone());
    Ok(most)
}

/// A number as TOML takes it: 1_002_816.
fn num(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.map(|g| std::str::from_utf8(g).unwrap()).collect::<Vec<_>>().join("_")
}

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).context("the folder of the programs is missing")?;
    let mut rows = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).context(folder)? {
        let path = entry?.path();
        let row = path.file_name().and_then(|n| n.to_str()).context("a name")?.to_owned();
        rows.insert(row, footprint(&path).with_context(|| path.display().to_string())?);
    }
    println!("{:16} {:>10} {:>8} {:>8}", "program", "code", "frame", "depth");
    for (row, f) in &rows {
        println!(
            "{row:16} {:>10} {:>8} {:>8}",
            num(f.code),
            num(f.stack.frame),
            num(f.stack.depth)
        );
        if std::env::var_os("VARMINT_FRAMES").is_some() {
            f.largest.iter().take(12).for_each(|(frame, name)| println!("    {frame:>6}  {name}"));
            f.chain.iter().for_each(|(frame, name)| println!("    > {frame:>6}  {name}"));
        }
    }
    let firmware = rows.get(FIRMWARE).context(FIRMWARE)?;
    ensure!(firmware.code <= MOST_CODE, "{FIRMWARE} has more than {MOST_CODE} bytes of code");

    let text = std::fs::read_to_string(BUDGETS)?;
    let (head, rest) = text.split_once(BEGIN).context("the file says where its rows begin")?;
    let (_, tail) = rest.split_once(END).context("and where they end")?;
    if std::env::var_os("VARMINT_BLESS").is_some() {
        let mut out = format!("{head}{BEGIN}\n[code]\n");
        for (row, f) in &rows {
            writeln!(out, "{row} = {}", num(f.code))?;
        }
        out += "\n[stack]\n";
        for (row, Footprint { stack: s, .. }) in &rows {
            writeln!(out, "{row} = {{ frame = {}, depth = {} }}", num(s.frame), num(s.depth))?;
        }
        std::fs::write(BUDGETS, out + END + tail)?;
        return Ok(());
    }
    let budgets: Budgets = toml::from_str(&text)?;
    ensure!(
        rows.keys().eq(budgets.code.keys()) && rows.keys().eq(budgets.stack.keys()),
        "{BUDGETS} has other rows"
    );
    let mut wrong = String::new();
    for (row, f) in &rows {
        let (code, stack) = (budgets.code[row], budgets.stack[row]);
        if (f.code as f64 / code as f64 - 1.0).abs() > TOLERANCE {
            writeln!(wrong, "{row}: code {} in place of {}", num(f.code), num(code))?;
        }
        if f.stack.frame > stack.frame || f.stack.depth > stack.depth {
            let (frame, depth) = (num(f.stack.frame), num(f.stack.depth));
            writeln!(wrong, "{row}: more stack: frame = {frame}, depth = {depth}")?;
        }
    }
    ensure!(wrong.is_empty(), "{wrong}to write this: VARMINT_BLESS=1 ./ci.sh no_panic");
    Ok(())
}
