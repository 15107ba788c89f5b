// Integer matrix products on tensor cores, over the weights as they lie in the file:
// [N / 8][K / 4][8][4] int8 is, word for word, what a thread of mma.m16n8k32 wants of its right-hand side.
#include "common.cuh"

// Copies BYTES (4 or 16) to shared memory behind the thread's back; zeros where `real` is false.
template <int BYTES>
DEVICE void copy_async(void *to, const void *from, bool real) {
#if __CUDA_ARCH__ >= 800
    u32 place = (u32)__cvta_generic_to_shared(to);
    int size = real ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(place), "l"(from), "r"(size) : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(place), "l"(from), "r"(size) : "memory");
#else
    if (BYTES == 16) *(uint4 *)to = real ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
    else *(u32 *)to = real ? *(const u32 *)from : 0u;
#endif
}

DEVICE void copies_end() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most N groups of copies are under way.
template <int N>
DEVICE void copies_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
#endif
}

// The left-hand side of 16 rows x 32 inputs, rows `stride` bytes apart in shared memory.
DEVICE void load_rows(u32 (&a)[4], const u8 *from, int stride) {
    int lane = threadIdx.x % 32;
#if __CUDA_ARCH__ >= 750
    u32 place = (u32)__cvta_generic_to_shared(from + (lane % 16) * stride + (lane / 16) * 16);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(place));
#else
    const u8 *p = from + (lane / 4) * stride + lane % 4 * 4;
    a[0] = *(const u32 *)p, a[1] = *(const u32 *)(p + 8 * stride);
    a[2] = *(const u32 *)(p + 16), a[3] = *(const u32 *)(p + 8 * stride + 16);
#endif
}

// What becomes of a product.
enum { OUT_ROWS, OUT_GELU, OUT_GATED, OUT_MAP, OUT_PIXELS };
// What is added to a value on its way into a map.
enum { BASE_NONE, BASE_MAP, BASE_ROWS };

struct Out {
    const float *scale, *bias;  // per output channel
    const float *row_scale;     // per row, or null: the scale of `range`
    const float *range;
    void *out;
    const float *gate, *gate_offset;  // OUT_GATED: x += gate * y
    const float *rows;                // BASE_ROWS
    float levels;
    int mode, base, store, ldo;
    int n, second, gate_stride;  // OUT_GATED: tokens of a guidance row, and where the next one begins
    int per, unused;             // per: rows of an image of a batch
    u64 image;
};

// Row m of all: the offset of its image, and which row of that it is.
DEVICE u64 image_of(const Out &o, int &m) {
    int image = o.image ? m / o.per : 0;
    m -= image * o.per;
    return image * o.image;
}

// Of row m of the image at `offset`.
DEVICE float input_scale(const Out &o, u64 offset, int m) {
    if (o.row_scale) return in_image(o.row_scale, offset)[m];
    float scale, inverse;
    row_scale(*in_image(o.range, offset), o.levels, scale, inverse);
    return scale;
}

// Channel n of row m of all.
DEVICE void store(const Out &o, int m, int n, int acc) {
    u64 offset = image_of(o, m);
    float y = (float)acc * (input_scale(o, offset, m) * o.scale[n]) + o.bias[n];
    u64 at = (u64)m * o.ldo + n;
    void *out = in_image((u8 *)o.out, offset);
    if (o.mode == OUT_ROWS) {
        ((float *)out)[at] = y;
    } else if (o.mode == OUT_GELU) {
        ((float *)out)[at] = gelu(y);
    } else if (o.mode == OUT_GATED) {
        int row = m / o.n;
        float g = in_image(o.gate, offset)[(u64)row * o.gate_stride + n];
        if (o.gate_offset) g += o.gate_offset[n];
        float *x = (float *)out + ((u64)row * o.second + m % o.n) * o.ldo + n;
        *x = *x + g * y;
    } else if (o.mode == OUT_MAP) {
        if (o.base == BASE_MAP) y += load_map(out, o.store, at);
        if (o.base == BASE_ROWS) y += in_image(o.rows, offset)[at];
        save_map(out, o.store, at, y);
    } else {
        ((u8 *)out)[at] = pixel(y);
    }
}

DEVICE void load4(float (&v)[4], const float *from) {
    float4 x = *(const float4 *)from;
    v[0] = x.x, v[1] = x.y, v[2] = x.z, v[3] = x.w;
}

DEVICE void save4(float *to, const float (&v)[4]) { *(float4 *)to = make_float4(v[0], v[1], v[2], v[3]); }

// Where a row's result goes, in values.
DEVICE u64 place_of(const Out &o, int m, int n) {
    u64 row = o.mode == OUT_GATED ? (u64)(m / o.n) * o.second + m % o.n : (u64)m;
    return row * o.ldo + n;
}

// `store` of four channels of some rows, all that is read before anything is written: rows m, m + step, ... below
// `end`. n and `ldo` are multiples of 4; `sums(i)` gives the sums of row i of them.
template <int ROWS, class Sums>
DEVICE void store_rows(const Out &o, int m, int step, int end, int n, const float (&scale)[4], const float (&bias)[4],
                       Sums sums) {
    float sx[ROWS], other[ROWS][4];
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = m + i * step;
        if (row >= end) break;
        u64 offset = image_of(o, row);
        sx[i] = input_scale(o, offset, row);
        const u8 *out = (const u8 *)o.out + offset;
        if (o.mode == OUT_GATED) {
            load4(other[i], (const float *)out + place_of(o, row, n));
        } else if (o.mode == OUT_MAP && o.base == BASE_ROWS) {
            load4(other[i], in_image(o.rows, offset) + place_of(o, row, n));
        } else if (o.mode == OUT_MAP && o.base == BASE_MAP) {
#pragma unroll
            for (int j = 0; j < 4; j++) other[i][j] = load_map(out, o.store, place_of(o, row, n) + j);
        }
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
        int row = m + i * step;
        if (row >= end) break;
        int4 acc = sums(i);
        float y[4] = {(float)acc.x * (sx[i] * scale[0]) + bias[0], (float)acc.y * (sx[i] * scale[1]) + bias[1],
                      (float)acc.z * (sx[i] * scale[2]) + bias[2], (float)acc.w * (sx[i] * scale[3]) + bias[3]};
        u64 offset = image_of(o, row), at = place_of(o, row, n);
        u8 *out = (u8 *)o.out + offset;
        if (o.mode == OUT_GATED) {
            float gate[4], more[4];
            load4(gate, in_image(o.gate, offset) + (u64)(row / o.n) * o.gate_stride + n);
            if (o.gate_offset) {
                load4(more, o.gate_offset + n);
#pragma unroll
                for (int j = 0; j < 4; j++) gate[j] += more[j];
            }
#pragma unroll
            for (int j = 0; j < 4; j++) y[j] = other[i][j] + gate[j] * y[j];
            save4((float *)out + at, y);
        } else if (o.mode == OUT_MAP) {
            if (o.base != BASE_NONE)
#pragma unroll
                for (int j = 0; j < 4; j++) y[j] += other[i][j];
            if (o.store == ST_F32) {
                save4((float *)out + at, y);
            } else {
                u32 a = narrow(y[0]) | (u32)narrow(y[1]) << 16, b = narrow(y[2]) | (u32)narrow(y[3]) << 16;
                *(uint2 *)((u16 *)out + at) = make_uint2(a, b);
            }
        } else {
            if (o.mode == OUT_GELU)
#pragma unroll
                for (int j = 0; j < 4; j++) y[j] = gelu(y[j]);
            save4((float *)out + at, y);
        }
    }
}

struct Gemm {
    const u8 *a;  // Taps: row m is pixel m % width of line m / width; in bytes
    u64 plane;    // 12-bit inputs: from the upper to the lower parts
    const i8 *w;
    int m, n, k;  // m: of all images
    int width, stride, line, seg_len, seg_stride;
    int tall, unused;        // tall: blockIdx.x is that of the rows
    int *partial, *arrived;  // sums of tiles that several blocks share; how many are done, zeros between launches
    Out out;
};

// Row m of all.
DEVICE const u8 *input_row(const Gemm &p, int m) {
    u64 offset = image_of(p.out, m);
    return p.a + offset + (u64)(m / p.width) * p.line + (u64)(m % p.width) * p.stride;
}

// Up to MT x 16 rows: a block has 8 output channels, its warps share the inputs. Weights do not depend on the
// kernel before: those of the first U steps of a warp are on their way before it has ended.
template <int MT, bool WIDE, int U>
DEVICE void few_rows(const Gemm &p) {
    constexpr int PARTS = WIDE ? 2 : 1;
    __shared__ int sums[8][MT * 16][8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int words = p.k / 4, steps = (words + 7) / 8;
    const u32 *w = (const u32 *)p.w + (u64)blockIdx.x * words * 8;
    int acc[PARTS][MT][4] = {};
    u32 b[U][2];
    auto weights = [&](int first) {
#pragma unroll
        for (int u = 0; u < U; u++) {
            int k0 = (first + 8 * u) * 8 + t, k1 = k0 + 4;
            b[u][0] = k0 < words ? __ldg(w + k0 * 8 + g) : 0u;
            b[u][1] = k1 < words ? __ldg(w + k1 * 8 + g) : 0u;
        }
    };
    const u8 *rows[MT][2];
#pragma unroll
    for (int i = 0; i < MT; i++) rows[i][0] = input_row(p, i * 16 + g), rows[i][1] = input_row(p, i * 16 + g + 8);
    weights(warp);
    after_previous();
    for (int first = warp; first < steps; first += 8 * U) {
        if (first != warp) weights(first);
#pragma unroll
        for (int part = 0; part < PARTS; part++)
#pragma unroll
            for (int i = 0; i < MT; i++) {
                int m0 = i * 16 + g, m1 = m0 + 8;
                const u32 *x0 = (const u32 *)(rows[i][0] + part * p.plane);
                const u32 *x1 = (const u32 *)(rows[i][1] + part * p.plane);
                u32 a[U][4];
#pragma unroll
                for (int u = 0; u < U; u++) {
                    int k0 = (first + 8 * u) * 8 + t, k1 = k0 + 4;
                    bool r0 = k0 < words, r1 = k1 < words;
                    a[u][0] = m0 < p.m && r0 ? x0[k0] : 0u, a[u][1] = m1 < p.m && r0 ? x1[k0] : 0u;
                    a[u][2] = m0 < p.m && r1 ? x0[k1] : 0u, a[u][3] = m1 < p.m && r1 ? x1[k1] : 0u;
                }
#pragma unroll
                for (int u = 0; u < U; u++) mma(acc[part][i], a[u], b[u][0], b[u][1]);
            }
    }
#pragma unroll
    for (int i = 0; i < MT; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            int v = WIDE ? 16 * acc[0][i][j] + acc[PARTS - 1][i][j] : acc[0][i][j];
            sums[warp][i * 16 + g + j / 2 * 8][2 * t + j % 2] = v;
        }
    __syncthreads();
    for (int i = threadIdx.x; i < MT * 128; i += 256) {
        int m = i / 8, c = i % 8, n = blockIdx.x * 8 + c, sum = 0;
        if (m >= p.m || n >= p.n) continue;
#pragma unroll
        for (int j = 0; j < 8; j++) sum += sums[j][m][c];
        store(p.out, m, n, sum);
    }
}

#define FEW(NAME, MT, WIDE, U) \
    extern "C" __global__ void __launch_bounds__(256) NAME(const __grid_constant__ Gemm p) { few_rows<MT, WIDE, U>(p); }
FEW(gemm_few, 1, false, 4)
FEW(gemm_few_wide, 1, true, 4)
// For long rows: more of them on the way at once, at the price of fewer blocks side by side.
FEW(gemm_few_deep, 1, false, 8)
FEW(gemm_few_deep_wide, 1, true, 8)

// Many rows: a tile of BM rows x BN channels by WM x WN warps; KG groups of them take the inputs in turns of 64
// and add up at the end. STAGES copies ahead. CH: bytes per copy of an input. Where there are more blocks than tiles
// (gridDim.z), they share the inputs: integers may be added up in any order, and the last one stores the result.
template <int BM, int BN, int WM, int WN, int KG, int STAGES, int CH, bool WIDE>
struct Tiles {
    static constexpr int PARTS = WIDE ? 2 : 1;
    static constexpr int THREADS = 32 * WM * WN * KG, BK = 64 * KG, LDA = BK + 16;
    static constexpr int PLANE = BM * LDA, A = PARTS * PLANE, B = BN * BK, STAGE = A + B, LDC = BN + 8;
    static constexpr int MT = BM / WM / 16, NT = BN / WN / 8;

    DEVICE void run(const Gemm &p) {
        extern __shared__ __align__(16) u8 room[];
        int tid = threadIdx.x, warp = tid / 32, lane = tid % 32, g = lane / 4, t = lane % 4;
        int kg = warp / (WM * WN), wm = warp % (WM * WN) / WN, wn = warp % WN;
        // Of two dimensions only the first one may be large.
        int m0 = (p.tall ? blockIdx.x : blockIdx.y) * BM, n0 = (p.tall ? blockIdx.y : blockIdx.x) * BN;

        // Inputs: a thread copies column `col` of some rows; its place among the taps moves on by BK.
        constexpr int COLS = BK / CH, ROWS = THREADS / COLS, MINE = BM / ROWS;
        static_assert(THREADS % COLS == 0 && BM % ROWS == 0, "every thread copies as many rows");
        int col = tid % COLS, row = tid / COLS;
        const u8 *from[MINE];
        u32 real = 0;
#pragma unroll
        for (int i = 0; i < MINE; i++) {
            int m = m0 + row + i * ROWS;
            if (m < p.m) real |= 1u << i;
            else m = 0;
            from[i] = input_row(p, m);
        }
        int steps = (p.k + BK - 1) / BK, each = (steps + gridDim.z - 1) / gridDim.z;
        int begin = blockIdx.z * each, total = steps - begin < each ? steps - begin : each;
        // Where the next copy of this thread is: run and offset in it.
        int at = begin * BK + col * CH, off = at % p.seg_len;
        u64 base = (u64)(at / p.seg_len) * p.seg_stride;
        int panels = (p.n + 7) / 8, words = p.k / 4;
        auto copy_weights = [&](int step) {
            u8 *to = room + step % STAGES * STAGE + A;
            int k0 = (begin + step) * (BK / 4);
            for (int i = tid; i < B / 16; i += THREADS) {
                int panel = n0 / 8 + i / (BK / 2), c = i % (BK / 2), k4 = k0 + c / 2;
                bool ok = panel < panels && k4 < words;
                const i8 *w = p.w + ((u64)panel * words + k4) * 32 + c % 2 * 16;
                copy_async<16>(to + i * 16, ok ? w : p.w, ok);
            }
        };
        auto copy_inputs = [&](int step) {
            u8 *to = room + step % STAGES * STAGE + row * LDA + col * CH;
            bool in = at < p.k;
#pragma unroll
            for (int part = 0; part < PARTS; part++)
#pragma unroll
                for (int i = 0; i < MINE; i++)
                    copy_async<CH>(to + part * PLANE + i * ROWS * LDA,
                                   in ? from[i] + base + off + part * p.plane : p.a, in && (real >> i & 1));
            at += BK, off += BK;
            while (off >= p.seg_len && at < p.k) off -= p.seg_len, base += p.seg_stride;
        };

        int acc[PARTS][MT][NT][4] = {};
        for (int s = 0; s < STAGES - 1; s++)
            if (s < total) copy_weights(s);
        after_previous();
        for (int s = 0; s < STAGES - 1; s++) {
            if (s < total) copy_inputs(s);
            copies_end();
        }
        for (int s = 0; s < total; s++) {
            copies_wait<STAGES - 2>();
            __syncthreads();
            if (s + STAGES - 1 < total) copy_weights(s + STAGES - 1), copy_inputs(s + STAGES - 1);
            copies_end();
            const u8 *stage = room + s % STAGES * STAGE;
            const u8 *a_rows = stage + (wm * MT * 16) * LDA + kg * 64;
            const u32 *w = (const u32 *)(stage + A) + (wn * NT) * (BK * 2) + kg * 128;
#pragma unroll
            for (int k = 0; k < 2; k++) {
                u32 b[NT][2];
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    b[j][0] = w[j * (BK * 2) + k * 64 + t * 8 + g];
                    b[j][1] = w[j * (BK * 2) + k * 64 + t * 8 + g + 32];
                }
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    u32 a[MT][4];
#pragma unroll
                    for (int i = 0; i < MT; i++)
                        load_rows(a[i], a_rows + part * PLANE + i * 16 * LDA + k * 32, LDA);
#pragma unroll
                    for (int i = 0; i < MT; i++)
#pragma unroll
                        for (int j = 0; j < NT; j++) mma(acc[part][i][j], a[i], b[j][0], b[j][1]);
                }
            }
        }
        // Over the copies: [KG][BM][BN], so that the results leave row by row.
        copies_wait<0>();
        __syncthreads();
        int *sums = (int *)room;
#pragma unroll
        for (int i = 0; i < MT; i++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int j = 0; j < NT; j++) {
                    int m = (wm * MT + i) * 16 + g + h * 8, n = (wn * NT + j) * 8 + 2 * t;
                    int x = acc[0][i][j][h * 2], y = acc[0][i][j][h * 2 + 1];
                    if (WIDE) x = 16 * x + acc[PARTS - 1][i][j][h * 2], y = 16 * y + acc[PARTS - 1][i][j][h * 2 + 1];
                    *(int2 *)(sums + (kg * BM + m) * LDC + n) = make_int2(x, y);
                }
        __syncthreads();
        auto sum4 = [&](int m, int n) {
            int4 sum = *(const int4 *)(sums + m * LDC + n);
#pragma unroll
            for (int from = 1; from < KG; from++) {
                int4 more = *(const int4 *)(sums + (from * BM + m) * LDC + n);
                sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
            }
            return sum;
        };
        int *shared = nullptr;
        if (gridDim.z > 1) {
            // A place of its own for every block.
            int tile = blockIdx.y * gridDim.x + blockIdx.x;
            shared = p.partial + (u64)tile * gridDim.z * BM * BN;
            for (int i = tid; i < BM * BN / 4; i += THREADS)
                __stcg((int4 *)(shared + blockIdx.z * BM * BN) + i, sum4(i / (BN / 4), i % (BN / 4) * 4));
            __threadfence();
            __syncthreads();
            int *done = (int *)room;
            if (tid == 0) {
                *done = atomicAdd(p.arrived + tile, 1);
                if (*done == (int)gridDim.z - 1) p.arrived[tile] = 0;
            }
            __syncthreads();
            if (*done != (int)gridDim.z - 1) return;
            __threadfence();
        }
        if (p.out.ldo % 4 == 0 && p.n % 4 == 0 && p.out.mode != OUT_PIXELS) {
            // A thread keeps its four channels.
            constexpr int STEP = THREADS / (BN / 4), AT_ONCE = BM / STEP < 8 ? BM / STEP : 8;
            static_assert(THREADS % (BN / 4) == 0 && BM % (STEP * AT_ONCE) == 0, "whole rows");
            int n = tid % (BN / 4) * 4, first = tid / (BN / 4), end = p.m - m0 < BM ? p.m - m0 : BM;
            if (n0 + n >= p.n) return;
            float scale[4], bias[4];
            load4(scale, p.out.scale + n0 + n);
            load4(bias, p.out.bias + n0 + n);
            for (int m = first; m < end; m += STEP * AT_ONCE)
                store_rows<AT_ONCE>(p.out, m0 + m, STEP, m0 + end, n0 + n, scale, bias, [&](int i) {
                    int row = m + i * STEP;
                    if (!shared) return sum4(row, n);
                    int4 sum = make_int4(0, 0, 0, 0);
#pragma unroll 8
                    for (u32 z = 0; z < gridDim.z; z++) {
                        int4 more = __ldcg((const int4 *)(shared + z * BM * BN + row * BN + n));
                        sum.x += more.x, sum.y += more.y, sum.z += more.z, sum.w += more.w;
                    }
                    return sum;
                });
            return;
        }
#pragma unroll 1
        for (int i = tid; i < BM * BN; i += THREADS) {
            int m = i / BN, n = i % BN;
            if (m0 + m >= p.m || n0 + n >= p.n) continue;
            int sum = 0;
            if (shared) {
                for (u32 z = 0; z < gridDim.z; z++) sum += __ldcg(shared + z * BM * BN + i);
            } else {
#pragma unroll
                for (int from = 0; from < KG; from++) sum += sums[(from * BM + m) * LDC + n];
            }
            store(p.out, m0 + m, n0 + n, sum);
        }
    }
};

#define TILES(NAME, WIDE, BM, BN, WM, WN, KG, STAGES, CH)                                                      \
    extern "C" __global__ void __launch_bounds__(32 * WM * WN * KG) NAME(const __grid_constant__ Gemm p) {     \
        Tiles<BM, BN, WM, WN, KG, STAGES, CH, WIDE>::run(p);                                                   \
    }
// Without int8 tensor cores the large ones would only spill: the host does not ask for them there.
#if __CUDA_ARCH__ >= 800
TILES(gemm_128x128, false, 128, 128, 2, 2, 1, 4, 16)
TILES(gemm_128x128_wide, true, 128, 128, 2, 4, 1, 3, 16)
TILES(gemm_128x64, false, 128, 64, 2, 2, 1, 4, 16)
TILES(gemm_128x64_wide, true, 128, 64, 2, 2, 1, 3, 16)
#endif
TILES(gemm_64x32, false, 64, 32, 2, 1, 4, 3, 16)
TILES(gemm_64x32_wide, true, 64, 32, 2, 1, 4, 2, 16)
TILES(gemm_any, false, 64, 32, 2, 1, 4, 3, 4)
TILES(gemm_any_wide, true, 64, 32, 2, 1, 4, 2, 4)

struct Gemm4 {
    const u8 *a;
    const u8 *w;      // [N / 8][K / 32][4][8][4]: inputs 8 j + i (low) and 8 j + 4 + i (high), plus 8
    const i8 *group;  // [N / 8][K / 32][8]
    int m, n, k, stride;
    Out out;
};

// 4-bit weights with integer group scales; 32 rows x 8 channels a block.
extern "C" __global__ void __launch_bounds__(256) gemm_4bit(const __grid_constant__ Gemm4 p) {
    __shared__ int sums[8][32][8];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int groups = p.k / 32, first = blockIdx.y * 32;
    after_previous();
    const u32 *w = (const u32 *)p.w + (u64)blockIdx.x * groups * 32;
    const i8 *scales = p.group + (u64)blockIdx.x * groups * 8;
    const u8 *rows[2][2];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int m = first + i * 8 + g;
        u64 offset = image_of(p.out, m);
        rows[i / 2][i % 2] = p.a + offset + (u64)m * p.stride;
    }
    int acc[2][4] = {};
#pragma unroll 2
    for (int s = warp; s < groups; s += 8) {
        u32 packed = __ldg(w + s * 32 + t * 8 + g);
        // (v | 0x80) - 8 ^ 0x80 byte by byte: v - 8.
        u32 b0 = (((packed & 0x0f0f0f0fu) | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
        u32 b1 = ((((packed >> 4) & 0x0f0f0f0fu) | 0x80808080u) - 0x08080808u) ^ 0x80808080u;
        int g0 = scales[s * 8 + 2 * t], g1 = scales[s * 8 + 2 * t + 1];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int m0 = first + i * 16 + g, m1 = m0 + 8;
            uint2 zero = make_uint2(0, 0);
            uint2 x0 = m0 < p.m ? *(const uint2 *)(rows[i][0] + s * 32 + 8 * t) : zero;
            uint2 x1 = m1 < p.m ? *(const uint2 *)(rows[i][1] + s * 32 + 8 * t) : zero;
            u32 a[4] = {x0.x, x1.x, x0.y, x1.y};
            int d[4] = {};
            mma(d, a, b0, b1);
            acc[i][0] += g0 * d[0], acc[i][1] += g1 * d[1], acc[i][2] += g0 * d[2], acc[i][3] += g1 * d[3];
        }
    }
#pragma unroll
    for (int i = 0; i < 2; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) sums[warp][i * 16 + g + j / 2 * 8][2 * t + j % 2] = acc[i][j];
    __syncthreads();
    int m = threadIdx.x / 8, c = threadIdx.x % 8, n = blockIdx.x * 8 + c, sum = 0;
    if (first + m >= p.m || n >= p.n) return;
#pragma unroll
    for (int j = 0; j < 8; j++) sum += sums[j][m][c];
    store(p.out, first + m, n, sum);
}
