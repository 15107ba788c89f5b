// Arithmetic as docs/arithmetic.md has it: compiled without fused multiply-add, so the bits are the CPU's.
#pragma once

typedef signed char i8;
typedef unsigned char u8;
typedef short i16;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define DEVICE static __device__ __forceinline__
#define FULL 0xffffffffu
// Smallest and largest finite float.
#define F32_MAX 3.402823466e38f

DEVICE float widen(u16 h) {
    float f;
    asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(h));
    return f;
}

DEVICE u16 narrow(float f) {
    u16 h;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(h) : "f"(f));
    return h;
}

DEVICE float larger(float a, float b) { return b > a ? b : a; }

// num::exp
DEVICE float exp_(float x) {
    float c = x > -87.3f ? x : -87.3f;
    c = c < 88.3f ? c : 88.3f;
    float shifted = c * 1.44269504088896340736f + 12582912.0f;
    float n = shifted - 12582912.0f;
    float r = (c - n * 0.6933594f) - n * -2.1219444e-4f;
    float p = 1.9875692e-4f;
    p = p * r + 1.3981999e-3f;
    p = p * r + 8.333452e-3f;
    p = p * r + 4.1665796e-2f;
    p = p * r + 1.6666665e-1f;
    p = p * r + 5e-1f;
    float y = (p * (r * r) + r) + 1.0f;
    float two_n = __uint_as_float((__float_as_uint(shifted) << 23) + (127u << 23));
    y = y * two_n;
    return x > -87.3f ? y : 0.0f;
}

DEVICE float silu(float x) { return x / (1.0f + exp_(-x)); }

DEVICE float gelu(float v) {
    float u = 0.7978846f * (v + 0.044715f * ((v * v) * v));
    return v / (1.0f + exp_(-2.0f * u));
}

DEVICE float rsqrt_(float x) { return 1.0f / sqrtf(x); }

// scalar::row_scale: the scale of a row, and what to multiply it with.
DEVICE void row_scale(float abs_max, float levels, float &scale, float &inverse) {
    bool good = abs_max > 0.0f && abs_max < F32_MAX && levels / abs_max < F32_MAX;
    scale = good ? abs_max / levels : 0.0f;
    inverse = good ? levels / abs_max : 0.0f;
}

// Nearest integer of x * inverse, ties to even, within +-levels.
DEVICE int quantize(float x, float inverse, float levels) {
    float v = x * inverse;
    v = v < levels ? v : levels;
    v = v > -levels ? v : -levels;
    return (int)(i16)(__float_as_uint(v + 12582912.0f) & 0xffffu);
}

// How a tensor's numbers are stored: tensor::Dtype.
enum { DT_F32 = 0, DT_F16 = 1, DT_I8ROWS = 2, DT_I8 = 3, DT_I8WIDE = 4, DT_I4 = 5 };
// How the arena's numbers are stored: tier::Store.
enum { ST_F32 = 0, ST_F16 = 1, ST_I8 = 2 };

// On Hopper a kernel of a graph begins while the one before it ends: what comes before `after_previous` may read
// weights only, and nothing that a kernel of the same graph wrote.
DEVICE void after_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;\n\tgriddepcontrol.wait;" ::: "memory");
#endif
}

// Images of a batch lie `image` bytes apart, from the first one on, and are a kernel's last dimension.
DEVICE u64 this_image(u64 image) { return blockIdx.z * image; }

// A place of the first image, `offset` bytes further on: for everything that an image has for itself.
template <class T>
DEVICE T *in_image(T *first, u64 offset) { return (T *)((const u8 *)first + offset); }

struct Table {
    const void *data;
    const float *scale;
    int dtype, cols;
};

// What Matrix::add_row adds to channel c.
DEVICE float table_value(const Table &t, int row, int c) {
    u64 at = (u64)row * t.cols + c;
    if (t.dtype == DT_F32) return ((const float *)t.data)[at];
    if (t.dtype == DT_F16) return widen(((const u16 *)t.data)[at]);
    return (float)((const i8 *)t.data)[at] * t.scale[row];
}

// The sum of eight lanes of a group of eight threads, in the order of num::tree; every thread gets it.
DEVICE float tree8(float v) {
    v = v + __shfl_xor_sync(FULL, v, 4);
    v = v + __shfl_xor_sync(FULL, v, 2);
    return v + __shfl_xor_sync(FULL, v, 1);
}

DEVICE float max8(float v) {
    v = larger(v, __shfl_xor_sync(FULL, v, 4));
    v = larger(v, __shfl_xor_sync(FULL, v, 2));
    return larger(v, __shfl_xor_sync(FULL, v, 1));
}

DEVICE float warp_max(float v) {
    v = larger(v, __shfl_xor_sync(FULL, v, 16));
    v = larger(v, __shfl_xor_sync(FULL, v, 8));
    return max8(v);
}

DEVICE float load_map(const void *map, int store, u64 at) {
    return store == ST_F32 ? ((const float *)map)[at] : widen(((const u16 *)map)[at]);
}

// scalar::pixel: floor(255 v), v in 0..=1 from -1..=1.
DEVICE u8 pixel(float v) {
    v = v < 1.0f ? v : 1.0f;
    v = v > -1.0f ? v : -1.0f;
    float x = (v + 1.0f) * 0.5f * 255.0f;
    float r = (x + 12582912.0f) - 12582912.0f;
    return (u8)(r > x ? r - 1.0f : r);
}

// maps::save: what the map then holds.
DEVICE void save_map(void *map, int store, u64 at, float v) {
    if (store == ST_F32) ((float *)map)[at] = v;
    else ((u16 *)map)[at] = narrow(v);
}

// D += A B of 16 x 32 by 32 x 8, int8 to int32.
DEVICE void mma(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    // Before Ampere: the same by shuffles and dp4a (thread 4 g + t has rows g, g + 8 and column g of words t, 4 + t).
    int lane = threadIdx.x % 32, t = lane % 4;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int quad = lane - t + i, column = 8 * t + i, next = column + 4;  // threads of columns 2 t and 2 t + 1
        u32 l0 = __shfl_sync(FULL, a[0], quad), l1 = __shfl_sync(FULL, a[1], quad);
        u32 h0 = __shfl_sync(FULL, a[2], quad), h1 = __shfl_sync(FULL, a[3], quad);
        u32 x0 = __shfl_sync(FULL, b0, column), x1 = __shfl_sync(FULL, b1, column);
        u32 y0 = __shfl_sync(FULL, b0, next), y1 = __shfl_sync(FULL, b1, next);
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[0]) : "r"(l0), "r"(x0));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[0]) : "r"(h0), "r"(x1));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[1]) : "r"(l0), "r"(y0));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[1]) : "r"(h0), "r"(y1));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[2]) : "r"(l1), "r"(x0));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[2]) : "r"(h1), "r"(x1));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[3]) : "r"(l1), "r"(y0));
        asm("dp4a.s32.s32 %0, %1, %2, %0;" : "+r"(d[3]) : "r"(h1), "r"(y1));
    }
#endif
}
