"""Failed trainings: what is tried again, what stops a run, what is kept in a failed student's place."""

import json

import pandas
import pytest
import torch
from conftest import LEXICON

import transenc.training
from transenc.errors import InputError
from transenc.training import TrainingFailed


def failing(monkeypatch, times, after=0, cause="chance"):
    """Let the check for collapse fail so often, after so many students."""
    checked = []

    def check(scores, labels, steps, learning_rate):
        checked.append((len(scores), steps, learning_rate))
        if after < len(checked) <= after + times:
            raise TrainingFailed("it collapsed: the standard deviation of its scores is 0", cause)

    monkeypatch.setattr(transenc.training, "check_collapse", check)
    return checked


def failures(run):
    return json.loads((run / "run.json").read_text())["failures"]


def test_a_failed_training_is_repeated_with_another_seed_and_reported(setting, monkeypatch, caplog):
    caplog.set_level("INFO", "transenc")
    failing(monkeypatch, times=2)
    run = setting.run("distill.retries=2")
    assert setting.trained() == ["1/cross", "1/cross/1", "1/cross/2", "1/bi"]
    assert failures(run) == [
        {"place": "1/cross", "reasons": ["it collapsed: the standard deviation of its scores is 0"] * 2, "kept": None}
    ]
    records = [json.loads(path.read_text()) for path in (setting.root / "artifacts").glob("train-*/artifact.json")]
    assert len({record["config"]["seed"] for record in records}) == 4
    assert "1/cross failed (it collapsed" in caplog.text
    assert sum("failed" in record["facts"] for record in records) == 2
    again = setting.run("distill.retries=2", name="again")  # what failed is known, and not tried again
    assert setting.built == []
    assert failures(again) == failures(run)


def test_a_training_that_failed_with_every_seed_stops_the_run_in_one_line(setting, monkeypatch):
    failing(monkeypatch, times=9)
    says = r"1/cross failed with 2 seeds: it collapsed: .*; try another distill.cross.learning_rate, or raise"
    with pytest.raises(InputError, match=says):
        setting.run("distill.retries=1")
    with pytest.raises(InputError, match=r"1/cross failed with 2 seeds"):  # an untrained head cannot stand in
        setting.run("distill.retries=1", "distill.failure=keep")


def test_a_nan_loss_stops_the_run_and_names_step_and_learning_rate(setting):
    says = (
        r"1/cross failed with one seed: the loss is nan at step \d+, learning rate .*; lower distill.cross.learning_ra"
    )
    with pytest.raises(InputError, match=says):
        setting.run("distill.cross.learning_rate=1e9", "distill.cross.clip=0", "distill.cross.epochs=3")
    assert setting.trained() == ["1/cross"]


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        pytest.param("few steps", "raise distill.bi.min_steps", marks=pytest.mark.slow),
        pytest.param("low rate", "raise distill.bi.learning_rate, or distill.bi.min_steps", marks=pytest.mark.slow),
        pytest.param("high rate", "lower distill.bi.learning_rate", marks=pytest.mark.slow),
        ("nan", "lower distill.bi.learning_rate, or set trainer.precision=32-true"),
    ],
)
def test_a_failure_that_another_seed_cannot_mend_is_not_tried_again_and_has_its_own_remedy(
    setting, monkeypatch, cause, remedy
):
    failing(monkeypatch, times=9, after=1, cause=cause)
    with pytest.raises(InputError, match=f"1/bi failed with one seed: it collapsed: .*; {remedy}$"):
        setting.run("distill.retries=2")
    assert setting.trained() == ["1/cross", "1/bi"]


def test_a_small_pool_is_repeated_within_an_epoch_until_there_are_enough_steps(setting, monkeypatch, caplog):
    caplog.set_level("INFO", "transenc")
    checked = failing(monkeypatch, times=0)
    folder = setting.run("distill.cross.min_steps=30", "distill.bi.min_steps=6", "distill.cross.learning_rate=1e-4")
    pairs = json.loads((folder / "run.json").read_text())["data"]["pairs"]
    passes = 29 * 16 // (2 * pairs) + 1  # two epochs are enough for the bi-encoder
    curves = pandas.read_csv(folder / "curves.csv")
    steps = curves[curves.loss.notna()].groupby("place").step.max()
    assert steps["1/cross"] == -(-passes * 2 * pairs // 16) >= 30
    assert steps["1/bi"] == 2 * -(-pairs // 16) >= 6
    assert [(number, rate) for _, number, rate in checked] == [(steps["1/cross"], 1e-4), (steps["1/bi"], 5e-5)]
    assert (
        f"1/cross: {pairs} pairs are few; an epoch passes over them {passes} times, so that there are 30" in caplog.text
    )
    assert "1/bi: " not in caplog.text


@pytest.mark.parametrize("kind", ["cross", pytest.param("bi", marks=pytest.mark.slow)])
def test_the_encoder_of_the_previous_iteration_is_kept_where_a_training_failed(setting, monkeypatch, kind):
    failing(monkeypatch, times=1, after={"cross": 2, "bi": 3}[kind])  # in the second iteration
    run = setting.run("distill.iterations=2", "distill.retries=0", "distill.failure=keep")
    assert [failure["kept"] for failure in failures(run)] == [f"1/{kind}"]
    rows = pandas.read_csv(run / "results.csv").query("encoder == @kind").set_index("iteration")
    assert rows.spearman.loc[1].tolist() == rows.spearman.loc[2].tolist()


def test_where_trainings_fail_one_after_another_the_encoder_that_stands_in_their_place_is_named(setting, monkeypatch):
    settings = ["distill.retries=0", "distill.failure=keep", "distill.iterations=3"]
    checked = []

    def check(*_):
        checked.append(1)
        if len(checked) in (3, 5):  # the cross-encoder's second and third
            raise TrainingFailed("it collapsed", "chance")

    monkeypatch.setattr(transenc.training, "check_collapse", check)
    assert [failure["kept"] for failure in failures(setting.run(*settings))] == ["1/cross", "1/cross"]


@pytest.mark.slow
def test_an_initial_encoder_kept_for_a_failed_student_is_selected_only_if_there_is_no_other(setting, monkeypatch):
    monkeypatch.setattr("transenc.stages.interpolation.improves", lambda *_: True)
    failing(monkeypatch, times=1, after=1)
    settings = ["distill.retries=0", "distill.failure=keep", "distill.select=agreement"]
    run = setting.run(*settings)
    assert [failure["kept"] for failure in failures(run)] == ["0/bi"]
    assert (run / "models" / "bi-encoder" / "model.safetensors").exists()
    run = setting.run(*settings, "distill.iterations=2", name="longer")
    assert json.loads((run / "run.json").read_text())["selected"]["bi"]["iteration"] == 2


def test_nearly_constant_labels_stop_the_run_before_any_training(setting, tmp_path):
    lines = ["sentence1\tsentence2", *(f"the {word}\tthe {word}" for word in LEXICON)]
    (tmp_path / "same.tsv").write_text("\n".join(lines))
    with pytest.raises(
        InputError,
        match=r"1/bi label: nearly constant, mean 1.000 .*; take a teacher .*model.bi",
    ):
        setting.run(f"data.path={tmp_path}/same.tsv", "data.clean.identical=false")
    assert setting.trained() == []
    setting.run(f"data.path={tmp_path}/same.tsv", "data.clean.identical=false", "distill.failure=ignore")


def test_failed_students_are_taken_where_failure_is_ignored_and_the_others_are_not_trained_again(setting, monkeypatch):
    failing(monkeypatch, times=9, after=1)
    with pytest.raises(InputError, match="1/bi failed"):
        setting.run("distill.retries=0")
    (failure,) = failures(setting.run("distill.retries=0", "distill.failure=ignore"))
    assert (failure["place"], failure["kept"]) == ("1/bi", "1/bi")
    assert setting.trained() == []


@pytest.mark.parametrize("select", ["last", "agreement"])
@pytest.mark.parametrize("share", [0.5, 1])
def test_a_bi_encoder_that_collapses_has_failed_however_much_of_it_is_taken(setting, monkeypatch, select, share):
    train = transenc.training.train

    def collapsing(student, *more, **settings):
        result = train(student, *more, **settings)
        if student.kind == "bi":
            torch.nn.init.zeros_(student.backbone.encoder.layer[-1].output.LayerNorm.weight)
        return result

    monkeypatch.setattr(transenc.training, "train", collapsing)
    monkeypatch.setattr(transenc.training, "MIN_EXAMINED_PAIRS", 10)
    monkeypatch.setattr(transenc.training, "MIN_SPEARMAN", -1)  # of a cross-encoder that has learnt little
    run = setting.run(
        f"distill.select={select}", f"distill.interpolate={share}", "distill.failure=keep", "distill.retries=0"
    )
    assert [(one["place"], one["kept"]) for one in failures(run)] == [("1/bi", "0/bi")]
