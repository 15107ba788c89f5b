"""Multi-scale residual VQ-VAE: the image tokenizer of VAR (Tian et al. 2024).

The modules, their names and their arithmetic are those of the official release, so a state dict of this class is an
official-layout checkpoint.  Only the sizes differ.

    image [B,3,H,W] in [-1,1] --Encoder--> f [B,Cvae,P,P] --Quantizer--> S lists of token indices
    f_hat = sum_k phi_k(upsample(codebook[idx_k]))        --Decoder--> image
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F


def norm(ch):
    # 32 groups, so widths are multiples of 32; narrower (8 or 16, in narrow decoders only) every channel is a group.
    return nn.GroupNorm(min(32, ch), ch, eps=1e-6)


class ResnetBlock(nn.Module):
    def __init__(self, c_in, c_out):
        super().__init__()
        self.norm1, self.conv1 = norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2, self.conv2 = norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x):
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.nin_shortcut(x) + h


class AttnBlock(nn.Module):
    """One head over all H*W positions."""

    def __init__(self, ch):
        super().__init__()
        self.norm, self.qkv, self.proj_out = norm(ch), nn.Conv2d(ch, 3 * ch, 1), nn.Conv2d(ch, ch, 1)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, c, h * w).unbind(1)
        a = torch.softmax(q.transpose(1, 2) @ k * c**-0.5, dim=2)  # [B, query, key]
        return x + self.proj_out((v @ a.transpose(1, 2)).reshape(b, c, h, w))


class Downsample(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.conv = nn.Conv2d(ch, ch, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # pad right and bottom only


class Upsample(nn.Module):
    def __init__(self, ch):
        super().__init__()
        self.conv = nn.Conv2d(ch, ch, 3, padding=1)

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


def mid_stage(ch):
    m = nn.Module()
    m.block_1, m.attn_1, m.block_2 = ResnetBlock(ch, ch), AttnBlock(ch), ResnetBlock(ch, ch)
    return m


class Encoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, z):
        super().__init__()
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down, width = nn.ModuleList(), ch
        for i, m in enumerate(ch_mult):
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            last = i == len(ch_mult) - 1
            for _ in range(num_res_blocks):
                level.block.append(ResnetBlock(width, ch * m))
                width = ch * m
                if last:
                    level.attn.append(AttnBlock(width))
            if not last:
                level.downsample = Downsample(width)
            self.down.append(level)
        self.mid = mid_stage(width)
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, z, 3, padding=1)

    def forward(self, x):
        h = self.conv_in(x)
        for level in self.down:
            for j, block in enumerate(level.block):
                h = block(h)
                if len(level.attn):
                    h = level.attn[j](h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        return self.conv_out(F.silu(self.norm_out(h)))


class Decoder(nn.Module):
    def __init__(self, ch, ch_mult, num_res_blocks, z):
        super().__init__()
        width = ch * ch_mult[-1]
        self.conv_in = nn.Conv2d(z, width, 3, padding=1)
        self.mid = mid_stage(width)
        levels = []
        for i in reversed(range(len(ch_mult))):  # level 0 is full resolution and runs last
            level = nn.Module()
            level.block, level.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(num_res_blocks + 1):
                level.block.append(ResnetBlock(width, ch * ch_mult[i]))
                width = ch * ch_mult[i]
                if i == len(ch_mult) - 1:
                    level.attn.append(AttnBlock(width))
            if i > 0:
                level.upsample = Upsample(width)
            levels.insert(0, level)
        self.up = nn.ModuleList(levels)
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, z):
        h = self.conv_in(z)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h)))
        for level in reversed(self.up):
            for j, block in enumerate(level.block):
                h = block(h)
                if len(level.attn):
                    h = level.attn[j](h)
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(F.silu(self.norm_out(h)))


class Phi(nn.Conv2d):
    """Half the input, half a convolution of it: smooths an enlarged code map."""

    def __init__(self, z):
        super().__init__(z, z, 3, padding=1)

    def forward(self, h):
        return 0.5 * h + 0.5 * super().forward(h)


def phi_index(num_scales, num_phi=4):
    """Which of the shared phi convolutions scale k uses; float64 decides the ties, as in the official code."""
    import numpy as np

    lo = 1 / (3 * num_phi) if num_phi == 4 else 1 / (2 * num_phi)
    ticks = np.linspace(lo, 1 - lo, num_phi)
    return [int(np.argmin(np.abs(ticks - k / (num_scales - 1)))) for k in range(num_scales)]


class Quantizer(nn.Module):
    def __init__(self, vocab, z, scales):
        super().__init__()
        self.scales, self.phi_of = tuple(scales), phi_index(len(scales))
        self.embedding = nn.Embedding(vocab, z)
        self.quant_resi = nn.Module()
        self.quant_resi.qresi_ls = nn.ModuleList(Phi(z) for _ in range(4))

    def nearest(self, x):
        """x [N, z] -> index of the nearest code."""
        e = self.embedding.weight
        return torch.addmm(e.square().sum(1), x, e.t(), alpha=-2).argmin(1)

    def scale_map(self, k, idx):
        """Contribution of scale k to f_hat: look up, enlarge, smooth.  idx [B, pn*pn]."""
        pn, side = self.scales[k], self.scales[-1]
        h = self.embedding(idx).transpose(1, 2).reshape(len(idx), -1, pn, pn)
        if k < len(self.scales) - 1:
            h = F.interpolate(h, size=(side, side), mode="bicubic")
        return self.quant_resi.qresi_ls[self.phi_of[k]](h)

    def next_input(self, k, f_hat):
        """f_hat after scale k, reduced to the grid of scale k+1, as tokens [B, l, z]."""
        pn = self.scales[k + 1]
        return F.interpolate(f_hat, size=(pn, pn), mode="area").flatten(2).transpose(1, 2)

    def forward(self, f, beta=0.25):
        """Straight-through quantization for training -> (f_hat, vq loss, indices per scale, what they quantized)."""
        rest, f_hat, loss = f.detach(), torch.zeros_like(f), 0.0
        indices, residuals = [], []
        for k, pn in enumerate(self.scales):
            r = F.interpolate(rest, size=(pn, pn), mode="area") if k < len(self.scales) - 1 else rest
            r = r.flatten(2).transpose(1, 2)  # [B, l, z]
            idx = self.nearest(r.reshape(-1, r.shape[2])).view(len(f), -1)
            h = self.scale_map(k, idx)
            f_hat, rest = f_hat + h, rest - h.detach()
            loss = loss + F.mse_loss(f_hat, f.detach()) + beta * F.mse_loss(f_hat.detach(), f)
            indices.append(idx)
            residuals.append(r)
        return f + (f_hat - f).detach(), loss / len(self.scales), indices, residuals

    @torch.no_grad()
    def encode(self, f):
        return self.forward(f)[2]

    def f_hat_of(self, indices):
        return sum(self.scale_map(k, idx) for k, idx in enumerate(indices))


class VQVAE(nn.Module):
    def __init__(self, vocab=1024, z=16, ch=32, ch_mult=(1, 1, 2, 2), num_res_blocks=1, scales=(1, 2, 3, 4, 6, 8)):
        super().__init__()
        self.config = dict(
            vocab=vocab, z=z, ch=ch, ch_mult=list(ch_mult), num_res_blocks=num_res_blocks, scales=list(scales)
        )
        self.encoder = Encoder(ch, ch_mult, num_res_blocks, z)
        self.quant_conv = nn.Conv2d(z, z, 3, padding=1)
        self.quantize = Quantizer(vocab, z, scales)
        self.post_quant_conv = nn.Conv2d(z, z, 3, padding=1)
        self.decoder = Decoder(ch, ch_mult, num_res_blocks, z)

    @property
    def side(self):
        """Pixels along one edge of the picture: the latent grid, doubled once per level."""
        return self.config["scales"][-1] << (len(self.config["ch_mult"]) - 1)

    def latent(self, image):
        return self.quant_conv(self.encoder(image))

    def decode(self, f_hat):
        return self.decoder(self.post_quant_conv(f_hat))

    @torch.no_grad()
    def encode(self, image):
        """image in [-1,1] -> list of S index maps [B, pn*pn]."""
        return self.quantize.encode(self.latent(image))

    @torch.no_grad()
    def image_of(self, indices):
        """Index maps -> image in [0,1]."""
        return (self.decode(self.quantize.f_hat_of(indices)).clamp(-1, 1) + 1) * 0.5


class ImageDecoder(nn.Module):
    """The way from f_hat to pixels alone, under the names it has in VQVAE: what a narrower decoder replaces."""

    def __init__(self, z, ch, ch_mult, num_res_blocks):
        super().__init__()
        self.config = dict(z=z, ch=ch, ch_mult=list(ch_mult), num_res_blocks=num_res_blocks)
        self.post_quant_conv = nn.Conv2d(z, z, 3, padding=1)
        self.decoder = Decoder(ch, ch_mult, num_res_blocks, z)

    def decode(self, f_hat):
        return self.decoder(self.post_quant_conv(f_hat))


def psnr(a, b, peak):
    """Mean over images of the per-image PSNR in dB."""
    mse = (a - b).square().flatten(1).mean(1).clamp_min(1e-10)
    return float((20 * math.log10(peak) - 10 * mse.log10()).mean())
