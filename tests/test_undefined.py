"""Correlations that are undefined, as of one pair or of equal gold scores: shown as such, and never selected by."""

import json

import numpy as np
import pandas
import pytest
import torch
from huggingface_hub import ModelCard

from transenc.composition import compose
from transenc.encoders import CrossEncoder
from transenc.errors import InputError
from transenc.evaluate import run as evaluate
from transenc.metrics import bootstrap, p_value
from transenc.report.page import write_report
from transenc.results import RESULT


@pytest.fixture
def flat(files, tmp_path):
    """A scored file whose gold scores are all equal."""
    table = pandas.read_csv(files / "test.tsv", sep="\t")
    table.assign(score=3).to_csv(tmp_path / "flat.tsv", sep="\t", index=False)
    return tmp_path / "flat.tsv"


@pytest.mark.parametrize("rows", [30, 1])
def test_a_development_set_that_orders_nothing_is_refused_before_anything_is_trained(setting, flat, rows):
    flat.write_text("".join(flat.read_text().splitlines(keepends=True)[: rows + 1]))
    with pytest.raises(
        InputError, match=r"data.dev=.*: has one pair only, or the same gold score for all.*data.dev=null"
    ):
        setting.run(f"data.dev={flat}")
    assert {stage for stage, _ in setting.built} == {"read"}


def test_a_test_set_that_orders_nothing_is_undefined_wherever_it_is_shown(setting, flat, files, caplog):
    folder = setting.run(f"data.test=[{flat},{files}/test.tsv]")
    results = pandas.read_csv(folder / "results.csv")
    assert results[results.task == "flat"][["spearman", "pearson"]].isna().all(axis=None)
    assert results[results.task != "flat"][["spearman", "pearson"]].notna().all(axis=None)
    assert "flat.tsv: has one pair only, or the same gold score for all" in caplog.text
    assert caplog.text.count(" undefined") >= 6  # three encoders, and their averages
    assert "nan" not in caplog.text
    json.loads((folder / "run.json").read_text(), parse_constant=pytest.fail)  # NaN is not JSON

    write_report([folder], folder / "page.html")
    page = (folder / "page.html").read_text()
    assert page.count(">undefined</td>") == 6
    assert ">nan" not in page
    card = ModelCard.load(folder / "models" / "bi-encoder" / "README.md")
    assert "| flat | 30 | Spearman | undefined |" in card.content
    assert [result.dataset_name for result in card.data.eval_results] == ["dev", "test"]


def test_an_encoder_whose_scores_are_undefined_has_no_selection_score(setting, monkeypatch):
    def constant(self, features):
        return torch.zeros(len(features["input_ids"]), requires_grad=True)

    monkeypatch.setattr(CrossEncoder, "forward", constant)
    folder = setting.run("distill.failure=ignore", "distill.direction=bi_to_cross", "distill.iterations=1")
    selected = json.loads((folder / "run.json").read_text())["selected"]
    assert selected["cross"]["score"] is None
    assert selected["score"] is None


def test_a_resample_that_orders_nothing_does_not_count():
    raw, gold = np.array([0.1, 0.2, 0.3]), np.array([0.0, 0.0, 1.0])
    drawn = bootstrap([raw, raw], gold, False, 200)
    undefined = np.isnan(drawn[:, 0])
    assert 0 < undefined.sum() < 200
    assert p_value(drawn[:, 0], drawn[:, 1]) == 1
    assert np.isnan(p_value(drawn[undefined, 0], drawn[undefined, 1]))


def test_an_evaluation_shows_what_is_undefined(flat, bert, tmp_path, caplog):
    models = f"model.path=[{bert},{bert}]"
    cfg = compose("evaluate", ["data=pairs", f"data.test=[{flat}]", models, f"paths.artifacts={tmp_path}/artifacts"])
    caplog.set_level(RESULT, "transenc")
    evaluate(cfg, tmp_path)
    row = pandas.read_csv(tmp_path / "results.csv").iloc[1]
    assert row[["spearman", "low", "high", "p"]].isna().all()
    shown = caplog.records[-1].getMessage()
    assert shown.count(" undefined") == 3 + 3 * 2 + 2 * 2  # three values and their bounds, two differences and their p
    assert "nan" not in shown
