"""PyTorch's f32 Linear on the shapes of products.rs, one thread: GMAC/s, medians of nine rounds.

    python backends/cpu/benches/linear.py
"""

import time

import torch

SHAPES = [(2, 1024, 3072), (32, 1024, 4096), (128, 1024, 1024), (512, 1024, 4096), (512, 4096, 1024), (16, 128, 512), (64, 256, 1024)]

torch.set_num_threads(1)
with torch.inference_mode():
    for m, k, n in SHAPES:
        layer, x = torch.nn.Linear(k, n), torch.randn(m, k)
        rates = []
        for _ in range(9):
            start, runs = time.perf_counter(), 0
            while time.perf_counter() - start < 0.03:
                layer(x)
                runs += 1
            rates.append(runs * m * k * n / (time.perf_counter() - start) / 1e9)
        print(f"{m}, {k}, {n}: {sorted(rates)[4]:.1f}")
