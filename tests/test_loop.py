"""The whole loop on tiny models: what it leaves, what it builds again and what not, what it never sees."""

import json
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
from conftest import MODELS, weights

import transenc.stages.evaluation
import transenc.stages.run
from transenc.composition import compose
from transenc.encoders import CrossEncoder
from transenc.errors import InputError
from transenc.run_writer import RunWriter


def test_a_run_leaves_what_the_contract_says(setting, files):
    folder = setting.run()
    results = pandas.read_csv(folder / "results.csv")
    assert list(results) == [
        "iteration",
        "encoder",
        "member",
        "task",
        "n",
        "spearman",
        "pearson",
        "auc",
        "average_precision",
    ]
    keys = list(zip(results.iteration, results.encoder, results.task, results.n, strict=True))
    scored = [(0, "bi"), (1, "cross"), (1, "bi")]
    assert keys == [(*turn, task, 30) for turn in scored for task in ("dev", "test")]
    assert results.auc.isna().all()
    assert results.spearman.between(-1, 1).all()

    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    for teacher in ("bi", "cross"):
        labels = pandas.read_csv(folder / "labels" / f"1-{teacher}.csv")
        assert list(labels) == ["sentence1", "sentence2", "label"]
        assert labels.label.between(0, 1).all()
        assert set(zip(labels.sentence1, labels.sentence2, strict=True)) <= set(
            zip(pool.sentence1, pool.sentence2, strict=True)
        )
    run = json.loads((folder / "run.json").read_text())
    assert run["selected"]["by"] == "dev"
    assert run["versions"]["torch"]
    for name in MODELS:
        assert (folder / "models" / name / "README.md").read_text().startswith("---\n")
        assert not (folder / "models" / name / "artifact.json").exists()


def test_a_rerun_builds_nothing_and_reports_the_same(setting):
    first = setting.run()
    second = setting.run(name="again")
    assert setting.built == []
    assert (first / "results.csv").read_bytes() == (second / "results.csv").read_bytes()
    assert weights(first) == weights(second)


def test_more_iterations_train_the_new_ones_only(setting):
    setting.run()
    assert setting.trained() == ["1/cross", "1/bi"]
    setting.run("distill.iterations=2")
    assert setting.trained() == ["2/cross", "2/bi"]


@pytest.mark.slow
def test_another_seed_shares_everything_up_to_the_first_student(setting):
    setting.run()
    setting.run("seed=1")
    assert setting.trained() == ["1/cross", "1/bi"]
    assert ("load", "") in setting.built  # the cross-encoder's head is seeded
    assert [b for b in setting.built if b[0] in ("read", "gather", "tokenise", "label")] == [
        ("label", "")
    ]  # by the new cross
    assert not [b for b in setting.built if b == ("score", "0/bi")]


@pytest.mark.parametrize(
    ("override", "trained"),
    [
        pytest.param("distill.cross.learning_rate=1e-4", ["1/cross", "1/bi"], marks=pytest.mark.slow),
        ("distill.bi.learning_rate=1e-4", ["1/bi"]),
        pytest.param("trainer.score_tokens=100", [], marks=pytest.mark.slow),
    ],
)
def test_a_changed_setting_redoes_what_lies_downstream_of_it(setting, override, trained):
    setting.run()
    setting.run(override)
    assert setting.trained() == trained


@pytest.mark.parametrize(
    "place", ["1/cross", *(pytest.param(place, marks=pytest.mark.slow) for place in ("0/bi", "1/bi"))]
)
def test_an_interrupted_run_ends_in_the_same_weights_and_repeats_no_finished_stage(setting, monkeypatch, place):
    uninterrupted = setting.run("paths.artifacts=" + str(setting.root / "whole-artifacts"), name="whole")
    stages = setting.built.copy()
    done = []

    def interrupt(out, config, progress, *inputs):
        facts = build(out, config, progress, *inputs)
        if progress.place == place and not done:
            done.append(place)
            raise KeyboardInterrupt  # the folder is full, and not yet published
        return facts

    name, module = ("score", transenc.stages.evaluation) if place == "0/bi" else ("train", transenc.stages.run)
    stage = getattr(module, name)
    build = stage.build
    monkeypatch.setattr(module, name, replace(stage, build=interrupt))
    with pytest.raises(KeyboardInterrupt):
        setting.run()
    before = setting.built.copy()
    resumed = setting.run()
    assert before[:-1] + setting.built == stages
    assert weights(resumed) == weights(uninterrupted)
    assert (resumed / "results.csv").read_bytes() == (uninterrupted / "results.csv").read_bytes()


@pytest.mark.slow
def test_start_previous_initialises_a_student_with_its_own_last_weights(setting):
    setting.run("distill.iterations=2", "distill.start=previous")
    records = [json.loads(p.read_text()) for p in (setting.root / "artifacts").glob("train-*/artifact.json")]
    fingerprints = {record["fingerprint"] for record in records}
    assert sum(record["inputs"][0] in fingerprints for record in records) == 2


@pytest.mark.slow
def test_a_run_leaves_nothing_of_an_earlier_one_in_its_folder(setting):
    setting.run("save_predictions=true")
    folder = setting.run("distill.direction=bi_to_cross")
    left = sorted(
        str(p.relative_to(folder)) for kind in ("models", "labels", "predictions") for p in folder.glob(f"{kind}/*")
    )
    assert left == ["labels/1-bi.csv", "models/cross-encoder", "predictions/1-cross-test.csv"]


def test_students_train_in_training_mode(setting, monkeypatch):
    """Lightning keeps the mode it finds, and models load in eval mode: without dropout nothing would look wrong."""
    modes = []
    step = CrossEncoder.training_step
    monkeypatch.setattr(
        CrossEncoder, "training_step", lambda self, *a: modes.append(self.backbone.training) or step(self, *a)
    )
    setting.run()
    assert modes
    assert all(modes)


def test_two_runs_do_not_write_into_one_folder(setting, tmp_path):
    with (
        RunWriter(setting.config(), tmp_path, None),
        pytest.raises(InputError, match=f"{tmp_path}: another run writes there"),
    ):
        RunWriter(setting.config(), tmp_path, None).__enter__()
    with RunWriter(setting.config(), tmp_path, None):
        pass


def test_the_lines_for_a_notebook_in_the_readme_run(setting, monkeypatch):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (lines,) = [block for block in readme.split("```python\n")[1:] if "distill(" in block]
    assert lines.count('distill("experiment=quickstart")') == 1
    monkeypatch.chdir(setting.root)
    monkeypatch.setattr("transenc.api.compose", lambda name, overrides: setting.config())
    variables: dict = {}
    exec(lines.split("```")[0], variables)
    assert ((variables["scores"] > 0) & (variables["scores"] < 1)).all()
    assert (setting.root / variables["run"].folder / "report.html").exists()


def test_published_figures_belong_to_a_recipe_as_it_is(tmp_path):
    cfg = compose("train", ["experiment=paper_self_sickr"])
    for arguments, shown in (
        (["seed=1"], True),
        (["model=simcse_bert_base"], False),
        (["distill.iterations=1"], False),
    ):
        assert bool(RunWriter(cfg, tmp_path, ["experiment=paper_self_sickr", *arguments]).published) == shown


def test_a_run_that_begins_again_is_not_finished(setting, monkeypatch):
    folder = setting.run()
    monkeypatch.setattr(RunWriter, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        setting.run()
    assert not (folder / "run.json").exists()
    monkeypatch.undo()
