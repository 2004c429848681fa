"""Train a bi-encoder and a cross-encoder in turn, without labels: `python train.py --help`."""

from collections.abc import Sequence
from pathlib import Path

from transenc.cli import main
from transenc.config.schema import Train

USAGE = """python train.py [experiment=NAME] [GROUP=NAME ...] [KEY=VALUE ...]

A bi-encoder and a cross-encoder train each other on unlabelled pairs.
docs/settings.md says what each setting means, `--cfg job --resolve` what the
settings of a command are. A sweep: `-m seed=0,1,2`."""


def run(cfg: Train, folder: Path, overrides: Sequence[str]) -> float | None:
    from transenc.loop import distill  # here, so that --help need not load torch

    return distill(cfg, folder, overrides)


if __name__ == "__main__":
    main("train", run, USAGE)
