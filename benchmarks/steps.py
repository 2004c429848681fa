"""Milliseconds of a training step; on a GPU by CUDA graphs and without.

    python benchmarks/steps.py [--device gpu] [--shapes base,large,minilm] [--pairs 5749] [--dataset dataset]

Shapes as in loop.py, STS-B pairs with random labels, batches of 32. The first 150 steps (or half of all) include what
is done once: graphs are recorded, libraries set themselves up.
"""

import argparse
import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from loop import SHAPES, read, write_models

from transenc.config.schema import Precision
from transenc.data.module import PairDataModule
from transenc.data.tokens import number_sentences
from transenc.encoders import BiEncoder, CrossEncoder, OptimizerConfig
from transenc.stages.evaluation import precision_of
from transenc.terminal import quiet
from transenc.training import train

FIRST = 150


def milliseconds(kind: str, models: Path, graphs: bool, pool: list[tuple[str, str]], device: str) -> tuple[float, ...]:
    """Of a step among the first ones, and of a later one."""
    encoder = BiEncoder.load(models / "bi") if kind == "bi" else CrossEncoder.load(models / "cross", new_head=0)
    encoder.optimizer_config = OptimizerConfig("mse" if kind == "bi" else "bce", 2e-5, 0.1, 0.01)
    encoder.cuda_graphs = graphs
    tokens = encoder.to(device).tokenise(*number_sentences(pool))
    labels = np.random.default_rng(0).random(len(pool), dtype=np.float32)
    datamodule = PairDataModule(
        tokens, labels, encoder.collate, batch_size=32, both_orders=kind == "cross", seed=0, min_batches=4
    )
    precision, times, done = precision_of(Precision.auto, device), {}, itertools.count(1)
    marks = [1, min(FIRST, datamodule.batches // 2), datamodule.batches]

    def progress(_: int) -> None:
        if (step := next(done)) in marks:
            if device == "cuda":
                torch.cuda.synchronize()
            times[step] = time.perf_counter()

    train(
        encoder, datamodule, epochs=1, clip=1.0, accelerator=device, precision=precision, seed=0,
        selection=None, eval_steps=0, progress=progress,
    )  # fmt: skip
    return tuple(1e3 * (times[b] - times[a]) / (b - a) for a, b in itertools.pairwise(marks))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "gpu"), default="gpu")
    parser.add_argument("--shapes", default=",".join((*SHAPES, "minilm")))
    parser.add_argument("--pairs", type=int, default=5749)
    parser.add_argument("--dataset", type=Path, default="dataset")
    options = parser.parse_args()
    quiet()
    pool, _ = read(options.dataset, options.pairs)
    device = "cuda" if options.device == "gpu" else "cpu"
    for shape in options.shapes.split(","):
        with tempfile.TemporaryDirectory() as models:
            write_models(Path(models), shape)
            for kind, graphs in itertools.product(("cross", "bi"), (True, False) if device == "cuda" else (False,)):
                first, later = milliseconds(kind, Path(models), graphs, pool, device)
                way = "graphs" if graphs else "eager"
                print(f"{shape:<7} {kind:<6} {way:<7} {first:7.2f} ms, later {later:7.2f} ms", flush=True)


if __name__ == "__main__":
    main()
