#!/usr/bin/env python3
"""Choose the sampling defaults: generate with var.py at several settings and let the classifier name the pictures.

The cells differ from those that evaluate.py requests.  Writes a contact sheet per setting beside the table.
"""

import argparse
import os

import torch
import torch.nn.functional as F

from classifier import accuracy, describe, load_classifier
from codes import load_tokenizer
from data import TRAIN, Emoji, write_grid
from export import load_var

SETTINGS = [  # guidance, top_k, top_p, temperature
    (2.0, 100, 0.95, 1.0),
    (2.0, 20, 0.8, 1.0),
    (3.0, 20, 0.8, 1.0),
    (3.0, 5, 0.0, 1.0),
    (5.0, 20, 0.8, 1.0),
    (2.0, 1, 0.0, 1.0),
    (4.0, 1, 0.0, 1.0),
]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--tokenizer", required=True)
    p.add_argument("--var", required=True)
    p.add_argument("--classifier")
    p.add_argument("--out", required=True, help="folder for the sheets")
    p.add_argument("--count", type=int, default=150)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--settings", type=float, nargs=4, action="append", metavar=("GUIDANCE", "TOP_K", "TOP_P", "TEMPERATURE"))
    args = p.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    tokenizer, model = load_tokenizer(args.tokenizer), load_var(args.var)
    judge, data = load_classifier(args.classifier) if args.classifier else None, Emoji(args.data, tokenizer.side)
    train = data.where(TRAIN)
    cells = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(7))[: args.count]]
    label, style = data.label[cells], data.style[cells]
    write_grid(os.path.join(args.out, "real.png"), data.images[cells], 15)
    for guidance, top_k, top_p, temperature in args.settings or SETTINGS:
        random, made = torch.Generator().manual_seed(0), []
        for a, b in zip(label.split(50), style.split(50)):
            maps = model.generate(tokenizer.quantize, a, b, guidance, int(top_k), top_p, temperature, random)
            made.append((tokenizer.image_of(maps) * 255).byte())
        images = torch.cat(made)
        write_grid(os.path.join(args.out, f"g{guidance:g}-k{top_k:g}-p{top_p:g}-t{temperature:g}.png"), images, 15)
        line = f"guidance {guidance:g}  top-k {top_k:g}  top-p {top_p:g}  temperature {temperature:g}"
        if judge:
            seen = F.interpolate(images.float(), (64, 64), mode="bilinear").round().byte()
            _, name, drawn = describe(judge, seen)
            line += "  name top-1 %.3f  top-5 %.3f  style %.3f" % accuracy(name, drawn, label, style)
        print(line, flush=True)


if __name__ == "__main__":
    main()
