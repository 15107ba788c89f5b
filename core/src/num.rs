//! The float functions that every backend computes in exactly this order (docs/arithmetic.md).
//!
//! Only `+ - * /`, `sqrt` and integer/float conversions of IEEE 754 are used, each rounded to
//! nearest-even, never fused: a SIMD path that does the same operations gets the same bits.

/// Adds 2^23 * 1.5 and takes it away again: rounds to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// Nearest integer, ties to even, for |x| < 2^22 (larger values come back unchanged or off by
/// their own spacing; callers clamp).
#[inline(always)]
pub fn round(x: f32) -> f32 {
    (x + ROUND) - ROUND
}

/// e^x, within 2 units in the last place; 0 below -87.3, e^88.3 above.
///
/// x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts), then the degree-7 minimax
/// polynomial of Cephes `expf`, then a multiplication by 2^n.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Written so that NaN falls to the lower end: total on any input.
    let c = if x > -87.3 { x } else { -87.3 };
    let c = if c < 88.3 { c } else { 88.3 };
    // The rounded integer is in the low bits of this; the rest of them leaves to the left below.
    let shifted = c * core::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (c - n * 0.693_359_4) - n * -2.121_944_4e-4;
    let mut p = 1.987_569_2e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 5e-1;
    let y = (p * (r * r) + r) + 1.0;
    let two_n = f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23));
    let y = y * two_n;
    if x > -87.3 { y } else { 0.0 }
}

/// x * sigmoid(x).
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// GELU in its tanh form: 0.5 v (1 + tanh u) = v sigmoid(2u), u = sqrt(2/pi) (v + 0.044715 v^3).
#[inline(always)]
pub fn gelu(v: f32) -> f32 {
    let u = 0.797_884_6 * (v + 0.044_715 * ((v * v) * v));
    v / (1.0 + exp(-2.0 * u))
}

/// 1 / sqrt(x), both operations correctly rounded.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    1.0 / libm::sqrtf(x)
}

/// The fixed tree over eight lanes.
#[inline(always)]
pub fn tree(l: [f32; 8]) -> f32 {
    let [a, b, c, d, e, f, g, h] = l;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// Reduces `items` with lane j taking items j, j + 8, ... and [`tree`] at the end.
#[inline(always)]
pub fn sum8(items: impl Iterator<Item = f32>) -> f32 {
    let mut lanes = [0.0f32; 8];
    let mut items = items;
    'all: loop {
        for lane in &mut lanes {
            match items.next() {
                Some(v) => *lane += v,
                None => break 'all,
            }
        }
    }
    tree(lanes)
}

/// The sum of a slice in the order of [`sum8`], eight at a time.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    map_sum(x, |v| v)
}

/// The sum of `f(v)` over a slice in the order of [`sum8`].
#[inline(always)]
pub fn map_sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for c in chunks {
        for (lane, &v) in lanes.iter_mut().zip(c) {
            *lane += f(v);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane += f(v);
    }
    tree(lanes)
}

/// The scalar product in the order of [`sum8`].
#[inline(always)]
pub fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    dot_into(&mut lanes, a, b);
    tree(lanes)
}

/// Adds the products of two slices to eight running lanes.
#[inline(always)]
pub fn dot_into(lanes: &mut [f32; 8], a: &[f32], b: &[f32]) {
    let (ac, ar) = a.as_chunks::<8>();
    let (bc, br) = b.as_chunks::<8>();
    for (x, y) in ac.iter().zip(bc) {
        for ((lane, &p), &q) in lanes.iter_mut().zip(x).zip(y) {
            *lane += p * q;
        }
    }
    for ((lane, &p), &q) in lanes.iter_mut().zip(ar).zip(br) {
        *lane += p * q;
    }
}

/// The largest |x|; NaN is passed over.
#[inline(always)]
pub fn abs_max(x: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (chunks, rest) = x.as_chunks::<8>();
    for c in chunks {
        for (lane, &v) in lanes.iter_mut().zip(c) {
            *lane = if v.abs() > *lane { v.abs() } else { *lane };
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane = if v.abs() > *lane { v.abs() } else { *lane };
    }
    // A maximum is the same in any order.
    lanes.iter().fold(0.0, |m, &v| if v > m { v } else { m })
}

/// `n` rounded up to a multiple of 4: what int8 rows are padded to.
#[inline(always)]
pub const fn up4(n: usize) -> usize {
    n.div_ceil(4) * 4
}

/// `n` rounded up to a multiple of [`GROUP4`]: what the inputs of 4-bit weights are padded to.
#[inline(always)]
pub const fn up32(n: usize) -> usize {
    n.div_ceil(GROUP4) * GROUP4
}

/// Inputs that share a scale in 4-bit weights.
pub const GROUP4: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_ulp() {
        let mut worst = 0.0f64;
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let want = libm::exp(x as f64);
            let ulp = (f32::EPSILON as f64) * want;
            worst = worst.max(((exp(x) as f64) - want).abs() / ulp);
        }
        assert!(worst < 2.0, "{worst}");
        assert_eq!(exp(f32::NAN), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(1e30).is_finite());
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn gelu_matches_its_tanh_form() {
        for i in -8000..8000 {
            let v = i as f64 * 1e-3;
            let want =
                0.5 * v * (1.0 + libm::tanh(0.797_884_560_802_865_4 * (v + 0.044_715 * v * v * v)));
            assert!((gelu(v as f32) as f64 - want).abs() < 1e-6, "{v}");
        }
    }

    #[test]
    fn rounding_is_to_even() {
        for (x, want) in
            [(0.5, 0.0), (1.5, 2.0), (2.5, 2.0), (-0.5, 0.0), (-1.5, -2.0), (126.5, 126.0)]
        {
            assert_eq!(round(x), want);
        }
    }

    #[test]
    fn sums_use_the_lane_order() {
        let x: [f32; 19] = core::array::from_fn(|i| (i as f32 * 0.37).sin_approx());
        assert_eq!(sum(&x), sum8(x.iter().copied()));
        assert_eq!(dot(&x, &x), sum8(x.iter().map(|v| v * v)));
    }

    trait SinApprox {
        fn sin_approx(self) -> f32;
    }
    impl SinApprox for f32 {
        fn sin_approx(self) -> f32 {
            libm::sinf(self)
        }
    }
}
