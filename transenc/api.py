"""The loop from Python, in a notebook or a script: the same code, settings and run folder as `python train.py`."""

import csv
import io
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import Any

from transenc.artifacts import digest, lock, replacing
from transenc.composition import check_own_data, compose, expand_home, quoted, readable
from transenc.config.schema import Scores, Train
from transenc.data.files import Format
from transenc.data.lines import one_line
from transenc.errors import InputError, sent_again
from transenc.loop import distill as run_loop
from transenc.report.run import Run, read_table
from transenc.report.tables import score_table
from transenc.run_folder import check_store, model_path
from transenc.stages.models import release

KEYS = {  # the setting in whose place an argument of `distill` stands
    "pairs": "data.path",
    "sentences": "data.sentences",
    "queries": "data.queries",
    "documents": "data.documents",
    "gold": "data.gold",
    "dev": "data.dev",
    "test": "data.test",
}
TEXTS = ("sentences", "queries", "documents")  # arguments that hold single texts
CHOICES = {"queries": "queries", "documents": "queries", "sentences": "sentences", "pairs": "pairs", "gold": "pairs"}


class DistilledRun(Run):
    """A finished run, as `distill` returns it. A notebook shows its results as a table.

    Attributes:
        folder: the run folder, with report.html.
        results: results.csv as a data frame: iteration, encoder, member, task, n, spearman, pearson, ...
        models: the folders of the selected encoders by name, `bi` and `cross` (`bi-0`, `bi-1`, ... with several
            members), for `SentenceTransformer(...)` and `CrossEncoder(...)`.
        warnings: why not to use an encoder, by its name.
    """

    @property
    def results(self) -> Any:
        return read_table(self.folder / "results.csv")

    @property
    def models(self) -> dict[str, Path]:
        return {name: self.folder / model_path(name) for name in self.selected}

    @property
    def warnings(self) -> dict[str, str]:
        return self.facts["warnings"]

    def __repr__(self) -> str:
        return f"DistilledRun({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return score_table(self) if self.rows else f"<code>{self!r}</code>"


def distill(
    *overrides: str,
    pairs: Any = None,
    sentences: Any = None,
    queries: Any = None,
    documents: Any = None,
    gold: Any = None,
    dev: Any = None,
    test: Any = None,
    folder: str | Path | None = None,
) -> DistilledRun:
    """Train a bi-encoder and a cross-encoder in turn, without labels.

    Args:
        overrides: settings, as on the command line: "model=minilm", "distill.iterations=1", ...
        pairs: unlabelled pairs to learn from: a file, a data frame (pandas, polars) of two columns or with the columns
            sentence1 and sentence2, or an iterable of (sentence1, sentence2) or of mappings with these names. A pair
            that lacks a sentence (NaN, None) is dropped, as in a file. None: what the overrides say, by default STS-B.
        sentences, queries, documents: single sentences, or queries and documents, that pairs are made of: a file with
            one a line, or an iterable of texts, a column of a data frame, say.
        gold, dev, test: pairs with scores, in the same ways, with a third column, `score`, from 0 to 5 unless
            "data.score_max=1" or "data.scores=binary" say: to learn from with "distill=supervised_bi", to select by,
            and to test on.
        folder: the run folder; by default outputs/DATE/TIME. It has no .hydra/ and train.log, which are the command's.

    Returns:
        The finished run.

    Raises:
        InputError: something in the settings, the data or the models is wrong.

    Example:
        >>> import transenc
        >>> from sentence_transformers import SentenceTransformer
        >>> run = transenc.distill("model=minilm", pairs=[("A man eats.", "Someone eats."), ...])
        >>> SentenceTransformer(str(run.models["bi"]))
    """
    if wrong := [one for one in overrides if not isinstance(one, str) or one.startswith("-")]:
        raise InputError(f'{wrong[0]!r:.80} is no setting; give texts like "model=minilm", and pairs=... by name')
    if wrong := [one for one in overrides if one.startswith("hydra")]:
        raise InputError(f"{wrong[0]}: is for the command line; give folder=... for the run folder")
    settings = [readable(expand_home(one)) for one in overrides]
    given = {"pairs": pairs, "sentences": sentences, "queries": queries, "documents": documents}
    given |= {"gold": gold, "dev": dev, "test": test}
    given = {what: items for what, items in given.items() if items is not None}
    for what in given:
        if twice := [one for one in settings if one.startswith(f"{KEYS[what]}=")]:
            raise InputError(f"{twice[0]}: {what}=... is given too; leave one of them out")
    if choice := next((choice for what, choice in CHOICES.items() if what in given), None):
        settings = [f"data={choice}", *settings]  # instead of STS-B
    check_own_data([*settings, *(f"{KEYS[what]}=" for what in given)])
    cfg = compose("train", [*settings, "data.path=-"])
    for what, items in given.items():
        file = quoted(str(_file(what, items, cfg)))
        settings.append(f"{KEYS[what]}={f'[{file}]' if what in ('gold', 'test') else file}")
    cfg = compose("train", settings)  # before there is a folder
    place = _new_folder() if folder is None else Path(os.path.expanduser(folder)).absolute()
    try:
        with sent_again(KeyboardInterrupt, lambda _: signal.SIGINT):
            run_loop(cfg, place)
    except BaseException:
        if folder is None:
            with suppress(OSError):  # it holds something
                place.rmdir()
        raise
    finally:
        release()
    return DistilledRun.read(place)


def _new_folder() -> Path:
    """outputs/DATE/TIME, with a number where another run of this second has it."""
    base = Path(datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S")).absolute()
    folder, number = base, 0
    while True:
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1
            folder = base.with_name(f"{base.name}-{number}")


def _file(what: str, items: Any, cfg: Train) -> Path:
    """What is given, as a file; what is in memory goes into the store, which is safe to delete."""
    if isinstance(items, str | Path):
        if not str(items):
            raise InputError(f"{what}: is empty; give a file, or {_wanted(what)}")
        return Path(os.path.expanduser(items))
    suffix, text = ("txt", _lines(what, items)) if what in TEXTS else ("csv", _table(what, items, cfg))
    store = Path(cfg.paths.artifacts).absolute()  # a model card leaves such folders out
    check_store(store)
    path = store / "given" / digest(text)[:16] / f"{what}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = lock(path.parent)  # another process may write the same
    try:
        with replacing(path) as file:
            file.write(text)
    finally:
        os.close(handle)
    return path


def _wanted(what: str) -> str:
    return "an iterable of texts" if what in TEXTS else "a data frame, or the pairs one after another"


def _lines(what: str, items: Any) -> str:
    """Texts, one a line; those that are missing (NaN, None) are left out."""
    if isinstance(items, Mapping) or hasattr(items, "columns") or not _is_iterable(items):
        raise InputError(f"{what}: {type(items).__name__} holds no texts; give a file, or {_wanted(what)}")
    lines = []
    for number, text in enumerate(items):
        if _is_missing(text):
            continue
        if not isinstance(text, str) or "\0" in text:
            raise InputError(f"{what}: item {number} is {text!r:.80}; give texts without NUL characters")
        lines.append(f"{one_line(text)}\n")
    if not lines:
        raise InputError(f"{what}: there are none")
    return "".join(lines).encode("utf-8", "replace").decode()


def _table(what: str, items: Any, cfg: Train) -> str:
    """Pairs as a CSV file has them."""
    columns, data = cfg.data.columns, cfg.data
    names = [columns.sentence1, columns.sentence2, *([] if what == "pairs" else [columns.score])]
    form = Format(*names[:2], columns.score, *data.scale, data.scores is Scores.binary)
    rows = [tuple(cell.encode("utf-8", "replace").decode() for cell in row) for row in _rows(what, items, names, form)]
    if all(isinstance(name, int) for name in names):  # the places in a file without a header
        places = [dict(zip(names, row, strict=True)) for row in rows]
        rows = [tuple(row.get(place, "") for place in range(max(names) + 1)) for row in places]
    else:
        rows.insert(0, tuple(map(str, names)))
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def _rows(what: str, items: Any, names: Sequence[Any], form: Format) -> list[tuple[str, ...]]:
    """The cells of each item, as a file would have them.

    Args:
        what: the argument's name.
        items: its value.
        names: of the two sentences and, of pairs with scores, the score.
        form: what scores have to be.

    Raises:
        InputError: something is no such item.
    """
    if hasattr(items, "itertuples") or hasattr(items, "iter_rows"):  # a data frame of pandas or polars
        columns = list(items.columns)
        if all(columns.count(name) == 1 for name in names):
            items = items[list(names)]
        elif len(columns) != len(names) or set(columns) & set(names):
            raise InputError(
                f"{what}: a data frame with the columns {', '.join(map(repr, columns)):.200}; name some of them"
                f" {_listed(names)}, or give {len(names)} columns of other names"
            )
        items = items.itertuples(index=False, name=None) if hasattr(items, "itertuples") else items.iter_rows()
    if isinstance(items, Mapping):
        raise InputError(f"{what}: is a mapping; give {_wanted(what)}")
    if not _is_iterable(items):
        raise InputError(f"{what}: {items!r:.80} holds no pairs; give {_wanted(what)}")
    rows = [_cells(f"{what}: item {number}", item, names, form) for number, item in enumerate(items)]
    if not rows:
        raise InputError(f"{what}: there are none")
    return rows


def _cells(where: str, item: Any, names: Sequence[Any], form: Format) -> tuple[str, ...]:
    if isinstance(item, Mapping):
        found = [item[name] for name in names if name in item]
    else:
        found = [] if isinstance(item, str) or not _is_iterable(item) else list(item)
    sentences, scores = ["" if _is_missing(one) else one for one in found[:2]], found[2:]
    scored = len(names) == 3
    # Of an unlabelled pair a score is allowed, and not read. Anything else beside two sentences is not, as an id is.
    parts = len(names) <= len(found) <= 3 and (scored or all(isinstance(score, Real) for score in scores))
    if not parts or not all(isinstance(one, str) for one in sentences):
        kind = "two sentences and a score" if scored else "two sentences"
        raise InputError(f"{where} is {item!r:.80}; give {kind}, or mappings with {_listed(names)}")
    if "\0" in "".join(sentences):
        raise InputError(f"{where} holds a NUL character; remove it")
    return *sentences, *(repr(form.gold(score, where)) for score in scores if scored)


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, or pandas' own NA."""
    import pandas

    return pandas.isna(value) is True


def _listed(names: Sequence[Any]) -> str:
    return f"{', '.join(map(repr, names[:-1]))} and {names[-1]!r}"


def _is_iterable(value: Any) -> bool:
    """Whether a value can be gone through, also by `__getitem__` alone, as torch's data sets."""
    if hasattr(value, "collect"):  # a lazy data frame, which iterates with an error of its own
        return False
    try:
        iter(value)
    except TypeError:
        return False
    return True
