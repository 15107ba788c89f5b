//! A budget, and the tier that fits it: how a device chooses between the rows of a file while it runs.
//!
//! Also what a plan spends on keys and values, the part of the memory that tiers differ in most.

use crate::config::MAX_SCALES;
use crate::error::Error;
use crate::model::Model;
use crate::plan::{Buf, Buffer, Plan};
use crate::tier::Tier;

/// What a run may use. Unlimited unless it is said.
///
/// ```
/// # use varmint_core::Budget;
/// let cool = Budget::ram(512 << 10);
/// let hot = Budget { image_macs: 400_000_000, ..cool };
/// assert_eq!((hot.ram, hot.step_macs), (524_288, u64::MAX));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Budget {
    /// Bytes of the arena.
    pub ram: usize,
    /// Multiply-accumulates of one step: how long a step may keep its caller waiting.
    pub step_macs: u64,
    /// Multiply-accumulates of an image: time and energy.
    pub image_macs: u64,
}

impl Default for Budget {
    /// Everything fits.
    fn default() -> Self {
        Self::ram(usize::MAX)
    }
}

impl Budget {
    /// So many bytes of arena, and any amount of work.
    pub const fn ram(bytes: usize) -> Self {
        Self { ram: bytes, step_macs: u64::MAX, image_macs: u64::MAX }
    }

    /// Whether a plan stays within it.
    ///
    /// # Errors
    /// [`Error::ArenaTooSmall`] or [`Error::TooMuchWork`], with what the plan needs.
    pub fn check(&self, plan: &Plan) -> Result<(), Error> {
        self.first_over(plan).map_or(Ok(()), |(limit, need)| Err(self.refusal(limit, need)))
    }

    /// The first limit that a plan exceeds, and what it needs there.
    fn first_over(&self, plan: &Plan) -> Option<(Limit, u64)> {
        let (ram, step, image) = (plan.bytes() as u64, plan.max_step_macs(), plan.image_macs());
        if ram > self.ram as u64 {
            Some((Limit::Ram, ram))
        } else if step > self.step_macs {
            Some((Limit::Step, step))
        } else if image > self.image_macs {
            Some((Limit::Image, image))
        } else {
            None
        }
    }

    fn refusal(&self, limit: Limit, need: u64) -> Error {
        match limit {
            Limit::Ram => Error::ArenaTooSmall { need: need as usize, got: self.ram },
            Limit::Step => Error::TooMuchWork { need, got: self.step_macs },
            Limit::Image => Error::TooMuchWork { need, got: self.image_macs },
        }
    }
}

/// The limits of a budget, in the order in which they are checked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Limit {
    Ram,
    Step,
    Image,
}

impl Model<'_> {
    /// The best tier within a budget: the first of the file that fits. Costs a plan per tier tried,
    /// no memory, and nothing of the weights is read.
    ///
    /// ```no_run
    /// # use varmint_core::{Budget, Error, Model, Plan};
    /// # fn choose(model: &Model<'_>, free: usize) -> Result<Plan, Error> {
    /// let tier = model.best_tier(Budget::ram(free))?;
    /// let plan = Plan::new(&model.shape, &tier)?; // plan.bytes() <= free
    /// # Ok(plan)
    /// # }
    /// ```
    ///
    /// # Errors
    /// When none fits, how little is missing: [`Error::ArenaTooSmall`] with the need of the smallest
    /// tier; if RAM is enough for some, [`Error::TooMuchWork`] with the least work among those (of a
    /// step; of an image, if the steps of some are short enough). A tier that this build cannot run
    /// is passed over; [`Error::Unsupported`] if there is no other.
    pub fn best_tier(&self, budget: Budget) -> Result<Tier, Error> {
        // The tier that came furthest through the limits, and with the least need there.
        let mut nearest: Option<(Limit, u64)> = None;
        for tier in self.tiers() {
            let Ok(plan) = Plan::new(&self.shape, &tier) else { continue };
            let Some((limit, need)) = budget.first_over(&plan) else { return Ok(tier) };
            if nearest.is_none_or(|(l, n)| limit > l || limit == l && need < n) {
                nearest = Some((limit, need));
            }
        }
        Err(nearest.map_or(Error::Unsupported, |(limit, need)| budget.refusal(limit, need)))
    }
}

impl Plan {
    /// Bytes of keys and values that live while scale `k` runs: the caches of all blocks that run
    /// now or later, and those of the scale itself where it is a block's last (never cached). Of all images of a batch.
    ///
    /// A cache has its full size from the first scale of its transformer on, so this falls when blocks or
    /// guidance end, and changes where a refiner takes over.
    pub const fn cache_at(&self, k: usize) -> usize {
        let tick = 1 + k as u16;
        let mut sum = live(self.buffer(Buf::KvNow), tick);
        let mut j = 0;
        while j < MAX_SCALES {
            sum += live(self.buffer(Buf::Kv(0, j)), tick) + live(self.buffer(Buf::Kv(1, j)), tick);
            j += 1;
        }
        sum * self.images()
    }

    /// The largest [`Plan::cache_at`] of all scales, in bytes: the cache's part of the arena.
    pub const fn cache_bytes(&self) -> usize {
        let (mut most, mut k) = (0, 0);
        while k < MAX_SCALES {
            let now = self.cache_at(k);
            most = if now > most { now } else { most };
            k += 1;
        }
        most
    }
}

const fn live(b: Buffer, tick: u16) -> usize {
    if b.first <= tick && tick <= b.last { b.size as usize } else { 0 }
}
