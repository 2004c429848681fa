"""Score encoders on the test sets of a data choice: `python -m transenc.evaluate model=FOLDER data=sts_sickr`.

Several models, `model=[A,B]`, are scored each and together (by their mean score), and each is compared with the first.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transenc.cli import main
from transenc.config import Evaluate, Pooling, Scored, Verbosity, check_evaluation, listed
from transenc.errors import InputError
from transenc.model_folder import Source, describe
from transenc.results import RESULT, Line, Row, grid, write_results

log = logging.getLogger("transenc")


@dataclass(frozen=True)
class Evaluated(Row):
    """A line of an evaluation's results.csv: a line of a run's, and more.

    Attributes:
        model: its name, as it was given; the names joined by " + " for an ensemble.
        subset_mean: Spearman averaged over a year's subsets (STS12-16), None for other sets. `spearman` itself is over
            all pairs of a set at once, as in SimCSE and the paper.
        low, high: bounds of the 95% bootstrap interval of Spearman, or of a binary task's AUC; None without resamples.
        p: two-sided paired bootstrap p-value of its difference from the first model; None for the first.
    """

    model: str = ""
    subset_mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def shorthand(argument: str) -> str:
    """`model=X` for `model.path=X`."""
    return argument.replace("model=", "model.path=", 1) if argument.startswith("model=") else argument


def recognise(source: Source, model: Scored) -> tuple[str, dict[str, Any]]:
    """The kind of a model, and what the loader of that kind needs to know.

    Raises:
        InputError: a file of it is wrong, or it is a cross-encoder, and a pooling is asked for.
    """
    try:
        cross = describe(source.folder).cross
    except InputError as error:
        raise InputError(f"model={error}") from None
    if not cross:
        return "bi", {"pooling": model.pooling.name}
    if model.pooling is not Pooling.auto:
        raise InputError(
            f"model.pooling={model.pooling.name}: {source.name} is a cross-encoder, which cannot be evaluated as a"
            " bi-encoder: it has no sentence vectors to pool; leave model.pooling out"
        )
    return "cross", {"new_head": None, "symmetric": model.symmetric}


def run(cfg: Evaluate, folder: Path) -> float:
    """Leave results.csv in `folder`, print the table, return the mean over models and tasks.

    Raises:
        InputError: a model or a data set is missing or wrong.
    """
    import numpy as np

    from transenc.artifacts import Store  # here, so that --help need not load torch
    from transenc.metrics import bootstrap, measure, p_value, spearman
    from transenc.progress import Watch
    from transenc.stages import Member, Scoring, average, locate

    check_evaluation(cfg)
    if not cfg.data.test:
        raise InputError("data.test: no test set; give data.test=[FILE], or data=NAME for a known set")
    watch = Watch(bars=cfg.verbosity is not Verbosity.quiet)
    scoring = Scoring(Store(Path(cfg.paths.artifacts)), cfg.data, cfg.paths, cfg.trainer, watch)
    tasks = scoring.tasks(cfg.data.test)
    members, names = [], listed(cfg.model.path)
    for number, name in enumerate(names):
        source = locate("model", name)
        kind, settings = recognise(source, cfg.model)
        model = scoring.start(kind, source, "model", **settings, layers=None, max_tokens=cfg.model.max_tokens)
        members.append(Member(kind, 0, number, len(names) > 1, model))

    kinds = {member.kind for member in members}
    encoders = [member.kind for member in members]
    places: list[int | None] = [member.number for member in members]
    if len(members) > 1:
        encoders.append(f"{kinds.pop()}-ensemble" if len(kinds) == 1 else "ensemble")
        names, places = [*names, " + ".join(names)], [*places, None]
    rows = []
    for task, pairs in tasks.items():
        gold, binary = np.load(pairs / "gold.npy"), pairs.facts["binary"]
        scored = [scoring.score(member.artifact, pairs, member.place, task) for member in members]
        raws = [np.load(artifact / "raw.npy") for artifact in scored]
        if len(members) > 1:
            raws.append(average(np.stack([np.load(artifact / "scores.npy") for artifact in scored]), "mean"))
        drawn = bootstrap(raws, gold, binary, cfg.resamples) if cfg.resamples else None
        parts = np.cumsum(pairs.facts["subsets"])[:-1]
        for i, raw in enumerate(raws):
            more: dict[str, float] = {}
            if pairs.facts["subsets"]:
                halves = zip(np.split(raw, parts), np.split(gold, parts), strict=True)
                more["subset_mean"] = float(np.mean([spearman(*both) for both in halves]))
            if drawn is not None:
                defined = drawn[~np.isnan(drawn[:, i]), i]
                bounds = np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan)
                more["low"], more["high"] = map(float, bounds)
                if i:
                    more["p"] = p_value(drawn[:, 0], drawn[:, i])
            values = {**measure(raw, gold, binary), **more, "model": names[i]}
            rows.append(Evaluated(0, encoders[i], places[i], task, len(gold), **values))
    write_results(folder / "results.csv", rows, Evaluated)
    log.log(RESULT, "\n%s\n\nresults.csv  %s", show(rows), folder / "results.csv")
    return sum(row.value for row in rows) / len(rows)


def show(rows: list[Evaluated]) -> str:
    """The screen's table: some lines for each model, tasks across, averaged where all have one measure."""
    tasks = {row.task: row.measure for row in rows}
    averaged = len(tasks) > 1 and len(set(tasks.values())) == 1
    first = {row.task: row.value for row in rows if row.member == 0}
    lines: list[Line] = []
    for member, encoder, _ in models(rows):
        own = [row for row in rows if (row.member, row.encoder) == (member, encoder)]
        others = [None if row.p is None else row.value - first[row.task] for row in own]
        for name, values, mean in (
            (encoder if member is None else f"{member}  {encoder}", [row.value for row in own], True),
            ("   95% from", [row.low for row in own], False),
            ("        to", [row.high for row in own], False),
            ("   subset mean", [row.subset_mean for row in own], False),
            ("   above model 0", others, True),
            ("   p", [None if row.p is None else f"{row.p:.3f}" if row.p == row.p else row.p for row in own], False),
        ):
            if any(value is not None for value in values):
                lines.append((name, [*values, sum(values) / len(values)] if averaged and mean else values))
    legend = [f"{member}: {model}" for member, _, model in models(rows) if member is not None]
    return "\n".join([grid(tasks, lines, ["avg"] if averaged else []), *legend])


def models(rows: list[Evaluated]) -> list[tuple[int | None, str, str]]:
    return list(dict.fromkeys((row.member, row.encoder, row.model) for row in rows))


if __name__ == "__main__":
    main("evaluate", run, shorthand)
