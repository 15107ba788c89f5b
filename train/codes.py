#!/usr/bin/env python3
"""Run the trained tokenizer's encoder once over every picture; VAR training then never touches pixels.

Writes latent f32 [N,z,P,P] (what is quantized) and code i16 [N,L] (the clean token indices), in the archive's order.
"""

import argparse

import torch
from safetensors.torch import save_file

from data import Emoji, to_float
from tokenizer import VQVAE


def load_tokenizer(path):
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = VQVAE(**state["config"])
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False)


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--data", required=True)
    p.add_argument("--tokenizer", required=True, help="tokenizer.pt")
    p.add_argument("--out", required=True, help="codes.safetensors")
    args = p.parse_args()
    model = load_tokenizer(args.tokenizer)
    data = Emoji(args.data, model.side)
    latents, codes = [], []
    with torch.no_grad():
        for i in range(0, len(data.images), 64):
            f = model.latent(to_float(data.images[i : i + 64]))
            latents.append(f)
            codes.append(torch.cat(model.quantize.encode(f), 1).to(torch.int16))
    save_file({"latent": torch.cat(latents), "code": torch.cat(codes)}, args.out)


if __name__ == "__main__":
    main()
