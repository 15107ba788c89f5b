//! Reproducible numbers.

use alloc::vec::Vec;

use varmint_core::rng::philox;

pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 += 1;
        let [a, b, _, _] = philox([self.0 as u32, 0, 0, 0], [7, 0]);
        (a as u64) << 32 | b as u64
    }

    pub(crate) fn int(&mut self, limit: i32) -> i32 {
        (self.next() % (2 * limit as u64 + 1)) as i32 - limit
    }

    pub(crate) fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// What the integers of a case are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Values {
    Random,
    /// Every product at its largest, all of one sign.
    Extreme,
    /// Every product at its largest, signs drawn.
    Corners,
}

impl Values {
    pub(crate) fn make(self, limit: i32, negative: bool, n: usize, r: &mut Random) -> Vec<i32> {
        let one = |r: &mut Random| match self {
            Self::Random => r.int(limit),
            Self::Extreme => {
                if negative {
                    -limit
                } else {
                    limit
                }
            }
            Self::Corners => {
                if r.next() & 1 == 0 {
                    limit
                } else {
                    -limit
                }
            }
        };
        (0..n).map(|_| one(r)).collect()
    }
}
