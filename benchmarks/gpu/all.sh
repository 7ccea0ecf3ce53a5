#!/usr/bin/env bash
# Everything that wants an accelerator, one command: each part at most 9 minutes, JSON and curves under the output folder.
#   benchmarks/gpu/all.sh OUT [WHEELS]     WHEELS: a folder of wheels for a machine without network (diffusers and others)
set -euo pipefail
out=${1:?usage: benchmarks/gpu/all.sh OUT [WHEELS]}
cd "$(dirname "$0")/../.."
mkdir -p "$out"
if [ -n "${2:-}" ]; then
  python3 -m pip install -q --no-index --no-deps --no-compile --target "$out/site" "$2"/*.whl
  export PYTHONPATH="$out/site:$PWD"
else
  export PYTHONPATH="$PWD"
fi
export LONGTAKE_CACHE="$out/cache" HF_HUB_OFFLINE=1
run() { echo "== $*"; timeout 540 "$@" || echo "failed or cut off: $*"; }
run python3 benchmarks/gpu/overhead.py --out "$out/overhead.json"
run python3 benchmarks/gpu/wan.py --out "$out/wan.json"
run python3 benchmarks/gpu/wan.py --out "$out/wan-compiled.json" --compile --batches 4
run python3 -m longtake.training.vae --stage stills --minutes 4 --device cuda --out "$out/cache"
run python3 -m longtake.training.vae --stage clips --minutes 4 --device cuda --out "$out/cache"
for stage in stills short long; do
  run python3 -m longtake.training.pocket --stage "$stage" --minutes 7 --device cuda --out "$out/cache"
done
run python3 -m longtake.training.export --to "$out/pocket" --out "$out/cache"
for set in measure reward; do
  run python3 -m longtake.training.judge --set "$set" --minutes 7 --device cuda --out "$out/cache" --to "$out/pocket-judge"
done
run python3 -m longtake train progressive --model "$out/pocket" --minutes 7 --device cuda --cache "$out/cache" --to "$out/pocket-progressive"
