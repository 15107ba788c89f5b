// Work on rows of the residual stream: condition, norm, quantization, embedding, heads.
#include "common.cuh"
#include "heads.cuh"
#include "request.cuh"

// Stage::Setup, and SiLU of the condition. cond, act [rows, w].
struct Setup {
    const Request *req;
    float *cond, *act;
    Table tables[4];
    int rows_of[4];
    int n_tables, w;
    u64 image;
};

extern "C" __global__ void setup(const __grid_constant__ Setup p) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    after_previous();
    if (c >= p.w) return;
    u64 offset = this_image(p.image);
    const Request *req = in_image(p.req, offset);
    float v = 0.0f;
    for (int t = 0; t < p.n_tables; t++) {
        int none = p.rows_of[t] - 1;
        int r = row == 0 && req->labels[t] >= 0 ? req->labels[t] : none;
        v += table_value(p.tables[t], r, c);
    }
    in_image(p.cond, offset)[row * p.w + c] = v;
    in_image(p.act, offset)[row * p.w + c] = silu(v);
}

// Stage::Ada where the projection was multiplied out: a row of a table, cols values, to every `stride` of `out`.
struct BakedRows {
    const Request *req;
    float *out;
    Table table;
    int none, stride;
    u64 image;
};

extern "C" __global__ void baked_rows(const __grid_constant__ BakedRows p) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    after_previous();
    if (c >= p.table.cols) return;
    u64 offset = this_image(p.image);
    int label = in_image(p.req, offset)->labels[0];
    // 0 and more, as Matrix::add_row: -0 becomes 0.
    float v = 0.0f + table_value(p.table, row == 0 && label >= 0 ? label : p.none, c);
    in_image(p.out, offset)[(u64)row * p.stride + c] = v;
}

// x[row, i] += add[i] for the first n of every row.
struct AddVector {
    float *x;
    const float *add;
    int n, stride;
    u64 image;
};

extern "C" __global__ void add_vector(const __grid_constant__ AddVector p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    if (i < p.n) in_image(p.x, this_image(p.image))[blockIdx.y * p.stride + i] += p.add[i];
}

// Rows of a stage: `n` tokens of each guidance row; row r begins `second` tokens after row r - 1.
struct Stream {
    float *x;
    int n, second, w, unused;
};

DEVICE float *stream_row(const Stream &s, u64 offset, int m) {
    return in_image(s.x, offset) + ((u64)(m / s.n) * s.second + m % s.n) * s.w;
}

// Modulation of a norm: gain = (gain[c] + offset[c]) + base[c], shift likewise without a base.
struct Modulation {
    const float *gain, *shift;                            // of row 0
    const float *gain_offset, *shift_offset, *gain_base;  // or null
    int row_stride, unused;
};

struct Quantized {
    u8 *q;
    u64 plane;      // from the upper to the lower part
    float *scale;   // per row
    int stride, mode;  // DT_I8, DT_I8WIDE; DT_F32 keeps floats in `q`
};

// Largest |v| of the block: every thread gets it.
DEVICE float block_max(float v, float *room) {
    v = warp_max(v);
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = v;
    __syncthreads();
    v = room[0];
    for (u32 i = 1; i < blockDim.x / 32; i++) v = larger(v, room[i]);
    return v;
}

DEVICE float4 load4(const float *x) { return *(const float4 *)x; }
DEVICE float largest4(float m, const float4 &v) {
    return larger(larger(larger(larger(m, fabsf(v.x)), fabsf(v.y)), fabsf(v.z)), fabsf(v.w));
}

// Quantizes a row of k floats that lies in shared memory, k a multiple of 4; pads it with zeros. `most` is the
// thread's part of the largest |value|.
DEVICE void quantize_row(const float *row, int k, float most, const Quantized &to, u64 image, int m, float *room) {
    if (to.mode == DT_F32) {
        float *out = (float *)in_image(to.q, this_image(image)) + (u64)m * to.stride;
        for (int i = 4 * threadIdx.x; i < k; i += 4 * blockDim.x) *(float4 *)(out + i) = load4(row + i);
        return;
    }
    most = block_max(most, room);
    bool wide = to.mode == DT_I8WIDE;
    float levels = wide ? 2047.0f : 127.0f, scale, inverse;
    row_scale(most, levels, scale, inverse);
    u64 offset = this_image(image);
    if (threadIdx.x == 0) in_image(to.scale, offset)[m] = scale;
    u8 *out = in_image(to.q, offset) + (u64)m * to.stride;
    for (int i = 4 * threadIdx.x; i < to.stride; i += 4 * blockDim.x) {
        float4 v = i < k ? load4(row + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        int q[4] = {quantize(v.x, inverse, levels), quantize(v.y, inverse, levels), quantize(v.z, inverse, levels),
                    quantize(v.w, inverse, levels)};
        u32 high = 0, low = 0;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            high |= (u32)(u8)(wide ? q[j] >> 4 : q[j]) << 8 * j;
            low |= (u32)(q[j] & 15) << 8 * j;
        }
        *(u32 *)(out + i) = high;
        if (wide) *(u32 *)(out + to.plane + i) = low;
    }
}

// Layer norm, modulation and quantization of a row of the stream; one block a row.
struct NormRows {
    Stream s;
    Modulation mod;
    Quantized to;
    u64 image;
};

extern "C" __global__ void __launch_bounds__(256) norm_rows(const __grid_constant__ NormRows p) {
    const Stream &s = p.s;
    const Modulation &mod = p.mod;
    extern __shared__ __align__(16) float row[];
    __shared__ float room[10];
    int m = blockIdx.x, w = s.w;
    u64 offset = this_image(p.image);
    after_previous();
    const float *x = stream_row(s, offset, m);
    for (int i = 4 * threadIdx.x; i < w; i += 1024) *(float4 *)(row + i) = load4(x + i);
    __syncthreads();
    if (threadIdx.x < 32) {
        // Every group of eight does the same, so that the shuffles are whole. Many at once: the chain is the sum.
        int lane = threadIdx.x % 8;
        float sum = 0.0f;
#pragma unroll 32
        for (int i = lane; i < w; i += 8) sum += row[i];
        float mean = tree8(sum) / (float)w;
        sum = 0.0f;
#pragma unroll 32
        for (int i = lane; i < w; i += 8) sum += (row[i] - mean) * (row[i] - mean);
        float r = rsqrt_(tree8(sum) / (float)w + 1e-6f);
        if (threadIdx.x == 0) room[8] = mean, room[9] = r;
    }
    const float *gain = in_image(mod.gain, offset) + (u64)(m / s.n) * mod.row_stride;
    const float *shift = in_image(mod.shift, offset) + (u64)(m / s.n) * mod.row_stride;
    float most = 0.0f;
    bool waited = false;
    float mean = 0.0f, r = 0.0f;
    for (int i = 4 * threadIdx.x; i < w || !waited; i += 1024) {
        float4 g, b;
        if (i < w) {
            g = load4(gain + i), b = load4(shift + i);
            if (mod.gain_offset) {
                float4 o = load4(mod.gain_offset + i), p = load4(mod.shift_offset + i);
                g.x += o.x, g.y += o.y, g.z += o.z, g.w += o.w;
                b.x += p.x, b.y += p.y, b.z += p.z, b.w += p.w;
            }
            if (mod.gain_base) {
                float4 o = load4(mod.gain_base + i);
                g.x += o.x, g.y += o.y, g.z += o.z, g.w += o.w;
            }
        }
        if (!waited) {  // the modulation is on its way while the first warp adds up
            __syncthreads();
            mean = room[8], r = room[9], waited = true;
        }
        if (i >= w) break;
        float4 v = load4(row + i);
        v.x = ((v.x - mean) * r) * g.x + b.x, v.y = ((v.y - mean) * r) * g.y + b.y;
        v.z = ((v.z - mean) * r) * g.z + b.z, v.w = ((v.w - mean) * r) * g.w + b.w;
        *(float4 *)(row + i) = v;
        most = largest4(most, v);
    }
    quantize_row(row, w, most, p.to, p.image, m, room);
}

// Quantization of rows of k floats, `stride` apart.
struct QuantizeRows {
    const float *x;
    Quantized to;
    int k, stride;
    u64 image;
};

extern "C" __global__ void __launch_bounds__(256) quantize_rows(const __grid_constant__ QuantizeRows p) {
    extern __shared__ __align__(16) float row[];
    __shared__ float room[8];
    after_previous();
    u64 offset = this_image(p.image);
    const float *from = in_image(p.x, offset) + (u64)blockIdx.x * p.stride;
    float most = 0.0f;
#pragma unroll 4
    for (int i = 4 * threadIdx.x; i < p.k; i += 1024) {
        float4 v = load4(from + i);
        *(float4 *)(row + i) = v;
        most = largest4(most, v);
    }
    quantize_row(row, p.k, most, p.to, p.image, blockIdx.x, room);
}

// Stage::Begin of the first scale.
struct BeginFirst {
    const float *cond;
    Table start, lvl_pos;
    Stream s;
    u64 image;
};

extern "C" __global__ void begin_first(const __grid_constant__ BeginFirst p) {
    const Stream &s = p.s;
    int c = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    after_previous();
    if (c >= s.w) return;
    int t = m % s.n;
    u64 offset = this_image(p.image);
    float v = in_image(p.cond, offset)[(m / s.n) * s.w + c];
    v += table_value(p.start, t, c);
    v += table_value(p.lvl_pos, t, c);
    stream_row(s, offset, m)[c] = v;
}

struct FloatWeights {
    const void *w;
    const float *bias;
    int half, unused;  // half: f16
};

DEVICE float weight(const FloatWeights &w, u64 at) {
    return w.half ? widen(((const u16 *)w.w)[at]) : ((const float *)w.w)[at];
}

DEVICE float tree(const float *l) { return ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])); }

// Stage::Begin of later scales: word embedding of the reduced latent plus positions, for every row.
struct Begin {
    const float *next;
    FloatWeights word;
    Table lvl_pos;
    Stream s;
    int z, first, rows, unused;
    u64 image;
};

extern "C" __global__ void begin(const __grid_constant__ Begin p) {
    const Stream &s = p.s;
    const FloatWeights &word = p.word;
    int z = p.z;
    int c = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    if (c >= s.w) return;
    u64 offset = this_image(p.image);
    // Some tokens one after the other: the weights are read once.
    float near[32];
    bool kept = z == 32;
    if (kept)
#pragma unroll
        for (int j = 0; j < 32; j++) near[j] = weight(word, (u64)c * 32 + j);
    for (int t = 8 * blockIdx.y; t < 8 * blockIdx.y + 8 && t < s.n; t++) {
    float lanes[8] = {};
    const float *x = in_image(p.next, offset) + (u64)t * z;
    if (kept) {
#pragma unroll
        for (int i = 0; i < 32; i++) lanes[i % 8] += near[i] * x[i];
    } else {
        int i = 0;
        for (; i + 8 <= z; i += 8)
#pragma unroll
            for (int j = 0; j < 8; j++) lanes[j] += weight(word, (u64)c * z + i + j) * x[i + j];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j < z) lanes[j] += weight(word, (u64)c * z + i + j) * x[i + j];
    }
    float v = tree(lanes) + word.bias[c];
    v += table_value(p.lvl_pos, p.first + t, c);
    for (int r = 0; r < p.rows; r++) in_image(s.x, offset)[((u64)r * s.second + t) * s.w + c] = v;
    }
}

// All heads of a class of all tokens; a group of eight threads a head.
extern "C" __global__ void __launch_bounds__(256) split_heads(const __grid_constant__ Heads a) {
    extern __shared__ __align__(16) float room[];
    int group = threadIdx.x / 8, job = blockIdx.x * 32 + group, heads = a.heads;
    bool real = job < a.total;
    int j = real ? job : 0;
    after_previous();
    split_head(a, this_image(a.image), j / heads % 3, j % heads, j / (3 * heads), real, room + group * a.dim,
               threadIdx.x % 8);
}

struct Floats {
    const float *a;  // Taps: see operands.rs; row m is pixel m % width of line m / width
    float *out;
    FloatWeights w;
    int m, n, k, width, stride, line, seg_len, seg_stride, ldo, unused;  // m: of an image
    u64 image;
};

// Float product in the order of scalar::gemm_f32: a group of eight threads per output channel.
extern "C" __global__ void __launch_bounds__(256) gemm_float(const __grid_constant__ Floats p) {
    int group = threadIdx.x / 8, lane = threadIdx.x % 8;
    int n = blockIdx.x * 32 + group;
    int nn = n < p.n ? n : p.n - 1;
    u64 offset = this_image(p.image);
    after_previous();
    for (int m = blockIdx.y; m < p.m; m += gridDim.y) {
        const float *row = in_image(p.a, offset) + (u64)(m / p.width) * p.line + (u64)(m % p.width) * p.stride;
        float sum = 0.0f;
        int k = 0;
        for (; k < p.k; k += p.seg_len, row += p.seg_stride)
            for (int i = lane; i < p.seg_len; i += 8) sum += weight(p.w, (u64)nn * p.k + k + i) * row[i];
        sum = tree8(sum);
        if (lane == 0 && n < p.n) in_image(p.out, offset)[(u64)m * p.ldo + n] = sum + p.w.bias[n];
    }
}

// What follows a float product, which the integer products do as they store.
struct FinishRows {
    float *y;
    Stream s;
    const float *gate, *gate_offset;
    int n, mode, gate_stride, unused;
    u64 image;
};

extern "C" __global__ void finish_rows(const __grid_constant__ FinishRows p) {
    const Stream &s = p.s;
    u64 offset = this_image(p.image);
    float *y = in_image(p.y, offset);
    int n = p.n;
    int c = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    after_previous();
    if (c >= n) return;
    float v = y[(u64)m * n + c];
    if (p.mode == 1) {
        y[(u64)m * n + c] = gelu(v);
        return;
    }
    float g = in_image(p.gate, offset)[(u64)(m / s.n) * p.gate_stride + c];
    if (p.gate_offset) g += p.gate_offset[c];
    float *x = stream_row(s, offset, m) + c;
    *x = *x + g * v;
}
