"""The loop from Python, in a notebook or a script: the same code, settings and run folder as `python train.py`."""

import os
import signal
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from transenc.composition import check_own_data, compose, expand_home, quoted, readable
from transenc.errors import InputError, sent_again
from transenc.in_memory import file_of
from transenc.loop import distill as run_loop
from transenc.report.run import Run, read_table
from transenc.report.tables import score_table
from transenc.run_folder import model_path, new_folder
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
    every = dict(zip(KEYS, (pairs, sentences, queries, documents, gold, dev, test), strict=True))
    given = {what: items for what, items in every.items() if items is not None}
    for what in given:
        if twice := [one for one in settings if one.startswith(f"{KEYS[what]}=")]:
            raise InputError(f"{twice[0]}: {what}=... is given too; leave one of them out")
    if choice := next((choice for what, choice in CHOICES.items() if what in given), None):
        settings = [f"data={choice}", *settings]  # instead of STS-B
    check_own_data([*settings, *(f"{KEYS[what]}=" for what in given)])
    cfg = compose("train", settings)
    for what, items in given.items():
        file = quoted(str(file_of(what, items, cfg)))
        settings.append(f"{KEYS[what]}={f'[{file}]' if what in ('gold', 'test') else file}")
    cfg = compose("train", settings)  # before there is a folder
    by_time = datetime.now().strftime("outputs/%Y-%m-%d/%H-%M-%S")
    place = Path(by_time if folder is None else os.path.expanduser(folder)).absolute()
    place = new_folder(place) if folder is None else place
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
