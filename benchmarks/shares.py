"""train.py, and what its rule chose among: test scores of a bi-encoder's initial and trained weights, and of those half
way between, in shares.csv of the run folder.

shares.npz there has what the rule looks at: the held-out pairs' labels, the initial bi-encoder's labels of them, and
their similarities with each of the three weights.

    python benchmarks/shares.py model=minilm data=stsb data.dev=null

A training that is in the store already is not repeated, and leaves no shares.csv.
"""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
from transenc.cli import main
from transenc.config.schema import Train


def run(cfg: Train, folder: Path, overrides: Sequence[str]) -> float | None:
    from transenc import loop
    from transenc.data.tokens import TokenisedPairs
    from transenc.metrics import main_metric
    from transenc.stages import training
    from transenc.stages.interpolation import interpolate, interpolated
    from transenc.stages.models import similarities

    tests: dict[str, tuple[TokenisedPairs, bool]] = {}
    rows: list[dict[str, Any]] = []
    member = 0
    held_out: dict[str, Any] = {}

    class Stages(loop.Stages):
        def train(self, initial: Any, *more: Any) -> Any:
            nonlocal member
            member = initial.number
            for name, task in self.tests.items():
                pairs = TokenisedPairs.load(self.tokens(task, initial.artifact, name).path)
                tests[name] = pairs, task.facts["binary"]
            return super().train(initial, *more)

    def choose(encoder: Any, initial: Any, share: float, metric: Any, judges: Any, one_standard_error: bool) -> float:
        if not judges:
            return interpolate(encoder, initial, share, metric, judges, one_standard_error)
        trained = {name: weight.clone() for name, weight in encoder.trained_state().items()}
        held_out.update(labels=judges[0], initial_labels=judges[-1])
        for tried in (0.0, 0.5, 1.0):
            encoder.load_state_dict(interpolated(initial.weights, trained, tried), strict=False)
            held_out[str(tried)] = similarities(encoder, metric.pairs, metric.config)
            for name, (pairs, binary) in tests.items():
                score = main_metric(similarities(encoder, pairs, metric.config), pairs.gold, binary)
                rows.append({"member": member, "share": tried, "task": name, "score": score})
        encoder.load_state_dict(trained, strict=False)
        chosen = interpolate(encoder, initial, share, metric, judges, one_standard_error)
        for row in rows:
            row.setdefault("chosen", row["share"] == chosen)
        return chosen

    loop.Stages, training.interpolate = Stages, choose
    result = loop.distill(cfg, folder, overrides)
    if rows:
        np.savez(folder / "shares.npz", **held_out)
        with (folder / "shares.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return result


if __name__ == "__main__":
    main("train", run, "python benchmarks/shares.py [GROUP=NAME ...] [KEY=VALUE ...]")
