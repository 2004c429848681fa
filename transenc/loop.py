"""The method: a teacher labels pairs, a student learns the labels, in turn."""

from pathlib import Path

from transenc.artifact import Store
from transenc.config import Train, check
from transenc.report import Report
from transenc.stages import Stages
from transenc.watch import quiet


def distill(cfg: Train, folder: Path) -> float | None:
    """Run the loop; leave results.csv, models/, labels/, tensorboard/ and run.json in `folder`.

    Every call below that builds something goes through the store, so what an earlier run finished is only read.

    Returns:
        The mean selection score of the selected encoders, in [-1, 1]; None where nothing was selected by a score.

    Raises:
        InputError: something in the configuration, the data or the models is wrong.
    """
    check(cfg)
    quiet()
    with Report(cfg, folder) as report:
        stages = Stages(cfg, Store(Path(cfg.paths.artifacts)), report.watch)
        bis = start_bis = stages.start_models("bi")
        crosses = start_crosses = stages.start_models("cross")
        report.scores(bis, stages.evaluate(bis))

        for iteration in range(1, cfg.distill.iterations + 1):
            labels = stages.label(bis, iteration)
            report.labels(iteration, "bi", labels, stages.pool)
            crosses = [stages.teach(cross, labels, iteration) for cross in stages.students(start_crosses, crosses)]
            report.scores(crosses, stages.evaluate(crosses))

            labels = stages.label(crosses, iteration)
            report.labels(iteration, "cross", labels, stages.pool)
            bis = [stages.teach(bi, labels, iteration) for bi in stages.students(start_bis, bis)]
            report.scores(bis, stages.evaluate(bis))

        return report.finish(stages)
