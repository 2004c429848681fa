#!/bin/sh
# What a GPU does with this project, the telling parts first. What is finished is not run again.
#
#   sh benchmarks/gpu.sh [DEVICE] [PAIRS] [POOL]     gpu 5749 37000; "cpu 64 96" is a dry run, in MiniLM's shape alone
#
# 1. One iteration beside sentence-transformers in bf16, three rounds, in the shapes of BERT-base, RoBERTa-large and
#    MiniLM: seconds, share of the bf16 rate, pairs per second, memory.
# 2. The original prototype's table in BERT-base's shape: its seconds, and those of a second run, which only reads.
# 3. A run that is killed while it trains, and run again, beside one that is not: the same bytes.
# 4. Two runs at once on one device.
# 5. Part 1 on the paper's pool; on a GPU also STS-B (docs/results.md) and distill=paper beside distill=best
#    (docs/ablations.md).
#
# Needs dataset/ (download_dataset.sh all) and accelerate. The weights of BERT-base's and RoBERTa-large's shapes are
# random: only their seconds mean something.
set -eu
device=${1:-gpu} pairs=${2:-5749} pool=${3:-37000} out=outputs/gpu
shapes="base large minilm" rounds="1 2 3"
[ "$device" = gpu ] || { shapes=minilm rounds=1; }
mkdir -p $out

loop() { # loop SHAPE PAIRS ROUNDS
    python benchmarks/loop.py --device "$device" --model "$1" --pairs "$2" --rounds "$3" --sides ours,st-bf16 \
        --json "$out/loop-$1-$2.json"
}

models() { # models SHAPE: the settings that name its encoders
    [ -e "$out/models-$1" ] || {
        python benchmarks/loop.py --model "$1" --write "$out/new"
        mv "$out/new" "$out/models-$1"
    }
    settings="experiment=seed_stsb trainer=$device model.bi=$out/models-$1/bi model.cross=$out/models-$1/cross
        data.limit=$pairs distill.failure=ignore"
}

one() { # one NAME [KEY=VALUE ...]: an iteration with artifacts of its own; in a subshell, which it replaces
    name=$1 && shift
    # shellcheck disable=SC2086  # settings are several words
    exec python train.py $settings distill.iterations=1 distill.cross.epochs=2 paths.artifacts="$out/$name/artifacts" \
        hydra.run.dir="$out/$name" "$@" >>"$out/$name.log"
}

for round in $rounds; do
    for shape in $shapes; do loop "$shape" "$pairs" "$round"; done
    [ ! -e $out/once ] || continue

    models "${shapes%% *}"
    for again in "" " again"; do
        began=$(date +%s)
        # shellcheck disable=SC2086
        python train.py $settings hydra.run.dir=$out/prototype
        echo "prototype's table$again: $(($(date +%s) - began)) s"
    done

    models minilm
    rm -rf $out/whole $out/killed $out/left $out/right
    began=$(date +%s)
    (one whole)
    alone=$(($(date +%s) - began))
    (one killed) &
    while kill -0 $! && ! ls $out/killed/artifacts/.train-*/*.checkpoint; do sleep 0.1; done >$out/waiting 2>&1
    kill -9 $! || true
    wait $! || (one killed)
    grep "resumed at step" $out/killed/train.log || echo "not resumed: it had ended before it was killed"
    for file in results.csv models/bi-encoder/model.safetensors models/cross-encoder/model.safetensors; do
        cmp $out/whole/$file $out/killed/$file && echo "resumed: the same $file" || echo "resumed: another $file"
    done

    began=$(date +%s)
    (one left) & left=$!
    (one right seed=1) & right=$!
    wait $left
    wait $right
    echo "one run: $alone s; two at once: $(($(date +%s) - began)) s"
    touch $out/once
done

loop "${shapes%% *}" "$pool" 1
if [ "$device" = gpu ]; then
    sh benchmarks/stsb_minilm.sh trainer=gpu
    python benchmarks/ablations.py trainer=gpu data=stsb,seven+sick variants=paper,best
fi
