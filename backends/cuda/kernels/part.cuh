// A part of the cache.
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
