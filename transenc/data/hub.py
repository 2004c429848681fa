"""Binary tasks and SNLI, by name: from local files, or from the Hugging Face hub at a pinned revision.

A local file is `paths.dataset/TASK/SPLIT` with the suffix .parquet, .jsonl, .csv or .tsv (`dataset/qqp/train.parquet`)
and the columns of the hub's. Without one, the `datasets` library fetches the set, or takes it from its cache.

Subsets are the paper's (Liu et al. 2022, table 15, and their code): QQP and QNLI learn from their first 10,000 training
pairs. GLUE publishes no scores for the test pairs of QQP and QNLI, so parts of the validation split stand in. For QNLI
this is the paper's own split; its QQP pairs came from another release.
"""

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from transenc.data.files import Format, Pair, read_pairs
from transenc.data.lines import one_line
from transenc.errors import InputError, reason

GLUE = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
SNLI = ("stanfordnlp/snli", "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b")
SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class HubSet:
    """A named set of pairs.

    Attributes:
        source: repository and revision on the hub.
        task: the repository's configuration, and the local folder.
        split: of the task, and the local file without suffix.
        columns: of the two sentences.
        rows: which of the split's pairs, [from, to); to may be None.
        positive: the label that means similar; None where labels are never read.
        terms: what the pairs' publisher demands of those who use them.
    """

    source: tuple[str, str]
    task: str
    split: str
    columns: tuple[str, str]
    rows: tuple[int, int | None] = (0, None)
    positive: int | None = 1
    terms: str = ""

    @property
    def hub(self) -> str:
        return self.source[0]

    @property
    def hub_split(self) -> str:
        """Which split there they are; "" if they are a part of one."""
        return self.split if self.rows == (0, None) else ""


def _qqp(split: str, *rows: int | None) -> HubSet:
    terms = "QQP, whose pairs are under Quora's terms of service: not for commercial use"
    return HubSet(GLUE, "qqp", split, ("question1", "question2"), rows, terms=terms)  # type: ignore[arg-type]


def _qnli(split: str, *rows: int | None) -> HubSet:
    return HubSet(GLUE, "qnli", split, ("question", "sentence"), rows, positive=0)  # type: ignore[arg-type]


def _mrpc(split: str) -> HubSet:
    return HubSet(GLUE, "mrpc", split, ("sentence1", "sentence2"))


HUB = {
    "qqp-train": _qqp("train", 0, 10_000),
    "qqp-dev": _qqp("validation", 0, 1000),
    "qqp-test": _qqp("validation", 1000, 11_000),
    "qqp-all": _qqp("train", 0, None),
    "qnli-train": _qnli("train", 0, 10_000),
    "qnli-dev": _qnli("validation", 0, 1000),
    "qnli-test": _qnli("validation", 1000, None),
    "qnli-all": _qnli("train", 0, None),
    "mrpc-train": _mrpc("train"),
    "mrpc-dev": _mrpc("validation"),
    "mrpc-test": _mrpc("test"),
    "snli": HubSet(
        SNLI,
        "snli",
        "train",
        ("premise", "hypothesis"),
        positive=None,
        terms="SNLI, which is CC BY-SA 4.0: share alike",
    ),
}


def find(name: str, dataset: Path) -> Path | None:
    """The local file of a set, or None: then it is the hub's."""
    hub_set = HUB[name]
    paths = [dataset / hub_set.task / f"{hub_set.split}{suffix}" for suffix in SUFFIXES]
    return next((path for path in paths if os.path.isfile(path)), None)


def read(name: str, path: Path | None, scored: bool) -> list[Pair]:
    """The pairs of a set, in order, with gold scores 0 and 1 if `scored`.

    Args:
        name: a key of `HUB`.
        path: its local file, as `find` gives it.
        scored: whether labels are read at all.

    Raises:
        InputError: the file or the hub's table is not what it should be, or there is neither.
    """
    hub_set = HUB[name]
    if scored and hub_set.positive is None:
        raise InputError(f"{name}: has no scores to test with; it is for data.pool or data.extra")
    start, end = hub_set.rows
    if path is not None:
        form = Format(*hub_set.columns, "label" if scored else None, 0, 1, binary=True)
        pairs = list(islice(read_pairs(path, form), start, end))
        where = str(path)
    else:
        table, where = _fetch(name, hub_set), "/".join((*hub_set.source, hub_set.task, hub_set.split))
        end = len(table) if end is None else min(end, len(table))
        table = table.select(range(min(start, end), end))
        sides = [map(one_line, table[column]) for column in hub_set.columns]
        scores = map(float, table["label"]) if scored else [None] * len(table)
        pairs = [Pair(*pair) for pair in zip(*sides, scores, strict=True)]
        if any(pair.score not in (None, 0.0, 1.0) for pair in pairs):
            raise InputError(f"{name}: {where} has labels that are neither 0 nor 1")
    if not pairs:
        raise InputError(f"{name}: {where} ends before row {start}, where this set begins")
    if hub_set.positive == 0:
        pairs = [pair if pair.score is None else pair._replace(score=1 - pair.score) for pair in pairs]
    return pairs


def _fetch(name: str, hub_set: HubSet):  # -> datasets.Dataset, which only those who need it import
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.utils.logging.disable_progress_bar()
    repository, revision = hub_set.source
    configuration = None if hub_set.task == "snli" else hub_set.task
    try:
        return datasets.load_dataset(repository, configuration, split=hub_set.split, revision=revision)
    except Exception as error:  # of datasets, of the hub's client, of the network below it
        columns = ", ".join(hub_set.columns) + ("" if hub_set.positive is None else ", label")
        raise InputError(
            f"{name}: cannot be read from the Hugging Face hub ({reason(error)}); put the {hub_set.split} split"
            f" of {repository} in {hub_set.task}/{hub_set.split}.parquet (or .jsonl, .csv, .tsv), columns {columns},"
            " under paths.dataset"
        ) from None
