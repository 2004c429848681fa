#!/bin/sh
# Development and test Spearman on STS-B per iteration, MiniLM read weakly (three layers) and strongly (all six), three
# seeds each: the table of docs/results.md. Resumable: finished stages are in artifacts/.
#
#   sh benchmarks/stsb_minilm.sh [KEY=VALUE ...]     e.g. paths.dataset=/data
set -eu
for seed in 0 1 2; do
    for layers in 3 null; do
        python train.py experiment=minilm_stsb seed=$seed model.bi_layers=$layers \
            hydra.run.dir=outputs/stsb_minilm/layers-$layers-seed-$seed "$@"
    done
done
head -n 1 outputs/stsb_minilm/layers-3-seed-0/results.csv | sed 's/^/run,/'
for run in outputs/stsb_minilm/*; do
    sed "1d; s/^/$(basename "$run"),/" "$run/results.csv"
done
