#!/usr/bin/env python3
"""Write fixtures/goldens/{dev_a,dev_b}/encoder.safetensors: latents, tokens and masks of the official layout.

Weights are procedural: the recipe (shapes and exponents) stands in the file, so that they need no bytes.

    value[i] = center + m(i) 2^exp, rounded to f16 where center is not 0
    key = fnv1a64(name) XOR seed 0x9E3779B97F4A7C15;  m(i) = sum of the low four bytes of splitmix64(key, i + 1) - 510

Quantizer and codebook are those of weights.safetensors beside it.  Everything is computed in f64 and once more in f32:
`f32_vs_f64` is how far apart they are, and the tokens of both must be the same.
"""

import json
import os

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tokenizer import VQVAE

GOLDENS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "fixtures", "goldens")
SEED, BLOCKS = 7, 2


def mixed(name, count, seed):
    """m(0) .. m(count - 1): integers in -510..510, bell-shaped."""
    key = 0xCBF29CE484222325
    for byte in name.encode():
        key = ((key ^ byte) * 0x100000001B3) % 2**64
    key ^= seed * 0x9E3779B97F4A7C15 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(key) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return sum(((z >> np.uint64(8 * i)) & np.uint64(255)).astype(np.int64) for i in range(4)) - 510


def recipe(name, shape):
    """Center and exponent: signals keep their size from layer to layer."""
    if "norm" in name:
        return (1.0 if name.endswith("weight") else 0.0), -10
    if name.endswith("bias"):
        return 0.0, -11
    inputs = np.prod(shape[1:])
    return 0.0, int(np.floor(np.log2(1 / (148 * np.sqrt(inputs)))) + 1)


def made(center, exp, values, shape):
    x = torch.tensor(center + values * 2.0**exp, dtype=torch.float64).reshape(shape)
    return x.half().double() if center else x


def masks(scales, count):
    """Random masks and what stays of them; those with a sum of exactly one half are left out."""
    side, kept, stays = scales[-1], [], []
    generator = torch.Generator().manual_seed(SEED)
    while len(kept) < count:
        mask = (torch.rand(1, 1, side, side, generator=generator, dtype=torch.float64) > 0.4).double()
        small = [F.interpolate(mask, size=(n, n), mode="bilinear") for n in scales]
        small = [torch.ones_like(m) if m.numel() <= 3 else m for m in small]
        if min(float((m - 0.5).abs().min()) for m in small) > 1e-9:
            kept.append(mask.flatten().byte())
            stays.append(torch.cat([(m > 0.5).flatten().byte() for m in small]))
    return torch.stack(kept), torch.stack(stays)


@torch.no_grad()
def main():
    for name in ("dev_a", "dev_b"):
        folder = os.path.join(GOLDENS, name)
        with safe_open(f"{folder}/golden.safetensors", "pt") as golden:
            c, count = json.loads(golden.metadata()["config"]), len(golden.get_tensor("image"))
        scales = c["patch_nums"]
        vae = VQVAE(c["V"], c["Cvae"], c["ch"], c["ch_mult"], BLOCKS, scales).double()
        weights = load_file(f"{folder}/weights.safetensors")
        vae.load_state_dict({k[4:]: v.double() for k, v in weights.items() if k.startswith("vae.")}, strict=False)
        tensors = []
        for key, value in vae.state_dict().items():
            if key.startswith(("encoder.", "quant_conv.")):
                center, exp = recipe(key, value.shape)
                tensors.append(dict(name=key, shape=list(value.shape), center=center, exp=exp))
                value.copy_(made(center, exp, mixed("vae." + key, value.numel(), SEED), value.shape))
        pixels = mixed("image", count * 3 * vae.side**2, SEED) // 4 + 127
        image = torch.tensor(pixels.clip(0, 255)).reshape(count, vae.side, vae.side, 3)

        def run(dtype):
            model, x = vae.to(dtype), (image.permute(0, 3, 1, 2).to(dtype) / 127.5 - 1)
            latent = model.latent(x)
            return latent, torch.cat(model.quantize.encode(latent), 1)

        exact, tokens = run(torch.float64)
        near, same = run(torch.float32)
        assert torch.equal(tokens, same), f"{name}: choose another seed"
        mask, keep = masks(scales, 20)
        config = dict(
            patch_nums=scales, seed=SEED, tensors=tensors, f32_vs_f64=float((near.double() - exact).abs().max())
        )
        save_file(
            dict(image=image.byte(), latent=exact.permute(0, 2, 3, 1).float().contiguous(), tokens=tokens.int(), mask=mask, keep=keep),
            f"{folder}/encoder.safetensors",
            metadata={"config": json.dumps(config)},
        )
        used = tokens.unique().numel()
        print(f"{name}: {config['f32_vs_f64']:.2e}, latent {exact.std():.2f}, {used} tokens, {keep.float().mean():.2f} stay")


if __name__ == "__main__":
    main()
