//! Feature maps `[H, W, C]`: how they are stored, their statistics per channel, their norm.
//!
//! While a map is written its sums and ranges per channel are kept; one more pass gives the variance
//! about the mean. So the group norm is two-pass and exact, and the range that an int8 input is
//! quantized by (one per map) is known without a pass of its own.

use half::f16;

use crate::config::groups;
use crate::error::Error;
use crate::host::{nums, nums_ref};
use crate::num::{rsqrt, silu};
use crate::ops::Ops;
use crate::plan::STATS;
use crate::slices::{div, part, part_mut};
use crate::tier::Store;

/// Rows of [`crate::Buf::Stats`], `c_max` values each.
pub mod stat {
    /// Sum, smallest, largest of the map that layers hand on.
    pub const MAP: usize = 0;
    /// The same of the hidden map of a residual block.
    pub const HIDDEN: usize = 3;
    /// Factor of a norm as applied.
    pub const GAIN: usize = 6;
    /// Shift of a norm as applied.
    pub const SHIFT: usize = 7;
    /// Sums of a row; squares of a variance.
    pub const TEMP: usize = 8;
    /// Ranges: of the input of the current pass, and of the shortcut's.
    pub const RANGE: usize = 9;
}

/// Statistics per channel.
pub(crate) struct Stats<'a> {
    all: &'a mut [f32],
    c_max: usize,
}

impl<'a> Stats<'a> {
    pub(crate) fn new(bytes: &'a mut [u8]) -> Result<Self, Error> {
        let all = nums::<f32>(bytes)?;
        let c_max = all.len() / STATS;
        Ok(Self { all, c_max })
    }

    pub(crate) fn row(&self, which: usize, c: usize) -> &[f32] {
        part(self.all, which * self.c_max, c)
    }

    pub(crate) fn row_mut(&mut self, which: usize, c: usize) -> &mut [f32] {
        part_mut(self.all, which * self.c_max, c)
    }

    pub(crate) fn reset(&mut self, which: usize) {
        let n = self.c_max;
        self.row_mut(which, n).fill(0.0);
        self.row_mut(which + 1, n).fill(f32::MAX);
        self.row_mut(which + 2, n).fill(f32::MIN);
    }

    /// Takes one row of a map in: sums of the row first, then into the total.
    pub(crate) fn add<O: Ops>(&mut self, ops: &O, which: usize, row: &[f32], c: usize) {
        let n = self.c_max;
        self.row_mut(stat::TEMP, c).fill(0.0);
        let (low, temp) = self.all.split_at_mut_checked(stat::TEMP * n).unwrap_or_default();
        let (_, set) = low.split_at_mut_checked(which * n).unwrap_or_default();
        let (sum, rest) = set.split_at_mut_checked(n).unwrap_or_default();
        let (min, max) = rest.split_at_mut_checked(n).unwrap_or_default();
        ops.map_stats(row, part_mut(temp, 0, c), part_mut(min, 0, c), part_mut(max, 0, c));
        for (s, &t) in sum.iter_mut().zip(temp.iter()).take(c) {
            *s += t;
        }
    }

    /// Largest |value| of a map.
    pub(crate) fn range(&self, which: usize, c: usize) -> f32 {
        let (lo, hi) = (self.row(which + 1, c), self.row(which + 2, c));
        lo.iter().zip(hi).fold(0.0, |m, (&lo, &hi)| {
            let a = if -lo > hi { -lo } else { hi };
            if a > m { a } else { m }
        })
    }

    pub(crate) fn set_range(&mut self, which: usize, value: f32) {
        if let Some(r) = self.row_mut(stat::RANGE, 2).get_mut(which) {
            *r = value;
        }
    }

    pub(crate) fn get_range(&self, which: usize) -> f32 {
        self.row(stat::RANGE, 2).get(which).copied().unwrap_or(0.0)
    }
}

/// A feature map.
#[derive(Clone, Copy)]
pub(crate) struct Map<'a> {
    /// The values.
    pub(crate) bytes: &'a [u8],
    /// Width.
    pub(crate) w: usize,
    /// Channels.
    pub(crate) c: usize,
    /// How a value is stored.
    pub(crate) store: Store,
}

impl Map<'_> {
    /// Row `y` as floats: `[W, C]`.
    pub(crate) fn load<O: Ops>(&self, ops: &O, y: usize, out: &mut [f32]) {
        let n = self.w * self.c;
        match self.store {
            Store::F32 => {
                for (o, &v) in
                    out.iter_mut().zip(part(nums_ref::<f32>(self.bytes).unwrap_or(&[]), y * n, n))
                {
                    *o = v;
                }
            }
            Store::F16 | Store::I8 => {
                ops.widen_f16(part(nums_ref::<f16>(self.bytes).unwrap_or(&[]), y * n, n), out);
            }
        }
    }
}

/// Writes a row; afterwards `row` holds what the map holds.
pub(crate) fn save<O: Ops>(
    ops: &O,
    bytes: &mut [u8],
    store: Store,
    y: usize,
    row: &mut [f32],
) -> Result<(), Error> {
    let n = row.len();
    match store {
        Store::F32 => {
            for (o, &v) in part_mut(nums::<f32>(bytes)?, y * n, n).iter_mut().zip(row.iter()) {
                *o = v;
            }
        }
        Store::F16 | Store::I8 => {
            ops.narrow_f16(row, part_mut(nums::<f16>(bytes)?, y * n, n));
        }
    }
    Ok(())
}

/// Largest |SiLU| (or |value|) of a normed map, from the range of each channel.
pub(crate) fn normed_range(s: &Stats<'_>, set: usize, c: usize, act: bool) -> f32 {
    /// SiLU falls to -0.27846 at -1.27846 and rises from there.
    const DIP: (f32, f32) = (-1.278_464_5, 0.278_464_55);
    let ends = s.row(set + 1, c).iter().zip(s.row(set + 2, c));
    let norms = s.row(stat::GAIN, c).iter().zip(s.row(stat::SHIFT, c));
    ends.zip(norms).fold(0.0, |m: f32, ((&lo, &hi), (&g, &b))| {
        let (y0, y1) = (lo * g + b, hi * g + b);
        let (y0, y1) = if y0 < y1 { (y0, y1) } else { (y1, y0) };
        let (a0, a1) = if act { (silu(y0), silu(y1)) } else { (y0, y1) };
        let dip = if act && y0 < DIP.0 && y1 > DIP.0 { DIP.1 } else { 0.0 };
        m.max(a0.abs()).max(a1.abs()).max(dip)
    })
}

/// Turns sums into the norm's gain and shift: the second pass, about the mean.
pub(crate) fn norm<O: Ops>(
    ops: &O,
    s: &mut Stats<'_>,
    set: usize,
    map: Map<'_>,
    h: usize,
    affine: &[f32],
    row: &mut [f32],
) {
    let c = map.c;
    let groups = groups(c);
    let per = div(c, groups);
    let count = (h * map.w * per) as f32;
    // Means per channel of its group, for now in SHIFT.
    for g in 0..groups {
        let total = part(s.row(set, c), g * per, per).iter().fold(0.0f32, |a, &v| a + v);
        part_mut(s.row_mut(stat::SHIFT, c), g * per, per).fill(total / count);
    }
    s.row_mut(stat::GAIN, c).fill(0.0);
    let row = part_mut(row, 0, map.w * c);
    for y in 0..h {
        map.load(ops, y, row);
        s.row_mut(stat::TEMP, c).fill(0.0);
        let n = s.c_max;
        let (low, temp) = s.all.split_at_mut_checked(stat::TEMP * n).unwrap_or_default();
        let (gain, mean) =
            part_mut(low, stat::GAIN * n, 2 * n).split_at_mut_checked(n).unwrap_or_default();
        ops.map_squares(row, part(mean, 0, c), part_mut(temp, 0, c));
        for (g, &t) in gain.iter_mut().zip(temp.iter()).take(c) {
            *g += t;
        }
    }
    for g in 0..groups {
        let squares = part(s.row(stat::GAIN, c), g * per, per).iter().fold(0.0f32, |a, &v| a + v);
        part_mut(s.row_mut(stat::GAIN, c), g * per, per).fill(rsqrt(squares / count + 1e-6));
    }
    for i in 0..c {
        let (gamma, beta) = (at(affine, i), at(affine, c + i));
        let gain = at(s.row(stat::GAIN, c), i) * gamma;
        let shift = beta - at(s.row(stat::SHIFT, c), i) * gain;
        part_mut(s.row_mut(stat::GAIN, c), i, 1).fill(gain);
        part_mut(s.row_mut(stat::SHIFT, c), i, 1).fill(shift);
    }
}

fn at(x: &[f32], i: usize) -> f32 {
    x.get(i).copied().unwrap_or(0.0)
}
