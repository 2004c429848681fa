"""Labels: which teachers make them and how, and that gold scores make none unless a direction says so."""

import json
import re
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import weights

import transenc.data.module
import transenc.stages.evaluation
import transenc.stages.labels
from transenc.artifacts import Artifact
from transenc.config.checks import check
from transenc.encoders import CrossEncoder
from transenc.encoders.base import PairEncoder
from transenc.errors import InputError
from transenc.stages.labels import held_out_count


def test_training_never_sees_a_gold_score(setting, files, monkeypatch, tmp_path):
    """The pool's artifacts have no place for scores, and other scores in its file change no weight."""
    trained_on, module = [], transenc.data.module.PairDataModule
    monkeypatch.setattr(
        transenc.data.module,
        "PairDataModule",
        lambda pairs, *a, **k: trained_on.append(pairs) or module(pairs, *a, **k),
    )
    first = setting.run()
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    pool["score"] = "gold?"
    pool.to_csv(tmp_path / "other.tsv", sep="\t", index=False)
    second = setting.run(f"data.path={tmp_path}/other.tsv", f"paths.artifacts={tmp_path}/other-artifacts", name="other")
    assert weights(first) == weights(second)
    assert [tokens.gold for tokens in trained_on] == [None] * 4
    for folder in (setting.root / "artifacts").glob("read-*"):
        scored = json.loads((folder / "artifact.json").read_text())["config"]["scored"]
        assert (folder / "gold.npy").exists() == scored


@pytest.mark.slow
def test_an_encoder_is_loaded_once_for_all_that_it_scores_and_again_to_be_trained(setting, files, monkeypatch):
    loads, load = [], PairEncoder.load.__func__

    def counted(cls, name, **settings):
        if isinstance(name, Path):  # an artifact, not what the configuration names
            loads.append(name.name)
        return load(cls, name, **settings)

    monkeypatch.setattr(PairEncoder, "load", classmethod(counted))
    setting.run(f"data.test=[{files}/test.tsv,{files}/pool.tsv]", "data.transductive=true", "distill=bi_to_cross")
    # The bi-encoder for two tests and its labels; what the student begins as; what it became, for two tests.
    assert len(loads) == len(set(loads)) == 3


def test_labels_and_results_are_made_in_the_precision_of_training(setting):
    setting.run("trainer.precision=bf16-mixed")
    records = [json.loads(path.read_text()) for path in (setting.root / "artifacts").glob("score-*/artifact.json")]
    assert {"spearman" in record["facts"] for record in records} == {True, False}
    assert {record["config"]["precision"] for record in records} == {"bf16-mixed"}


@pytest.mark.slow
def test_a_symmetric_cross_encoder_is_scored_in_both_orders_and_its_folder_and_card_say_so(setting, files):
    for name, settings, symmetric in (
        ("one", (), False),
        ("both", ("distill.symmetric=true",), True),
        ("ordered", ("distill.symmetric=true", "data.ordered=true"), False),
    ):
        folder = setting.run(*settings, name=name)
        model = folder / "models" / "cross-encoder"
        assert json.loads((model / "config.json").read_text())["transenc_symmetric"] is symmetric
        assert ("both orders" in (model / "README.md").read_text()) is symmetric
        predictions = pandas.read_csv(folder / "predictions" / "1-cross-test.csv")
        swapped = CrossEncoder.load(model).predict(list(zip(predictions.sentence2, predictions.sentence1, strict=True)))
        assert np.allclose(predictions.score, swapped, atol=1e-5) is symmetric


def test_a_teacher_scores_in_both_orders_if_its_folder_says_so(setting, bert, tmp_path):
    CrossEncoder.load(bert, new_head=0, symmetric=True).save(tmp_path / "teacher")
    both = ["distill.direction=cross_to_bi", f"model.cross={tmp_path}/teacher", "save_predictions=true"]
    for settings, symmetric in (((), True), (("data.ordered=true",), False)):
        written = setting.run(*both, *settings, name=str(symmetric)) / "predictions" / "0-cross-test.csv"
        predictions = pandas.read_csv(written)
        pairs = list(zip(predictions.sentence1, predictions.sentence2, strict=True))
        teacher = CrossEncoder.load(tmp_path / "teacher", symmetric=symmetric)
        assert np.allclose(predictions.score, teacher.predict(pairs), atol=1e-6)


@pytest.mark.slow
def test_with_teachers_both_each_kind_makes_labels_as_soon_as_it_is_trained(setting, monkeypatch):
    teachers, score = [], transenc.stages.evaluation.Evaluation.score

    def watched(self, model, pairs, place, title, *precision):
        teachers.extend([place] if title == "pool" else [])
        return score(self, model, pairs, place, title, *precision)

    monkeypatch.setattr(transenc.stages.evaluation.Evaluation, "score", watched)
    setting.run("distill.teachers=both", "distill.iterations=2")
    assert teachers == ["0/bi", "0/bi", "1/cross", "1/bi", "1/cross", "1/bi", "2/cross"]
    teachers.clear()
    setting.run("distill.iterations=2")
    assert teachers == ["0/bi", "1/cross", "1/bi", "2/cross"]


def test_labels_are_the_mean_of_the_teachers_clamped_to_the_unit_interval(tmp_path):
    artifacts = []
    for number, scores in enumerate(([-0.5, 0.2, 1.0], [0.1, 0.4, 1.0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / "scores.npy", np.array(scores, dtype=np.float32))
        artifacts.append(Artifact(folder, "", {}))
    facts = transenc.stages.labels.label.build(tmp_path, {"average": "mean"}, None, *artifacts)
    np.testing.assert_allclose(np.load(tmp_path / "labels.npy"), [0, 0.3, 1.0], atol=1e-6)
    assert facts["clamped"] == pytest.approx(1 / 3)


def test_one_direction_trains_one_kind_once(setting):
    folder = setting.run("distill.direction=bi_to_cross")
    assert setting.trained() == ["1/cross"]
    assert [p.name for p in (folder / "models").iterdir()] == ["cross-encoder"]
    assert [p.name for p in (folder / "labels").iterdir()] == ["1-bi.csv"]

    teacher = folder / "models" / "cross-encoder"
    folder = setting.run("distill.direction=cross_to_bi", f"model.cross={teacher}", name="back")
    assert setting.trained() == ["1/bi"]
    results = pandas.read_csv(folder / "results.csv")
    assert list(dict.fromkeys(zip(results.iteration, results.encoder, strict=True))) == [
        (0, "bi"),
        (0, "cross"),
        (1, "bi"),
    ]
    assert [p.name for p in (folder / "models").iterdir()] == ["bi-encoder"]
    assert "the cross-encoder (" in (folder / "models" / "bi-encoder" / "README.md").read_text()


def test_a_trained_cross_encoder_that_is_to_be_a_student_is_warned_of(setting, caplog):
    CrossEncoder.load(setting.model, new_head=0).save(setting.root / "trained")
    told = "is trained already, but scores only after it has learnt from the bi-encoder"
    setting.run("distill.direction=bi_to_cross")
    assert told not in caplog.text
    setting.run("distill.direction=bi_to_cross", f"model.cross={setting.root}/trained", name="trained-run")
    assert told in caplog.text


def test_an_untrained_cross_encoder_cannot_be_the_only_teacher(setting):
    with pytest.raises(InputError, match=r"model.cross=.*: is no cross-encoder \(it has no classification head\)"):
        setting.run("distill.direction=cross_to_bi")


@pytest.mark.parametrize("kind", ["cross", pytest.param("bi", marks=pytest.mark.slow)])
def test_gold_scores_are_labels_only_where_the_direction_says_so(setting, files, kind):
    other = {"cross": "bi", "bi": "cross"}[kind]
    settings = [f"distill.direction=gold_to_{kind}", f"model.{other}=not/there", f"data.gold=[{files}/pool.tsv]"]
    folder = setting.run(*settings)
    assert setting.trained() == [f"1/{kind}"]
    labels = pandas.read_csv(folder / "labels" / "1-gold.csv")
    gold = pandas.read_csv(files / "pool.tsv", sep="\t").merge(labels, on=["sentence1", "sentence2"])
    assert len(gold) == len(labels) > 40
    np.testing.assert_allclose(gold.label, gold.score / 5, atol=1e-6)
    assert "supervised" in (folder / "models" / f"{kind}-encoder" / "README.md").read_text()


@pytest.mark.slow
def test_gold_pairs_are_no_part_of_an_unsupervised_run(setting, files):
    first = setting.run()
    second = setting.run(
        f"data.gold=[{files}/pool.tsv]", f"paths.artifacts={setting.root}/other-artifacts", name="other"
    )
    assert weights(first) == weights(second)


def test_pairs_that_a_supervised_run_does_not_read_are_named(setting, files, caplog):
    setting.run("distill.direction=gold_to_bi", f"data.gold=[{files}/pool.tsv]")
    told = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert told == [f"data.path={files}/pool.tsv: not read, distill.direction=gold_to_bi learns from data.gold"]


def test_gold_pairs_that_an_unsupervised_run_does_not_read_are_named(setting, files, caplog):
    check(setting.config(f"data.gold=[stsb-train,{files}/pool.tsv]"))
    told = [record.getMessage() for record in caplog.records if "not read" in record.getMessage()]
    assert told == [f"data.gold={files}/pool.tsv: not read; learn from it afterwards, with distill=supervised_bi"]


def test_human_scores_without_a_development_set_all_teach_and_the_last_weights_are_kept(setting, files, caplog):
    folder = setting.run("distill.direction=gold_to_bi", f"data.gold=[{files}/pool.tsv]", "data.dev=null")
    assert "* the last weights: bi of iteration 1" in caplog.text
    (record,) = (setting.root / "artifacts").glob("train-*/artifact.json")
    facts = json.loads(record.read_text())["facts"]
    assert (facts["held_out"], facts["step"] > 0) == (0, True)
    assert json.loads((folder / "run.json").read_text())["selected"]["by"] == "last"


@pytest.mark.parametrize(("direction", "other"), [("gold_to_bi", "cross"), ("gold_to_cross", "bi")])
def test_supervised_training_needs_no_model_of_the_other_kind(setting, files, direction, other):
    folder = setting.run(
        f"distill.direction={direction}", f"data.gold=[{files}/pool.tsv]", f"model.{other}=null", "data.limit=20"
    )
    assert "supervised, trained on human scores" in next(folder.glob("models/*/README.md")).read_text()


def test_gold_scores_of_test_pairs_are_never_labels(setting, files):
    gold = f"data.gold=[{files}/pool.tsv,{files}/test.tsv]"
    folder = setting.run("distill.direction=gold_to_cross", gold, "data.transductive=true")
    data = json.loads((folder / "run.json").read_text())["data"]
    assert (data["shared"], data["dropped"]["of dev or test"] > 10) == (0, True)


@pytest.mark.parametrize(
    ("repeated", "learnt", "told"),
    [
        (True, [0.2, 0.4], "dropped 2 repeated; of 1 with different scores, the first counts"),
        (False, [0.2, 0.4, 0.8, 0.4], ""),
    ],
)
def test_of_a_pair_with_different_gold_scores_the_first_counts_unless_repeats_are_kept(
    setting, artifacts_by_title, tmp_path, repeated, learnt, told
):
    rows = [("a dog", "a cat", 1), ("a man", "a boy", 2), ("a cat", "a dog", 4), ("a boy", "a man", 2)]
    table = pandas.DataFrame(rows, columns=["sentence1", "sentence2", "score"])
    table.to_csv(tmp_path / "gold.csv", index=False)
    gold = f"data.gold=[{tmp_path}/gold.csv]"
    setting.run("distill.direction=gold_to_cross", gold, f"data.clean.repeated={str(repeated).lower()}")
    gold = artifacts_by_title["gold"]
    assert np.load(gold / "labels.npy").tolist() == pytest.approx(learnt)
    assert gold.facts["summary"].partition("; ")[2] == told


def test_the_log_says_how_many_sentences_and_pairs_are_cut(setting, caplog):
    setting.run("model.bi_max_tokens=5", "model.cross_max_tokens=12")
    lines = [record.getMessage() for record in caplog.records if " pool " in record.getMessage()]
    assert any(re.search(r"^0/bi pool .* pairs, \d+ sentences cut to 5 tokens", line) for line in lines)
    assert any(re.search(r"^1/cross pool .* pairs, \d+ pairs cut to 12 tokens", line) for line in lines)


@pytest.mark.parametrize(("pairs", "held_out"), [(4, 2), (60, 15), (100, 25), (200, 30), (300, 30), (1000, 100)])
def test_by_default_a_tenth_is_held_out_but_of_few_pairs_thirty_or_a_quarter(pairs, held_out):
    assert held_out_count(pairs, None) == held_out


def test_a_share_that_is_set_is_held_out_of_few_pairs_too():
    assert held_out_count(100, 0.1) == 10
