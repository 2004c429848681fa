"""Teach a bi- and a cross-encoder in turn, without labels: `python train.py --help`."""

from pathlib import Path

from transenc.cli import main
from transenc.config import Train


def run(cfg: Train, folder: Path) -> float | None:
    from transenc.loop import distill  # here, so that --help need not load torch

    return distill(cfg, folder)


if __name__ == "__main__":
    main("train", run)
