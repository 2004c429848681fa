"""Results as rows, as results.csv, and as a table."""

import csv
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

from transenc.artifacts import replacing

Key = tuple[int | None, str, int | None]  # iteration, encoder and member


@dataclass(frozen=True)
class Row:
    """One line of results.csv.

    Attributes:
        iteration: 0 for the initial encoders; None for a model beside the run.
        encoder: "bi", "cross", "bi-ensemble" or "cross-ensemble"; in iteration 0 also
            "bi-centred" and "bi-centred-ensemble".
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
    def metric(self) -> str:
        """The name of what encoders are selected and compared by on this task, a key of `METRIC_NAMES`."""
        return "spearman" if self.auc is None else "auc"

    @property
    def value(self) -> float:
        return self.spearman if self.auc is None else self.auc

    @property
    def key(self) -> Key:
        """The encoder it belongs to."""
        return self.iteration, self.encoder, self.member


PUBLISHED = Path(__file__).resolve().parents[1] / "results" / "published.csv"
RESULT = logging.INFO + 5  # the level at which a table is logged: a quiet terminal shows it too
logging.addLevelName(RESULT, "RESULT")
METRIC_NAMES = {"spearman": "Spearman", "pearson": "Pearson", "auc": "AUC", "average_precision": "average precision"}


def published_results(overrides: Sequence[str]) -> dict[str, dict[str, float]]:
    """The published results of a recipe, x100, by encoder and task; none if the command line changed what it trains.

    Args:
        overrides: what the command line set, `experiment=NAME` among them.
    """
    settings = dict(override.partition("=")[::2] for override in overrides)
    if any(key.partition(".")[0] in ("model", "data", "distill") for key in settings):
        return {}
    results: dict[str, dict[str, float]] = {}
    with open(PUBLISHED, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["recipe"] == settings.get("experiment"):
                results.setdefault(row["encoder"], {})[row["task"]] = float(row["x100"])
    return results


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


def failed_training(failure: Mapping[str, Any]) -> str:
    """One sentence on a failed training, from run.json's `failures`."""
    place, kept = failure["place"], failure["kept"]
    result = {None: "trained with another seed", place: "used as it is"}.get(kept, f"{kept} stays in its place")
    return f"{place} failed ({'; '.join(failure['reasons'])}): {result}."


def percent(value: float) -> str:
    """A value x100, as tables show it."""
    return "undefined" if math.isnan(value) else f"{100 * value:.2f}"


def averaged_over(metrics: Mapping[str, str]) -> str:
    """What a mean over test sets is of: the one set, or how many, and which metrics where these differ.

    Args:
        metrics: what each set is measured by, a key of `METRIC_NAMES`, by the set's name.
    """
    if len(metrics) == 1:
        return next(iter(metrics))
    names = list(dict.fromkeys(METRIC_NAMES[metric] for metric in metrics.values()))
    return f"{len(metrics)} test sets on average" + (f" ({' and '.join(names)})" if len(names) > 1 else "")


Line = tuple[str, Sequence[float | str | None]]  # its name, and for each column a value, or what to show as it is


def grid(metrics: Mapping[str, str], lines: Sequence[Line], more: Sequence[str] = ()) -> str:
    """Values x100 with two decimals, tasks across; at most 80 columns for nine of them, if all are defined.

    Args:
        metrics: what each task is measured by, a key of `METRIC_NAMES`, by the task's name.
        lines: values by task, then of `more`.
        more: heads of further columns.
    """
    heads = [task.partition("-")[::2] for task in metrics] + [(head, "") for head in more]
    kinds = list(dict.fromkeys(metrics.values()))
    title = f"{METRIC_NAMES[kinds[0]]} x100" if len(kinds) == 1 else "x100"
    rows = [("", [head[0] for head in heads]), (title, [head[1] for head in heads])]
    if len(kinds) > 1:
        rows.append(("", [METRIC_NAMES[metric] for metric in metrics.values()]))
    for name, values in lines:
        rows.append((name, ["" if v is None else v if isinstance(v, str) else percent(v) for v in values]))
    width = max([7, *(len(cell) + 1 for _, cells in rows for cell in cells)])
    return "\n".join(f"{name:<20}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip() for name, cells in rows)


def member_name(key: Key, keys: Collection[Key]) -> str:
    """`cross`; `cross-0` where results are of several cross-encoders. An ensemble has no member, and keeps its name.

    Args:
        key: of the encoder.
        keys: all that have results.
    """
    _, encoder, member = key
    kind = encoder.partition("-")[0]
    several = {other for _, name, other in keys if name.partition("-")[0] == kind} - {None}
    return f"{encoder}-{member}" if len(several) > 1 and member is not None else encoder


@dataclass(frozen=True)
class Results:
    """The results of a run as a table: tasks across, a line for each iteration and encoder.

    Attributes:
        metrics: the metric of each task, a key of `METRIC_NAMES`, by the task's name.
        averaged: whether the last column is the mean over the test sets, which needs several with one metric.
        lines: the key of the encoder (None for published results), its name, and its values (None where there is none).
    """

    metrics: dict[str, str]
    averaged: bool
    lines: list[tuple[Key | None, str, list[float | None]]]


def tabulate(rows: Sequence[Row], tests: Collection[str], published: Mapping[str, Mapping[str, float]]) -> Results:
    """The results of a run, line by line in the order of the rows, the published ones last.

    Args:
        rows: of a run; those of iteration None are shown as the reference.
        tests: tasks that count for the average.
        published: results x100 to show below, by encoder and task.
    """
    metrics = {row.task: row.metric for row in rows}
    averaged = len(tests) > 1 and len({metrics[test] for test in tests}) == 1
    lines: list[tuple[Key | None, str, list[float | None]]] = []

    def add(key: Key | None, name: str, values: Mapping[str, float]) -> None:
        complete = averaged and all(test in values for test in tests)
        mean = sum(values[test] for test in tests) / len(tests) if complete else None
        lines.append((key, name, [values.get(task) for task in metrics] + ([mean] if averaged else [])))

    keys = list(dict.fromkeys(row.key for row in rows))
    for key in keys:
        values = {row.task: row.value for row in rows if row.key == key}
        add(key, "reference" if key[0] is None else f"{key[0]}  {member_name(key, keys)}", values)
    for encoder, figures in published.items():
        add(None, f"paper {encoder}", {task: figure / 100 for task, figure in figures.items()})
    return Results(metrics, averaged, lines)


def table(rows: Sequence[Row], tests: Collection[str], marked: Collection[Key], published: Any) -> str:
    """The results as text, with a star behind the `marked` encoders; see `tabulate`."""
    results = tabulate(rows, tests, published)
    lines = [(f"{name:<17}*" if key in marked else name, values) for key, name, values in results.lines]
    return grid(results.metrics, lines, ["avg"] if results.averaged else [])
