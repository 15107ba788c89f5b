//! Registers to slots: PTX uses every register once; slots are used again, so that a warp's registers stay in the
//! cache of the CPU. Liveness is that of a thread, and a thread only writes its own lane.

use crate::parse::{Arg, Class, Entry, Error, Reg, bad};

/// Where registers are.
pub(crate) struct Places {
    pub(crate) narrow: Vec<u32>,
    pub(crate) wide: Vec<u32>,
    pub(crate) slots: u32,
}

/// Calls `f` with every register of a statement, and whether it is written.
fn registers(op: &str, args: &[Arg], f: &mut impl FnMut(Reg, bool)) {
    let writes = !["st.", "bra", "bar.", "cp.", "membar", "red."].iter().any(|p| op.starts_with(p));
    for (i, arg) in args.iter().enumerate() {
        let write = writes && i == 0;
        match arg {
            Arg::Reg(r) | Arg::Place(Some(r), ..) => f(*r, write),
            Arg::List(l) => {
                for a in l {
                    if let Arg::Reg(r) = a {
                        f(*r, write);
                    }
                }
            }
            Arg::Pair(a, b) => {
                f(*a, write);
                f(*b, write);
            }
            _ => {}
        }
    }
}

/// Gives every register slots for as long as it lives.
pub(crate) fn allocate(entry: &Entry) -> Result<Places, Error> {
    let narrow = entry.registers[Class::Narrow as usize] as usize;
    let wide = entry.registers[Class::Wide as usize] as usize;
    let n = narrow + wide;
    let of = |r: Reg| match r.class {
        Class::Pred => None,
        Class::Narrow => Some(r.index as usize),
        Class::Wide => Some(narrow + r.index as usize),
    };
    let body = &entry.body;
    // Blocks: where they begin.
    let mut begins = vec![false; body.len() + 1];
    if let Some(b) = begins.first_mut() {
        *b = true;
    }
    for &at in entry.labels.values() {
        begins[at] = true;
    }
    for (i, s) in body.iter().enumerate() {
        if s.op.starts_with("bra") || s.op == "ret" || s.op == "exit" {
            begins[i + 1] = true;
        }
    }
    let starts: Vec<usize> = (0..body.len()).filter(|&i| begins[i]).collect();
    let block_of = |at: usize| starts.partition_point(|&s| s <= at) - 1;
    let end = |b: usize| starts.get(b + 1).copied().unwrap_or(body.len());
    let words = n.div_ceil(64);
    let zeros = vec![0u64; words * starts.len()];
    // What a block reads before it writes it, what it writes, what lives where it begins.
    let (mut reads, mut writes, mut live) = (zeros.clone(), zeros.clone(), zeros);
    let mut next: Vec<Vec<usize>> = Vec::new();
    for (b, &start) in starts.iter().enumerate() {
        let row = b * words;
        for s in &body[start..end(b)] {
            for pass in [false, true] {
                registers(&s.op, &s.args, &mut |r, write| {
                    let Some(v) = of(r).filter(|_| write == pass) else { return };
                    let (word, bit) = (row + v / 64, 1 << (v % 64));
                    if write {
                        writes[word] |= bit;
                    } else if writes[word] & bit == 0 {
                        reads[word] |= bit;
                    }
                });
            }
        }
        let last = &body[end(b) - 1];
        let mut to = Vec::new();
        if let (true, Some(Arg::Name(label))) = (last.op.starts_with("bra"), last.args.first()) {
            match entry.labels.get(label) {
                Some(&at) if at < body.len() => to.push(block_of(at)),
                _ => return bad(last.line, format!("no such label: {label}")),
            }
        }
        let ends = last.op == "ret" || last.op == "exit";
        let jumps = last.op.starts_with("bra") && last.guard.is_none();
        if !ends && !jumps && end(b) < body.len() {
            to.push(b + 1);
        }
        next.push(to);
    }
    let out = |live: &[u64], b: usize, w: usize| {
        next[b].iter().fold(0, |v, &t: &usize| v | live[t * words + w])
    };
    let mut changed = true;
    while changed {
        changed = false;
        for b in (0..starts.len()).rev() {
            for w in 0..words {
                let i = b * words + w;
                let new = reads[i] | (out(&live, b, w) & !writes[i]);
                changed |= new != live[i];
                live[i] = new;
            }
        }
    }
    // From the first place where it lives to the last: with everything between, so that order does not matter.
    let mut spans = vec![(usize::MAX, 0usize); n];
    let grow = |spans: &mut Vec<(usize, usize)>, v: usize, at: usize| {
        spans[v] = (spans[v].0.min(at), spans[v].1.max(at));
    };
    for (b, &start) in starts.iter().enumerate() {
        for w in 0..words {
            let (from, to) = (live[b * words + w], out(&live, b, w));
            for bit in 0..64 {
                if from >> bit & 1 == 1 {
                    grow(&mut spans, w * 64 + bit, start);
                }
                if to >> bit & 1 == 1 {
                    grow(&mut spans, w * 64 + bit, end(b) - 1);
                }
            }
        }
        for (i, s) in body[start..end(b)].iter().enumerate() {
            registers(&s.op, &s.args, &mut |r, _| {
                if let Some(v) = of(r) {
                    grow(&mut spans, v, start + i);
                }
            });
        }
    }
    let mut order: Vec<usize> = (0..n).filter(|&v| spans[v].0 != usize::MAX).collect();
    order.sort_by_key(|&v| spans[v]);
    let mut places = Places { narrow: vec![0; narrow], wide: vec![0; wide], slots: 0 };
    let mut free: [Vec<u32>; 2] = [Vec::new(), Vec::new()];
    // Those that live, by where they end.
    let mut ends = std::collections::BinaryHeap::new();
    for v in order {
        let (from, to) = spans[v];
        // A result may not take the slot of what its instruction reads: some write before they have read all.
        while let Some(&(std::cmp::Reverse(last), is_wide, slot)) = ends.peek() {
            if last >= from {
                break;
            }
            ends.pop();
            free[usize::from(is_wide)].push(slot);
        }
        let is_wide = v >= narrow;
        let slot = free[usize::from(is_wide)].pop().unwrap_or_else(|| {
            let at = places.slots;
            places.slots += if is_wide { 2 } else { 1 };
            at
        });
        ends.push((std::cmp::Reverse(to), is_wide, slot));
        match is_wide {
            true => places.wide[v - narrow] = slot,
            false => places.narrow[v] = slot,
        }
    }
    Ok(places)
}
