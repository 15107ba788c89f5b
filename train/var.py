"""VAR: next-scale prediction over the token maps of tokenizer.py (official architecture and state-dict names).

One extension: a second condition table.  cond = class_emb[label] + style_emb[style]; the last row of each table means
"not given".  A model with n_styles = 0 has no `style_emb` and is the official layout.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


class SelfAttention(nn.Module):
    def __init__(self, width, heads, depth):
        super().__init__()
        self.heads, self.head_dim = heads, width // heads
        self.scale_mul_1H11 = nn.Parameter(torch.full((1, heads, 1, 1), math.log(4.0)))
        self.max_scale_mul = math.log(100)
        self.mat_qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.register_buffer("zero_k_bias", torch.zeros(width))  # keys have no bias
        self.proj = nn.Linear(width, width)
        self.proj.weight.data.div_(math.sqrt(2 * depth))
        self.cache = None

    def forward(self, x, mask):
        b, l, c = x.shape
        bias = torch.cat([self.q_bias, self.zero_k_bias, self.v_bias])
        qkv = F.linear(x, self.mat_qkv.weight, bias).view(b, l, 3, self.heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, H, l, hd]
        q = F.normalize(q, dim=-1) * self.scale_mul_1H11.clamp_max(self.max_scale_mul).exp()
        k = F.normalize(k, dim=-1)
        if self.cache is not None:  # generation: keys and values of the scales so far
            k, v = (torch.cat(p, 2) if p[0] is not None else p[1] for p in zip(self.cache, (k, v)))
            self.cache = (k, v)
        q, k = q.to(v.dtype), k.to(v.dtype)
        o = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0)
        return self.proj(o.transpose(1, 2).reshape(b, l, c))


class Mlp(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.fc2.weight.data.div_(math.sqrt(2 * depth))

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def ada_linear(width, parts):
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


class Block(nn.Module):
    def __init__(self, width, heads, depth, shared_aln):
        super().__init__()
        self.width = width
        self.attn, self.ffn = SelfAttention(width, heads, depth), Mlp(width, depth)
        if shared_aln:
            self.ada_gss = nn.Parameter(torch.randn(1, 1, 6, width) / width**0.5)
        else:
            self.ada_lin = ada_linear(width, 6)

    def forward(self, x, cond, shared, mask):
        ada = shared + self.ada_gss if shared is not None else self.ada_lin(cond).view(-1, 1, 6, self.width)
        g1, g2, s1, s2, b1, b2 = ada.unbind(2)  # gains, scales, shifts
        norm = lambda v: F.layer_norm(v, (self.width,), eps=1e-6)
        x = x + g1 * self.attn(norm(x) * (1 + s1) + b1, mask)
        return x + g2 * self.ffn(norm(x) * (1 + s2) + b2)


class HeadNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width, self.ada_lin = width, ada_linear(width, 2)

    def forward(self, x, cond):
        scale, shift = self.ada_lin(cond).view(-1, 1, 2, self.width).unbind(2)
        return F.layer_norm(x, (self.width,), eps=1e-6) * (1 + scale) + shift


def subnet(depth, blocks, first, n_scales):
    """Blocks that run at each scale: all of them before scale `first`, then `blocks` of them, evenly, with both ends.

    VARiant (arXiv 2511.16546); the lists are stored, since those of different sizes are not nested.
    """
    few = sorted({i * (depth - 1) // max(1, blocks - 1) for i in range(blocks)})
    return [list(range(depth)) if k < first else few for k in range(n_scales)]


class VAR(nn.Module):
    def __init__(self, n_classes, n_styles, vocab, z, width, depth, heads, scales, shared_aln=False):
        super().__init__()
        self.config = dict(
            n_classes=n_classes, n_styles=n_styles, vocab=vocab, z=z, width=width, depth=depth, heads=heads,
            scales=list(scales), shared_aln=shared_aln,
        )  # fmt: skip
        self.scales, self.lengths = tuple(scales), [pn * pn for pn in scales]
        total, std = sum(self.lengths), math.sqrt(1 / width / 3)
        self.word_embed = nn.Linear(z, width)
        self.class_emb = nn.Embedding(n_classes + 1, width)
        if n_styles:
            self.style_emb = nn.Embedding(n_styles + 1, width)
        self.pos_start = nn.Parameter(torch.randn(1, self.lengths[0], width) * std)
        self.pos_1LC = nn.Parameter(torch.randn(1, total, width) * std)
        self.lvl_embed = nn.Embedding(len(scales), width)
        self.shared_ada_lin = ada_linear(width, 6) if shared_aln else None
        self.blocks = nn.ModuleList(Block(width, heads, depth, shared_aln) for _ in range(depth))
        self.head_nm, self.head = HeadNorm(width), nn.Linear(width, vocab)
        level = torch.repeat_interleave(torch.arange(len(scales)), torch.tensor(self.lengths))
        self.register_buffer("lvl_1L", level.view(1, total))
        see = level.view(-1, 1) >= level.view(1, -1)  # a token sees its own scale and the coarser ones
        bias = torch.zeros(total, total).masked_fill(~see, -torch.inf)
        # Derivable, so not part of the checkpoint (the official file holds it).
        self.register_buffer("attn_bias_for_masking", bias.view(1, 1, total, total), persistent=False)
        self.init(std)

    @torch.no_grad()
    def init(self, std):
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0, std)
            elif isinstance(module, nn.Linear):
                factor = 1 / math.sqrt(2 * len(self.blocks)) if module.out_features * 4 == module.in_features else 1
                module.weight.normal_(0, std * factor)
                if module.bias is not None:
                    module.bias.zero_()
        self.head.weight.mul_(0.02)
        width = self.config["width"]
        # The official start has all gains at ~0; a short training cannot wait for them to grow, so they start at 0.3.
        for last in [self.shared_ada_lin] if self.shared_ada_lin else [b.ada_lin for b in self.blocks]:
            last[1].weight.mul_(0.5)
            last[1].weight[: 2 * width].mul_(0.1)
            last[1].bias[: 2 * width] = 0.3
        for block in self.blocks:
            if self.shared_ada_lin:
                block.ada_gss.mul_(0.1)
        self.head_nm.ada_lin[1].weight.mul_(0.5)

    def condition(self, label, style):
        cond = self.class_emb(label)
        return cond + self.style_emb(style) if hasattr(self, "style_emb") else cond

    def first_input(self, cond):
        return cond.unsqueeze(1) + self.pos_start

    def positions(self):
        return self.lvl_embed(self.lvl_1L) + self.pos_1LC

    def body(self, x, cond, mask, active=None):
        """`active`: tokens that each block sees, from the first on; it leaves the others as they are."""
        shared = None
        if self.shared_ada_lin is not None:
            shared = self.shared_ada_lin(cond).view(-1, 1, 6, x.shape[2])
        for block, n in zip(self.blocks, active or [x.shape[1]] * len(self.blocks)):
            if n >= x.shape[1]:
                x = block(x, cond, shared, mask)
            elif n:
                seen = None if mask is None else mask[..., :n, :n]
                x = torch.cat([block(x[:, :n], cond, shared, seen), x[:, n:]], 1)
        return self.head(self.head_nm(x, cond))

    def forward(self, label, style, inputs, active=None):
        """Teacher forcing: inputs [B, L' - l_0, z] are the reduced f_hat of every scale but the first -> [B, L', V].

        L' may be less than L: then only the first scales are run.  active: the blocks of each scale; a block that was
        left out stays out.
        """
        cond = self.condition(label, style)
        x = torch.cat([self.first_input(cond), self.word_embed(inputs)], 1)
        n = x.shape[1]
        x = x + self.positions()[:, :n]
        if active is not None:
            active = [sum(l for l, on in zip(self.lengths, active) if b in on) for b in range(len(self.blocks))]
        return self.body(x, cond, self.attn_bias_for_masking[:, :, :n, :n], active)

    @torch.no_grad()
    def generate(self, quantizer, label, style, guidance=2.0, top_k=0, top_p=0.0, temperature=1.0, generator=None,
                 active=None):  # fmt: skip
        """Sample the token maps of a batch, scale by scale with a key/value cache -> list of S index maps [B, l]."""
        batch, n_scales = len(label), len(self.scales)
        drop = lambda t, n: torch.full_like(t, n)
        rows_label = torch.cat([label, drop(label, self.config["n_classes"])])
        rows_style = torch.cat([style, drop(style, self.config["n_styles"])])
        cond = self.condition(rows_label, rows_style)
        positions, at = self.positions(), 0
        side = self.scales[-1]
        f_hat = torch.zeros(batch, self.config["z"], side, side)
        for block in self.blocks:
            block.attn.cache = (None, None)
        x, out = self.first_input(cond), []
        for k, length in enumerate(self.lengths):
            on = None if active is None else [length * (b in active[k]) for b in range(len(self.blocks))]
            z = self.body(x + positions[:, at : at + length], cond, None, on)
            at += length
            t = guidance * k / max(1, n_scales - 1)
            logits = ((1 + t) * z[:batch] - t * z[batch:]) / temperature
            idx = sample(logits, top_k, top_p, generator)
            out.append(idx)
            f_hat = f_hat + quantizer.scale_map(k, idx)
            if k < n_scales - 1:
                x = self.word_embed(quantizer.next_input(k, f_hat)).repeat(2, 1, 1)
        for block in self.blocks:
            block.attn.cache = None
        return out


def sample(logits, top_k, top_p, generator):
    """Top-k, then top-p (the smallest set whose mass exceeds top_p), then one draw per token."""
    if top_k == 1:
        return logits.argmax(-1)
    if top_k:
        kth = logits.topk(top_k, dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    if top_p:
        ordered, order = logits.sort(dim=-1)
        remove = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
        remove[..., -1] = False
        logits = logits.masked_fill(remove.scatter(-1, order, remove), -torch.inf)
    p = logits.softmax(-1)
    return torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(p.shape[:-1])
