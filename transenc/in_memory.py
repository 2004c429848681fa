"""What Python code gives in memory (lists, data frames) as the files that a run reads."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from transenc.artifacts import digest, lock, replacing
from transenc.config.schema import Scores, Train
from transenc.data.files import Format
from transenc.data.lines import one_line
from transenc.errors import InputError
from transenc.run_folder import check_store

TEXTS = ("sentences", "queries", "documents")  # arguments that hold single texts


def file_of(what: str, items: Any, cfg: Train) -> Path:
    """What is given, as a file; what is in memory goes into the store, which is safe to delete.

    Args:
        what: the argument of `transenc.distill`.
        items: its value: a file, or pairs or texts in one of the ways that `distill` takes.
        cfg: the settings of the run: columns, scores and the store.

    Raises:
        InputError: it is none of these.
    """
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
