"""A small residual network that names an emoji and its style; used only to measure generated pictures."""

import torch
import torch.nn as nn
import torch.nn.functional as F

from data import to_float


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(c_out), nn.BatchNorm2d(c_out)
        self.skip = nn.Conv2d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x):
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if h.shape[-1] != x.shape[-1]:
            x = F.avg_pool2d(x, 2)
        return F.relu(h + self.skip(x))


class Classifier(nn.Module):
    def __init__(self, n_classes, n_styles, widths=(32, 64, 128, 256)):
        super().__init__()
        self.config = dict(n_classes=n_classes, n_styles=n_styles, widths=list(widths))
        self.stem = nn.Conv2d(3, widths[0], 5, 2, 2, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        pairs = zip([widths[0], *widths], widths)
        self.blocks = nn.Sequential(*(Block(a, b, 1 if i == 0 else 2) for i, (a, b) in enumerate(pairs)))
        self.name, self.style = nn.Linear(widths[-1], n_classes), nn.Linear(widths[-1], n_styles)

    def features(self, x):
        """64x64 pictures in [-1,1] -> [N, widths[-1]]."""
        return self.blocks(F.relu(self.norm(self.stem(x)))).mean((2, 3))

    def forward(self, x):
        f = self.features(x)
        return self.name(f), self.style(f)


def load_classifier(path):
    state = torch.load(path, weights_only=True, map_location="cpu")
    model = Classifier(**state["config"])
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state["model"].items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def describe(model, images, batch=128):
    """u8 pictures -> features [N,C], name logits, style logits."""
    out = []
    for part in images.split(batch):
        f = model.features(to_float(part))
        out.append((f, model.name(f), model.style(f)))
    return [torch.cat(t) for t in zip(*out)]


def accuracy(name_logits, style_logits, label, style):
    """-> name top-1, name top-5, style top-1."""
    top = name_logits.topk(5, 1).indices == label[:, None]
    mean = lambda t: t.float().mean().item()
    return mean(top[:, 0]), mean(top.any(1)), mean(style_logits.argmax(1) == style)
