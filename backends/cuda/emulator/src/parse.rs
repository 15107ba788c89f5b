//! PTX text to statements: entries with their parameters, registers, shared variables, labels and instructions.

use std::collections::HashMap;

/// What is wrong with a text, and in which line (from 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    /// The line.
    pub(crate) line: u32,
    /// What is wrong.
    pub(crate) what: String,
}

pub(crate) fn bad<T>(line: u32, what: impl Into<String>) -> Result<T, Error> {
    Err(Error { line, what: what.into() })
}

/// Width of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Pred,
    Narrow,
    Wide,
}

/// A register: its class and a number among those of its class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reg {
    pub(crate) class: Class,
    pub(crate) index: u32,
}

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Arg {
    Reg(Reg),
    /// A number, as it is written.
    Number(String),
    /// A variable or a label.
    Name(String),
    /// `%tid.x` and its like.
    Special(String),
    /// `[base + offset]`.
    Place(Option<Reg>, Option<String>, i64),
    /// `{a, b}`.
    List(Vec<Arg>),
    /// `a|p`.
    Pair(Reg, Reg),
}

/// An instruction.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) line: u32,
    /// The predicate before it, and whether it is negated.
    pub(crate) guard: Option<(Reg, bool)>,
    pub(crate) op: String,
    pub(crate) args: Vec<Arg>,
}

/// A variable: name, alignment, bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) align: u32,
    pub(crate) bytes: u32,
    /// A number that it begins as.
    pub(crate) value: Option<i64>,
}

impl Statement {
    /// Whether an operand names a variable.
    fn names(&self, name: &str) -> bool {
        self.args.iter().any(|a| match a {
            Arg::Name(n) => n == name,
            Arg::Place(_, Some(n), _) => n == name,
            _ => false,
        })
    }
}

impl Entry {
    /// Whether an instruction names a variable.
    pub(crate) fn names(&self, name: &str) -> bool {
        self.body.iter().any(|s| s.names(name))
    }
}

/// A kernel.
#[derive(Clone, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) params: Vec<Variable>,
    /// Threads of a block at most.
    pub(crate) threads: Option<u32>,
    pub(crate) shared: Vec<Variable>,
    /// How many registers there are: predicates, 16 or 32 bits, 64 bits.
    pub(crate) registers: [u32; 3],
    /// Labels, and the statements that they stand before.
    pub(crate) labels: HashMap<String, usize>,
    pub(crate) body: Vec<Statement>,
}

/// A text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Text {
    /// PTX version, major and minor.
    pub(crate) version: (u32, u32),
    /// The least compute capability.
    pub(crate) target: (u32, u32),
    /// Variables in global memory.
    pub(crate) globals: Vec<Variable>,
    /// Shared variables of whichever kernels name them.
    pub(crate) shared: Vec<Variable>,
    /// Shared memory that a launch sizes: all these names are one place.
    pub(crate) dynamic: Vec<Variable>,
    pub(crate) entries: Vec<Entry>,
}

fn bytes_of(t: &str) -> Option<u32> {
    Some(match t {
        ".b8" | ".u8" | ".s8" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" => 8,
        _ => return None,
    })
}

pub(crate) fn integer(s: &str) -> Option<i64> {
    let (sign, s) = s.strip_prefix('-').map_or((1, s), |s| (-1, s));
    let s = s.strip_suffix('U').unwrap_or(s);
    let v = match s.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok()? as i64,
        None => s.parse::<u64>().ok()? as i64,
    };
    Some(v.wrapping_mul(sign))
}

/// `.align 4 .b8 NAME[64] = 1`, after the state space.
fn variable(line: u32, text: &str) -> Result<Variable, Error> {
    let (text, value) = match text.split_once('=') {
        Some((text, v)) => match integer(v.trim()) {
            Some(v) => (text.trim(), Some(v)),
            None => return bad(line, format!("an initial value that is no number: {v}")),
        },
        None => (text, None),
    };
    let (mut align, mut size) = (None, None);
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        if word == ".align" {
            align = words.next().and_then(|w| w.parse().ok());
        } else if let Some(bytes) = bytes_of(word) {
            size = Some(bytes);
        } else if let Some(size) = size {
            let (name, count) = match word.split_once('[') {
                Some((name, n)) => match n.strip_suffix(']') {
                    Some("") => (name, 0),
                    Some(n) if n.parse::<u32>().is_ok() => (name, n.parse().unwrap_or(0)),
                    _ => return bad(line, format!("not the size of an array: {word}")),
                },
                None => (word, 1),
            };
            let align = align.unwrap_or(size);
            return Ok(Variable { name: name.into(), align, bytes: size * count, value });
        } else {
            return bad(line, format!("not part of a variable: {word}"));
        }
    }
    bad(line, "a variable without type or name")
}

/// Names of registers: what comes before the number, and where those numbers begin in their class.
type Registers = HashMap<String, (Class, u32, u32)>;

struct Parser {
    registers: Registers,
}

impl Parser {
    fn register(&self, s: &str) -> Option<Reg> {
        let digits = s.len() - s.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (class, first, count) = *self.registers.get(&s[..digits])?;
        let n: u32 = s[digits..].parse().ok()?;
        (n < count).then_some(Reg { class, index: first + n })
    }

    fn place(&self, line: u32, s: &str) -> Result<Arg, Error> {
        let (base, offset) = s.split_once('+').map_or((s, None), |(b, o)| (b, Some(o)));
        let offset = match offset.map(|o| integer(o.trim())) {
            None => 0,
            Some(Some(n)) => n,
            Some(None) => return bad(line, format!("not an offset: {s}")),
        };
        let base = base.trim();
        if base.starts_with('%') {
            match self.register(base) {
                Some(r) => Ok(Arg::Place(Some(r), None, offset)),
                None => bad(line, format!("no such register: {base}")),
            }
        } else {
            Ok(Arg::Place(None, Some(base.into()), offset))
        }
    }

    fn arg(&self, line: u32, s: &str) -> Result<Arg, Error> {
        let s = s.trim();
        if let Some(inner) = s.strip_prefix('[') {
            return match inner.strip_suffix(']') {
                Some(inner) => self.place(line, inner),
                None => bad(line, format!("an open bracket: {s}")),
            };
        }
        if let Some(inner) = s.strip_prefix('{') {
            let Some(inner) = inner.strip_suffix('}') else {
                return bad(line, format!("an open brace: {s}"));
            };
            let parts = inner.split(',').map(|p| self.arg(line, p));
            return Ok(Arg::List(parts.collect::<Result<_, _>>()?));
        }
        if let Some((a, b)) = s.split_once('|') {
            return match (self.register(a.trim()), self.register(b.trim())) {
                (Some(a), Some(b)) => Ok(Arg::Pair(a, b)),
                _ => bad(line, format!("not two registers: {s}")),
            };
        }
        if s.starts_with('%') {
            return match self.register(s) {
                Some(r) => Ok(Arg::Reg(r)),
                None => Ok(Arg::Special(s.into())),
            };
        }
        match s.bytes().next() {
            Some(b'0'..=b'9' | b'-') => Ok(Arg::Number(s.into())),
            Some(_) => Ok(Arg::Name(s.into())),
            None => bad(line, "an operand is missing"),
        }
    }

    fn statement(&self, line: u32, text: &str) -> Result<Statement, Error> {
        let (mut text, mut guard) = (text.trim(), None);
        if let Some(rest) = text.strip_prefix('@') {
            let (p, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let (p, not) = p.strip_prefix('!').map_or((p, false), |p| (p, true));
            match self.register(p) {
                Some(r) if r.class == Class::Pred => guard = Some((r, not)),
                _ => return bad(line, format!("no such predicate: {p}")),
            }
            text = rest.trim();
        }
        let (op, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        // Commas outside of braces separate.
        let (mut args, mut depth, mut from) = (Vec::new(), 0, 0);
        for (i, b) in rest.bytes().enumerate() {
            match b {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                b',' if depth == 0 => {
                    args.push(self.arg(line, &rest[from..i])?);
                    from = i + 1;
                }
                _ => {}
            }
        }
        if !rest[from..].trim().is_empty() {
            args.push(self.arg(line, &rest[from..])?);
        } else if from > 0 {
            return bad(line, "an operand is missing");
        }
        Ok(Statement { line, guard, op: op.into(), args })
    }

    /// `.b32 %r<12>`, after `.reg`.
    fn declare(&mut self, line: u32, text: &str, entry: &mut Entry) -> Result<(), Error> {
        let (t, name) = text.trim().split_once(char::is_whitespace).unwrap_or((text, ""));
        let class = match (t, bytes_of(t)) {
            (".pred", _) => Class::Pred,
            (_, Some(8)) => Class::Wide,
            (_, Some(2 | 4)) => Class::Narrow,
            _ => return bad(line, format!("registers of a type that is not known: {t}")),
        };
        let parts = name.trim().strip_suffix('>').and_then(|n| n.split_once('<'));
        let Some((prefix, Ok(count))) = parts.map(|(p, n)| (p, n.parse::<u32>())) else {
            return bad(line, format!("not a family of registers: {name}"));
        };
        let first = entry.registers[class as usize];
        entry.registers[class as usize] += count;
        self.registers.insert(prefix.into(), (class, first, count));
        Ok(())
    }
}

enum State {
    Top,
    /// In the parentheses of an entry.
    Params,
    /// Between them and the body.
    Header,
    Body,
}

/// Parses a text.
pub(crate) fn parse(text: &str) -> Result<Text, Error> {
    let mut out = Text::default();
    let mut state = State::Top;
    let mut entry = Entry::default();
    let mut parser = Parser { registers: HashMap::new() };
    for (i, full) in text.lines().enumerate() {
        let line = i as u32 + 1;
        let mut rest = full.split_once("//").map_or(full, |(code, _)| code).trim();
        if rest.contains("/*") {
            return bad(line, "a comment of this kind is not read");
        }
        while !rest.is_empty() {
            rest = match state {
                State::Top => {
                    if let Some(v) = rest.strip_prefix(".version") {
                        let v = v.trim().split_once('.');
                        match v.map(|(a, b)| (a.parse(), b.parse())) {
                            Some((Ok(a), Ok(b))) => out.version = (a, b),
                            _ => return bad(line, "not a version"),
                        }
                        ""
                    } else if let Some(t) = rest.strip_prefix(".target") {
                        match t.trim().strip_prefix("sm_").map(str::parse::<u32>) {
                            Some(Ok(n)) => out.target = (n / 10, n % 10),
                            _ => return bad(line, "not a target"),
                        }
                        ""
                    } else if rest.starts_with(".address_size") {
                        if !rest.ends_with("64") {
                            return bad(line, "addresses of 64 bits only");
                        }
                        ""
                    } else if let Some(v) = rest.strip_prefix(".extern .shared") {
                        let (v, rest) = one(line, v)?;
                        out.dynamic.push(variable(line, v)?);
                        rest
                    } else if let Some(v) = rest.strip_prefix(".shared") {
                        let (v, rest) = one(line, v)?;
                        out.shared.push(variable(line, v)?);
                        rest
                    } else if let Some(v) = rest.strip_prefix(".global") {
                        let (v, rest) = one(line, v)?;
                        out.globals.push(variable(line, v)?);
                        rest
                    } else if let Some(v) = rest.strip_prefix(".visible .entry") {
                        let Some((name, rest)) = v.split_once('(') else {
                            return bad(line, "an entry without parameters");
                        };
                        entry = Entry { name: name.trim().into(), ..Entry::default() };
                        parser.registers.clear();
                        state = State::Params;
                        rest.trim()
                    } else {
                        return bad(line, format!("not read: {rest}"));
                    }
                }
                State::Params => {
                    let end = rest.find([',', ')']).unwrap_or(rest.len());
                    if let Some(p) = rest[..end].trim().strip_prefix(".param") {
                        entry.params.push(variable(line, p)?);
                    } else if !rest[..end].trim().is_empty() {
                        return bad(line, format!("not a parameter: {rest}"));
                    }
                    if rest[end..].starts_with(')') {
                        state = State::Header;
                    }
                    rest.get(end + 1..).unwrap_or("").trim()
                }
                State::Header => {
                    if let Some(rest) = rest.strip_prefix('{') {
                        state = State::Body;
                        rest.trim()
                    } else if let Some(n) = rest.strip_prefix(".maxntid") {
                        let n: Result<Vec<u32>, _> =
                            n.split(',').map(|n| n.trim().parse()).collect();
                        match n {
                            Ok(n) => entry.threads = Some(n.iter().product()),
                            Err(_) => return bad(line, "not a number of threads"),
                        }
                        ""
                    } else if rest.starts_with(".minnctapersm") {
                        ""
                    } else {
                        return bad(line, format!("not read: {rest}"));
                    }
                }
                State::Body => {
                    if let Some(rest) = rest.strip_prefix('}') {
                        out.entries.push(std::mem::take(&mut entry));
                        state = State::Top;
                        rest.trim()
                    } else if let Some((label, rest)) = label(rest) {
                        entry.labels.insert(label.into(), entry.body.len());
                        rest.trim()
                    } else {
                        let (s, rest) = one(line, rest)?;
                        if let Some(r) = s.strip_prefix(".reg") {
                            parser.declare(line, r, &mut entry)?;
                        } else if let Some(v) = s.strip_prefix(".shared") {
                            entry.shared.push(variable(line, v)?);
                        } else if s == ".pragma \"nounroll\"" {
                        } else if s.starts_with('.') {
                            return bad(line, format!("not read: {s}"));
                        } else {
                            entry.body.push(parser.statement(line, s)?);
                        }
                        rest
                    }
                }
            };
        }
    }
    match state {
        State::Top => Ok(out),
        _ => bad(text.lines().count() as u32, "the text ends inside of an entry"),
    }
}

/// A statement up to its semicolon, and what follows.
fn one(line: u32, s: &str) -> Result<(&str, &str), Error> {
    match s.split_once(';') {
        Some((a, b)) => Ok((a.trim(), b.trim())),
        None => bad(line, format!("a statement that does not end in its line: {s}")),
    }
}

/// `LABEL:` at the beginning.
fn label(s: &str) -> Option<(&str, &str)> {
    let (name, rest) = s.split_once(':')?;
    let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'$');
    (good && !name.is_empty() && !rest.starts_with(':')).then_some((name, rest))
}
