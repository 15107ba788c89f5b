//! What the stages have in common: addresses, quantized rows, products.

use bytemuck::Pod;
use varmint_core::device::KvPart;
use varmint_core::model::Linear;
use varmint_core::num::{up4, up32};
use varmint_core::tensor::{Data, Matrix};
use varmint_core::{Buf, Job};

use crate::device::{Facts, Kernel, Launch};
use crate::params::{self, Ptr, dtype, out};
use crate::{Cuda, Error};

/// Inputs of a product where they lie: rows of a matrix, or the taps of a convolution (`varmint_core::ops::Taps`), in
/// values; `q` says how they are stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Input {
    pub(crate) q: params::Quantized,
    pub(crate) m: usize,
    pub(crate) width: usize,
    pub(crate) line: usize,
    pub(crate) seg_len: usize,
    pub(crate) seg_stride: usize,
    pub(crate) segs: usize,
}

impl Input {
    /// `m` rows.
    pub(crate) fn rows(q: params::Quantized, m: usize, k: usize) -> Self {
        let seg_len = if q.mode == dtype::F32 { k } else { q.stride as usize };
        Self { q, m, width: m, line: 0, seg_len, seg_stride: 0, segs: 1 }
    }

    /// A 3x3 convolution over a strip of rows `[rows + 2][width + 2][channels]`.
    pub(crate) fn strip(q: params::Quantized, rows: usize, width: usize, channels: usize) -> Self {
        let line = (width + 2) * channels;
        let m = rows * width;
        Self { q, m, width, line, seg_len: 3 * channels, seg_stride: line, segs: 3 }
    }

    fn k(&self) -> usize {
        self.segs * self.seg_len
    }
}

/// Which rows a tensor's product wants: how they are stored, and values of a row.
pub(crate) fn wants(w: &Matrix<'_>) -> (i32, usize) {
    match w.data {
        Data::F32(_) | Data::F16(_) | Data::I8Rows(..) => (dtype::F32, w.cols),
        Data::I8 { wide: false, .. } => (dtype::I8, up4(w.cols)),
        Data::I8 { wide: true, .. } => (dtype::I8_WIDE, up4(w.cols)),
        Data::I4 { .. } => (dtype::I8, up32(w.cols)),
    }
}

impl Cuda<'_> {
    /// Queues a kernel for every image: the grid is that of one.
    pub(crate) fn push<P: Pod>(
        &mut self,
        kernel: Kernel,
        grid: [usize; 3],
        block: usize,
        shared: usize,
        params: &P,
    ) {
        let [x, y, z] = grid;
        self.queue.push(Launch::new(kernel, [x, y, z * self.images], block, shared, params));
    }

    /// The address of a buffer of the first image.
    pub(crate) fn at(&self, job: &Job<'_>, buf: Buf) -> Ptr {
        self.memory.at + u64::from(job.plan.buffer(buf).offset)
    }

    /// The address of numbers of the model; 0 for none.
    pub(crate) fn of<T>(&self, numbers: &[T]) -> Result<Ptr, Error> {
        if numbers.is_empty() {
            return Ok(0);
        }
        let from = (numbers.as_ptr() as usize).wrapping_sub(self.file.as_ptr() as usize);
        let end = from.checked_add(size_of_val(numbers));
        match end {
            Some(end) if end <= self.file.len() => Ok(self.weights.at + from as u64),
            _ => Err(varmint_core::Error::PlanMismatch.into()),
        }
    }

    pub(crate) fn table(&self, m: &Matrix<'_>) -> Result<params::Table, Error> {
        let cols = m.cols as i32;
        Ok(match m.data {
            Data::F32(w) => params::Table { data: self.of(w)?, scale: 0, dtype: dtype::F32, cols },
            Data::F16(w) => params::Table { data: self.of(w)?, scale: 0, dtype: dtype::F16, cols },
            Data::I8Rows(w, s) => {
                params::Table { data: self.of(w)?, scale: self.of(s)?, dtype: dtype::I8_ROWS, cols }
            }
            Data::I8 { .. } | Data::I4 { .. } => {
                return Err(varmint_core::Error::PlanMismatch.into());
            }
        })
    }

    pub(crate) fn float_weights(&self, lin: &Linear<'_>) -> Result<params::FloatWeights, Error> {
        let (w, half) = match lin.w.data {
            Data::F32(w) => (self.of(w)?, 0),
            Data::F16(w) => (self.of(w)?, 1),
            _ => return Err(varmint_core::Error::PlanMismatch.into()),
        };
        Ok(params::FloatWeights { w, bias: self.of(lin.bias)?, half, unused: 0 })
    }

    pub(crate) fn part(&self, p: KvPart) -> params::Part {
        let at = |o: usize| self.memory.at + o as u64;
        params::Part {
            k: at(p.k),
            v: at(p.v),
            ks: at(p.ks),
            vs: at(p.vs),
            n: p.tokens as i32,
            unused: 0,
        }
    }

    /// Where `m` rows for a product go: quantized to `rows` and `scale`, or floats to `floats`.
    pub(crate) fn room(
        &self,
        w: &Matrix<'_>,
        m: usize,
        (rows, scale, floats): (Ptr, Ptr, Ptr),
    ) -> params::Quantized {
        let (mode, stride) = wants(w);
        let (q, stride) = (if mode == dtype::F32 { floats } else { rows }, stride as i32);
        params::Quantized { q, plane: (m * stride as usize) as u64, scale, stride, mode }
    }

    /// Quantizes `m` rows of `k` floats, `stride` apart, for a product; floats stay where they are.
    pub(crate) fn quantize(
        &mut self,
        w: &Matrix<'_>,
        (x, m, stride): (Ptr, usize, usize),
        (rows, scale): (Ptr, Ptr),
    ) -> Input {
        let k = w.cols;
        let mut to = self.room(w, m, (rows, scale, x));
        if to.mode == dtype::F32 {
            to.stride = stride as i32;
        } else {
            let (k, stride, image) = (k as i32, stride as i32, self.places.image);
            let p = params::QuantizeRows { x, to, k, stride, image };
            self.push(Kernel::quantize_rows, [m, 1, 1], 256, 4 * k as usize, &p);
        }
        Input::rows(to, m, k)
    }

    /// A product, and what becomes of it: `o` says all but the weights' scale and bias. Where the weights are floats,
    /// `floats` has room for the result.
    pub(crate) fn product(
        &mut self,
        x: &Input,
        lin: &Linear<'_>,
        mut o: params::Out,
        floats: Ptr,
    ) -> Result<(), Error> {
        let (n, m, k) = (lin.bias.len(), x.m, x.k());
        o.bias = self.of(lin.bias)?;
        (o.per, o.image) = (m as i32, if self.images > 1 { self.places.image } else { 0 });
        // Rows of all images make one product.
        let all = m * self.images;
        if o.range == 0 {
            o.row_scale = x.q.scale;
        }
        match lin.w.data {
            Data::I8 { w, scale, wide } => {
                o.scale = self.of(scale)?;
                let p = params::Gemm {
                    a: x.q.q,
                    plane: x.q.plane,
                    w: self.of(w)?,
                    m: all as i32,
                    n: n as i32,
                    k: k as i32,
                    width: x.width as i32,
                    stride: x.q.stride,
                    line: x.line as i32,
                    seg_len: x.seg_len as i32,
                    seg_stride: x.seg_stride as i32,
                    tall: 0,
                    unused: 0,
                    partial: self.places.partial,
                    arrived: self.places.arrived,
                    out: o,
                };
                let launch = gemm_launch(&p, wide, &self.device.facts);
                self.queue.push(launch);
            }
            Data::I4 { w, group, scale } => {
                o.scale = self.of(scale)?;
                let (w, group) = (self.of(w)?, self.of(group)?);
                let (a, stride) = (x.q.q, x.q.stride);
                let (mi, ni, ki) = (all as i32, n as i32, k as i32);
                let p = params::Gemm4 { a, w, group, m: mi, n: ni, k: ki, stride, out: o };
                let grid = [n.div_ceil(8), all.div_ceil(32), 1];
                self.queue.push(Launch::new(Kernel::gemm_4bit, grid, 256, 0, &p));
            }
            Data::F32(_) | Data::F16(_) => {
                // Rows and GELU go where they belong; the rest takes a detour.
                let direct = matches!(o.mode, out::ROWS | out::GELU);
                let (to, ldo) = if direct { (o.out, o.ldo) } else { (floats, n as i32) };
                let p = params::Floats {
                    a: x.q.q,
                    out: to,
                    w: self.float_weights(lin)?,
                    m: m as i32,
                    n: n as i32,
                    k: k as i32,
                    width: x.width as i32,
                    stride: x.q.stride,
                    line: x.line as i32,
                    seg_len: x.seg_len as i32,
                    seg_stride: x.seg_stride as i32,
                    ldo,
                    unused: 0,
                    image: self.places.image,
                };
                self.push(Kernel::gemm_float, [n.div_ceil(32), m.min(4096), 1], 256, 0, &p);
                self.finish(&o, to, m, n);
            }
            Data::I8Rows(..) => return Err(varmint_core::Error::PlanMismatch.into()),
        }
        Ok(())
    }

    /// What follows a float product.
    fn finish(&mut self, o: &params::Out, y: Ptr, m: usize, n: usize) {
        match o.mode {
            out::ROWS => {}
            out::GELU | out::GATED => {
                let s = params::Stream { x: o.out, n: o.n, second: o.second, w: o.ldo, unused: 0 };
                let p = params::FinishRows {
                    y,
                    s,
                    gate: o.gate,
                    gate_offset: o.gate_offset,
                    n: n as i32,
                    mode: o.mode,
                    gate_stride: o.gate_stride,
                    unused: 0,
                    image: self.places.image,
                };
                self.push(Kernel::finish_rows, [n.div_ceil(128), m, 1], 128, 0, &p);
            }
            _ => {
                let total = m * n;
                let p = params::StoreMap {
                    y,
                    map: o.out,
                    rows: o.rows,
                    pixels: if o.mode == out::PIXELS { o.out } else { 0 },
                    n: total as u64,
                    at: 0,
                    store: o.store,
                    base: o.base,
                    image: self.places.image,
                };
                self.push(Kernel::store_map, [total.div_ceil(256), 1, 1], 256, 0, &p);
            }
        }
    }
}

/// An integer product by the kernel for its shape.
pub(crate) fn gemm_launch(p: &params::Gemm, wide: bool, facts: &Facts) -> Launch {
    let multiprocessors = facts.multiprocessors;
    let (m, n, k) = (p.m as usize, p.n as usize, p.k as usize);
    let plain = p.width == p.out.per && p.seg_len == p.k;
    if plain && m <= 16 {
        let kernel = match (k < 2048, wide) {
            (true, false) => Kernel::gemm_few,
            (true, true) => Kernel::gemm_few_wide,
            (false, false) => Kernel::gemm_few_deep,
            (false, true) => Kernel::gemm_few_deep_wide,
        };
        return Launch::new(kernel, [n.div_ceil(8), 1, 1], 256, 0, p);
    }
    let steps = [p.stride, p.line, p.seg_len, p.seg_stride, p.k];
    let by16 = steps.iter().all(|v| v % 16 == 0) && (p.a | p.plane).is_multiple_of(16);

    let others = if facts.tensor() { &TILES[..3] } else { &TILES[2..3] };
    let any = &TILES[3];
    let mut best = (any, 1, f64::INFINITY);
    for t in if by16 { others } else { std::slice::from_ref(any) } {
        for split in SPLITS {
            let tiles = m.div_ceil(t.bm) * n.div_ceil(t.bn);
            let each = k.div_ceil(split).next_multiple_of(t.depth());
            let fits = split == 1
                || p.partial != 0
                    && each >= 2 * t.depth()
                    && each * (split - 1) < k
                    && t.bn <= 32
                    && tiles * split * t.bm * t.bn * 4 <= PARTIAL
                    && tiles * 4 <= ARRIVED;
            if !fits {
                continue;
            }
            let waves = (tiles * split).div_ceil(multiprocessors) as f64;
            let macs = (t.bm * t.bn * each * if wide { 2 } else { 1 }) as f64;
            let cost = waves * macs / t.rate + t.fixed + if split > 1 { 3000.0 } else { 0.0 };
            if cost < best.2 {
                best = (t, split, cost);
            }
        }
    }
    let (t, split, _) = best;
    let kernel = if wide { t.wide } else { t.narrow };
    let (x, y) = (n.div_ceil(t.bn), m.div_ceil(t.bm));
    // Neighbours share rows, unless there are more of these than a grid's second dimension has room for.
    let tall = y > 65_535;
    let grid = if tall { [y, x, split] } else { [x, y, split] };
    let p = params::Gemm { tall: tall.into(), ..*p };
    Launch::new(kernel, grid, t.threads[usize::from(wide)], t.shared(wide), &p)
}

/// Blocks that may share a tile's inputs.
const SPLITS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, 16];
/// Bytes for the sums of shared tiles, and for how many of their blocks are done.
pub(crate) const PARTIAL: usize = 8 << 20;
pub(crate) const ARRIVED: usize = 16 << 10;

/// `Tiles` of gemm.cu; by narrow and wide inputs where they differ.
struct Tile {
    narrow: Kernel,
    wide: Kernel,
    bm: usize,
    bn: usize,
    groups: usize,
    stages: [usize; 2],
    threads: [usize; 2],
    /// Multiply-accumulates per clock of a multiprocessor, and clocks for the rest, roughly: for choosing.
    rate: f64,
    fixed: f64,
}

const TILES: [Tile; 4] = [
    Tile {
        narrow: Kernel::gemm_128x128,
        wide: Kernel::gemm_128x128_wide,
        bm: 128,
        bn: 128,
        groups: 1,
        stages: [4, 3],
        threads: [128, 256],
        rate: 1200.0,
        fixed: 4000.0,
    },
    Tile {
        narrow: Kernel::gemm_128x64,
        wide: Kernel::gemm_128x64_wide,
        bm: 128,
        bn: 64,
        groups: 1,
        stages: [4, 3],
        threads: [128, 128],
        rate: 1100.0,
        fixed: 3000.0,
    },
    SMALL,
    // The same for inputs that cannot be copied 16 bytes at a time: never one of several to choose from.
    Tile { narrow: Kernel::gemm_any, wide: Kernel::gemm_any_wide, ..SMALL },
];

const SMALL: Tile = Tile {
    narrow: Kernel::gemm_64x32,
    wide: Kernel::gemm_64x32_wide,
    bm: 64,
    bn: 32,
    groups: 4,
    stages: [3, 2],
    threads: [256, 256],
    rate: 800.0,
    fixed: 2000.0,
};

impl Tile {
    /// Inputs of a stage.
    const fn depth(&self) -> usize {
        64 * self.groups
    }

    /// Bytes of shared memory: the copies, or the sums.
    const fn shared(&self, wide: bool) -> usize {
        let (parts, stages) = if wide { (2, self.stages[1]) } else { (1, self.stages[0]) };
        let copies = stages * (parts * self.bm * (self.depth() + 16) + self.bn * self.depth());
        let sums = self.groups * self.bm * (self.bn + 8) * 4;
        if copies > sums { copies } else { sums }
    }
}

/// The most shared memory that a product takes.
pub(crate) fn shared_memory() -> usize {
    TILES.iter().map(|t| t.shared(true).max(t.shared(false))).max().unwrap_or(0)
}

/// Whether a tensor's product works on floats.
pub(crate) fn floats(lin: &Linear<'_>) -> bool {
    matches!(lin.w.data, Data::F32(_) | Data::F16(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(capability: (u32, u32), multiprocessors: usize, shared_memory: usize) -> Facts {
        Facts {
            name: String::new(),
            capability,
            multiprocessors,
            shared_memory,
            memory: 0,
            integrated: false,
            driver: (12, 6),
        }
    }

    /// On every device and for every shape: the blocks cover the result, what they share fits, and a device without
    /// tensor cores is asked for no kernel that needs them.
    #[test]
    fn blocks_cover_the_result_and_fit() {
        let devices = [
            facts((7, 2), 8, 96 << 10),    // Xavier
            facts((8, 7), 8, 163 << 10),   // Orin Nano
            facts((8, 7), 16, 163 << 10),  // AGX Orin
            facts((9, 0), 132, 227 << 10), // H200
        ];
        let large = [Kernel::gemm_128x128, Kernel::gemm_128x128_wide, Kernel::gemm_128x64];
        for f in &devices {
            for m in [1, 2, 16, 17, 50, 128, 512, 4096, 65_536, 64 * 65_536] {
                for (n, k) in [(3, 1440), (64, 36), (160, 1440), (1024, 4096), (4096, 1024)] {
                    for wide in [false, true] {
                        let p = params::Gemm {
                            m,
                            n,
                            k,
                            width: m,
                            stride: k,
                            seg_len: k,
                            out: params::Out { per: m, ..Default::default() },
                            partial: 1 << 20,
                            arrived: 2 << 20,
                            ..Default::default()
                        };
                        let l = gemm_launch(&p, wide, f);
                        let t = TILES.iter().find(|t| l.kernel == t.narrow || l.kernel == t.wide);
                        let (bm, bn) = t.map_or((16, 8), |t| (t.bm, t.bn));
                        let [mut x, mut y, z] = l.grid.map(|g| g as usize);
                        assert!(y <= 65_535, "{l:?}");
                        if (m as usize).div_ceil(bm) > 65_535 {
                            (x, y) = (y, x);
                        }
                        assert!(x * bn >= n as usize && (x - 1) * bn < n as usize, "{l:?}");
                        assert!(y * bm >= m as usize && (y - 1) * bm < m as usize, "{l:?}");
                        assert!(l.shared as usize <= f.shared_memory, "{l:?}");
                        assert!(f.tensor() || !large.contains(&l.kernel), "{l:?}");
                        if z > 1 {
                            assert!(x * y * z * bm * bn * 4 <= PARTIAL && x * y * 4 <= ARRIVED);
                        }
                    }
                }
            }
        }
    }
}
