#!/usr/bin/env python3
"""Times varmint's kernels beside those of other engines, on the same shapes in one interleaved run.

In every round each engine gets one short slot, one engine at a time, in an order that moves on by
one each round. Figures are medians over rounds; a ratio is that of an engine's speed to PyTorch f32 in the same round, then
the median of those. So a machine that slows down for a while slows all of them down. One thread each.
"""

import argparse
import ctypes
import datetime
import itertools
import json
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[3]

EXAMPLES = """examples:
  pip install -r backends/cpu/benches/peers/requirements.txt
  python backends/cpu/benches/peers/peers.py --out out/peers
  python backends/cpu/benches/peers/peers.py --only conv --only attention --rounds 5
  python backends/cpu/benches/peers/peers.py --only '(2, 1024, 3072)' --engines varmint

ggml takes part if --ggml names a folder with its shared libraries:
  git clone https://github.com/ggml-org/ggml && cmake -S ggml -B ggml/build -DBUILD_SHARED_LIBS=ON \\
    -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=OFF && cmake --build ggml/build -j
  python backends/cpu/benches/peers/peers.py --ggml ggml/build

AVX2 against AVX2, on a processor that has more (ggml: also -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON):
  python backends/cpu/benches/peers/peers.py --avx2 --ggml ggml/build-avx2

what is timed:
  linear     f32 rows in, f32 rows out: quantizing the rows is inside, packing the weights is not (except
             where the engine packs in every run: gemm). rten-gemm goes from u8 to i32 and no further.
  cold       the same with copies of the weights, over 160 MB of them, taking turns
  conv       3x3, stride 1, pad 1. Integer engines start from a quantized map; varmint's result is f32 and
             PyTorch's is quantized again. GMAC/s are those of direct convolution.
  attention  softmax(q k) v, all heads
The column "error" is |result - f64 reference| / |reference| (norms) at the worst shape; a quantized result of
Gaussian data has about 0.01 at 8 bits, 0.1 at 4.
"""

LINEAR = [(2, 1024, 3072), (32, 1024, 4096), (128, 1024, 1024), (512, 1024, 4096), (512, 4096, 1024),
          (16, 128, 512), (64, 256, 1024)]  # M, K, N
CONV = [(320, 320, 64), (160, 160, 256)]  # channels in, channels out, height = width
COLD = [(2, 1024, 3072)]
COLD_BYTES = 170e6
ATTENTION = [(256, 680, 16, 64)]  # queries, keys, heads, channels per head

# Everything that should be in a table; what cannot be prepared is listed as missing, with the reason.
# The first word says who makes it.
ENGINES = {
    "linear": [
        "varmint W8A8 avx2", "varmint W8A8 vnni", "varmint W8A12 avx2", "varmint W8A12 vnni",
        "varmint W4A8 avx2", "varmint W4A8 vnni", "varmint f32 avx2", "varmint f32 vnni",
        "PyTorch f32", "PyTorch int8 x86", "PyTorch int8 onednn",
        "ONNX-Runtime f32", "ONNX-Runtime u8s8", "ONNX-Runtime u8u8", "ONNX-Runtime 4-bit (block 32)",
        "ggml q8_0", "ggml q4_0", "ggml q4_0 (repacked)",
        "gemm f32", "candle q8_0", "rten u8i8 (product alone)",
    ],
    "conv": [
        "varmint int8 Winograd avx2", "varmint int8 direct avx2",
        "varmint int8 Winograd vnni", "varmint int8 direct vnni",
        "PyTorch f32 NCHW", "PyTorch f32 channels_last", "PyTorch int8 x86", "PyTorch int8 onednn",
    ],
    "attention": ["varmint int8 avx2", "varmint int8 vnni", "varmint f32 avx2", "varmint f32 vnni", "PyTorch f32"],
}
WORKER = ("varmint", "gemm", "candle", "rten")

# What holds PyTorch and the libraries in it (oneDNN, FBGEMM, MKL) to AVX2; they read it as they are loaded.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
# Engines that can be held to it, by that or as they are built.
HELD = re.compile(r"varmint .*avx2|PyTorch|ggml")
BASELINE = "PyTorch f32"

# Okabe and Ito's colours, told apart with any kind of colour vision.
COLOURS = {"varmint": "#0072B2", "PyTorch": "#E69F00", "ONNX-Runtime": "#009E73", "ggml": "#CC79A7",
           "gemm": "#999999", "candle": "#999999", "rten": "#999999"}


def say(text):
    print(text, file=sys.stderr, flush=True)


def title(kind, dims, cold=False):
    """What a case is called."""
    return f"{'cold' if cold else kind} ({', '.join(map(str, dims))})"


class Missing(Exception):
    """This engine does not take part, and why."""


class Case:
    """Inputs, weights and a reference of one shape."""

    def __init__(self, kind, dims, cold=False):
        import numpy as np

        self.kind, self.dims, self.cold = kind, dims, cold
        self.table = "cold" if cold else kind
        self.name = title(kind, dims, cold)
        self.key = re.sub(r"\W+", "-", self.name).strip("-")
        noise = np.random.default_rng(len(self.name) + sum(dims)).standard_normal
        if kind == "linear":
            m, k, n = dims
            self.x = noise((m, k), dtype="f")
            self.w = noise((n, k), dtype="f") / np.float32(k**0.5)
            self.macs = m * k * n
            self.reference = self.x.astype("d") @ self.w.T.astype("d")
        elif kind == "conv":
            c, n, side = dims
            self.x = np.zeros((side + 2, side + 2, c), "f")
            self.x[1:-1, 1:-1] = noise((side, side, c), dtype="f")
            self.w = noise((n, 3, 3, c), dtype="f") / np.float32((9 * c) ** 0.5)
            self.macs = 9 * c * n * side * side
            # Some rows of the map are enough.
            self.rows = np.unique(np.linspace(0, side - 1, 9).astype(int))
            self.reference = sum(
                self.x[self.rows + dy, dx:dx + side].astype("d") @ self.w[:, dy, dx].T.astype("d")
                for dy in range(3) for dx in range(3))
        else:
            queries, keys, heads, dim = dims
            self.q = noise((queries, heads, dim), dtype="f")
            self.k, self.v = noise((2, keys, heads, dim), dtype="f")
            self.x = np.concatenate([a.ravel() for a in (self.q, self.k, self.v)])
            self.w = np.zeros(0, "f")
            self.macs = 2 * queries * keys * heads * dim
            s = np.einsum("qhd,khd->hqk", self.q.astype("d"), self.k.astype("d")) / dim**0.5
            p = np.exp(s - s.max(-1, keepdims=True))
            self.reference = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), self.v.astype("d"))

    def copies(self, engine):
        """Copies of the weights, by about how much the engine stores for each."""
        if not self.cold:
            return 1
        size = 4 if "f32" in engine else 0.5 if re.search("q4|4-bit|W4", engine) else 1
        return int(COLD_BYTES / (self.w.size * size)) + 1

    def error(self, out):
        """Relative, in norms; `out` is rows [M, N] or a map [side, side, N]."""
        import numpy as np

        out = np.asarray(out, "d")
        if self.kind == "conv":
            _, n, side = self.dims
            out = out.reshape(side, side, n)[self.rows]
        out = out.reshape(self.reference.shape)
        return float(np.linalg.norm(out - self.reference) / np.linalg.norm(self.reference))


class Local:
    """An engine in this process: functions that take turns, all alike but for their copy of the weights."""

    def __init__(self, runs, output=None):
        # Once with every copy: some engines pack weights when they first meet them.
        results = [run() for run in runs]
        start = time.perf_counter()
        runs[0]()
        self.estimate = time.perf_counter() - start
        self.out = output() if output else results[0]
        self.runs = itertools.cycle(runs)

    def time(self, budget):
        """Seconds of one run, of as many as take about `budget` seconds."""
        if self.estimate * 10 < budget:
            next(self.runs)()  # brings the caches back
        count = max(1, -int(-budget // self.estimate))
        turns = list(itertools.islice(self.runs, count))
        start = time.perf_counter()
        for run in turns:
            run()
        self.estimate = (time.perf_counter() - start) / count
        return self.estimate


class Torch:
    """PyTorch, in this process."""

    def __init__(self, threads):
        import torch

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.version = torch, torch.__version__

    def make(self, case, engine):
        torch = self.torch
        kind = engine.removeprefix("PyTorch ")
        if kind.startswith("int8"):
            backend = kind.split()[1]
            if backend not in torch.backends.quantized.supported_engines:
                raise Missing(f"this PyTorch has no engine {backend}")
            torch.backends.quantized.engine = backend
        make = {"linear": self.linear, "conv": self.conv, "attention": self.attention}[case.kind]
        return make(case, kind, case.copies(engine))

    def linear(self, case, kind, copies):
        torch = self.torch
        x, (_, k, n) = torch.from_numpy(case.x), case.dims

        def layer():
            linear = torch.nn.Linear(k, n)
            linear.weight.copy_(torch.from_numpy(case.w))
            linear.bias.zero_()
            if kind == "f32":
                return linear
            box = torch.nn.Sequential(linear)
            return torch.ao.quantization.quantize_dynamic(box, {torch.nn.Linear}, torch.qint8)[0]

        return Local([lambda layer=layer(): layer(x) for _ in range(copies)])

    def conv(self, case, kind, _):
        torch, (c, n, side) = self.torch, case.dims
        x = torch.from_numpy(case.x[1:-1, 1:-1].copy()).permute(2, 0, 1)[None]
        w = torch.from_numpy(case.w).permute(0, 3, 1, 2)
        if kind.startswith("f32"):
            form = torch.channels_last if kind.endswith("last") else torch.contiguous_format
            x, w, bias = x.contiguous(memory_format=form), w.contiguous(memory_format=form), torch.zeros(n)
            local = Local([lambda: torch.nn.functional.conv2d(x, w, bias, padding=1)])
            local.out = local.out[0].permute(1, 2, 0)
            return local
        # As PyTorch's own defaults: 7 bits for x86, 8 for onednn.
        levels = 127 if kind.endswith("x86") else 255

        def scale(low, high):
            return float(high - low) / levels, round(-float(low) * levels / float(high - low))

        conv = torch.ao.nn.quantized.Conv2d(c, n, 3, padding=1)
        steps = w.abs().amax((1, 2, 3)).double() / 127
        qw = torch.quantize_per_channel(w, steps, torch.zeros(n, dtype=torch.long), 0, torch.qint8)
        conv.set_weight_bias(qw, torch.zeros(n))
        conv.scale, conv.zero_point = scale(case.reference.min(), case.reference.max())
        qx = torch.quantize_per_tensor(x, *scale(x.min(), x.max()), torch.quint8)
        qx = qx.contiguous(memory_format=torch.channels_last)
        local = Local([lambda: conv(qx)])
        local.out = local.out.dequantize()[0].permute(1, 2, 0)
        return local

    def attention(self, case, _kind, _copies):
        torch = self.torch
        q, k, v = (torch.from_numpy(a).transpose(0, 1)[None].contiguous() for a in (case.q, case.k, case.v))
        local = Local([lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)])
        local.out = local.out[0].transpose(0, 1)
        return local


class Onnx:
    """ONNX Runtime, in this process."""

    def __init__(self, threads):
        import onnx
        import onnxruntime

        self.onnx, self.ort, self.version = onnx, onnxruntime, onnxruntime.__version__
        self.options = onnxruntime.SessionOptions()
        self.options.intra_op_num_threads = threads
        self.options.inter_op_num_threads = 1

    def model(self, case, kind):
        """The serialized graph of one product."""
        import numpy as np

        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        m, k, n = case.dims
        constants, attributes = {}, {}
        if kind == "f32":
            op, domain = "MatMul", ""
            constants["w"] = case.w.T.copy()
        elif kind.startswith("4-bit"):
            op, domain = "MatMulNBits", "com.microsoft"
            blocks = case.w.reshape(n, k // 32, 32)
            scale = np.abs(blocks).max(-1, keepdims=True) / 7
            q = (np.rint(blocks / scale) + 8).clip(0, 15).astype(np.uint8)
            constants["w"] = q[..., 0::2] | q[..., 1::2] << 4
            constants["scale"] = scale.astype("f").reshape(n, k // 32)
            attributes = {"K": k, "N": n, "bits": 4, "block_size": 32, "accuracy_level": 4}
        else:
            # DynamicQuantizeLinear, MatMulInteger and the scaling, as ONNX Runtime fuses them.
            op, domain = "DynamicQuantizeMatMul", "com.microsoft"
            scale = np.abs(case.w).max(1) / 127
            q = np.rint(case.w / scale[:, None]).astype(np.int8).T
            constants["w"] = q.copy()
            constants["scale"] = scale
            if kind == "u8u8":
                constants["w"] = (q.astype(np.int16) + 128).astype(np.uint8)
                constants["zero"] = np.full(n, 128, np.uint8)
        node = helper.make_node(op, ["x", *constants], ["y"], domain=domain, **attributes)
        io = [helper.make_tensor_value_info(name, self.onnx.TensorProto.FLOAT, shape)
              for name, shape in (("x", [m, k]), ("y", [m, n]))]
        graph = helper.make_graph([node], "product", io[:1], io[1:],
                                  [numpy_helper.from_array(v, name) for name, v in constants.items()])
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()

    def make(self, case, engine):
        import numpy as np

        if case.kind != "linear":
            raise Missing("not written")
        model, (m, _, n) = self.model(case, engine.removeprefix("ONNX-Runtime ")), case.dims
        out = np.zeros((m, n), "f")
        x, y = self.ort.OrtValue.ortvalue_from_numpy(case.x), self.ort.OrtValue.ortvalue_from_numpy(out)

        def run():
            session = self.ort.InferenceSession(model, self.options, providers=["CPUExecutionProvider"])
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", x)
            binding.bind_ortvalue_output("y", y)
            return lambda: session.run_with_iobinding(binding)

        return Local([run() for _ in range(case.copies(engine))], lambda: y.numpy().copy())


class Ggml:
    """ggml's shared libraries, in this process."""

    TYPES = {"q4_0": 2, "q8_0": 8}

    class Params(ctypes.Structure):
        """ggml_init_params."""

        _fields_ = [("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

    def __init__(self, folder, threads):
        if folder is None:
            raise Missing("no --ggml")
        libraries = []
        for name in ("ggml-base", "ggml-cpu"):
            found = [p for ending in ("so", "dylib") for p in sorted(folder.rglob(f"lib{name}.{ending}"))]
            if not found:
                raise Missing(f"no lib{name} in the folder given")
            libraries.append(ctypes.CDLL(str(found[0]), mode=ctypes.RTLD_GLOBAL))
        self.libraries = libraries
        log = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
        self.quiet = log(lambda *_: None)
        self.call("ggml_log_set", None, self.quiet, None)
        self.call("ggml_cpu_init", None)
        version, commit = (self.call(f"ggml_{w}", ctypes.c_char_p) for w in ("version", "commit"))
        self.version = f"{version.decode()} ({commit.decode()})"
        self.backend = self.call("ggml_backend_cpu_init")
        self.call("ggml_backend_cpu_set_n_threads", None, self.backend, ctypes.c_int(threads))

    def call(self, name, result=ctypes.c_void_p, *args):
        """Integers are 64 bits or pointers unless wrapped."""
        function = next((f for f in (getattr(lib, name, None) for lib in self.libraries) if f), None)
        if function is None:
            raise Missing(f"this ggml has no {name}")
        function.restype = result
        return function(*(ctypes.c_void_p(a) if isinstance(a, int) else a for a in args))

    def buffer_type(self, repacked):
        if not repacked:
            return self.call("ggml_backend_cpu_buffer_type")
        registry = self.call("ggml_backend_cpu_reg")
        device = self.call("ggml_backend_reg_dev_get", ctypes.c_void_p, registry, ctypes.c_size_t(0))
        address = self.call("ggml_backend_reg_get_proc_address", ctypes.c_void_p, registry,
                            b"ggml_backend_dev_get_extra_bufts")
        extra = ctypes.CFUNCTYPE(ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p)(address)(device)
        for kind in itertools.takewhile(bool, extra):
            if b"REPACK" in self.call("ggml_backend_buft_name", ctypes.c_char_p, kind):
                return kind
        raise Missing("this ggml does not repack")

    def tensor(self, type_, rows, k, buffer_type):
        context = self.call("ggml_init", ctypes.c_void_p, self.Params(1 << 16, None, True))
        made = self.call("ggml_new_tensor_2d", ctypes.c_void_p, context, ctypes.c_int(type_),
                         ctypes.c_int64(k), ctypes.c_int64(rows))
        self.call("ggml_backend_alloc_ctx_tensors_from_buft", ctypes.c_void_p, context, buffer_type)
        return made

    def make(self, case, engine):
        import numpy as np

        if case.kind != "linear":
            raise Missing("not written")
        m, k, n = case.dims
        type_, cpu = self.TYPES[engine.split()[1]], self.buffer_type(False)
        weights = self.buffer_type("repacked" in engine)
        q = ctypes.create_string_buffer(4 * n * k)
        size = self.call("ggml_quantize_chunk", ctypes.c_size_t, ctypes.c_int(type_),
                         case.w.ctypes.data, q, ctypes.c_int64(0), ctypes.c_int64(n),
                         ctypes.c_int64(k), None)
        x = self.tensor(0, m, k, cpu)
        self.call("ggml_backend_tensor_set", None, x, case.x.ctypes.data, ctypes.c_size_t(0),
                  ctypes.c_size_t(case.x.nbytes))
        compute = self.libraries[0].ggml_backend_graph_compute
        compute.restype = ctypes.c_int
        backend, results = ctypes.c_void_p(self.backend), []

        def run():
            w = self.tensor(type_, n, k, weights)
            self.call("ggml_backend_tensor_set", None, w, q, ctypes.c_size_t(0),
                      ctypes.c_size_t(size))
            context = self.call("ggml_init", ctypes.c_void_p, self.Params(1 << 20, None, True))
            product = self.call("ggml_mul_mat", ctypes.c_void_p, context, w, x)
            graph = self.call("ggml_new_graph", ctypes.c_void_p, context)
            self.call("ggml_build_forward_expand", None, graph, product)
            self.call("ggml_backend_alloc_ctx_tensors_from_buft", ctypes.c_void_p, context, cpu)
            results.append(product)
            graph = ctypes.c_void_p(graph)
            return lambda: compute(backend, graph)

        def output():
            out = np.zeros((m, n), "f")
            self.call("ggml_backend_tensor_get", None, results[0], out.ctypes.data,
                      ctypes.c_size_t(0), ctypes.c_size_t(out.nbytes))
            return out

        return Local([run() for _ in range(case.copies(engine))], output)


class Worker:
    """The Rust engines, in one process that answers a line with a line; see worker/src/main.rs."""

    def __init__(self, threads):
        environment = {"CARGO_TARGET_DIR": str(ROOT / "target" / "peers"), **os.environ}
        environment["RAYON_NUM_THREADS"] = str(threads)
        say("building the worker")
        # In its folder, whose .cargo/config.toml says for what to compile.
        started = {"cwd": HERE / "worker", "env": environment}
        try:
            subprocess.run(["cargo", "build", "--release", "--quiet"], check=True, **started)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Missing(f"the worker was not built: {error}") from None
        self.folder = tempfile.TemporaryDirectory()
        pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(["cargo", "run", "--release", "--quiet"], **pipe, **started)
        lock = (HERE / "worker" / "Cargo.lock").read_text()
        crates = dict(re.findall(r'name = "(gemm|candle-core|rten-gemm)"\nversion = "(.*)"', lock))
        self.version = ", ".join(f"{name} {version}" for name, version in crates.items())

    def ask(self, *fields):
        try:
            print(*fields, sep="\t", file=self.process.stdin, flush=True)
        except OSError:
            raise Missing("the worker is gone") from None
        state, _, text = self.process.stdout.readline().rstrip("\n").partition("\t")
        if state != "ok":
            raise Missing(text or "the worker is gone")
        return text

    def make(self, case, engine):
        import numpy as np

        for ending, values in (("x", case.x), ("w", case.w)):
            path = Path(self.folder.name, f"{case.key}.{ending}")
            if not path.exists():
                values.tofile(path)
        dims = ",".join(map(str, case.dims))
        out = self.ask("prepare", engine, case.key, case.kind, dims, case.copies(engine), self.folder.name)
        made = Remote(self, engine, case.key)
        made.out = np.fromfile(out, "f")
        return made

    def drop(self, case):
        for ending in ("x", "w", "out"):
            Path(self.folder.name, f"{case.key}.{ending}").unlink(missing_ok=True)
        self.ask("drop", case.key)


class Remote:
    """An engine in the worker."""

    def __init__(self, worker, engine, case):
        self.worker, self.engine, self.case = worker, engine, case

    def time(self, budget):
        return float(self.worker.ask("run", self.engine, self.case, budget * 1e3))


def reason(error):
    text = str(error).strip().splitlines()
    text = text[0] if text else type(error).__name__
    return text if isinstance(error, Missing) else f"{type(error).__name__}: {text}"


def measure(case, wanted, makers, options):
    """Times one case; returns what goes into the JSON file."""
    subjects, missing = {}, {}
    for engine in wanted:
        maker = makers["worker" if engine.split()[0] in WORKER else engine.split()[0]]
        try:
            if isinstance(maker, Exception):
                raise maker
            subject = maker.make(case, engine)
            subjects[engine] = subject, case.error(subject.out)
            subject.out = None
        except Exception as error:  # whatever it is, the other engines go on and the report says so
            missing[engine] = reason(error)
    seconds = {engine: [] for engine in subjects}
    for round_ in range(options.rounds):
        say(f"  round {round_ + 1} of {options.rounds}")
        order = list(subjects)
        turn = round_ % max(1, len(order))
        for engine in order[turn:] + order[:turn]:
            seconds[engine].append(subjects[engine][0].time(options.slot / 1e3))
    if isinstance(makers["worker"], Worker):
        makers["worker"].drop(case)
    median = {engine: statistics.median(s) for engine, s in seconds.items()}
    baseline = min((e for e in median if e.startswith(BASELINE)), key=median.get, default=None)
    engines = {}
    for engine, (_, error) in subjects.items():
        ratios = [b / s for b, s in zip(seconds.get(baseline, []), seconds[engine])]
        engines[engine] = {
            "gmacs": case.macs / median[engine] / 1e9,
            "ratio": statistics.median(ratios) if ratios else None,
            "error": error,
            "ratios": ratios,
            "seconds": seconds[engine],
        }
    return {"name": case.name, "table": case.table, "dims": case.dims, "macs": case.macs,
            "baseline": baseline, "engines": engines, "missing": missing}


def about(makers, options):
    """Where, when and with what."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE)
        cpu = found[1] if found else cpu
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, check=False,
                         capture_output=True, text=True)
    versions = {"varmint": git.stdout.strip() or "unknown"}
    for name, maker in makers.items():
        label = "Rust crates" if name == "worker" else name
        versions[label] = reason(maker) if isinstance(maker, Exception) else maker.version
    script = Path(__file__).resolve().relative_to(ROOT)
    # The report need not say where folders lie on this machine.
    arguments = [Path(a).name if Path(a).is_absolute() else a for a in sys.argv[1:]]
    return {"cpu": cpu, "cpus": os.cpu_count(), "date": datetime.date.today().isoformat(),
            "versions": versions, "command": shlex.join(["python", str(script), *arguments]),
            "threads": options.threads, "rounds": options.rounds, "slot_ms": options.slot}


HEADINGS = {
    "linear": "Linear layers (M, K, N), weights warm",
    "cold": "Linear layers (M, K, N), weights cold",
    "conv": "Convolutions 3x3 (channels in, channels out, height = width)",
    "attention": "Attention (queries, keys, heads, channels per head)",
}


def cell(figures):
    """Speed and ratio of one engine at one shape."""
    if figures is None:
        return "missing"
    ratio = f" ({figures['ratio']:.2f}x)" if figures["ratio"] else ""
    return f"{figures['gmacs']:.1f}{ratio}"


def markdown(report):
    info = report["about"]
    lines = [f"{info['cpu']}, {info['cpus']} CPUs, {info['threads']} thread(s), {info['date']}.",
             "; ".join(f"{name} {version}" for name, version in info["versions"].items()) + ".",
             f"`{info['command']}`: medians of {info['rounds']} interleaved rounds of "
             f"{info['slot_ms']:g} ms; GMAC/s, in brackets the ratio to PyTorch f32 (the better layout)."]
    for table, heading in HEADINGS.items():
        cases = [c for c in report["cases"] if c["table"] == table]
        if not cases:
            continue
        shapes = [", ".join(map(str, c["dims"])) for c in cases]
        lines += ["", f"### {heading}", "", f"| engine | {' | '.join(shapes)} | error |"]
        lines += ["|---|" + "---|" * (len(cases) + 1)]
        names = dict.fromkeys(name for c in cases for name in (*c["engines"], *c["missing"]))
        for name in sorted(names, key=ENGINES["linear" if table == "cold" else table].index):
            found = [c["engines"].get(name) for c in cases]
            worst = max((f["error"] for f in found if f), default=None)
            error = "" if worst is None else f"{worst:.1g}"
            lines.append(f"| {name} | {' | '.join(map(cell, found))} | {error} |")
    missing = {}
    for case in report["cases"]:
        for name, why in case["missing"].items():
            missing.setdefault((name, why), []).append(case["name"])
    if missing:
        lines += ["", "Missing:", ""]
        lines += [f"- {name}: {why} ({'; '.join(cases)})" for (name, why), cases in missing.items()]
    return "\n".join(lines)


def plot(report, folder):
    """One panel per case: bars of the ratio to PyTorch f32."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    # A baseline alone is no comparison.
    cases = [c for c in report["cases"] if c["baseline"] and len(c["engines"]) > 1]
    if not cases:
        return
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "peers", "font.size": 8})
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    # A row is as high as its panel with the most bars.
    bars = [max(len(c["engines"]) for c in cases[r * columns:(r + 1) * columns]) for r in range(rows)]
    figure, axes = pyplot.subplots(rows, columns, squeeze=False, layout="constrained",
                                   height_ratios=[b + 3 for b in bars],
                                   figsize=(4.6 * columns, 0.17 * sum(b + 4 for b in bars) + 1.1))
    for axis in axes.flat[len(cases):]:
        axis.axis("off")
    for axis, case in zip(axes.flat, cases):
        named = [(name, e["ratio"]) for name, e in case["engines"].items() if e["ratio"]][::-1]
        names, ratios = zip(*named)
        axis.barh(names, ratios, color=[COLOURS[name.split()[0]] for name in names], height=0.75)
        for y, ratio in enumerate(ratios):
            axis.text(ratio, y, f" {ratio:.2f}", va="center", fontsize=7)
        axis.axvline(1, color="black", linewidth=0.8, linestyle="--")
        axis.set_xlim(0, max(ratios) * 1.15)
        axis.set_title(case["name"], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    info = report["about"]
    families = {name.split()[0]: None for c in cases for name in c["engines"]}
    labels = dict.fromkeys("Rust crates" if f in ("gemm", "candle", "rten") else f for f in families)
    handles = [Patch(color=COLOURS.get(label, COLOURS["gemm"]), label=label) for label in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    figure.suptitle(f"Speed relative to PyTorch f32 (dashed); {info['cpu']}, {info['threads']} thread(s), "
                    f"{info['date']}", fontsize=10)
    for ending in ("svg", "png"):
        figure.savefig(folder / f"peers.{ending}", dpi=150)


def attempt(make, *args):
    """What `make` makes, or why it does not."""
    try:
        return make(*args)
    except Exception as error:  # a missing module, a library that does not load: reported
        return error


def main():
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLES,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="rounds (default %(default)s)")
    add("--slot", type=float, default=60, metavar="MS",
        help="work of one engine in one round (default %(default)s)")
    add("--threads", type=int, default=1,
        help="threads of the engines that have them; varmint has none (default %(default)s)")
    add("--only", action="append", metavar="TEXT",
        help="cases whose name holds TEXT, e.g. linear, cold, conv, attention; repeat for more")
    add("--engines", action="append", metavar="TEXT",
        help=f"engines whose name holds TEXT, and {BASELINE}; repeat for more")
    add("--avx2", action="store_true",
        help="hold the processor to AVX2; engines that cannot be held are left out (ggml is as it was built)")
    add("--ggml", type=Path, metavar="DIR", help="a folder with ggml's shared libraries")
    add("--out", type=Path, default=ROOT / "out" / "peers", metavar="DIR",
        help="where peers.{md,json,svg,png} go (default out/peers)")
    options = parser.parse_args()
    for library in ("OMP", "MKL", "OPENBLAS"):
        os.environ[f"{library}_NUM_THREADS"] = str(options.threads)
    if options.avx2:
        os.environ.update(AVX2)
    warnings.filterwarnings("ignore")
    say(__doc__.splitlines()[0])

    shapes = [("linear", d, False) for d in LINEAR] + [("conv", d, False) for d in CONV]
    shapes += [("linear", d, True) for d in COLD] + [("attention", d, False) for d in ATTENTION]

    def chosen(name, texts):
        return texts is None or any(text in name for text in texts)

    shapes = [s for s in shapes if chosen(title(*s), options.only)]
    if not shapes:
        parser.error("no case has such a name")
    makers = {
        "PyTorch": attempt(Torch, options.threads),
        **({} if options.avx2 else {"ONNX-Runtime": attempt(Onnx, options.threads)}),
        "ggml": attempt(Ggml, options.ggml, options.threads),
        "worker": attempt(Worker, options.threads),
    }
    report = {"about": about(makers, options), "cases": []}
    for i, shape in enumerate(shapes):
        case = Case(*shape)
        say(f"{i + 1} of {len(shapes)}: {case.name}")
        wanted = [e for e in ENGINES[case.kind] if e.startswith(BASELINE) or chosen(e, options.engines)]
        wanted = [e for e in wanted if HELD.match(e) or not options.avx2]
        report["cases"].append(measure(case, wanted, makers, options))
    options.out.mkdir(parents=True, exist_ok=True)
    text = markdown(report)
    (options.out / "peers.md").write_text(text + "\n")
    (options.out / "peers.json").write_text(json.dumps(report, indent=1) + "\n")
    failed = attempt(plot, report, options.out)
    if failed is not None:
        say(f"no plot: {reason(failed)}")
    print(text)


if __name__ == "__main__":
    main()
