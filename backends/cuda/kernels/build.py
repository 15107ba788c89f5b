#!/usr/bin/env python3
"""Compiles the kernels to PTX with NVRTC 12.6, which needs neither a GPU nor a host compiler.

    python3 build.py            writes ptx/compute_XX/NAME.ptx
    python3 build.py --check    fails if one of them is not what its source gives, or if a kernel does not
                                assemble for Xavier (sm_72), Orin (sm_87) and Hopper (sm_90) or spills there

NVRTC and ptxas come from the wheels nvidia-cuda-nvrtc-cu12==12.6.85 and nvidia-cuda-nvcc-cu12==12.6.85, looked for
under $CUDA_PREFIX (default /opt/varmint-cuda)/12 and installed there by pip if absent.
"""

import argparse
import concurrent.futures
import ctypes
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
PTX = HERE / "ptx"
PREFIX = pathlib.Path(os.environ.get("CUDA_PREFIX", "/opt/varmint-cuda")) / "12"
WHEELS = ["nvidia-cuda-nvrtc-cu12==12.6.85", "nvidia-cuda-nvcc-cu12==12.6.85"]
# compute_80 has mma and cp.async and serves Ampere and Ada; compute_90 lets kernels begin before the one before ends.
TARGETS = {"compute_72": ["sm_72"], "compute_80": ["sm_87"], "compute_90": ["sm_90"]}
# No fused multiply-add: see docs/arithmetic.md.
OPTIONS = ["-fmad=false", "-std=c++17", "-default-device"]


def nvrtc():
    lib = PREFIX / "nvidia/cuda_nvrtc/lib/libnvrtc.so.12"
    if not lib.exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PREFIX)]
        subprocess.run(pip + WHEELS, check=True)
    # The wheel's library looks for its builtins beside itself only if they are loaded first.
    for builtins in sorted(lib.parent.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(lib))


def compile_ptx(lib, source, target):
    headers = sorted(HERE.glob("*.cuh"))
    program = ctypes.c_void_p()
    texts = (ctypes.c_char_p * len(headers))(*[h.read_bytes() for h in headers])
    names = (ctypes.c_char_p * len(headers))(*[h.name.encode() for h in headers])
    code = lib.nvrtcCreateProgram(
        ctypes.byref(program), source.read_bytes(), source.name.encode(), len(headers), texts, names
    )
    assert code == 0, f"nvrtcCreateProgram: {code}"
    options = [f"--gpu-architecture={target}"] + OPTIONS
    array = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
    code = lib.nvrtcCompileProgram(program, len(options), array)
    size = ctypes.c_size_t()
    lib.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    if log.value.strip():
        print(log.value.decode(), file=sys.stderr)
    if code != 0:
        raise RuntimeError(f"{source.name} does not compile for {target}")
    lib.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, ptx)
    lib.nvrtcDestroyProgram(ctypes.byref(program))
    # Nothing here is newer, and a driver reads no PTX that is newer than itself: 7.4 is CUDA 11.4, JetPack 5;
    # 8.0 is CUDA 12.0.
    version = b".version 8.0" if target == "compute_90" else b".version 7.4"
    text, n = re.subn(rb"(?m)^\.version 8\.\d$", version, ptx.value)
    assert n == 1, "one version"
    return re.sub(rb'\t\.pragma "used_bytes_mask \w+";\n', b"", text)


def assemble(ptx, machine):
    """Assembles for a machine; returns the kernels that spill."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.ptx"
        path.write_bytes(ptx)
        ptxas = PREFIX / "nvidia/cuda_nvcc/bin/ptxas"
        command = [str(ptxas), f"-arch={machine}", "-v", "-o", "/dev/null", str(path)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise RuntimeError(f"{machine}: {run.stderr}")
    found = re.findall(r"entry function '(\w+)' for.*?(\d+) bytes spill stores.*?Used (\d+) registers", run.stderr, re.S)
    return [(name, int(spill), int(registers)) for name, spill, registers in found]


def job(target, source, check, verbose):
    """Compiles one file for one target; what is wrong with it, in lines."""
    ptx, bad = compile_ptx(nvrtc(), source, target), []
    path = PTX / target / f"{source.stem}.ptx"
    if not check:
        path.write_bytes(ptx)
    elif not path.exists() or path.read_bytes() != ptx:
        bad.append(f"{path.relative_to(HERE)} is not what {source.name} gives: run build.py")
    for machine in TARGETS[target] if check or verbose else []:
        for name, spill, registers in assemble(ptx, machine):
            if verbose:
                print(f"{machine} {name}: {registers} registers, {spill} bytes spilled")
            if spill:
                bad.append(f"{machine} {name} spills {spill} bytes")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is there, and assemble")
    parser.add_argument("-v", "--verbose", action="store_true", help="registers of every kernel")
    args = parser.parse_args()
    nvrtc()  # installs it, once
    for target in TARGETS:
        (PTX / target).mkdir(parents=True, exist_ok=True)
    # The longest ones first.
    sources = sorted(HERE.glob("*.cu"), key=lambda s: -s.stat().st_size)
    with concurrent.futures.ProcessPoolExecutor() as pool:
        jobs = [pool.submit(job, t, s, args.check, args.verbose) for s in sources for t in TARGETS]
        bad = [line for j in jobs for line in j.result()]
    if bad:
        sys.exit("\n".join(bad))


if __name__ == "__main__":
    main()
