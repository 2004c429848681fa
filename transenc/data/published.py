"""The published sets of sentence pairs, by name, from their original files.

`download_dataset.sh` lays them out under `paths.dataset`. Row counts are those of the originals and are asserted, since
a reader that mishandles quotes loses rows without an error. STS15 and STS16 hold lines that were never scored (5,500 of
8,500 and 7,997 of 9,183): they are pairs to learn from, and not part of a test.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transenc.data.files import Pair
from transenc.data.lines import one_line, read_lines
from transenc.data.scores import parse_score
from transenc.errors import InputError

QUICKSTART = Path(__file__).parent / "quickstart"
_RESTORE = "git checkout -- transenc/data/quickstart"


@dataclass(frozen=True)
class Published:
    """A published set, see `transenc.data.known.KnownSet`.

    Attributes:
        files: under `paths.dataset`.
        rows: how many pairs they hold.
        scored: how many of these have a score.
        parse: gives their pairs, in order, with the scores.
        get: the command that brings them.
        scale: lowest and highest gold score.
    """

    name: str
    files: tuple[str, ...]
    rows: int
    scored: int
    parse: Callable[[Sequence[Path]], Iterator[Pair]]
    get: str
    scale: tuple[float, float] = (0, 5)
    terms: str = ""
    hub: str = ""
    hub_split: str = ""
    binary: ClassVar[bool] = False

    @property
    def has_scores(self) -> bool:
        return self.scored > 0

    @property
    def identity(self) -> str:
        return self.name

    def find(self, dataset: Path) -> list[Path]:
        """The files of the set.

        Raises:
            InputError: one is missing; says how to get it.
        """
        paths = [dataset / file for file in self.files]
        for path in paths:
            if not os.path.isfile(path):
                raise InputError(
                    f"{self.name}: {path} is missing; get it with '{self.get}', or point paths.dataset at the folder"
                )
        return paths

    def read(self, paths: Sequence[Path], scored: bool) -> list[Pair]:
        """The pairs, in order; if `scored`, only those with a score.

        Raises:
            InputError: the number of rows is not the original's.
        """
        found = list(self.parse(paths))
        gold = [pair for pair in found if pair.score is not None]
        if (len(found), len(gold)) != (self.rows, self.scored):
            raise InputError(
                f"{self.name}: {len(found)} rows, {len(gold)} of them scored, in {paths[0].parent}, where {self.rows}"
                f" and {self.scored} belong; delete that folder and run '{self.get}'"
            )
        return gold if scored else [pair._replace(score=None) for pair in found]

    def subsets(self, paths: Sequence[Path]) -> list[int]:
        """How many scored pairs each of a year's subsets (STS12-16) has, in the order of `read`."""
        if self.parse is not _read_sts:
            return []
        parts = [paths[start : start + 2] for start in range(0, len(paths), 2)]
        return [sum(pair.score is not None for pair in _read_sts(part)) for part in parts]


def _fields(path: Path, number: int, line: str, counts: tuple[int, ...]) -> list[str]:
    fields = line.split("\t")
    if len(fields) not in counts:
        belong = " or ".join(map(str, counts))
        raise InputError(f"{path}:{number}: {len(fields)} columns where {belong} belong; get the file again")
    return fields


def _read_stsb(paths: Sequence[Path]) -> Iterator[Pair]:
    """Genre, file, year, id, score, two sentences and, in some rows, two sources; quotes are text."""
    for number, line in enumerate(read_lines(paths[0]), 1):
        fields = _fields(paths[0], number, line, (7, 9))
        score = parse_score(fields[4], 0, 5, f"{paths[0]}:{number}")
        yield Pair(one_line(fields[5]), one_line(fields[6]), score)


def _read_sts(paths: Sequence[Path]) -> Iterator[Pair]:
    """SentEval's layout: STS.input.* with two sentences (four columns in 2016), STS.gs.* with a score or a blank."""
    for sentences, scores in zip(paths[::2], paths[1::2], strict=True):
        lines, gold = read_lines(sentences), read_lines(scores)
        if len(lines) != len(gold):
            raise InputError(f"{scores}: {len(gold)} lines where {sentences.name} has {len(lines)}")
        for number, (line, text) in enumerate(zip(lines, gold, strict=True), 1):
            fields = _fields(sentences, number, line, (2, 4))
            score = parse_score(text, 0, 5, f"{scores}:{number}") if text.strip() else None
            yield Pair(one_line(fields[0]), one_line(fields[1]), score)


def _read_sick(paths: Sequence[Path]) -> Iterator[Pair]:
    """A header, then id, two sentences, relatedness from 1 to 5, entailment."""
    for path in paths:
        for number, line in enumerate(read_lines(path)[1:], 2):
            fields = _fields(path, number, line, (5,))
            yield Pair(one_line(fields[1]), one_line(fields[2]), parse_score(fields[3], 1, 5, f"{path}:{number}"))


def _read_quickstart(paths: Sequence[Path]) -> Iterator[Pair]:
    """A header, then genre, two sentences, with the score between them where the pairs are graded."""
    for number, line in enumerate(read_lines(paths[0])[1:], 2):
        fields = _fields(paths[0], number, line, (3, 4))
        score = parse_score(fields[1], 0, 5, f"{paths[0]}:{number}") if len(fields) == 4 else None
        yield Pair(one_line(fields[-2]), one_line(fields[-1]), score)


def _year(year: int, rows: int, scored: int, *subsets: str) -> Published:
    files = tuple(f"STS/STS{year}-en-test/STS.{part}.{s}.txt" for s in subsets for part in ("input", "gs"))
    hub = {"hub": f"mteb/sts{year}-sts", "hub_split": "test"}
    return Published(f"sts{year}", files, rows, scored, _read_sts, "sh download_dataset.sh sts", **hub)


def _stsb(split: str, rows: int) -> Published:
    hub = {"hub": "mteb/stsbenchmark-sts", "hub_split": "validation" if split == "dev" else split}
    files = (f"stsbenchmark/sts-{split}.csv",)
    return Published(f"stsb-{split}", files, rows, rows, _read_stsb, "sh download_dataset.sh", **hub)


def _sick(name: str, rows: int, *splits: str) -> Published:
    files = tuple(f"SICK/SICK_{split}.txt" for split in splits)
    terms = "SICK, which is CC BY-NC-SA 3.0: not for commercial use"
    hub = "mteb/sickr-sts", "test" if len(splits) == 3 else ""  # where all are one split
    return Published(name, files, rows, rows, _read_sick, "sh download_dataset.sh sick", (1, 5), terms, *hub)


def _quickstart(split: str, rows: int, scored: int) -> Published:
    file = str(QUICKSTART / f"{split}.tsv")
    return Published(f"quickstart-{split}", (file,), rows, scored, _read_quickstart, _RESTORE)


_SETS = (
    _stsb("train", 5749),
    _stsb("dev", 1500),
    _stsb("test", 1379),
    _year(12, 3108, 3108, "MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    _year(13, 1500, 1500, "FNWN", "headlines", "OnWN"),
    _year(14, 3750, 3750, "deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    _year(15, 8500, 3000, "answers-forums", "answers-students", "belief", "headlines", "images"),
    _year(16, 9183, 1186, "answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
    _sick("sickr-train", 4500, "train"),
    _sick("sickr-dev", 500, "trial"),
    _sick("sickr-test", 4927, "test_annotated"),
    _sick("sickr-all", 9927, "train", "trial", "test_annotated"),
    _quickstart("train", 1448, 0),
    _quickstart("dev", 205, 205),
    _quickstart("test", 409, 409),
)
PUBLISHED = {one.name: one for one in _SETS}
