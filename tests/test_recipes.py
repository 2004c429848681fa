"""Every recipe runs, with tiny models and few pairs in place of its own."""

import pandas
import pytest

from transenc.composition import CONF, compose
from transenc.loop import distill

RECIPES = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_runs_in_a_tiny_form(recipe, files, models, tmp_path):
    cfg = compose("train", [f"experiment={recipe}", "trainer=cpu"])
    tiny = [str(models[family]) for family in ("bert", "roberta")]
    for kind in ("bi", "cross"):
        several = isinstance(getattr(cfg.model, kind), list)
        setattr(cfg.model, kind, tiny if several else tiny[0])
    if isinstance(cfg.model.bi_layers, list):
        cfg.model.bi_layers = [2, 3]
    cfg.model.reference = cfg.model.reference and tiny[0]
    binary = cfg.data.test[0] in ("qqp-test", "qnli-test", "mrpc-test")
    for name in ("pool", "dev", "test"):
        table = pandas.read_csv(files / f"{name}.tsv", sep="\t")
        table["score"] = (table.score > 1).astype(int) if binary else table.score
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    settings = {"pool": [f"{tmp_path}/pool.tsv"], "dev": f"{tmp_path}/dev.tsv", "test": [f"{tmp_path}/test.tsv"]}
    settings |= {"gold": settings["pool"], "scores": type(cfg.data.scores)["binary" if binary else "graded"]}
    for key, value in settings.items():
        setattr(cfg.data, key, value)
    cfg.distill.iterations = min(cfg.distill.iterations, 2)
    for student in (cfg.distill.cross, cfg.distill.bi):
        student.epochs, student.min_steps = 1, 0
    cfg.paths.artifacts = str(tmp_path / "artifacts")
    folder = tmp_path / "run"
    score = distill(cfg, folder)
    assert score is None if cfg.distill.select.name == "last" else -1 <= score <= 1
    results = pandas.read_csv(folder / "results.csv")
    assert results.iteration.max() == cfg.distill.iterations
    assert results.auc.notna().all() == binary
    assert (folder / "models").exists()
