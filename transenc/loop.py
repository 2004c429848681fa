"""The method: a teacher labels pairs, a student learns the labels, in turn."""

from pathlib import Path

from transenc.artifacts import Store
from transenc.config import Train, check
from transenc.run_writer import Journal
from transenc.stages import Stages
from transenc.terminal import show


def distill(cfg: Train, folder: Path) -> float | None:
    """Run the loop; leave report.html, results.csv, models/, labels/, run.json and more in `folder`.

    Every call below that builds something goes through the store, so what an earlier run finished is only read.

    Returns:
        The mean selection score of the selected encoders, in [-1, 1]; None where nothing was selected by a score.

    Raises:
        InputError: something in the configuration, the data or the models is wrong.
    """
    check(cfg)
    show(cfg.verbosity.name)
    with Journal(cfg, folder) as journal:
        stages = Stages(cfg, Store(Path(cfg.paths.artifacts)), journal.watch)
        starts = {kind: stages.start_models(kind) for kind in cfg.distill.direction.kinds}
        for kind in stages.trained(starts):
            journal.scores(starts[kind], stages)
        pool = stages.gather(starts)
        if cfg.data.flatten:
            labels = stages.label(starts, "bi", pool, 0)
            journal.labels(0, "bi", labels, pool)
            pool = stages.flatten(pool, labels)
        if centred := stages.centre(starts, pool):
            starts["bi"] = [centred.get(member.number, member) for member in starts["bi"]]
            journal.scores(list(centred.values()), stages)

        encoders = dict(starts)
        for iteration in range(1, cfg.distill.iterations + 1):
            for teacher, student in cfg.distill.direction.turns:  # bi teaches cross, then cross teaches bi
                labels = stages.label(encoders, teacher, pool, iteration)
                journal.labels(iteration, teacher, labels, pool)
                previous = encoders[student]
                pupils = zip(stages.students(starts[student], previous), previous, strict=True)
                encoders[student] = [stages.teach(*pupil, pool, labels, iteration) for pupil in pupils]
                journal.scores(encoders[student], stages)

        return journal.finish(stages, pool)
