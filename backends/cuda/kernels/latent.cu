// Draws, and the residual quantizer.
#include "common.cuh"
#include "request.cuh"

// libm's logf, for normal x in (0, infinity).
DEVICE float log_(float x) {
    if (x == 1.0f) return 0.0f;
    u32 ix = __float_as_uint(x);
    int k = 0;
    if (ix < 0x00800000u) {
        k -= 25;
        ix = __float_as_uint(x * 33554432.0f);
    }
    ix += 0x3f800000u - 0x3f3504f3u;
    k += (int)(ix >> 23) - 0x7f;
    ix = (ix & 0x007fffffu) + 0x3f3504f3u;
    float f = __uint_as_float(ix) - 1.0f;
    float s = f / (2.0f + f), z = s * s, w = z * z;
    float t1 = w * (0.40000972152f + w * 0.24279078841f);
    float t2 = z * (0.66666662693f + w * 0.28498786688f);
    float r = t2 + t1, hfsq = 0.5f * f * f, dk = (float)k;
    return s * (hfsq + r) + dk * 9.0580006145e-06f - hfsq + f + dk * 6.9313812256e-01f;
}

// rng::TokenRng::gumbel.
DEVICE float gumbel(u64 seed, u32 scale, u32 token, u32 entry) {
    u32 c0 = entry / 4, c1 = token, c2 = scale, c3 = 0, k0 = (u32)seed, k1 = (u32)(seed >> 32);
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u64 p0 = (u64)0xD2511F53u * c0, p1 = (u64)0xCD9E8D57u * c2;
        u32 n0 = (u32)(p1 >> 32) ^ c1 ^ k0, n2 = (u32)(p0 >> 32) ^ c3 ^ k1;
        c0 = n0, c1 = (u32)p1, c2 = n2, c3 = (u32)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    u32 which = entry % 4, word = which == 0 ? c0 : which == 1 ? c1 : which == 2 ? c2 : c3;
    float u = ((float)(word >> 9) + 0.5f) * (1.0f / 8388608.0f);
    return -log_(-log_(u));
}

// Floats as numbers that sort as f32::total_cmp does.
DEVICE u32 ordered(float f) {
    u32 b = __float_as_uint(f);
    return b & 0x80000000u ? ~b : b | 0x80000000u;
}
DEVICE float unordered(u32 o) { return __uint_as_float(o & 0x80000000u ? o & 0x7fffffffu : ~o); }

struct Draw {
    const Request *req;
    float *logits;  // [rows, l, v]; the mix goes to the first row
    u16 *tokens;    // of the scale
    const u16 *forced;
    int l, v, rows, scale;
    int room, unused;  // room: v rounded up to a power of two
    u64 image;
};

// The largest (value, first index) of a block.
DEVICE void block_argmax(float &best, int &at) {
    __shared__ float values[32];
    __shared__ int places[32];
    for (int d = 16; d > 0; d /= 2) {
        float v = __shfl_xor_sync(FULL, best, d);
        int i = __shfl_xor_sync(FULL, at, d);
        if (v > best || (v == best && i < at)) best = v, at = i;
    }
    if (threadIdx.x % 32 == 0) values[threadIdx.x / 32] = best, places[threadIdx.x / 32] = at;
    __syncthreads();
    for (u32 w = 0; w < blockDim.x / 32; w++)
        if (values[w] > best || (values[w] == best && places[w] < at)) best = values[w], at = places[w];
}

// One token a block: guidance, top-k, top-p, Gumbel. See sample.rs.
extern "C" __global__ void __launch_bounds__(512) draw(const __grid_constant__ Draw p) {
    extern __shared__ __align__(16) u8 bytes[];
    u32 *keys = (u32 *)bytes;                       // quotients by the temperature [room], as numbers that sort
    double *mass = (double *)(bytes + 4 * p.room);  // [room]
    __shared__ u32 histogram[256];
    __shared__ u32 found, rest, count;
    int tid = threadIdx.x, token = blockIdx.x, v = p.v;
    u64 offset = this_image(p.image);
    const Request &req = *in_image(p.req, offset);
    u16 *tokens = in_image(p.tokens, offset);
    after_previous();
    if (req.forced) {
        // What is no code says: draw.
        u16 given = in_image(p.forced, offset)[token];
        if (given < v) {
            if (tid == 0) tokens[token] = given;
            return;
        }
    }
    float *x = in_image(p.logits, offset) + (u64)token * v;
    const float *y = x + (u64)p.l * v;
    float a = req.mix[p.scale][0], b = req.mix[p.scale][1], temperature = req.temperature;
    const float lowest = __int_as_float(0xff800000);
    // Every thread goes on with the entries that it wrote.
#pragma unroll 8
    for (int i = tid; i < v; i += 512) {
        float g = x[i];
        if (p.rows == 2) g = a * g - b * y[i], x[i] = g;
        g = g > lowest ? g : lowest;
        keys[i] = ordered(g / temperature);
    }
    float best = lowest;
    int at = 0x7fffffff;
    if (req.top_k == 1) {
        for (int i = tid; i < v; i += 512)
            if (x[i] > best) best = x[i], at = i;
        block_argmax(best, at);
        if (tid == 0) tokens[token] = (u16)(at == 0x7fffffff ? 0 : at);
        return;
    }
    // The k-th largest, a byte at a time.
    u32 k = req.top_k == 0 || req.top_k > (u32)v ? (u32)v : req.top_k;
    u32 prefix = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        __syncthreads();
        if (tid < 256) histogram[tid] = 0;
        __syncthreads();
        for (int i = tid; i < v; i += 512)
            if (shift == 24) {
                // Most have the same first byte: one of them counts for all.
                u32 peers = __match_any_sync(__activemask(), keys[i] >> 24);
                if (tid % 32 == __ffs(peers) - 1) atomicAdd(&histogram[keys[i] >> 24], (u32)__popc(peers));
            } else if (keys[i] >> (shift + 8) == prefix) {
                atomicAdd(&histogram[keys[i] >> shift & 255], 1u);
            }
        __syncthreads();
        // Suffix sums by a warp: entries with a larger byte.
        if (tid < 32) {
            u32 mine[8], sum = 0;
            for (int i = 7; i >= 0; i--) mine[i] = histogram[tid * 8 + i], sum += mine[i];
            u32 above = sum;
            for (int d = 1; d < 32; d *= 2) {
                u32 o = __shfl_down_sync(FULL, above, d);
                if (tid + d < 32) above += o;
            }
            above -= sum;  // of later threads
            for (int i = 7; i >= 0; i--) {
                if (above < k && above + mine[i] >= k) found = tid * 8 + i, rest = k - above;
                above += mine[i];
            }
        }
        __syncthreads();
        prefix = prefix << 8 | found;
        k = rest;
    }
    // Ties by value: -0 and +0 are equal though they sort apart.
    float least = unordered(prefix);
    if (req.top_p > 0.0f && req.top_p < 1.0f) {
        if (tid == 0) count = 0;
        __syncthreads();
        // What stays, to the front, by turns of 512: a turn is read before it is written over.
        for (int base = 0; base < v; base += 512) {
            int i = base + tid;
            u32 key = i < v ? keys[i] : 0u;
            bool stays = i < v && unordered(key) >= least;
            __syncthreads();
            u32 votes = __ballot_sync(FULL, stays), place = 0;
            if (tid % 32 == 0 && votes) place = atomicAdd(&count, (u32)__popc(votes));
            place = __shfl_sync(FULL, place, 0) + __popc(votes & ((1u << tid % 32) - 1));
            if (stays) keys[place] = key;
            __syncthreads();
        }
        int m = count, size = 1;
        while (size < m) size *= 2;
        for (int i = m + tid; i < size; i += 512) keys[i] = 0xffffffffu;
        __syncthreads();
        for (int run = 2; run <= size; run *= 2)
            for (int d = run / 2; d > 0; d /= 2) {
                for (int i = tid; i < size / 2; i += 512) {
                    int a = (i & ~(d - 1)) * 2 | (i & (d - 1)), b = a + d;
                    bool up = (a & run) == 0;
                    u32 ka = keys[a], kb = keys[b];
                    if ((ka > kb) == up) keys[a] = kb, keys[b] = ka;
                }
                __syncthreads();
            }
        float most = unordered(keys[m - 1]);
        for (int i = tid; i < m; i += 512) mass[i] = (double)exp_(unordered(keys[i]) - most);
        __syncthreads();
        if (tid == 0) {
            double sum = 0.0;
            int i = 0;
            for (; i + 16 <= m; i += 16) {  // reads before writes: the chain is the sum
                double some[16];
#pragma unroll
                for (int j = 0; j < 16; j++) some[j] = mass[i + j];
#pragma unroll
                for (int j = 0; j < 16; j++) sum += some[j], mass[i + j] = sum;
            }
            for (; i < m; i++) sum += mass[i], mass[i] = sum;
            found = m - 1;
        }
        __syncthreads();
        double limit = req.tail * mass[m - 1];
        for (int i = tid; i < m; i += 512)
            if (mass[i] > limit && (i == 0 || !(mass[i - 1] > limit))) found = i;
        __syncthreads();
        least = unordered(keys[found]);
    }
#pragma unroll 4
    for (int i = tid; i < v; i += 512) {
        float g = x[i], t = g / temperature;
        if (!(g == g) || !(t >= least)) continue;
        float value = t + gumbel(req.seed, p.scale, token, i);
        if (value > best) best = value, at = i;
    }
    __syncthreads();
    block_argmax(best, at);
    if (tid == 0) tokens[token] = (u16)(at == 0x7fffffff ? 0 : at);
}

// The four bicubic weights, a = -0.75.
DEVICE float near_(float x) { return ((-0.75f + 2.0f) * x - (-0.75f + 3.0f)) * x * x + 1.0f; }
DEVICE float far_(float x) {
    return ((-0.75f * x - 5.0f * -0.75f) * x + 8.0f * -0.75f) * x - 4.0f * -0.75f;
}

DEVICE void taps(int d, int n, int p, int (&at)[4], float (&w)[4]) {
    float s = ((float)n / (float)p) * ((float)d + 0.5f) - 0.5f;
    float floor = floorf(s), t = s - floor;
    w[0] = far_(t + 1.0f), w[1] = near_(t), w[2] = near_(1.0f - t), w[3] = far_((1.0f - t) + 1.0f);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int a = (int)floor - 1 + i;
        at[i] = a < 0 ? 0 : a > n - 1 ? n - 1 : a;
    }
}

struct Fold {
    const u16 *tokens;  // of the scale
    Table codebook;
    const void *phi;
    const float *bias;
    float *big, *f_hat;
    int half, enlarge;
    int h, w, ph, pw, z, unused;
    u64 image;
};

DEVICE float code(const Fold &p, const u16 *tokens, int y, int x, int c) {
    return 0.0f + table_value(p.codebook, tokens[y * p.w + x], c);
}

// The scale's codes, enlarged to the latent's size.
extern "C" __global__ void enlarge(const __grid_constant__ Fold p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    if (i >= p.ph * p.pw * p.z) return;
    int c = i % p.z, x = i / p.z % p.pw, y = i / p.z / p.pw;
    u64 offset = this_image(p.image);
    const u16 *of = in_image(p.tokens, offset);
    float *big = in_image(p.big, offset);
    if (!p.enlarge) {
        big[i] = code(p, of, y, x, c);
        return;
    }
    int ax[4], ay[4];
    float wx[4], wy[4], rows[4];
    taps(x, p.w, p.pw, ax, wx);
    taps(y, p.h, p.ph, ay, wy);
#pragma unroll
    for (int j = 0; j < 4; j++)
        rows[j] = code(p, of, ay[j], ax[0], c) * wx[0] + code(p, of, ay[j], ax[1], c) * wx[1] +
                  code(p, of, ay[j], ax[2], c) * wx[2] + code(p, of, ay[j], ax[3], c) * wx[3];
    big[i] = rows[0] * wy[0] + rows[1] * wy[1] + rows[2] * wy[2] + rows[3] * wy[3];
}

// f_hat += 0.5 h + 0.5 conv(h), eight threads a value.
extern "C" __global__ void __launch_bounds__(256) phi(const __grid_constant__ Fold p) {
    int job = blockIdx.x * 32 + threadIdx.x / 8, lane = threadIdx.x % 8, total = p.ph * p.pw * p.z;
    int i = job < total ? job : total - 1;
    int c = i % p.z, x = i / p.z % p.pw, y = i / p.z / p.pw;
    u64 offset = this_image(p.image);
    const float *big = in_image(p.big, offset);
    after_previous();
    float sum = 0.0f;
    auto tap = [&](int dy, int dx, int ci) {
        int yy = y + dy - 1, xx = x + dx - 1;
        bool in = yy >= 0 && yy < p.ph && xx >= 0 && xx < p.pw;
        float v = in ? big[(yy * p.pw + xx) * p.z + ci] : 0.0f;
        u64 at = (((u64)c * 3 + dy) * 3 + dx) * p.z + ci;
        sum += (p.half ? widen(((const u16 *)p.phi)[at]) : ((const float *)p.phi)[at]) * v;
    };
    for (int dy = 0; dy < 3; dy++) {
        if (p.z % 8 == 0) {
#pragma unroll
            for (int dx = 0; dx < 3; dx++)
#pragma unroll 4
                for (int ci = lane; ci < p.z; ci += 8) tap(dy, dx, ci);
        } else {
            for (int j = lane; j < 3 * p.z; j += 8) tap(dy, j / p.z, j % p.z);
        }
    }
    float conv = tree8(sum) + p.bias[c];
    float *to = in_image(p.f_hat, offset) + i;
    if (lane == 0 && job < total) *to = *to + (0.5f * big[i] + 0.5f * conv);
}

// Means over the windows of the next scale's size.
struct Reduce {
    const float *from;
    float *out;
    int ph, pw, z, nh, nw, unused;
    u64 image;
};

extern "C" __global__ void reduce(const __grid_constant__ Reduce p) {
    int ph = p.ph, pw = p.pw, z = p.z, nh = p.nh, nw = p.nw;
    int out = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    if (out >= nh * nw * z) return;
    int c = out % z, x = out / z % nw, y = out / z / nw;
    int y0 = y * ph / nh, y1 = ((y + 1) * ph + nh - 1) / nh, x0 = x * pw / nw, x1 = ((x + 1) * pw + nw - 1) / nw;
    u64 offset = this_image(p.image);
    const float *from = in_image(p.from, offset);
    float sum = 0.0f;
    // Eight at a time: all are read before they are added.
    int w = x1 - x0, area = (y1 - y0) * w;
    for (int i = 0; i < area; i += 8) {
        float v[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j < area) v[j] = from[((y0 + (i + j) / w) * pw + x0 + (i + j) % w) * z + c];
#pragma unroll
        for (int j = 0; j < 8; j++)
            if (i + j < area) sum += v[j];
    }
    in_image(p.out, offset)[out] = sum / (float)area;
}

// The latent and the tokens at the start of an image.
struct Clear {
    float *f_hat;
    u16 *tokens;
    int n, l;
    u64 image;
};

extern "C" __global__ void clear(const __grid_constant__ Clear p) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    after_previous();
    u64 offset = this_image(p.image);
    if (i < p.n) in_image(p.f_hat, offset)[i] = 0.0f;
    if (i < p.l) in_image(p.tokens, offset)[i] = 0;
}
