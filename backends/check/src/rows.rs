//! Operations on rows, half floats among them.

use alloc::vec;
use alloc::vec::Vec;

use half::f16;
use varmint_core::{Ops, Scalar};

use crate::random::Random;
use crate::{Mismatch, SENTINEL, bits, same};

/// 2^e for a normal float.
fn power_of_two(e: i32) -> f32 {
    f32::from_bits(((e + 127) as u32) << 23)
}

/// Norms, quantizers, half floats and activations at lengths around the lanes.
///
/// # Errors
/// The first output that is not the reference's.
pub fn rows_equal_the_reference(ops: &dyn Ops) -> Result<usize, Mismatch> {
    let mut r = Random(1 << 20);
    let mut cases = 0;
    for n in [1, 7, 8, 9, 15, 16, 17, 31, 64, 192, 331, 1024] {
        let mut row = |scale: f32| (0..n).map(|_| r.float() * scale).collect::<Vec<f32>>();
        let (x, gain, shift, y) = (row(30.0), row(2.0), row(2.0), row(5.0));
        let mut both = |what: &str, f: &dyn Fn(&dyn Ops) -> Vec<u32>| {
            cases += 1;
            same(ops, &f(&Scalar), &f(ops), format_args!("{what}, {n} values"))
        };
        both("layer norm", &|o| {
            let mut out = vec![0.0; n];
            o.layer_norm(&x, &gain, &shift, &mut out);
            bits(&out)
        })?;
        both("quantize_i8", &|o| {
            let mut out = vec![9i8; n + 3];
            let s = o.quantize_i8(&x, &mut out);
            out.iter().map(|&v| v as u32).chain([s.to_bits()]).collect()
        })?;
        both("quantize_i12", &|o| {
            let mut out = vec![9i16; n + 3];
            let s = o.quantize_i12(&x, &mut out);
            out.iter().map(|&v| v as u32).chain([s.to_bits()]).collect()
        })?;
        both("requantize", &|o| {
            // To the limits and beyond.
            let (mut narrow, mut wide) = (vec![9i8; n], vec![9i16; n]);
            o.requantize_i8(&x, 5.0, &mut narrow);
            o.requantize_i12(&x, 80.0, &mut wide);
            let narrow = narrow.iter().map(|&v| v as u32);
            narrow.chain(wide.iter().map(|&v| v as u32)).collect()
        })?;
        both("half floats", &|o| {
            // Down to half floats' denormals, and up to their infinity.
            let mut v: Vec<f32> = (0..n).map(|i| x[i] * power_of_two(i as i32 % 40 - 26)).collect();
            let mut half = vec![f16::ONE; n + 1];
            let mut wide = vec![SENTINEL; n + 1];
            o.narrow_f16(&mut v, &mut half[..n]);
            o.widen_f16(&half, &mut wide[..n]);
            half.iter().map(|h| h.to_bits() as u32).chain(bits(&v)).chain(bits(&wide)).collect()
        })?;
        both("activations", &|o| {
            let mut v = x.clone();
            o.gelu(&mut v);
            o.add_gated(&mut v, &gain, &y);
            o.norm_act(&mut v, &gain, &shift, true);
            bits(&v)
        })?;
        both("map statistics", &|o| {
            let (mut sum, mut squares) = (vec![0.5; n], vec![0.5; n]);
            let (mut min, mut max) = (vec![f32::MAX; n], vec![f32::MIN; n]);
            for _ in 0..2 {
                let rows = [&x[..], &y, &gain].concat();
                o.map_stats(&rows, &mut sum, &mut min, &mut max);
                o.map_squares(&rows, &shift, &mut squares);
            }
            [sum, squares, min, max].iter().flat_map(|v| bits(v)).collect()
        })?;
        both("heads", &|o| {
            let dim = n.div_ceil(3);
            let (mut v, mut out) = (x.clone(), vec![9i8; n]);
            let mut scales = [f16::ONE; 2];
            o.normalize_heads(&mut v, dim, &gain[..n.min(2)]);
            o.quantize_heads(&v, dim, &mut out, &mut scales);
            let ints = out.iter().map(|&v| v as u32);
            ints.chain(scales.map(|s| s.to_bits() as u32)).chain(bits(&v)).collect()
        })?;
    }
    Ok(cases)
}
