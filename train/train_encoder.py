#!/usr/bin/env python3
"""Train an encoder for a .vmt file that has none: pictures to the latents that its quantizer and decoder know.

The file's codebook, phi convolutions and first decoder stay as they are.  Two kinds of lessons: training pictures,
whose reconstruction through the frozen rest should be the picture again; and pictures that the model itself drew
(--drawn), whose latents are known exactly.  Stops when its wall-clock budget is used up; run again with the same
--out to resume.  Writes encoder.safetensors with the official names for `varmint convert --encoder`.
"""

import argparse
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from data import CELL, TRAIN, Emoji, shift, to_float, write_grid
from schedule import Budget, Ema, Log, cosine, save
from tokenizer import Encoder
from train_decoder import pixels
from train_tokenizer import evaluate
from vmt import Vmt, frozen_tokenizer

FIELDS = ["seconds", "steps", "images", "loss", "l1", "commitment", "latent", "psnr_train", "psnr_held_out", "drawn_tokens"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--model", required=True, help="the .vmt file")
    p.add_argument("--drawn", help="images and tokens of the model: `varmint generate --requests .. --out *.safetensors`")
    p.add_argument("--out", required=True, help="folder for checkpoint, log, sheet and encoder.safetensors")
    p.add_argument("--ch", type=int, default=16, help="width at full resolution: 8, 16 or a multiple of 32")
    p.add_argument("--ch-mult", type=int, nargs="+", default=[1, 2, 4, 4], help="as many levels as the decoder has")
    p.add_argument("--res-blocks", type=int, default=1, help="residual blocks per level")
    p.add_argument("--seconds", type=float, default=2700, help="wall-clock budget, which is also the LR schedule")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--edge-weight", type=float, default=0.5)
    p.add_argument("--commitment", type=float, default=0.25, help="weight of the distance from what is quantized to its codes")
    p.add_argument("--latent-weight", type=float, default=0.25, help="weight of the distance to the latents of drawn pictures")
    p.add_argument("--warmup-steps", type=int, default=1200, help="steps on drawn pictures alone, before the decoder is asked")
    p.add_argument("--log-seconds", type=float, default=120)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--f32", action="store_true", help="no bf16 autocast")
    return p.parse_args()


def jittered(x):
    """Half of the pictures moved by up to four pixels."""
    moves = torch.randint(-4, 5, (len(x), 2)) * torch.randint(0, 2, (len(x), 1))
    return torch.stack([shift(picture, *move) for picture, move in zip(x, moves.tolist())])


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    model = frozen_tokenizer(Vmt(args.model), lambda z: Encoder(args.ch, args.ch_mult, args.res_blocks, z))
    if len(args.ch_mult) != len(model.decoder.up):
        raise SystemExit(f"--ch-mult: the decoder has {len(model.decoder.up)} levels")
    learning = torch.nn.ModuleDict({"encoder": model.encoder, "quant_conv": model.quant_conv})
    print(f"{sum(p.numel() for p in learning.parameters())} parameters", flush=True)
    data = Emoji(args.data, model.side)
    train, held = data.images[data.where(TRAIN)], data.images[data.where(CELL)]
    probe = lambda images: images[:: max(1, len(images) // 96)][:96]
    probe_train, probe_held = probe(train), probe(held)
    drawn = None
    if args.drawn:
        file = load_file(args.drawn)
        drawn = file["images"].permute(0, 3, 1, 2).contiguous()
        counts = [s * s for s in model.quantize.scales]
        with torch.no_grad():
            wanted = torch.cat([model.quantize.f_hat_of(t.long().split(counts, 1)) for t in file["tokens"].split(256)])
        # The last tenth is for the examination.
        known = len(drawn) - len(drawn) // 10
        exam = slice(known, known + 96)
        exam_tokens = file["tokens"][exam].long()

    autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=not args.f32)
    optimizer = torch.optim.AdamW(learning.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0)
    ema = Ema(learning, 0.998)
    step, images, budget, path = 0, 0, Budget(args.seconds), os.path.join(args.out, "encoder.pt")
    if os.path.exists(path):
        state = torch.load(path, weights_only=True)
        learning.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.shadow, ema.step = state["ema"], state["ema_step"]
        step, images, budget = state["step"], state["images"], Budget(args.seconds, state["spent"])
        torch.manual_seed(args.seed + step)
    log = Log(os.path.join(args.out, "encoder.csv"), FIELDS)
    shown, sums = budget.spent(), torch.zeros(5)

    def checkpoint():
        save(
            path,
            dict(
                model=learning.state_dict(), ema=ema.shadow, ema_step=ema.step, step=step, images=images,
                spent=budget.spent(), optimizer=optimizer.state_dict(), args=vars(args),
            ),
        )  # fmt: skip
        target = os.path.join(args.out, "encoder.safetensors")
        save_file({k: v.contiguous() for k, v in ema.shadow.items()}, target + ".tmp")
        os.replace(target + ".tmp", target)

    @torch.no_grad()
    def examine():
        """With the averaged weights: PSNR of reconstructions, and how many tokens of drawn pictures come back."""
        live = {k: v.clone() for k, v in learning.state_dict().items()}
        learning.load_state_dict(ema.shadow)
        a, b = evaluate(model, probe_train)[0], evaluate(model, probe_held)[0]
        same = float("nan")
        if drawn is not None:
            same = float((torch.cat(model.encode(to_float(drawn[exam])), 1) == exam_tokens).float().mean())
        x = probe_held[:32]
        y = (model.image_of(model.encode(to_float(x))) * 255).byte()
        cells = torch.stack([t.unflatten(0, (2, 16)) for t in (x, y)], 1).flatten(0, 2)
        write_grid(os.path.join(args.out, "sheet.png"), cells, 16)
        learning.load_state_dict(live)
        return dict(psnr_train=a, psnr_held_out=b, drawn_tokens=same)

    while budget.progress() < 1:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * cosine(budget.progress())
        warm = drawn is not None and step < args.warmup_steps
        x = jittered(to_float(train[torch.randint(len(train), (args.batch // 2 if drawn is not None else args.batch,))]))
        batch, pick = x, None
        if drawn is not None:
            pick = torch.randint(known, (args.batch if warm else args.batch // 2,))
            taught = to_float(drawn[pick])
            batch = taught if warm else torch.cat([x, taught])
        with autocast():
            f = model.latent(batch)
        f = f.float()
        loss = l1 = commitment = latent = torch.zeros(())
        if pick is not None:
            latent = F.mse_loss(f[-len(pick) :], wanted[pick])
            loss = loss + (1.0 if warm else args.latent_weight) * latent
        if not warm:
            own = f[: len(x)]
            through, vq, _, _ = model.quantize(own, beta=1.0)
            with autocast():
                y = model.decode(through)
            y = y.float()
            # The quantizer's own half of its loss has no gradient: its codes are frozen.
            commitment, l1 = vq, F.l1_loss(y, x)
            loss = loss + pixels(y, x, args.edge_weight).mean() + args.commitment * commitment
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning.parameters(), 1.0)
        optimizer.step()
        ema.update(learning)
        sums += torch.tensor([loss.item(), l1.item(), commitment.item(), latent.item(), 1.0])
        step, images = step + 1, images + len(batch)
        if budget.spent() - shown > args.log_seconds:
            shown = budget.spent()
            found = examine()
            m = (sums[:4] / sums[4].clamp_min(1)).tolist()
            log.write(
                seconds=int(shown), steps=step, images=images, loss=m[0], l1=m[1], commitment=m[2], latent=m[3], **found
            )
            sums.zero_()
            checkpoint()
    checkpoint()
    learning.load_state_dict(ema.shadow)
    for name, pictures in (("train", train[:: max(1, len(train) // 1000)]), ("held-out", held)):
        value, used = evaluate(model, pictures)
        print(f"final {name}: PSNR {value:.2f} dB, {used} of {model.config['vocab']} codes used", flush=True)


if __name__ == "__main__":
    main()
