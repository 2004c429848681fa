"""Mean-centred encoders: what is centred, when, on what, and how it is reported."""

import json
import re

import numpy as np
import pandas
import pytest

import transenc.stages.run
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder
from transenc.errors import InputError
from transenc.metrics import spearman
from transenc.report.page import write_report
from transenc.results import Row


def test_a_centred_start_is_reported_beside_the_start_and_takes_its_place_as_teacher_and_student(setting, monkeypatch):
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
    """What a run's students learnt, and its sentences' tokens."""
    taught = pandas.read_csv(folder / "labels" / "1-cross.csv")
    sentences, numbers = number_sentences(list(zip(taught.sentence1, taught.sentence2, strict=True)))
    return taught.label.to_numpy(), tokenise(sentences, numbers, model.tokenizer)


def test_by_itself_a_start_read_through_cls_is_centred_and_of_one_read_by_the_mean_the_student(setting):
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
    starts = [("bi", 0), ("bi", 1), ("bi-ensemble", -1), ("bi-centred", 1)]
    assert list(zip(results.encoder, results.member.fillna(-1), strict=True)) == starts
    assert [place for stage, place in setting.built if stage == "centre"] == ["0/bi-1-centred"]
    assert (folder / "predictions" / "0-bi-1-centred-test.csv").exists()
    students = [BiEncoder.load(folder / "models" / f"bi-encoder-{number}") for number in (0, 1)]
    shares = [student.centre(pool_of(folder, student)[1], 4096) for student in students]
    assert shares[0] < 1e-4 < 0.01 < shares[1]


@pytest.mark.parametrize("asked", ["distill.centre=starts", "distill.centre=auto"])
def test_what_cannot_be_centred_is_named_before_anything_is_taught_and_so_is_the_way_on(setting, models, asked):
    says = f"model.bi={models['modernbert']}: cannot be centred, .*; set (.*)"
    with pytest.raises(InputError, match=says) as error:
        setting.run(asked, f"model.bi={models['modernbert']}")
    assert setting.taught() == []
    way_on = re.search(says, str(error.value))[1].split()
    setting.run(asked, *way_on, f"model.bi={models['modernbert']}", name="on")


def test_a_student_is_centred_on_the_pools_sentences_and_compared_by_what_it_is_then(setting):
    folder = setting.run("distill.select=agreement", "distill.holdout=0.5", "distill.centre=students")
    model = BiEncoder.load(folder / "models" / "bi-encoder")
    labels, tokens = pool_of(folder, model)
    held = np.random.default_rng(setting.config().seed).permutation(len(labels))[: len(labels) // 2]
    agreement = spearman(model.score(tokens)[held], labels[held])
    assert json.loads((folder / "run.json").read_text())["selected"]["bi"]["score"] == pytest.approx(agreement)
    assert model.centre(tokens, 4096) < 1e-4
    plain = setting.run(name="plain")
    assert BiEncoder.load(plain / "models" / "bi-encoder").centre(tokens, 4096) > 0.1
    says = ["were mean-centred" in (run / "models" / "bi-encoder" / "README.md").read_text() for run in (folder, plain)]
    assert says == [True, False]


def test_a_centred_start_that_is_selected_is_handed_back_and_reported_as_such(setting, monkeypatch):
    value = Row.value
    monkeypatch.setattr(
        Row,
        "value",
        property(lambda row: (row.encoder == "bi-centred") + 0.0 if row.task == "dev" else value.fget(row)),
    )
    folder = setting.run("distill.centre=starts")
    selected = json.loads((folder / "run.json").read_text())["selected"]
    assert selected["bi"] == {"iteration": 0, "encoder": "bi-centred", "score": 1.0}
    results = pandas.read_csv(folder / "results.csv").query("encoder == 'bi-centred' and task == 'test'")
    said = pandas.read_csv(folder / "predictions" / "0-bi-centred-test.csv")
    pairs = list(zip(said.sentence1, said.sentence2, strict=True))
    scores = BiEncoder.load(folder / "models" / "bi-encoder").predict(pairs)
    np.testing.assert_allclose(scores, np.clip(said.score, 0, 1), atol=1e-5)
    assert "centred on the pool, since no iteration improved on it" in (
        folder / "models" / "bi-encoder" / "README.md"
    ).read_text().replace("\n", " ")
    write_report([folder], folder / "report.html")
    page = (folder / "report.html").read_text()
    assert "<tr class=chosen><td>0  bi-centred<" in page
    assert f"<b>bi</b>: {100 * results.spearman.item():.2f} on test, " in page
