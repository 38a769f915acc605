#!/usr/bin/env bash
# Train several networks on one GPU in a given time, and measure them:
#
#     CRNET_DATA=folder-of-image-sets benchmarks/gpu.sh MINUTES
#
# Environment: DEVICE (cuda), PYTHON (python3), OUT (./gpu-out), RUNS (./gpu-runs),
# NETWORKS (names of the table below, in this order).
#
# 1. The tests that need a GPU, two minutes at most.
# 2. Two rates: a 3x3 convolution, and a training step, both in the faster precision.
# 3. Training.  Each network has a part of the minutes, and ends annealed.
# 4. Weights with their PSNR on the test sets at hand.
#
# Every minute each run saves a checkpoint, and this script puts its averaged weights into OUT,
# with its log and its checkpoint in parts of 15 MB:  cat OUT/NAME.state/* > last.ckpt
# Started again after a cut, it goes on with what is in RUNS.
# It needs torch, lightning, numba, pillow, safetensors; no pip, no git and no network.
# DEVICE=cpu rehearses everything at tiny sizes.

set -u

MINUTES=${1:?usage: gpu.sh MINUTES}
DEVICE=${DEVICE:-cuda}
PYTHON=${PYTHON:-python3}
OUT=${OUT:-./gpu-out}
RUNS=${RUNS:-./gpu-runs}
NETWORKS=${NETWORKS:-crnet-b crnet-a crnet-b-large}
ROOT=$(cd "$(dirname "$0")/.." && pwd)
export PYTHONPATH=$ROOT
: "${CRNET_DATA:?set CRNET_DATA to the folder of the image sets}"
mkdir -p "$OUT" "$RUNS"

# The part of the training time, the recipe, and what is changed in it.
recipe_of() {
  case $1 in
    crnet-b) echo "5 crnet-b-compact --start crnet-b --border 4 --batch 64 --patch 48" \
                  "--lr 6e-4 --ema 0.9995" ;;
    crnet-a) echo "2 crnet-a-compact --start crnet-a --teacher= --batch 64 --patch 64" \
                  "--lr 6e-4 --ema 0.9995" ;;
    crnet-b-large) echo "4 crnet-b-compact --m0 256 --recursions 25 --border 4 --batch 32" \
                        "--patch 48 --lr 8e-4 --ema 0.9995" ;;
    crnet-b-fast) echo "3 crnet-b-fast --start crnet-b-fast --teacher= --batch 64 --ema 0.9995" ;;
    crnet-b-sparse) echo "5 crnet-b-sparse --start crnet-b-sparse --teacher= --batch 64" \
                         "--ema 0.9995" ;;
    crnet-a-sparse) echo "3 crnet-a-sparse --start crnet-a-sparse --teacher= --batch 64" \
                         "--ema 0.9995" ;;
    *) echo "gpu.sh: no network $1" >&2; exit 2 ;;
  esac
}

TRAINING="T91 BSDS200-train BSDS500-test General100 CID22-train CLIC2025-test DIV2K"
TESTS="Set5 Set14 B100"
RATES="--patches 64"
TINY=""
if [ "$DEVICE" = cpu ]; then # a rehearsal
  TRAINING=T91
  TESTS=Set5
  RATES="--patches 2 --side 12 --steps 6 --repeats 1"
  TINY="--n0 8 --m0 8 --recursions 2 --patch 12 --batch 2 --start="
fi

END=$((SECONDS + $(awk "BEGIN { printf \"%d\", 60 * $MINUTES }")))

at_hand() { # the sets of a list that exist
  for name in "$@"; do [ -d "$CRNET_DATA/$name" ] && echo "$name"; done
}

CRNET=("$PYTHON" -c 'import sys; from crnet.cli import main; sys.exit(main())')

say() {
  echo "[$(date +%T), $(((END - SECONDS) / 60)) min left] $*" | tee -a "$OUT/gpu.log"
}

publish() { # NAME: its log, averaged weights and state, each replaced as a whole
  cp "$RUNS/$1.log" "$OUT/$1.log" 2>/dev/null
  cp "$(ls -d "$RUNS/$1"/logs/*/metrics.csv 2>/dev/null | tail -n 1)" "$OUT/$1.csv" 2>/dev/null
  [ -e "$RUNS/$1/last.ckpt" ] || return 0
  rm -rf "$OUT/$1.new" && mkdir "$OUT/$1.new" &&
    split -b 15000000 "$RUNS/$1/last.ckpt" "$OUT/$1.new/" &&
    rm -rf "$OUT/$1.old" && { [ ! -e "$OUT/$1.state" ] || mv "$OUT/$1.state" "$OUT/$1.old"; } &&
    mv "$OUT/$1.new" "$OUT/$1.state" && rm -rf "$OUT/$1.old"
  "${CRNET[@]}" export "$RUNS/$1/last.ckpt" "$OUT/$1.safetensors" --sets --overwrite >/dev/null
}

publish_every_minute() { # NAME: as long as its mark is there
  local seconds=0
  while [ -e "$RUNS/$1.training" ]; do
    sleep 1
    seconds=$((seconds + 1))
    [ $((seconds % 60)) -eq 0 ] && publish "$1"
  done
}

TRAINING_NOW=
TRAINER=
stopped() { # by a signal: the run saves, and its state is published
  trap - TERM INT
  rm -f "$RUNS"/*.training
  [ -n "$TRAINER" ] && kill -TERM "$TRAINER" 2>/dev/null
  wait
  [ -n "$TRAINING_NOW" ] && publish "$TRAINING_NOW"
  say "stopped; the same command goes on"
  exit 143
}
trap stopped TERM INT

train() { # NAME MINUTES ARGUMENTS: start a run, or go on with it
  local name=$1 minutes=$2 resume=
  shift 2
  # The minutes are a part of the recipe, so a run that goes on keeps them.
  [ -e "$RUNS/$name.minutes" ] && minutes=$(cat "$RUNS/$name.minutes")
  echo "$minutes" >"$RUNS/$name.minutes"
  ls "$RUNS/$name"/*.ckpt >/dev/null 2>&1 && resume=--resume
  say "$name: $minutes minutes $resume"
  touch "$RUNS/$name.training"
  publish_every_minute "$name" &
  TRAINING_NOW=$name
  "${CRNET[@]}" train "$@" --minutes "$minutes" --sets $(at_hand $TRAINING) \
    --validation $(at_hand gb82) --device "$DEVICE" --save-minutes 1 \
    --out "$RUNS/$name" $resume $TINY >>"$RUNS/$name.log" 2>&1 &
  TRAINER=$! # in the background, so that a signal is heard
  wait "$TRAINER" || say "$name failed: $(tail -n 1 "$RUNS/$name.log")"
  TRAINER=
  rm -f "$RUNS/$name.training"
  wait
  publish "$name"
  TRAINING_NOW=
}

say "tests"
if "$PYTHON" -c 'import pytest, hypothesis' 2>/dev/null; then
  (cd "$ROOT" && timeout 120 "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda \
    tests/test_cuda.py tests/crnet/training 2>&1) | tail -n 25 | tee -a "$OUT/gpu.log"
else
  say "no pytest or no hypothesis here: the tests are left out"
fi

say "rates"
timeout 120 "$PYTHON" "$ROOT/benchmarks/train_step.py" --device "$DEVICE" \
  --json "$OUT/rates.json" $RATES 2>&1 | tail -n 5 | tee -a "$OUT/gpu.log"

parts=0
for name in $NETWORKS; do
  set -- $(recipe_of "$name")
  parts=$((parts + $1))
done
reserve=$(((END - SECONDS) / 8)) # seconds for measuring at the end
setup=30                         # seconds until a run takes its first step; then measured
for name in $NETWORKS; do
  set -- $(recipe_of "$name")
  part=$1
  shift
  minutes=$(awk "BEGIN { t = ($END - $SECONDS - $reserve) * $part / $parts - $setup;
                         printf \"%.3f\", (t > 6 ? t : 6) / 60 }")
  parts=$((parts - part))
  begun=$SECONDS
  train "$name" "$minutes" "$@"
  setup=$(awk "BEGIN { t = $SECONDS - $begun - 60 * $minutes; printf \"%d\", (t > 5 ? t : 5) }")
done

for name in $NETWORKS; do
  [ -e "$RUNS/$name/last.ckpt" ] || continue
  say "PSNR of $name"
  "${CRNET[@]}" export "$RUNS/$name/last.ckpt" "$OUT/$name.safetensors" --sets $(at_hand $TESTS) \
    --device "$DEVICE" --overwrite 2>&1 | tee -a "$OUT/gpu.log" "$OUT/$name.txt"
done
say "done: $(du -sh "$OUT" | cut -f1) in $OUT"
