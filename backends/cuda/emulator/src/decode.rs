//! Entries to instructions that run: registers, constants and special registers are all slots of one register file.

use std::collections::HashMap;

use crate::allocate::{Places, allocate};
use crate::parse::{Arg, Class, Entry, Error, Reg, Statement, Text, Variable, bad, integer};

/// Where shared memory begins: below it, nothing is valid.
pub(crate) const SHARED: u32 = 1024;

/// How two numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    /// True where one is not a number.
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    S16,
    U16,
    S32,
    U32,
    S64,
    U64,
    F32,
    F64,
}

/// Lanes of a shuffle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

macro_rules! operations {
    ($($name:ident $sig:literal $($text:literal)*,)*) => {
        /// What an instruction does.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Op {
            $($name,)*
            SetP(Cmp, Of),
            Pack32, Pack64, Unpack32, Unpack64,
            /// Sign extension of 8 and 16 bits.
            Bra, BraIf, BraUnless, Ret, Bar, BarWarp, Fence, Wait, Nothing,
            Shuffle(Shuffle),
            Load, Store, Param, AtomAdd, Copy, CopyGroup, CopyWait, Matrix, Mma,
        }

        /// Instructions that only map registers to registers: by text, with the kinds of their operands, the result
        /// first: `n` 32 bits, `h` 16 bits, `w` 64 bits, `p` a predicate.
        fn plain(text: &str) -> Option<(Op, &'static str)> {
            Some(match text {
                $($($text => (Op::$name, $sig),)*)*
                _ => return None,
            })
        }
    };
}

operations! {
    Add32 "nnn" "add.s32" "add.u32",
    Sub32 "nnn" "sub.s32" "sub.u32",
    Mul32 "nnn" "mul.lo.s32" "mul.lo.u32",
    MulHiS32 "nnn" "mul.hi.s32",
    MulHiU32 "nnn" "mul.hi.u32",
    Mad32 "nnnn" "mad.lo.s32" "mad.lo.u32",
    DivS32 "nnn" "div.s32",
    DivU32 "nnn" "div.u32",
    RemS32 "nnn" "rem.s32",
    RemU32 "nnn" "rem.u32",
    MinS32 "nnn" "min.s32",
    MinU32 "nnn" "min.u32",
    MaxS32 "nnn" "max.s32",
    MaxU32 "nnn" "max.u32",
    AbsS32 "nn" "abs.s32",
    NegS32 "nn" "neg.s32",
    And32 "nnn" "and.b32",
    Or32 "nnn" "or.b32",
    Xor32 "nnn" "xor.b32",
    Not32 "nn" "not.b32",
    Shl32 "nnn" "shl.b32",
    ShrS32 "nnn" "shr.s32",
    ShrU32 "nnn" "shr.u32" "shr.b32",
    Popc32 "nn" "popc.b32",
    Clz32 "nn" "clz.b32",
    Brev32 "nn" "brev.b32",
    Bfind32 "nn" "bfind.shiftamt.u32",
    Bfi32 "nnnnn" "bfi.b32",
    Prmt32 "nnnn" "prmt.b32",
    Dp4a "nnnn" "dp4a.s32.s32",
    Sel32 "nnnp" "selp.b32" "selp.u32" "selp.s32" "selp.f32",
    Mov32 "nn" "mov.b32" "mov.u32" "mov.s32" "mov.f32",

    Add16 "hhh" "add.s16" "add.u16",
    Sub16 "hhh" "sub.s16" "sub.u16",
    Mul16 "hhh" "mul.lo.s16" "mul.lo.u16",
    And16 "hhh" "and.b16",
    Or16 "hhh" "or.b16",
    Xor16 "hhh" "xor.b16",
    Sel16 "hhhp" "selp.b16" "selp.u16" "selp.s16",
    Mov16 "hh" "mov.b16" "mov.u16" "mov.s16",

    Add64 "www" "add.s64" "add.u64",
    Sub64 "www" "sub.s64" "sub.u64",
    Mul64 "www" "mul.lo.s64" "mul.lo.u64",
    NegS64 "ww" "neg.s64",
    And64 "www" "and.b64",
    Or64 "www" "or.b64",
    Xor64 "www" "xor.b64",
    Not64 "ww" "not.b64",
    Shl64 "wwn" "shl.b64",
    ShrS64 "wwn" "shr.s64",
    ShrU64 "wwn" "shr.u64" "shr.b64",
    Sel64 "wwwp" "selp.b64" "selp.u64" "selp.s64" "selp.f64",
    Mov64 "ww" "mov.b64" "mov.u64" "mov.s64" "mov.f64" "cvta.to.global.u64",
    WideS32 "wnn" "mul.wide.s32",
    WideU32 "wnn" "mul.wide.u32",
    WideS16 "nhh" "mul.wide.s16",
    WideU16 "nhh" "mul.wide.u16",

    AddF32 "nnn" "add.rn.f32" "add.f32",
    SubF32 "nnn" "sub.rn.f32" "sub.f32",
    MulF32 "nnn" "mul.rn.f32" "mul.f32",
    DivF32 "nnn" "div.rn.f32",
    MinF32 "nnn" "min.f32",
    MaxF32 "nnn" "max.f32",
    AbsF32 "nn" "abs.f32",
    NegF32 "nn" "neg.f32",
    SqrtF32 "nn" "sqrt.rn.f32",
    RcpF32 "nn" "rcp.rn.f32",
    AddF64 "www" "add.rn.f64" "add.f64",
    SubF64 "www" "sub.rn.f64" "sub.f64",
    MulF64 "www" "mul.rn.f64" "mul.f64",
    DivF64 "www" "div.rn.f64",

    F32OfF16 "nh" "cvt.f32.f16",
    F16OfF32 "hn" "cvt.rn.f16.f32",
    F64OfF32 "wn" "cvt.f64.f32",
    F32OfF64 "nw" "cvt.rn.f32.f64",
    Floor "nn" "cvt.rmi.f32.f32",
    F32OfS16 "nh" "cvt.rn.f32.s16",
    F32OfS32 "nn" "cvt.rn.f32.s32",
    F32OfU32 "nn" "cvt.rn.f32.u32",
    S32OfF32 "nn" "cvt.rzi.s32.f32",
    U32OfF32 "nn" "cvt.rzi.u32.f32",
    S32OfS8 "nn" "cvt.s32.s8",
    S32OfS16 "nn" "cvt.s32.s16",
    S64OfS32 "wn" "cvt.s64.s32",
    U64OfU32 "wn" "cvt.u64.u32",
    U16OfU32 "hn" "cvt.u16.u32",
    U32OfU16 "nh" "cvt.u32.u16",
    U32OfU64 "nw" "cvt.u32.u64",

    MovP "pp" "mov.pred",
    AndP "ppp" "and.pred",
    OrP "ppp" "or.pred",
    XorP "ppp" "xor.pred",
    NotP "pp" "not.pred",

    Ballot "npn" "vote.sync.ballot.b32",
    Match "nnn" "match.any.sync.b32",
    Active "n" "activemask.b32",
}

/// An instruction: `d` is where the result goes, the others what it reads; slots, predicates, or indices by `op`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inst {
    pub(crate) op: Op,
    pub(crate) d: u32,
    pub(crate) a: u32,
    pub(crate) b: u32,
    pub(crate) c: u32,
    pub(crate) e: u32,
    pub(crate) f: u32,
    pub(crate) line: u32,
}

/// A place in memory: a register and an offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base {
    /// Its slot; `NONE` where the offset is all.
    pub(crate) slot: u32,
    pub(crate) wide: bool,
    pub(crate) offset: i64,
}

/// No slot, no predicate.
pub(crate) const NONE: u32 = u32::MAX;

/// An access to memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) shared: bool,
    pub(crate) at: Base,
    /// Bytes of a number, and how many follow each other.
    pub(crate) bytes: u32,
    pub(crate) count: u32,
    pub(crate) signed: bool,
    /// Whether the registers have 64 bits.
    pub(crate) wide: bool,
    pub(crate) regs: [u32; 4],
}

/// A special register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Lane,
}

/// A kernel that runs.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) name: String,
    pub(crate) code: Vec<Inst>,
    pub(crate) accesses: Vec<Access>,
    pub(crate) lists: Vec<u32>,
    /// Slots that are constant, whether they have 64 bits, and their values.
    pub(crate) constants: Vec<(u32, bool, u64)>,
    pub(crate) specials: Vec<(u32, Special)>,
    pub(crate) slots: u32,
    pub(crate) predicates: u32,
    /// Bytes of each parameter, and where it begins.
    pub(crate) params: Vec<(u32, u32)>,
    pub(crate) param_bytes: u32,
    /// Bytes of shared memory that it always has.
    pub(crate) shared: u32,
    /// Threads of a block at most.
    pub(crate) threads: u32,
}

struct Decoder<'a> {
    entry: &'a Entry,
    places: Places,
    names: HashMap<String, u64>,
    constants: HashMap<(bool, u64), u32>,
    specials: Vec<(u32, Special)>,
    accesses: Vec<Access>,
    lists: Vec<u32>,
    slots: u32,
}

/// Lays variables out from `at` on.
fn lay_out(vars: &[Variable], mut at: u32, names: &mut HashMap<String, u64>) -> u32 {
    for v in vars {
        at = at.next_multiple_of(v.align.max(1));
        names.insert(v.name.clone(), at.into());
        at += v.bytes;
    }
    at
}

/// Makes a kernel of an entry; `globals` has the addresses of the module's variables.
pub(crate) fn decode(
    text: &Text,
    entry: &Entry,
    globals: &HashMap<String, u64>,
) -> Result<Kernel, Error> {
    let mut names = globals.clone();
    let mut shared = entry.shared.clone();
    shared.extend(text.shared.iter().filter(|v| entry.names(&v.name)).cloned());
    let end = lay_out(&shared, SHARED, &mut names);
    let align = text.dynamic.iter().map(|v| v.align).max().unwrap_or(1).max(16);
    let dynamic = end.next_multiple_of(align);
    for v in &text.dynamic {
        names.insert(v.name.clone(), dynamic.into());
    }
    let param_bytes = lay_out(&entry.params, 0, &mut names);
    let params = entry.params.iter().map(|v| (names[&v.name] as u32, v.bytes)).collect();
    let places = allocate(entry)?;
    let mut d = Decoder {
        entry,
        slots: places.slots,
        places,
        names,
        constants: HashMap::new(),
        specials: Vec::new(),
        accesses: Vec::new(),
        lists: Vec::new(),
    };
    let mut code = Vec::new();
    for s in &entry.body {
        code.push(d.instruction(s)?);
    }
    let line = entry.body.last().map_or(0, |s| s.line);
    if !code.last().is_some_and(|i: &Inst| matches!(i.op, Op::Ret | Op::Bra)) {
        return bad(line, "the entry does not end with ret");
    }
    Ok(Kernel {
        name: entry.name.clone(),
        code,
        accesses: d.accesses,
        lists: d.lists,
        constants: d.constants.into_iter().map(|((wide, v), slot)| (slot, wide, v)).collect(),
        specials: d.specials,
        slots: d.slots,
        predicates: entry.registers[Class::Pred as usize],
        params,
        param_bytes,
        // As if dynamic memory began right behind: the launch's bytes are counted from there.
        shared: dynamic - SHARED,
        threads: entry.threads.unwrap_or(1024),
    })
}

impl Decoder<'_> {
    fn constant(&mut self, wide: bool, value: u64) -> u32 {
        let slots = &mut self.slots;
        *self.constants.entry((wide, value)).or_insert_with(|| {
            let at = *slots;
            *slots += if wide { 2 } else { 1 };
            at
        })
    }

    fn special(&mut self, line: u32, name: &str) -> Result<u32, Error> {
        let axis = |s: &str| match s {
            "x" => Some(0),
            "y" => Some(1),
            "z" => Some(2),
            _ => None,
        };
        let parts = name.strip_prefix('%').unwrap_or(name).split_once('.');
        let s = match parts.map(|(n, a)| (n, axis(a))) {
            Some(("tid", Some(a))) => Special::Tid(a),
            Some(("ntid", Some(a))) => Special::Ntid(a),
            Some(("ctaid", Some(a))) => Special::Ctaid(a),
            Some(("nctaid", Some(a))) => Special::Nctaid(a),
            _ if name == "%laneid" => Special::Lane,
            _ => return bad(line, format!("no such register: {name}")),
        };
        if let Some(&(slot, _)) = self.specials.iter().find(|&&(_, t)| t == s) {
            return Ok(slot);
        }
        self.specials.push((self.slots, s));
        self.slots += 1;
        Ok(self.slots - 1)
    }

    /// A number of `kind` as bits.
    fn number(line: u32, text: &str, kind: char) -> Result<u64, Error> {
        let bits = if let Some(hex) = text.strip_prefix("0f").filter(|h| h.len() == 8) {
            u32::from_str_radix(hex, 16).ok().map(u64::from)
        } else if let Some(hex) = text.strip_prefix("0d").filter(|h| h.len() == 16) {
            u64::from_str_radix(hex, 16).ok()
        } else {
            integer(text).map(|v| v as u64)
        };
        let Some(bits) = bits else { return bad(line, format!("not a number: {text}")) };
        Ok(match kind {
            'n' => bits & 0xffff_ffff,
            'h' => bits & 0xffff,
            'p' => u64::from(bits != 0),
            _ => bits,
        })
    }

    fn reg(&self, line: u32, r: Reg, kind: char) -> Result<u32, Error> {
        match (r.class, kind) {
            (Class::Narrow, 'n' | 'h') => Ok(self.places.narrow[r.index as usize]),
            (Class::Wide, 'w') => Ok(self.places.wide[r.index as usize]),
            (Class::Pred, 'p') => Ok(r.index),
            _ => bad(line, "a register of the wrong width"),
        }
    }

    /// The slot of an operand that is read.
    fn source(&mut self, line: u32, arg: &Arg, kind: char) -> Result<u32, Error> {
        match arg {
            Arg::Reg(r) => self.reg(line, *r, kind),
            Arg::Number(n) => {
                let v = Self::number(line, n, kind)?;
                if kind == 'p' {
                    // Constant predicates follow the declared ones: false, true.
                    return Ok(self.entry.registers[Class::Pred as usize] + v as u32);
                }
                Ok(self.constant(kind == 'w', v))
            }
            Arg::Special(name) if kind == 'n' => self.special(line, name),
            Arg::Name(name) => match (self.names.get(name), kind) {
                (Some(&at), 'w' | 'n') => Ok(self.constant(kind == 'w', at)),
                _ => bad(line, format!("no such variable: {name}")),
            },
            _ => bad(line, format!("an operand that is not read here: {arg:?}")),
        }
    }

    fn target(&self, line: u32, arg: &Arg, kind: char) -> Result<u32, Error> {
        match arg {
            Arg::Reg(r) => self.reg(line, *r, kind),
            _ => bad(line, format!("not a register to write: {arg:?}")),
        }
    }

    fn base(&self, line: u32, arg: &Arg) -> Result<Base, Error> {
        let Arg::Place(reg, name, offset) = arg else {
            return bad(line, format!("not a place in memory: {arg:?}"));
        };
        let mut base = Base { slot: NONE, wide: true, offset: *offset };
        if let Some(name) = name {
            match self.names.get(name) {
                Some(&at) => base.offset = base.offset.wrapping_add(at as i64),
                None => return bad(line, format!("no such variable: {name}")),
            }
        }
        if let Some(r) = reg {
            base.wide = r.class == Class::Wide;
            base.slot = self.reg(line, *r, if base.wide { 'w' } else { 'n' })?;
        }
        Ok(base)
    }

    /// Slots of a list, one after the other in `lists`; where they begin.
    fn list(&mut self, line: u32, arg: &Arg, n: usize, write: bool) -> Result<u32, Error> {
        let Arg::List(args) = arg else { return bad(line, "not a list") };
        if args.len() != n {
            return bad(line, format!("a list of {} for one of {n}", args.len()));
        }
        let at = self.lists.len() as u32;
        for arg in args {
            let slot =
                if write { self.target(line, arg, 'n')? } else { self.source(line, arg, 'n')? };
            self.lists.push(slot);
        }
        Ok(at)
    }

    /// `ld`, `st`, `atom`: state space, modifiers, vector, type.
    fn access(&mut self, s: &Statement) -> Result<Inst, Error> {
        let line = s.line;
        let mut parts = s.op.split('.');
        let verb = parts.next().unwrap_or("");
        let space = parts.next().unwrap_or("");
        let rest: Vec<&str> = parts.collect();
        let (count, t) = match (verb, space, &rest[..]) {
            ("ld" | "st", "global", ["cg", "v4", t]) | ("ld" | "st", _, ["v4", t]) => (4, *t),
            ("ld" | "st", _, ["v2", t]) => (2, *t),
            ("ld", "global", ["nc" | "cg", t]) | ("st", "global", ["cg", t]) => (1, *t),
            ("ld" | "st", _, [t]) => (1, *t),
            ("atom", "global" | "shared", ["add", "u32"]) => (1, "u32"),
            _ => return bad(line, format!("not known: {}", s.op)),
        };
        let (bytes, signed) = match t {
            "u8" | "b8" => (1, false),
            "s8" => (1, true),
            "u16" | "b16" => (2, false),
            "s16" => (2, true),
            "u32" | "b32" | "f32" => (4, false),
            "s32" => (4, true),
            "u64" | "b64" | "f64" | "s64" => (8, false),
            _ => return bad(line, format!("not known: {}", s.op)),
        };
        let (op, values, place) = match (verb, space, s.args.len()) {
            ("ld", "param", 2) => (Op::Param, 0, 1),
            ("ld", "global" | "shared", 2) => (Op::Load, 0, 1),
            ("st", "global" | "shared", 2) => (Op::Store, 1, 0),
            ("atom", _, 3) => (Op::AtomAdd, 0, 1),
            _ => return bad(line, format!("not known: {}", s.op)),
        };
        let single = std::slice::from_ref(&s.args[values]);
        let values = match &s.args[values] {
            Arg::List(l) => l,
            _ => single,
        };
        if values.len() != count {
            return bad(line, "as many registers as numbers, please");
        }
        let wide = matches!(values[0], Arg::Reg(Reg { class: Class::Wide, .. })) || bytes == 8;
        let mut regs = [NONE; 4];
        for (slot, v) in regs.iter_mut().zip(values) {
            let kind = if wide { 'w' } else { 'n' };
            *slot = if op == Op::Store {
                self.source(line, v, kind)?
            } else {
                self.target(line, v, kind)?
            };
        }
        let at = self.base(line, &s.args[place])?;
        let count = count as u32;
        let shared = space == "shared";
        self.accesses.push(Access { shared, at, bytes, count, signed, wide, regs });
        let mut i = self.blank(op, line);
        i.a = self.accesses.len() as u32 - 1;
        if op == Op::AtomAdd {
            i.b = self.source(line, &s.args[2], 'n')?;
        }
        Ok(i)
    }

    fn blank(&self, op: Op, line: u32) -> Inst {
        Inst { op, d: NONE, a: NONE, b: NONE, c: NONE, e: NONE, f: NONE, line }
    }

    fn instruction(&mut self, s: &Statement) -> Result<Inst, Error> {
        let (line, op, args) = (s.line, s.op.as_str(), &s.args[..]);
        if s.guard.is_some() && op != "bra" {
            return bad(line, format!("a predicate before {op} is not known"));
        }
        let unknown = || bad(line, format!("not known: {op} with {} operands", args.len()));
        let space = |p: &str| op.starts_with(p);
        if space("ld.") || space("st.") || space("atom.") {
            return self.access(s);
        }
        if let ("mov.b32" | "mov.b64", [a, b]) = (op, args) {
            let (pack, unpack, whole, part) = match op {
                "mov.b32" => (Op::Pack32, Op::Unpack32, 'n', 'h'),
                _ => (Op::Pack64, Op::Unpack64, 'w', 'n'),
            };
            match (a, b) {
                (a, Arg::List(l)) if l.len() == 2 => {
                    let mut i = self.blank(pack, line);
                    i.d = self.target(line, a, whole)?;
                    i.a = self.source(line, &l[0], part)?;
                    i.b = self.source(line, &l[1], part)?;
                    return Ok(i);
                }
                (Arg::List(l), b) if l.len() == 2 => {
                    let mut i = self.blank(unpack, line);
                    i.d = self.target(line, &l[0], part)?;
                    i.e = self.target(line, &l[1], part)?;
                    i.a = self.source(line, b, whole)?;
                    return Ok(i);
                }
                _ => {}
            }
        }
        if let Some((op, kinds)) = plain(op) {
            if kinds.len() != args.len() {
                return unknown();
            }
            let mut i = self.blank(op, line);
            let mut slots = [NONE; 5];
            for (n, (kind, arg)) in kinds.chars().zip(args).enumerate() {
                slots[n] = if n == 0 {
                    self.target(line, arg, kind)?
                } else {
                    self.source(line, arg, kind)?
                };
            }
            [i.d, i.a, i.b, i.c, i.e] = slots;
            return Ok(i);
        }
        if let Some(rest) = op.strip_prefix("setp.") {
            let (cmp, of) = rest.split_once('.').unwrap_or((rest, ""));
            return self.compare(line, (cmp, of), args);
        }
        match (op, args) {
            ("bra" | "bra.uni", [Arg::Name(label)]) => {
                let Some(&to) = self.entry.labels.get(label) else {
                    return bad(line, format!("no such label: {label}"));
                };
                if to >= self.entry.body.len() {
                    return bad(line, "a label behind the last instruction");
                }
                let mut i = self.blank(Op::Bra, line);
                if let Some((p, not)) = s.guard {
                    i.op = if not { Op::BraUnless } else { Op::BraIf };
                    i.a = p.index;
                }
                i.d = to as u32;
                Ok(i)
            }
            ("ret" | "exit", []) => Ok(self.blank(Op::Ret, line)),
            ("bar.sync", [Arg::Number(n)]) if n == "0" => Ok(self.blank(Op::Bar, line)),
            ("bar.warp.sync", [mask]) => {
                let mut i = self.blank(Op::BarWarp, line);
                i.a = self.source(line, mask, 'n')?;
                Ok(i)
            }
            ("membar.gl" | "membar.sys", []) => Ok(self.blank(Op::Fence, line)),
            ("griddepcontrol.wait", []) => Ok(self.blank(Op::Wait, line)),
            ("griddepcontrol.launch_dependents", []) => Ok(self.blank(Op::Nothing, line)),
            ("cp.async.commit_group", []) => Ok(self.blank(Op::CopyGroup, line)),
            ("cp.async.wait_group", [Arg::Number(n)]) => {
                let mut i = self.blank(Op::CopyWait, line);
                i.a = Self::number(line, n, 'n')? as u32;
                Ok(i)
            }
            ("cp.async.wait_all", []) => {
                let mut i = self.blank(Op::CopyWait, line);
                i.a = 0;
                i.b = 1;
                Ok(i)
            }
            (
                "cp.async.ca.shared.global" | "cp.async.cg.shared.global",
                [to, from, n, rest @ ..],
            ) if rest.len() < 2 => {
                let bytes = match n {
                    Arg::Number(n) => Self::number(line, n, 'n')? as u32,
                    _ => return unknown(),
                };
                let good =
                    if op.contains(".ca.") { matches!(bytes, 4 | 8 | 16) } else { bytes == 16 };
                if !good {
                    return bad(line, format!("{bytes} bytes are not copied this way"));
                }
                let (to, from) = (self.base(line, to)?, self.base(line, from)?);
                let mut i = self.blank(Op::Copy, line);
                let new = |shared, at| Access {
                    shared,
                    at,
                    bytes,
                    count: 1,
                    signed: false,
                    wide: false,
                    regs: [NONE; 4],
                };
                i.a = self.accesses.len() as u32;
                self.accesses.extend([new(true, to), new(false, from)]);
                if let [n] = rest {
                    i.b = self.source(line, n, 'n')?;
                }
                Ok(i)
            }
            ("ldmatrix.sync.aligned.m8n8.x4.shared.b16", [to, from]) => {
                let mut i = self.blank(Op::Matrix, line);
                i.d = self.list(line, to, 4, true)?;
                let at = self.base(line, from)?;
                i.a = self.accesses.len() as u32;
                let regs = [NONE; 4];
                let (bytes, count, signed, wide) = (16, 1, false, false);
                self.accesses.push(Access { shared: true, at, bytes, count, signed, wide, regs });
                Ok(i)
            }
            ("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32", [d, a, b, c]) => {
                let mut i = self.blank(Op::Mma, line);
                i.d = self.list(line, d, 4, true)?;
                i.a = self.list(line, a, 4, false)?;
                i.b = self.list(line, b, 2, false)?;
                i.c = self.list(line, c, 4, false)?;
                Ok(i)
            }
            (_, [to, a, b, c, mask]) if op.starts_with("shfl.sync.") => {
                let kind = match op {
                    "shfl.sync.up.b32" => Shuffle::Up,
                    "shfl.sync.down.b32" => Shuffle::Down,
                    "shfl.sync.bfly.b32" => Shuffle::Bfly,
                    "shfl.sync.idx.b32" => Shuffle::Idx,
                    _ => return unknown(),
                };
                let mut i = self.blank(Op::Shuffle(kind), line);
                match to {
                    Arg::Pair(d, p) => {
                        (i.d, i.f) = (self.reg(line, *d, 'n')?, self.reg(line, *p, 'p')?);
                    }
                    to => i.d = self.target(line, to, 'n')?,
                }
                i.a = self.source(line, a, 'n')?;
                i.b = self.source(line, b, 'n')?;
                i.c = self.source(line, c, 'n')?;
                i.e = self.source(line, mask, 'n')?;
                Ok(i)
            }
            _ => unknown(),
        }
    }

    fn compare(&mut self, line: u32, how: (&str, &str), args: &[Arg]) -> Result<Inst, Error> {
        let (of, kind, float) = match how.1 {
            "s16" => (Of::S16, 'h', false),
            "u16" | "b16" => (Of::U16, 'h', false),
            "s32" => (Of::S32, 'n', false),
            "u32" | "b32" => (Of::U32, 'n', false),
            "s64" => (Of::S64, 'w', false),
            "u64" | "b64" => (Of::U64, 'w', false),
            "f32" => (Of::F32, 'n', true),
            "f64" => (Of::F64, 'w', true),
            _ => return bad(line, format!("not compared: {}", how.1)),
        };
        let cmp = match (how.0, float) {
            ("eq", _) => Cmp::Eq,
            ("ne", _) => Cmp::Ne,
            ("lt", _) => Cmp::Lt,
            ("le", _) => Cmp::Le,
            ("gt", _) => Cmp::Gt,
            ("ge", _) => Cmp::Ge,
            ("equ", true) => Cmp::Equ,
            ("neu", true) => Cmp::Neu,
            ("ltu", true) => Cmp::Ltu,
            ("leu", true) => Cmp::Leu,
            ("gtu", true) => Cmp::Gtu,
            ("geu", true) => Cmp::Geu,
            ("num", true) => Cmp::Num,
            ("nan", true) => Cmp::Nan,
            _ => return bad(line, format!("not a comparison: {}", how.0)),
        };
        let [d, a, b] = args else { return bad(line, "three operands, please") };
        let mut i = self.blank(Op::SetP(cmp, of), line);
        i.d = self.target(line, d, 'p')?;
        i.a = self.source(line, a, kind)?;
        i.b = self.source(line, b, kind)?;
        Ok(i)
    }
}
