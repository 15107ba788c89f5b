// Which tokens stay in a cache that cannot hold all: varmint_core's `keep`. A block has a head of a guidance row.
#include "common.cuh"
#include "part.cuh"

// A line of the grid: its first token, from one to the next, how many.
struct Line {
    int first, step, count;
};

DEVICE bool on_line(const Line &l, int i) {
    return i >= l.first && (i - l.first) % l.step == 0 && (i - l.first) / l.step < l.count;
}

// Heads of a class at a scale; a grid's second dimension has its rows.
struct Keep {
    const float *queries;   // [rows, n, w], of all heads
    float *seen[2];         // per guidance row: [heads, keys]
    Part past[2], own[2];
    Line down, along;       // the grid
    int w, dim, store, first, heads;
    int map_w;
    int pool, room;         // neighbours of a score; tokens that stay
    int wide, protect;      // cached tokens that stay for wide heads
    u64 image;
};

// What the grid's tokens look at, one after the other, added up.
extern "C" __global__ void __launch_bounds__(256) observe(const __grid_constant__ Keep p) {
    extern __shared__ float scores[];  // [n], then the query [dim]
    __shared__ float room[2];
    int tid = threadIdx.x, group = tid / 8, lane = tid % 8, h = blockIdx.x, row = blockIdx.y, heads = p.heads;
    u64 offset = this_image(p.image);
    const Part past = part_of(p.past[row], offset), own = part_of(p.own[row], offset);
    const float *queries = in_image(p.queries, offset) + (u64)row * own.n * p.w + (p.first + h) * p.dim;
    int n = past.n + own.n;
    float *seen = in_image(p.seen[row], offset) + (u64)h * n, *q = scores + n;
    after_previous();
    for (int g = 0; g < p.down.count * p.along.count; g++) {
        int y = p.down.first + g / p.along.count * p.down.step;
        int token = y * p.map_w + p.along.first + g % p.along.count * p.along.step;
        for (int i = tid; i < p.dim; i += 256) q[i] = queries[(u64)token * p.w + i];
        __syncthreads();
        for (int base = 0; base < n; base += 32) {
            int key = base + group, place = key < n ? key : n - 1;
            bool inside = place < past.n;
            u64 at = (u64)(inside ? place : place - past.n) * heads + h;
            const u8 *k = inside ? past.k : own.k;
            float sum = 0.0f;
            if (p.store == ST_I8) {
                for (int i = lane; i < p.dim; i += 8) sum += q[i] * (float)((const i8 *)k)[at * p.dim + i];
                sum = widen((inside ? past.ks : own.ks)[at]) * tree8(sum);
            } else {
                for (int i = lane; i < p.dim; i += 8) sum += q[i] * load_map(k, p.store, at * p.dim + i);
                sum = tree8(sum);
            }
            if (lane == 0 && key < n) scores[key] = sum;
        }
        __syncthreads();
        if (tid < 32) softmax_of(scores, n, room);
        __syncthreads();
        float total = room[0], most = room[1];
        for (int i = tid; i < n; i += 256) {
            float before = g > 0 ? seen[i] : 0.0f;
            seen[i] = before + exp_(scores[i] - most) / total;
        }
        __syncthreads();
    }
}

// How many of n ranks are not below `least`, to every thread of the block.
DEVICE int count(const u32 *ranks, int n, u32 least, int *room) {
    int mine = 0;
    for (int i = threadIdx.x; i < n; i += 256) mine += ranks[i] >= least;
#pragma unroll
    for (int step = 16; step > 0; step /= 2) mine += __shfl_xor_sync(FULL, mine, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0) room[threadIdx.x / 32] = mine;
    __syncthreads();
    int all = 0;
    for (int i = 0; i < 8; i++) all += room[i];
    return all;
}

// Words of a head of a token that move together: key, then value.
#define MOVES 4

// Stage::Keep: chooses, and closes the gaps.
extern "C" __global__ void __launch_bounds__(256) keep(const __grid_constant__ Keep p) {
    extern __shared__ u32 ranks[];  // [n]; later the tokens that stay, in order
    __shared__ int room[8];
    int tid = threadIdx.x, h = blockIdx.x, row = blockIdx.y, heads = p.heads;
    u64 offset = this_image(p.image);
    const Part past = part_of(p.past[row], offset), own = part_of(p.own[row], offset);
    int n = past.n + own.n;
    const float *seen = in_image(p.seen[row], offset) + (u64)h * n;
    after_previous();
    for (int j = tid; j < n; j += 256) {
        int from = j < p.pool / 2 ? 0 : j - p.pool / 2, to = j + p.pool / 2 + 1;
        to = to < n ? to : n;
        float sum = 0.0f;
        for (int i = from; i < to; i++) sum += seen[i];
        int i = j - past.n;
        bool stays = i < 0 ? p.wide && j < p.protect
                           : p.wide || on_line(p.down, i / p.map_w) && on_line(p.along, i % p.map_w);
        // Positive floats sort as their bits do.
        ranks[j] = __float_as_uint(sum / (float)(to - from)) & 0x7fffffffu | (stays ? 1u << 31 : 0);
    }
    __syncthreads();
    // The largest rank that at least so many reach, bit by bit.
    u32 least = 0;
    for (u32 bit = 1u << 31; bit > 0; bit >>= 1)
        if (count(ranks, n, least | bit, room) >= p.room) least |= bit;
    int above = least == 0xffffffffu ? 0 : count(ranks, n, least + 1, room);
    __syncthreads();
    if (tid < 32) {
        int equal = p.room - above, to = 0;
        u32 below = (1u << tid) - 1;
        for (int base = 0; base < n; base += 32) {
            int j = base + tid;
            u32 rank = j < n ? ranks[j] : 0;
            u32 ties = __ballot_sync(FULL, j < n && rank == least);
            bool tie = ties >> tid & 1 && __popc(ties & below) < equal;
            bool chosen = j < n && (rank > least || tie);
            u32 all = __ballot_sync(FULL, chosen);
            // What is written has been read: as many places as tokens at most.
            if (chosen) ranks[to + __popc(all & below)] = (u32)j;
            equal -= __popc(ties), to += __popc(all);
            equal = equal > 0 ? equal : 0;
            __syncwarp();
        }
    }
    __syncthreads();
    // Tokens only move down: what is written next has been read, and what is read later lies behind it.
    int words = p.dim * (p.store == ST_F32 ? 4 : p.store == ST_F16 ? 2 : 1) / 4;
    int total = p.room * 2 * words;
    for (int base = 0; base < total; base += 256 * MOVES) {
        u32 moved[MOVES];
#pragma unroll
        for (int m = 0; m < MOVES; m++) {
            int i = base + 256 * m + tid;
            if (i >= total) continue;
            int from = (int)ranks[i / (2 * words)], word = i % (2 * words);
            bool inside = from < past.n;
            u64 at = ((u64)(inside ? from : from - past.n) * heads + h) * words + word % words;
            const u8 *k = inside ? past.k : own.k, *v = inside ? past.v : own.v;
            moved[m] = ((const u32 *)(word < words ? k : v))[at];
        }
        __syncthreads();
#pragma unroll
        for (int m = 0; m < MOVES; m++) {
            int i = base + 256 * m + tid;
            if (i >= total) continue;
            int word = i % (2 * words);
            u64 at = ((u64)(i / (2 * words)) * heads + h) * words + word % words;
            ((u32 *)(word < words ? past.k : past.v))[at] = moved[m];
        }
    }
    if (p.store != ST_I8) return;
    for (int base = 0; base < p.room; base += 256) {
        int to = base + tid;
        u16 key = 0, value = 0;
        if (to < p.room) {
            int from = (int)ranks[to];
            bool inside = from < past.n;
            u64 at = (u64)(inside ? from : from - past.n) * heads + h;
            key = (inside ? past.ks : own.ks)[at], value = (inside ? past.vs : own.vs)[at];
        }
        __syncthreads();
        if (to < p.room) {
            u64 at = (u64)to * heads + h;
            ((u16 *)past.ks)[at] = key, ((u16 *)past.vs)[at] = value;
        }
    }
}
