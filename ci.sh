#!/usr/bin/env bash
# The one entry for checks:  ./ci.sh [test|lint|fuzz|bare|no_panic|aarch64|wasm|cortex_m|riscv|firmware|c|web|checksums|cuda|train|pictures|all]
# Needs Rust; `fuzz` installs cargo-fuzz and needs a C++ compiler; `bare` and the processors install toolchains and emulators from Debian packages (as root), `train` PyTorch from PyPI.
set -euo pipefail
cd "$(dirname "$0")"

test() { # what the README says, and what every machine can run
    cargo test --workspace
    cargo test --quiet --test edge_picture -- --nocapture | collect
}

lint() {
    cargo fmt --check
    cargo fmt --check --manifest-path tests/bare/cortex-m/Cargo.toml
    cargo fmt --check --manifest-path tests/bare/no-panic/Cargo.toml
    cargo fmt --check --manifest-path tests/bare/riscv/Cargo.toml
    cargo fmt --check --manifest-path tests/bare/wasm/Cargo.toml
    cargo fmt --check --manifest-path examples/web/Cargo.toml
    cargo fmt --check --manifest-path fuzz/Cargo.toml
    cargo fmt --check --manifest-path backends/cuda/emulator/Cargo.toml
    cargo clippy --workspace --all-targets -- -D warnings
    cargo check -p varmint-core --features defmt
    cargo check -p varmint --no-default-features
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
    if git grep -n -I -E 'todo!\(|unimplemented!\(|#\[ignore\]' -- '*.rs'; then
        echo "left-over markers" >&2
        exit 1
    fi
}

fuzz() { # 200,000 lies about model files; then coverage-guided fuzzing, FUZZ_SECONDS a target, two at a time
    VARMINT_LIES=200000 cargo test -p varmint --test any_bytes
    command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --version 0.13.2
    # The flags for coverage and the address sanitizer are unstable ones; this lets the stable compiler take them.
    RUSTC_BOOTSTRAP=1 cargo fuzz build
    # Nothing is linked: any file may stand for the library.
    CUSTOM_LIBFUZZER_PATH=$PWD/fuzz/Cargo.toml cargo clippy --manifest-path fuzz/Cargo.toml -- -D warnings
    fuzz_targets "file small hostile/vmt" "step small"
    fuzz_targets "pth pth hostile/pth" "safetensors pth hostile/safetensors"
    fuzz_targets "plan small hostile/vmt" "encoder small"
}

fuzz_targets() { # side by side: each a target and its seeds in fixtures/; what is found new goes to fuzz/corpus/
    local line seeds running=() pid
    for line in "$@"; do
        read -ra seeds <<<"${line// / fixtures/}"
        mkdir -p "fuzz/corpus/${seeds[0]}"
        RUSTC_BOOTSTRAP=1 cargo fuzz run "${seeds[0]}" "fuzz/corpus/${seeds[0]}" "${seeds[@]:1}" -- \
            -max_total_time="${FUZZ_SECONDS:-60}" -max_len=65536 -timeout=30 -verbosity=0 -print_funcs=0 -print_final_stats=1 &
        running+=($!)
    done
    for pid in "${running[@]}"; do wait "$pid"; done
}

bare() { # core and the CPU kernels alone, for a Cortex-M4F
    local target=thumbv7em-none-eabihf cargo=(cargo)
    if ! rustup target list --installed 2>/dev/null | grep -qx "$target"; then
        CROSS_QEMU=0 CROSS_TARGETS=$target bash ci/setup-cross.sh
        cargo=(cargo +cross)
    fi
    "${cargo[@]}" build --release -p varmint-core -p varmint-cpu --no-default-features --target "$target"
    "${cargo[@]}" build --release -p varmint-cpu --no-default-features --features dsp --target "$target"
}

no_panic() { # the core and the kernels link for Cortex-M without a panic; how much code and stack they are
    CROSS_QEMU=0 CROSS_TARGETS="thumbv7em-none-eabihf thumbv8m.main-none-eabihf" bash ci/setup-cross.sh
    local out=${CARGO_TARGET_DIR:-$PWD/target/no-panic} programs profile kernels
    programs=$out/programs
    rm -rf "$programs"
    mkdir -p "$programs"
    (
        cd tests/bare/no-panic
        export CARGO_TARGET_DIR=$out
        cargo +cross clippy --release --features everything,dsp -- -D warnings
        # Whatever is public, then what a firmware needs.
        for profile in release small; do
            cargo +cross build --profile "$profile" --features everything,dsp
            for kernels in scalar cpu dsp; do
                cargo +cross build --profile "$profile" --features "$kernels"
                cp "$out/thumbv7em-none-eabihf/$profile/varmint-no-panic" "$programs/$kernels-$profile"
            done
        done
        CARGO_TARGET_THUMBV8M_MAIN_NONE_EABIHF_RUSTFLAGS="-C target-cpu=cortex-m33" \
            cargo +cross build --profile small --features everything,dsp --target thumbv8m.main-none-eabihf
        # And the proof can fail.
        if cargo +cross build --profile small --features control 2>"$out/control"; then
            echo "a program that can panic was linked" >&2
            exit 1
        fi
        grep 'undefined symbol: varmint_can_panic' "$out/control"
    )
    cargo test -q --test footprint -- "$programs"
}

aarch64() { # the kernels, and whole pictures, on emulated processors without and with dotprod
    local target=aarch64-unknown-linux-gnu processor kernels
    CROSS_TARGETS= bash ci/setup-cross.sh
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
    cargo +cross clippy -p varmint-cpu --target "$target" -- -D warnings
    for processor in cortex-a72 cortex-a76; do
        kernels=baseline,neon
        [ "$processor" = cortex-a72 ] || kernels+=,dotprod
        export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $processor -L /usr/aarch64-linux-gnu"
        VARMINT_REQUIRE_KERNELS=$kernels cargo +cross test -p varmint-core -p varmint-cpu --lib --tests --target "$target"
        VARMINT_REQUIRE_KERNELS=$kernels cargo +cross test -p varmint --test steps --test picture --target "$target"
        cargo +cross test --quiet -p varmint --test edge_picture --target "$target" -- --nocapture | collect
    done
}

wasm() { # the kernels for wasm, in node
    CROSS_QEMU=0 CROSS_TARGETS=wasm32-unknown-unknown bash ci/setup-cross.sh
    command -v node >/dev/null || { apt-get -qq update && apt-get -qq install -y --no-install-recommends nodejs >/dev/null; }
    local out=${CARGO_TARGET_DIR:-$PWD/target/wasm}
    (
        cd tests/bare/wasm
        export CARGO_TARGET_DIR=$out
        cargo +cross clippy --release -- -D warnings
        cargo +cross build --release
        node run.mjs "$out/wasm32-unknown-unknown/release/varmint_wasm.wasm"
    )
}

cortex_m() { # the kernels for Cortex-M, in firmware on an emulated board
    CROSS_TARGETS=thumbv7em-none-eabihf bash ci/setup-cross.sh
    local out=${CARGO_TARGET_DIR:-$PWD/target/cortex-m}
    (
        cd tests/bare/cortex-m
        export CARGO_TARGET_DIR=$out
        cargo +cross clippy --release -- -D warnings
        cargo +cross run --release
    )
}

riscv() { # a processor without floats: what operations give there, and the edge picture, drawn without an allocator
    CROSS_QEMU=0 CROSS_TARGETS=riscv32imac-unknown-none-elf bash ci/setup-cross.sh
    command -v qemu-system-riscv32 >/dev/null || { apt-get -qq update && apt-get -qq install -y --no-install-recommends qemu-system-misc >/dev/null; }
    local out=${CARGO_TARGET_DIR:-$PWD/target/riscv}
    (
        cd tests/bare/riscv
        export CARGO_TARGET_DIR=$out
        cargo +cross clippy --release -- -D warnings
        cargo +cross run --release --bin kernels
        cargo +cross run --release | collect
    )
}

# Where programs on all platforms leave what they drew, line by line.
CHECKSUMS=${CHECKSUMS:-$PWD/target/checksums}

collect() { # keeps the checksum lines of what goes through
    mkdir -p "$(dirname "$CHECKSUMS")"
    tee >(grep -o 'checksum [a-z0-9_-]* 0x[0-9a-f]*' >>"$CHECKSUMS" || true)
}

checksums() { # all platforms drew the edge picture; docs/arithmetic.md says which. To write the table: VARMINT_BLESS=1
    python3 ci/checksums.py "$CHECKSUMS" docs/arithmetic.md
}

same_picture() { # the line in which a program on platform $1 says that it drew the edge picture; what it printed comes by stdin
    local line
    line="checksum $1 $(sed -n 's/^crc32 = //p' fixtures/edge-picture.txt)"
    # Not /dev/stderr: where that is a file, it would be emptied.
    collect | tee >(cat >&2) | grep -xF "$line" >/dev/null || { echo "not there: $line" >&2 && return 1; }
}

c() { # the C interface: the edge picture from C, on this machine and in firmware on an emulated board
    cc -std=c99 -pedantic -Wall -Wextra -Werror -fsyntax-only -x c capi/include/varmint.h
    make --no-print-directory -C examples/c picture | same_picture c-host
    CROSS_TARGETS=thumbv7em-none-eabihf bash ci/setup-cross.sh
    command -v arm-none-eabi-gcc >/dev/null || { apt-get -qq update && apt-get -qq install -y --no-install-recommends gcc-arm-none-eabi >/dev/null; }
    make --no-print-directory -C examples/c run CARGO='cargo +cross' | same_picture c-cortex-m4
}

web() { # the page, in a headless browser: the edge picture from both modules
    CROSS_QEMU=0 CROSS_TARGETS=wasm32-unknown-unknown bash ci/setup-cross.sh
    command -v chromedriver >/dev/null || { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium chromium-driver fonts-inter >/dev/null; }
    local out=${CARGO_TARGET_DIR:-$PWD/target}/web
    [ -x "$out/venv/bin/python" ] || { python3 -m venv "$out/venv" && "$out/venv/bin/pip" install -q -r examples/web/requirements.txt; }
    CARGO='cargo +cross' CARGO_TARGET_DIR=$out bash examples/web/build.sh "$out/site"
    "$out/venv/bin/python" examples/web/drive.py "$out/site" --screenshot "$out/web.png" | collect
}

firmware() { # the example for microcontrollers: pictures, memory and instructions on emulated boards
    bash ci/setup-cross.sh
    local out=${CARGO_TARGET_DIR:-$PWD/target/firmware} target
    (
        cd examples/firmware
        export CARGO_TARGET_DIR=$out
        cargo fmt --all --check
        cargo test -p varmint-slots
        for target in thumbv7em-none-eabihf thumbv8m.main-none-eabihf; do
            cargo +cross clippy --release -p varmint-firmware --target "$target" -- -D warnings
        done
        cargo +cross clippy -p varmint-slots -p varmint-firmware-check --all-targets -- -D warnings
        cargo +cross run -p varmint-firmware-check | collect
    )
}

cuda() { # the GPU backend without a GPU: its kernels are what their sources give, assemble without spills, and run emulated
    cargo clippy -p varmint --features cuda --all-targets -- -D warnings
    # Without a driver the processor does it.
    cargo run --release --features cuda --example jetson_gen -- --class 'red heart' --out target/cuda.png
    python3 backends/cuda/kernels/build.py --check
    local here=backends/cuda/emulator
    local emulator=(--manifest-path $here/Cargo.toml --target-dir $here/target)
    cargo clippy "${emulator[@]}" --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc "${emulator[@]}" --no-deps --quiet
    cargo test "${emulator[@]}"
    cargo build --release "${emulator[@]}"
    # Each has kernels of its own: products without tensor cores, with them, and launches that begin early.
    # Pictures of every tier, one by one, as the last one only: the others make batches of them, in graphs too.
    local skip='--skip pictures_are_the_cpu_s' capability
    for capability in 7.2 8.7 9.0; do
        [ $capability != 9.0 ] || skip=
        LD_LIBRARY_PATH="$PWD/$here/target/release" VARMINT_EMU_CAPABILITY=$capability VARMINT_REQUIRE_CUDA=1 \
            cargo test -p varmint-cuda -- $skip
    done
    # The example from end to end: the same file from the GPU and from the processor.
    local two=(--tier lite --class 'red heart' --style twemoji --count 2)
    LD_LIBRARY_PATH="$PWD/$here/target/release" \
        cargo run --release --features cuda --example jetson_gen -- "${two[@]}" --device cuda --batch 2 --out target/gpu.png
    cargo run --release --features cuda --example jetson_gen -- "${two[@]}" --device cpu --out target/cpu.png
    cmp target/gpu.png target/cpu.png
}

train() { # the PyTorch side against the same goldens
    local venv=${VARMINT_VENV:-target/venv}
    [ -x "$venv/bin/pytest" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q --no-cache-dir -r train/requirements.txt; }
    "$venv/bin/pytest" -q train
    "$venv/bin/python" backends/cuda/benches/peer.py --device cpu --quick --only check
}

pictures() { # the README's first command, end to end
    cargo run --release --example jetson_gen -- --out target/sheet.png
    cargo run --release --example jetson_gen -- --model fixtures/emoji-micro.vmt --class 'red heart' --out target/micro.png
    cargo run --release --example tiers -- --out target/tiers.png
    if cargo run -q --release --example jetson_gen -- --class 'red hart' --out target/none.png; then
        echo "a wrong name was accepted" >&2
        exit 1
    fi
}

all() { # one after the other; where it stops for want of time or disk, the log says who took them
    rm -f "$CHECKSUMS"
    local part
    for part in lint test fuzz pictures bare no_panic aarch64 wasm cortex_m riscv c web firmware checksums cuda train; do
        echo "== $part: $SECONDS s so far, $(df --output=avail -BG . | tail -1 | tr -d ' ') of disk free"
        "$part"
    done
}

"${1:-all}"
