"""Train a bi-encoder and a cross-encoder in turn, without labels: `python train.py --help`."""

from collections.abc import Sequence
from pathlib import Path

from transenc.cli import main
from transenc.config.schema import Train


def run(cfg: Train, folder: Path, overrides: Sequence[str]) -> float | None:
    from transenc.loop import distill  # here, so that --help need not load torch

    return distill(cfg, folder, overrides)


if __name__ == "__main__":
    main("train", run)
