#!/bin/bash
# Everything that follows a training of pocket's transformer, in order and resumable: run it again and it goes on.
#
#   scripts/finish_pocket.sh NAME          NAME: what tables call this set of weights, such as pocket-1
#
# Minutes on two quiet cores: export 0.5, preview 3, judges 8, their check 3, speed 1, then world suite 12 beside
# ceiling 4 and drift 24, progressive fine-tuning 32, its suite 12 beside its drift 18, cards 0.1. What stands side by
# side has a core each. A step that is done for the present weights is not done again.
set -euo pipefail
cd "$(dirname "$0")/.."
name=${1:?usage: scripts/finish_pocket.sh NAME}
py=${PYTHON:-.venv/bin/python}
cache=.cache/longtake
weights=longtake/models/weights
export OMP_WAIT_POLICY=passive
mkdir -p "$cache/finish" benchmarks/results/training docs/figures docs/cards

if pgrep -f "longtake.training.(pocket|vae)" > /dev/null; then
  echo "a training of pocket still runs; wait for its end" >&2
  exit 1
fi

# step NAME STAMP COMMAND...: run the command unless it was finished for the same stamp
step() {
  local label=$1 stamp=$2
  shift 2
  if [ "$(cat "$cache/finish/$label" 2> /dev/null)" = "$stamp" ]; then
    echo "== $label: done"
    return
  fi
  echo "== $label: $(date +%H:%M)"
  "$@"
  echo "$stamp" > "$cache/finish/$label"
}
sum_of() { cat "$@" | sha256sum | cut -c1-12; }
keep_curves() {
  cp "$cache/pocket-long/curve.jsonl" "benchmarks/results/training/$name-pocket-long.jsonl"
  for set in measure reward; do cp "$cache/judge-$set/curve.jsonl" "benchmarks/results/training/judge-$set.jsonl"; done
  if [ -f "$cache/progressive-pocket/curve.jsonl" ]; then
    cp "$cache/progressive-pocket/curve.jsonl" "benchmarks/results/training/$name-progressive.jsonl"
  fi
}
judges() {  # one thread each, side by side; minutes count what was spent before
  OMP_NUM_THREADS=1 $py -m longtake train judge --set measure --minutes 21 &
  local first=$!
  OMP_NUM_THREADS=1 $py -m longtake train judge --set reward --minutes 19
  wait $first
}
progressive() {  # the fine-tune follows its base: what another base left behind is put aside
  if [ -d "$cache/progressive-pocket" ] && [ "$(cat "$cache/progressive-pocket/base" 2> /dev/null)" != "$1" ]; then
    mv "$cache/progressive-pocket" "$cache/progressive-pocket.$(date +%s)"
  fi
  mkdir -p "$cache/progressive-pocket" && echo "$1" > "$cache/progressive-pocket/base"
  $py -m longtake train progressive --minutes 32 --to $weights/pocket-progressive
}

trained=$(sum_of "$cache/pocket-long/checkpoint.safetensors")
step export "$trained" $py -m longtake.training.export --to $weights/pocket
vae=$(sum_of $weights/pocket/vae/*.safetensors)
step preview "$vae" $py -m longtake train preview --minutes 4
step judges "$vae" judges
judge=$(sum_of $weights/pocket-judge/*/judge.safetensors)
pocket=$(sum_of $weights/pocket/*/*.safetensors)
step judges-check "$judge-$vae" $py benchmarks/world_judges.py
step speed "$pocket" $py benchmarks/world_speed.py
measured() {
  export OMP_NUM_THREADS=1
  step world "$pocket-$judge" $py benchmarks/world.py --name "$name" &
  local first=$!
  step ceiling "$vae-$judge" $py benchmarks/ceiling.py
  step drift "$pocket-$judge" $py benchmarks/drift.py --captions 8
  wait $first
}
(measured)
keep_curves
$py benchmarks/world_cards.py
step progressive "$pocket" progressive "$pocket"
tuned_measured() {
  export OMP_NUM_THREADS=1
  step progressive-world "$pocket-$judge" $py benchmarks/world.py --name "$name-progressive" --model pocket-progressive &
  local first=$!
  step progressive-drift "$pocket-$judge" $py benchmarks/drift.py --captions 8 --arms progressive tuned
  wait $first
}
(tuned_measured)
keep_curves
$py benchmarks/world_cards.py
echo "all done; look at docs/figures/drift.svg and docs/cards, then commit weights, results, figures and cards"
