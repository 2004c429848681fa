#!/bin/sh
# What a GPU does with this project, in one go, resumable: the original prototype's table in roberta-base's shape (random weights:
# only the seconds mean something), the same iteration beside sentence-transformers on STS-B and on the paper's pool,
# the STS-B table of docs/results.md, and distill=paper beside distill=best on STS-B and the seven tasks (docs/ablations.md). Needs
# dataset/ (download_dataset.sh all), accelerate and sentence-transformers.
#
#   sh benchmarks/gpu.sh [DEVICE] [PAIRS] [POOL]     gpu 5749 37000; "cpu 64 96" is a dry run
set -eu
device=${1:-gpu} pairs=${2:-5749} pool=${3:-37000} out=outputs/gpu
shape=base rounds=3
[ "$device" = gpu ] || shape=minilm rounds=1
mkdir -p $out
[ -e $out/models ] || { python benchmarks/loop.py --model $shape --write $out/new && mv $out/new $out/models; }

echo "The original prototype's table: seconds in all are the last line; a second run only reads"
python train.py experiment=seed_stsb trainer=$device model.bi=$out/models/bi model.cross=$out/models/cross \
    data.limit="$pairs" distill.failure=ignore hydra.run.dir=$out/seed

for count in "$pairs" "$pool"; do
    [ -e "$out/loop-$count.json" ] || python benchmarks/loop.py --device "$device" --model $shape --pairs "$count" \
        --rounds $rounds --sides ours,st-bf16 --json "$out/loop-$count.json"
done

if [ "$device" = gpu ]; then
    sh benchmarks/stsb_minilm.sh trainer=gpu
    python benchmarks/ablations.py trainer=gpu data=stsb,seven+sick variants=paper,best
fi
