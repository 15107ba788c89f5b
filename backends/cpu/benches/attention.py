"""PyTorch's f32 scaled_dot_product_attention on the shapes of attention.rs, one thread: GMAC/s, medians of nine rounds.

    python backends/cpu/benches/attention.py
"""

import time

import torch

SHAPES = [(256, 680, 16, 64), (64, 155, 16, 64), (64, 149, 4, 32), (1, 680, 16, 64)]

torch.set_num_threads(1)
with torch.inference_mode():
    for rows, keys, heads, dim in SHAPES:
        q, k, v = (torch.randn(1, heads, n, dim) for n in (rows, keys, keys))
        rates = []
        for _ in range(9):
            start, runs = time.perf_counter(), 0
            while time.perf_counter() - start < 0.03:
                torch.nn.functional.scaled_dot_product_attention(q, k, v)
                runs += 1
            rates.append(runs * 2 * rows * keys * heads * dim / (time.perf_counter() - start) / 1e9)
        print(f"{rows}, {keys}, {heads}, {dim}: {sorted(rates)[4]:.1f}")
