//! A pickle machine that executes nothing.
//!
//! A pickle is a program for a stack machine; Python's runs any function it names. This one knows the instructions that
//! `torch.save` writes (protocols 2 to 5) and builds inert [`Node`]s in an arena. A global is only a name; *calling* one
//! works for the few names in `rebuild`, and anything else is refused by name. Nothing recurses, every
//! instruction takes at least one byte, and copies are paid from the same budget, so time and memory are bounded.

use std::collections::HashMap;

use super::Fault;
use super::node::{Node, Value};

/// Instructions (and copied values) that one pickle may use; a training checkpoint of the largest model takes about 30,000.
const BUDGET: usize = 1 << 22;
/// Longest name of a global.
const MAX_NAME: usize = 256;

/// What a pickle built.
#[derive(Debug)]
pub(super) struct Pickle {
    /// The arena.
    pub(super) nodes: Vec<Node>,
    /// The object that was saved.
    pub(super) top: Value,
}

impl Pickle {
    /// Runs the program `bytes` (the whole of `data.pkl`).
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let mut m = Machine {
            bytes,
            at: 0,
            nodes: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            budget: BUDGET,
        };
        while m.step()? {}
        let top = m.pop()?;
        Ok(Self { nodes: m.nodes, top })
    }

    /// The text of a value, if it is text.
    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match value {
            Value::Node(n) => match self.nodes.get(n) {
                Some(Node::Text(text)) => Some(text),
                _ => None,
            },
            _ => None,
        }
    }
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    pub(super) nodes: Vec<Node>,
    pub(super) stack: Vec<Value>,
    /// Heights of the stack; what lies below the last one cannot be popped.
    marks: Vec<usize>,
    memo: HashMap<u32, Value>,
    budget: usize,
}

impl Machine<'_> {
    /// Runs one instruction; `false` after STOP.
    fn step(&mut self) -> Result<bool, Fault> {
        self.spend(1)?;
        let at = self.at;
        let [op] = self.array()?;
        match op {
            0x80 => {
                let [protocol] = self.array()?; // PROTO
                if !(2..=5).contains(&protocol) {
                    return Err(
                        self.fault(format!("protocol {protocol}; torch.save writes 2 to 5"))
                    );
                }
            }
            0x95 => drop(self.array::<8>()?), // FRAME
            b'.' => return Ok(false),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_mark()?),
            b'2' => {
                let top = self.peek()?;
                self.stack.push(top);
            }
            b'N' => self.stack.push(Value::None),
            0x88 => self.stack.push(Value::Bool(true)),
            0x89 => self.stack.push(Value::Bool(false)),
            b'J' => {
                let n = i32::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            b'K' => {
                let [n] = self.array()?;
                self.stack.push(Value::Int(n.into()));
            }
            b'M' => {
                let n = u16::from_le_bytes(self.array()?);
                self.stack.push(Value::Int(n.into()));
            }
            0x8a => {
                let n = self.length::<1>()?;
                self.long(n)?;
            }
            0x8b => {
                let n = self.length::<4>()?;
                self.long(n)?;
            }
            b'G' => {
                self.take(8)?;
                self.node(Node::Opaque);
            }
            b'X' => self.text::<4>()?,
            0x8c => self.text::<1>()?,
            0x8d => self.text::<8>()?,
            b'T' | b'B' => self.skip_bytes::<4>()?,
            b'U' | b'C' => self.skip_bytes::<1>()?,
            0x8e | 0x96 => self.skip_bytes::<8>()?,
            b']' => self.node(Node::List(Vec::new())),
            b'}' => self.node(Node::Dict(Vec::new())),
            b')' => self.node(Node::Tuple(Vec::new())),
            0x8f => self.node(Node::Opaque), // EMPTY_SET
            b't' => {
                let items = self.pop_mark()?;
                self.node(Node::Tuple(items));
            }
            b'l' => {
                let items = self.pop_mark()?;
                self.node(Node::List(items));
            }
            0x91 => {
                self.pop_mark()?; // FROZENSET
                self.node(Node::Opaque);
            }
            0x85..=0x87 => {
                let mut items = vec![Value::None; usize::from(op - 0x84)];
                for slot in items.iter_mut().rev() {
                    *slot = self.pop()?;
                }
                self.node(Node::Tuple(items));
            }
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.pop_mark()?;
                self.append(items)?;
            }
            0x90 => drop(self.pop_mark()?), // ADDITEMS: sets are opaque
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.insert(vec![key, value])?;
            }
            b'u' => {
                let items = self.pop_mark()?;
                self.insert(items)?;
            }
            b'd' => {
                let items = self.pop_mark()?;
                self.node(Node::Dict(Vec::new()));
                self.insert(items)?;
            }
            b'q' => {
                let [n] = self.array()?;
                self.put(n.into())?;
            }
            b'r' => {
                let n = u32::from_le_bytes(self.array()?);
                self.put(n)?;
            }
            0x94 => self.put(self.memo.len() as u32)?, // MEMOIZE; the budget keeps the length below 2^32
            b'h' => {
                let [n] = self.array()?;
                self.get(n.into())?;
            }
            b'j' => {
                let n = u32::from_le_bytes(self.array()?);
                self.get(n)?;
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.node(Node::Global(format!("{module}.{name}")));
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?); // STACK_GLOBAL
                let full = format!("{}.{}", self.short_text(module)?, self.short_text(name)?);
                self.node(Node::Global(full));
            }
            b'R' | 0x81 => {
                let (args, function) = (self.pop()?, self.pop()?); // REDUCE, NEWOBJ
                self.call(function, args)?;
            }
            0x92 => {
                let (_, args, function) = (self.pop()?, self.pop()?, self.pop()?); // NEWOBJ_EX
                self.call(function, args)?;
            }
            b'b' => {
                self.pop()?; // BUILD: the state of an OrderedDict is module versions; that of opaque things is skipped
                match self.peek_node()? {
                    Node::Dict(_) | Node::Opaque | Node::Tensor { .. } => {}
                    other => {
                        let what = format!("BUILD on {}", other.kind());
                        return Err(self.fault(what));
                    }
                }
            }
            b'Q' => self.persistent()?,
            op => return Err(Fault::Opcode { op, at }),
        }
        Ok(true)
    }

    // ---- bytes -------------------------------------------------------------------------------------------------

    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault::damaged("pickle", format!("before byte {}: {}", self.at, what.into()))
    }

    pub(super) fn spend(&mut self, n: usize) -> Result<(), Fault> {
        match self.budget.checked_sub(n) {
            Some(rest) => self.budget = rest,
            None => return Err(self.fault(format!("more than {BUDGET} instructions"))),
        }
        Ok(())
    }

    fn take(&mut self, n: usize) -> Result<&[u8], Fault> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let Some(end) = end else {
            return Err(self.fault(format!(
                "{n} more bytes are wanted, {} are left",
                self.bytes.len() - self.at
            )));
        };
        let start = std::mem::replace(&mut self.at, end);
        Ok(&self.bytes[start..end])
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    /// A little-endian length of `N` bytes (1, 4 or 8).
    fn length<const N: usize>(&mut self) -> Result<usize, Fault> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(self.take(N)?);
        Ok(usize::try_from(u64::from_le_bytes(wide)).unwrap_or(usize::MAX)) // `take` refuses it
    }

    fn long(&mut self, n: usize) -> Result<(), Fault> {
        let bytes = self.take(n)?;
        let value = if n <= 8 {
            let fill = if bytes.last().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
            let mut wide = [fill; 8];
            wide[..n].copy_from_slice(bytes);
            Some(i64::from_le_bytes(wide))
        } else {
            None
        };
        match value {
            Some(value) => self.stack.push(Value::Int(value)),
            None => self.node(Node::Opaque),
        }
        Ok(())
    }

    fn text<const N: usize>(&mut self) -> Result<(), Fault> {
        let n = self.length::<N>()?;
        let text = std::str::from_utf8(self.take(n)?).map(str::to_owned);
        let text = text.map_err(|_| self.fault("a text is not UTF-8"))?;
        self.node(Node::Text(text));
        Ok(())
    }

    fn skip_bytes<const N: usize>(&mut self) -> Result<(), Fault> {
        let n = self.length::<N>()?;
        self.take(n)?;
        self.node(Node::Opaque);
        Ok(())
    }

    /// Text up to the next newline: a half of a global's name.
    fn line(&mut self) -> Result<String, Fault> {
        let rest = &self.bytes[self.at..];
        let line = rest
            .iter()
            .take(MAX_NAME)
            .position(|&b| b == b'\n')
            .and_then(|n| std::str::from_utf8(&rest[..n]).ok());
        let Some(line) = line else {
            return Err(self.fault("a global's name is too long or not UTF-8"));
        };
        self.at += line.len() + 1;
        Ok(line.to_owned())
    }

    // ---- stack, memo, arena ------------------------------------------------------------------------------------

    pub(super) fn node(&mut self, node: Node) {
        self.stack.push(Value::Node(self.nodes.len()));
        self.nodes.push(node);
    }

    fn peek(&self) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        self.stack
            .get(floor..)
            .and_then(<[Value]>::last)
            .copied()
            .ok_or_else(|| self.fault("nothing on the stack"))
    }

    pub(super) fn pop(&mut self) -> Result<Value, Fault> {
        let top = self.peek()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_mark(&mut self) -> Result<Vec<Value>, Fault> {
        let Some(mark) = self.marks.pop().filter(|&m| m <= self.stack.len()) else {
            return Err(self.fault("no mark on the stack"));
        };
        Ok(self.stack.split_off(mark))
    }

    fn peek_node(&mut self) -> Result<&mut Node, Fault> {
        match self.peek()? {
            Value::Node(n) if n < self.nodes.len() => Ok(&mut self.nodes[n]),
            _ => Err(self.fault("a container is wanted on the stack")),
        }
    }

    fn append(&mut self, mut items: Vec<Value>) -> Result<(), Fault> {
        match self.peek_node()? {
            Node::List(list) => list.append(&mut items),
            Node::Opaque => {}
            other => {
                let what = format!("APPEND to {}", other.kind());
                return Err(self.fault(what));
            }
        }
        Ok(())
    }

    fn insert(&mut self, items: Vec<Value>) -> Result<(), Fault> {
        let (pairs, odd) = items.as_chunks::<2>();
        if !odd.is_empty() {
            return Err(self.fault("a key without a value"));
        }
        match self.peek_node()? {
            Node::Dict(dict) => dict.extend(pairs.iter().map(|&[key, value]| (key, value))),
            Node::Opaque => {}
            other => {
                let what = format!("SETITEM on {}", other.kind());
                return Err(self.fault(what));
            }
        }
        Ok(())
    }

    fn put(&mut self, n: u32) -> Result<(), Fault> {
        let top = self.peek()?;
        self.memo.insert(n, top);
        Ok(())
    }

    fn get(&mut self, n: u32) -> Result<(), Fault> {
        let value =
            self.memo.get(&n).copied().ok_or_else(|| self.fault(format!("memo {n} is empty")))?;
        self.stack.push(value);
        Ok(())
    }
}
