"""Results as rows: results.csv, and the table on the screen."""

import csv
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from transenc.artifacts import replacing


@dataclass(frozen=True)
class Row:
    """One line of results.csv.

    Attributes:
        iteration: 0 for the start models; None for a model beside the run.
        encoder: "bi", "cross", "bi-ensemble" or "cross-ensemble"; in iteration 0 also "bi-centred", beside the start.
        member: place in `model.bi` or `model.cross`; None for an ensemble.
        task: name of the scored set.
        n: pairs in it.
        spearman, pearson: correlation of raw similarities (of mean scores, for an ensemble) with gold, in [-1, 1];
            NaN where it is undefined.
        auc, average_precision: of a binary task, in [0, 1], or NaN; None for graded ones.
    """

    iteration: int | None
    encoder: str
    member: int | None
    task: str
    n: int
    spearman: float
    pearson: float
    auc: float | None = None
    average_precision: float | None = None

    @property
    def measure(self) -> str:
        """The name of what encoders are selected and compared by on this task, a key of `NAMES`."""
        return "spearman" if self.auc is None else "auc"

    @property
    def value(self) -> float:
        return getattr(self, self.measure)


RESULT = logging.INFO + 5  # the level at which a table is logged: a quiet terminal shows it too
logging.addLevelName(RESULT, "RESULT")
NAMES = {"spearman": "Spearman", "pearson": "Pearson", "auc": "AUC", "average_precision": "average precision"}


def write_results(path: Path, rows: Sequence[Row], kind: type[Row] = Row) -> None:
    """results.csv: a header, then a line for each row; empty where there is no value, or it is undefined.

    Args:
        path: of the file, which is replaced at once.
        rows: all of `kind`.
        kind: whose fields are the columns.
    """
    lines = [[field.name for field in fields(kind)], *(list(astuple(row)) for row in rows)]
    with replacing(path) as file:
        csv.writer(file, lineterminator="\n").writerows(
            [["" if value is None or value != value else value for value in line] for line in lines]
        )


def shown(value: float) -> str:
    """A value x100, as tables show it."""
    return "undefined" if math.isnan(value) else f"{100 * value:.2f}"


Line = tuple[str, Sequence[float | str | None]]  # its name, and for each column a value, or what to show as it is


def grid(measures: Mapping[str, str], lines: Sequence[Line], more: Sequence[str] = ()) -> str:
    """Values x100 with two decimals, tasks across; at most 80 columns for nine of them, if all are defined.

    Args:
        measures: what each task is measured by, a key of `NAMES`, by the task's name.
        lines: values by task, then of `more`.
        more: heads of further columns.
    """
    heads = [task.partition("-")[::2] for task in measures] + [(head, "") for head in more]
    kinds = list(dict.fromkeys(measures.values()))
    title = f"{NAMES[kinds[0]]} x100" if len(kinds) == 1 else "x100"
    rows = [("", [head[0] for head in heads]), (title, [head[1] for head in heads])]
    if len(kinds) > 1:
        rows.append(("", [NAMES[measure] for measure in measures.values()]))
    for name, values in lines:
        rows.append((name, ["" if v is None else v if isinstance(v, str) else shown(v) for v in values]))
    width = max([7, *(len(cell) + 1 for _, cells in rows for cell in cells)])
    return "\n".join(f"{name:<20}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip() for name, cells in rows)


def table(
    rows: Sequence[Row],
    tests: Sequence[str],
    marks: Mapping[tuple[int | None, str, int | None], str],
    published: Mapping[str, Mapping[str, float]],
) -> str:
    """Spearman, or AUC of binary tasks, by iteration and encoder.

    Args:
        rows: results.
        tests: tasks that count for the average, which is shown where there are several of one measure.
        marks: a sign behind the rows of (iteration, encoder, member).
        published: figures x100 to show below, by encoder and task.
    """
    measures = {row.task: row.measure for row in rows}
    averaged = len(tests) > 1 and len({measures[test] for test in tests}) == 1
    lines: list[Line] = []
    for key in dict.fromkeys((row.iteration, row.encoder, row.member) for row in rows):
        found = {row.task: row.value for row in rows if (row.iteration, row.encoder, row.member) == key}
        values = [found.get(task) for task in measures]
        if averaged:
            values.append(sum(found[test] for test in tests) / len(tests))
        iteration, encoder, member = key
        several = any(row.encoder == encoder and row.member not in (member, None) for row in rows)
        if iteration is None:
            name = "reference"
        else:
            name = f"{iteration}  {encoder}" + (f"-{member}" if several and member is not None else "")
        lines.append((f"{name:<17}{marks.get(key, '')}", values))
    for name, said in published.items():
        whole = averaged and all(test in said for test in tests)
        average = [sum(said[test] for test in tests) / len(tests) / 100 if whole else None] * averaged
        lines.append((f"paper {name}", [said[task] / 100 if task in said else None for task in measures] + average))
    return grid(measures, lines, ["avg"] if averaged else [])
