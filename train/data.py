"""The emoji archive written by data_build/: one safetensors file, read with no further dependency than its own library."""

import json

import torch
import torch.nn.functional as F
from safetensors import safe_open

TRAIN, CELL, CONCEPT = 0, 1, 2  # split: seen cells, held-out (name, style) cells, names never seen


class Emoji:
    """images u8 [N,3,side,side] over white, label and style i64 [N], split u8 [N], and the names of labels and styles."""

    def __init__(self, path, side=64):
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            self.images = resized(file.get_tensor("images"), side)
            self.label = file.get_tensor("class").long()
            self.style = file.get_tensor("style").long()
            self.split = file.get_tensor("split")
        self.class_names = json.loads(meta["class_names"])
        self.style_names = json.loads(meta["style_names"])

    def where(self, split):
        return torch.nonzero(self.split == split).flatten()


def resized(images, side):
    """u8 pictures made smaller by averaging whole blocks of pixels (64 -> 32), or returned as they are."""
    if images.shape[-1] == side:
        return images
    parts = [F.avg_pool2d(part.float(), images.shape[-1] // side) for part in images.split(1024)]
    return torch.cat([(part + 0.5).to(torch.uint8) for part in parts])


def to_float(images):
    """u8 -> [-1,1]."""
    return images.float() / 127.5 - 1


def shift(images, dy, dx):
    """Move by whole pixels; what comes in is white (the pictures all stand on white)."""
    out = torch.full_like(images, 255 if images.dtype == torch.uint8 else 1.0)
    h, w = images.shape[-2:]
    y, x = slice(max(dy, 0), h + min(dy, 0)), slice(max(dx, 0), w + min(dx, 0))
    ys, xs = slice(max(-dy, 0), h + min(-dy, 0)), slice(max(-dx, 0), w + min(-dx, 0))
    out[..., y, x] = images[..., ys, xs]
    return out


def write_grid(path, images, columns):
    """images u8 [N,3,H,W] -> one PNG."""
    from PIL import Image

    n, _, h, w = images.shape
    rows = -(-n // columns)
    page = torch.full((rows * columns, 3, h, w), 255, dtype=torch.uint8)
    page[:n] = images
    page = page.view(rows, columns, 3, h, w).permute(0, 3, 1, 4, 2).reshape(rows * h, columns * w, 3)
    Image.fromarray(page.numpy()).save(path)
