"""Reads from a .vmt file (docs/format.md) what the training of an encoder needs: quantizer, image decoder, names.

Only the checks that keep a foreign file from being misread; `varmint inspect` does the rest.
"""

import struct
from typing import NamedTuple

import numpy as np
import torch

from tokenizer import VQVAE

PHI_WEIGHT, PHI_BIAS, CODEBOOK = 4, 5, 1
CONV_WEIGHT, CONV_BIAS, NORM_AFFINE = 80, 81, 82
UP = lambda n, to: -(-n // to) * to


class Record(NamedTuple):
    """One line of the tensor directory."""

    role: int
    storage: int
    set: int
    index: int
    taps: int
    rows: int
    cols: int
    offset: int
    scales: int


class Vmt:
    """sections: kind -> bytes; config; records in the file's order; array(record) dequantizes to f32."""

    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = file.read()
        magic, version = struct.unpack_from("<8sI", self.bytes)
        if magic != b"VARMINT\0" or version != 2:
            raise ValueError(f"{path}: not a .vmt file of version 2")
        (count,) = struct.unpack_from("<I", self.bytes, 24)
        self.sections = {}
        for i in range(count):
            kind, _, offset, length = struct.unpack_from("<IIQQ", self.bytes, 64 + 24 * i)
            self.sections[kind] = self.bytes[offset : offset + length]
        self.records = [Record(*r) for r in struct.iter_unpack("<HBBHHIIQQ", self.sections[6])]
        vocab, z, scales, *_ = struct.unpack_from("<8I", self.sections[1])
        self.vocab, self.z = vocab, z
        self.scales = [struct.unpack_from("<HHB", self.sections[1], 64 + 8 * k) for k in range(scales)]
        levels, blocks, attention, _, *widths = struct.unpack_from("<4I8H", self.sections[3])
        self.widths, self.blocks, self.attention = widths[:levels], blocks, attention

    def array(self, r):
        """A tensor as f32: [rows, cols], or [rows, cols, 3, 3]."""
        n = r.rows * r.taps * r.cols
        take = lambda kind, count, at: np.frombuffer(self.bytes, kind, count, at)
        if r.storage in (0, 1):
            x = take("<f4" if r.storage == 0 else "<f2", n, r.offset).astype(np.float32)
        elif r.storage == 2:
            x = take("i1", n, r.offset).reshape(r.rows, -1) * take("<f4", r.rows, r.scales)[:, None]
        elif r.storage in (3, 4):
            rows, cols = UP(r.rows, 8), UP(r.cols, 4)
            x = take("i1", rows * r.taps * cols, r.offset).reshape(rows // 8, r.taps * cols // 4, 8, 4)
            x = x.transpose(0, 2, 1, 3).reshape(rows, r.taps, cols)[: r.rows, :, : r.cols]
            x = x * take("<f4", rows, r.scales)[: r.rows, None, None]
        else:
            raise ValueError(f"storage {r.storage} is not read here")
        x = torch.tensor(np.ascontiguousarray(x)).reshape(r.rows, r.taps, r.cols)
        if r.taps == 9:
            return x.permute(0, 2, 1).reshape(r.rows, r.cols, 3, 3)
        return x.reshape(r.rows, r.cols)


def frozen_tokenizer(file, encoder):
    """A VQVAE whose quantizer and decoder are those of the file (its first decoder), with a new `encoder(z)`."""
    sides = [h for h, w, _ in file.scales if h == w]
    ch_mult = [w // file.widths[0] for w in file.widths]
    top = len(file.widths) - 1
    if len(sides) != len(file.scales) or file.attention != 1 << top or [m * file.widths[0] for m in ch_mult] != file.widths:
        raise ValueError("only square scales and official decoders are known here")
    model = VQVAE(file.vocab, file.z, file.widths[0], ch_mult, file.blocks - 1, sides)
    model.encoder = encoder(file.z)
    if model.quantize.phi_of != [phi for _, _, phi in file.scales]:
        raise ValueError("the file's scales use other phi convolutions than the official ones")

    # Modules in the order in which the file has their tensors: that of execution.
    def parts(block):
        yield from (block.norm1, block.conv1, block.norm2, block.conv2)
        if isinstance(block.nin_shortcut, torch.nn.Conv2d):
            yield block.nin_shortcut

    attention = lambda a: (a.norm, a.qkv, a.proj_out)
    d = model.decoder
    order = [model.post_quant_conv, d.conv_in, *parts(d.mid.block_1), *attention(d.mid.attn_1), *parts(d.mid.block_2)]
    for level in reversed(d.up):
        for j, block in enumerate(level.block):
            order += parts(block)
            if len(level.attn):
                order += attention(level.attn[j])
        if hasattr(level, "upsample"):
            order.append(level.upsample.conv)
    order += [d.norm_out, d.conv_out]

    tensors = iter([r for r in file.records if r.role >= CONV_WEIGHT and r.set == 0])
    with torch.no_grad():
        for module in order:
            if isinstance(module, torch.nn.GroupNorm):
                affine = file.array(next(tensors))
                module.weight.copy_(affine[0])
                module.bias.copy_(affine[1])
            else:
                module.weight.copy_(file.array(next(tensors)).reshape(module.weight.shape))
                module.bias.copy_(file.array(next(tensors))[0])
        if next(tensors, None) is not None:
            raise ValueError("the decoder has more tensors than the official one")
        for r in file.records:
            if r.role == CODEBOOK:
                model.quantize.embedding.weight.copy_(file.array(r))
            elif r.role == PHI_WEIGHT:
                model.quantize.quant_resi.qresi_ls[r.index].weight.copy_(file.array(r))
            elif r.role == PHI_BIAS:
                model.quantize.quant_resi.qresi_ls[r.index].bias.copy_(file.array(r)[0])
    for part in (model.quantize, model.post_quant_conv, model.decoder):
        part.requires_grad_(False)
    return model
