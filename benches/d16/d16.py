#!/usr/bin/env python3
"""One 256 x 256 image of a model of the shape of VAR-d16 on a CPU: varmint beside PyTorch, the same weights.

Writes a checkpoint of random weights under the official key names (once, a minute and 1.7 GB), converts it with
`varmint convert`, and then makes whole images in turn: 10 scales with guidance, batch 1, image decoder. Every varmint
image is a process of its own (`jetson_gen --trust`); PyTorch's processes are started once, make one image to warm up,
and wait for their turn. Figures are medians over rounds; a ratio is PyTorch f32's time over the engine's in the same
round, then the median of those. Look at ratios: machines are noisy.

PyTorch's code is that of backends/cuda/benches/peer.py, checked there against train/: caches allocated once, AdaLN of
all blocks in one product per image, fused attention. "dynamic int8" are the linear layers of the blocks as
torch.ao.quantization.quantize_dynamic makes them; its decoder stays f32.

peak RSS is what the system says of a process at its end. Varmint's model is mapped: the pages that the run has read
count, and the system may take them back. "arena" is what the plan says, all the memory besides that varmint takes.
"baked" has the modulation of every class multiplied out (`varmint convert --bake`): an image reads two rows of it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from functools import partial

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.join(HERE, "..", "..")
EXAMPLES = """\
examples:
  pip install torch numpy matplotlib
  python benches/d16/d16.py --out out/d16
  python benches/d16/d16.py --rounds 1 --only int8 --only 'PyTorch f32'
  python benches/d16/d16.py --depth 2 --rounds 1          a trial

It builds jetson_gen and varmint with cargo. Files stay in --dir for the next time.
"""
# Of the late scales, which are most of the work, part of the blocks; in the lighter tiers without guidance, as those of
# the shipped model have it.
TIERS = ["--tier", "balanced:blocks={half}@6", "--tier", "lite:blocks={quarter}@6,guided=6"]
LITE_DECODER = 32


def run(*command, **options):
    print("$ " + " ".join(map(str, command)), file=sys.stderr, flush=True)
    subprocess.run(list(map(str, command)), check=True, **options)


# PyTorch


def worker(depth, kind, threads, compiled):
    """Makes an image for every line on stdin: its times as JSON; at the end the peak RSS."""
    sys.path.insert(0, os.path.join(ROOT, "backends", "cuda", "benches"))
    import torch
    import torch.nn.functional as F

    import peer

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    weights = peer.Weights(peer.build_var(depth, "cpu"), peer.build_vae(160, "cpu"), torch.float32, True)
    if kind == "int8":
        engine = torch.backends.quantized
        engine.engine = "x86" if "x86" in engine.supported_engines else engine.supported_engines[-1]

        def packed(layer):
            linear = torch.nn.Linear(*reversed(layer[0].shape))
            linear.weight, linear.bias = (torch.nn.Parameter(t, requires_grad=False) for t in layer)
            small = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(linear), dtype=torch.qint8)
            return (small[0],)

        pack = lambda b: b._replace(**{n: packed(getattr(b, n)) for n in ("qkv", "proj", "fc1", "fc2")})
        weights.blocks = [pack(b) for b in weights.blocks]
        plain = F.linear

        def linear(x, layer, *bias):
            return plain(x, layer, *bias) if isinstance(layer, torch.Tensor) else layer(x)

        peer.F = type("F", (), {**vars(F), "linear": staticmethod(linear)})
    maker = peer.Peer(weights, 1, torch.device("cpu"))
    if compiled:
        f = maker.f
        maker.f = peer.Functions(torch.compile(f.before), torch.compile(f.after), f.draw, torch.compile(f.decode))
    maker.image()
    print("ready", flush=True)
    for _ in sys.stdin:
        marks = []
        maker.image(lambda name: marks.append((name, time.perf_counter())))
        parts = {name: (t - before) * 1e3 for (_, before), (name, t) in zip(marks, marks[1:])}
        scales = [v for name, v in parts.items() if name.startswith("scale")]
        scales[0] += parts["condition"]
        report = {"scales": scales, "decoder": parts["decoder"], "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        print(json.dumps(report), flush=True)


class Torch:
    def __init__(self, args, *options):
        command = [sys.executable, __file__, "--worker", *options, "--depth", str(args.depth), "--threads", str(args.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
        self.line()

    def line(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args}: ended with {self.process.wait()}")
        return line

    def image(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.line())


# varmint


def names(args):
    """Of the transformer, the tokenizer, and one with a narrow decoder."""
    return [f"var_d{args.depth}", "vae_ch160v4096z32", f"vae_ch{LITE_DECODER}v4096z32"]


def checkpoints(args):
    paths = [os.path.join(args.dir, name + ".pth") for name in names(args)]
    os.makedirs(args.dir, exist_ok=True)
    if not all(map(os.path.exists, paths)):
        # Not here: what this process takes, the system counts for those that it starts, too.
        run(sys.executable, __file__, "--worker", "checkpoints", "--depth", args.depth, "--dir", args.dir)
    return paths


def write_checkpoints(args):
    sys.path.insert(0, os.path.join(ROOT, "backends", "cuda", "benches"))
    import peer
    import torch

    builders = [partial(peer.build_var, args.depth), *(partial(peer.build_vae, c) for c in (160, LITE_DECODER))]
    for name, build in zip(names(args), builders):
        path = os.path.join(args.dir, name + ".pth")
        if not os.path.exists(path):
            torch.save(build("cpu").state_dict(), path + ".tmp")
            os.replace(path + ".tmp", path)


def models(args):
    """Files of f32, int8 and 4-bit weights, the last also with modulation multiplied out; each with its tiers."""
    var, vae, lite = checkpoints(args)
    half, quarter = max(1, args.depth // 2), max(1, args.depth // 4)
    tiers = [t.format(half=half, quarter=quarter) for t in TIERS]
    tiers += ["--tier", f"lite-decoder:blocks={quarter}@6,guided=6,decoder=lite"]
    files = {}
    for name in ("f32", "int8", "int4", "int4-baked"):
        numbers, *baked = name.split("-")
        out = files[name] = os.path.join(args.dir, f"d{args.depth}-{name}.vmt")
        if os.path.exists(out) and os.path.getmtime(out) > os.path.getmtime(args.varmint):
            continue
        more = [] if numbers == "f32" else ["--decoder", f"lite={lite}", *tiers]
        more += ["--bake"] if baked else []
        run(args.varmint, "convert", "--var", var, "--vae", vae, "--numbers", numbers, "--quiet", *more, "-o", out)
    return files


class Varmint:
    def __init__(self, args, model, tier):
        self.command = [args.jetson_gen, "--model", model, "--tier", tier, "--trust", "--class", "7", "--json"]
        self.command += ["--threads", str(args.threads), "--device", "cpu", "--out", os.path.join(args.dir, "image.png")]

    def image(self):
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{' '.join(self.command)}: ended with {process.returncode}")
        r = json.loads(out)
        scales = [s["ms"] for s in r["scale_ms"]]
        return {
            "scales": scales, "decoder": r["decoder_ms"], "rss": usage.ru_maxrss,
            "arena": r["arena_planned_bytes"], "start": r["start_ms"], "file": r["file_bytes"],
        }  # fmt: skip


# The list


def engines(args):
    """Name -> how to make it, in the order of the table."""
    files = {}

    def file(numbers):
        files.update(files or models(args))
        return files[numbers]

    ours = lambda numbers, tier: lambda: Varmint(args, file(numbers), tier)
    return {
        "PyTorch f32": partial(Torch, args, "f32"),
        **({"PyTorch f32, torch.compile": partial(Torch, args, "f32", "--compiled")} if args.compile else {}),
        "PyTorch dynamic int8": partial(Torch, args, "int8"),
        "varmint f32": ours("f32", "f32"),
        "varmint int8": ours("int8", "int8"),
        "varmint int8 balanced": ours("int8", "balanced"),
        "varmint int8 lite": ours("int8", "lite"),
        "varmint int8 lite, lite decoder": ours("int8", "lite-decoder"),
        "varmint W4A8": ours("int4", "int4"),
        "varmint W4A8 balanced": ours("int4", "balanced"),
        "varmint W4A8 lite": ours("int4", "lite"),
        "varmint W4A8 lite, lite decoder": ours("int4", "lite-decoder"),
        "varmint W4A8 baked": ours("int4-baked", "int4"),
        "varmint W4A8 baked lite": ours("int4-baked", "lite"),
    }


def cpu_name():
    try:
        with open("/proc/cpuinfo") as f:
            facts = dict(l.split(":", 1) for l in f.read().split("\n\n")[0].splitlines() if ":" in l)
        facts = {k.strip(): v.strip() for k, v in facts.items()}
        flags = [f for f in ("avx2", "avx512f", "avx512_vnni") if f in facts.get("flags", "").split()]
        return f"{facts['model name']} (family {facts['cpu family']}, model {facts['model']}; {', '.join(flags)})"
    except (OSError, KeyError):
        return platform.processor() or platform.machine()


def table(args, results):
    base = results.get("PyTorch f32")
    lines = [
        f"`python benches/d16/d16.py --rounds {args.rounds} --threads {args.threads}"
        + (f" --depth {args.depth}" if args.depth != 16 else "")
        + f"` on {cpu_name()}, {args.threads} thread{'s'[: args.threads > 1]}.",
        "",
        "| engine | image, s | to PyTorch f32 | transformer, s | decoder, s | peak RSS, MB | of it arena, MB | file, MB | ready in, ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    total = lambda r: (sum(r["scales"]) + r["decoder"]) / 1e3
    mid = statistics.median
    for name, rounds in results.items():
        ratio = f"{mid(total(b) / total(r) for b, r in zip(base, rounds)):.2f}x" if base else ""
        last = rounds[-1]
        mb = lambda key: f"{last[key] / 1e6:.1f}" if key in last else ""
        lines.append(
            f"| {name} | {mid(map(total, rounds)):.2f} | {ratio} | {mid(sum(r['scales']) for r in rounds) / 1e3:.2f} "
            f"| {mid(r['decoder'] for r in rounds) / 1e3:.2f} | {max(r['rss'] for r in rounds) * 1024 / 1e6:.0f} "
            f"| {mb('arena')} | {mb('file')} | {last['start']:.1f} |" if "start" in last else
            f"| {name} | {mid(map(total, rounds)):.2f} | {ratio} | {mid(sum(r['scales']) for r in rounds) / 1e3:.2f} "
            f"| {mid(r['decoder'] for r in rounds) / 1e3:.2f} | {max(r['rss'] for r in rounds) * 1024 / 1e6:.0f} | | | |"
        )  # fmt: skip
    sides = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    lines += ["", "Milliseconds per scale (medians):", ""]
    lines += ["| engine | " + " | ".join(f"{s}x{s}" for s in sides) + " | decoder |", "|---" * (len(sides) + 2) + "|"]
    for name, rounds in results.items():
        scales = [mid(r["scales"][k] for r in rounds) for k in range(len(sides))]
        lines.append(f"| {name} | " + " | ".join(f"{v:.0f}" for v in [*scales, mid(r["decoder"] for r in rounds)]) + " |")
    return "\n".join(lines) + "\n"


def plot(args, results):
    try:
        import matplotlib
    except ImportError:
        print("no plot without matplotlib", file=sys.stderr)
        return
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "varmint"
    import matplotlib.pyplot as plt

    mid = statistics.median
    names = list(results)[::-1]
    trunk = [mid(sum(r["scales"]) for r in results[n]) / 1e3 for n in names]
    decoder = [mid(r["decoder"] for r in results[n]) / 1e3 for n in names]
    figure, axes = plt.subplots(figsize=(8, 0.42 * len(names) + 1))
    axes.barh(names, trunk, color="#3b6fb6", label="transformer")
    axes.barh(names, decoder, left=trunk, color="#e0a030", label="image decoder")
    for i, (a, b) in enumerate(zip(trunk, decoder)):
        axes.text(a + b, i, f" {a + b:.1f}", va="center", fontsize=8)
    axes.set_xlabel(f"seconds per image, {args.threads} thread{'s'[: args.threads > 1]}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(os.path.join(args.out, "d16.svg"), metadata={"Date": None})


def main():
    p = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--rounds", type=int, default=3, help="images of each engine [3]")
    p.add_argument("--threads", type=int, default=1, help="[1]")
    p.add_argument("--depth", type=int, default=16, help="blocks; the width is 64 times that [16]")
    p.add_argument("--only", action="append", default=[], metavar="TEXT", help="engines whose name holds TEXT; repeat")
    p.add_argument("--compile", action="store_true", help="also torch.compile, which needs a C++ compiler and minutes")
    p.add_argument("--dir", default="out/d16-files", help="checkpoints and models [out/d16-files]")
    p.add_argument("--out", default="out/d16", help="where d16.{md,json,svg} go [out/d16]")
    p.add_argument("--worker", choices=["f32", "int8", "checkpoints"], help=argparse.SUPPRESS)
    p.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if min(args.rounds, args.threads, args.depth) < 1:
        p.error("--rounds, --threads and --depth begin at 1")
    if args.worker == "checkpoints":
        return write_checkpoints(args)
    if args.worker:
        return worker(args.depth, args.worker, args.threads, args.compiled)
    run("cargo", "build", "--release", "--quiet", "--example", "jetson_gen", cwd=ROOT)
    run("cargo", "build", "--release", "--quiet", "-p", "varmint-quant", "--bin", "varmint", cwd=ROOT)
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target"))
    args.varmint = os.path.join(target, "release", "varmint")
    args.jetson_gen = os.path.join(target, "release", "examples", "jetson_gen")
    wanted = {n: make for n, make in engines(args).items() if not args.only or any(t in n for t in args.only)}
    if not wanted:
        p.error(f"--only: the engines are {', '.join(engines(args))}")
    os.makedirs(args.out, exist_ok=True)
    ready = {}
    for name, make in wanted.items():
        print(f"starting {name}", file=sys.stderr, flush=True)
        ready[name] = make()
    results = {name: [] for name in ready}
    for turn in range(args.rounds):
        for name, engine in ready.items():
            r = engine.image()
            results[name].append(r)
            print(f"round {turn + 1}  {name:36} {(sum(r['scales']) + r['decoder']) / 1e3:8.2f} s", file=sys.stderr, flush=True)
    text = table(args, results)
    with open(os.path.join(args.out, "d16.md"), "w") as f:
        f.write(text)
    with open(os.path.join(args.out, "d16.json"), "w") as f:
        json.dump({"cpu": cpu_name(), "threads": args.threads, "depth": args.depth, "rounds": results}, f, indent=1)
    plot(args, results)
    print(text)


if __name__ == "__main__":
    main()
