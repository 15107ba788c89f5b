//! The ZIP container of a `.pth` file: which bytes of the file hold which entry.
//!
//! ```text
//! PK.. P/data.pkl | P/byteorder | P/data/0 | P/data/1 | ..  | central directory | zip64 end | end
//!                                 ^ raw storages, stored       ^ the only place with true sizes
//! ```
//!
//! The `rawzip` crate reads the directory (zip64 included); here are the rules of torch.save on top: entries are stored,
//! not compressed, not encrypted, not repeated, do not overlap, and share one folder, the one of `data.pkl`.

use std::collections::HashMap;
use std::ops::Range;

use super::Fault;

/// More entries than any checkpoint has (the largest here: 446 tensors and a handful of small ones).
const MAX_ENTRIES: usize = 1 << 18;

/// The entries of one `.pth` file.
#[derive(Debug)]
pub(super) struct Entries {
    /// Folder of `data.pkl`, with its slash; empty if it lies at the top.
    folder: String,
    /// Bytes of the file; `None` for an entry that cannot be read in place.
    ranges: HashMap<String, Option<Range<u64>>>,
}

impl Entries {
    /// Reads the directory of a whole file; touches its end and one page per entry.
    pub(super) fn parse(file: &[u8]) -> Result<Self, Fault> {
        let archive = rawzip::ZipArchive::from_slice(file).map_err(damaged)?;
        let mut ranges = HashMap::new();
        for entry in archive.entries() {
            let entry = entry.map_err(damaged)?;
            let name = entry.file_path();
            let name =
                std::str::from_utf8(name.as_ref()).map_err(|_| damaged("a name is not UTF-8"))?;
            let place = archive
                .get_entry(entry.wayfinder())
                .map_err(|e| damaged(format!("entry `{name}`: {e}")))?;
            let in_place = entry.compression_method() == rawzip::CompressionMethod::STORE
                && entry.compressed_size_hint() == entry.uncompressed_size_hint()
                && !entry.flags().is_encrypted();
            let (start, end) = place.compressed_data_range();
            if ranges.insert(name.to_owned(), in_place.then_some(start..end)).is_some() {
                return Err(damaged(format!("entry `{name}` is there twice")));
            }
            if ranges.len() > MAX_ENTRIES {
                return Err(damaged(format!("more than {MAX_ENTRIES} entries")));
            }
        }
        no_overlap(&ranges)?;
        let pickle = ranges
            .keys()
            .filter(|name| *name == "data.pkl" || name.ends_with("/data.pkl"))
            .min_by_key(|name| (name.len(), name.as_str()));
        let Some(pickle) = pickle else {
            return Err(Fault::Kind("a ZIP file without data.pkl"));
        };
        let folder = pickle.trim_end_matches("data.pkl").to_owned();
        Ok(Self { folder, ranges })
    }

    /// The bytes of entry `name` (relative to the folder), if there is one.
    pub(super) fn find(&self, name: &str) -> Result<Option<Range<u64>>, Fault> {
        match self.ranges.get(&format!("{}{name}", self.folder)) {
            None => Ok(None),
            Some(Some(range)) => Ok(Some(range.clone())),
            Some(None) => Err(damaged(format!(
                "entry `{name}` is compressed or encrypted; torch.save stores entries as they are"
            ))),
        }
    }

    /// The bytes of entry `name`, which must exist.
    pub(super) fn need(&self, name: &str) -> Result<Range<u64>, Fault> {
        self.find(name)?.ok_or_else(|| damaged(format!("entry `{}{name}` is missing", self.folder)))
    }
}

/// Entries that share bytes make a small file stand for a large one.
fn no_overlap(ranges: &HashMap<String, Option<Range<u64>>>) -> Result<(), Fault> {
    let mut all: Vec<_> = (ranges.iter())
        .filter_map(|(name, range)| range.as_ref().map(|r| (r.start, r.end, name)))
        .filter(|(start, end, _)| start < end)
        .collect();
    all.sort_unstable();
    for pair in all.windows(2) {
        if let [(_, end, a), (start, _, b)] = pair
            && start < end
        {
            return Err(damaged(format!("entries `{a}` and `{b}` overlap")));
        }
    }
    Ok(())
}

fn damaged(what: impl std::fmt::Display) -> Fault {
    Fault::damaged("zip directory", what.to_string())
}
