// What the machine can do at most, for benchmarks.
#include "common.cuh"

struct Peak {
    int *out;
    int rounds, unused;
};

// Products of tensor cores with nothing else to do: 8 independent ones per warp and round.
extern "C" __global__ void __launch_bounds__(256) mma_peak(const __grid_constant__ Peak p) {
    after_previous();
    u32 a[4] = {threadIdx.x, threadIdx.x * 3, threadIdx.x * 5, threadIdx.x * 7};
    int d[8][4] = {};
    for (int r = 0; r < p.rounds; r++)
#pragma unroll
        for (int i = 0; i < 8; i++) mma(d[i], a, threadIdx.x + i, threadIdx.x ^ i);
    int sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
    if (sum == 0x7fffffff) *p.out = sum;
}
