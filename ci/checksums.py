#!/usr/bin/env python3
"""Compares the checksums that programs on all platforms printed with the edge picture's and with a table.

    python3 ci/checksums.py LINES TABLE.md        VARMINT_BLESS=1 writes the table

LINES has lines `checksum PLATFORM 0x...`; TABLE.md has the table between two comments. Fails if a platform of the table
is missing, or if one drew something else.
"""

import os
import pathlib
import sys

# What the programs call themselves, and what they are. `?`: only where the processor has it.
PLATFORMS = {
    "x86_64-scalar": "x86-64, the reference",
    "host": "x86-64, beside the firmware",
    "x86_64-baseline": "x86-64, the reference compiled for SSE2",
    "x86_64-avx2": "x86-64, AVX2",
    "x86_64-avx512": "x86-64, AVX-512?",
    "x86_64-vnni": "x86-64, AVX-512 VNNI?",
    "aarch64-scalar": "aarch64, the reference (emulated)",
    "aarch64-baseline": "aarch64, the reference compiled for it (emulated)",
    "aarch64-neon": "aarch64, NEON (emulated Cortex-A72)",
    "aarch64-dotprod": "aarch64, dotprod (emulated Cortex-A76)",
    "mps2-an386": "Cortex-M4F, DSP (emulated)",
    "mps2-an500": "Cortex-M7, DSP (emulated)",
    "mps2-an505": "Cortex-M33, DSP (emulated)",
    "mps3-an547": "Cortex-M55, DSP (emulated)",
    "riscv32imac": "RISC-V without floats (emulated)",
    "c-host": "x86-64, from C",
    "c-cortex-m4": "Cortex-M4F, from C (emulated)",
    "wasm32": "wasm32 in Chromium",
    "wasm32-simd128": "wasm32 with simd128 in Chromium",
}
BEGIN, END = "<!-- written by ci/checksums.py -->", "<!-- end -->"


def main():
    lines, table = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    edge = pathlib.Path("fixtures/edge-picture.txt").read_text().split("=")[1].strip()
    got = {}
    for line in lines.read_text().splitlines():
        _, platform, value = line.split()
        got.setdefault(platform, set()).add(value)
    wrong = [f"{p} drew {', '.join(v)}, not {edge}" for p, v in got.items() if v != {edge}]
    for platform, name in PLATFORMS.items():
        if platform not in got and not name.endswith("?"):
            wrong.append(f"{platform} drew nothing")
    unknown = set(got) - set(PLATFORMS)
    wrong += [f"{p} is not in ci/checksums.py" for p in sorted(unknown)]
    rows = ["| platform | checksum |", "|---|---|"]
    rows += [f"| {name.rstrip('?')} | `{edge}` |" for name in PLATFORMS.values()]
    text = table.read_text()
    head, rest = text.split(BEGIN)
    new = "\n".join([head + BEGIN, "", *rows, "", END + rest.split(END)[1]])
    if os.environ.get("VARMINT_BLESS") == "1" and not wrong:
        table.write_text(new)
    elif new != text:
        wrong.append(f"{table} has another table: VARMINT_BLESS=1 writes it")
    if wrong:
        sys.exit("\n".join(wrong))
    print(f"{len(got)} platforms drew {edge}")


if __name__ == "__main__":
    main()
