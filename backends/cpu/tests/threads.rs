//! The bits do not depend on how many threads there are.
#![cfg(feature = "threads")]

use half::f16;
use varmint_core::ops::{Heads, Kv, Packed, Scratch, Strip, Taps};
use varmint_core::{Ops, Scalar};
use varmint_cpu::Cpu;

fn noise(i: usize) -> i32 {
    ((i as u32).wrapping_mul(2_654_435_761) >> 8) as i32
}

/// Runs on the reference, and in pools of several sizes.
fn same(outputs: usize, run: impl Fn(&dyn Ops, &mut [f32]) + Sync) {
    let mut want = vec![0.0f32; outputs];
    run(&Scalar, &mut want);
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut got = vec![f32::NAN; outputs];
        pool.install(|| run(&Cpu::detect().parallel(), &mut got));
        let equal = want.iter().zip(&got).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(equal, "{threads} threads");
    }
}

#[test]
fn products_do_not_depend_on_the_number_of_threads() {
    let n = 203;
    for (m, k) in [(1, 64), (9, 512), (100, 512), (131, 1024)] {
        let x: Vec<i8> = (0..m * k).map(|i| (noise(i) % 255 - 127) as i8).collect();
        let wide: Vec<i16> = (0..m * k).map(|i| (noise(i) % 4095 - 2047) as i16).collect();
        let float: Vec<f32> = wide.iter().map(|&v| v as f32 * 1e-3).collect();
        let w: Vec<i8> = (0..208 * k).map(|i| (noise(i + 7) % 255 - 127) as i8).collect();
        let rows: Vec<f32> = (0..m).map(|i| 0.01 + i as f32 * 1e-3).collect();
        let w32: Vec<f32> = w.iter().map(|&v| v as f32 * 1e-2).collect();
        let scale: Vec<f32> = (0..208).map(|i| 0.5 + i as f32 * 1e-2).collect();
        let packed = Packed { w: &w, scale: &scale, bias: &scale[..n] };
        same(m * n, |o, out| o.gemm_i8(Taps::matrix(&x, m, k), &rows, packed, out));
        same(m * n, |o, out| o.gemm_i8(Taps::matrix(&x, m, k), &[0.1], packed, out));
        same(m * n, |o, out| o.gemm_i12(Taps::matrix(&wide, m, k), &rows, packed, out));
        same(m * n, |o, out| o.gemm_f32(Taps::matrix(&float, m, k), &w32, &scale[..n], out));
    }
}

#[test]
fn convolutions_do_not_depend_on_the_number_of_threads() {
    for (rows, width, channels, n) in [(1, 8, 16, 16), (21, 40, 32, 48), (40, 24, 128, 128)] {
        let len = (rows + 2) * (width + 2) * channels;
        let data: Vec<i8> = (0..len).map(|i| (noise(i) % 255 - 127) as i8).collect();
        let w: Vec<i8> = (0..9 * channels * n).map(|i| (noise(i + 7) % 101 - 50) as i8).collect();
        let scale: Vec<f32> = (0..n).map(|i| 0.5 + i as f32 * 1e-2).collect();
        let w = Packed { w: &w, scale: &scale, bias: &scale };
        let x = Strip { data: &data, rows, width, channels };
        for room in [0, 1000, 1 << 20] {
            same(rows * width * n, |o, out| o.conv_i8(x, 0.1, w, &mut vec![0; room], out));
        }
    }
}

#[test]
fn attention_does_not_depend_on_the_number_of_threads() {
    let (dim, heads) = (32, 4);
    let width = dim * heads;
    for (rows, past, now, room) in [(1, 40, 9, 1), (100, 90, 100, 3), (300, 200, 300, 40)] {
        let keys = past + now;
        let k: Vec<i8> = (0..keys * width).map(|i| (noise(i) % 255 - 127) as i8).collect();
        let v: Vec<i8> = (0..keys * width).map(|i| (noise(i + 5) % 255 - 127) as i8).collect();
        let s: Vec<f16> = (0..keys * heads).map(|i| f16::from_f32(1e-3 * (i % 9) as f32)).collect();
        let q: Vec<f32> = (0..rows * width).map(|i| (noise(i + 9) % 2001) as f32 * 1e-3).collect();
        let ((k, k1), (v, v1)) = (k.split_at(past * width), v.split_at(past * width));
        let (s, s1) = s.split_at(past * heads);
        let kv =
            [(Kv::I8 { k, v, ks: s, vs: s }, past), (Kv::I8 { k: k1, v: v1, ks: s1, vs: s1 }, now)];
        same(rows * width, |o, out| {
            let (mut scores, mut probs) = (vec![0.0; room * keys], vec![0; room * keys]);
            let (mut sums, mut query) = (vec![0; dim], vec![0; dim]);
            let (scores, probs, sums) = (&mut scores[..], &mut probs[..], &mut sums[..]);
            let mut scratch = Scratch { scores, probs, sums, query: &mut query };
            o.attend(Heads { width, dim }, &q, kv, &mut scratch, out);
        });
    }
}

#[test]
fn gelu_does_not_depend_on_the_number_of_threads() {
    for n in [5, 40_001, 200_000] {
        same(n, |o, out| {
            out.iter_mut()
                .enumerate()
                .for_each(|(i, v)| *v = (noise(i) % 8001 - 4000) as f32 * 1e-3);
            o.gelu(out);
        });
    }
}
