//! The parameters of the kernels, field by field as in `kernels/*.cu`: without padding, so that both sides agree.
//! Pointers are addresses on the device; 0 is null.

use bytemuck::{Pod, Zeroable};

/// An address on the device.
pub(crate) type Ptr = u64;

/// How numbers are stored: `DT_*` in common.cuh.
pub(crate) mod dtype {
    pub(crate) const F32: i32 = 0;
    pub(crate) const F16: i32 = 1;
    pub(crate) const I8_ROWS: i32 = 2;
    pub(crate) const I8: i32 = 3;
    pub(crate) const I8_WIDE: i32 = 4;
}

/// What becomes of a product: `OUT_*` in gemm.cu.
pub(crate) mod out {
    pub(crate) const ROWS: i32 = 0;
    pub(crate) const GELU: i32 = 1;
    pub(crate) const GATED: i32 = 2;
    pub(crate) const MAP: i32 = 3;
    pub(crate) const PIXELS: i32 = 4;
}

impl Keep {
    /// Keys that a head looks at.
    pub(crate) fn keys(&self) -> usize {
        (self.past[0].n + self.own[0].n) as usize
    }
}

macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $t:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
        #[repr(C)]
        pub(crate) struct $name { $(pub(crate) $field: $t),* }

        impl Default for $name {
            fn default() -> Self {
                Self::zeroed()
            }
        }
    )*};
}

params! {
    Request {
        seed: u64, tail: f64, labels: [i32; 4], forced: i32, top_k: u32, top_p: f32, temperature: f32,
        mix: [[f32; 2]; 16],
    }
    Table { data: Ptr, scale: Ptr, dtype: i32, cols: i32 }
    FloatWeights { w: Ptr, bias: Ptr, half: i32, unused: i32 }
    /// Rows of the residual stream.
    Stream { x: Ptr, n: i32, second: i32, w: i32, unused: i32 }
    Modulation {
        gain: Ptr, shift: Ptr, gain_offset: Ptr, shift_offset: Ptr, gain_base: Ptr, row_stride: i32, unused: i32,
    }
    Quantized { q: Ptr, plane: u64, scale: Ptr, stride: i32, mode: i32 }

    Setup { req: Ptr, cond: Ptr, act: Ptr, tables: [Table; 4], rows_of: [i32; 4], n_tables: i32, w: i32, image: u64 }
    BakedRows { req: Ptr, out: Ptr, table: Table, none: i32, stride: i32, image: u64 }
    AddVector { x: Ptr, add: Ptr, n: i32, stride: i32, image: u64 }
    NormRows { s: Stream, modulation: Modulation, to: Quantized, image: u64 }
    QuantizeRows { x: Ptr, to: Quantized, k: i32, stride: i32, image: u64 }
    BeginFirst { cond: Ptr, start: Table, lvl_pos: Table, s: Stream, image: u64 }
    Begin { next: Ptr, word: FloatWeights, lvl_pos: Table, s: Stream, z: i32, first: i32, rows: i32, unused: i32, image: u64 }
    Cache { k: Ptr, v: Ptr, ks: Ptr, vs: Ptr }
    Heads {
        qkv: Ptr, factor: Ptr, floats: Ptr, own: [Cache; 2], n: i32, w: i32, dim: i32, norm: i32, store: i32, total: i32,
        first: i32, heads: i32, image: u64,
    }
    Floats {
        a: Ptr, out: Ptr, w: FloatWeights, m: i32, n: i32, k: i32, width: i32, stride: i32, line: i32, seg_len: i32,
        seg_stride: i32, ldo: i32, unused: i32, image: u64,
    }
    FinishRows { y: Ptr, s: Stream, gate: Ptr, gate_offset: Ptr, n: i32, mode: i32, gate_stride: i32, unused: i32, image: u64 }

    Out {
        scale: Ptr, bias: Ptr, row_scale: Ptr, range: Ptr, out: Ptr, gate: Ptr, gate_offset: Ptr, rows: Ptr,
        levels: f32, mode: i32, base: i32, store: i32, ldo: i32, n: i32, second: i32, gate_stride: i32, per: i32,
        unused: i32, image: u64,
    }
    Gemm {
        a: Ptr, plane: u64, w: Ptr, m: i32, n: i32, k: i32, width: i32, stride: i32, line: i32, seg_len: i32,
        seg_stride: i32, tall: i32, unused: i32, partial: Ptr, arrived: Ptr, out: Out,
    }
    Gemm4 { a: Ptr, w: Ptr, group: Ptr, m: i32, n: i32, k: i32, stride: i32, out: Out }

    Part { k: Ptr, v: Ptr, ks: Ptr, vs: Ptr, n: i32, unused: i32 }
    Attend {
        qkv: Ptr, past: [Part; 2], own: [Part; 2], heads: Heads, n: i32, w: i32, dim: i32, store: i32, stride: i32,
        fresh: i32, sums: i32, rows: i32, first: i32, count: i32, map_h: i32, map_w: i32, near_h: i32, near_w: i32,
        image: u64,
    }
    Line { first: i32, step: i32, count: i32 }
    Keep {
        queries: Ptr, seen: [Ptr; 2], past: [Part; 2], own: [Part; 2], down: Line, along: Line, w: i32, dim: i32,
        store: i32, first: i32, heads: i32, map_w: i32, pool: i32, room: i32, wide: i32, protect: i32, image: u64,
    }
    AttendMap { qkv: Ptr, out: Ptr, store: i32, c: i32, positions: i32, first: i32, factor: f32, total: i32, image: u64 }

    Draw {
        req: Ptr, logits: Ptr, tokens: Ptr, forced: Ptr, l: i32, v: i32, rows: i32, scale: i32, room: i32,
        unused: i32, image: u64,
    }
    Fold {
        tokens: Ptr, codebook: Table, phi: Ptr, bias: Ptr, big: Ptr, f_hat: Ptr, half: i32, enlarge: i32, h: i32,
        w: i32, ph: i32, pw: i32, z: i32, unused: i32, image: u64,
    }
    Reduce { from: Ptr, out: Ptr, ph: i32, pw: i32, z: i32, nh: i32, nw: i32, unused: i32, image: u64 }
    Clear { f_hat: Ptr, tokens: Ptr, n: i32, l: i32, image: u64 }

    Fill {
        map: Ptr, gain: Ptr, shift: Ptr, range: Ptr, out: Ptr, plane: u64, store: i32, h: i32, w: i32, c: i32,
        up: i32, y: i32, rows: i32, pad: i32, px: i32, norm: i32, levels: f32, mode: i32, image: u64,
    }
    RowStats { map: Ptr, temp: Ptr, store: i32, w: i32, c: i32, y: i32, rows: i32, unused: i32, image: u64 }
    AddStats { stats: Ptr, temp: Ptr, c_max: i32, set: i32, rows: i32, c: i32, first: i32, unused: i32, image: u64 }
    MapRange { stats: Ptr, c_max: i32, set: i32, c: i32, to: i32, image: u64 }
    RowSquares { map: Ptr, sums: Ptr, temp: Ptr, store: i32, h: i32, w: i32, c: i32, groups: i32, unused: i32, image: u64 }
    FinishNorm {
        stats: Ptr, affine: Ptr, temp: Ptr, c_max: i32, set: i32, h: i32, w: i32, c: i32, groups: i32, act: i32,
        raw: i32, image: u64,
    }
    Peak { out: Ptr, rounds: i32, unused: i32 }
    StoreMap { y: Ptr, map: Ptr, rows: Ptr, pixels: Ptr, n: u64, at: u64, store: i32, base: i32, image: u64 }
}
