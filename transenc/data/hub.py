"""Binary tasks and SNLI, by name: from local files, or from the Hugging Face hub at a pinned revision.

A local file is `paths.dataset/TASK/SPLIT` with the suffix .parquet, .jsonl, .csv or .tsv (`dataset/qqp/train.parquet`)
and the columns of the hub's. Without one, the `datasets` library fetches the set, or takes it from its cache.

Subsets are the paper's (Liu et al. 2022, table 15, and their code): QQP and QNLI learn from their first 10,000 training
pairs. GLUE publishes no scores for the test pairs of QQP and QNLI, so parts of the validation split stand in. For QNLI
this is the paper's own split; its QQP pairs came from another release.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from transenc.data.files import Format, Pair, read_pairs
from transenc.data.lines import one_line
from transenc.errors import InputError, reason

GLUE = ("nyu-mll/glue", "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c")
SNLI = ("stanfordnlp/snli", "cdb5c3d5eed6ead6e5a341c8e56e669bb666725b")
SUFFIXES = (".parquet", ".jsonl", ".csv", ".tsv")


@dataclass(frozen=True)
class HubSet:
    """A set of the hub, see `transenc.data.known.KnownSet`.

    Attributes:
        source: repository and revision on the hub.
        task: the repository's configuration, and the local folder.
        split: of the task, and the local file without suffix.
        columns: of the two sentences.
        rows: which of the split's pairs, [from, to); to may be None.
        positive: the label that means similar; None where labels are never read.
    """

    name: str
    source: tuple[str, str]
    task: str
    split: str
    columns: tuple[str, str]
    rows: tuple[int, int | None] = (0, None)
    positive: int | None = 1
    terms: str = ""
    scale: ClassVar[tuple[float, float]] = (0, 1)
    binary: ClassVar[bool] = True

    @property
    def has_scores(self) -> bool:
        return self.positive is not None

    @property
    def identity(self) -> str:
        """With the revision, in place of the digests that only files have."""
        return f"{self.name}@{self.source[1]}"

    @property
    def hub(self) -> str:
        return self.source[0]

    @property
    def hub_split(self) -> str:
        return self.split if self.rows == (0, None) else ""

    def find(self, dataset: Path) -> list[Path]:
        """The local file of the set; none where it is the hub's."""
        paths = [dataset / self.task / f"{self.split}{suffix}" for suffix in SUFFIXES]
        return [path for path in paths if os.path.isfile(path)][:1]

    def read(self, paths: Sequence[Path], scored: bool) -> list[Pair]:
        """The pairs, in order; labels are read only if `scored`.

        Raises:
            InputError: the file or the hub's table is not what it should be, or there is neither.
        """
        start, end = self.rows
        if paths:
            form = Format(*self.columns, "label" if scored else None, 0, 1, binary=True)
            pairs = list(islice(read_pairs(paths[0], form), start, end))
            where = str(paths[0])
        else:
            table, where = self._fetch(), "/".join((*self.source, self.task, self.split))
            end = len(table) if end is None else min(end, len(table))
            table = table.select(range(min(start, end), end))
            sides = [map(one_line, table[column]) for column in self.columns]
            scores = map(float, table["label"]) if scored else [None] * len(table)
            pairs = [Pair(*pair) for pair in zip(*sides, scores, strict=True)]
            if any(pair.score not in (None, 0.0, 1.0) for pair in pairs):
                raise InputError(f"{self.name}: {where} has labels that are neither 0 nor 1")
        if not pairs:
            raise InputError(f"{self.name}: {where} ends before row {start}, where this set begins")
        if self.positive == 0:
            pairs = [pair if pair.score is None else pair._replace(score=1 - pair.score) for pair in pairs]
        return pairs

    def subsets(self, paths: Sequence[Path]) -> list[int]:
        """[]: only published sets have them."""
        return []

    def _fetch(self) -> Any:
        import datasets  # here: only those who need it have it

        datasets.utils.logging.set_verbosity_error()
        datasets.utils.logging.disable_progress_bar()
        repository, revision = self.source
        configuration = None if self.task == "snli" else self.task
        try:
            return datasets.load_dataset(repository, configuration, split=self.split, revision=revision)
        except Exception as error:  # of datasets, of the hub's client, of the network below it
            columns = ", ".join(self.columns) + (", label" if self.has_scores else "")
            raise InputError(
                f"{self.name}: cannot be read from the Hugging Face hub ({reason(error)}); put the {self.split} split"
                f" of {repository} in {self.task}/{self.split}.parquet (or .jsonl, .csv, .tsv), columns {columns},"
                " under paths.dataset"
            ) from None


def _qqp(part: str, split: str, start: int, end: int | None) -> HubSet:
    terms = "QQP, whose pairs are under Quora's terms of service: not for commercial use"
    return HubSet(f"qqp-{part}", GLUE, "qqp", split, ("question1", "question2"), (start, end), terms=terms)


def _qnli(part: str, split: str, start: int, end: int | None) -> HubSet:
    return HubSet(f"qnli-{part}", GLUE, "qnli", split, ("question", "sentence"), (start, end), positive=0)


def _mrpc(part: str, split: str) -> HubSet:
    return HubSet(f"mrpc-{part}", GLUE, "mrpc", split, ("sentence1", "sentence2"))


def _snli() -> HubSet:
    terms = "SNLI, which is CC BY-SA 4.0: share alike"
    return HubSet("snli", SNLI, "snli", "train", ("premise", "hypothesis"), positive=None, terms=terms)


_SETS = (
    _qqp("train", "train", 0, 10_000),
    _qqp("dev", "validation", 0, 1000),
    _qqp("test", "validation", 1000, 11_000),
    _qqp("all", "train", 0, None),
    _qnli("train", "train", 0, 10_000),
    _qnli("dev", "validation", 0, 1000),
    _qnli("test", "validation", 1000, None),
    _qnli("all", "train", 0, None),
    _mrpc("train", "train"),
    _mrpc("dev", "validation"),
    _mrpc("test", "test"),
    _snli(),
)
HUB = {one.name: one for one in _SETS}
