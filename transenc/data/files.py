"""Reading a person's own pairs: tsv, csv, jsonl, parquet, or `sentence1||sentence2` lines."""

import csv
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transenc.errors import InputError


class Pair(NamedTuple):
    """Two sentences, stripped, each on one line; the gold score is None where it is not given or not asked for."""

    sentence1: str
    sentence2: str
    score: float | None = None


@dataclass(frozen=True)
class Format:
    """Where sentences and gold scores stand in a file.

    Attributes:
        sentence1, sentence2, score: a column's name, or its number from 0 in a file without a header line. `score` is
            None where gold scores are not to be read at all.
        score_min, score_max: a gold score outside is an error.
    """

    sentence1: str | int
    sentence2: str | int
    score: str | int | None
    score_min: float
    score_max: float


def clean(sentence: str) -> str:
    """Without surrounding blanks, and on one line."""
    return sentence.replace("\r", " ").replace("\n", " ").strip()


def read_text(path: Path) -> str:
    """A UTF-8 file's text, without a byte-order mark.

    Raises:
        InputError: not a file, empty, or bytes that are not UTF-8 (with the line).
    """
    if not path.is_file():
        raise InputError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty")
    return text


def read_lines(path: Path) -> list[str]:
    """A text file's lines. Only a line feed ends one: sentences may hold U+2028 and its like."""
    return [line.removesuffix("\r") for line in read_text(path).removesuffix("\n").split("\n")]


def parse_score(text: Any, low: float, high: float, where: str) -> float:
    """A gold score in [low, high].

    Raises:
        InputError: not a number, or outside; the message begins with `where`.
    """
    try:
        score = float(text)
    except (TypeError, ValueError):
        raise InputError(f"{where}: the score {text!r} is not a number") from None
    if not low <= score <= high:
        raise InputError(f"{where}: the score {text} is not in [{low:g}, {high:g}]; see data.score_min, data.score_max")
    return score


def read_file(path: Path, form: Format) -> list[Pair]:
    """Read the pairs of one file, in order; its suffix tells the format.

    `.tsv` is tab-separated and quotes are text; `.csv` is comma-separated with the usual quoting; both begin with a
    header line unless the columns are given as numbers. `.jsonl` holds an object a line, `.parquet` a table. Any other
    file holds `sentence1||sentence2` a line (or `sentence1||sentence2||score` where scores are read). Blank lines are
    passed over.

    Raises:
        InputError: the file is missing, empty or undecodable, lacks a column, or a row is short or badly scored; names
            the file and the line.
    """
    rows = {".tsv": _tsv, ".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}.get(path.suffix.lower(), _bars)
    pairs = []
    for where, sentence1, sentence2, text in rows(path, form):
        score = None if form.score is None else parse_score(text, form.score_min, form.score_max, where)
        pairs.append(Pair(clean(sentence1), clean(sentence2), score))
    if not pairs:
        raise InputError(f"{path}: there are no pairs in the file")
    return pairs


Row = tuple[str, str, str, Any]  # where it stands, sentence 1, sentence 2, the score as it is written


def _bars(path: Path, form: Format) -> Iterator[Row]:
    width = 2 if form.score is None else 3
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            parts = line.split("||")
            if len(parts) != width:
                belongs = "||".join(("sentence1", "sentence2", "score")[:width])
                raise InputError(
                    f"{path}:{number}: {len(parts)} parts where {belongs} belongs;"
                    " for a table name the file .tsv, .csv, .jsonl or .parquet"
                )
            yield f"{path}:{number}", parts[0], parts[1], parts[-1]


def _tsv(path: Path, form: Format) -> Iterator[Row]:
    lines = enumerate(read_lines(path), 1)
    return _table(path, form, ((number, line.split("\t")) for number, line in lines if line.strip()))


def _csv(path: Path, form: Format) -> Iterator[Row]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)

    def rows() -> Iterator[tuple[int, list[str]]]:
        try:
            for row in reader:
                if row:
                    yield reader.line_num, row
        except csv.Error as error:
            raise InputError(f"{path}:{reader.line_num}: {error}; is it comma-separated, with closed quotes?") from None

    return _table(path, form, rows())


def _table(path: Path, form: Format, rows: Iterator[tuple[int, list[str]]]) -> Iterator[Row]:
    wanted = [column for column in (form.sentence1, form.sentence2, form.score) if column is not None]
    if all(isinstance(column, int) for column in wanted):
        places = [int(column) for column in wanted]
    else:
        header = next(rows)[1]
        places = [column if isinstance(column, int) else _find(column, header, path) for column in wanted]
    for number, row in rows:
        if len(row) <= max(places):
            raise InputError(f"{path}:{number}: {len(row)} columns where at least {max(places) + 1} belong")
        yield f"{path}:{number}", row[places[0]], row[places[1]], row[places[-1]]


def _find(column: str, header: list[str], path: Path) -> int:
    if column not in header:
        raise InputError(
            f"{path}:1: no column {column!r} among {', '.join(map(repr, header[:8]))}; name yours with"
            " data.columns.sentence1=..., .sentence2=..., .score=..., or number them from 0 if there is no header"
        )
    return header.index(column)


def _jsonl(path: Path, form: Format) -> Iterator[Row]:
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise InputError(f"{where}: a JSON object belongs here, not {type(row).__name__}")
        yield _record(row, form, where)


def _parquet(path: Path, form: Format) -> Iterator[Row]:
    import pandas  # here, not above: half a second that no other format needs

    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        table = pandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not a readable parquet file ({str(error).splitlines()[0]})") from None
    for number, row in enumerate(table.to_dict("records"), 1):
        yield _record(row, form, f"{path}: row {number}")


def _record(row: Mapping[str, Any], form: Format, where: str) -> Row:
    for column in (form.sentence1, form.sentence2):
        if not isinstance(row.get(str(column)), str):
            raise InputError(
                f"{where}: no text in {str(column)!r} (there are {', '.join(map(repr, list(row)[:8]))}); name your"
                " columns with data.columns.sentence1=..., .sentence2=..., .score=..."
            )
    # JSON can spell half a surrogate pair, which is no character and cannot be written again.
    first, second = (row[str(c)].encode("utf-8", "replace").decode() for c in (form.sentence1, form.sentence2))
    return where, first, second, None if form.score is None else row.get(str(form.score))
