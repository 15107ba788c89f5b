// Queries, keys and values of a head of a token, as the product left them, to where attention reads them.
#pragma once
#include "common.cuh"

// A part of the cache: keys, values and their scales of `rows` tokens.
struct Cache {
    u8 *k, *v;
    u16 *ks, *vs;
};

// The heads of a class: `heads` of them from `first` on. Their caches hold nothing of other heads.
struct Heads {
    float *qkv;           // [m, 3 w], of all heads
    const float *factor;  // of the queries, per head
    float *floats;        // [m, w]: the queries before they are quantized, where somebody wants them; or null
    Cache own[2];         // per guidance row, at the scale's first token
    int n, w, dim, norm, store, total, first, heads;  // total: m * 3 * heads
    u64 image;
};

// Head h of the class, of queries (`which` 0), keys (1) or values (2) of token m, by a group of eight threads: queries normalised,
// scaled, and for an int8 cache quantized in place: int8 [dim], then the scale; keys and values into the cache.
// `x` has room for the head; where nothing is `real`, nothing is written.
// `offset`: of the image.
DEVICE void split_head(const Heads &a, u64 offset, int which, int h, int m, bool real, float *x, int lane) {
    int heads = a.heads, column = (a.first + h) * a.dim;
    float *from = in_image(a.qkv, offset) + (u64)m * 3 * a.w + which * a.w + column;
    // Zeros where nothing is real: that head may be another block's, which writes it.
    for (int i = lane; i < a.dim; i += 8) x[i] = real ? from[i] : 0.0f;
    float factor = which == 0 ? a.factor[a.first + h] : 1.0f, sum = 0.0f;
#pragma unroll 8
    for (int i = lane; i < a.dim; i += 8) sum += x[i] * x[i];
    float norm = sqrtf(tree8(sum));  // by all, so that the shuffles are whole
    norm = norm > 1e-12f ? norm : 1e-12f;
    float most = 0.0f;
#pragma unroll 8
    for (int i = lane; i < a.dim; i += 8) {
        float v = x[i];
        if (which < 2 && a.norm) v = (v / norm) * factor;
        else if (which == 0) v *= factor;
        x[i] = v;
        most = larger(most, fabsf(v));
    }
    most = max8(most);
    if (!real) return;
    if (which == 0) {
        if (a.floats) {
            float *out = in_image(a.floats, offset) + (u64)m * a.w + column;
            for (int i = lane; i < a.dim; i += 8) out[i] = x[i];
        }
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
    u64 token = m % a.n, at = (token * heads + h) * a.dim;
    u8 *out = in_image(which == 1 ? to.k : to.v, offset);
    if (a.store == ST_F32) {
        for (int i = lane; i < a.dim; i += 8) ((float *)out)[at + i] = x[i];
    } else if (a.store == ST_F16) {
        for (int i = lane; i < a.dim; i += 8) ((u16 *)out)[at + i] = narrow(x[i]);
    } else {
        u16 scale = narrow(most / 127.0f);
        float wide = widen(scale);
        float inverse = wide > 0.0f && wide < __int_as_float(0x7f800000) ? 1.0f / wide : 0.0f;
        for (int i = lane; i < a.dim; i += 8) out[at + i] = (u8)quantize(x[i], inverse, 127.0f);
        if (lane == 0) in_image(which == 1 ? to.ks : to.vs, offset)[token * heads + h] = inverse == 0.0f ? (u16)0 : scale;
    }
}
