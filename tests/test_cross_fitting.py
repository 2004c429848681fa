"""Cross-fitting: every pair's label comes from a cross-encoder that did not learn from it."""

import json
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
from conftest import weights
from safetensors.torch import load_file, save_file

import transenc.stages.run
from transenc.artifacts import file_digest
from transenc.encoders import CrossEncoder
from transenc.errors import InputError
from transenc.stages.labels import folds_of

FOLDS = ["distill.folds=3", "distill.select=last", "distill.failure=ignore"]


@pytest.fixture
def made(setting, artifacts_by_title):
    """The artifacts of a run with three folds, by title."""
    artifacts_by_title["run"] = setting.run(*FOLDS)
    return artifacts_by_title


def test_the_folds_are_a_partition_and_the_same_in_every_iteration():
    first, second = folds_of(10, 3, 7), folds_of(10, 3, 7)
    assert sorted(np.concatenate(first)) == list(range(10))
    assert {len(rows) for rows in first} == {3, 4}
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_more_folds_than_pairs_are_refused(setting):
    with pytest.raises(InputError, match=r"^12 pairs are too few .*; add pairs, or lower distill.folds$"):
        setting.run("distill.folds=20", "distill.select=last", "data.limit=12")


def test_a_pair_is_labelled_by_the_encoder_that_did_not_learn_from_it(made, setting):
    pool = pandas.read_csv(made["run"] / "labels" / "1-cross.csv")
    pairs = list(zip(pool.sentence1, pool.sentence2, strict=True))
    for fold, rows in enumerate(folds_of(len(pairs), 3, 0)):
        encoder = CrossEncoder.load(made[f"1/cross/fold-{fold} train"].path)
        np.testing.assert_allclose(pool.label[rows], encoder.predict([pairs[row] for row in rows]), atol=1e-5)


def test_a_fold_is_not_learnt_from(setting, monkeypatch):
    """Other labels of a fold change the two encoders that learn from it, and not the one that does not."""
    stage = transenc.stages.run.train

    def trained(name, changed_rows):
        models = {}

        def build(out, config, progress, student, tokens, labels, *dev):
            values = np.load(labels / "labels.npy")
            values[changed_rows(len(values))] = 0.5
            np.save(setting.root / "labels.npy", values)
            labels = replace(labels, path=setting.root)
            facts = stage.build(out, config, progress, student, tokens, labels, *dev)
            models[progress.place] = load_file(out / "model.safetensors")
            return facts

        monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=build))
        setting.run(*FOLDS, f"paths.artifacts={setting.root}/artifacts-{name}", name=name)
        return models

    first, second = trained("as-they-are", lambda count: []), trained("changed", lambda count: folds_of(count, 3, 0)[1])
    same = [
        all((second[place][name] == weight).all() for name, weight in first[place].items())
        for place in ("1/cross/fold-0", "1/cross/fold-1", "1/cross/fold-2")
    ]
    assert same == [False, True, False]


def test_a_soup_has_the_mean_weights_of_its_folds(made):
    states = [load_file(made[f"1/cross/fold-{fold} train"] / "model.safetensors") for fold in range(3)]
    for name, weight in load_file(made["1/cross soup"] / "model.safetensors").items():
        torch.testing.assert_close(weight, sum(state[name] for state in states) / 3)


@pytest.mark.parametrize("worse", [False, True])
def test_the_soup_is_saved_unless_it_agrees_less_with_the_labels_than_its_folds_do_on_average(
    setting, artifacts_by_title, monkeypatch, worse
):
    stage = transenc.stages.run.train

    def negated(out, config, progress, *inputs):  # at a rate that changes no weight, so that nothing else differs
        facts = stage.build(out, config, progress, *inputs)
        if progress.place == "1/cross/fold-1" and worse:
            state = load_file(out / "model.safetensors")
            save_file({name: -weight for name, weight in state.items()}, out / "model.safetensors", {"format": "pt"})
        return facts

    monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=negated))
    settings = ["distill.folds=2", "distill.select=agreement", "distill.failure=ignore"]
    folder = setting.run(*settings, "distill.cross.learning_rate=1e-12") / "models" / "cross-encoder"
    saved = artifacts_by_title["1/cross/fold-0 train" if worse else "1/cross soup"]
    assert file_digest(folder / "model.safetensors") == file_digest(saved / "model.safetensors")
    assert (artifacts_by_title["1/cross soup"].facts["better_fold"] is not None) == worse
    made = "It is the best of 2" if worse else "Its weights are the mean of those of 2"
    made += " cross-encoders that were each trained on the pool but one fold."
    assert made in (folder / "README.md").read_text()


def test_a_soups_selection_score_is_the_mean_of_those_of_its_folds(setting, artifacts_by_title):
    folder = setting.run("distill.folds=3", "distill.select=agreement", "distill.failure=ignore")
    best = (
        pandas.read_csv(folder / "curves.csv").query("place.str.startswith('1/cross')").groupby("place").selection.max()
    )
    assert len(best) == 3
    assert artifacts_by_title["1/cross soup"].facts["selection"] == pytest.approx(best.mean())


def test_a_fold_that_failed_is_no_part_of_the_soup_unless_all_did(made, setting, monkeypatch):
    stage = transenc.stages.run.train
    states = [load_file(made[f"1/cross/fold-{fold} train"] / "model.safetensors") for fold in range(3)]
    places = [f"1/cross/fold-{fold}" for fold in range(3)]

    def soup(failed):
        def fail(out, config, progress, *inputs):
            facts = stage.build(out, config, progress, *inputs)
            return facts | ({"failed": "as asked", "cause": "few steps"} if progress.place in failed else {})

        monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=fail))
        name = f"without-{len(failed)}"
        setting.run(*FOLDS, f"paths.artifacts={setting.root}/{name}-artifacts", name=name)
        return load_file(made["1/cross soup"] / "model.safetensors")

    for name, weight in soup(places[1:]).items():
        torch.testing.assert_close(weight, states[0][name])
    for name, weight in soup(places).items():
        torch.testing.assert_close(weight, sum(state[name] for state in states) / 3)


def test_a_rerun_builds_nothing_and_an_interrupted_fold_ends_in_the_same_weights(setting, monkeypatch):
    whole = setting.run(*FOLDS, f"paths.artifacts={setting.root}/whole-artifacts", name="whole")
    stage, stopped = transenc.stages.run.train, []

    def interrupt(out, config, progress, *inputs):
        facts = stage.build(out, config, progress, *inputs)
        if progress.place == "1/cross/fold-1" and not stopped:
            stopped.append(1)
            raise KeyboardInterrupt
        return facts

    monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=interrupt))
    with pytest.raises(KeyboardInterrupt):
        setting.run(*FOLDS)
    resumed = setting.run(*FOLDS)
    assert weights(resumed) == weights(whole)
    monkeypatch.setattr(transenc.stages.run, "train", stage)
    assert (setting.run(*FOLDS) / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_a_failed_fold_leaves_the_encoder_of_the_iteration_before_and_its_folds(setting, monkeypatch):
    stage = transenc.stages.run.train

    def fail(out, config, progress, *inputs):
        facts = stage.build(out, config, progress, *inputs)
        failed = {"failed": "as asked", "cause": "few steps"}
        return facts | failed if progress.place.startswith("2/cross/fold-1") else facts

    monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=fail))
    settings = ["distill.folds=3", "distill.select=last", "distill.failure=keep", "distill.iterations=2"]
    folder = setting.run(*settings)
    run = json.loads((folder / "run.json").read_text())
    assert [(failure["place"], failure["kept"]) for failure in run["failures"]] == [("2/cross/fold-1", "1/cross")]
    labels = [pandas.read_csv(folder / "labels" / f"{iteration}-cross.csv") for iteration in (1, 2)]
    pandas.testing.assert_frame_equal(*labels)


@pytest.mark.parametrize("folds", ["0", "21"])
def test_an_impossible_number_of_folds_is_refused(setting, folds):
    with pytest.raises(InputError, match=rf"^distill.folds={folds}: must be from 1 to 20$"):
        setting.run(f"distill.folds={folds}")


@pytest.mark.parametrize("direction", ["bi_to_cross", "cross_to_bi", "gold_to_cross"])
def test_folds_are_refused_where_no_cross_encoder_labels_what_it_learnt(setting, direction):
    with pytest.raises(InputError, match=r"^distill.folds=2: .* set distill.folds=1$"):
        setting.run("distill.folds=2", f"distill.direction={direction}")


def test_a_pool_too_small_for_its_folds_is_refused_in_one_line(setting, tmp_path):
    (tmp_path / "one.tsv").write_text("sentence1\tsentence2\nthe dog runs\ta dog\n")
    with pytest.raises(InputError, match=r"^1 pairs are too few .*; add pairs, or lower distill.folds$"):
        setting.run(*FOLDS, f"data.path={tmp_path}/one.tsv", "data.dev=null")


def test_training_goes_on_from_each_folds_own_weights_and_not_from_those_that_have_learnt_from_the_fold(
    made, setting, monkeypatch
):
    stage, began = transenc.stages.run.train, {}

    def build(out, config, progress, student, *inputs):
        began[progress.place] = student.path
        return stage.build(out, config, progress, student, *inputs)

    monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=build))
    setting.run(*FOLDS, "distill.iterations=2", "distill.start=previous")
    for fold in range(3):
        assert began[f"2/cross/fold-{fold}"] == made[f"1/cross/fold-{fold} train"].path


def test_pairs_that_are_cut_are_counted_where_folds_label_them(made, setting):
    assert made["1/cross pool"].facts["truncated"] == 0
    setting.run(*FOLDS, "model.cross_max_tokens=8", name="short")
    cut = made["1/cross pool"].facts
    assert cut["truncated"] > 0
    assert cut["summary"].endswith(f", {cut['truncated']} pairs cut to 8 tokens")
