#!/usr/bin/env bash
# The one entry for checks:  ./ci.sh [test|lint|bare|no_panic|aarch64|wasm|cortex_m|train|pictures|all]
# Needs Rust; `bare` and the processors install toolchains and emulators from Debian packages (as root), `train` PyTorch from PyPI.
set -euo pipefail
cd "$(dirname "$0")"

test() { # what the README says, and what every machine can run
    cargo test --workspace
}

lint() {
    cargo fmt --check
    cargo fmt --check --manifest-path tests/bare/cortex-m/Cargo.toml
    cargo fmt --check --manifest-path tests/bare/no-panic/Cargo.toml
    cargo fmt --check --manifest-path tests/bare/wasm/Cargo.toml
    cargo clippy --workspace --all-targets -- -D warnings
    cargo check -p varmint-core --features defmt
    cargo check -p varmint --no-default-features
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --quiet
    if git grep -n -I -E 'todo!\(|unimplemented!\(|#\[ignore' -- '*.rs'; then
        echo "left-over markers" >&2
        exit 1
    fi
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
        VARMINT_REQUIRE_KERNELS=$kernels cargo +cross test -p varmint-cpu --test kernels --target "$target"
        VARMINT_REQUIRE_KERNELS=$kernels cargo +cross test -p varmint --test steps --test picture --target "$target"
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

train() { # the PyTorch side against the same goldens
    local venv=${VARMINT_VENV:-target/venv}
    [ -x "$venv/bin/pytest" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q -r train/requirements.txt; }
    "$venv/bin/pytest" -q train
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

all() {
    lint
    test
    pictures
    bare
    no_panic
    aarch64
    wasm
    cortex_m
    train
}

"${1:-all}"
