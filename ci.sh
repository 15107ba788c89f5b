#!/usr/bin/env bash
# The one entry for checks:  ./ci.sh [test|lint|bare|train|pictures|all]
# Needs Rust; `bare` installs a bare-metal toolchain from Debian packages, `train` PyTorch from PyPI.
set -euo pipefail
cd "$(dirname "$0")"

test() { # what the README says, and what every machine can run
    cargo test --workspace
}

lint() {
    cargo fmt --check
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
    local target=thumbv7em-none-eabihf
    if rustup target list --installed 2>/dev/null | grep -qx "$target"; then
        cargo build --release -p varmint-core -p varmint-cpu --no-default-features --target "$target"
    else
        CROSS_QEMU=0 CROSS_TARGETS=$target bash ci/setup-cross.sh
        cargo +cross build --release -p varmint-core -p varmint-cpu --no-default-features --target "$target"
    fi
}

train() { # the PyTorch side against the same goldens
    local venv=${VARMINT_VENV:-target/venv}
    [ -x "$venv/bin/pytest" ] || { python3 -m venv "$venv" && "$venv/bin/pip" install -q -r train/requirements.txt; }
    "$venv/bin/pytest" -q train
}

pictures() { # the README's first command, end to end
    cargo run --release --example jetson_gen -- --out target/sheet.png
    cargo run --release --example jetson_gen -- --model fixtures/emoji-micro.vmt --class 'red heart' --out target/micro.png
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
    train
}

"${1:-all}"
