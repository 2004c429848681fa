"""Results as rows: results.csv, and the table on the screen."""

import csv
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One line of results.csv.

    Attributes:
        iteration: 0 for the start models; None for a model beside the run.
        encoder: "bi", "cross", "bi-ensemble" or "cross-ensemble".
        member: place in `model.bi` or `model.cross`; None for an ensemble.
        task: name of the scored set.
        n: pairs in it.
        spearman, pearson: correlation of raw similarities (of mean scores, for an ensemble) with gold, in [-1, 1].
        auc: of a binary task; None for graded ones.
    """

    iteration: int | None
    encoder: str
    member: int | None
    task: str
    n: int
    spearman: float
    pearson: float
    auc: float | None = None


def write_results(path: Path, rows: Iterable[Row]) -> None:
    """results.csv: a header, then a line for each row; empty where there is no value."""
    lines = [[field.name for field in fields(Row)], *(list(astuple(row)) for row in rows)]
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["" if v is None else v for v in line] for line in lines])
    aside.replace(path)


def table(rows: Sequence[Row], tests: Sequence[str], marks: Mapping[tuple[int | None, str, int | None], str]) -> str:
    """Spearman x100 by iteration and encoder, tasks across, at most 80 columns for nine of them.

    Args:
        rows: results.
        tests: tasks that count for the average, which is shown where there are several.
        marks: a sign behind the rows of (iteration, encoder, member).
    """
    tasks = list(dict.fromkeys(row.task for row in rows))
    averaged = len(tests) > 1
    heads = [task.partition("-")[::2] for task in tasks] + ([("avg", "")] if averaged else [])
    width = max([7, *(len(part) + 1 for head in heads for part in head)])
    lines = [
        f"{'':<20}" + "".join(f"{head[0]:>{width}}" for head in heads),
        f"{'Spearman x100':<20}" + "".join(f"{head[1]:>{width}}" for head in heads),
    ]
    for key in dict.fromkeys((row.iteration, row.encoder, row.member) for row in rows):
        found = {row.task: row.spearman for row in rows if (row.iteration, row.encoder, row.member) == key}
        values = [found.get(task) for task in tasks]
        if averaged:
            values.append(sum(found[test] for test in tests) / len(tests))
        iteration, encoder, member = key
        several = any(row.encoder == encoder and row.member not in (member, None) for row in rows)
        name = (
            "reference"
            if iteration is None
            else f"{iteration}  {encoder}" + (f"-{member}" if several and member is not None else "")
        )
        cells = "".join(f"{'' if value is None else f'{100 * value:.2f}':>{width}}" for value in values)
        lines.append(f"{name:<17}{marks.get(key, ''):<3}" + cells)
    return "\n".join(line.rstrip() for line in lines)
