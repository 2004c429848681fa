"""Evaluate encoders on the test sets of a data choice: `python -m transenc.evaluate model=FOLDER data=sts_sickr`.

Several models, `model=[A,B]`, are evaluated one by one and as an ensemble (by their mean score), and each is compared
with the first.
"""

import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transenc.cli import main
from transenc.composition import bi_encoder_of, quoted
from transenc.config.checks import check_evaluation
from transenc.config.schema import Evaluate, Pooling, Scored, Verbosity, listed
from transenc.errors import InputError
from transenc.model_description import describe
from transenc.model_folder import Source
from transenc.results import RESULT, Line, Row, grid, write_results

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger("transenc")

# The settings of `data` that count here.
EVALUATED = ("data.test", "data.columns", "data.scores", "data.score_min", "data.score_max", "data.clean.blanks")
USAGE = """python -m transenc.evaluate model=MODEL [data=NAME] [KEY=VALUE ...]

Evaluate an encoder on the test sets of a data choice; several, model=[A,B],
one by one and as an ensemble, each compared with the first."""


@dataclass(frozen=True)
class EvaluationRow(Row):
    """A line of an evaluation's results.csv: that of a run, and more.

    Attributes:
        model: its name as it was given; of an ensemble, the names joined by " + ".
        subset_mean: mean Spearman over a year's subsets (STS12-16); None for other sets. `spearman` itself is over all
            pairs of a set at once, as in SimCSE and the paper.
        low, high: the 95% bootstrap interval of Spearman, or of a binary task's AUC; None without resamples.
        p: two-sided paired bootstrap p-value of the difference from the first model; None for the first.
    """

    model: str = ""
    subset_mean: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def shorthand(argument: str) -> str:
    """`model=X` for `model.path=X`. Where X is no folder, it may be a choice of training's, `minilm`."""
    if not argument.startswith("model="):
        return argument

    def path(name: re.Match[str]) -> str:
        bi = None if os.path.isdir(name[2]) else bi_encoder_of(name[2])
        return name[0] if bi is None else name[1] + quoted(bi)

    return "model.path=" + re.sub(r"(^|[\[,]\s*)(\w+)(?=\s*(?:[\],]|$))", path, argument.removeprefix("model="))


def recognise(source: Source, model: Scored) -> tuple[str, dict[str, Any]]:
    """The kind of a model, and the settings that the loader of that kind takes.

    Raises:
        InputError: one of its files is wrong, or it is a cross-encoder and a pooling is asked for.
    """
    try:
        cross = describe(source).cross
    except InputError as error:
        raise InputError(f"model={error}") from None
    if not cross:
        if model.symmetric is not None:
            raise InputError(
                f"model.symmetric: {source.name} is a bi-encoder, whose cosines have no order; leave it out"
            )
        return "bi", {"pooling": model.pooling.name, "prompt": model.prompt, "prompt_name": model.prompt_name}
    if (model.prompt, model.prompt_name) != (None, None):
        raise InputError(f"model.prompt: {source.name} is a cross-encoder, which has prompts of its own only")
    if model.pooling is not Pooling.auto:
        raise InputError(
            f"model.pooling={model.pooling.name}: {source.name} is a cross-encoder, which cannot be evaluated as a"
            " bi-encoder: it has no sentence embeddings to pool; leave model.pooling out"
        )
    return "cross", {"new_head": None, "symmetric": model.symmetric}


def run(cfg: Evaluate, folder: Path, overrides: Sequence[str] | None = None) -> float:
    """Leave results.csv in `folder`, show the table, return the mean over models and tasks.

    Raises:
        InputError: a model or a data set is missing or wrong.
    """
    import numpy as np

    from transenc.artifacts import Store  # here, so that --help need not load torch
    from transenc.metrics import bootstrap
    from transenc.progress import Progress
    from transenc.stages.evaluation import Evaluation, Member
    from transenc.stages.models import find_model

    check_evaluation(cfg)
    for key in (override.partition("=")[0] for override in overrides or ()):
        if key.startswith("data.") and not any(f"{key}.".startswith(f"{read}.") for read in EVALUATED):
            raise InputError(f"{key}: is for training, and not read here; leave it out (data.test=[FILE] is evaluated)")
    if not cfg.data.test:
        raise InputError("data.test: no test set; give data.test=[FILE], or data=NAME for a known set")
    progress = Progress(bars=cfg.verbosity is not Verbosity.quiet)
    evaluation = Evaluation(Store(Path(cfg.paths.artifacts)), cfg.data, cfg.paths, cfg.trainer, progress)
    tasks = evaluation.tasks(cfg.data.test)
    members, names = [], listed(cfg.model.path)
    for number, name in enumerate(names):
        source = find_model("model", name)
        kind, settings = recognise(source, cfg.model)
        artifact = evaluation.load(kind, source, "model", **settings, layers=None, max_tokens=cfg.model.max_tokens)
        members.append(Member(kind, 0, number, len(names) > 1, artifact))
    rows = []
    for task, pairs, evaluated in evaluation.evaluate_each(members, tasks):
        gold, resampled = np.load(pairs / "gold.npy"), None
        if cfg.resamples:
            resampled = bootstrap([one.raw for one in evaluated], gold, pairs.facts["binary"], cfg.resamples)
        for i, one in enumerate(evaluated):
            more = {} if resampled is None else intervals(resampled, i)
            if subsets := pairs.facts["subsets"]:
                more["subset_mean"] = subset_mean(one.raw, gold, subsets)
            model = " + ".join(names) if one.number is None else names[one.number]
            rows.append(EvaluationRow(0, one.encoder, one.number, task, len(gold), **one.metrics, **more, model=model))
    write_results(folder / "results.csv", rows, EvaluationRow)
    log.log(RESULT, "\n%s\n\nresults.csv  %s", show(rows), folder / "results.csv")
    return sum(row.value for row in rows) / len(rows)


def intervals(resampled: "np.ndarray", i: int) -> dict[str, float]:
    """The columns `low`, `high` and, of all but the first model, `p` (see `EvaluationRow`).

    Args:
        resampled: [R, M] of `bootstrap`.
        i: the model's column.
    """
    import numpy as np

    from transenc.metrics import p_value

    defined = resampled[~np.isnan(resampled[:, i]), i]
    low, high = map(float, np.quantile(defined, (0.025, 0.975)) if len(defined) else (np.nan, np.nan))
    return {"low": low, "high": high} | ({"p": p_value(resampled[:, 0], resampled[:, i])} if i else {})


def subset_mean(raw: "np.ndarray", gold: "np.ndarray", sizes: Sequence[int]) -> float:
    """Mean Spearman over a year's subsets, which have so many of the [N] pairs one after the other."""
    import numpy as np

    from transenc.metrics import spearman

    ends = np.cumsum(sizes)[:-1]
    of_subsets = zip(np.split(raw, ends), np.split(gold, ends), strict=True)
    return float(np.mean([spearman(raw, gold) for raw, gold in of_subsets]))


def show(rows: list[EvaluationRow]) -> str:
    """The table on the terminal: some lines for each model, tasks across, averaged if all have one metric."""
    metrics = {row.task: row.metric for row in rows}
    averaged = len(metrics) > 1 and len(set(metrics.values())) == 1
    first = {row.task: row.value for row in rows if row.member == 0}
    lines: list[Line] = []
    for key in dict.fromkeys(row.key for row in rows):
        of_model = [row for row in rows if row.key == key]
        encoder, member = of_model[0].encoder, of_model[0].member
        differences = [None if row.p is None else row.value - first[row.task] for row in of_model]
        p_values = [None if row.p is None else f"{row.p:.3f}" if row.p == row.p else row.p for row in of_model]
        for name, values, mean in (
            (encoder if member is None else f"{member}  {encoder}", [row.value for row in of_model], True),
            ("   95% from", [row.low for row in of_model], False),
            ("        to", [row.high for row in of_model], False),
            ("   subset mean", [row.subset_mean for row in of_model], False),
            ("   above model 0", differences, True),
            ("   p", p_values, False),
        ):
            if any(value is not None for value in values):
                lines.append((name, [*values, sum(values) / len(values)] if averaged and mean else values))
    legend = dict.fromkeys(f"{row.member}: {row.model}" for row in rows if row.member is not None)
    return "\n".join([grid(metrics, lines, ["avg"] if averaged else []), *legend])


if __name__ == "__main__":
    main("evaluate", run, USAGE, shorthand)
