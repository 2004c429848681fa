"""The published sets of sentence pairs, by name, from their original files.

`download_dataset.sh` lays them out under `paths.dataset`. Row counts are those of the originals and are asserted, since
a reader that mishandles quotes loses rows without an error. STS15 and STS16 hold lines that were never scored (5,500 of
8,500 and 7,997 of 9,183): they are pairs to learn from, and not part of a test.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from transenc.data.files import Pair
from transenc.data.lines import one_line, read_lines
from transenc.data.scores import parse_score
from transenc.errors import InputError

QUICKSTART = Path(__file__).parent / "quickstart"
_RESTORE = "git checkout -- transenc/data/quickstart"


@dataclass(frozen=True)
class Published:
    """One named set.

    Attributes:
        files: under `paths.dataset`.
        rows: how many pairs they hold.
        scored: how many of these have a score.
        read: how.
        get: the command that brings them.
        scale: lowest and highest gold score.
        terms: what the pairs' publisher demands of those who use them.
        hub: the same pairs on the Hugging Face Hub, for a model's card.
        hub_split: which split there they are; "" if they are a part of one.
    """

    files: tuple[str, ...]
    rows: int
    scored: int
    read: Callable[[Sequence[Path]], Iterator[Pair]]
    get: str
    scale: tuple[float, float] = (0, 5)
    terms: str = ""
    hub: str = ""
    hub_split: str = ""


def _fields(path: Path, number: int, line: str, counts: tuple[int, ...]) -> list[str]:
    fields = line.split("\t")
    if len(fields) not in counts:
        belong = " or ".join(map(str, counts))
        raise InputError(f"{path}:{number}: {len(fields)} columns where {belong} belong; get the file again")
    return fields


def _stsb(paths: Sequence[Path]) -> Iterator[Pair]:
    """Genre, file, year, id, score, two sentences and, in some rows, two sources; quotes are text."""
    for number, line in enumerate(read_lines(paths[0]), 1):
        fields = _fields(paths[0], number, line, (7, 9))
        score = parse_score(fields[4], 0, 5, f"{paths[0]}:{number}")
        yield Pair(one_line(fields[5]), one_line(fields[6]), score)


def _sts(paths: Sequence[Path]) -> Iterator[Pair]:
    """SentEval's layout: STS.input.* with two sentences (four columns in 2016), STS.gs.* with a score or a blank."""
    for sentences, scores in zip(paths[::2], paths[1::2], strict=True):
        lines, gold = read_lines(sentences), read_lines(scores)
        if len(lines) != len(gold):
            raise InputError(f"{scores}: {len(gold)} lines where {sentences.name} has {len(lines)}")
        for number, (line, text) in enumerate(zip(lines, gold, strict=True), 1):
            fields = _fields(sentences, number, line, (2, 4))
            score = parse_score(text, 0, 5, f"{scores}:{number}") if text.strip() else None
            yield Pair(one_line(fields[0]), one_line(fields[1]), score)


def _sick(paths: Sequence[Path]) -> Iterator[Pair]:
    """A header, then id, two sentences, relatedness from 1 to 5, entailment."""
    for path in paths:
        for number, line in enumerate(read_lines(path)[1:], 2):
            fields = _fields(path, number, line, (5,))
            yield Pair(one_line(fields[1]), one_line(fields[2]), parse_score(fields[3], 1, 5, f"{path}:{number}"))


def _quickstart(paths: Sequence[Path]) -> Iterator[Pair]:
    """A header, then genre, two sentences, with the score between them where the pairs are graded."""
    for number, line in enumerate(read_lines(paths[0])[1:], 2):
        fields = _fields(paths[0], number, line, (3, 4))
        score = parse_score(fields[1], 0, 5, f"{paths[0]}:{number}") if len(fields) == 4 else None
        yield Pair(one_line(fields[-2]), one_line(fields[-1]), score)


def _year(year: int, rows: int, scored: int, *subsets: str) -> Published:
    names = tuple(f"STS/STS{year}-en-test/STS.{part}.{s}.txt" for s in subsets for part in ("input", "gs"))
    return Published(
        names, rows, scored, _sts, "sh download_dataset.sh sts", hub=f"mteb/sts{year}-sts", hub_split="test"
    )


def _stsb_split(split: str, rows: int) -> Published:
    hub = {"hub": "mteb/stsbenchmark-sts", "hub_split": "validation" if split == "dev" else split}
    return Published((f"stsbenchmark/sts-{split}.csv",), rows, rows, _stsb, "sh download_dataset.sh", **hub)


def _sick_splits(rows: int, *splits: str) -> Published:
    files = tuple(f"SICK/SICK_{split}.txt" for split in splits)
    terms = "SICK, which is CC BY-NC-SA 3.0: not for commercial use"
    hub = "mteb/sickr-sts", "test" if len(splits) == 3 else ""  # where all are one split
    return Published(files, rows, rows, _sick, "sh download_dataset.sh sick", (1, 5), terms, *hub)


PUBLISHED = {
    "stsb-train": _stsb_split("train", 5749),
    "stsb-dev": _stsb_split("dev", 1500),
    "stsb-test": _stsb_split("test", 1379),
    "sts12": _year(12, 3108, 3108, "MSRpar", "MSRvid", "SMTeuroparl", "surprise.OnWN", "surprise.SMTnews"),
    "sts13": _year(13, 1500, 1500, "FNWN", "headlines", "OnWN"),
    "sts14": _year(14, 3750, 3750, "deft-forum", "deft-news", "headlines", "images", "OnWN", "tweet-news"),
    "sts15": _year(15, 8500, 3000, "answers-forums", "answers-students", "belief", "headlines", "images"),
    "sts16": _year(16, 9183, 1186, "answer-answer", "headlines", "plagiarism", "postediting", "question-question"),
    "sickr-train": _sick_splits(4500, "train"),
    "sickr-dev": _sick_splits(500, "trial"),
    "sickr-test": _sick_splits(4927, "test_annotated"),
    "sickr-all": _sick_splits(9927, "train", "trial", "test_annotated"),
    "quickstart-train": Published((str(QUICKSTART / "train.tsv"),), 1448, 0, _quickstart, _RESTORE),
    "quickstart-dev": Published((str(QUICKSTART / "dev.tsv"),), 205, 205, _quickstart, _RESTORE),
    "quickstart-test": Published((str(QUICKSTART / "test.tsv"),), 409, 409, _quickstart, _RESTORE),
}


def find(name: str, dataset: Path) -> list[Path]:
    """The files of a published set.

    Raises:
        InputError: a file is missing; says how to get it.
    """
    published = PUBLISHED[name]
    paths = [dataset / file for file in published.files]
    for path in paths:
        if not os.path.isfile(path):
            raise InputError(
                f"{name}: {path} is missing; get it with '{published.get}', or point paths.dataset at the folder"
            )
    return paths


def read(name: str, paths: Sequence[Path], scored: bool) -> list[Pair]:
    """The pairs of a published set, in order.

    Args:
        name: a key of `PUBLISHED`.
        paths: its files, as `find` gives them.
        scored: True for a test: scored pairs only, with their gold scores. False for learning: all pairs, no scores.

    Raises:
        InputError: the number of rows is not the original's.
    """
    published = PUBLISHED[name]
    pairs = list(published.read(paths))
    gold = [pair for pair in pairs if pair.score is not None]
    if (len(pairs), len(gold)) != (published.rows, published.scored):
        raise InputError(
            f"{name}: {len(pairs)} rows, {len(gold)} of them scored, in {paths[0].parent}, where {published.rows} and"
            f" {published.scored} belong; delete that folder and run '{published.get}'"
        )
    return gold if scored else [pair._replace(score=None) for pair in pairs]


def subsets(name: str, paths: Sequence[Path]) -> list[int]:
    """How many scored pairs each of a year's subsets (STS12-16) has, in the order of `read`; [] for other sets."""
    if PUBLISHED[name].read is not _sts:
        return []
    parts = [paths[start : start + 2] for start in range(0, len(paths), 2)]
    return [sum(pair.score is not None for pair in _sts(part)) for part in parts]
