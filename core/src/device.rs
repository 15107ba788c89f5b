//! For backends with a memory of their own: where things lie in the arena beyond what [`Plan::buffer`] says.

use crate::cache::Cache;
pub use crate::cache::KvPart;
use crate::config::Shape;
use crate::error::Error;
pub use crate::lifetimes::next_place;
pub use crate::maps::stat;
use crate::plan::{Buf, Plan};
pub use crate::plan::{STATS, level_maps, second_row};
use crate::stage::Tile;
pub use crate::stage::{map_size, out_size};

/// What row `row` of a block sees at a scale: the tokens of earlier scales, and those of the scale itself.
/// `together` rows run in one call, of which this is number `row`.
///
/// # Errors
/// [`Error::Unsupported`] for tiers whose heads keep different tokens or whose tokens see a neighbourhood.
pub fn kv(shape: &Shape, plan: &Plan, t: Tile, together: usize) -> Result<[KvPart; 2], Error> {
    let keep = &plan.tier.keep;
    if !keep.alike() || keep.window_at(t.scale) != 0 || keep.drops(&shape.config, 0, t.scale) {
        return Err(Error::Unsupported);
    }
    let cache = Cache::of(shape, plan.layout(), t);
    let [_, slab] = cache.slabs;
    let (past, now) = (plan.buffer(cache.buf), plan.buffer(Buf::KvNow));
    let base = past.offset as usize + slab.at;
    let before = slab.part(base, slab.rows, 0, slab.before);
    let own = if slab.direct {
        slab.part(base, slab.rows, slab.before, slab.l)
    } else {
        let room = now.size as usize / together.max(1);
        slab.part(now.offset as usize + t.row * room, slab.l, 0, slab.l)
    };
    Ok([before, own])
}
