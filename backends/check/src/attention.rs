//! Attention over the int8 cache.

use alloc::vec;
use alloc::vec::Vec;

use half::f16;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::{Ops, Scalar};

use crate::random::Random;
use crate::{Mismatch, SENTINEL, bits, same};

/// Heads that kernels are written for and others, over short and long caches.
///
/// # Errors
/// The first output that is not the reference's.
pub fn int8_attention_equals_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(1 << 30);
    let mut cases = 0;
    for dim in [16, 24, 32, 48, 64, 80] {
        let (width, heads) = (2 * dim, 2);
        for (past, now) in [(0, 1), (1, 4), (14, 9), (103, 64), (0, 1100)] {
            let most = past.max(now);
            let mut ints = |n: usize| (0..n).map(|_| r.int(127) as i8).collect::<Vec<_>>();
            let (k, v) = (ints(most * width), ints(most * width));
            let scales: Vec<f16> =
                (0..most * heads).map(|_| f16::from_f32(r.float().abs() * 0.1)).collect();
            let q: Vec<f32> = (0..width).map(|_| r.float()).collect();
            let kv = Kv::I8 { k: &k, v: &v, ks: &scales, vs: &scales };
            let result = |ops: &dyn Ops| {
                let (mut scores, mut probs) = (vec![0.0; past + now], vec![0; past + now]);
                let (mut sums, mut query) = (vec![0; dim], vec![0; dim]);
                let mut scratch = Scratch {
                    scores: &mut scores,
                    probs: &mut probs,
                    sums: &mut sums,
                    query: &mut query,
                };
                let mut out = vec![SENTINEL; width];
                ops.attend(
                    Heads { width, dim },
                    &q,
                    [(kv, past), (kv, now)],
                    &mut scratch,
                    &mut out,
                );
                bits(&out)
            };
            same(
                ops,
                &result(&Scalar),
                &result(ops),
                format_args!("attention, {past} + {now} keys of {dim}"),
            )?;
            cases += 1;
        }
    }
    Ok(cases)
}
