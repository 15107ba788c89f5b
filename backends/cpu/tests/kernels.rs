//! Every kernel against the scalar reference, bit for bit: op x shape x alignment x values, with
//! sentinels around the output.

use half::f16;
use varmint_core::ops::{Heads, Kv, Packed, Packed4, Scratch, Strip, Taps};
use varmint_core::rng::philox;
use varmint_core::{Ops, Scalar};
use varmint_cpu::{Cpu, Isa};

const SENTINEL: f32 = -7.25e33;

/// Reproducible numbers.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 += 1;
        let [a, b, _, _] = philox([self.0 as u32, 0, 0, 0], [7, 0]);
        (a as u64) << 32 | b as u64
    }

    fn int(&mut self, limit: i32) -> i32 {
        (self.next() % (2 * limit as u64 + 1)) as i32 - limit
    }

    fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

/// What the integers of a case are.
#[derive(Clone, Copy, Debug)]
enum Values {
    Random,
    /// Every product at its largest, all of one sign.
    Extreme,
    /// Every product at its largest, signs drawn.
    Corners,
}

impl Values {
    fn make(self, limit: i32, negative: bool, n: usize, r: &mut Random) -> Vec<i32> {
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

/// The instruction sets of this machine; panics if `VARMINT_REQUIRE_KERNELS` names another.
fn kernels() -> Vec<Cpu> {
    let found: Vec<_> = Isa::ALL.into_iter().filter_map(Cpu::with).collect();
    for name in std::env::var("VARMINT_REQUIRE_KERNELS").unwrap_or_default().split(',') {
        let ran = found.iter().any(|c| c.isa().name() == name);
        assert!(name.is_empty() || ran, "kernel `{name}` was required and this machine lacks it");
    }
    found
}

/// A product: rows, inputs of a segment, segments, outputs. Lanes are 4, 8 and 16; tiles 4, 6 and 8.
const SHAPES: [(usize, usize, usize, usize); 20] = [
    (1, 4, 1, 1),
    (1, 8, 1, 7),
    (2, 12, 1, 8),
    (3, 16, 1, 9),
    (4, 64, 1, 15),
    (5, 60, 1, 16),
    (6, 68, 1, 17),
    (7, 100, 1, 23),
    (8, 192, 1, 24),
    (9, 192, 1, 25),
    (11, 28, 1, 31),
    (13, 44, 1, 32),
    (16, 256, 1, 33),
    (17, 64, 1, 41),
    (131, 32, 1, 40), // more rows than a block
    (16, 192, 1, 576),
    (3, 2048, 1, 64),
    (8, 96, 3, 32), // convolutions
    (13, 12, 3, 3),
    (64, 192, 3, 64),
];

/// The operation under test.
type Run<T> = fn(&dyn Ops, Taps<'_, T>, &[f32], Packed<'_>, &mut [f32]);

/// Runs one product on `kernel` and on the reference, the slices `shift` items into their allocations.
fn product<T: Copy + From<i8> + std::fmt::Debug>(
    cpu: &Cpu,
    (m, seg_len, segs, n): (usize, usize, usize, usize),
    limit: i32,
    values: Values,
    shift: usize,
    cast: fn(i32) -> T,
    run: Run<T>,
    r: &mut Random,
) {
    let groups = n.div_ceil(8);
    // Rows overlap where there are segments, as in a convolution.
    let (stride, seg_stride) = if segs == 1 { (seg_len, 0) } else { (seg_len / segs, 3 * seg_len) };
    let len = (m - 1) * stride + (segs - 1) * seg_stride + seg_len;
    let x: Vec<T> = values.make(limit, true, shift + len, r).into_iter().map(cast).collect();
    let w: Vec<i8> = values
        .make(127, false, shift + groups * 8 * segs * seg_len, r)
        .into_iter()
        .map(|v| v as i8)
        .collect();
    let scale: Vec<f32> = (0..8 * groups + shift).map(|_| r.float() * 0.01).collect();
    let bias: Vec<f32> = (0..n + shift).map(|_| r.float()).collect();
    let rows: Vec<f32> = (0..if shift == 0 { 1 } else { m }).map(|_| r.float()).collect();
    let taps = Taps { data: &x[shift..], rows: m, stride, segs, seg_len, seg_stride };
    let w = Packed { w: &w[shift..], scale: &scale[shift..], bias: &bias[shift..] };
    let result = |ops: &dyn Ops| {
        let mut out = vec![SENTINEL; 16 + m * n + 16];
        run(ops, taps, &rows, w, &mut out[16..16 + m * n]);
        out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let (want, got) = (result(&Scalar), result(cpu));
    let at = want.iter().zip(&got).position(|(a, b)| a != b);
    assert_eq!(
        at.map(|i| (i as isize - 16, f32::from_bits(want[i]), f32::from_bits(got[i]))),
        None,
        "{:?}: m {m}, k {segs} x {seg_len}, n {n}, {values:?}, shift {shift}",
        cpu.isa()
    );
    assert!(got[..16].iter().chain(&got[16 + m * n..]).all(|&v| v == SENTINEL.to_bits()));
}

#[test]
fn integer_products_equal_the_reference() {
    let mut r = Random(0);
    let mut cases = 0;
    for cpu in kernels() {
        for shape in SHAPES {
            for values in [Values::Random, Values::Extreme, Values::Corners] {
                for shift in [0, 1, 3] {
                    product(
                        &cpu,
                        shape,
                        127,
                        values,
                        shift,
                        |v| v as i8,
                        |o, x, s, w, out| o.gemm_i8(x, s, w, out),
                        &mut r,
                    );
                    product(
                        &cpu,
                        shape,
                        2047,
                        values,
                        shift,
                        |v| v as i16,
                        |o, x, s, w, out| o.gemm_i12(x, s, w, out),
                        &mut r,
                    );
                    cases += 2;
                }
            }
        }
        println!("{}: {cases} products", cpu.isa().name());
    }
    assert!(cases > 0);
}

/// One product of 4-bit weights, as `product`.
fn product4(
    cpu: &Cpu,
    (m, k, n): (usize, usize, usize),
    values: Values,
    negative: bool,
    shift: usize,
    r: &mut Random,
) {
    let (groups, gap) = (n.div_ceil(8), if m % 2 == 0 { 0 } else { 12 });
    let to_i8 = |v: Vec<i32>| v.into_iter().map(|v| v as i8).collect::<Vec<_>>();
    let x = to_i8(values.make(127, negative, shift + m * (k + gap), r));
    let group = to_i8(values.make(127, !negative, shift + groups * k / 4, r));
    // Every pair of nibbles; or the ends, -8 and 7.
    let byte = |r: &mut Random| match values {
        Values::Random => r.next() as u8,
        Values::Extreme => 0,
        Values::Corners => [0x00, 0x0F, 0xF0, 0xFF][r.next() as usize % 4],
    };
    let w: Vec<u8> = (0..shift + groups * 4 * k).map(|_| byte(r)).collect();
    let scale: Vec<f32> = (0..8 * groups + shift).map(|_| r.float() * 0.01).collect();
    let bias: Vec<f32> = (0..n + shift).map(|_| r.float()).collect();
    let rows: Vec<f32> = (0..if shift == 0 { 1 } else { m }).map(|_| r.float()).collect();
    let x = &x[shift..shift + (m - 1) * (k + gap) + k];
    let taps = Taps { data: x, rows: m, stride: k + gap, segs: 1, seg_len: k, seg_stride: 0 };
    let (w, group) = (&w[shift..], &group[shift..]);
    let w = Packed4 { w, group, scale: &scale[shift..], bias: &bias[shift..] };
    let result = |ops: &dyn Ops| {
        let mut out = vec![SENTINEL; 16 + m * n + 16];
        ops.gemm_i4(taps, &rows, w, &mut out[16..16 + m * n]);
        out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let (want, got) = (result(&Scalar), result(cpu));
    let at = want.iter().zip(&got).position(|(a, b)| a != b);
    assert_eq!(
        at.map(|i| (i as isize - 16, f32::from_bits(want[i]), f32::from_bits(got[i]))),
        None,
        "{:?}: {m}, {k}, {n}, {values:?}, negative {negative}, shift {shift}",
        cpu.isa()
    );
    assert!(got[..16].iter().chain(&got[16 + m * n..]).all(|&v| v == SENTINEL.to_bits()));
}

#[test]
fn products_of_4_bit_weights_equal_the_reference() {
    let mut r = Random(1 << 40);
    let mut cases = 0;
    for cpu in kernels() {
        let mut shapes = vec![
            (131, 96, 40),
            (33, 1056, 25),
            (49, 1056, 25),
            (50, 2080, 9),
            (51, 64, 16),
            (9, 2048, 64),
            (25, 8256, 9),
            (2, 16_640, 17),
        ];
        for m in 1..=17 {
            for n in [1, 7, 8, 9, 15, 16, 17, 31, 33] {
                shapes.push((m, [32, 64, 96][(m + n) % 3], n));
            }
            shapes.push((m, 1024, 24));
        }
        shapes.extend((18..=31).map(|m| (m, 32, 23)));
        for shape in shapes {
            for (values, negative) in [
                (Values::Random, false),
                (Values::Corners, false),
                (Values::Extreme, false),
                (Values::Extreme, true),
            ] {
                for shift in [0, 1, 3] {
                    product4(&cpu, shape, values, negative, shift, &mut r);
                    cases += 1;
                }
            }
        }
        println!("{}: {cases} products", cpu.isa().name());
    }
    assert!(cases > 0);
}

#[test]
fn short_slices_of_4_bit_weights_shorten_the_work() {
    let (w, group, x) = ([0x5Au8; 16 * 32], [3i8; 32], [1i8; 4 * 64]);
    let (scale, bias) = ([1.0; 16], [0.5; 16]);
    for cpu in kernels() {
        let both = |x: &[i8], k: usize, w: Packed4<'_>, len: usize| {
            let (mut want, mut got) = ([SENTINEL; 64], [SENTINEL; 64]);
            Scalar.gemm_i4(Taps::matrix(x, 4, k), &[1.0], w, &mut want[..len]);
            cpu.gemm_i4(Taps::matrix(x, 4, k), &[1.0], w, &mut got[..len]);
            assert_eq!(want, got, "{:?}, {len} outputs", cpu.isa());
        };
        let whole = Packed4 { w: &w, group: &group, scale: &scale, bias: &bias };
        for len in [0, 15, 16, 33, 63, 64] {
            both(&x, 64, whole, len);
        }
        both(&x[..255], 64, whole, 64);
        both(&x, 64, Packed4 { w: &w[..511], ..whole }, 64);
        both(&x, 64, Packed4 { group: &group[..31], ..whole }, 64);
        both(&x, 64, Packed4 { scale: &scale[..15], ..whole }, 64);
        both(&x, 64, Packed4 { bias: &bias[..9], ..whole }, 64);
        both(&x, 64, Packed4 { bias: &[], ..whole }, 64);
        both(&x, 48, whole, 64); // not a multiple of 32
        both(&x, 0, whole, 64);
        // Runs with gaps between them, which the kernels leave to the reference.
        let taps = Taps { data: &x, rows: 4, stride: 16, segs: 2, seg_len: 32, seg_stride: 64 };
        let (mut want, mut got) = ([SENTINEL; 64], [SENTINEL; 64]);
        Scalar.gemm_i4(taps, &[1.0], whole, &mut want);
        cpu.gemm_i4(taps, &[1.0], whole, &mut got);
        assert_eq!(want, got);
    }
}

#[test]
fn short_slices_shorten_the_work_as_in_the_reference() {
    let w = [1i8; 8 * 16];
    let x = [1i8; 40]; // two and a half rows of 16
    for cpu in kernels() {
        let w = Packed { w: &w, scale: &[1.0; 8], bias: &[0.0; 8] };
        for len in [0, 7, 8, 24, 31] {
            let (mut want, mut got) = ([SENTINEL; 31], [SENTINEL; 31]);
            Scalar.gemm_i8(Taps::matrix(&x, 4, 16), &[1.0], w, &mut want[..len]);
            cpu.gemm_i8(Taps::matrix(&x, 4, 16), &[1.0], w, &mut got[..len]);
            assert_eq!(want, got, "{:?}, {len} outputs", cpu.isa());
        }
    }
}

#[test]
fn float_products_equal_the_reference() {
    let mut r = Random(9 << 20);
    for cpu in kernels() {
        for (m, seg_len, segs, n) in SHAPES {
            // Odd lengths too: floats are not padded.
            for (seg_len, shift) in [(seg_len, 0), (seg_len + 3, 1)] {
                let stride = if segs == 1 { seg_len } else { seg_len / segs };
                let seg_stride = if segs == 1 { 0 } else { 3 * seg_len };
                let len = (m - 1) * stride + (segs - 1) * seg_stride + seg_len;
                let mut floats = |n: usize| (0..n).map(|_| r.float()).collect::<Vec<f32>>();
                let (x, w) = (floats(shift + len), floats(shift + n * segs * seg_len));
                let bias = floats(n);
                let half: Vec<f16> = w.iter().map(|&v| f16::from_f32(v)).collect();
                let x = Taps { data: &x[shift..], rows: m, stride, segs, seg_len, seg_stride };
                let result = |ops: &dyn Ops, half_floats: bool, cut: usize| {
                    let mut out = vec![SENTINEL; 16 + m * n + 16];
                    let to = &mut out[16..16 + m * n - cut];
                    if half_floats {
                        ops.gemm_f16(x, &half[shift..], &bias, to);
                    } else {
                        ops.gemm_f32(x, &w[shift..], &bias, to);
                    }
                    out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
                };
                for half_floats in [false, true] {
                    // With too little room for the last output: what there is room for.
                    for cut in [0, 1] {
                        let got = result(&cpu, half_floats, cut);
                        let same = got == result(&Scalar, half_floats, cut);
                        assert!(
                            same,
                            "{:?}: {m}, {segs} x {seg_len}, {n}, f16 {half_floats}",
                            cpu.isa()
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn rows_equal_the_reference() {
    let mut r = Random(1 << 20);
    for cpu in kernels() {
        for n in [1, 7, 8, 9, 15, 16, 17, 31, 64, 192, 331, 1024] {
            let mut row = |scale: f32| (0..n).map(|_| r.float() * scale).collect::<Vec<f32>>();
            let (x, gain, shift, y) = (row(30.0), row(2.0), row(2.0), row(5.0));
            let both = |f: &dyn Fn(&dyn Ops) -> Vec<u32>| {
                assert_eq!(f(&Scalar), f(&cpu), "{:?}, {n} values", cpu.isa());
            };
            let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            both(&|o| {
                let mut out = vec![0.0; n];
                o.layer_norm(&x, &gain, &shift, &mut out);
                bits(&out)
            });
            both(&|o| {
                let mut out = vec![9i8; n + 3];
                let s = o.quantize_i8(&x, &mut out);
                out.iter().map(|&v| v as u32).chain([s.to_bits()]).collect()
            });
            both(&|o| {
                let mut out = vec![9i16; n + 3];
                let s = o.quantize_i12(&x, &mut out);
                out.iter().map(|&v| v as u32).chain([s.to_bits()]).collect()
            });
            both(&|o| {
                // Down to half floats' denormals, and up to their infinity.
                let mut v: Vec<f32> =
                    (0..n).map(|i| x[i] * f32::powi(2.0, i as i32 % 40 - 26)).collect();
                let mut half = vec![f16::ONE; n + 1];
                let mut wide = vec![SENTINEL; n + 1];
                o.narrow_f16(&mut v, &mut half[..n]);
                o.widen_f16(&half, &mut wide[..n]);
                half.iter().map(|h| h.to_bits() as u32).chain(bits(&v)).chain(bits(&wide)).collect()
            });
            both(&|o| {
                let mut v = x.clone();
                o.gelu(&mut v);
                o.add_gated(&mut v, &gain, &y);
                o.norm_act(&mut v, &gain, &shift, true);
                bits(&v)
            });
            both(&|o| {
                let (mut sum, mut squares) = (vec![0.5; n], vec![0.5; n]);
                let (mut min, mut max) = (vec![f32::MAX; n], vec![f32::MIN; n]);
                for _ in 0..2 {
                    let rows = [&x[..], &y, &gain].concat();
                    o.map_stats(&rows, &mut sum, &mut min, &mut max);
                    o.map_squares(&rows, &shift, &mut squares);
                }
                [sum, squares, min, max].iter().flat_map(|v| bits(v)).collect()
            });
            both(&|o| {
                let dim = n.div_ceil(3);
                let (mut v, mut out) = (x.clone(), vec![9i8; n]);
                let mut scales = [f16::ONE; 2];
                o.normalize_heads(&mut v, dim, &gain[..n.min(2)]);
                o.quantize_heads(&v, dim, &mut out, &mut scales);
                let ints = out.iter().map(|&v| v as u32);
                ints.chain(scales.map(|s| s.to_bits() as u32)).chain(bits(&v)).collect()
            });
        }
    }
}

/// What the numbers of an attention case are.
#[derive(Clone, Copy, Debug)]
enum Attention {
    Random,
    /// Keys and values at their largest, one sign: the largest sums.
    Extreme,
    /// Scores so far apart that most numerators are 0.
    Steep,
}

/// Runs attention of `rows` queries with scratch for `room` of them, on `cpu` and on the reference.
fn attention(
    cpu: &Cpu,
    (dim, heads): (usize, usize),
    (rows, room): (usize, usize),
    (past, now): (usize, usize),
    values: Attention,
    r: &mut Random,
) {
    let (width, n) = (heads * dim, past + now);
    let steep = if matches!(values, Attention::Steep) { 400.0 } else { 1.0 };
    let mut part = |n: usize| {
        let mut ints = |n: usize| match values {
            Attention::Extreme => Values::Extreme.make(127, n % 2 == 1, n, r),
            _ => Values::Random.make(127, false, n, r),
        };
        let (k, v) = (ints(n * width), ints(n * width));
        let [k, v] = [k, v].map(|x| x.into_iter().map(|v| v as i8).collect::<Vec<_>>());
        let [ks, vs] = [steep, 1.0].map(|s| {
            (0..n * heads).map(|_| f16::from_f32(r.float().abs() * 0.1 * s)).collect::<Vec<_>>()
        });
        (k, v, ks, vs)
    };
    let parts = [part(past), part(now)];
    let [a, b] = parts.each_ref().map(|(k, v, ks, vs)| Kv::I8 { k, v, ks, vs });
    let mut q: Vec<f32> = (0..rows * width).map(|_| r.float()).collect();
    if matches!(values, Attention::Extreme) {
        q[..dim].fill(1.0);
        q[(rows - 1) * width..][..dim].fill(0.0);
    }
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
        out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let (want, got) = (result(&Scalar, 1), result(cpu, room));
    let at = want.iter().zip(&got).position(|(a, b)| a != b);
    assert_eq!(
        at.map(|i| (i as isize - 16, f32::from_bits(want[i]), f32::from_bits(got[i]))),
        None,
        "{:?}: {rows} rows ({room}), {past} + {now} keys of {heads} x {dim}, {values:?}",
        cpu.isa()
    );
    assert!(got[..16].iter().chain(&got[16 + rows * width..]).all(|&v| v == SENTINEL.to_bits()));
}

#[test]
fn int8_attention_equals_the_reference() {
    let mut r = Random(1 << 30);
    for cpu in kernels() {
        for dim in [16, 24, 32, 48, 64, 80] {
            for values in [Attention::Random, Attention::Extreme, Attention::Steep] {
                for keys in [(0, 1), (1, 0), (1, 4), (14, 9), (16, 16), (103, 64), (424, 256)] {
                    for rows in [1, 3, 8, 9] {
                        attention(&cpu, (dim, 2), (rows, 8), keys, values, &mut r);
                    }
                }
                // Every number of rows, in blocks of every size.
                for (rows, room) in (1..10).flat_map(|n| [1, 2, 3, 5, 8, 9].map(|m| (n, m))) {
                    attention(&cpu, (dim, 3), (rows, room), (17, 14), values, &mut r);
                }
                // Weights of fewer than 14 bits.
                attention(&cpu, (dim, 1), (5, 4), (3, 1100), values, &mut r);
            }
            for keys in 1..70 {
                attention(
                    &cpu,
                    (dim, 2),
                    (6, 8),
                    (keys / 3, keys - keys / 3),
                    Attention::Random,
                    &mut r,
                );
            }
        }
    }
}

/// Keys, values and queries of float attention, each as f32 and f16.
fn float_attention(
    cpu: &Cpu,
    (dim, heads, used): (usize, usize, usize),
    (rows, room): (usize, usize),
    (past, now): (usize, usize),
    size: f32,
    r: &mut Random,
) {
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
            out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        let (want, got) = (result(&Scalar, 1), result(cpu, room));
        let at = want.iter().zip(&got).position(|(a, b)| a != b);
        assert_eq!(
            at.map(|i| (i as isize - 16, f32::from_bits(want[i]), f32::from_bits(got[i]))),
            None,
            "{:?}: {kind}, {rows} rows ({room}), {past} + {now} keys of {heads} x {dim}, {size}",
            cpu.isa()
        );
        let rims = got[..16].iter().chain(&got[16 + queries..]);
        assert!(rims.into_iter().all(|&v| v == SENTINEL.to_bits()));
    }
}

#[test]
fn float_attention_equals_the_reference() {
    let mut r = Random(1 << 31);
    for cpu in kernels() {
        for dim in [8, 12, 16, 24, 32, 48, 64, 136] {
            // Ordinary scores, and scores so far apart that most numerators are 0.
            for size in [1.0, 40.0] {
                for keys in [(0, 1), (1, 0), (1, 4), (14, 9), (16, 16), (103, 64), (424, 256)] {
                    for rows in [1, 3, 8] {
                        float_attention(&cpu, (dim, 2, 2), (rows, 8), keys, size, &mut r);
                    }
                    float_attention(&cpu, (dim, 3, 1), (1, 1), keys, size, &mut r);
                }
                for (rows, room) in (1..10).flat_map(|n| [1, 2, 3, 5, 8, 9].map(|m| (n, m))) {
                    float_attention(&cpu, (dim, 3, 3), (rows, room), (17, 14), size, &mut r);
                }
            }
            for keys in 1..20 {
                float_attention(
                    &cpu,
                    (dim, 2, 2),
                    (7, 8),
                    (keys / 3, keys - keys / 3),
                    1.0,
                    &mut r,
                );
            }
        }
    }
}

/// A convolution: output rows, columns, channels in and out. Tiles have sides of 2 and 4, groups of 16.
const CONVOLUTIONS: [(usize, usize, usize, usize); 11] = [
    (1, 1, 4, 3),
    (3, 5, 12, 16),
    (4, 32, 16, 16), // one row of tiles
    (8, 17, 16, 32), // tiles beyond the right rim
    (7, 12, 32, 16), // and beyond the lower one
    (8, 16, 48, 32),
    (8, 40, 20, 16), // channels that no transform takes
    (16, 24, 32, 24),
    (12, 44, 64, 48),
    (8, 16, 128, 128),
    (7, 33, 144, 160),
];

/// Whether convolutions of this instruction set use a transform.
fn transforms(cpu: &Cpu) -> bool {
    matches!(cpu.isa(), Isa::Avx2 | Isa::Avx512 | Isa::Vnni)
}

/// Runs a convolution on `cpu` with `room` integers of scratch, and on the reference; says whether the
/// scratch was used.
fn convolution<T: Copy + From<i8> + std::fmt::Debug>(
    cpu: &Cpu,
    (rows, width, channels, n): (usize, usize, usize, usize),
    (x_values, x_limit): (Values, i32),
    (w_values, w_limit): (Values, i32),
    room: usize,
    cast: fn(i32) -> T,
    run: impl Fn(&dyn Ops, Strip<'_, T>, Packed<'_>, &mut [i32], &mut [f32]),
    r: &mut Random,
) -> bool {
    let len = (rows + 2) * (width + 2) * channels;
    let data: Vec<T> = x_values.make(x_limit, true, len, r).into_iter().map(cast).collect();
    let padded = n.next_multiple_of(8);
    let w = w_values.make(w_limit, false, padded * 9 * channels, r);
    let w: Vec<i8> = w.into_iter().map(|v| v as i8).collect();
    let scale: Vec<f32> = (0..padded).map(|_| r.float() * 0.01).collect();
    let bias: Vec<f32> = (0..n).map(|_| r.float()).collect();
    let strip = Strip { data: &data, rows, width, channels };
    let w = Packed { w: &w, scale: &scale, bias: &bias };
    let result = |ops: &dyn Ops, scratch: &mut [i32]| {
        let mut out = vec![SENTINEL; 16 + rows * width * n + 16];
        run(ops, strip, w, scratch, &mut out[16..16 + rows * width * n]);
        out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let mut scratch = vec![0x5A5A_5A5A; 16 + room + 16];
    let got = result(cpu, &mut scratch[16..16 + room]);
    let want = result(&Scalar, &mut []);
    let at = want.iter().zip(&got).position(|(a, b)| a != b);
    let name = cpu.isa();
    assert_eq!(
        at, None,
        "{name:?}: {rows} x {width}, {channels} to {n}, {x_values:?} {w_values:?}"
    );
    assert!(scratch[..16].iter().chain(&scratch[16 + room..]).all(|&v| v == 0x5A5A_5A5A));
    scratch[16..16 + room].iter().any(|&v| v != 0x5A5A_5A5A)
}

#[test]
fn convolutions_equal_the_reference_whatever_the_scratch() {
    let mut r = Random(6);
    for cpu in kernels() {
        let (mut transformed8, mut transformed12) = (0, 0);
        for shape in CONVOLUTIONS {
            let c = shape.2;
            // Everything, a few tiles, nothing.
            for room in [36 * c * (8 + 70), 36 * (c * 17 + 256), 0] {
                for values in [Values::Random, Values::Corners, Values::Extreme] {
                    let (x8, x12, w) = ((values, 127), (values, 2047), (values, 127));
                    let scale = 0.013;
                    transformed8 += convolution(
                        &cpu,
                        shape,
                        x8,
                        w,
                        room,
                        |v| v as i8,
                        |ops, x, w, s, out| ops.conv_i8(x, scale, w, s, out),
                        &mut r,
                    ) as usize;
                    transformed12 += convolution(
                        &cpu,
                        shape,
                        x12,
                        w,
                        room,
                        |v| v as i16,
                        |ops, x, w, s, out| ops.conv_i12(x, scale, w, s, out),
                        &mut r,
                    ) as usize;
                }
            }
        }
        if transforms(&cpu) {
            assert!(transformed8 >= 9 && transformed12 >= 18, "{transformed8}, {transformed12}");
        }
    }
}

#[test]
fn a_convolution_that_a_transform_cannot_hold_is_done_without() {
    // 9 * 464 * 64 = 267,264 reaches 2^25 / 127 = 264,208; with 62 it stays below.
    let mut r = Random(7);
    for cpu in kernels() {
        for (limit, expected) in [(64, false), (62, true)] {
            let used = convolution(
                &cpu,
                (4, 32, 464, 128),
                (Values::Extreme, 127),
                (Values::Extreme, limit),
                36 * 464 * 16 + 36 * 256,
                |v| v as i8,
                |ops, x, w, s, out| ops.conv_i8(x, 0.5, w, s, out),
                &mut r,
            );
            assert_eq!(used, expected && transforms(&cpu), "{:?}, {limit}", cpu.isa());
        }
    }
}
