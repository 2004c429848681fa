#!/bin/sh
# What a GPU does with this project, the telling parts first. What is finished is not run again.
#
#   sh benchmarks/gpu.sh [DEVICE] [PAIRS] [POOL]     gpu 5749 37000; "cpu 64 96" is a dry run, in MiniLM's shape alone
#
# 1. A run, the same run again, and one that is killed while it trains and goes on: the same bytes. All three at once.
# 2. Milliseconds of a training step, by CUDA graphs and without, in the shapes of BERT-base, RoBERTa-large and MiniLM.
# 3. One iteration beside sentence-transformers in bf16, three rounds, in the same shapes: seconds, share of the bf16
#    rate, pairs per second, memory.
# 4. The original prototype's table in BERT-base's shape: its seconds, and those of a second run, which only reads.
# 5. Two runs at once on one device, beside one alone.
# 6. Part 3 on the paper's pool; on a GPU also STS-B (docs/results.md) and distill=paper beside distill=best
#    (docs/ablations.md).
#
# Needs dataset/ (download_dataset.sh all) and accelerate. The weights of BERT-base's and RoBERTa-large's shapes are
# random: only their seconds mean something.
set -eu
device=${1:-gpu} pairs=${2:-5749} pool=${3:-37000} out=outputs/gpu
shapes="base large minilm" rounds="1 2 3"
[ "$device" = gpu ] || { shapes=minilm rounds=1; export OMP_NUM_THREADS=1; } # runs at once share the cores
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
    exec python train.py $settings distill.iterations=1 distill.cross.epochs=4 data.test=[stsb-test] \
        paths.artifacts="$out/$name/artifacts" hydra.run.dir="$out/$name" "$@" >>"$out/$name.log"
}

part() { # part NAME: whether it is still to be done
    echo
    echo "$1"
    [ ! -e "$out/done-$1" ]
}

if part bytes; then
    models minilm
    rm -rf $out/whole $out/again $out/killed
    (one whole) & whole=$!
    (one again) & again=$!
    (one killed) & killed=$!
    while kill -0 $killed && ! ls $out/killed/artifacts/.train-*/*.checkpoint; do sleep 0.1; done >$out/waiting 2>&1
    kill -9 $killed || true
    wait $killed || (one killed)
    wait $whole
    wait $again
    grep "resumed at step" $out/killed/train.log || echo "not resumed: it had ended before it was killed"
    for other in again killed; do
        for file in results.csv models/bi-encoder/model.safetensors models/cross-encoder/model.safetensors; do
            cmp $out/whole/$file $out/$other/$file && echo "$other: the same $file" || echo "$other: another $file"
        done
    done
    touch $out/done-bytes
fi

if part steps; then
    python benchmarks/steps.py --device "$device" --shapes "$(echo $shapes | tr ' ' ,)" --pairs "$pairs"
    touch $out/done-steps
fi

for round in $rounds; do
    for shape in $shapes; do loop "$shape" "$pairs" "$round"; done
done

if part prototype; then
    models "${shapes%% *}"
    for again in "" " again"; do
        began=$(date +%s)
        # shellcheck disable=SC2086
        python train.py $settings hydra.run.dir=$out/prototype
        echo "prototype's table$again: $(($(date +%s) - began)) s"
    done
    touch $out/done-prototype
fi

if part two; then
    models minilm
    rm -rf $out/alone $out/left $out/right
    began=$(date +%s)
    (one alone)
    alone=$(($(date +%s) - began)) began=$(date +%s)
    (one left) & left=$!
    (one right seed=1) & right=$!
    wait $left
    wait $right
    echo "one run: $alone s; two at once: $(($(date +%s) - began)) s"
    touch $out/done-two
fi

loop "${shapes%% *}" "$pool" 1
if [ "$device" = gpu ]; then
    sh benchmarks/stsb_minilm.sh trainer=gpu
    python benchmarks/ablations.py trainer=gpu data=stsb,seven+sick variants=paper,best
fi
