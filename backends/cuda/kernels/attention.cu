// Attention over the cache as it lies: scalar::attend.
#include "common.cuh"
#include "heads.cuh"
#include "part.cuh"

struct Attend {
    float *qkv;  // [m, 3 w]: queries as split_heads leaves them; the result goes where the keys were
    Part past[2], own[2];  // per guidance row
    Heads heads;           // `fresh`: as the product left them, and no more than 16 tokens
    int n, w, dim, store;
    int stride, fresh;     // stride: floats from a query's scores to the next
    int sums, rows;        // sums: floats from the scores to the sums; guidance rows
    int first, count;      // the heads of the class
    int map_h, map_w;      // of the scale, and the part of it that a token sees: no columns for all
    int near_h, near_w;
    u64 image;
};

// The image and the guidance row of a block.
DEVICE u64 image_of(const Attend &p) { return blockIdx.z / p.rows * p.image; }
DEVICE int row_of(const Attend &p) { return blockIdx.z % p.rows; }

// Integers whose product with int8 values stays in 32 bits: scalar::prob_levels.
DEVICE float prob_levels(int n) {
    int fits = 2147483647 / 127 / (n == 0 ? 1 : n);
    return (float)(fits < 16383 ? fits : 16383);
}

#if __CUDA_ARCH__ >= 800
// Sixteen queries of a head of 64 channels, int8, by eight warps.
//   scores  S = Q K^T     a warp takes eight keys at a time, four times over
//   values  O = P V       P of 14 bits in two parts; a warp takes 32 keys at a time, the sums meet at the end
extern "C" __global__ void __launch_bounds__(256, 3) attend_64(const __grid_constant__ Attend p) {
    extern __shared__ __align__(16) float scores[];
    __shared__ float factors[16];
    int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4;
    int row = row_of(p), h = blockIdx.y, first = blockIdx.x * 16, heads = p.count, column = (p.first + h) * 64;
    u64 offset = image_of(p);
    const Part past = part_of(p.past[row], offset), own = part_of(p.own[row], offset);
    float *qkv = in_image(p.qkv, offset);
    int n = past.n + own.n, left = p.n - first, stride = p.stride;
    float *sk = scores + 16 * stride, *sv = sk + n;  // scales of keys and values
    after_previous();
    if (p.fresh) {
        for (int base = 0; base < 3 * p.n; base += 32) {
            int job = base + tid / 8;
            bool real = job < 3 * p.n;
            split_head(p.heads, offset, real ? job % 3 : 0, h, row * p.n + (real ? job / 3 : 0), real, scores + tid / 8 * 64,
                       tid % 8);
            __syncwarp();
        }
        __syncthreads();
    }
    for (int i = tid; i < n; i += 256) {
        int place = i;
        bool inside = place < past.n;
        u64 at = (u64)(inside ? place : place - past.n) * heads + h;
        sk[i] = widen((inside ? past.ks : own.ks)[at]);
        sv[i] = widen((inside ? past.vs : own.vs)[at]);
    }
    // The order of channels does not matter as long as both sides agree: a thread takes 16 in a row.
    u32 a[2][4];
    float sq[2];
#pragma unroll
    for (int half = 0; half < 2; half++) {
        int query = g + 8 * half;
        const u8 *q = (const u8 *)(qkv + (u64)(row * p.n + first + (query < left ? query : 0)) * 3 * p.w + column);
        uint4 x = *(const uint4 *)(q + 16 * t);
        a[0][half] = x.x, a[0][2 + half] = x.y, a[1][half] = x.z, a[1][2 + half] = x.w;
        sq[half] = *(const float *)(q + 64);
    }
    __syncthreads();
    for (int base = warp * 8; base < n; base += 256) {
        uint4 x[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int key = base + 64 * i + g;
            key = key < n ? key : n - 1;
            int place = key;
            bool inside = place < past.n;
            u64 token = (u64)(inside ? place : place - past.n);
            x[i] = *(const uint4 *)((inside ? past.k : own.k) + (token * heads + h) * 64 + 16 * t);
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int d[4] = {};
            mma(d, a[0], x[i].x, x[i].y);
            mma(d, a[1], x[i].z, x[i].w);
#pragma unroll
            for (int c = 0; c < 2; c++) {
                int key = base + 64 * i + 2 * t + c;
                if (key >= n) continue;
                scores[g * stride + key] = (float)d[c] * (sq[0] * sk[key]);
                scores[(g + 8) * stride + key] = (float)d[2 + c] * (sq[1] * sk[key]);
            }
        }
    }
    __syncthreads();

    {
        // Sixteen threads a query; the sum is of eight lanes, by both halves alike.
        int l = tid % 16;
        float *s = scores + tid / 16 * stride, most = -F32_MAX;
#pragma unroll 8
        for (int i = l; i < n; i += 16) most = larger(most, s[i]);
        most = max8(most);
        most = larger(most, __shfl_xor_sync(FULL, most, 8));
#pragma unroll 4
        for (int i = l; i < n; i += 16) s[i] = exp_(s[i] - most);
        __syncwarp();
        float sum = 0.0f, largest = 0.0f;
#pragma unroll 8
        for (int i = l % 8; i < n; i += 8) {
            float e = s[i];
            sum += e;
            largest = larger(largest, fabsf(e * sv[i]));
        }
        sum = tree8(sum);
        float levels = prob_levels(n), step, inverse;
        row_scale(max8(largest), levels, step, inverse);
        if (l == 0) factors[tid / 16] = step / (sum > 0.0f ? sum : 1.0f);
        // As u16 over the floats: what is written has been read, sixteen at a time.
        int padded = (n + 31) / 32 * 32;
        for (int i = l; i < padded; i += 32) {
            int j = i + 16;
            int q = i < n ? quantize(s[i] * sv[i], inverse, levels) : 0;
            int r = j < n ? quantize(s[j] * sv[j], inverse, levels) : 0;
            __syncwarp();
            ((u16 *)s)[i] = (u16)q;
            ((u16 *)s)[j] = (u16)r;
            __syncwarp();
        }
    }
    __syncthreads();

    // Channel 8 g + j is column g of tile j: a thread reads four channels of four keys, twice; half of the channels
    // at a time, so that there are registers for many blocks.
    int *sums = (int *)(scores + p.sums);  // [8 warps][16 queries][32 channels]
#pragma unroll 1
    for (int half_of = 0; half_of < 2; half_of++) {
        int hi[4][4] = {}, lo[4][4] = {};
        for (int k = warp * 32; k < n; k += 256) {
            u32 v[8];
#pragma unroll
            for (int i = 0; i < 8; i++) {
                int key = k + i / 4 * 16 + 4 * t + i % 4;
                int place = key < n ? key : n - 1;
                bool inside = place < past.n;
                u64 token = (u64)(inside ? place : place - past.n);
                v[i] = *(const u32 *)((inside ? past.v : own.v) + (token * heads + h) * 64 + 8 * g + 4 * half_of);
            }
            u32 ah[4], al[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const u16 *s = (const u16 *)(scores + (g + i % 2 * 8) * stride) + k + i / 2 * 16 + 4 * t;
                uint2 x = *(const uint2 *)s;
                al[i] = __byte_perm(x.x & 0x007f007fu, x.y & 0x007f007fu, 0x6420);
                ah[i] = __byte_perm((x.x >> 7) & 0x007f007fu, (x.y >> 7) & 0x007f007fu, 0x6420);
            }
            u32 b[2][4];
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const u32 *u = v + 4 * half;
                u32 x0 = __byte_perm(u[0], u[1], 0x5140), x1 = __byte_perm(u[0], u[1], 0x7362);
                u32 y0 = __byte_perm(u[2], u[3], 0x5140), y1 = __byte_perm(u[2], u[3], 0x7362);
                b[half][0] = __byte_perm(x0, y0, 0x5410), b[half][1] = __byte_perm(x0, y0, 0x7632);
                b[half][2] = __byte_perm(x1, y1, 0x5410), b[half][3] = __byte_perm(x1, y1, 0x7632);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                mma(hi[j], ah, b[0][j], b[1][j]);
                mma(lo[j], al, b[0][j], b[1][j]);
            }
        }
        // Channel 4 i + j of them is 8 i + 4 half_of + j of the head.
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int c = 0; c < 4; c++)
                sums[(warp * 16 + g + c / 2 * 8) * 32 + (2 * t + c % 2) * 4 + j] = 128 * hi[j][c] + lo[j][c];
        __syncthreads();
        for (int i = tid; i < 16 * 32; i += 256) {
            int query = i / 32, c = i % 32;
            if (query >= left) continue;
            int sum = 0;
#pragma unroll
            for (int w = 0; w < 8; w++) sum += sums[512 * w + i];
            int channel = c / 4 * 8 + 4 * half_of + c % 4;
            qkv[(u64)(row * p.n + first + query) * 3 * p.w + p.w + column + channel] = (float)sum * factors[query];
        }
        __syncthreads();
    }
}
#endif

// Where a token's neighbourhood begins on a line of the map: keep::neighbourhood.
DEVICE int near_from(int x, int near, int all) {
    x -= near / 2;
    x = x > 0 ? x : 0;
    return x < all - near ? x : all - near;
}

// The token of a query's key: of the cache, or of the scale.
DEVICE u64 key_token(const Attend &p, int key, int past, int corner) {
    int own = key - past;
    if (own < 0) return (u64)key;
    return (u64)(p.near_w ? corner + own / p.near_w * p.map_w + own % p.near_w : own);
}

// One query of one head, of any size and any storage of the cache: over all tokens, or over a neighbourhood of its
// own scale's, row by row.
extern "C" __global__ void __launch_bounds__(128) attend_any(const __grid_constant__ Attend p) {
    extern __shared__ float scores[];  // [n], then the query [dim]
    __shared__ float room[2];
    int tid = threadIdx.x, group = tid / 8, lane = tid % 8;
    int row = row_of(p), h = blockIdx.y, heads = p.count, columns = p.near_w;
    u64 offset = image_of(p);
    const Part past = p.past[row], own = p.own[row];
    int n = past.n + (columns ? p.near_h * columns : own.n), corner = 0;
    if (columns) {
        int y = near_from(blockIdx.x / p.map_w, p.near_h, p.map_h);
        corner = y * p.map_w + near_from(blockIdx.x % p.map_w, columns, p.map_w);
    }
    float *q = scores + n;
    float *from = in_image(p.qkv, offset) + (u64)(row * p.n + blockIdx.x) * 3 * p.w + (p.first + h) * p.dim;
    bool integer = p.store == ST_I8;
    after_previous();
    for (int i = tid; i < p.dim; i += 128) q[i] = integer ? (float)((const i8 *)from)[i] : from[i];
    float sq = integer ? *(const float *)((const u8 *)from + p.dim) : 0.0f;
    __syncthreads();
    for (int base = 0; base < n; base += 16) {
        int key = base + group;
        int place = key < n ? key : n - 1;
        bool inside = place < past.n;
        u64 token = key_token(p, place, past.n, corner), at = (token * heads + h) * p.dim;
        float sum = 0.0f;
        if (integer) {
            int acc = 0;
            for (int i = lane; i < p.dim; i += 8) acc += (int)q[i] * (int)((const i8 *)in_image(inside ? past.k : own.k, offset))[at + i];
            acc += __shfl_xor_sync(FULL, acc, 4);
            acc += __shfl_xor_sync(FULL, acc, 2);
            acc += __shfl_xor_sync(FULL, acc, 1);
            sum = (float)acc * (sq * widen(in_image(inside ? past.ks : own.ks, offset)[token * heads + h]));
        } else {
            for (int i = lane; i < p.dim; i += 8) sum += q[i] * load_map(in_image(inside ? past.k : own.k, offset), p.store, at + i);
            sum = tree8(sum);
        }
        if (lane == 0 && key < n) scores[key] = sum;
    }
    __syncthreads();
    if (tid < 32) softmax_of(scores, n, room);
    __syncthreads();
    float total = room[0], most = room[1];
    __syncthreads();
    for (int i = tid; i < n; i += 128) {
        float e = exp_(scores[i] - most);
        if (integer) {
            int place = i;
            bool inside = place < past.n;
            u64 token = key_token(p, place, past.n, corner);
            scores[i] = e * widen(in_image(inside ? past.vs : own.vs, offset)[token * heads + h]);
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
            int place = i;
            bool inside = place < past.n;
            u64 token = key_token(p, place, past.n, corner), at = (token * heads + h) * p.dim + c;
            if (integer) sum += ((const int *)scores)[i] * (int)((const i8 *)in_image(inside ? past.v : own.v, offset))[at];
            else o += scores[i] * load_map(in_image(inside ? past.v : own.v, offset), p.store, at);
        }
        if (integer) o = (float)sum * (step / total);
        from[p.w + c] = o;
    }
}

// The decoder's attention: positions from `first` on over all positions of [positions, 3 c] maps.
struct AttendMap {
    const void *qkv;
    float *out;
    int store, c, positions, first;
    float factor;
    int total;  // queries
    u64 image;
};

extern "C" __global__ void __launch_bounds__(512) attend_map(const __grid_constant__ AttendMap p) {
    u64 offset = this_image(p.image);
    const void *qkv = in_image((const u8 *)p.qkv, offset);
    float *out = in_image(p.out, offset);
    int store = p.store, c = p.c, positions = p.positions;
    extern __shared__ __align__(16) float scores[];  // [2][positions], then the queries [2][c]
    __shared__ float room[2][2];
    float *q = scores + 2 * positions;
    int tid = threadIdx.x, group = tid / 8, lane = tid % 8;
    // Two queries: what is read of keys and values serves both.
    int mine = 2 * blockIdx.x, count = p.total - mine < 2 ? 1 : 2;
    u64 place = p.first + mine;
    after_previous();
    for (int i = tid; i < 2 * c; i += 512) {
        int which = i / c < count ? i / c : 0;
        q[i] = load_map(qkv, store, (place + which) * 3 * c + i % c) * p.factor;
    }
    __syncthreads();
    for (int base = 0; base < positions; base += 64) {
        int key = base + group;
        u64 at = (u64)(key < positions ? key : 0) * 3 * c + c;
        float sum = 0.0f, other = 0.0f;
#pragma unroll 16
        for (int i = lane; i < c; i += 8) {
            float k = load_map(qkv, store, at + i);
            sum += q[i] * k;
            other += q[c + i] * k;
        }
        sum = tree8(sum), other = tree8(other);
        if (lane == 0 && key < positions) scores[key] = sum, scores[positions + key] = other;
    }
    __syncthreads();
    if (tid < 64) {
        const float *s = scores + tid / 32 * positions;
        float most = -F32_MAX, sum = 0.0f;
#pragma unroll 8
        for (int i = lane; i < positions; i += 8) most = larger(most, s[i]);
        most = max8(most);
#pragma unroll 8
        for (int i = lane; i < positions; i += 8) sum += exp_(s[i] - most);
        sum = tree8(sum);
        if (tid % 32 == 0) room[tid / 32][0] = sum > 0.0f ? sum : 1.0f, room[tid / 32][1] = most;
    }
    __syncthreads();
    for (int i = tid; i < 2 * positions; i += 512) {
        const float *r = room[i < positions ? 0 : 1];
        scores[i] = exp_(scores[i] - r[1]) / r[0];
    }
    __syncthreads();
    for (int i = tid; i < c; i += 512) {
        float o = 0.0f, other = 0.0f;
#pragma unroll 16
        for (int key = 0; key < positions; key++) {
            float v = load_map(qkv, store, (u64)key * 3 * c + 2 * c + i);
            o += scores[key] * v;
            other += scores[positions + key] * v;
        }
        out[(u64)mine * c + i] = o;
        if (count == 2) out[(u64)(mine + 1) * c + i] = other;
    }
}
