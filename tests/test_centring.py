"""Mean-centred encoders: what is centred, when, on what, and how it is reported."""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import load_file

import transenc.stages.run
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder
from transenc.errors import InputError
from transenc.metrics import spearman
from transenc.report.page import write_report
from transenc.results import Row


def test_a_mean_centred_initial_encoder_is_reported_beside_the_plain_one_and_replaces_it_as_teacher_and_student(
    setting, monkeypatch
):
    began = []
    train = transenc.stages.run.Stages.train
    monkeypatch.setattr(
        transenc.stages.run.Stages,
        "train",
        lambda self, initial, *more: began.append((initial.kind, initial.place)) or train(self, initial, *more),
    )
    folder = setting.run("distill.centre=starts", "save_predictions=true")
    results = pandas.read_csv(folder / "results.csv")
    assert list(dict.fromkeys(zip(results.iteration, results.encoder, strict=True))) == [
        (0, "bi"),
        (0, "bi-centred"),
        (1, "cross"),
        (1, "bi"),
    ]
    assert began == [("cross", "0/cross"), ("bi", "0/bi-centred")]
    assert (folder / "predictions" / "0-bi-centred-test.csv").exists()
    labels = [pandas.read_csv(run / "labels" / "1-bi.csv").label for run in (folder, setting.run(name="plain"))]
    assert labels[0].mean() < labels[1].mean()  # cosines of vectors that no longer share a direction


def pool_of(folder, model):
    """The labels a run's students were trained on, and the tokens of its sentences."""
    pool = pandas.read_csv(folder / "labels" / "1-cross.csv")
    sentences, numbers = number_sentences(list(zip(pool.sentence1, pool.sentence2, strict=True)))
    return pool.label.to_numpy(), tokenise(sentences, numbers, model.tokenizer)


@pytest.mark.slow
def test_auto_mean_centres_an_initial_encoder_with_cls_pooling_and_the_student_of_one_with_mean_pooling(
    setting, caplog
):
    two = f"[{setting.model},{setting.model}]"
    folder = setting.run(
        "distill.centre=auto",
        "distill.select=last",
        f"model.bi={two}",
        f"model.cross={two}",
        "model.pooling=[mean,cls]",
        "save_predictions=true",
    )
    results = pandas.read_csv(folder / "results.csv").query("iteration == 0 and task == 'test'")
    assert "0  bi-centred-1 " in caplog.text
    expected = [("bi", 0), ("bi", 1), ("bi-ensemble", -1), ("bi-centred", 1)]
    assert list(zip(results.encoder, results.member.fillna(-1), strict=True)) == expected
    assert [place for stage, place in setting.built if stage == "centre"] == ["0/bi-1-centred"]
    assert (folder / "predictions" / "0-bi-1-centred-test.csv").exists()
    students = [BiEncoder.load(folder / "models" / f"bi-encoder-{number}") for number in (0, 1)]
    shares = [student.centre(pool_of(folder, student)[1], 4096) for student in students]
    assert shares[0] < 1e-4 < 0.01 < shares[1]


@pytest.mark.parametrize(
    "override", ["distill.centre=auto", pytest.param("distill.centre=starts", marks=pytest.mark.slow)]
)
def test_what_cannot_be_mean_centred_is_named_before_any_training_and_so_is_the_remedy(setting, models, override):
    says = f"model.bi={models['modernbert']}: cannot be centred, .*; set (.*)"
    with pytest.raises(InputError, match=says) as error:
        setting.run(override, f"model.bi={models['modernbert']}")
    assert setting.trained() == []
    way_on = re.search(says, str(error.value))[1].split()
    setting.run(override, *way_on, f"model.bi={models['modernbert']}", name="on")


@pytest.mark.slow
def test_a_student_is_mean_centred_on_the_pools_sentences_before_it_is_selected(setting, monkeypatch):
    monkeypatch.setattr("transenc.stages.interpolation.improves", lambda *_: True)
    folder = setting.run("distill.select=agreement", "distill.holdout=0.5", "distill.centre=students")
    model = BiEncoder.load(folder / "models" / "bi-encoder")
    labels, tokens = pool_of(folder, model)
    held = np.random.default_rng(setting.config().seed).permutation(len(labels))[: len(labels) // 2]
    agreement = spearman(model.similarities(tokens)[held], labels[held])
    assert json.loads((folder / "run.json").read_text())["selected"]["bi"]["score"] == pytest.approx(agreement)
    assert model.centre(tokens, 4096) < 1e-4
    plain = setting.run(name="plain")
    assert BiEncoder.load(plain / "models" / "bi-encoder").centre(tokens, 4096) > 0.1
    says = ["were mean-centred" in (run / "models" / "bi-encoder" / "README.md").read_text() for run in (folder, plain)]
    assert says == [True, False]


@pytest.mark.slow
def test_the_card_of_mean_centred_weights_that_no_training_improved_says_so(setting, monkeypatch):
    monkeypatch.setattr("transenc.stages.interpolation.improves", lambda *_: False)
    folder = setting.run("distill.centre=starts", "distill.select=agreement", "distill.failure=ignore")
    card = " ".join((folder / "models" / "bi-encoder" / "README.md").read_text().split())
    assert "mean-centred on the pool: " in card
    assert "unchanged" not in card


def test_a_student_that_no_training_improved_is_not_centred_either(setting, monkeypatch):
    monkeypatch.setattr("transenc.stages.interpolation.improves", lambda *_: False)
    folder = setting.run("distill.centre=students", "distill.select=agreement", "distill.failure=ignore")
    model = folder / "models" / "bi-encoder"
    assert "unchanged" in (model / "README.md").read_text()
    saved, initial = (load_file(folder / "model.safetensors") for folder in (model, Path(setting.model)))
    assert all(torch.equal(weight, initial[name]) for name, weight in saved.items())


def test_a_mean_centred_initial_encoder_that_is_selected_is_handed_back_and_reported_as_such(setting, monkeypatch):
    value = Row.value
    monkeypatch.setattr(
        Row,
        "value",
        property(lambda row: (row.encoder == "bi-centred") + 0.0 if row.task == "dev" else value.fget(row)),
    )
    folder = setting.run("distill.centre=starts")
    selected = json.loads((folder / "run.json").read_text())["selected"]
    assert selected["bi"] == {"iteration": 0, "encoder": "bi-centred", "place": "0/bi-centred", "score": 1.0}
    results = pandas.read_csv(folder / "results.csv").query("encoder == 'bi-centred' and task == 'test'")
    predictions = pandas.read_csv(folder / "predictions" / "0-bi-centred-test.csv")
    pairs = list(zip(predictions.sentence1, predictions.sentence2, strict=True))
    scores = BiEncoder.load(folder / "models" / "bi-encoder").predict(pairs)
    np.testing.assert_allclose(scores, predictions.score, atol=1e-5)
    assert "mean-centred on the pool: " in (folder / "models" / "bi-encoder" / "README.md").read_text().replace(
        "\n", " "
    )
    write_report([folder], folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "<tr class=chosen><td>0  bi-centred<" in page
    assert f"<b>bi</b>: {100 * results.spearman.item():.2f} on test, " in page
