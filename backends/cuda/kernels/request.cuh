// The request, as the kernels read it: written by the host before an image.
#pragma once
#include "common.cuh"

struct Request {
    u64 seed;
    double tail;          // 1 - top_p
    int labels[4];
    int forced;           // whether the tokens are given
    u32 top_k;
    float top_p, temperature;
    float mix[16][2];     // guidance of a scale: a * conditional - b * unconditional
};
