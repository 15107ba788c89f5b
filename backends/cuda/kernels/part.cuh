// A part of the cache, and what a query makes of its scores.
#pragma once
#include "common.cuh"

// Keys and values of some tokens, [tokens, heads, dim], and their scales [tokens, heads].
struct Part {
    const u8 *k, *v;
    const u16 *ks, *vs;
    int n, unused;
};

// The same part of another image.
DEVICE Part part_of(Part p, u64 offset) {
    p.k = in_image(p.k, offset), p.v = in_image(p.v, offset);
    p.ks = in_image(p.ks, offset), p.vs = in_image(p.vs, offset);
    return p;
}

// Of a row of scores, by one warp: what the softmax divides by, and the largest.
DEVICE void softmax_of(const float *scores, int n, float (&room)[2]) {
    // All four groups do the same, so that the shuffles are whole.
    int lane = threadIdx.x % 8;
    float most = -F32_MAX, sum = 0.0f;
    for (int i = lane; i < n; i += 8) most = larger(most, scores[i]);
    most = max8(most);
    for (int i = lane; i < n; i += 8) sum += exp_(scores[i] - most);
    sum = tree8(sum);
    if (threadIdx.x == 0) room[0] = sum > 0.0f ? sum : 1.0f, room[1] = most;
}
