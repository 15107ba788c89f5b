"""What both training programs share: a clock that is the schedule, checkpoints that survive a kill, a CSV log."""

import csv
import math
import os
import time

import torch


class Budget:
    """Progress 0..1 by wall clock.  Seconds already spent are kept in the checkpoint, so a resumed run goes on."""

    def __init__(self, seconds, spent=0.0):
        self.seconds, self.start = seconds, time.time() - spent

    def spent(self):
        return time.time() - self.start

    def progress(self):
        return min(1.0, self.spent() / self.seconds)


def cosine(progress, warmup=0.02):
    """Learning-rate factor: linear warm-up, then half a cosine down to 0."""
    if progress < warmup:
        return progress / warmup + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))


def save(path, state):
    """Write beside, then rename: a kill leaves either the old or the new file."""
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


class Log:
    """CSV, appended to; also printed."""

    def __init__(self, path, fields):
        self.path, self.fields = path, fields
        if not os.path.exists(path):
            with open(path, "w", newline="") as file:
                csv.writer(file).writerow(fields)

    def write(self, **row):
        values = [f"{row[f]:.5g}" if isinstance(row[f], float) else row[f] for f in self.fields]
        with open(self.path, "a", newline="") as file:
            csv.writer(file).writerow(values)
        print("  ".join(f"{f} {v}" for f, v in zip(self.fields, values)), flush=True)


class Ema:
    """Exponential moving average of the weights; what is exported."""

    def __init__(self, model, decay):
        self.decay, self.step = decay, 0
        self.shadow = {k: v.detach().clone() for k, v in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model):
        self.step += 1
        d = min(self.decay, (1 + self.step) / (10 + self.step))
        for k, v in model.state_dict().items():
            if v.dtype.is_floating_point:
                self.shadow[k].lerp_(v, 1 - d)
            else:
                self.shadow[k].copy_(v)
