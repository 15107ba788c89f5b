// The decoder's maps [H, W, C]: strips of inputs, statistics, norms. See decode.rs and maps.rs.
#include "common.cuh"

// Rows of the statistics, `c_max` values each: maps::stat.
enum { MAP = 0, HIDDEN = 3, GAIN = 6, SHIFT = 7, RANGE = 9 };

struct Fill {
    const void *map;
    const float *gain, *shift, *range;
    u8 *out;
    u64 plane;
    int store, h, w, c, up;
    int y, rows, pad, px;  // rows: with the halo
    int norm;              // 0 none, 1 norm, 2 norm and SiLU
    float levels;
    int mode;  // DT_F32, DT_I8, DT_I8WIDE
    u64 image;
};

// The strip of inputs of output rows y.., quantized; a thread has four channels of a pixel.
extern "C" __global__ void __launch_bounds__(256) fill(const __grid_constant__ Fill p) {
    int quads = (p.px + 3) / 4, width = p.w * p.up + 2 * p.pad;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    if (i >= p.rows * width * quads) return;
    u64 offset = this_image(p.image);
    const void *map = in_image((const u8 *)p.map, offset);
    const float *gain = in_image(p.gain, offset), *shift = in_image(p.shift, offset);
    u8 *out = in_image(p.out, offset);
    int c = i % quads * 4, x = i / quads % width - p.pad, row = i / quads / width, y = p.y + row - p.pad;
    bool in = x >= 0 && x < p.w * p.up && y >= 0 && y < p.h * p.up;
    u64 from = ((u64)(y / p.up) * p.w + x / p.up) * p.c, to = ((u64)row * width + x + p.pad) * p.px;
    float scale = 0.0f, inverse = 0.0f;
    if (p.mode != DT_F32) row_scale(*in_image(p.range, offset), p.levels, scale, inverse);
    u32 word = 0, low = 0;
    float values[4] = {};
    if (in && p.c % 4 == 0) {
        if (p.store == ST_F32) {
            float4 v = *(const float4 *)((const float *)map + from + c);
            values[0] = v.x, values[1] = v.y, values[2] = v.z, values[3] = v.w;
        } else {
            uint2 v = *(const uint2 *)((const u16 *)map + from + c);
            values[0] = widen((u16)v.x), values[1] = widen((u16)(v.x >> 16));
            values[2] = widen((u16)v.y), values[3] = widen((u16)(v.y >> 16));
        }
    } else if (in) {
        for (int j = 0; j < 4; j++)
            if (c + j < p.c) values[j] = load_map(map, p.store, from + c + j);
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        float v = 0.0f;
        bool real = in && c + j < p.c;
        if (real) {
            v = values[j];
            if (p.norm) v = v * gain[c + j] + shift[c + j];
            if (p.norm == 2) v = silu(v);
        }
        if (p.mode == DT_F32) {
            if (c + j < p.px) ((float *)out)[to + c + j] = v;
            continue;
        }
        int q = real ? quantize(v, inverse, p.levels) : 0;
        if (p.mode == DT_I8WIDE) {
            word |= (u32)(u8)(q >> 4) << 8 * j;
            low |= (u32)(q & 15) << 8 * j;
        } else {
            word |= (u32)(u8)q << 8 * j;
        }
    }
    if (p.mode == DT_F32) return;
    *(u32 *)(out + to + c) = word;
    if (p.mode == DT_I8WIDE) *(u32 *)(out + p.plane + to + c) = low;
}

// Sums, smallest and largest of every channel of rows y.. of a map: temp [3][rows][c]. blockIdx.y is the row.
struct RowStats {
    const void *map;
    float *temp;
    int store, w, c, y, rows, unused;
    u64 image;
};

extern "C" __global__ void row_stats(const __grid_constant__ RowStats p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, rows = p.rows, w = p.w, c = p.c;
    u64 offset = this_image(p.image);
    const void *map = in_image((const u8 *)p.map, offset);
    float *temp = in_image(p.temp, offset);
    after_previous();
    if (i >= c) return;
    u64 at = (u64)(p.y + row) * w * c + i;
    float sum = 0.0f, low = F32_MAX, high = -F32_MAX;
#pragma unroll 32
    for (int x = 0; x < w; x++) {
        float v = load_map(map, p.store, at + (u64)x * c);
        sum += v;
        low = v < low ? v : low;
        high = v > high ? v : high;
    }
    temp[row * c + i] = sum;
    temp[(rows + row) * c + i] = low;
    temp[(2 * rows + row) * c + i] = high;
}

// Takes the rows in, in order; `first`: from nothing.
struct AddStats {
    float *stats;
    const float *temp;
    int c_max, set, rows, c, first, unused;
    u64 image;
};

extern "C" __global__ void add_stats(const __grid_constant__ AddStats p) {
    u64 offset = this_image(p.image);
    const float *temp = in_image(p.temp, offset);
    int c_max = p.c_max, rows = p.rows, c = p.c, first = p.first;
    after_previous();
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= c_max) return;
    float *s = in_image(p.stats, offset) + p.set * c_max + i;
    float sum = first ? 0.0f : s[0], low = first ? F32_MAX : s[c_max], high = first ? -F32_MAX : s[2 * c_max];
    if (i < c) {
#pragma unroll 32
        for (int r = 0; r < rows; r++) {
            float l = temp[(rows + r) * c + i], h = temp[(2 * rows + r) * c + i];
            sum += temp[r * c + i];
            low = l < low ? l : low;
            high = h > high ? h : high;
        }
    }
    s[0] = sum, s[c_max] = low, s[2 * c_max] = high;
}

DEVICE float block_largest(float v) {
    __shared__ float room[32];
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = v;
    __syncthreads();
    for (u32 i = 0; i < blockDim.x / 32; i++) v = larger(v, room[i]);
    __syncthreads();
    return v;
}

DEVICE float raw_range(const float *stats, int c_max, int set, int c) {
    float most = 0.0f;
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
        float low = -stats[(set + 1) * c_max + i], high = stats[(set + 2) * c_max + i];
        most = larger(most, low > high ? low : high);
    }
    return block_largest(most);
}

// Largest |value| of a map, to range `to`. One block.
struct MapRange {
    float *stats;
    int c_max, set, c, to;
    u64 image;
};

extern "C" __global__ void map_range(const __grid_constant__ MapRange p) {
    after_previous();
    float *stats = in_image(p.stats, this_image(p.image));
    float most = raw_range(stats, p.c_max, p.set, p.c);
    if (threadIdx.x == 0) stats[RANGE * p.c_max + p.to] = most;
}

DEVICE float group_mean(const float *sums, int i, int per, float count) {
    float total = 0.0f;
    for (int j = i / per * per; j < i / per * per + per; j++) total = total + sums[j];
    return total / count;
}

// Squares about the mean, per row and channel: temp [h][c].
struct RowSquares {
    const void *map;
    const float *sums;
    float *temp;
    int store, h, w, c, groups, unused;
    u64 image;
};

extern "C" __global__ void row_squares(const __grid_constant__ RowSquares p) {
    int w = p.w, c = p.c, i = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y, per = c / p.groups;
    after_previous();
    if (i >= c) return;
    u64 offset = this_image(p.image);
    const void *map = in_image((const u8 *)p.map, offset);
    float mean = group_mean(in_image(p.sums, offset), i, per, (float)(p.h * w * per)), sum = 0.0f;
    u64 at = (u64)row * w * c + i;
#pragma unroll 32
    for (int x = 0; x < w; x++) {
        float v = load_map(map, p.store, at + (u64)x * c);
        sum += (v - mean) * (v - mean);
    }
    in_image(p.temp, offset)[row * c + i] = sum;
}

// The norm's gain and shift, the range of what it gives; and, for a shortcut, of `raw` channels before it. One block.
struct FinishNorm {
    float *stats;
    const float *affine, *temp;
    int c_max, set, h, w, c, groups, act, raw;
    u64 image;
};

extern "C" __global__ void __launch_bounds__(1024) finish_norm(const __grid_constant__ FinishNorm p) {
    extern __shared__ float squares[];
    u64 offset = this_image(p.image);
    float *stats = in_image(p.stats, offset);
    const float *affine = p.affine, *temp = in_image(p.temp, offset);
    int c_max = p.c_max, set = p.set, h = p.h, w = p.w, c = p.c, groups = p.groups, act = p.act, raw = p.raw;
    const float *sums = stats + set * c_max;
    int per = c / groups;
    after_previous();
    float count = (float)(h * w * per);
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
        float sum = 0.0f;
#pragma unroll 32
        for (int y = 0; y < h; y++) sum += temp[y * c + i];
        squares[i] = sum;
    }
    __syncthreads();
    float most = 0.0f;
    for (int i = threadIdx.x; i < c; i += blockDim.x) {
        float total = 0.0f;
        for (int j = i / per * per; j < i / per * per + per; j++) total = total + squares[j];
        float gain = rsqrt_(total / count + 1e-6f) * affine[i];
        float shift = affine[c + i] - group_mean(sums, i, per, count) * gain;
        stats[GAIN * c_max + i] = gain;
        stats[SHIFT * c_max + i] = shift;
        float y0 = sums[c_max + i] * gain + shift, y1 = sums[2 * c_max + i] * gain + shift;
        if (!(y0 < y1)) {
            float y = y0;
            y0 = y1, y1 = y;
        }
        float a0 = act ? silu(y0) : y0, a1 = act ? silu(y1) : y1;
        // SiLU falls to -0.27846 at -1.27846 and rises from there.
        float dip = act && y0 < -1.2784645f && y1 > -1.2784645f ? 0.27846455f : 0.0f;
        most = larger(larger(larger(most, fabsf(a0)), fabsf(a1)), dip);
    }
    most = block_largest(most);
    if (threadIdx.x == 0) stats[RANGE * c_max] = most;
    if (raw > 0) {
        most = raw_range(stats, c_max, MAP, raw);
        if (threadIdx.x == 0) stats[RANGE * c_max + 1] = most;
    }
}

// Float results of a convolution into a map (`base` 1: plus what is there; 2: plus `rows`), or as pixels.
struct StoreMap {
    const float *y;
    void *map;
    const float *rows;
    u8 *pixels;
    u64 n, at;  // at: of the first value in the map
    int store, base;
    u64 image;
};

extern "C" __global__ void store_map(const __grid_constant__ StoreMap p) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    if (i >= p.n) return;
    u64 offset = this_image(p.image);
    float v = in_image(p.y, offset)[i];
    if (p.pixels) {
        in_image(p.pixels, offset)[i] = pixel(v);
        return;
    }
    void *map = in_image((u8 *)p.map, offset);
    if (p.base == 1) v += load_map(map, p.store, p.at + i);
    if (p.base == 2) v += in_image(p.rows, offset)[i];
    save_map(map, p.store, p.at + i, v);
}
