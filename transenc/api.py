"""The loop from Python, in a notebook or a script: the same code, settings and run folder as `python train.py`."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from transenc.artifacts import digest, lock, replacing
from transenc.composition import check_own_data, compose, expand_home, quoted, readable
from transenc.config.schema import Train
from transenc.errors import InputError
from transenc.loop import distill as run_loop
from transenc.report.run import Run, read_table
from transenc.report.tables import score_table
from transenc.run_folder import check_store, model_path
from transenc.stages.models import release


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


def distill(*overrides: str, pairs: Any = None, folder: str | Path | None = None) -> DistilledRun:
    """Train a bi-encoder and a cross-encoder in turn, without labels.

    Args:
        overrides: settings, as on the command line: "model=minilm", "distill.iterations=1", ...
        pairs: unlabelled pairs to learn from: a file, a data frame (pandas, polars) of two columns or with the columns
            sentence1 and sentence2, or an iterable of (sentence1, sentence2) or of mappings with these names. None:
            what the overrides say, by default STS-B.
        folder: the run folder; by default outputs/DATE/TIME.

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
    if pairs is None:
        check_own_data(settings)
    elif twice := [one for one in settings if one.startswith(("data.path=", "data.sentences="))]:
        raise InputError(f"{twice[0]}: pairs=... are given too; leave one of them out")
    else:
        path = _file(pairs, compose("train", ["data=pairs", "data.path=-", *settings]))
        settings = ["data=pairs", *settings, f"data.path={quoted(str(path))}"]
    cfg = compose("train", settings)  # before there is a folder
    place = _new_folder() if folder is None else Path(folder).absolute()
    try:
        run_loop(cfg, place)
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


def _file(pairs: Any, cfg: Train) -> Path:
    """The pairs as a file; those that are in memory go into the store, which is safe to delete."""
    if isinstance(pairs, str | Path):
        return Path(os.path.expanduser(pairs))
    names = cfg.data.columns.sentence1, cfg.data.columns.sentence2
    rows = [tuple(text.encode("utf-8", "replace").decode() for text in row) for row in _rows(pairs, names)]
    if all(isinstance(name, int) for name in names):  # the places in a file without a header
        places = [dict(zip(names, row, strict=True)) for row in rows]
        rows = [tuple(row.get(place, "") for place in range(max(names) + 1)) for row in places]
    else:
        rows.insert(0, tuple(map(str, names)))
    store = Path(cfg.paths.artifacts)
    check_store(store)
    store.mkdir(parents=True, exist_ok=True)
    path = store / f"pairs-{digest(rows)[:16]}.csv"
    handle = lock(store)  # another process may write the same pairs
    try:
        with replacing(path) as file:
            csv.writer(file).writerows(rows)
    finally:
        os.close(handle)
    return path


def _rows(pairs: Iterable[Any], names: Sequence[Any]) -> list[tuple[str, str]]:
    import pandas

    if hasattr(pairs, "itertuples") or hasattr(pairs, "iter_rows"):  # a data frame of pandas or polars
        columns = list(pairs.columns)
        if all(columns.count(name) == 1 for name in names):
            pairs = pairs[list(names)]
        elif len(columns) != 2:
            raise InputError(
                f"pairs: a data frame with the columns {', '.join(map(repr, columns)):.200}; name two of them"
                f" {names[0]!r} and {names[1]!r}, or give two columns, as df[['a', 'b']]"
            )
        pairs = pairs.itertuples(index=False, name=None) if hasattr(pairs, "itertuples") else pairs.iter_rows()
    if isinstance(pairs, Mapping):
        raise InputError("pairs: is a mapping; give a data frame, or the pairs one after another")
    if not _is_iterable(pairs):
        raise InputError(f"pairs: {pairs!r:.80} holds no pairs; give a data frame, or the pairs one after another")
    rows = []
    for number, pair in enumerate(pairs):
        found = [pair.get(name) for name in names] if isinstance(pair, Mapping) else pair
        sentences = () if isinstance(found, str) or not _is_iterable(found) else tuple(found)[:2]
        if not isinstance(pair, Mapping) and any(pandas.isna(one) is True for one in sentences):
            raise InputError(f"pairs: item {number} lacks a sentence; leave such rows out (of a data frame: dropna())")
        if len(sentences) < 2 or not all(isinstance(sentence, str) for sentence in sentences):
            raise InputError(
                f"pairs: item {number} is {pair!r:.80}; give two sentences, or mappings with {names[0]!r} and"
                f" {names[1]!r}"
            )
        if "\0" in "".join(sentences):
            raise InputError(f"pairs: item {number} holds a NUL character; remove it")
        rows.append(sentences)
    if not rows:
        raise InputError("pairs: there are none")
    return rows


def _is_iterable(value: Any) -> bool:
    """Whether a value can be gone through, also by `__getitem__` alone, as torch's data sets."""
    try:
        iter(value)
    except TypeError:
        return False
    return True
