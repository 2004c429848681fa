"""Reading a person's own pairs, record by record: tsv, csv, jsonl, parquet, or `sentence1||sentence2` lines."""

import codecs
import csv
import io
import json
import logging
import re
import string
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from transenc.data.lines import STDIN, UNREADABLE, bare_lines, check_file, decoded, one_line, raw_lines
from transenc.data.scores import SHOWN, as_number, parse_label, parse_score
from transenc.errors import InputError

log = logging.getLogger("transenc")

PEEKED = 20  # lines of a csv that tell what stands between its columns
LONG_ROW = 10  # lines in a row of csv, above which a quote is probably not closed
KINDS = ("csv", "tsv", "jsonl", "txt", "parquet")  # txt: sentence1||sentence2 lines
csv.field_size_limit(2**31 - 1)  # of characters in a cell; Python's own is 131,072
NAME_YOURS = "name yours with data.columns.sentence1=..., .sentence2=..., .score=..."
NAME_SCORE = "these pairs need scores; name their column with data.columns.score=..."
DELIMITERS = {"csv": ",", "tsv": "\t", "jsonl": "", "txt": "||", "parquet": ","}
SEPARATORS = {",": ("commas", "csv"), ";": ("semicolons", "csv"), "\t": ("tabs", "tsv")}


class Pair(NamedTuple):
    """Two sentences, each on one line; the gold score is None where it is not given or not requested."""

    sentence1: str
    sentence2: str
    score: float | None = None


class Record(NamedTuple):
    """One pair as it stands in a file.

    Attributes:
        where: file and line, as errors begin with it.
        sentence1, sentence2: each on one line, surrounding whitespace kept.
        score: as it is written; without a meaning where `Format.score` is None.
        text: the whole record as it is written, without its line end. Rows that are shorter than the header are
            padded with empty columns; a row of parquet is written as csv, or "" unless `Reader` is asked for the whole.
    """

    where: str
    sentence1: str
    sentence2: str
    score: Any
    text: str


@dataclass(frozen=True)
class Format:
    """Where sentences and gold scores stand in a file.

    Attributes:
        sentence1, sentence2, score: a column's name, or its number from 0 in a file without a header line. `score` is
            None where gold scores are not to be read at all.
        score_min, score_max: a gold score outside is an error.
        binary: gold scores are 0 or 1, and nothing else.

    Raises:
        InputError: two of them are one column.
    """

    sentence1: str | int
    sentence2: str | int
    score: str | int | None
    score_min: float
    score_max: float
    binary: bool = False

    def __post_init__(self) -> None:
        columns = [column for column in (self.sentence1, self.sentence2, self.score) if column is not None]
        if len(set(columns)) < len(columns):
            names = ", ".join(map(str, columns))
            raise InputError(f"data.columns: one column twice among {names}; name another")

    def gold(self, written: Any, where: str) -> float:
        """The gold score that is written somewhere.

        Raises:
            InputError: it is none; the message begins with `where`.
        """
        if self.binary:
            return parse_label(written, where)
        return parse_score(written, self.score_min, self.score_max, where)


def read_file(path: Path, form: Format) -> list[Pair]:
    """All pairs of one file, see `read_pairs`."""
    return list(read_pairs(path, form))


def read_pairs(path: Path, form: Format, warn: Callable[[str], Any] | None = None) -> Iterator[Pair]:
    """The pairs of one file, in order, whitespace around sentences kept; its suffix tells the format.

    Args:
        path: of the file.
        form: where its sentences and scores stand.
        warn: see `Reader`.

    Raises:
        InputError: as `Reader`, or a row is badly scored.
    """
    reader, pair, quoted = Reader(path, form, warn=warn), None, 0
    delimiters = string.whitespace + (",;" if reader.kind == "csv" else "")
    for where, sentence1, sentence2, written, text in reader:
        if reader.kind == "parquet" or text.strip(delimiters):  # spreadsheets leave rows of delimiters alone at the end
            pair = Pair(sentence1, sentence2, None if form.score is None else form.gold(written, where))
            quoted += _quoted(sentence1) + _quoted(sentence2)
            yield pair
    if pair is None:
        raise InputError(f"{path}: there are no pairs in the file")
    if reader.kind == "tsv" and quoted:
        reader.warn(
            f"{quoted} sentences are in quotes, as a spreadsheet puts them; in .tsv quotes are text. Save it as .csv if"
            " they do not belong to the sentences"
        )


def _quoted(sentence: str) -> bool:
    """Whether quotes around a sentence are a spreadsheet's: those inside are doubled, or it holds a comma."""
    inside = sentence[1:-1]
    around = len(sentence) > 1 and sentence[0] == sentence[-1] == '"' and '"' not in inside.replace('""', "")
    return around and ('""' in inside or "," in inside)


def _delimiter(lines: Sequence[str]) -> str:
    """What stands between columns of csv: a semicolon, as spreadsheets save it in much of Europe, if it makes as many
    columns of each line, and commas do not. Those before a space and in a number (1,5) do not count.
    """

    def in_columns(lines: Iterable[str], delimiter: str) -> bool:
        try:
            widths = [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        except csv.Error:  # which is told when the row is read
            return False
        widths = widths[:-1] or widths  # a cell of several lines may go on behind the last
        return len(set(widths)) == 1 and widths[0] > 1

    commas = [re.sub(r"(?<=\d),(?=\d)|, ", " ", line) for line in lines]
    return ";" if in_columns(lines, ";") and not in_columns(commas, ",") else ","


def csv_line(cells: Iterable[Any]) -> str:
    """Cells as one row of csv, without its line end."""
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue().removesuffix("\r\n")


class Reader:
    """The records of one file, in order, each read when it is asked for.

    `tsv` is tab-separated and quotes are text; `csv` has the usual quoting, and semicolons for commas if there is no
    comma between its columns; both begin with a header line unless the columns are given as numbers. `jsonl` holds an
    object a line, `parquet` a table, `txt` `sentence1||sentence2` a line (or `sentence1||sentence2||score` where scores
    are read; elsewhere it is passed over). Blank lines are passed over.

    Args:
        path: a file, or `STDIN` (but for parquet).
        form: where its sentences and scores stand.
        kind: one of `KINDS`; None: as the suffix says, txt for any other suffix, tsv for `STDIN`.
        warn: called with what looks wrong but can be read, without the file's name; None: the log gets it.
        whole: whether `Record.text` is asked for. Without it, of parquet only the columns of `form` are read.

    Attributes:
        header: the header line as it is written, None where there is none; known from the first record on.
        names: the columns of the record that was read last, empty where nothing names them.
        delimiter: what stands between columns; known from the first record on.
        mark: the byte-order mark that the file begins with, or nothing; known from the first record on.
        line_end: of the first line; known likewise.

    Raises:
        InputError: while reading: the file is missing, empty or undecodable, or holds no pair, lacks a column or has it
            twice, or a row is too short or longer than the header; names the file and the line.
    """

    def __init__(
        self,
        path: Path,
        form: Format,
        kind: str | None = None,
        warn: Callable[[str], Any] | None = None,
        whole: bool = False,
    ):
        suffix = path.suffix.lower().removeprefix(".")
        if suffix in UNREADABLE:
            raise InputError(f"{path}: is {UNREADABLE[suffix]}")
        self.path, self.form, self.whole = path, form, whole
        self.warn = warn or (lambda text: log.warning("%s: %s", path, text))
        self.kind = kind or ("tsv" if path == STDIN else suffix if suffix in KINDS else "txt")
        self.header: str | None = None
        self.names: Collection[str] = ()
        self.delimiter, self.mark, self.line_end = DELIMITERS[self.kind], "", "\n"

    def __iter__(self) -> Iterator[Record]:
        kinds = {"csv": self._csv, "tsv": self._tsv, "jsonl": self._jsonl, "parquet": self._parquet, "txt": self._bars}
        record = None
        for record in kinds[self.kind]():
            yield record._replace(sentence1=one_line(record.sentence1), sentence2=one_line(record.sentence2))
        if record is None:
            raise InputError(f"{self.path}: there are no pairs in the file")

    def _began(self, line: bytes) -> None:
        self.mark = "\ufeff" if line.startswith(codecs.BOM_UTF8) else ""
        self.line_end = "\r\n" if line.endswith(b"\r\n") else "\n"

    def _bars(self) -> Iterator[Record]:
        width = 2 if self.form.score is None else 3
        for number, line in enumerate(bare_lines(self.path, self._began), 1):
            if line.strip():
                parts = line.split("||")
                if len(parts) != width and not (width == 2 and len(parts) == 3 and as_number(parts[2]) is not None):
                    belongs = "||".join(("sentence1", "sentence2", "score")[:width])
                    remedy = "set format=csv, tsv or jsonl for a table"
                    if self.path != STDIN:
                        remedy = (
                            "name a table .tsv, .csv, .jsonl or .parquet, and give single sentences as"
                            " data.sentences=FILE"
                        )
                    raise InputError(f"{self.path}:{number}: {len(parts)} parts where {belongs} belongs; {remedy}")
                if number == 1 and _are_heads(parts):
                    self.warn("line 1 is read as a pair; if it is a header, remove it")
                yield Record(f"{self.path}:{number}", parts[0], parts[1], parts[-1], line)

    def _tsv(self) -> Iterator[Record]:
        lines = enumerate(bare_lines(self.path, self._began), 1)
        return self._table((number, line.split("\t"), line) for number, line in lines)

    def _csv(self) -> Iterator[Record]:
        text: list[str] = []  # the lines of the row in the making

        def lines(all_of: Iterable[str]) -> Iterator[str]:
            for line in all_of:
                text.append(line)
                yield line

        def rows() -> Iterator[tuple[int, list[str], str]]:
            rest = raw_lines(self.path, self._began)
            first: list[str] = []  # up to the header; without one, some lines
            for line in rest:
                first.append(line)
                if len(first) == PEEKED or (line.strip() and isinstance(self.form.sentence1, str)):
                    break
            self.delimiter = _delimiter([line for line in first if line.strip()])
            reader, told = csv.reader(lines(chain(first, rest)), delimiter=self.delimiter, strict=True), False
            try:
                for row in reader:
                    begin = reader.line_num - len(text) + 1
                    if len(text) > LONG_ROW and not told:  # once: a file may be full of such texts
                        told = True
                        self.warn(f"lines {begin} to {reader.line_num} are one row; is a quote not closed?")
                    yield begin, row, "".join(text).rstrip("\r\n")
                    text.clear()
            except csv.Error as error:
                where = f"{self.path}:{reader.line_num - len(text) + 1}"
                reason = str(error).partition(" - ")[0]  # what follows is advice to who wrote the program
                raise InputError(f"{where}: {reason}; are its quotes closed?") from None

        return self._table(rows())

    def _table(self, rows: Iterator[tuple[int, list[str], str]]) -> Iterator[Record]:
        """Records of (line number, columns, text); a row of nothing but delimiters is a pair of empty sentences."""
        rows, form = (row for row in rows if len(row[1]) > 1 or row[2].strip()), self.form
        wanted = [column for column in (form.sentence1, form.sentence2, form.score) if column is not None]
        if len({type(column) for column in wanted}) > 1:
            raise InputError(f"{self.path}: some data.columns are numbered and some named; number all, or name all")
        if all(isinstance(column, int) for column in wanted):
            places = [int(column) for column in wanted]
        else:
            _, names, self.header = next(rows)
            places = [self._find(str(column), names) for column in wanted]
            self.names = names
        width = None  # of a file without a header, whose columns are where the first row has them
        for number, row, text in rows:
            where, missing = f"{self.path}:{number}", len(self.names) - len(row)
            if not self.names and len(row) != (width or len(row)):
                raise InputError(
                    f"{where}: {len(row)} columns where the first row has {width}; is there a {self.delimiter!r} too"
                    " many, or a text not in quotes?"
                )
            if len(row) <= max(places):
                raise InputError(f"{where}: {len(row)} columns where at least {max(places) + 1} belong")
            if self.names and missing < 0:
                raise InputError(
                    f"{where}: {len(row)} columns where the header has {len(self.names)}; is there a"
                    f" {self.delimiter!r} too many?"
                )
            if not (self.names or width):
                if [row[place] for place in places] == list(map(str, places)):
                    raise InputError(
                        f"{where}: is a header of numbers; name its columns as texts: data.columns.sentence1=\"'0'\""
                    )
                if _are_heads([row[place] for place in places]):
                    self.warn(f"line {number} is read as a pair; if it is a header, name the columns in data.columns")
            width, score = len(row), row[places[-1]]
            if self.delimiter == ";":  # where 1,5 is a number
                score = score.replace(",", ".")
            yield Record(where, row[places[0]], row[places[1]], score, text + self.delimiter * missing)

    def _find(self, column: str, header: list[str]) -> int:
        for mark, (name, kind) in SEPARATORS.items():
            if len(header) == 1 and mark in header[0] and kind != self.kind:  # else the whole line is in quotes
                remedy = f"set format={kind}" if self.path == STDIN else f"name it .{kind}"
                raise InputError(f"{self.path}:1: its columns are separated by {name}; {remedy}")
        if f'"{column}"' in header:
            raise InputError(f"{self.path}:1: its cells are in quotes, which are text in .tsv; save it as .csv")
        if column not in header:
            yours = f"{NAME_YOURS}; only where there is no header, number them from 0"
            if column == self.form.score and self.form.sentence1 in header:
                yours = NAME_SCORE
            raise InputError(f"{self.path}:1: no column {column!r} among {_some(header)}; {yours}")
        if header.count(column) > 1:
            raise InputError(f"{self.path}:1: {header.count(column)} columns are called {column!r}; rename all but one")
        return header.index(column)

    def _jsonl(self) -> Iterator[Record]:
        for number, line in enumerate(bare_lines(self.path, self._began), 1):
            if not line.strip():
                continue
            where = f"{self.path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:  # the latter: brackets in brackets in brackets
                raise InputError(f"{where}: not JSON ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{where}: a JSON object belongs here, not {type(row).__name__}")
            yield self._object(row, row, where, line.strip())

    def _parquet(self) -> Iterator[Record]:
        from pyarrow.parquet import ParquetFile  # here, not above: a load that no other format needs

        wanted = set(map(str, (self.form.sentence1, self.form.sentence2, self.form.score)))
        names: list[str] = []

        def rows() -> Iterator[dict[str, Any]]:
            try:
                with ParquetFile(self.path) as file:
                    names.extend(file.schema_arrow.names)
                    read = names if self.whole else [name for name in names if name in wanted]
                    if len(set(read)) < len(read):
                        raise ValueError(f"two columns of one name among {_some(names)}")
                    for batch in file.iter_batches(batch_size=1024, columns=read):
                        yield from batch.to_pylist()
            except Exception as error:  # each kind of damage, and of cell that Python cannot hold, has one of its own
                reason = str(error).partition("\n")[0]
                raise InputError(f"{self.path}: not a readable parquet file ({reason})") from None

        check_file(self.path)
        for number, row in enumerate(rows(), 1):
            self.header = self.header or csv_line(names)
            text = csv_line(row.values()) if self.whole else ""
            yield self._object(row, names, f"{self.path}: row {number}", text)

    def _object(self, row: dict[str, Any], names: Collection[str], where: str, text: str) -> Record:
        earlier, self.names, form = self.names, names, self.form
        sides = []
        for column in map(str, (form.sentence1, form.sentence2)):
            if column not in row:
                advice = "mend or remove it" if column in earlier else NAME_YOURS
                raise InputError(f"{where}: no column {column!r} (there are {_some(names)}); {advice}")
            if not isinstance(row[column], str | None):
                raise InputError(f"{where}: {column!r} is {row[column]!r:.{SHOWN}}, not a text; mend or remove it")
            # JSON can spell half a surrogate pair, which is no character and cannot be written again.
            sides.append(decoded((row[column] or "").encode("utf-8", "replace"), where))
        if form.score is not None and str(form.score) not in row:
            advice = "mend or remove it" if str(form.score) in earlier else NAME_SCORE
            raise InputError(f"{where}: no column {str(form.score)!r} (there are {_some(names)}); {advice}")
        return Record(where, *sides, None if form.score is None else row[str(form.score)], text)


def _are_heads(cells: Sequence[str]) -> bool:
    """Whether the cells of a row may be its columns' heads: single words, or two alike but for a number at the end."""
    first, second = cells[:2]
    alike = first != second and first.rstrip(string.digits) == second.rstrip(string.digits)
    return alike or all(cell.isidentifier() for cell in cells)


def _some(names: Collection[str]) -> str:
    return ", ".join(f"{name[:SHOWN]!r}" for name in islice(names, 8))
