"""What each idea beyond the paper brings, one at a time: the tables of docs/ablations.md and docs/adapting.md.

    python benchmarks/ablations.py                       # development scores, every start, variant and seed
    python benchmarks/ablations.py starts=weak seeds=0 variants=paper,best
    python benchmarks/ablations.py test=true variants=paper,best     # test scores, once all is chosen
    python benchmarks/ablations.py test=true data=twitter,wikiqa texts=FOLDER variants=paper,adapt pairs=300,1000

`pairs` is how many of the pool are drawn, by default all. `texts` is a folder of texts that are not STS: twitter/ and
wikiqa/, each with train.tsv and test.tsv, whose columns are sentence1, sentence2, score (0 or 1). Of their test pairs,
1,500 are drawn. "wikiqa mined" has pairs made of the training pairs' questions and answers, as of two files.

Each run is a `train.py` command, through benchmarks/shares.py, in a folder of its own under outputs/ablations/; one
whose run.json is there is not run again, and runs share artifacts, so the whole can be stopped and started at will.
Further KEY=VALUE go to train.py. They do not name the folder: move it away before you change them.
"""

import csv
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas

ROOT = Path(__file__).parents[1]
STARTS = {
    "weak": ["model=minilm", "model.pooling=cls"],
    "strong": ["model=minilm", "model.pooling=mean"],
    "two layers": ["model=minilm", "model.pooling=mean", "model.bi_layers=2"],
    "three layers": ["model=minilm", "model.pooling=mean", "model.bi_layers=3"],
    "five layers": ["model=minilm", "model.pooling=mean", "model.bi_layers=5"],
    "four layers": ["model=minilm", "model.pooling=mean", "model.bi_layers=4"],
    "four layers [CLS]": ["model=minilm", "model.pooling=cls", "model.bi_layers=4"],
    "three and four layers": ["model=minilm_mutual", "model.bi_layers=[3,4]"],
}
DATA = {
    "stsb": ["data=stsb"],
    "stsb+sick": ["data=stsb", "data.pool=[stsb-train,sickr-train]"],
    "sickr": ["data=sickr"],
    **{
        f"sts{year}": ["data=sts", f"data.pool=[sts{year}]", f"data.test=[sts{year}]", "data.transductive=true"]
        for year in range(12, 17)
    },
    "seven": ["data=sts_sickr", "data.limit=6000"],  # all of SICK is a test set: none of it is in the pool
    "seven+sick": [
        "data=sts_sickr",
        "data.test=[sts12,sts13,sts14,sts15,sts16,stsb-test,sickr-test]",
        "data.limit=10000",
    ],
    "twitter": [],  # `texts`
    "wikiqa": ["data.ordered=true"],
    "wikiqa mined": ["data=queries"],
}
TEXTS, TEST_PAIRS = ("twitter", "wikiqa"), 1500
# What a backbone of 22M parameters wants on two cores (experiment=minilm_stsb); otherwise the paper's.
SMALL = [
    "distill.iterations=1",
    "distill.cross.learning_rate=1e-4",
    "distill.cross.eval_steps=0",
    "distill.bi.epochs=1",
    "distill.bi.batch_size=32",
    "distill.bi.eval_steps=0",
    "distill.select=last",
]
BOTH = ["distill.teachers=both", "distill.average=z"]
BASE = ["distill=paper", "distill.cross.min_steps=300"]  # small pools are passed over several times
ADAPT = ["distill=adapt", "distill.select=agreement"]
VARIANTS = {
    "paper": BASE,
    "symmetric": [*BASE, "distill.symmetric=true"],
    "starts centred": [*BASE, "distill.centre=starts"],
    "students centred": [*BASE, "distill.centre=students"],
    "cosent": [*BASE, "distill.bi.loss=cosent"],
    "both teachers": [*BASE, *BOTH],
    "cosent + both teachers": [*BASE, "distill.bi.loss=cosent", *BOTH],
    "adapt": ADAPT,
    "adapt: embeddings only": [*ADAPT, "distill.late_interaction=false"],
    "adapt: one fold": [*ADAPT, "distill.folds=1"],
    "adapt: cross-encoder labels": [*ADAPT, "distill.teachers=other"],
    "best": ["distill=best"],
    "best not centred": ["distill=best", "distill.centre=none"],
    "best starts centred": ["distill=best", "distill.centre=starts"],
    "best students centred": ["distill=best", "distill.centre=students"],
}


def run(data: str, pairs: str, start: str, variant: str, seed: int, more: list[str]) -> Path:
    """One run's folder, run now if it is not there whole."""
    names = (re.sub(r"\W+", "-", name) for name in (data, pairs, start, variant, str(seed)))
    folder = ROOT.joinpath("outputs", "ablations", *names)
    if not (folder / "run.json").exists():
        limit = [] if pairs == "all" else [f"data.limit={pairs}"]
        settings = [*DATA[data], *limit, *STARTS[start], *SMALL, *VARIANTS[variant], f"seed={seed}", *more]
        command = [sys.executable, "benchmarks/shares.py", *settings, f"hydra.run.dir={folder}", "verbosity=quiet"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder


def scores(folder: Path, test: bool) -> pandas.Series:
    """Spearman x100, AUC of binary scores, by iteration, encoder, member (of several) and task; of several test sets,
    their average too.
    """
    results = pandas.read_csv(folder / "results.csv", dtype={"member": "string"})
    results = results[results.task.str.endswith("-dev") != test]
    results["place"] = results.iteration.astype(str) + " " + results.encoder
    if results.member.nunique() > 1:
        results["place"] += ("-" + results.member).fillna("")
    by_place = results.set_index(["place", "task"])
    values = 100 * by_place.auc.fillna(by_place.spearman)
    if values.index.get_level_values("task").nunique() > 1:
        average = values.groupby("place", sort=False).mean()
        average.index = pandas.MultiIndex.from_product([average.index, ["avg"]], names=["place", "task"])
        values = pandas.concat([values, average])
    if test and (shares := folder / "shares.csv").exists():  # what the rule chose among
        rows = pandas.read_csv(shares)
        rows = rows[rows.share > 0].assign(place=rows.share.map({0.5: "half way", 1.0: "trained"}))
        if rows.member.nunique() > 1:
            rows["place"] += "-" + rows.member.astype(str)
        values = pandas.concat([values, 100 * rows.set_index(["place", "task"]).score])
    return values


def add_texts(folder: Path) -> None:
    """Texts that are not STS: their training pairs without scores, and some of their test pairs."""
    rng = np.random.default_rng(0)
    for name in TEXTS:
        test = ROOT / "outputs" / "ablations" / f"{name}_test.tsv"
        test.parent.mkdir(parents=True, exist_ok=True)
        header, *lines = (folder / name / "test.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
        drawn = np.sort(rng.permutation(len(lines))[:TEST_PAIRS])
        test.write_text("".join([header, *(lines[number] for number in drawn)]), encoding="utf-8")
        train, scored = (folder / name / "train.tsv").resolve(), [f"data.test=[{test}]", "data.scores=binary"]
        DATA[name] += ["data=pairs", f"data.path={train}", *scored]
        if f"{name} mined" in DATA:
            pairs = pandas.read_csv(train, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
            for key, column in (("queries", "sentence1"), ("documents", "sentence2")):
                file = test.with_name(f"{name}_{key}.txt")
                file.write_text("\n".join(pairs[column].unique()), encoding="utf-8")
                DATA[f"{name} mined"].append(f"data.{key}={file}")
            DATA[f"{name} mined"] += scored


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    test = json.loads(given.pop("test", "false"))
    data = given.pop("data", "stsb").split(",")
    starts = given.pop("starts", ",".join(STARTS)).split(",")
    variants = given.pop("variants", ",".join(VARIANTS)).split(",")
    if texts := given.pop("texts", None):
        add_texts(Path(texts))
    pairs = given.pop("pairs", "all").split(",")
    seeds = [int(seed) for seed in given.pop("seeds", "0,1,2").split(",")]
    more = [f"{key}={value}" for key, value in given.items()]
    for asked, known in ((data, DATA), (starts, STARTS), (variants, VARIANTS)):
        if unknown := set(asked) - set(known):
            sys.exit(f"{', '.join(sorted(unknown))}: none of {', '.join(known)}")
    found = {}
    for seed, *arm in itertools.product(seeds, data, pairs, starts, variants):
        found[*arm, seed] = scores(run(*arm, seed, more), test)
        table = pandas.DataFrame(found).T
        table.index.names = ["data", "pairs", "start", "variant", "seed"]
        groups = table.groupby(["data", "pairs", "start", "variant"], sort=False)
        print(f"\nmean over seeds so far ({'test' if test else 'development'} pairs)")
        print(groups.mean().round(2).to_string(), "\nstandard deviation")
        print(groups.std().round(2).to_string(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
