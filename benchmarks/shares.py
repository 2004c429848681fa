"""train.py, and what its rule chose among: test scores of the bi-encoder's weights at each share of the way from the
initial to the trained ones, in shares.csv of the run folder. shares.npz has what the rule looks at: the held-out pairs'
labels, the initial bi-encoder's labels of them, and their similarities at each share.

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
    from transenc.stages.interpolation import interpolate_by_agreement, interpolated
    from transenc.stages.models import similarities

    tests: dict[str, tuple[TokenisedPairs, bool]] = {}
    rows: list[dict[str, Any]] = []
    held_out: dict[str, Any] = {}

    class Stages(loop.Stages):
        def train(self, initial: Any, *more: Any) -> Any:
            for name, task in self.tests.items():
                pairs = TokenisedPairs.load(self.tokens(task, initial.artifact, name).path)
                tests[name] = pairs, task.facts["binary"]
            return super().train(initial, *more)

    def choose(encoder: Any, initial: Any, before: Any, shares: Any, metric: Any, initial_labels: Any) -> float:
        trained = {name: weight.clone() for name, weight in encoder.trained_state().items()}
        held_out.update(labels=metric.truth, initial_labels=initial_labels)
        for share in (0.0, *shares):
            encoder.load_state_dict(interpolated(initial, trained, share), strict=False)
            held_out[str(share)] = similarities(encoder, metric.pairs, metric.config)
            for name, (pairs, binary) in tests.items():
                score = main_metric(similarities(encoder, pairs, metric.config), pairs.gold, binary)
                rows.append({"share": share, "task": name, "score": score})
        encoder.load_state_dict(trained, strict=False)
        chosen = interpolate_by_agreement(encoder, initial, before, shares, metric, initial_labels)
        for row in rows:
            row.setdefault("chosen", row["share"] == chosen)
        return chosen

    loop.Stages, training.interpolate_by_agreement = Stages, choose
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
