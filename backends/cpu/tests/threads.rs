//! The bits do not depend on how many threads there are.
#![cfg(feature = "threads")]

use varmint_core::ops::{Packed, Strip, Taps};
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
