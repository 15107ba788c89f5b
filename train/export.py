#!/usr/bin/env python3
"""Write one folder that `varmint convert` reads: var.safetensors, vae.safetensors (official key names), meta.json.

With --decoder also decoder-NAME.safetensors: another way from the same latent to pixels.
"""

import argparse
import json
import os

import torch
from safetensors.torch import save_file

from codes import load_tokenizer
from data import TRAIN, Emoji, to_float
from tokenizer import ImageDecoder
from var import VAR

LICENCE = """Model weights: MIT OR Apache-2.0, like the code that trained them.
Trained on drawings of these openly licensed emoji sets (no ShareAlike set among them):
Noto Emoji and Noto Emoji v1 (blob): (c) Google, Apache-2.0.
Twemoji: (c) Twitter, Inc. and other contributors, graphics CC BY 4.0.
EmojiOne 2: (c) EmojiOne (JoyPixels), CC BY 4.0.
Fluent Emoji (flat, color, 3D): (c) Microsoft Corporation, MIT.
FxEmoji: (c) Mozilla, Apache-2.0.
Names: Unicode CLDR through emojibase-data, MIT."""


def load_var(path):
    """The averaged weights of a training checkpoint."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = VAR(**state["config"])
    model.load_state_dict(state["ema"])
    return model.eval().requires_grad_(False)


def decoder_state(path):
    """The averaged weights of a narrower decoder, under their names in a VQVAE: post_quant_conv.* and decoder.*"""
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = ImageDecoder(**state["config"])
    model.load_state_dict(state["ema"])
    return {k: v.contiguous() for k, v in model.state_dict().items()}


@torch.no_grad()
def preview(tokenizer, images):
    """Least squares from latent channels to mean colours in 0..1: what a device shows while scales run."""
    x = torch.cat([tokenizer.latent(to_float(b)) for b in images.split(64)])
    y = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, x.shape[2:])
    rows = lambda t: t.permute(0, 2, 3, 1).flatten(0, 2)
    x = torch.cat([rows(x), torch.ones(x.shape[0] * x.shape[2] * x.shape[3], 1)], 1)
    w = torch.linalg.lstsq(x, rows(y)).solution
    return {"weight": w[:-1].t().tolist(), "bias": w[-1].tolist()}


def write(folder, name, save):
    """Write beside, then rename, so that a reader never sees half a file."""
    path = os.path.join(folder, name)
    save(path + ".tmp")
    os.replace(path + ".tmp", path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors (for the names)")
    p.add_argument("--tokenizer", required=True, help="tokenizer.pt")
    p.add_argument("--var", required=True, help="var.pt")
    p.add_argument("--name", required=True, help="model name, e.g. emoji-64")
    p.add_argument("--out", required=True, help="folder to write")
    p.add_argument("--decoder", action="append", default=[], metavar="NAME=DECODER_PT",
                   help="also write decoder-NAME.safetensors, from train_decoder.py")  # fmt: skip
    p.add_argument("--guidance", type=float, default=1.5)
    p.add_argument("--top-k", type=int, default=10)
    p.add_argument("--top-p", type=float, default=0.5)
    args = p.parse_args()
    tokenizer, var = load_tokenizer(args.tokenizer), load_var(args.var)
    data = Emoji(args.data, tokenizer.side)
    os.makedirs(args.out, exist_ok=True)
    # The int64 lvl_1L stays: a reader takes the scale schedule from it.
    var_state = {k: v.contiguous() for k, v in var.state_dict().items()}
    vae_state = {k: v.contiguous() for k, v in tokenizer.state_dict().items()}
    meta = {
        "name": args.name,
        "licence": LICENCE,
        "labels": {"class": data.class_names, "style": data.style_names},
        "defaults": {"guidance": args.guidance, "top_k": args.top_k, "top_p": args.top_p, "temperature": 1.0},
        "scale_sizes": list(var.scales),
        "preview": preview(tokenizer, data.images[data.where(TRAIN)][::16]),
        "var": var.config,
        "tokenizer": tokenizer.config,
    }
    write(args.out, "vae.safetensors", lambda path: save_file(vae_state, path))
    write(args.out, "var.safetensors", lambda path: save_file(var_state, path))

    def write_meta(path):
        with open(path, "w") as file:
            json.dump(meta, file, ensure_ascii=False, indent=1)

    write(args.out, "meta.json", write_meta)
    for item in args.decoder:
        name, file = item.split("=", 1)
        write(args.out, f"decoder-{name}.safetensors", lambda path: save_file(decoder_state(file), path))
    count = lambda state, prefix="": sum(v.numel() for k, v in state.items() if k.startswith(prefix))
    print(f"{args.out}: VAR {count(var_state)} values, decoder {count(vae_state, 'decoder.')} values")


if __name__ == "__main__":
    main()
