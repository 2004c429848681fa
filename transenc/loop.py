"""The method: a teacher labels pairs, a student is trained on the labels, in turn."""

from collections.abc import Sequence
from pathlib import Path

from transenc.artifacts import Store
from transenc.config.checks import check
from transenc.config.schema import Train
from transenc.run_writer import RunWriter
from transenc.selection import select
from transenc.stages.evaluation import Member
from transenc.stages.run import Stages
from transenc.terminal import show


def distill(cfg: Train, folder: Path, overrides: Sequence[str] | None = None) -> float | None:
    """Run the loop; leave report.html, results.csv, models/, labels/, run.json and more in `folder`.

    Every call below that builds something goes through the store, so what an earlier run finished is only read.

    Args:
        cfg: the settings.
        folder: the run folder.
        overrides: what the command line set; None if there was none.

    Returns:
        The mean selection score of the selected encoders, in [-1, 1]; None where one of them has none.

    Raises:
        InputError: something in the configuration, the data or the models is wrong.
    """
    check(cfg)
    show(cfg.verbosity.name)
    direction = cfg.distill.direction
    with RunWriter(cfg, folder, overrides) as run:
        stages = Stages(cfg, Store(Path(cfg.paths.artifacts)), run.progress)
        candidates: list[Member] = []

        def evaluate(members: Sequence[Member]) -> None:
            run.write_results(stages.evaluate(members))
            if cfg.save_predictions:
                run.write_predictions(members, stages)
            candidates.extend(members)

        initial = {kind: stages.initial_encoders(kind) for kind in direction.kinds}
        pool = stages.gather(initial)
        run.begin()
        for kind in stages.scorers(initial):
            evaluate(initial[kind])
        if cfg.data.flatten:
            labels = stages.label(initial, "bi", pool, 0)
            run.write_labels(0, "bi", labels, pool)
            pool = stages.flatten(pool, labels)
        if centred := stages.centre(initial.get("bi", []), pool):
            initial["bi"] = [centred.get(member.number, member) for member in initial["bi"]]
            evaluate(list(centred.values()))

        pools = {"cross": stages.with_crops(pool), "bi": pool}
        encoders = dict(initial)
        for iteration in range(1, cfg.distill.iterations + 1):
            # The bi-encoder labels for the cross-encoder, then the cross-encoder for the bi-encoder.
            for teacher, student in direction.turns:
                pairs = pools[student]
                labels = stages.label(encoders, teacher, pairs, iteration)
                run.write_labels(iteration, teacher, labels, pairs)
                encoders[student] = [
                    stages.train(first, previous, pairs, labels, iteration)
                    for first, previous in zip(initial[student], encoders[student], strict=True)
                ]
                evaluate(encoders[student])

        selected = []
        for kind in direction.students:
            of_kind = [member for member in candidates if member.kind == kind]
            selected += select(of_kind, run.rows, stages.select_by, stages.dev_task)
        return run.finish(selected, candidates, stages, pool)
