// Attention over the cache as it lies: scalar::attend.
#include "common.cuh"

// Keys and values of one part of the cache, [tokens, w], and their scales [tokens, heads].
struct Part {
    const u8 *k, *v;
    const u16 *ks, *vs;
    int n, unused;
};

struct Attend {
    float *qkv;  // [m, 3 w]: queries as split_heads leaves them; the result goes where the keys were
    Part past[2], own[2];  // per guidance row
    int n, w, dim, store;
    int stride, unused;    // stride: floats from a query's scores to the next
};

// Integers whose product with int8 values stays in 32 bits: scalar::prob_levels.
DEVICE float prob_levels(int n) {
    int fits = 2147483647 / 127 / (n == 0 ? 1 : n);
    return (float)(fits < 16383 ? fits : 16383);
}

DEVICE u64 token_of(const Part &past, const Part &own, int key, const Part *&part) {
    part = key < past.n ? &past : &own;
    return key < past.n ? key : key - past.n;
}

// Softmax numerators in place, by a group of eight threads; gives their sum.
DEVICE float softmax(float *s, int n, int lane) {
    float most = -F32_MAX;
    for (int i = lane; i < n; i += 8) most = larger(most, s[i]);
    most = max8(most);
    float sum = 0.0f;
#pragma unroll 4
    for (int i = lane; i < n; i += 8) {
        float e = exp_(s[i] - most);
        s[i] = e;
        sum += e;
    }
    sum = tree8(sum);
    return sum > 0.0f ? sum : 1.0f;
}

// Sixteen queries of a head of 64 channels, int8, by four warps.
//   scores  S = Q K^T     a warp takes eight keys at a time
//   values  O = P V       P of 14 bits in two parts; a warp takes 32 keys at a time, the sums meet at the end
extern "C" __global__ void __launch_bounds__(128) attend_64(const __grid_constant__ Attend p) {
    extern __shared__ float scores[];
    __shared__ float factors[16];
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4;
    int row = blockIdx.z, h = blockIdx.y, first = blockIdx.x * 16, heads = p.w / 64;
    const Part past = p.past[row], own = p.own[row];
    int n = past.n + own.n, left = p.n - first, stride = p.stride;

    {
        // The order of channels does not matter as long as both sides agree: a thread takes 16 in a row.
        u32 a[2][4];
        float sq[2];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int query = g + 8 * half;
            const u8 *q = (const u8 *)(p.qkv + (u64)(row * p.n + first + (query < left ? query : 0)) * 3 * p.w + h * 64);
            uint4 x = *(const uint4 *)(q + 16 * t);
            a[0][half] = x.x, a[0][2 + half] = x.y, a[1][half] = x.z, a[1][2 + half] = x.w;
            sq[half] = *(const float *)(q + 64);
        }
        for (int first_key = warp * 8; first_key < n; first_key += 32) {
            int key = first_key + g;
            const Part *part;
            u64 token = token_of(past, own, key < n ? key : n - 1, part);
            uint4 x = *(const uint4 *)(part->k + token * p.w + h * 64 + 16 * t);
            int d[4] = {};
            mma(d, a[0], x.x, x.y);
            mma(d, a[1], x.z, x.w);
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int key = first_key + 2 * t + c;
                if (key >= n) continue;
                u64 token = token_of(past, own, key, part);
                float sk = widen(part->ks[token * heads + h]);
                scores[g * stride + key] = (float)d[c] * (sq[0] * sk);
                scores[(g + 8) * stride + key] = (float)d[2 + c] * (sq[1] * sk);
            }
        }
    }
    __syncthreads();

    {
        int query = tid / 8, l = tid % 8;
        float *s = scores + query * stride;
        float total = softmax(s, n, l), most = 0.0f;
        for (int i = l; i < n; i += 8) {
            const Part *part;
            u64 token = token_of(past, own, i, part);
            float v = s[i] * widen(part->vs[token * heads + h]);
            s[i] = v;
            most = larger(most, fabsf(v));
        }
        float levels = prob_levels(n), step, inverse;
        row_scale(max8(most), levels, step, inverse);
        if (l == 0) factors[query] = step / total;
        // As u16 over the floats: what is written has been read, eight at a time.
        int padded = (n + 31) / 32 * 32;
        for (int i = l; i < padded; i += 8) {
            int q = i < n ? quantize(s[i], inverse, levels) : 0;
            __syncwarp();
            ((u16 *)s)[i] = (u16)q;
            __syncwarp();
        }
    }
    __syncthreads();

    int hi[8][4] = {}, lo[8][4] = {};
    for (int k = warp * 32; k < n; k += 128) {
        u32 ah[4], al[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const u16 *s = (const u16 *)(scores + (g + i % 2 * 8) * stride) + k + i / 2 * 16 + 4 * t;
            uint2 x = *(const uint2 *)s;
            al[i] = __byte_perm(x.x & 0x007f007fu, x.y & 0x007f007fu, 0x6420);
            ah[i] = __byte_perm((x.x >> 7) & 0x007f007fu, (x.y >> 7) & 0x007f007fu, 0x6420);
        }
        // Channel 8 g + j is column g of tile j: a thread reads eight channels of four keys, twice.
        u32 b[2][8];
#pragma unroll
        for (int half = 0; half < 2; half++) {
            uint2 v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int key = k + half * 16 + 4 * t + i;
                const Part *part;
                u64 token = token_of(past, own, key < n ? key : n - 1, part);
                v[i] = *(const uint2 *)(part->v + token * p.w + h * 64 + 8 * g);
            }
            u32 x0 = __byte_perm(v[0].x, v[1].x, 0x5140), x1 = __byte_perm(v[0].x, v[1].x, 0x7362);
            u32 y0 = __byte_perm(v[2].x, v[3].x, 0x5140), y1 = __byte_perm(v[2].x, v[3].x, 0x7362);
            b[half][0] = __byte_perm(x0, y0, 0x5410), b[half][1] = __byte_perm(x0, y0, 0x7632);
            b[half][2] = __byte_perm(x1, y1, 0x5410), b[half][3] = __byte_perm(x1, y1, 0x7632);
            x0 = __byte_perm(v[0].y, v[1].y, 0x5140), x1 = __byte_perm(v[0].y, v[1].y, 0x7362);
            y0 = __byte_perm(v[2].y, v[3].y, 0x5140), y1 = __byte_perm(v[2].y, v[3].y, 0x7362);
            b[half][4] = __byte_perm(x0, y0, 0x5410), b[half][5] = __byte_perm(x0, y0, 0x7632);
            b[half][6] = __byte_perm(x1, y1, 0x5410), b[half][7] = __byte_perm(x1, y1, 0x7632);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) {
            mma(hi[j], ah, b[0][j], b[1][j]);
            mma(lo[j], al, b[0][j], b[1][j]);
        }
    }
    __syncthreads();
    int *sums = (int *)scores;  // [4 warps][16 queries][64 channels]
#pragma unroll
    for (int j = 0; j < 8; j++)
#pragma unroll
        for (int c = 0; c < 4; c++)
            sums[(warp * 16 + g + c / 2 * 8) * 64 + (2 * t + c % 2) * 8 + j] = 128 * hi[j][c] + lo[j][c];
    __syncthreads();
    for (int i = tid; i < 16 * 64; i += 128) {
        int query = i / 64, c = i % 64;
        if (query >= left) continue;
        int sum = sums[i] + sums[1024 + i] + sums[2048 + i] + sums[3072 + i];
        p.qkv[(u64)(row * p.n + first + query) * 3 * p.w + p.w + h * 64 + c] = (float)sum * factors[query];
    }
}

// One query of one head, of any size and any storage of the cache.
extern "C" __global__ void __launch_bounds__(128) attend_any(const __grid_constant__ Attend p) {
    extern __shared__ float scores[];  // [n], then the query [dim]
    __shared__ float room[2];
    int tid = threadIdx.x, group = tid / 8, lane = tid % 8;
    int row = blockIdx.z, h = blockIdx.y, heads = p.w / p.dim;
    const Part past = p.past[row], own = p.own[row];
    int n = past.n + own.n;
    float *q = scores + n;
    float *from = p.qkv + (u64)(row * p.n + blockIdx.x) * 3 * p.w + h * p.dim;
    bool integer = p.store == ST_I8;
    for (int i = tid; i < p.dim; i += 128) q[i] = integer ? (float)((const i8 *)from)[i] : from[i];
    float sq = integer ? *(const float *)((const u8 *)from + p.dim) : 0.0f;
    __syncthreads();
    for (int base = 0; base < n; base += 16) {
        int key = base + group;
        const Part *part;
        u64 token = token_of(past, own, key < n ? key : n - 1, part), at = token * p.w + h * p.dim;
        float sum = 0.0f;
        if (integer) {
            int acc = 0;
            for (int i = lane; i < p.dim; i += 8) acc += (int)q[i] * (int)((const i8 *)part->k)[at + i];
            acc += __shfl_xor_sync(FULL, acc, 4);
            acc += __shfl_xor_sync(FULL, acc, 2);
            acc += __shfl_xor_sync(FULL, acc, 1);
            sum = (float)acc * (sq * widen(part->ks[token * heads + h]));
        } else {
            for (int i = lane; i < p.dim; i += 8) sum += q[i] * load_map(part->k, p.store, at + i);
            sum = tree8(sum);
        }
        if (lane == 0 && key < n) scores[key] = sum;
    }
    __syncthreads();
    if (tid < 32) {
        // All four groups do the same, so that the shuffles are whole.
        float most = -F32_MAX;
        for (int i = lane; i < n; i += 8) most = larger(most, scores[i]);
        most = max8(most);
        float sum = 0.0f;
        for (int i = lane; i < n; i += 8) sum += exp_(scores[i] - most);
        sum = tree8(sum);
        if (tid == 0) room[0] = sum > 0.0f ? sum : 1.0f, room[1] = most;
    }
    __syncthreads();
    float total = room[0], most = room[1];
    __syncthreads();
    for (int i = tid; i < n; i += 128) {
        float e = exp_(scores[i] - most);
        if (integer) {
            const Part *part;
            u64 token = token_of(past, own, i, part);
            scores[i] = e * widen(part->vs[token * heads + h]);
        } else {
            scores[i] = e / total;
        }
    }
    __syncthreads();
    float levels = prob_levels(n), step = 0.0f, inverse = 0.0f;
    if (integer) {
        if (tid < 32) {
            float largest = 0.0f;
            for (int i = tid; i < n; i += 32) largest = larger(largest, fabsf(scores[i]));
            largest = warp_max(largest);
            if (tid == 0) room[0] = largest;
        }
        __syncthreads();
        row_scale(room[0], levels, step, inverse);
        for (int i = tid; i < n; i += 128) ((int *)scores)[i] = quantize(scores[i], inverse, levels);
        __syncthreads();
    }
    for (int c = tid; c < p.dim; c += 128) {
        float o = 0.0f;
        int sum = 0;
        for (int i = 0; i < n; i++) {
            const Part *part;
            u64 token = token_of(past, own, i, part), at = token * p.w + h * p.dim + c;
            if (integer) sum += ((const int *)scores)[i] * (int)((const i8 *)part->v)[at];
            else o += scores[i] * load_map(part->v, p.store, at);
        }
        if (integer) o = (float)sum * (step / total);
        from[p.w + c] = o;
    }
}

// The decoder's attention: position blockIdx.x of `first..` over all positions of [positions, 3 c] maps.
struct AttendMap {
    const void *qkv;
    float *out;
    int store, c, positions, first;
    float factor;
    int unused;
};

extern "C" __global__ void __launch_bounds__(256) attend_map(const __grid_constant__ AttendMap p) {
    const void *qkv = p.qkv;
    int store = p.store, c = p.c, positions = p.positions;
    extern __shared__ float scores[];  // [positions], then the query [c]
    __shared__ float room[2];
    float *q = scores + positions;
    int tid = threadIdx.x, group = tid / 8, lane = tid % 8;
    u64 place = p.first + blockIdx.x;
    for (int i = tid; i < c; i += 256) q[i] = load_map(qkv, store, place * 3 * c + i) * p.factor;
    __syncthreads();
    for (int base = 0; base < positions; base += 32) {
        int key = base + group;
        u64 at = (u64)(key < positions ? key : 0) * 3 * c + c;
        float sum = 0.0f;
#pragma unroll 4
        for (int i = lane; i < c; i += 8) sum += q[i] * load_map(qkv, store, at + i);
        sum = tree8(sum);
        if (lane == 0 && key < positions) scores[key] = sum;
    }
    __syncthreads();
    if (tid < 32) {
        float most = -F32_MAX, sum = 0.0f;
        for (int i = lane; i < positions; i += 8) most = larger(most, scores[i]);
        most = max8(most);
        for (int i = lane; i < positions; i += 8) sum += exp_(scores[i] - most);
        sum = tree8(sum);
        if (tid == 0) room[0] = sum > 0.0f ? sum : 1.0f, room[1] = most;
    }
    __syncthreads();
    for (int i = tid; i < positions; i += 256) scores[i] = exp_(scores[i] - room[1]) / room[0];
    __syncthreads();
    for (int i = tid; i < c; i += 256) {
        float o = 0.0f;
#pragma unroll 4
        for (int key = 0; key < positions; key++) o += scores[key] * load_map(qkv, store, (u64)key * 3 * c + 2 * c + i);
        p.out[(u64)blockIdx.x * c + i] = o;
    }
}
