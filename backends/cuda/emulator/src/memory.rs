//! The device's memory: allocations at addresses that no host pointer has, gaps between them, and for every byte what
//! the checks want to know about it.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Where device memory begins.
const FIRST: u64 = 0x7d00_0000_0000;
/// Bytes between allocations, at least.
const GAP: u64 = 64 << 10;
/// What a fresh allocation is full of: not numbers as floats, -1 as integers.
const FRESH: u8 = 0xff;
/// Bytes whose traces of a launch are cleared together.
const PAGE: usize = 4096;

/// Zeroed numbers that threads share. Untouched ones cost no memory.
struct Shadow<T> {
    at: *mut T,
    len: usize,
}

impl<T> Shadow<T> {
    fn layout(len: usize) -> Layout {
        Layout::array::<T>(len.max(1)).unwrap_or_else(|_| Layout::new::<T>())
    }

    fn new(len: usize) -> Self {
        // SAFETY: not empty; zeros are atomics (the only `T` here).
        let at = unsafe { alloc_zeroed(Self::layout(len)) }.cast::<T>();
        if at.is_null() {
            std::alloc::handle_alloc_error(Self::layout(len));
        }
        Self { at, len }
    }
}

impl<T> std::ops::Deref for Shadow<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: allocated and initialised in `new`.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

impl<T> Drop for Shadow<T> {
    fn drop(&mut self) {
        // SAFETY: as allocated.
        unsafe { dealloc(self.at.cast(), Self::layout(self.len)) }
    }
}

/// Memory that kernels may use.
pub(crate) struct Alloc {
    /// The device's address.
    pub(crate) at: u64,
    pub(crate) bytes: usize,
    /// The same on the host.
    pub(crate) host: *mut u8,
    /// Whether `host` is ours.
    owned: bool,
    pub(crate) read_only: bool,
    /// `at` down to a multiple of 16: where the shadows begin.
    base: u64,
    /// Of each word (4 bytes), a byte for each of its bytes: whether it was written. Empty: all were.
    written: Shadow<AtomicU32>,
    /// Of each word, 16 bits for each byte: the block of this launch that wrote it, or `ATOMIC`.
    writers: Shadow<AtomicU64>,
    /// Likewise: the block that read it, or `MANY`.
    readers: Shadow<AtomicU64>,
    /// Of each page, whether this launch left traces.
    traces: Shadow<AtomicU8>,
    /// Of each word, the graph launch that last wrote it.
    graphs: Shadow<AtomicU32>,
}

// SAFETY: kernels access the bytes by atomic operations only.
unsafe impl Send for Alloc {}
// SAFETY: as above.
unsafe impl Sync for Alloc {}

fn host_layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes.max(1), 512).unwrap_or_else(|_| Layout::new::<u128>())
}

impl Drop for Alloc {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: as allocated in `Memory::take`.
            unsafe { dealloc(self.host, host_layout(self.bytes)) }
        }
    }
}

/// More than one block read it.
const MANY: u16 = 0xffff;
/// It was changed by atomic operations.
const ATOMIC: u16 = 0xfffe;

/// A block as the traces have it: of more than 65,000 some look like others.
pub(crate) fn trace_of(block: u64) -> u16 {
    (block % 65_000) as u16 + 1
}

/// What kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Atomic,
}

/// Who accesses, and what is checked.
pub(crate) struct Who<'a> {
    pub(crate) trace: u16,
    pub(crate) races: bool,
    pub(crate) unwritten: bool,
    /// The graph launch, for kernels that begin before the one before them has ended.
    pub(crate) graph: u32,
    /// Whether the warp has waited for those before.
    pub(crate) waited: bool,
    /// Blocks that have released what they wrote to this one.
    pub(crate) acquired: Option<&'a HashSet<u16>>,
}

/// 16 bits for each of the chosen bytes of a word.
fn spread(mask: u32) -> u64 {
    const LANES: [u64; 16] = {
        let mut t = [0; 16];
        let mut m = 0;
        while m < 16 {
            let mut b = 0;
            while b < 4 {
                if m >> b & 1 == 1 {
                    t[m] |= 0xffff << (16 * b);
                }
                b += 1;
            }
            m += 1;
        }
        t
    };
    LANES[(mask & 15) as usize]
}

const EACH: u64 = 0x0001_0001_0001_0001;

fn lanes(v: u64) -> [u16; 4] {
    [v as u16, (v >> 16) as u16, (v >> 32) as u16, (v >> 48) as u16]
}

fn name(trace: u16) -> String {
    match trace {
        MANY => "several blocks".into(),
        ATOMIC => "atomic operations".into(),
        b => format!("block {}", b - 1),
    }
}

impl Alloc {
    fn new(at: u64, bytes: usize, host: *mut u8, owned: bool, read_only: bool) -> Self {
        let base = at & !15;
        let words = (at - base) as usize / 4 + bytes.div_ceil(4) + 4;
        Self {
            at,
            bytes,
            host,
            owned,
            read_only,
            base,
            written: Shadow::new(if owned { words } else { 0 }),
            writers: Shadow::new(words),
            readers: Shadow::new(words),
            traces: Shadow::new(words * 4 / PAGE + 1),
            graphs: Shadow::new(words),
        }
    }

    /// Whether all of it lies inside.
    pub(crate) fn has(&self, at: u64, bytes: u64) -> bool {
        at >= self.at
            && at - self.at <= self.bytes as u64
            && self.bytes as u64 - (at - self.at) >= bytes
    }

    /// The host wrote.
    pub(crate) fn mark_written(&self, at: u64, bytes: usize) {
        if self.written.is_empty() {
            return;
        }
        for i in 0..bytes as u64 {
            let from = (at - self.base + i) as usize;
            if from.is_multiple_of(4) && i + 4 <= bytes as u64 {
                self.written[from / 4].store(0x0101_0101, Relaxed);
            } else {
                self.written[from / 4].fetch_or(1 << (8 * (from % 4)), Relaxed);
            }
        }
    }

    /// Checks an access of 1, 2, 4, 8 or 16 bytes that lies inside and is aligned, and leaves its trace.
    #[inline(always)]
    pub(crate) fn access(
        &self,
        at: u64,
        bytes: u32,
        kind: Kind,
        who: &Who<'_>,
    ) -> Result<(), String> {
        let from = (at - self.base) as usize;
        let first = from / 4;
        let (mask, n) = if bytes >= 4 {
            (15, bytes as usize / 4)
        } else {
            (((1u32 << bytes) - 1) << (from % 4), 1)
        };
        if who.graph != 0 {
            self.graph(first, n, kind, who)?;
        }
        if !self.written.is_empty() {
            let flags = byte_flags(mask);
            for w in &self.written[first..first + n] {
                let have = w.load(Relaxed) & flags;
                if have != flags {
                    if kind == Kind::Write {
                        w.fetch_or(flags, Relaxed);
                    } else if who.unwritten {
                        return Err("nothing was written there since the allocation".into());
                    }
                }
            }
        }
        if who.races {
            self.races(first, n, mask, kind, who)?;
        }
        Ok(())
    }

    #[inline(always)]
    fn races(
        &self,
        first: usize,
        n: usize,
        mask: u32,
        kind: Kind,
        who: &Who<'_>,
    ) -> Result<(), String> {
        let lanes = spread(mask);
        let mine = EACH.wrapping_mul(who.trace.into()) & lanes;
        match kind {
            Kind::Read => {
                for (i, r) in self.readers[first..first + n].iter().enumerate() {
                    let have = r.load(Relaxed) & lanes;
                    if have != mine && have != lanes {
                        self.first_read(first + i, mask, who)?;
                    }
                }
            }
            Kind::Write => {
                for (i, w) in self.writers[first..first + n].iter().enumerate() {
                    if w.load(Relaxed) & lanes != mine {
                        self.first_write(first + i, mask, who)?;
                    }
                }
            }
            Kind::Atomic => {
                for i in first..first + n {
                    self.first_atomic(i, who)?;
                }
            }
        }
        Ok(())
    }

    fn trace(&self, word: usize) {
        let page = &self.traces[word * 4 / PAGE];
        if page.load(Relaxed) == 0 {
            page.store(1, Relaxed);
        }
    }

    /// Sets a trace; what was there before.
    fn set(cell: &AtomicU64, mask: u32, with: impl Fn(u16) -> u16) -> [u16; 4] {
        let old = cell.fetch_update(SeqCst, SeqCst, |v| {
            let mut new = lanes(v);
            for (b, t) in new.iter_mut().enumerate() {
                if mask >> b & 1 == 1 {
                    *t = with(*t);
                }
            }
            Some(new.iter().rev().fold(0, |v, &t| v << 16 | u64::from(t)))
        });
        lanes(old.unwrap_or_else(|v| v))
    }

    fn conflict(traces: [u16; 4], mask: u32, who: &Who<'_>) -> Option<u16> {
        let other = |&(b, &t): &(usize, &u16)| {
            let known = who.acquired.is_some_and(|a| a.contains(&t));
            mask >> b & 1 == 1 && t != 0 && t != who.trace && !known
        };
        traces.iter().enumerate().find(other).map(|(_, &t)| t)
    }

    #[cold]
    fn first_read(&self, word: usize, mask: u32, who: &Who<'_>) -> Result<(), String> {
        self.trace(word);
        Self::set(&self.readers[word], mask, |t| match t {
            0 => who.trace,
            t if t == who.trace => t,
            _ => MANY,
        });
        let writers = lanes(self.writers[word].load(SeqCst));
        match Self::conflict(writers, mask, who) {
            Some(t) => Err(format!("{} wrote it in this launch: a race", name(t))),
            None => Ok(()),
        }
    }

    #[cold]
    fn first_write(&self, word: usize, mask: u32, who: &Who<'_>) -> Result<(), String> {
        self.trace(word);
        let writers = Self::set(&self.writers[word], mask, |_| who.trace);
        if let Some(t) = Self::conflict(writers, mask, who) {
            return Err(format!("{} wrote it in this launch: a race", name(t)));
        }
        let readers = lanes(self.readers[word].load(SeqCst));
        match Self::conflict(readers, mask, who) {
            Some(t) => Err(format!("{} read it in this launch: a race", name(t))),
            None => Ok(()),
        }
    }

    #[cold]
    fn first_atomic(&self, word: usize, who: &Who<'_>) -> Result<(), String> {
        self.trace(word);
        // What the block wrote itself is still no atomic operation to the others.
        let mine = |t| if t == who.trace { t } else { ATOMIC };
        let writers = Self::set(&self.writers[word], 15, mine);
        let readers = lanes(self.readers[word].load(SeqCst));
        let plain =
            |t: [u16; 4]| Self::conflict(t.map(|t| if t == ATOMIC { 0 } else { t }), 15, who);
        match plain(writers).or(plain(readers)) {
            Some(t) => {
                Err(format!("{} used it without atomic operations in this launch: a race", name(t)))
            }
            None => Ok(()),
        }
    }

    #[inline(always)]
    fn graph(&self, first: usize, n: usize, kind: Kind, who: &Who<'_>) -> Result<(), String> {
        for g in &self.graphs[first..first + n] {
            if !who.waited {
                if kind != Kind::Read {
                    return Err("written before griddepcontrol.wait".into());
                }
                if g.load(Relaxed) == who.graph {
                    return Err("an earlier launch of the graph wrote it, and griddepcontrol.wait has not run".into());
                }
            } else if kind != Kind::Read {
                g.store(who.graph, Relaxed);
            }
        }
        Ok(())
    }

    /// Forgets the traces of a launch.
    fn clear(&self) {
        for (page, t) in self.traces.iter().enumerate() {
            if t.load(Relaxed) == 0 {
                continue;
            }
            t.store(0, Relaxed);
            let from = page * PAGE / 4;
            let to = (from + PAGE / 4).min(self.writers.len());
            for w in self.writers[from..to].iter().chain(&self.readers[from..to]) {
                w.store(0, Relaxed);
            }
        }
    }
}

/// A byte for each of the chosen bytes of a word.
fn byte_flags(mask: u32) -> u32 {
    (0..4).filter(|b| mask >> b & 1 == 1).fold(0, |f, b| f | 1 << (8 * b))
}

/// Allocations in the order of their addresses.
pub(crate) type Table = Arc<Vec<Arc<Alloc>>>;

/// The allocation that an address lies in, or the one before it.
pub(crate) fn find(table: &[Arc<Alloc>], at: u64) -> Option<&Arc<Alloc>> {
    let i = table.partition_point(|a| a.at <= at);
    table[..i].last()
}

/// Forgets the traces of a launch.
pub(crate) fn clear(table: &[Arc<Alloc>]) {
    table.iter().for_each(|a| a.clear());
}

/// All memory of the device.
pub(crate) struct Memory {
    table: Table,
    next: u64,
    used: usize,
    total: usize,
}

impl Memory {
    pub(crate) fn new(total: usize) -> Self {
        Self { table: Arc::default(), next: FIRST, used: 0, total }
    }

    /// What is there now.
    pub(crate) fn table(&self) -> Table {
        self.table.clone()
    }

    pub(crate) fn free_bytes(&self) -> usize {
        self.total - self.used
    }

    fn add(&mut self, a: Alloc) -> u64 {
        let at = a.at;
        self.next = (a.at + a.bytes as u64 + GAP).next_multiple_of(GAP);
        Arc::make_mut(&mut self.table).push(Arc::new(a));
        at
    }

    /// A fresh allocation; `None` where there is too little.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<u64> {
        if bytes > self.free_bytes() {
            return None;
        }
        // SAFETY: not empty.
        let host = unsafe { alloc_zeroed(host_layout(bytes)) };
        if host.is_null() {
            return None;
        }
        // SAFETY: allocated just now.
        unsafe { host.write_bytes(FRESH, bytes) };
        self.used += bytes;
        Some(self.add(Alloc::new(self.next, bytes, host, true, false)))
    }

    /// Memory of the host's, at an address as aligned as its own.
    pub(crate) fn register(&mut self, host: *mut u8, bytes: usize, read_only: bool) -> u64 {
        let at = self.next + (host as u64 & 0xfff);
        self.add(Alloc::new(at, bytes, host, false, read_only))
    }

    /// The device's address of registered memory.
    pub(crate) fn registered(&self, host: *mut u8) -> Option<u64> {
        self.table.iter().find(|a| !a.owned && a.host == host).map(|a| a.at)
    }

    /// Ends an allocation (`owned`) or a registration, by its first address.
    pub(crate) fn end(&mut self, at: u64, owned: bool) -> bool {
        let Some(i) = self.table.iter().position(|a| a.at == at && a.owned == owned) else {
            return false;
        };
        let a = Arc::make_mut(&mut self.table).remove(i);
        if owned {
            self.used -= a.bytes;
        }
        true
    }

    /// The allocation that bytes lie in.
    pub(crate) fn holder(&self, at: u64, bytes: usize) -> Option<Arc<Alloc>> {
        find(&self.table, at).filter(|a| a.has(at, bytes as u64)).cloned()
    }
}

/// Which blocks of a launch have released what they wrote, by the address of the atomic operation that they did so
/// with: a fence by every warp that wrote, then the atomic operation, and no write after it.
#[derive(Default)]
pub(crate) struct Releases(Mutex<HashMap<u64, HashSet<u16>>>);

impl Releases {
    /// An atomic operation: what it acquires. `releases`: whether all that the block wrote is fenced.
    pub(crate) fn atomic(&self, at: u64, trace: u16, releases: bool) -> HashSet<u16> {
        let mut map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let set = map.entry(at).or_default();
        let others = set.clone();
        if releases {
            set.insert(trace);
        }
        others
    }

    /// The block wrote again.
    pub(crate) fn revoke(&self, trace: u16) {
        let mut map = self.0.lock().unwrap_or_else(|e| e.into_inner());
        map.values_mut().for_each(|s| {
            s.remove(&trace);
        });
    }

    /// The trace of atomic operations, as something that can be acquired.
    pub(crate) const ATOMIC: u16 = ATOMIC;
}
