"""Score one encoder on the test sets of a data choice: `python -m transenc.evaluate model=FOLDER data=sts_sickr`."""

import logging
from pathlib import Path

from transenc.cli import main
from transenc.config import Evaluate, Pooling

log = logging.getLogger("transenc")


def shorthand(argument: str) -> str:
    """`model=X` for `model.path=X`."""
    return argument.replace("model=", "model.path=", 1) if argument.startswith("model=") else argument


def run(cfg: Evaluate, folder: Path) -> float:
    """Leave results.csv in `folder`, print the table, return the mean Spearman over the tasks.

    Raises:
        InputError: the model or a data set is missing or wrong.
    """
    from transenc.artifact import Store  # here, so that --help need not load torch
    from transenc.encoders.folder import describe, find
    from transenc.errors import InputError
    from transenc.results import table, write_results
    from transenc.stages import Member, Scoring
    from transenc.watch import Watch, quiet

    quiet()
    if not cfg.data.test:
        raise InputError("data.test: no test set; give data.test=[FILE], or data=NAME for a known set")
    scoring = Scoring(Store(Path(cfg.paths.artifacts)), cfg.data, cfg.paths, cfg.trainer, Watch())
    tasks = scoring.tasks(cfg.data.test)
    if describe(find(cfg.model.path).folder).cross:
        if cfg.model.pooling is not Pooling.auto:
            raise InputError(
                f"model.pooling={cfg.model.pooling.name}: {cfg.model.path} is a cross-encoder, pools nothing"
            )
        kind, settings = "cross", {"new_head": None}
    else:
        kind, settings = "bi", {"pooling": cfg.model.pooling.name, "layers": None}
    model = scoring.start(kind, cfg.model.path, "model", **settings, max_tokens=cfg.model.max_tokens)
    rows = scoring.correlate([Member(kind, 0, 0, False, model)], tasks)
    write_results(folder / "results.csv", rows)
    log.info("\n%s\n\nresults.csv  %s", table(rows, list(tasks), {}), folder / "results.csv")
    return sum(row.spearman for row in rows) / len(rows)


if __name__ == "__main__":
    main("evaluate", run, shorthand)
