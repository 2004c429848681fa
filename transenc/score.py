"""Add a column of scores to a file of pairs: `python -m transenc.score model=MODEL pairs.csv > scored.csv`."""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from transenc.cli import few_full_collections, one_line_errors, print_error
from transenc.composition import compose, expand_home, readable
from transenc.config.checks import check_evaluation
from transenc.config.schema import Evaluate, listed
from transenc.data.files import KINDS, Format, Reader, Record
from transenc.errors import InputError, nearest
from transenc.evaluate import recognise, shorthand

log = logging.getLogger("transenc")

USAGE = """python -m transenc.score model=MODEL FILE [KEY=VALUE ...]

FILE holds pairs: .tsv, .csv, .jsonl, .parquet, or sentence1||sentence2 a line;
- is standard input. Standard output gets the same with one column more at the
end: each pair's score in [0, 1] (one below 0 is 0), and none where a
sentence is empty. Blank lines are left out. All else stays as it is, line ends
and byte-order mark too; parquet becomes csv. A file of any size is scored as it
is read.

column=NAME     what the new column is called; score by default
format=FORMAT   csv, tsv, jsonl or txt (sentence1||sentence2); by default what
                FILE's suffix says, tsv for -

Other settings are those of transenc.evaluate: data.columns.sentence1=NAME,
model.pooling, model.prompt and so on (docs/settings.md)."""

CHUNK = 8192  # pairs scored at once: enough to sort by length, little to hold
FORMATS = [kind for kind in KINDS if kind != "parquet"]  # whose end must be read first, so it cannot come from a pipe


def run(cfg: Evaluate, reader: Reader, column: str, out: TextIO) -> None:
    """Write the reader's records, in order, each with its score in [0, 1].

    Args:
        cfg: which model, or models, whose mean score it then is, and what they run on.
        reader: of the pairs.
        column: what the scores are called.
        out: gets each chunk as soon as it is scored.

    Raises:
        InputError: the model or the file is missing or wrong; the pairs before the mistake have been written.
    """
    records = without(column, reader)
    first = next(records)  # so that a file that is wrong from the start is an error before the model is loaded
    encoders, batch_tokens = load(cfg)
    end = reader.line_end
    out.write(reader.mark)
    if reader.header is not None:
        out.write(reader.header + reader.delimiter + column + end)
    for chunk in chunks(chain([first], records)):
        pairs = [record[1:3] for record in chunk if whole(record)]
        scores_of_each = [encoder.predict(pairs, batch_tokens) for encoder in encoders] if pairs else [[]]
        scores = iter(np.mean(scores_of_each, axis=0).clip(0, 1))
        for record in chunk:
            cell = f"{next(scores):.6f}" if whole(record) else ""
            out.write(extended(record.text, reader, column, cell) + end)
        out.flush()
    for name, encoder in zip(listed(cfg.model.path), encoders, strict=True):
        if encoder.cut:
            log.warning(f"{name}: {encoder.cut:,} {encoder.unit} cut to {encoder.max_tokens} tokens")


def load(cfg: Evaluate) -> tuple[list[Any], int]:
    """The encoders, each of the kind that its folder says, on their device, and the tokens of a batch."""
    # Here, so that --help need not load torch.
    from transenc.stages.evaluation import SCORE_TOKENS, check_processes, device_of
    from transenc.stages.models import encoder_class, find_model

    check_processes()
    device, encoders = device_of(cfg.trainer.accelerator), []
    for name in listed(cfg.model.path):
        source = find_model("model", name)
        kind, settings = recognise(source, cfg.model)
        encoder = encoder_class(kind).load(source, max_tokens=cfg.model.max_tokens, **settings)
        encoder.use_cpu_layers(cfg.trainer.cpu_layers)
        encoders.append(encoder.to(device))
    return encoders, cfg.trainer.score_tokens or SCORE_TOKENS[device]


def without(column: str, reader: Reader) -> Iterator[Record]:
    """The records, as long as they have no such column."""
    for record in reader:
        if column in reader.names:
            where = record.where if reader.header is None else f"{reader.path}:1"
            raise InputError(f"{where}: there is a {column!r} already; name the new column with column=NAME")
        yield record


def chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    """`CHUNK` records at a time; what stands before a mistake comes before the mistake, which says so."""
    chunk: list[Record] = []
    try:
        for record in records:
            chunk.append(record)
            if len(chunk) == CHUNK:
                yield chunk
                chunk = []
    except InputError as error:
        yield chunk
        raise InputError(f"{error}; the output ends before it") from None
    yield chunk


def whole(record: Record) -> bool:
    return bool(record.sentence1.strip() and record.sentence2.strip())


def extended(text: str, reader: Reader, column: str, cell: str) -> str:
    """A record with one cell more, without its line end."""
    if reader.kind == "jsonl":
        return f"{text.removesuffix('}').rstrip()}, {json.dumps(column)}: {cell or 'null'}}}"
    return f"{text}{reader.delimiter}{cell}"


def main(arguments: Sequence[str]) -> None:
    """Score what the command line says, to standard output."""
    parts = [argument.partition("=") for argument in arguments]
    options = {key: value for key, equals, value in parts if equals and key in ("column", "format")}
    files = [argument for argument in arguments if "=" not in argument or os.path.isfile(argument)]
    if flags := [argument for argument in files if argument.startswith("-") and argument != "-"]:
        print_error(f"{flags[0]}: no such flag; --help shows how")
        sys.exit(2)
    settings = [a for a in arguments if a not in files and a.partition("=")[0] not in options]
    cfg = compose("evaluate", ["data=pairs", *(readable(expand_home(shorthand(argument))) for argument in settings)])
    check_evaluation(cfg)
    if cfg.trainer.precision.name == "bf16-mixed":
        raise InputError("trainer.precision=bf16-mixed: transenc.score computes in fp32; leave it out")
    files += [cfg.data.path] if cfg.data.path is not None else []
    column, kind = options.get("column", "score"), options.get("format")
    if len(files) != 1:
        raise InputError(f"one file of pairs belongs here, not {len(files)}; --help shows how")
    if not column or set(column) & set('\t\r\n,;"'):
        raise InputError(f"column={column}: a name without tabs, commas, semicolons and quotes belongs here")
    if kind is not None and kind not in FORMATS:
        raise InputError(f"format={kind}: no such choice{nearest(kind, FORMATS, listed=True)}")
    columns = cfg.data.columns
    form = Format(columns.sentence1, columns.sentence2, None, cfg.data.score_min, cfg.data.score_max)
    out: Any = sys.stdout
    if out is None:
        raise InputError("standard output is closed, where the scores go")
    out.reconfigure(encoding="utf-8", newline="")
    try:
        with redirect_stdout(sys.stderr):  # nothing but the table belongs in the output
            run(cfg, Reader(Path(files[0]), form, kind, whole=True), column, out)
    except BrokenPipeError:  # whoever reads has had enough; Python would complain at its exit if it could not flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), out.fileno())


if __name__ == "__main__":
    if not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:]):
        print(USAGE)
        sys.exit(0 if sys.argv[1:] else 2)
    try:
        with few_full_collections(), one_line_errors("evaluate", print_error):
            main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
