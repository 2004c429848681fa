"""How good a bi-encoder's labels are before any training: its embeddings, its tokens (late interaction; their mean,
which is mean pooling without special tokens), and both.

    python benchmarks/labels.py                          # STS-B, SICK, STS12-16
    python benchmarks/labels.py texts=FOLDER data=twitter,wikiqa,stsb starts=weak,strong

`texts`, `data`, `starts` are those of benchmarks/ablations.py. Scores of the test pairs, Spearman x100, AUC of binary
scores. Inverse document frequencies are those of the test sentences, which have no labels.
"""

import sys
from pathlib import Path

import numpy as np
import pandas
from ablations import DATA, ROOT, STARTS, add_texts

sys.path.insert(0, str(ROOT))
from transenc.artifacts import Store
from transenc.composition import compose
from transenc.config.schema import Scores
from transenc.data.tokens import TokenisedPairs
from transenc.metrics import main_metric
from transenc.progress import Progress
from transenc.stages.labels import average
from transenc.stages.models import loaded
from transenc.stages.run import Stages

LABELS = {
    "embeddings": [0],
    "tokens": [1],
    "tokens by IDF": [2],
    "mean of tokens": [3],
    "embeddings, tokens": [0, 1],
    "tokens, tokens by IDF": [1, 2],
    "all three": [0, 1, 2],
}
SETS = {f"sts{year}": ["data=sts", f"data.test=[sts{year}]"] for year in range(12, 17)}


def scores(data: str, start: str) -> dict[str, float]:
    """The metric x100 of each choice of `LABELS` on the test pairs of a data set."""
    cfg = compose("train", [*{**DATA, **SETS}[data], *STARTS[start], "data.dev=null"])
    stages = Stages(cfg, Store(ROOT / "artifacts"), Progress())
    members, tests = stages.initial_encoders("bi"), list(stages.tests.items())
    if len(members) != 1 or len(tests) != 1:
        sys.exit(f"{data}, {start}: one initial bi-encoder and one test set at a time")
    (member,), ((name, test),) = members, tests
    pairs = TokenisedPairs.load(stages.tokens(test, member.artifact, name).path)
    encoder, tokens = loaded(member.artifact, stages.scoring), stages.scoring["batch_tokens"]
    found = np.vstack([encoder.similarities(pairs, tokens), encoder.late_interaction(pairs, tokens)])
    binary = cfg.data.scores is Scores.binary
    return {label: 100 * main_metric(average(found[rows], "z"), pairs.gold, binary) for label, rows in LABELS.items()}


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    if folder := given.pop("texts", None):
        add_texts(Path(folder))
    texts = given.pop("data", "stsb,sickr,sts12,sts13,sts14,sts15,sts16").split(",")
    starts = given.pop("starts", "strong,weak,three layers").split(",")
    if unknown := {*given, *texts, *starts} - {*DATA, *SETS, *STARTS}:
        sys.exit(f"{', '.join(sorted(unknown))}: none of {', '.join([*DATA, *SETS, *STARTS])}")
    table = pandas.DataFrame({(start, text): scores(text, start) for start in starts for text in texts}).T
    print(table.round(2).to_string())
    print("\nmean over data sets\n" + table.groupby(level=0, sort=False).mean().round(2).to_string())


if __name__ == "__main__":
    main(sys.argv[1:])
