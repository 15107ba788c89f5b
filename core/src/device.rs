//! For backends with a memory of their own: where things lie in the arena beyond what [`Plan::buffer`] says.

use crate::cache::Cache;
pub use crate::cache::KvPart;
use crate::config::Shape;
pub use crate::grid::grid_line;
pub use crate::lifetimes::next_place;
pub use crate::maps::stat;
use crate::plan::{Buf, Plan};
pub use crate::plan::{STATS, level_maps, second_row};
use crate::stage::Tile;
pub use crate::stage::{map_size, out_size};

/// The heads of a block that keep the same number of tokens, in one row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadClass {
    /// Whether they are the wide ones.
    pub wide: bool,
    /// The first head.
    pub first: usize,
    /// How many; 0 for a class that is empty.
    pub heads: usize,
    /// The tokens of earlier scales, from the first one in the cache on.
    pub before: KvPart,
    /// Those of the scale itself. A token has the channels of these heads only.
    pub own: KvPart,
    /// How many tokens stay after the scale, if they have to be chosen.
    pub stay: Option<usize>,
    /// What is looked at, `[heads, before + own]` floats: where in the arena.
    pub seen: usize,
}

/// What row `t.row` of a block sees at a scale, class of heads by class. `together` rows run in one call.
pub fn kv(shape: &Shape, plan: &Plan, t: Tile, together: usize) -> [HeadClass; 2] {
    let cache = Cache::of(shape, plan.layout(), t);
    let buffer = |buf| {
        let b = plan.buffer(buf);
        (b.offset as usize, b.size as usize / together.max(1))
    };
    let (past, now, seen) = (buffer(cache.buf), buffer(Buf::KvNow), buffer(Buf::Seen));
    cache.slabs.map(|slab| {
        let base = past.0 + slab.at;
        let room = now.0 + t.row * now.1;
        HeadClass {
            wide: slab.of.class == 1,
            first: slab.of.first,
            heads: slab.of.heads,
            before: slab.part(base, slab.rows, 0, slab.before),
            own: if slab.direct {
                slab.part(base, slab.rows, slab.before, slab.l)
            } else {
                slab.apart(room)
            },
            stay: slab.choose,
            seen: seen.0 + t.row * seen.1 + 4 * slab.looks(0),
        }
    })
}
