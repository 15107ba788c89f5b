#!/usr/bin/env python3
"""Train the classifier on real training pictures only; its accuracy is stated on (name, style) cells it never saw."""

import argparse
import os

import torch
import torch.nn.functional as F

from classifier import Classifier, accuracy, describe
from data import CELL, TRAIN, Emoji, to_float
from schedule import Budget, Ema, Log, cosine, save

FIELDS = ["seconds", "images", "loss", "held_out_top1", "held_out_top5", "held_out_style"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--out", required=True, help="folder for classifier.pt (fp16) and the log")
    p.add_argument("--seconds", type=float, default=1000, help="wall-clock budget, which is also the LR schedule")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--weight-decay", type=float, default=0.05)
    p.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256])
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--log-seconds", type=float, default=100)
    p.add_argument("--seed", type=int, default=0)
    return p.parse_args()


def augmented(x):
    """Pictures in [-1,1]: scale, stretch, turn, move, tint, soften.  Never mirrored: left and right are names."""
    n, uniform = len(x), lambda lo, hi, *shape: torch.empty(len(x), *shape).uniform_(lo, hi)
    angle, size, stretch = uniform(-0.2, 0.2), uniform(0.85, 1.2), uniform(0.92, 1.08)
    move = uniform(-0.12, 0.12, 2)
    cos, sin = angle.cos() * size, angle.sin() * size
    turn = torch.stack(
        [torch.stack([cos * stretch, -sin, move[:, 0]], 1), torch.stack([sin, cos / stretch, move[:, 1]], 1)], 1
    )
    grid = F.affine_grid(turn, x.shape, align_corners=False)
    x = F.grid_sample(x - 1, grid, padding_mode="zeros", align_corners=False) + 1  # outside is white
    soft = torch.rand(n) < 0.3  # the look of an enlarged 32x32 picture
    x[soft] = F.interpolate(F.avg_pool2d(x[soft], 2), scale_factor=2, mode="bilinear", align_corners=False)
    ink = (1 - x) * uniform(0.75, 1.25, 3, 1, 1)  # white stays white
    grey = ink.mean(1, keepdim=True)
    return 1 - (grey + (ink - grey) * uniform(0.6, 1.3, 1, 1, 1))


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    data = Emoji(args.data)
    train, held = data.where(TRAIN), data.where(CELL)
    model = Classifier(len(data.class_names), len(data.style_names), args.widths).to(memory_format=torch.channels_last)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decay, "weight_decay": args.weight_decay}, {"params": plain}],
                                  lr=args.lr, betas=(0.9, 0.98), weight_decay=0)  # fmt: skip
    ema, budget, images = Ema(model, 0.995), Budget(args.seconds), 0
    log = Log(os.path.join(args.out, "classifier.csv"), FIELDS)
    path, shown, total, steps = os.path.join(args.out, "classifier.pt"), 0.0, 0.0, 0
    order, at = train[torch.randperm(len(train))], 0
    shadow = Classifier(**model.config)

    def report():
        shadow.load_state_dict(ema.shadow)
        shadow.eval()
        _, name, style = describe(shadow, data.images[held])
        top1, top5, right = accuracy(name, style, data.label[held], data.style[held])
        log.write(seconds=int(budget.spent()), images=images, loss=total / max(1, steps), held_out_top1=top1,
                  held_out_top5=top5, held_out_style=right)  # fmt: skip
        half = {k: v.half() if v.is_floating_point() else v for k, v in shadow.state_dict().items()}
        save(path, dict(config=model.config, model=half, held_out=(top1, top5, right)))

    while budget.progress() < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * cosine(budget.progress(), 0.1)
        if at + args.batch > len(order):
            order, at = train[torch.randperm(len(train))], 0
        rows, at = order[at : at + args.batch], at + args.batch
        x = augmented(to_float(data.images[rows])).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            name, style = model(x)
        loss = F.cross_entropy(name.float(), data.label[rows], label_smoothing=0.1)
        loss = loss + 0.3 * F.cross_entropy(style.float(), data.style[rows], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        ema.update(model)
        images, steps, total = images + len(rows), steps + 1, total + loss.item()
        if budget.spent() - shown > args.log_seconds:
            shown = budget.spent()
            report()
            total, steps = 0.0, 0
    if steps:
        report()


if __name__ == "__main__":
    main()
