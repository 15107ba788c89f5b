#!/usr/bin/env bash
# build.sh OUT: the page with everything that it loads, to be served from OUT by any web server. CARGO='cargo +cross' where
# that has the target wasm32-unknown-unknown.
set -euo pipefail
out=$(realpath -m "$1")
cd "$(dirname "$0")"
mkdir -p "$out"
target=${CARGO_TARGET_DIR:-$PWD/target}
for simd in - +; do # two modules: a browser without SIMD refuses the other one whole
    name=varmint
    [ $simd = - ] || name=varmint-simd128
    # 64 KiB of stack are plenty; the linker's habit is 1 MiB.
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-C target-feature=${simd}simd128 -C link-arg=-zstack-size=65536" \
        ${CARGO:-cargo} build --release --target wasm32-unknown-unknown --target-dir "$target"
    cp "$target/wasm32-unknown-unknown/release/varmint_web.wasm" "$out/$name.wasm"
done
cp page/* ../../fixtures/emoji-micro.vmt ../../fixtures/emoji-64.vmt "$out/"
