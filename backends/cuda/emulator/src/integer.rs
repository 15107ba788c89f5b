//! Integers as PTX has them, where Rust has no operation for it.

pub(crate) fn extend(v: u64, bytes: u32, signed: bool) -> u64 {
    match (bytes, signed) {
        (1, true) => v as u8 as i8 as u64,
        (2, true) => v as u16 as i16 as u64,
        (4, true) => v as u32 as i32 as u64,
        _ => v,
    }
}

/// `prmt.b32`.
#[inline(always)]
pub(crate) fn permute(a: u32, b: u32, select: u32) -> u32 {
    let from = u64::from(b) << 32 | u64::from(a);
    let mut r = 0;
    for i in 0..4 {
        let s = select >> (4 * i);
        let byte = (from >> (8 * (s & 7))) as u8;
        let byte = if s & 8 != 0 { ((byte as i8) >> 7) as u8 } else { byte };
        r |= u32::from(byte) << (8 * i);
    }
    r
}

#[inline(always)]
pub(crate) fn dp4a(a: u32, b: u32, c: u32) -> u32 {
    let mut sum = c as i32;
    for i in 0..4 {
        sum = sum.wrapping_add(i32::from((a >> (8 * i)) as i8) * i32::from((b >> (8 * i)) as i8));
    }
    sum as u32
}

#[inline(always)]
pub(crate) fn bfi(a: u32, b: u32, at: u32, len: u32) -> u32 {
    let (at, len) = (at & 0xff, len & 0xff);
    let ones = if len >= 32 { u64::from(u32::MAX) } else { (1u64 << len) - 1 };
    let mask = if at >= 32 { 0 } else { (ones << at) as u32 };
    let field = if at >= 32 { 0 } else { a << at };
    (b & !mask) | (field & mask)
}

/// The product of mma.m16n8k32 over int8: `a` four words, `b` two, `c` four of every lane.
#[inline(always)]
pub(crate) fn mma(a: [&[u32; 32]; 4], b: [&[u32; 32]; 2], c: [&[u32; 32]; 4]) -> [[u32; 32]; 4] {
    let mut left = [[0i32; 32]; 16];
    let mut right = [[0i32; 8]; 32];
    for lane in 0..32 {
        let (g, t) = (lane / 4, lane % 4);
        for i in 0..4 {
            let byte = |w: u32| i32::from((w >> (8 * i)) as i8);
            let k = 4 * t + i;
            left[g][k] = byte(a[0][lane]);
            left[g + 8][k] = byte(a[1][lane]);
            left[g][k + 16] = byte(a[2][lane]);
            left[g + 8][k + 16] = byte(a[3][lane]);
            right[k][g] = byte(b[0][lane]);
            right[k + 16][g] = byte(b[1][lane]);
        }
    }
    let mut d = [[0u32; 32]; 4];
    for (m, row) in left.iter().enumerate() {
        let mut acc = [0i32; 8];
        for (x, w) in row.iter().zip(&right) {
            for n in 0..8 {
                acc[n] = acc[n].wrapping_add(x.wrapping_mul(w[n]));
            }
        }
        let (g, half) = (m % 8, m / 8);
        for (n, v) in acc.iter().enumerate() {
            let (reg, lane) = (2 * half + n % 2, 4 * g + n / 2);
            d[reg][lane] = c[reg][lane].wrapping_add(*v as u32);
        }
    }
    d
}
