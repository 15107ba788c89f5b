// Work on rows of the residual stream: condition, norm, quantization, embedding, heads.
#include "common.cuh"
#include "request.cuh"

// Stage::Setup, and SiLU of the condition. cond, act [rows, w].
struct Setup {
    const Request *req;
    float *cond, *act;
    Table tables[4];
    int rows_of[4];
    int n_tables, w;
};

extern "C" __global__ void setup(const __grid_constant__ Setup p) {
    int c = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y;
    if (c >= p.w) return;
    float v = 0.0f;
    for (int t = 0; t < p.n_tables; t++) {
        int none = p.rows_of[t] - 1;
        int r = row == 0 && p.req->labels[t] >= 0 ? p.req->labels[t] : none;
        v += table_value(p.tables[t], r, c);
    }
    p.cond[row * p.w + c] = v;
    p.act[row * p.w + c] = silu(v);
}

// x[row, i] += add[i] for the first n of every row.
struct AddVector {
    float *x;
    const float *add;
    int n, stride;
};

extern "C" __global__ void add_vector(const __grid_constant__ AddVector p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < p.n) p.x[blockIdx.y * p.stride + i] += p.add[i];
}

// Rows of a stage: `n` tokens of each guidance row; row r begins `second` tokens after row r - 1.
struct Stream {
    float *x;
    int n, second, w, unused;
};

DEVICE float *stream_row(const Stream &s, int m) {
    return s.x + ((u64)(m / s.n) * s.second + m % s.n) * s.w;
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
    __syncthreads();
    return v;
}

// Quantizes a row that lies in shared memory; pads it with zeros.
DEVICE void quantize_row(const float *row, int k, const Quantized &to, int m, float *room) {
    if (to.mode == DT_F32) {
        float *out = (float *)to.q + (u64)m * to.stride;
        for (int i = threadIdx.x; i < k; i += blockDim.x) out[i] = row[i];
        return;
    }
    float most = 0.0f;
    for (int i = threadIdx.x; i < k; i += blockDim.x) most = larger(most, fabsf(row[i]));
    most = block_max(most, room);
    bool wide = to.mode == DT_I8WIDE;
    float levels = wide ? 2047.0f : 127.0f, scale, inverse;
    row_scale(most, levels, scale, inverse);
    if (threadIdx.x == 0) to.scale[m] = scale;
    for (int i = threadIdx.x; i < to.stride; i += blockDim.x) {
        int q = i < k ? quantize(row[i], inverse, levels) : 0;
        put(to.q, (u64)m * to.stride + i, to.plane, q, wide);
    }
}

// Layer norm, modulation and quantization of a row of the stream; one block a row.
struct NormRows {
    Stream s;
    Modulation mod;
    Quantized to;
};

extern "C" __global__ void __launch_bounds__(128) norm_rows(const __grid_constant__ NormRows p) {
    const Stream &s = p.s;
    const Modulation &mod = p.mod;
    extern __shared__ float row[];
    __shared__ float room[6];
    int m = blockIdx.x, w = s.w;
    const float *x = stream_row(s, m);
    for (int i = threadIdx.x; i < w; i += blockDim.x) row[i] = x[i];
    __syncthreads();
    if (threadIdx.x < 32) {
        // Every group of eight does the same, so that the shuffles are whole.
        int lane = threadIdx.x % 8;
        float sum = 0.0f;
#pragma unroll 8
        for (int i = lane; i < w; i += 8) sum += row[i];
        float mean = tree8(sum) / (float)w;
        sum = 0.0f;
#pragma unroll 8
        for (int i = lane; i < w; i += 8) sum += (row[i] - mean) * (row[i] - mean);
        float r = rsqrt_(tree8(sum) / (float)w + 1e-6f);
        if (threadIdx.x == 0) room[4] = mean, room[5] = r;
    }
    __syncthreads();
    float mean = room[4], r = room[5];
    const float *gain = mod.gain + (u64)(m / s.n) * mod.row_stride;
    const float *shift = mod.shift + (u64)(m / s.n) * mod.row_stride;
    for (int i = threadIdx.x; i < w; i += blockDim.x) {
        float g = gain[i], b = shift[i];
        if (mod.gain_offset) g += mod.gain_offset[i], b += mod.shift_offset[i];
        if (mod.gain_base) g += mod.gain_base[i];
        row[i] = ((row[i] - mean) * r) * g + b;
    }
    __syncthreads();
    quantize_row(row, w, p.to, m, room);
}

// Quantization of rows of k floats, `stride` apart.
struct QuantizeRows {
    const float *x;
    Quantized to;
    int k, stride;
};

extern "C" __global__ void __launch_bounds__(128) quantize_rows(const __grid_constant__ QuantizeRows p) {
    extern __shared__ float row[];
    __shared__ float room[6];
    const float *from = p.x + (u64)blockIdx.x * p.stride;
    for (int i = threadIdx.x; i < p.k; i += blockDim.x) row[i] = from[i];
    __syncthreads();
    quantize_row(row, p.k, p.to, blockIdx.x, room);
}

// Stage::Begin of the first scale.
struct BeginFirst {
    const float *cond;
    Table start, lvl_pos;
    Stream s;
};

extern "C" __global__ void begin_first(const __grid_constant__ BeginFirst p) {
    const Stream &s = p.s;
    int c = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    if (c >= s.w) return;
    int t = m % s.n;
    float v = p.cond[(m / s.n) * s.w + c];
    v += table_value(p.start, t, c);
    v += table_value(p.lvl_pos, t, c);
    stream_row(s, m)[c] = v;
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
};

extern "C" __global__ void begin(const __grid_constant__ Begin p) {
    const Stream &s = p.s;
    const FloatWeights &word = p.word;
    int z = p.z;
    int c = blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (c >= s.w) return;
    float lanes[8] = {};
    const float *x = p.next + (u64)t * z;
    int i = 0;
    for (; i + 8 <= z; i += 8)
#pragma unroll
        for (int j = 0; j < 8; j++) lanes[j] += weight(word, (u64)c * z + i + j) * x[i + j];
#pragma unroll
    for (int j = 0; j < 8; j++)
        if (i + j < z) lanes[j] += weight(word, (u64)c * z + i + j) * x[i + j];
    float v = tree(lanes) + word.bias[c];
    v += table_value(p.lvl_pos, p.first + t, c);
    for (int r = 0; r < p.rows; r++) s.x[((u64)r * s.second + t) * s.w + c] = v;
}

// A part of the cache: keys, values and their scales of `rows` tokens.
struct Cache {
    u8 *k, *v;
    u16 *ks, *vs;
};

struct Heads {
    float *qkv;           // [m, 3 w]
    const float *factor;  // of the queries, per head
    Cache own[2];         // per guidance row, at the scale's first token
    int n, w, dim, norm, store, total;  // total: m * 3 * heads
};

// Queries: normalised, scaled, and for an int8 cache quantized in place: int8 [dim], then the scale. Keys and
// values: into the cache. A group of eight threads a head.
extern "C" __global__ void __launch_bounds__(256) split_heads(const __grid_constant__ Heads a) {
    extern __shared__ float room[];
    int group = threadIdx.x / 8, lane = threadIdx.x % 8;
    int job = blockIdx.x * 32 + group, heads = a.w / a.dim;
    bool real = job < a.total;
    int j = real ? job : 0;
    int which = j / heads % 3, h = j % heads, m = j / (3 * heads);
    float *from = a.qkv + (u64)m * 3 * a.w + which * a.w + h * a.dim;
    float *x = room + group * a.dim;
    for (int i = lane; i < a.dim; i += 8) x[i] = from[i];
    float factor = which == 0 ? a.factor[h] : 1.0f, sum = 0.0f;
    for (int i = lane; i < a.dim; i += 8) sum += x[i] * x[i];
    float norm = sqrtf(tree8(sum));  // by all, so that the shuffles are whole
    norm = norm > 1e-12f ? norm : 1e-12f;
    if (which < 2 && a.norm)
        for (int i = lane; i < a.dim; i += 8) x[i] = (x[i] / norm) * factor;
    else if (which == 0)
        for (int i = lane; i < a.dim; i += 8) x[i] *= factor;
    float most = 0.0f;
    for (int i = lane; i < a.dim; i += 8) most = larger(most, fabsf(x[i]));
    most = max8(most);
    __syncwarp();
    if (!real) return;
    if (which == 0) {
        if (a.store != ST_I8) {
            for (int i = lane; i < a.dim; i += 8) from[i] = x[i];
            return;
        }
        float scale, inverse;
        row_scale(most, 127.0f, scale, inverse);
        for (int i = lane; i < a.dim; i += 8) ((i8 *)from)[i] = (i8)quantize(x[i], inverse, 127.0f);
        if (lane == 0) *(float *)((u8 *)from + a.dim) = scale;
        return;
    }
    const Cache &to = a.own[m / a.n];
    u64 token = m % a.n, at = token * a.w + h * a.dim;
    u8 *out = which == 1 ? to.k : to.v;
    if (a.store == ST_F32) {
        for (int i = lane; i < a.dim; i += 8) ((float *)out)[at + i] = x[i];
    } else if (a.store == ST_F16) {
        for (int i = lane; i < a.dim; i += 8) ((u16 *)out)[at + i] = narrow(x[i]);
    } else {
        u16 scale = narrow(most / 127.0f);
        float wide = widen(scale);
        float inverse = wide > 0.0f && wide < __int_as_float(0x7f800000) ? 1.0f / wide : 0.0f;
        for (int i = lane; i < a.dim; i += 8) out[at + i] = (u8)quantize(x[i], inverse, 127.0f);
        if (lane == 0) (which == 1 ? to.ks : to.vs)[token * heads + h] = inverse == 0.0f ? (u16)0 : scale;
    }
}

struct Floats {
    const float *a;  // Taps: see operands.rs; row m is pixel m % width of line m / width
    float *out;
    FloatWeights w;
    int m, n, k, width, stride, line, seg_len, seg_stride, ldo, unused;
};

// Float product in the order of scalar::gemm_f32: a group of eight threads per output channel.
extern "C" __global__ void __launch_bounds__(256) gemm_float(const __grid_constant__ Floats p) {
    int group = threadIdx.x / 8, lane = threadIdx.x % 8;
    int n = blockIdx.x * 32 + group;
    int nn = n < p.n ? n : p.n - 1;
    for (int m = blockIdx.y; m < p.m; m += gridDim.y) {
        const float *row = p.a + (u64)(m / p.width) * p.line + (u64)(m % p.width) * p.stride;
        float sum = 0.0f;
        int k = 0;
        for (; k < p.k; k += p.seg_len, row += p.seg_stride)
            for (int i = lane; i < p.seg_len; i += 8) sum += weight(p.w, (u64)nn * p.k + k + i) * row[i];
        sum = tree8(sum);
        if (lane == 0 && n < p.n) p.out[(u64)m * p.ldo + n] = sum + p.w.bias[n];
    }
}

// What follows a float product, which the integer products do as they store.
struct FinishRows {
    float *y;
    Stream s;
    const float *gate, *gate_offset;
    int n, mode, gate_stride, unused;
};

extern "C" __global__ void finish_rows(const __grid_constant__ FinishRows p) {
    const Stream &s = p.s;
    float *y = p.y;
    int n = p.n;
    int c = blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    if (c >= n) return;
    float v = y[(u64)m * n + c];
    if (p.mode == 1) {
        y[(u64)m * n + c] = gelu(v);
        return;
    }
    float g = p.gate[(u64)(m / s.n) * p.gate_stride + c];
    if (p.gate_offset) g += p.gate_offset[c];
    float *x = stream_row(s, m) + c;
    *x = *x + g * v;
}
