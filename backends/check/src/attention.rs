//! Attention.

use alloc::vec;
use alloc::vec::Vec;

use half::f16;
use varmint_core::ops::{Heads, Kv, Scratch};
use varmint_core::{Ops, Scalar};

use crate::random::{Random, Values};
use crate::{Mismatch, SENTINEL, bits, same};

/// What the numbers of an attention case are.
#[derive(Clone, Copy, Debug)]
enum Attention {
    Random,
    /// Keys and values at their largest, one sign: the largest sums.
    Extreme,
    /// Scores so far apart that most numerators are 0.
    Steep,
    /// Some keys with an infinite scale: scores that are infinite or no number.
    Infinite,
}

/// Runs attention of `rows` queries with scratch for `room` of them, on `cpu` and on the reference.
fn attention(
    ops: &dyn Ops,
    (dim, heads): (usize, usize),
    (rows, room): (usize, usize),
    (past, now): (usize, usize),
    values: Attention,
    r: &mut Random,
) -> Result<(), Mismatch> {
    let (width, n) = (heads * dim, past + now);
    let steep = if matches!(values, Attention::Steep) { 400.0 } else { 1.0 };
    let mut part = |n: usize| {
        let mut ints = |n: usize| match values {
            Attention::Extreme => Values::Extreme.make(127, n % 2 == 1, n, r),
            _ => Values::Random.make(127, false, n, r),
        };
        let (k, v) = (ints(n * width), ints(n * width));
        let [k, v] = [k, v].map(|x| x.into_iter().map(|v| v as i8).collect::<Vec<_>>());
        let [mut ks, vs] = [steep, 1.0].map(|s| {
            (0..n * heads).map(|_| f16::from_f32(r.float().abs() * 0.1 * s)).collect::<Vec<_>>()
        });
        if matches!(values, Attention::Infinite) {
            ks.iter_mut().step_by(5).for_each(|s| *s = f16::INFINITY);
        }
        (k, v, ks, vs)
    };
    let parts = [part(past), part(now)];
    let [a, b] = parts.each_ref().map(|(k, v, ks, vs)| Kv::I8 { k, v, ks, vs });
    let mut q: Vec<f32> = (0..rows * width).map(|_| r.float()).collect();
    if matches!(values, Attention::Extreme) {
        q[..dim].fill(1.0);
        q[(rows - 1) * width..][..dim].fill(0.0);
    }
    // The reference writes nothing around its output, so equal means untouched.
    let result = |ops: &dyn Ops, room: usize| {
        let mut scores = vec![SENTINEL; room * n + 16];
        let mut probs = vec![0x5A5A; room * n + 16];
        let (mut sums, mut query) = (vec![0; dim], vec![0; dim]);
        let mut scratch = Scratch {
            scores: &mut scores[..room * n],
            probs: &mut probs[..room * n],
            sums: &mut sums,
            query: &mut query,
        };
        let mut out = vec![SENTINEL; 16 + rows * width + 16];
        let places = &mut out[16..16 + rows * width];
        ops.attend(Heads { width, dim }, &q, [(a, past), (b, now)], &mut scratch, places);
        assert!(scores[room * n..].iter().all(|&v| v == SENTINEL));
        assert!(probs[room * n..].iter().all(|&v| v == 0x5A5A));
        bits(&out)
    };
    same(
        ops,
        &result(&Scalar, 1),
        &result(ops, room),
        format_args!("{rows} rows ({room}), {past} + {now} keys of {heads} x {dim}, {values:?}"),
    )
}

/// Attention over the int8 cache: heads that kernels are written for and others, rows in blocks of every
/// size, short and long caches.
///
/// # Errors
/// The first output that is not the reference's.
pub fn int8_attention_equals_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(1 << 30);
    let mut cases = 0;
    for dim in [16, 24, 32, 48, 64, 80] {
        for values in [Attention::Random, Attention::Extreme, Attention::Steep, Attention::Infinite]
        {
            for keys in [(0, 1), (1, 0), (1, 4), (14, 9), (16, 16), (103, 64), (424, 256)] {
                for rows in [1, 3, 8, 9] {
                    attention(ops, (dim, 2), (rows, 8), keys, values, &mut r)?;
                    cases += 1;
                }
            }
            // Every number of rows, in blocks of every size.
            let few = (1..10).flat_map(|n| [1, 2, 3, 5, 8, 9].map(|m| (n, m)));
            let many = [12, 13, 15, 16, 17, 33].map(|n| (n, 16));
            for (rows, room) in few.chain(many) {
                attention(ops, (dim, 3), (rows, room), (17, 14), values, &mut r)?;
                cases += 1;
            }
            // Weights of fewer than 14 bits.
            attention(ops, (dim, 1), (5, 4), (3, 1100), values, &mut r)?;
            cases += 1;
        }
        for keys in 1..70 {
            attention(
                ops,
                (dim, 2),
                (6, 8),
                (keys / 3, keys - keys / 3),
                Attention::Random,
                &mut r,
            )?;
            cases += 1;
        }
    }
    Ok(cases)
}

/// A few of the cases of [`int8_attention_equals_the_reference`], for slow machines.
///
/// # Errors
/// The first output that is not the reference's.
pub fn some_int8_attention_equals_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(1 << 30);
    let mut cases = 0;
    for dim in [16, 24, 32, 48, 64, 80] {
        for values in [Attention::Random, Attention::Extreme] {
            for (past, now, rows) in [(0, 1, 1), (1, 4, 3), (14, 9, 1), (103, 64, 2)] {
                attention(ops, (dim, 2), (rows, 2), (past, now), values, &mut r)?;
                cases += 1;
            }
        }
        // Weights of fewer than 14 bits.
        attention(ops, (dim, 1), (1, 1), (0, 1100), Attention::Random, &mut r)?;
        cases += 1;
    }
    Ok(cases)
}

/// Keys, values and queries of float attention, each as f32 and f16.
fn float_attention(
    ops: &dyn Ops,
    (dim, heads, used): (usize, usize, usize),
    (rows, room): (usize, usize),
    (past, now): (usize, usize),
    size: f32,
    r: &mut Random,
) -> Result<(), Mismatch> {
    let (width, n) = (heads * dim, past + now);
    // Queries of whole rows, or of one that has `used` heads only, as in the decoder.
    let queries = if used < heads { used * dim } else { rows * width };
    let mut part =
        |n: usize| [(); 2].map(|()| (0..n * width).map(|_| r.float() * size).collect::<Vec<f32>>());
    let wide = [part(past), part(now)];
    let half = wide
        .each_ref()
        .map(|p| p.each_ref().map(|x| x.iter().map(|&v| f16::from_f32(v)).collect::<Vec<_>>()));
    let q: Vec<f32> = (0..queries).map(|_| r.float() * size).collect();
    for (kind, [a, b]) in [
        ("f32", wide.each_ref().map(|[k, v]| Kv::F32 { k, v })),
        ("f16", half.each_ref().map(|[k, v]| Kv::F16 { k, v })),
    ] {
        let result = |ops: &dyn Ops, room: usize| {
            let mut scores = vec![SENTINEL; room * n + 16];
            let mut scratch = Scratch {
                scores: &mut scores[..room * n],
                probs: &mut [],
                sums: &mut [],
                query: &mut [],
            };
            let mut out = vec![SENTINEL; 16 + queries + 16];
            let places = &mut out[16..16 + queries];
            ops.attend(Heads { width, dim }, &q, [(a, past), (b, now)], &mut scratch, places);
            assert!(scores[room * n..].iter().all(|&v| v == SENTINEL));
            bits(&out)
        };
        same(
            ops,
            &result(&Scalar, 1),
            &result(ops, room),
            format_args!("{kind}, {rows} rows ({room}), {past} + {now} keys of {heads} x {dim}"),
        )?;
    }
    Ok(())
}

/// Attention over f32 and f16 caches.
///
/// # Errors
/// The first output that is not the reference's.
pub fn float_attention_equals_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(1 << 31);
    let mut cases = 0;
    for dim in [8, 12, 16, 24, 32, 48, 64, 128, 136] {
        // Ordinary scores, and scores so far apart that most numerators are 0.
        for size in [1.0, 40.0] {
            for keys in [(0, 1), (1, 0), (1, 4), (14, 9), (16, 16), (103, 64), (424, 256)] {
                for rows in [1, 3, 8] {
                    float_attention(ops, (dim, 2, 2), (rows, 8), keys, size, &mut r)?;
                    cases += 1;
                }
                float_attention(ops, (dim, 3, 1), (1, 1), keys, size, &mut r)?;
                cases += 1;
            }
            for (rows, room) in (1..10).flat_map(|n| [1, 2, 3, 5, 8, 9].map(|m| (n, m))) {
                float_attention(ops, (dim, 3, 3), (rows, room), (17, 14), size, &mut r)?;
                cases += 1;
            }
        }
        // Blocks of more rows, the last of them short.
        for (rows, room) in [(16, 16), (17, 20), (20, 16), (37, 16)] {
            float_attention(ops, (dim, 2, 2), (rows, room), (70, 25), 1.0, &mut r)?;
            cases += 1;
        }
        for keys in 1..30 {
            float_attention(ops, (dim, 2, 2), (7, 8), (keys / 3, keys - keys / 3), 1.0, &mut r)?;
            cases += 1;
        }
    }
    Ok(cases)
}
