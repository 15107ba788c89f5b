#!/usr/bin/env python3
"""Whole images of the published VAR shapes in PyTorch: what the CUDA backend is measured beside.

    python3 backends/cuda/benches/peer.py --check --out peer.json

needs torch and numpy, a CUDA GPU, and a C compiler for what torch.compile makes; it ends within about 3 minutes.

The models are those of train/ (official architecture and key names) with random weights, the same on every machine.
A picture is what `varmint generate` makes by default: 10 scales, two guidance rows, top-k 900, top-p 0.96, key-value
cache, image decoder. This is no straw man: fp16 weights without autocast, caches allocated once, AdaLN of all blocks
in one product per image, fused attention, a sampler that sorts 900 logits instead of 4096, and nothing on the way that
waits for the GPU.

Variants: eager; graph (the whole image is one captured CUDA graph); compile (torch.compile of block, sampler and
decoder, default mode); compile+graph (that, captured); reduce-overhead; max-autotune+graph (mode
max-autotune-no-cudagraphs, captured); parts (each scale and the decoder a graph of its own).
"""

import argparse
import json
import math
import os
import platform
import signal
import statistics
import sys
import time
import types
import zlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "train"))
import var as reference  # noqa: E402
from tokenizer import VQVAE, AttnBlock  # noqa: E402
from var import VAR  # noqa: E402

SCALES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
VOCAB, CVAE, CLASSES, HEAD_DIM = 4096, 32, 1000, 64
EXAMPLES = """\
examples:
  python3 backends/cuda/benches/peer.py --check --out peer.json
      d16 and d30, batches 1, 8 and 64, the most important first, for 150 seconds
  python3 backends/cuda/benches/peer.py --only d16/b1/ --budget-s 500 --compile-s 300 --out d16.json
      every variant of one image of d16
  python3 backends/cuda/benches/peer.py --device cpu --depth 16 --budget-s 0 --write-checkpoint ckpt
  varmint convert --var ckpt/var_d16.pth --vae ckpt/vae_ch160v4096z32.pth -o random-d16.vmt
      the same weights for varmint
  python3 backends/cuda/benches/peer.py --device cpu --depth 2 --quick
      a trial of this script, against train/
"""


# Models


def noise(n, name, device):
    """n numbers in -1..1, a function of the name and the position alone (murmur3's finalizer)."""
    mask, seed = 0xFFFFFFFF, zlib.crc32(name.encode())
    h = torch.arange(n, device=device, dtype=torch.int64).mul_(seed | 1).add_(seed).bitwise_and_(mask)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h ^= h >> shift
        h = h.mul_(factor).bitwise_and_(mask)
    return (h >> 8).float().mul_(2**-23).sub_(1)


@torch.no_grad()
def fill(module):
    """Weights that keep activations ordinary: rows of norm about 1; the logits of a trained model are 2 or 3 apart."""
    for name, p in module.named_parameters():
        fan_in = p[0].numel() if p.dim() > 1 else 1
        unit = math.sqrt(3 / fan_in)
        if name.endswith("scale_mul_1H11"):
            p.fill_(math.log(4))
            continue
        if p.dim() == 1:
            size = 0.02
        elif "emb" in name or name.startswith("pos_"):  # rows, not columns, are what is added up
            size = 0.3 * math.sqrt(3) if name == "quantize.embedding.weight" else 0.5
        elif name == "head.weight":
            size = 2.5 * unit
        elif "ada_lin" in name:
            size = 0.3 * unit
        else:
            size = unit
        p.copy_(noise(p.numel(), name, p.device).view(p.shape).mul_(size))
        if ".norm" in name and name.endswith("weight"):
            p.add_(1)
        if ".ada_lin." in name and name.endswith("bias") and not name.startswith("head_nm"):
            p[: 2 * p.shape[0] // 6] += 0.3  # the gains
    return module.eval().requires_grad_(False)


def build_var(depth, device):
    with torch.device(device):
        return fill(VAR(CLASSES, 0, VOCAB, CVAE, HEAD_DIM * depth, depth, depth, SCALES))


def build_vae(channels, device):
    with torch.device(device):
        return fill(VQVAE(VOCAB, CVAE, channels, (1, 1, 2, 2, 4), 2, SCALES))


def attend_map(self, x):
    """AttnBlock.forward through the fused kernel; views only where the map is channels-last."""
    b, c, h, w = x.shape
    qkv = self.qkv(self.norm(x)).permute(0, 2, 3, 1).reshape(b, 1, h * w, 3, c)
    o = F.scaled_dot_product_attention(*qkv.unbind(3))
    return x + self.proj_out(o.view(b, h, w, c).permute(0, 3, 1, 2))


class Block(NamedTuple):
    qkv: tuple
    gain: torch.Tensor  # [2, H, 1]: of normalised queries and keys
    proj: tuple
    fc1: tuple
    fc2: tuple


class Slots(NamedTuple):
    """Views of one block's cache [R, L, H, 64] at one scale: where it writes, what it sees."""

    k: torch.Tensor
    v: torch.Tensor
    all_k: torch.Tensor
    all_v: torch.Tensor


class Weights:
    """A VAR and its tokenizer as generation reads them."""

    def __init__(self, var, vae, dtype, channels_last):
        own = lambda t: t.to(dtype).contiguous()
        pair = lambda layer: (own(layer.weight), own(layer.bias))
        width, depth = var.config["width"], var.config["depth"]
        self.width, self.depth, self.dtype = width, depth, dtype
        self.class_emb, self.word_embed = own(var.class_emb.weight), own(var.word_embed.weight)
        positions = var.positions()
        self.first = own(var.pos_start + positions[:, :1])
        self.positions = own(positions + var.word_embed.bias)
        self.head, self.blocks, ada = pair(var.head), [], []
        for block in var.blocks:
            a = block.attn
            bias = torch.cat([a.q_bias, a.zero_k_bias, a.v_bias])
            # A vector over its norm is its RMS norm over the root of its length.
            q = a.scale_mul_1H11.clamp_max(a.max_scale_mul).exp().view(1, -1, 1)
            gain = torch.cat([q, torch.ones_like(q)]) / math.sqrt(HEAD_DIM)
            self.blocks.append(
                Block(
                    (own(a.mat_qkv.weight), own(bias)),
                    own(gain),
                    pair(a.proj),
                    pair(block.ffn.fc1),
                    pair(block.ffn.fc2),
                )
            )
            ada.append(block.ada_lin[1])
        self.ada = own(torch.cat([l.weight for l in ada])), self.plus_one([l.bias for l in ada], 6, (2, 3))
        nm = var.head_nm.ada_lin[1]
        self.head_ada = own(nm.weight), self.plus_one([nm.bias], 2, (0,))
        self.codes = own(vae.quantize.embedding.weight)
        self.phi = [self.fold(vae.quantize.quant_resi.qresi_ls[i]) for i in vae.quantize.phi_of]
        for unused in ("encoder", "quant_conv", "quantize"):
            if hasattr(vae, unused):
                delattr(vae, unused)
        for m in vae.modules():
            if isinstance(m, AttnBlock):
                m.forward = types.MethodType(attend_map, m)
        vae.to(dtype)
        self.map_format = torch.channels_last if channels_last else torch.contiguous_format
        self.vae = vae.to(memory_format=self.map_format)

    def plus_one(self, biases, parts, which):
        """`1 + scale` of AdaLN, once and for all."""
        bias = torch.cat(biases).float().view(-1, parts, self.width).clone()
        for i in which:
            bias[:, i] += 1
        return bias.flatten().to(self.dtype)

    def fold(self, phi):
        """Half a map and half its convolution are one convolution."""
        z = phi.weight.shape[0]
        weight = 0.5 * phi.weight.float()
        weight[range(z), range(z), 1, 1] += 0.5
        return weight.to(self.dtype), (0.5 * phi.bias.float()).to(self.dtype)


# Generation


def before(x, scale, shift, qkv, gain, k_slot, v_slot):
    """Queries [R, H, l, 64] of a block; its keys and values go to the cache."""
    r, l, c = x.shape
    u = torch.addcmul(shift, F.layer_norm(x, (c,), eps=1e-6), scale)
    u = F.linear(u, *qkv).view(r, l, 3, -1, HEAD_DIM)
    qk = F.rms_norm(u[:, :, :2], (HEAD_DIM,), eps=1e-24) * gain
    k_slot.copy_(qk[:, :, 1])
    v_slot.copy_(u[:, :, 2])
    return qk[:, :, 0].transpose(1, 2)


def after(x, q, k, v, gain1, scale, shift, gain2, proj, fc1, fc2):
    """The rest of the block, from attention on."""
    o = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).flatten(2)
    x = torch.addcmul(x, gain1, F.linear(o, *proj))
    u = torch.addcmul(shift, F.layer_norm(x, (x.shape[2],), eps=1e-6), scale)
    return torch.addcmul(x, gain2, F.linear(F.gelu(F.linear(u, *fc1), approximate="tanh"), *fc2))


def draw(z, strength, exponential, top_k, top_p):
    """Guidance and top-k, top-p, one draw: [2B, l, V] -> [B, l].

    exponential: [B, l, top_k] of Exp(1); arg max p/e is a draw from p (torch.multinomial does that, and waits).
    """
    given, free = z.float().chunk(2)
    g = torch.lerp(free, given, 1 + strength)
    if top_k == 1:
        return g.argmax(-1)
    g, order = g.topk(top_k)  # the largest first
    p = g.softmax(-1)
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)
    return order.gather(-1, (p / exponential).argmax(-1, keepdim=True)).squeeze(-1)


class Functions(NamedTuple):
    before: Callable = before
    after: Callable = after
    draw: Callable = draw
    decode: Callable = None


class Peer:
    """Pictures of a batch; rows 0..B of the 2B are conditional. Memory that lasts is allocated here."""

    def __init__(self, weights, batch, device, guidance=1.5, top_k=900, top_p=0.96):
        self.w, self.batch, self.top_k, self.top_p = weights, batch, top_k, top_p
        w, rows, total = weights, 2 * batch, sum(s * s for s in SCALES)
        new = partial(torch.zeros, device=device, dtype=w.dtype)
        labels = torch.arange(batch, device=device) * 37 % CLASSES
        self.labels = torch.cat([labels, torch.full_like(labels, CLASSES)])
        self.strength = [torch.tensor(guidance * k / (len(SCALES) - 1), device=device) for k in range(len(SCALES))]
        self.f_hat = new(batch, CVAE, SCALES[-1], SCALES[-1])
        self.mods, self.head_mods = new(rows, w.depth * 6 * w.width), new(rows, 2 * w.width)
        self.mod = [m.unbind(1) for m in self.mods.view(rows, w.depth, 6, 1, w.width).unbind(1)]
        self.head_mod = self.head_mods.view(rows, 2, 1, w.width).unbind(1)
        self.caches = [(new(rows, total, w.depth, HEAD_DIM), new(rows, total, w.depth, HEAD_DIM)) for _ in w.blocks]
        self.slots, self.spans, at = [], [], 0
        for side in SCALES:
            end = at + side * side
            see = lambda t: t[:, :end].transpose(1, 2)
            self.slots.append([Slots(k[:, at:end], v[:, at:end], see(k), see(v)) for k, v in self.caches])
            self.spans.append((at, end))
            at = end
        self.f = self.eager = Functions(decode=w.vae.decode)

    def start(self):
        """-> the input of the first scale [2B, 1, C]"""
        w = self.w
        cond = F.embedding(self.labels, w.class_emb)
        lit = F.silu(cond)
        self.mods.copy_(F.linear(lit, *w.ada))
        self.head_mods.copy_(F.linear(lit, *w.head_ada))
        self.f_hat.zero_()
        return cond.unsqueeze(1) + w.first

    def step(self, k, x):
        """One scale: its input -> that of the next, tokens [B, l]"""
        w, (scale, shift) = self.w, self.head_mod
        for b, s, (g1, g2, s1, s2, b1, b2) in zip(w.blocks, self.slots[k], self.mod):
            q = self.f.before(x, s1, b1, b.qkv, b.gain, s.k, s.v)
            x = self.f.after(x, q, s.all_k, s.all_v, g1, s2, b2, g2, b.proj, b.fc1, b.fc2)
        z = F.linear(torch.addcmul(shift, F.layer_norm(x, (w.width,), eps=1e-6), scale), *w.head)
        e = torch.empty(self.batch, x.shape[1], self.top_k, device=x.device).exponential_()
        idx = self.f.draw(z, self.strength[k], e, self.top_k, self.top_p)
        side, last = SCALES[k], SCALES[-1]
        h = F.embedding(idx, w.codes).transpose(1, 2).reshape(self.batch, CVAE, side, side)
        if side == last:
            self.f_hat += F.conv2d(h, *w.phi[k], padding=1)
            return None, idx
        self.f_hat += F.conv2d(F.interpolate(h, size=(last, last), mode="bicubic"), *w.phi[k], padding=1)
        tokens = F.interpolate(self.f_hat, size=(SCALES[k + 1],) * 2, mode="area").flatten(2).transpose(1, 2)
        at, end = self.spans[k + 1]
        return (F.linear(tokens, w.word_embed) + w.positions[:, at:end]).repeat(2, 1, 1), idx

    def finish(self):
        """-> [B, 3, 256, 256] in 0..1"""
        image = self.f.decode(self.f_hat.contiguous(memory_format=self.w.map_format))
        return (image.clamp(-1, 1) + 1) * 0.5

    @torch.no_grad()
    def image(self, mark=lambda name: None, maps=None):
        mark("")
        x = self.start()
        mark("condition")
        for k, side in enumerate(SCALES):
            x, idx = self.step(k, x)
            mark(f"scale {side}")
            if maps is not None:
                maps.append(idx)
        out = self.finish()
        mark("decoder")
        return out


# Measuring


class OutOfTime(BaseException):
    """Not an Exception: a compiler that catches those must not swallow it."""


def timer(seconds, work):
    """work() with a limit; a long call into C ends first."""

    def stop(*_):
        raise OutOfTime(f"not ready within {seconds:.0f} s")

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        return work()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


class Bench:
    def __init__(self, args):
        self.args, self.begin = args, time.perf_counter()
        self.device, self.cuda = torch.device(args.device), args.device.startswith("cuda")
        self.dtype = getattr(torch, args.dtype or ("float16" if self.cuda else "float32"))
        self.channels = 16 if args.quick else 160
        self.peer, self.key, self.images, self.compiled = None, None, {}, {}
        torch.backends.cudnn.benchmark = True
        self.report = {
            "device": torch.cuda.get_device_name() if self.cuda else platform.processor() or platform.machine(),
            "torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version(),
            "cudnn": torch.backends.cudnn.version(), "dtype": str(self.dtype).removeprefix("torch."),
            "quick": args.quick, "models": {}, "decoder_ms": {}, "images": [], "parts": {}, "products": [], "not_done": [],
        }  # fmt: skip
        self.channels_last = True if args.quick else None  # None: to be found out

    def left(self):
        return self.args.budget_s - (time.perf_counter() - self.begin)

    def sync(self):
        if self.cuda:
            torch.cuda.synchronize()

    def milliseconds(self, fn, runs, warmup):
        """Each run from call to completion."""
        for _ in range(warmup):
            fn()
        self.sync()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            fn()
            self.sync()
            times.append((time.perf_counter() - start) * 1e3)
        return times

    def free(self):
        self.peer, self.key = None, None
        self.forget()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()

    def forget(self):
        """Compiled functions go, with the memory of their graphs."""
        self.compiled = {}
        if "torch._dynamo" in sys.modules:  # loading it takes seconds
            torch._dynamo.reset()

    def layout(self, vae, f_hat):
        """Is the image decoder faster with the channels last?  Convolutions like that, group norms may not."""
        ms = {}
        for name, form in (("channels first", torch.contiguous_format), ("channels last", torch.channels_last)):
            net, x = vae.to(memory_format=form), f_hat.contiguous(memory_format=form)
            with torch.no_grad():
                ms[name] = statistics.median(self.milliseconds(lambda: net.decode(x), 5, 3))
        self.report["decoder_ms"] = ms
        return ms["channels last"] < ms["channels first"]

    def model(self, depth, batch):
        """The peer of that shape; one at a time, so that peaks of memory mean something."""
        if self.key == (depth, batch):
            return self.peer
        weights = self.peer.w if self.key and self.key[0] == depth else None
        self.free()
        if weights is None:
            var, vae = build_var(depth, self.device), build_vae(self.channels, self.device)
            if self.channels_last is None:
                trial = build_vae(self.channels, self.device).to(self.dtype)
                for m in trial.modules():
                    if isinstance(m, AttnBlock):
                        m.forward = types.MethodType(attend_map, m)
                self.channels_last = self.layout(
                    trial, torch.ones(1, CVAE, 16, 16, device=self.device, dtype=self.dtype)
                )
                del trial
            weights = Weights(var, vae, self.dtype, self.channels_last)
            count = lambda m: sum(p.numel() for p in m.parameters())
            self.report["models"][f"d{depth}"] = {"transformer": count(var), "decoder": count(weights.vae)}
            del var, vae
            if self.cuda:
                torch.cuda.empty_cache()
        self.peer, self.key = Peer(weights, batch, self.device), (depth, batch)
        return self.peer

    def compile(self, peer, mode):
        """Block, sampler, decoder, for scales of any length; the longest is seen first and sets the heuristics."""
        if mode in self.compiled:
            return self.compiled[mode]
        self.forget()
        torch._dynamo.config.recompile_limit = 64
        static = mode != "default"
        how = {"mode": mode} if self.cuda or not self.args.quick else {"backend": "eager"}  # C++ takes minutes
        make = partial(torch.compile, fullgraph=True, dynamic=False if static else None, **how)
        f = Functions(make(before), make(after), make(draw), make(peer.eager.decode))
        if mode == "reduce-overhead":  # what keeps its address need not be copied into each graph
            lasting = [peer.mods, *peer.strength, *(t for m in peer.mod for t in m)]
            lasting += [t for s in peer.slots for b in s for t in b]
            lasting += [t for b in peer.w.blocks for t in (*b.qkv, b.gain, *b.proj, *b.fc1, *b.fc2)]
            for t in lasting:
                torch._dynamo.mark_static_address(t, guard=False)
        peer.f = f
        with torch.no_grad():
            peer.start()
            for k in range(len(SCALES) - 1, 0, -1) if not static else ():
                torch.compiler.cudagraph_mark_step_begin()
                peer.step(
                    k, torch.zeros(2 * peer.batch, SCALES[k] ** 2, peer.w.width, device=self.device, dtype=self.dtype)
                )
        peer.image()
        self.compiled[mode] = f
        return f

    def capture(self, fn, pool=None):
        """fn as a CUDA graph -> the graph, what it returned"""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side), torch.no_grad():
            for _ in range(1 if pool else 3):
                fn()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.no_grad(), torch.cuda.graph(graph, pool=pool):
            out = fn()
        return graph, out

    def prepare(self, peer, variant):
        """-> a function that makes images"""
        peer.f = peer.eager
        how, _, graph = variant.partition("+")
        if how == "graph":
            how, graph = "eager", "graph"
        if how != "eager":
            mode = {"compile": "default", "max-autotune": "max-autotune-no-cudagraphs"}.get(how, how)
            peer.f = self.compile(peer, mode)
        if not graph:
            return peer.image if how != "reduce-overhead" else self.marked(peer)
        captured, out = self.capture(peer.image)

        def replay():
            captured.replay()
            return out

        return replay

    def marked(self, peer):
        def image():
            torch.compiler.cudagraph_mark_step_begin()
            return peer.image()

        return image

    def run_image(self, depth, batch, variant, runs=None):
        if self.cuda:
            torch.cuda.empty_cache()
        peer = self.model(depth, batch)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        fn = timer(min(self.args.compile_s, self.left() + 30), lambda: self.prepare(peer, variant))
        torch.manual_seed(1)
        image = fn().float().cpu()
        prepared = time.perf_counter() - start
        if not bool(image.isfinite().all()) or float(image.std()) < 1e-3:
            raise ValueError(f"not a picture: mean {float(image.mean())}, deviation {float(image.std())}")
        same = self.images.setdefault((depth, batch), image)
        times = self.milliseconds(fn, runs or self.args.runs, 1 if runs else self.args.warmup)
        row = {
            "model": f"d{depth}", "batch": batch, "variant": variant, "ms": statistics.median(times), "ms_min": min(times),
            "ms_max": max(times), "runs": len(times), "prepare_s": prepared, "differs": float((image - same).abs().mean()),
            "peak_mib": torch.cuda.max_memory_allocated() / 2**20 if self.cuda else None,
        }  # fmt: skip
        self.report["images"].append(row)
        if variant == "eager":
            self.report["parts"][f"d{depth}/b{batch}/eager"] = self.eager_parts(peer, runs or self.args.runs)
        return f"{row['ms']:9.2f} ms, {row['ms'] / batch:8.2f} per image"

    def eager_parts(self, peer, runs):
        """Milliseconds of every scale and of the decoder."""
        spent = {}
        for _ in range(min(runs, 5)):
            marks = []

            def mark(name):
                if self.cuda:
                    event = torch.cuda.Event(enable_timing=True)
                    event.record()
                else:
                    event = time.perf_counter()
                marks.append((name, event))

            peer.image(mark)
            self.sync()
            for (_, a), (name, b) in zip(marks, marks[1:]):
                spent.setdefault(name, []).append(a.elapsed_time(b) if self.cuda else (b - a) * 1e3)
        return {name: statistics.median(t) for name, t in spent.items()}

    def run_parts(self, depth, batch):
        """As eager_parts, without the time that launches take: a graph for each part."""
        peer = self.model(depth, batch)
        peer.f, names, graphs, keep = peer.eager, ["condition"], [], []
        pool = torch.cuda.graph_pool_handle()
        graph, x = self.capture(peer.start, pool)
        graphs.append(graph)
        for k, side in enumerate(SCALES):
            keep.append(x)
            graph, (x, _) = self.capture(partial(peer.step, k, x), pool)
            names.append(f"scale {side}")
            graphs.append(graph)
        graph, _ = self.capture(peer.finish, pool)
        names.append("decoder")
        graphs.append(graph)
        spent = {name: [] for name in names}
        for turn in range(self.args.warmup + self.args.runs):
            events = [torch.cuda.Event(enable_timing=True) for _ in range(len(graphs) + 1)]
            events[0].record()
            for graph, event in zip(graphs, events[1:]):
                graph.replay()
                event.record()
            self.sync()
            if turn >= self.args.warmup:
                for name, a, b in zip(names, events, events[1:]):
                    spent[name].append(a.elapsed_time(b))
        parts = {name: statistics.median(t) for name, t in spent.items()}
        self.report["parts"][f"d{depth}/b{batch}/graph"] = parts
        return f"{sum(parts.values()):9.2f} ms in all, decoder {parts['decoder']:.2f}"

    def run_products(self):
        """int8 and fp16 products at the shapes of the trunk, operands warm, without the time of launches."""
        shapes = [(4096, 4096, 4096), (512, 1024, 1024), (512, 3072, 1024), (512, 4096, 1024), (512, 1024, 4096)]
        shapes += [(512, 5760, 1920), (512, 7680, 1920), (512, 1920, 7680), (32768, 4096, 1024)]
        if self.args.quick:
            shapes = [(64, 64, 64), (64, 256, 64)]
        for m, n, k in shapes:
            a = torch.randint(-127, 128, (m, k), device=self.device, dtype=torch.int8)
            b = torch.randint(-127, 128, (n, k), device=self.device, dtype=torch.int8)
            af, bf = a.to(self.dtype) / 127, b.to(self.dtype) / 127
            row = {"m": m, "n": n, "k": k}
            for name, fn in (
                ("int8", lambda: torch._int_mm(a, b.t())),
                (self.report["dtype"], lambda: F.linear(af, bf)),
            ):
                repeats = max(1, min(50, int(2e12 // (2 * m * n * k)))) if self.cuda else 1

                def many():
                    for _ in range(repeats):
                        fn()

                run = self.capture(many)[0].replay if self.cuda else many
                us = statistics.median(self.milliseconds(run, 10, 3)) * 1e3 / repeats
                row[f"{name}_us"], row[f"{name}_tops"] = us, 2 * m * n * k / us / 1e6
            self.report["products"].append(row)
        best = max(self.report["products"], key=lambda r: r["int8_tops"])
        return f"{best['int8_tops']:9.1f} int8 TOPS at {best['m']} x {best['n']} x {best['k']}"

    def run_check(self):
        """Greedy maps and image of this script, in f32, are those of train/; and the sampler's distribution is."""
        tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        var, vae = build_var(2, self.device), build_vae(16, self.device)
        labels = torch.arange(2, device=self.device) * 37 % CLASSES
        with torch.device(self.device), torch.no_grad():
            want = var.generate(vae.quantize, labels, labels, guidance=1.5, top_k=1)
            picture = vae.image_of(want)
        maps, peer = [], Peer(Weights(var, vae, torch.float32, True), 2, self.device, top_k=1)
        got = peer.image(maps=maps)
        torch.backends.cudnn.allow_tf32 = tf32
        wrong = sum(int((a != b).sum()) for a, b in zip(want, maps))
        off = float((got - picture).abs().max())
        spread = float(picture.std())
        if wrong or off > 1e-3 or spread < 0.02:
            raise ValueError(f"{wrong} tokens differ, the picture by up to {off} at a deviation of {spread}")
        generator = torch.Generator(self.device).manual_seed(1)
        rows, vocab, kept = 50_000, 24, []
        logits = 2 * noise(vocab, "logits", self.device).expand(1, rows, vocab)
        share = lambda idx: torch.bincount(idx.flatten(), minlength=vocab) / rows
        for keep, mass in ((16, 0.8), (5, 0.99)):
            e = torch.empty(1, rows, keep, device=self.device).exponential_(generator=generator)
            ours = share(draw(torch.cat([logits, logits]), torch.tensor(1.5, device=self.device), e, keep, mass))
            theirs = share(reference.sample(logits.contiguous(), keep, mass, generator))
            if not torch.equal(ours > 0, theirs > 0) or float((ours - theirs).abs().max()) > 0.015:
                raise ValueError(f"the sampler's shares {ours.tolist()}, expected {theirs.tolist()}")
            kept.append(int((ours > 0).sum()))
        tokens = sum(m.numel() for m in maps)
        return f"{tokens} tokens as in train/, picture within {off:.1e}, samplers keep {kept} of {vocab}"

    def write_checkpoint(self, folder, kind):
        os.makedirs(folder, exist_ok=True)
        depth, channels = self.args.depth[0], self.channels
        models = {
            f"var_d{depth}": partial(build_var, depth),
            f"vae_ch{channels}v{VOCAB}z{CVAE}": partial(build_vae, channels),
        }
        for name, build in models.items():
            state = {k: v.cpu().contiguous() for k, v in build(self.device).state_dict().items()}
            path = os.path.join(folder, f"{name}.{kind}")
            if kind == "pth":
                torch.save(state, path + ".tmp")
            else:
                from safetensors.torch import save_file

                save_file(state, path + ".tmp")
            os.replace(path + ".tmp", path)
            print(f"{path}: {sum(v.numel() for v in state.values())} values", flush=True)

    # The list

    def jobs(self):
        """(name, what to do, needs CUDA), the most important first."""
        depths, batches = self.args.depth, self.args.batch
        d0, b0, big = depths[0], batches[0], batches[-1]
        image = lambda d, b, v, runs=None: (
            f"d{d}/b{b}/{v}",
            partial(self.run_image, d, b, v, runs),
            v not in ("eager", "compile"),
        )
        parts = lambda d, b: (f"d{d}/b{b}/parts", partial(self.run_parts, d, b), True)
        jobs = [("check", self.run_check, False)] if self.args.quick or self.args.check else []
        jobs += [image(d0, b0, "eager"), image(d0, b0, "graph"), ("int8 products", self.run_products, False)]
        jobs += [image(d0, b0, "compile"), image(d0, b0, "compile+graph"), parts(d0, b0)]
        for d in depths[1:]:
            jobs += [image(d, b0, "eager"), image(d, b0, "graph"), parts(d, b0)]
        if len(depths) > 1 and big != b0:
            jobs += [image(depths[-1], big, "eager", 3), image(depths[-1], big, "graph", 5)]
        jobs += [image(d0, b, v) for b in batches[1:] for v in ("eager", "graph")]
        jobs += [image(d0, b0, "reduce-overhead")]
        jobs += [image(d, b0, v) for d in depths[1:] for v in ("compile", "compile+graph")]
        jobs += [image(d0, b, v) for b in batches[1:] for v in ("compile", "compile+graph")]
        jobs += [image(d, b, v) for d in depths[1:] for b in batches[1:-1] for v in ("eager", "graph")]
        jobs += [image(d0, b0, "max-autotune+graph")]  # what it leaves behind when it is given up may disturb others
        seen = set()
        return [j for j in jobs if self.args.only in j[0] and not (j[0] in seen or seen.add(j[0]))]

    def save(self):
        if not self.args.out:
            return
        self.report["wall_s"] = time.perf_counter() - self.begin
        with open(self.args.out + ".tmp", "w") as file:
            json.dump(self.report, file, indent=1)
        os.replace(self.args.out + ".tmp", self.args.out)

    def run(self):
        jobs = self.jobs()
        if not jobs:
            raise SystemExit(f"--only {self.args.only}: nothing has that in its name")
        if self.args.out:  # not found out after the first measurement
            os.makedirs(os.path.dirname(os.path.abspath(self.args.out)), exist_ok=True)
        print(f"{self.report['device']}, torch {torch.__version__}, {self.report['dtype']}", flush=True)
        if self.args.write_checkpoint:
            self.write_checkpoint(self.args.write_checkpoint, self.args.checkpoint_format)
        for name, work, needs_cuda in jobs:
            if needs_cuda and not self.cuda:
                reason = "needs CUDA"
            elif self.left() <= 0:
                reason = f"the budget of {self.args.budget_s:.0f} s is spent"
            else:
                try:
                    result = work()
                    print(f"{time.perf_counter() - self.begin:6.1f} s  {name:24} {result}", flush=True)
                    self.save()
                    continue
                except (Exception, OutOfTime) as e:  # whatever it is, the others are worth having
                    reason = f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"
                try:  # only here, where the exception no longer holds what it passed through
                    self.free()
                except Exception as e:
                    reason += f"; then {type(e).__name__}: the rest may fail likewise"
            self.report["not_done"].append({"name": name, "reason": reason})
            print(f"{time.perf_counter() - self.begin:6.1f} s  {name:24} not done: {reason}", flush=True)
            self.save()
        self.save()
        self.table()
        if any(n["name"] == "check" and "budget" not in n["reason"] for n in self.report["not_done"]):
            raise SystemExit(1)

    def table(self):
        r = self.report
        if r["images"]:
            print(
                f"\n{'image':28}{'ms':>9}{'min':>9}{'max':>9}{'ms/image':>10}{'runs':>6}{'peak MiB':>10}{'prepare s':>11}{'differs':>9}"
            )
        for i in r["images"]:
            peak = f"{i['peak_mib']:.0f}" if i["peak_mib"] else "-"
            name = f"{i['model']}/b{i['batch']}/{i['variant']}"
            print(f"{name:28}{i['ms']:9.2f}{i['ms_min']:9.2f}{i['ms_max']:9.2f}{i['ms'] / i['batch']:10.2f}{i['runs']:6}{peak:>10}"
                  f"{i['prepare_s']:11.1f}{i['differs']:9.4f}")  # fmt: skip
        if r["parts"]:
            first = next(iter(r["parts"].values()))
            print(f"\n{'parts, ms':20}" + "".join(f"{n.replace('scale ', 's'):>9}" for n in first))
            for name, parts in r["parts"].items():
                print(f"{name:20}" + "".join(f"{ms:9.3f}" for ms in parts.values()))
        if r["decoder_ms"]:
            print("\ndecoder, batch 1, eager: " + ", ".join(f"{ms:.2f} ms {n}" for n, ms in r["decoder_ms"].items()))
        if r["products"]:
            wide = r["dtype"]
            print(f"\n{'m x n x k':20}{'int8 us':>10}{'TOPS':>9}{wide + ' us':>13}{'TFLOP/s':>9}")
            for p in r["products"]:
                shape = f"{p['m']} x {p['n']} x {p['k']}"
                print(
                    f"{shape:20}{p['int8_us']:10.2f}{p['int8_tops']:9.1f}{p[wide + '_us']:13.2f}{p[wide + '_tops']:9.1f}"
                )
        for n in r["not_done"]:
            print(f"not done: {n['name']}: {n['reason']}")


def main():
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--out", metavar="JSON", help="write the figures here, after each of them")
    p.add_argument("--device", default="cuda", help="cuda or cpu [cuda]")
    p.add_argument("--dtype", choices=["float16", "bfloat16", "float32"], help="[float16; float32 on a CPU]")
    p.add_argument("--depth", type=int, nargs="+", default=[16, 30], help="blocks; the width is 64 times that [16 30]")
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 64], help="images at once [1 8 64]")
    p.add_argument("--warmup", type=int, default=3, help="runs before the clock [3]")
    p.add_argument("--runs", type=int, default=11, help="runs of which the median is taken [11]")
    p.add_argument("--budget-s", type=float, default=150, help="begin nothing new after so many seconds [150]")
    p.add_argument(
        "--compile-s", type=float, default=90, help="give a variant up that is not ready after so many seconds [90]"
    )
    p.add_argument("--only", default="", metavar="TEXT", help="only what has this in its name, e.g. d16/b1 or graph")
    p.add_argument("--check", action="store_true", help="first compare with the models of train/; part of --quick")
    p.add_argument(
        "--quick", action="store_true", help="a trial: batch 1, a narrow decoder, few runs; its times mean nothing"
    )
    p.add_argument(
        "--write-checkpoint", metavar="DIR", help="write the weights of the first depth under the official key names"
    )
    p.add_argument("--checkpoint-format", choices=["pth", "safetensors"], default="pth", help="[pth]")
    args = p.parse_args()
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        p.error("no CUDA device; --device cpu --depth 2 --quick tries the script")
    if min(args.depth + args.batch + [args.runs]) < 1:
        p.error("--depth, --batch and --runs begin at 1")
    if args.quick:
        args.batch, args.warmup, args.runs = [1], 1, 2
        torch.set_num_threads(1)  # small work on a busy machine: threads would wait for each other
    Bench(args).run()


if __name__ == "__main__":
    main()
