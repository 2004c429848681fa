"""Score the pairs of a file: `python -m transenc.score model=FOLDER pairs.csv > scores.csv`."""

import csv
import sys
from pathlib import Path
from typing import TextIO

from transenc.cli import complain, compose, one_line_errors
from transenc.config import Evaluate
from transenc.errors import InputError
from transenc.evaluate import shorthand

USAGE = """python -m transenc.score model=MODEL FILE [data.columns.sentence1=NAME ...] > scores.csv

FILE holds pairs: .tsv, .csv, .jsonl, .parquet, or sentence1||sentence2 a line. The output is a csv of both sentences
and their score in [0, 1], in the order of the file; a pair with an empty sentence has no score."""


def run(cfg: Evaluate, out: TextIO) -> None:
    """Write sentence1, sentence2, score for each pair of `data.path`.

    Raises:
        InputError: the model or the file is missing or wrong.
    """
    from transenc.data.files import Format, read_file  # here, so that --help need not load torch
    from transenc.encoders import BiEncoder, CrossEncoder, PairEncoder
    from transenc.encoders.folder import describe, find
    from transenc.stages import device_of
    from transenc.watch import quiet

    quiet()
    columns = cfg.data.columns
    form = Format(columns.sentence1, columns.sentence2, None, cfg.data.score_min, cfg.data.score_max)
    pairs = [pair[:2] for pair in read_file(Path(str(cfg.data.path)), form)]
    cross = describe(find(cfg.model.path).folder).cross
    encoder: PairEncoder = (
        CrossEncoder.load(cfg.model.path, max_tokens=cfg.model.max_tokens)
        if cross
        else BiEncoder.load(cfg.model.path, pooling=cfg.model.pooling.name, max_tokens=cfg.model.max_tokens)
    )
    encoder.to(device_of(cfg.trainer.accelerator))
    whole = [pair for pair in pairs if all(pair)]
    scores = iter(encoder.predict(whole, cfg.trainer.score_tokens) if whole else [])
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("sentence1", "sentence2", "score"))
    for pair in pairs:
        writer.writerow((*pair, f"{next(scores):.6f}" if all(pair) else ""))


if __name__ == "__main__":
    arguments = [shorthand(a) if "=" in a else f"data.path='{a}'" for a in sys.argv[1:]]
    if not sys.argv[1:] or sys.argv[1] in ("-h", "--help"):
        print(USAGE)
        sys.exit(0 if sys.argv[1:] else 2)
    with one_line_errors("evaluate", complain):
        if not any(a.startswith("data.path=") for a in arguments):
            raise InputError("no file of pairs is given; --help shows how")
        run(compose("evaluate", ["data=pairs", *arguments]), sys.stdout)
