#!/usr/bin/env bash
# The figures of docs/jetson.md in one run, on a machine with a GPU: bits, products, images, batches, PyTorch beside them.
#
#   bash backends/cuda/benches/figures.sh                 builds what it needs, and runs
#   bash backends/cuda/benches/figures.sh --build DIR     only builds, into DIR
#   bash backends/cuda/benches/figures.sh --use DIR       runs what was built elsewhere
#
# SMALL=1 takes models of one block and 32 x 32 pixels: a rehearsal, on an emulated GPU too. PyTorch's part is left out
# where `python3 -c 'import torch'` fails. Models of random weights go to a folder that is removed at the end.
set -euo pipefail
cd "$(dirname "$0")/../../.."

build() {
    mkdir -p "$1"
    cargo build --release -p varmint-quant --bin varmint
    cp target/release/varmint "$1/varmint"
    local built
    built=$(cargo bench -p varmint-cuda --bench cuda --no-run 2>&1; cargo test --release -p varmint-cuda --test device --no-run 2>&1)
    cp "$(sed -n 's/.*Executable benches\/cuda.rs (\(.*\))/\1/p' <<<"$built")" "$1/cuda"
    cp "$(sed -n 's/.*Executable tests\/device.rs (\(.*\))/\1/p' <<<"$built")" "$1/device"
    strip "$1"/{varmint,cuda,device}
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
case "${1:-}" in
    --build) build "$2"; exit ;;
    --use) bin=$(cd "$2" && pwd) ;;
    "") bin=$work/bin; build "$bin" ;;
    *) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
small=${SMALL:-}
say() { printf '\n== %s\n' "$*"; }

say "$(date -u +%F) $(git rev-parse --short HEAD 2>/dev/null || true)"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || true

say "bits: every stage is the reference's, every picture the CPU's"
VARMINT_REQUIRE_CUDA=1 "$bin/device" --test-threads 1 2>&1 | grep -E '^test |^test result|differ|DIFFERS'

if [ -z "$small" ]; then
    say "products"
    "$bin/cuda" products
fi

# Blocks at each scale, and scales with guidance, of the tier that runs few blocks late.
late=(--blocks 30,30,30,30,30,30,15,8,8,8 --guided 8)
for depth in ${DEPTHS:-16 30}; do
    file=$work/d$depth.vmt
    if [ -n "$small" ]; then
        "$bin/varmint" synth -o "$file" --depth 1 --scales 1,2 --channels 32 >/dev/null
        late=(--guided 1)
    else
        "$bin/varmint" synth -o "$file" --depth "$depth" >/dev/null
    fi
    for batch in ${BATCHES:-1 8 32 64}; do
        say "d$depth, $batch at once"
        [ "$depth" = 16 ] || "$bin/cuda" image "$file" --batch "$batch" --images "${small:-9}" "${late[@]}" || true
        "$bin/cuda" image "$file" --batch "$batch" --images "${small:-9}" || true
    done
    rm "$file"
done

if [ -z "$small" ] && python3 -c 'import torch' 2>/dev/null; then
    say "PyTorch"
    python3 backends/cuda/benches/peer.py --check
fi
