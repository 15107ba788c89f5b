#!/usr/bin/env python3
"""Train VAR on pre-computed codes.  Stops when its wall-clock budget is used up; run again with the same --out to resume."""

import argparse
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from codes import load_tokenizer
from data import CELL, TRAIN, Emoji, write_grid
from export import load_var
from schedule import Budget, Ema, Log, cosine, save
from var import VAR, subnet

FIELDS = ["seconds", "steps", "images", "loss", "coarse_acc", "fine_acc", "held_out_loss", "held_out_acc"]


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--data", required=True, help="emoji64.safetensors")
    p.add_argument("--codes", required=True, help="codes.safetensors")
    p.add_argument("--tokenizer", required=True, help="tokenizer.pt")
    p.add_argument("--out", required=True, help="folder for checkpoint, log and sheets")
    p.add_argument("--seconds", type=float, default=3000, help="wall-clock budget, which is also the LR schedule")
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--width", type=int, default=256)
    p.add_argument("--depth", type=int, default=8)
    p.add_argument("--heads", type=int, default=4)
    p.add_argument("--shared-aln", action="store_true", help="one AdaLN projection for all blocks (smaller file)")
    p.add_argument("--lr", type=float, default=2e-3, help="AdamW: embeddings, biases, head")
    p.add_argument("--muon-lr", type=float, default=4e-3, help="Muon: the matrices of the blocks")
    p.add_argument("--weight-decay", type=float, default=0.02)
    p.add_argument("--drop", type=float, default=0.1, help="chance to drop the class, the style, or both (each)")
    p.add_argument("--corrupt", type=float, default=0.15, help="highest share of input tokens replaced by near codes")
    p.add_argument("--coarse", type=float, default=0.35, help="share of steps that train the coarse scales only")
    p.add_argument("--coarse-until", type=float, default=0.15, help="before this progress every step is coarse")
    p.add_argument("--init", help="var.pt to start from: its averaged weights")
    p.add_argument("--subnets", nargs="*", default=[], metavar="BLOCKS:SCALE",
                   help="also train with so few blocks from that scale on, e.g. 4:4 2:4 (VARiant)")  # fmt: skip
    p.add_argument("--subnet-chance", type=float,
                   help="share of the full steps that train a subnet; by default 0.2, rising to 1, then 1")  # fmt: skip
    p.add_argument("--teacher", help="var.pt to distil from, at first on all tokens, ever more from the data (CoDe's refiner)")
    p.add_argument("--refines", type=int, default=0, metavar="SCALE", help="with --teacher: the first scale it will run")
    p.add_argument("--log-seconds", type=float, default=120)
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--f32", action="store_true", help="no bf16 autocast")
    p.add_argument("--compile", action="store_true", help="torch.compile the training step (needs a C++ compiler)")
    return p.parse_args()


@torch.no_grad()
def corrupted_walk(quantizer, latent, rate, n_scales):
    """Quantize scale by scale, but let some of the *inputs* be wrong and the later targets repair them.

    At generation the model must go on from its own imperfect draws; here it learns to.
    rate [B]: chance per token.  -> targets [B, L'], word_embed inputs [B, L' - l_0, z] over the first n_scales, f_hat.
    """
    rest, f_hat, targets, inputs = latent, torch.zeros_like(latent), [], []
    last, e = len(quantizer.scales) - 1, quantizer.embedding.weight
    for k in range(n_scales):
        pn = quantizer.scales[k]
        r = F.interpolate(rest, size=(pn, pn), mode="area") if k < last else rest
        r = r.flatten(2).transpose(1, 2)
        idx = quantizer.nearest(r.reshape(-1, r.shape[2])).view(len(latent), -1)
        targets.append(idx)
        used = idx.clone()
        wrong = torch.rand(idx.shape) < rate[:, None]
        if wrong.any():
            near = (e.square().sum(1) - 2 * r[wrong] @ e.t()).topk(8, largest=False).indices
            used[wrong] = near.gather(1, torch.randint(8, (len(near), 1)))[:, 0]
        h = quantizer.scale_map(k, used)
        f_hat, rest = f_hat + h, rest - h
        if k + 1 < n_scales:
            inputs.append(quantizer.next_input(k, f_hat))
    return torch.cat(targets, 1), torch.cat(inputs, 1), f_hat


def optimizers(model, args):
    """Muon for the two-dimensional matrices inside the blocks, AdamW for everything else."""
    named = [(n, p) for n, p in model.named_parameters()]
    inner = lambda n, p: p.ndim == 2 and ("blocks." in n or "shared_ada" in n)
    muon = torch.optim.Muon(
        [p for n, p in named if inner(n, p)], lr=args.muon_lr, momentum=0.95, weight_decay=args.weight_decay,
        adjust_lr_fn="match_rms_adamw", ns_steps=5,
    )  # fmt: skip
    adam = torch.optim.AdamW(
        [p for n, p in named if not inner(n, p)], lr=args.lr, betas=(0.9, 0.97), weight_decay=args.weight_decay
    )
    return [muon, adam]


def subnet_chance(progress):
    """The progressive recipe of VARiant: mostly the whole network, then ever more subnets, then only those."""
    return min(1.0, max(0.2, 0.2 + 0.8 * (progress - 0.2) / 0.6))


def distil(z, teacher_z, targets, first, progress):
    """CoDe's schedule: KL to the teacher on all tokens, fading into the plain loss on the tokens from `first` on.

    Source: arXiv 2411.17787; without the phase on all tokens the refiner does not learn to read its prefix.
    """
    kl = F.kl_div(z.log_softmax(-1), teacher_z.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean()
    hard = F.cross_entropy(z[:, first:].flatten(0, 1), targets[:, first:].flatten())
    return (1 - progress) * kl + progress * hard


def lengths_until(model, n_scales):
    return sum(model.lengths[:n_scales])


def main():
    args = arguments()
    torch.manual_seed(args.seed)
    if args.threads:
        torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    tokenizer = load_tokenizer(args.tokenizer)
    data = Emoji(args.data, tokenizer.side)
    latents, codes = (load_file(args.codes)[k] for k in ("latent", "code"))
    train, held = data.where(TRAIN), data.where(CELL)[:512]
    n_classes, n_styles = len(data.class_names), len(data.style_names)
    t = tokenizer.config
    scales, n_scales = t["scales"], len(t["scales"])
    # The coarse scales are about a quarter of the tokens and hold most of what the name and style decide.
    n_coarse = max(k for k in range(n_scales) if sum(s * s for s in scales[:k]) * 4 <= sum(s * s for s in scales))
    model = VAR(
        n_classes, n_styles, t["vocab"], t["z"], args.width, args.depth, args.heads, scales, args.shared_aln
    )
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters; coarse = first {n_coarse} scales")
    if args.init:
        model.load_state_dict(torch.load(args.init, weights_only=True)["ema"])
    subnets = {text: subnet(args.depth, *map(int, text.split(":")), n_scales) for text in args.subnets}
    teacher = load_var(args.teacher) if args.teacher else None
    opts, ema = optimizers(model, args), Ema(model, 0.998)
    step, images, budget, path = 0, 0, Budget(args.seconds), os.path.join(args.out, "var.pt")
    if os.path.exists(path):
        state = torch.load(path, weights_only=True)
        model.load_state_dict(state["model"])
        for opt, s in zip(opts, state["optimizers"]):
            opt.load_state_dict(s)
        ema.shadow, ema.step = state["ema"], state["ema_step"]
        step, images, budget = state["step"], state["images"], Budget(args.seconds, state["spent"])
        torch.manual_seed(args.seed + step)
    log = Log(os.path.join(args.out, "var.csv"), FIELDS + [f"held_out_loss {name}" for name in subnets])
    shown, sums = budget.spent(), torch.zeros(6)
    order, at = train[torch.randperm(len(train))], 0
    autocast = lambda: torch.autocast("cpu", torch.bfloat16, enabled=not args.f32)

    def checkpoint():
        save(
            path,
            dict(
                config=model.config, model=model.state_dict(), ema=ema.shadow, ema_step=ema.step, step=step,
                images=images, spent=budget.spent(), optimizers=[o.state_dict() for o in opts], args=vars(args),
            ),
        )  # fmt: skip

    def step_loss(label, style, inputs, targets, active=None):
        with autocast():
            z = model(label, style, inputs, active).float()
            soft = teacher(label, style, inputs).float() if teacher else None
        if teacher:
            loss = distil(z, soft, targets, lengths_until(model, args.refines), budget.progress())
        else:
            loss = F.cross_entropy(z.flatten(0, 1), targets.flatten())
        return loss, z.detach().argmax(-1)

    if args.compile:
        step_loss = torch.compile(step_loss, dynamic=False)  # two shapes: coarse and full

    @torch.no_grad()
    def held_out(active=None):
        loss, right, n = 0.0, 0.0, 0
        for i in range(0, len(held), 64):
            rows = held[i : i + 64]
            targets, inputs, _ = corrupted_walk(tokenizer.quantize, latents[rows], torch.zeros(len(rows)), n_scales)
            with autocast():
                z = model(data.label[rows], data.style[rows], inputs, active).float()
            loss += F.cross_entropy(z.flatten(0, 1), targets.flatten(), reduction="sum").item()
            right += (z.argmax(-1) == targets).sum().item()
            n += targets.numel()
        return loss / n, right / n

    def sheet():
        cells = torch.cat([train[:: len(train) // 40][:40], data.where(CELL)[::50][:16]])
        maps = model.generate(
            tokenizer.quantize, data.label[cells], data.style[cells], 1.5, 10, 0.5,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
        made = (tokenizer.image_of(maps) * 255).byte()
        real = data.images[cells]
        page = torch.stack([real.unflatten(0, (4, 14)), made.unflatten(0, (4, 14))], 1).flatten(0, 2)
        write_grid(os.path.join(args.out, "sheet.png"), page, 14)

    while budget.progress() < 1:
        for opt, lr in zip(opts, (args.muon_lr, args.lr)):
            opt.param_groups[0]["lr"] = lr * cosine(budget.progress())
        coarse = budget.progress() < args.coarse_until or torch.rand(()) < args.coarse
        use, batch = (n_coarse, 2 * args.batch) if coarse else (n_scales, args.batch)
        if at + batch > len(order):
            order, at = train[torch.randperm(len(train))], 0
        rows, at = order[at : at + batch], at + batch
        targets, inputs, _ = corrupted_walk(
            tokenizer.quantize, latents[rows], torch.rand(len(rows)) * args.corrupt, use
        )
        label, style, u = data.label[rows].clone(), data.style[rows].clone(), torch.rand(len(rows))
        label[u < 2 * args.drop] = n_classes  # class alone, then both
        style[(u >= args.drop) & (u < 3 * args.drop)] = n_styles  # both, then style alone
        chance = subnet_chance(budget.progress()) if args.subnet_chance is None else args.subnet_chance
        active = None
        if subnets and not coarse and torch.rand(()) < chance:
            active = list(subnets.values())[torch.randint(len(subnets), ())]
        loss, guess = step_loss(label, style, inputs, targets, active)
        for opt in opts:
            opt.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        for opt in opts:
            opt.step()
        ema.update(model)
        step, images = step + 1, images + len(rows)
        with torch.no_grad():
            hit, cut = (guess == targets).float(), lengths_until(model, n_coarse)
            fine = 0.0 if coarse else 1.0
            sums += torch.tensor(
                [loss.item() * fine, fine, hit[:, :cut].mean(), 1.0, hit[:, cut:].mean() if fine else 0.0, 0.0]
            )
        if budget.spent() - shown > args.log_seconds:
            shown = budget.spent()
            live = {k: v.clone() for k, v in model.state_dict().items()}
            model.load_state_dict(ema.shadow)
            held_loss, held_acc = held_out()
            small = {f"held_out_loss {name}": held_out(active)[0] for name, active in subnets.items()}
            sheet()
            model.load_state_dict(live)
            log.write(
                seconds=int(shown), steps=step, images=images, loss=float(sums[0] / sums[1].clamp_min(1)),
                coarse_acc=float(sums[2] / sums[3]), fine_acc=float(sums[4] / sums[1].clamp_min(1)),
                held_out_loss=held_loss, held_out_acc=held_acc, **small,
            )  # fmt: skip
            sums.zero_()
            checkpoint()
    checkpoint()
    model.load_state_dict(ema.shadow)
    sheet()
    print("held-out loss %.4f, accuracy %.4f" % held_out(), flush=True)


if __name__ == "__main__":
    main()
