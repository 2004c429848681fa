"""Crops of the pool's pairs, which only the cross-encoder learns from."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pandas
import pytest

import transenc.stages.run
from transenc.data.crops import crop, crops
from transenc.data.tokens import TokenisedPairs
from transenc.encoders import CrossEncoder
from transenc.stages.labels import folds_of
from transenc.stages.training import split

CROPS = ["distill.cross.crops_below=1000", "distill.cross.min_steps=20", "distill.failure=ignore"]  # 160 pairs
GIVEN = 12


def pairs_of(artifact):
    """Its pairs as sentences."""
    sentences = (artifact / "sentences.txt").read_text(encoding="utf-8").splitlines()
    return [(sentences[a], sentences[b]) for a, b in np.load(artifact / "pairs.npy")]


def is_crop(part, whole):
    """Whether it is a part of the words that is long enough, or the whole."""
    words, of = part.split(), whole.split()
    return len(words) >= len(of) // 2 and any(of[i : i + len(words)] == words for i in range(len(of)))


def test_a_crop_is_half_of_the_words_or_more_but_not_all_one_after_the_other():
    rng = np.random.default_rng(0)
    text = "one two three four five six seven eight"
    found = {crop(text, rng) for _ in range(500)}
    assert all(is_crop(part, text) for part in found)
    assert {len(part.split()) for part in found} == {4, 5, 6, 7}
    assert len(found) == 5 + 4 + 3 + 2
    assert crop("two words", rng) == "two words"


def test_a_text_without_spaces_is_cropped_by_characters():
    text = "\u4e00\u53ea\u732b\u5750\u5728\u57ab\u5b50\u4e0a"
    found = {crop(text, np.random.default_rng(seed)) for seed in range(200)}
    assert len(found) == 14
    assert all(part in text and 4 <= len(part) <= 7 for part in found)


def test_crops_are_different_none_is_a_given_pair_and_there_may_be_few():
    pairs = [("a b c d", "e f g h"), ("a b c", "e")]
    made = list(crops(pairs, 0))
    found = [pair for _, pair in made]
    assert len(set(found)) == len(found) == (6 * 6 - 1) + 5
    assert not set(found) & set(pairs)
    assert all(is_crop(pair[side], pairs[number][side]) for number, pair in made for side in (0, 1))
    assert list(crops([("a", "b")], 0)) == []


def test_few_crops_of_a_sentence_make_many_pairs():
    pairs = [("a b c d e f g h i", "j k l m n o p q r"), ("1 2 3 4 5 6 7 8 9", "10 11 12 13 14 15 16 17")]
    made = list(islice(crops(pairs, 0), 2 * 8))
    for pair in (0, 1):
        of_pair = [cropped for number, cropped in made if number == pair]
        assert len(of_pair) == 8
        assert [len(set(sentences)) for sentences in zip(*of_pair, strict=True)] == [3, 3]  # itself, and two crops


def test_behind_the_pools_pairs_come_as_many_crops_as_are_wanted(setting, artifacts_by_title):
    setting.run(*CROPS, "data.limit=40")
    pool, pairs = (pairs_of(artifacts_by_title[title]) for title in ("pool", "pool with crops"))
    assert pairs[: len(pool)] == pool
    assert 160 <= len(pairs) <= 1.1 * 160
    assert len({tuple(sorted(pair)) for pair in pairs}) == len(pairs)
    assert all(any(is_crop(a, x) and is_crop(b, y) for x, y in pool) for a, b in pairs[len(pool) :])


@pytest.mark.parametrize(("transductive", "dropped"), [("false", 1), ("true", 0)])
def test_no_crop_is_a_pair_of_the_test_set(setting, tmp_path, artifacts_by_title, transductive, dropped):
    (tmp_path / "pool.tsv").write_text("sentence1\tsentence2\na big dog\ta cat\na man\ta cat\na dog\ta boy\n")
    scored = [("big dog", "a cat"), ("a", "b")]
    rows = "".join(f"{first}\t{second}\t{score}\n" for score, (first, second) in enumerate(scored))
    (tmp_path / "test.tsv").write_text("sentence1\tsentence2\tscore\n" + rows)
    files = [f"data.path={tmp_path}/pool.tsv", f"data.test=[{tmp_path}/test.tsv]"]
    setting.run(*CROPS, *files, f"data.transductive={transductive}")
    cropped, pairs = artifacts_by_title["crop"], artifacts_by_title["pool with crops"]
    assert pairs.facts["pairs"] == 3 + cropped.facts["pairs"] - dropped
    assert (scored[0] in pairs_of(pairs)) == (not dropped)


def test_a_crop_of_an_ordered_pair_is_ordered(setting, artifacts_by_title):
    setting.run(*CROPS, "data.ordered=true", "data.limit=40")
    pool, pairs = (pairs_of(artifacts_by_title[title]) for title in ("pool", "pool with crops"))
    assert len(pairs) >= 320  # in one order each
    assert all(any(is_crop(a, x) and is_crop(b, y) for x, y in pool) for a, b in pairs)


def test_the_cross_encoder_learns_from_them_without_a_repeat_and_the_bi_encoder_does_not(setting, monkeypatch):
    stage, learnt = transenc.stages.run.train, {}

    def build(out, config, progress, student, tokens, labels, *more):
        learnt[progress.place] = len(TokenisedPairs.load(tokens.path)), len(np.load(labels / "labels.npy"))
        facts = stage.build(out, config, progress, student, tokens, labels, *more)
        learnt[f"{progress.place} steps"] = len((out / "curve.jsonl").read_text().splitlines())
        return facts

    monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=build))
    folder = setting.run(*CROPS, f"data.limit={GIVEN}", "distill.select=last")
    assert learnt["1/bi"] == (GIVEN, GIVEN)
    pairs, labels = learnt["1/cross"]
    assert pairs == labels >= 160
    assert learnt["1/cross steps"] == 20
    assert json.loads((folder / "run.json").read_text())["data"]["pairs"] == GIVEN


@pytest.mark.parametrize(("folds", "select"), [(1, "last"), (1, "agreement"), (2, "agreement"), (3, "last")])
def test_every_cross_encoder_has_the_steps_that_are_asked_for_and_no_more(setting, folds, select):
    folder = setting.run(*CROPS, "data.limit=40", f"distill.folds={folds}", f"distill.select={select}")
    steps = pandas.read_csv(folder / "curves.csv").query("loss.notna() and place.str.startswith('1/cross')")
    assert steps.groupby("place").step.max().tolist() == [20] * folds


def test_their_labels_are_in_a_file_of_their_own(setting):
    folder = setting.run(*CROPS, f"data.limit={GIVEN}")
    bi, cross, new = (pandas.read_csv(folder / "labels" / f"{name}.csv") for name in ("1-bi", "1-cross", "1-bi-crops"))
    sentences = ["sentence1", "sentence2"]
    pandas.testing.assert_frame_equal(bi[sentences], cross[sentences])
    assert len(bi) == GIVEN
    assert len(new) >= 160 - GIVEN
    assert new.label.between(0, 1).all()
    assert not (folder / "labels" / "1-cross-crops.csv").exists()


@pytest.mark.parametrize("folds", [{}, {"folds": 3, "fold": 1}])
def test_crops_are_of_the_same_part_as_their_pair_and_none_is_held_out(folds):
    config = {"holdout": 0.2, "select": "agreement", "split_seed": 3, **folds}
    source = np.concatenate([np.arange(30), np.arange(60) % 30])
    plain, cropped = (
        TokenisedPairs(np.empty(0), np.empty(1), np.zeros((count, 2)), source=of)
        for count, of in ((30, None), (90, source))
    )
    (held, kept), (held_with, kept_with) = split(plain, config), split(cropped, config)
    assert held_with.tolist() == held.tolist()
    assert kept_with[kept_with < 30].tolist() == kept.tolist()
    assert set(source[kept_with]) == set(kept)
    assert len(kept_with) == 3 * len(kept)


def test_a_crop_is_labelled_by_the_encoder_that_did_not_learn_from_its_pair(setting, artifacts_by_title):
    settings = ["distill.folds=2", "distill.teachers=both", "distill.average=z", "distill.iterations=2"]
    setting.run(*CROPS, *settings, f"data.limit={GIVEN}")
    made = artifacts_by_title
    pairs, source = pairs_of(made["pool with crops"]), np.load(made["pool with crops"] / "source.npy")
    scores = np.load(made["1/cross crops"] / "scores.npy")
    assert len(scores) == len(pairs) >= 160
    for fold, rows in enumerate(folds_of(GIVEN, 2, 0)):
        of_fold = np.flatnonzero(np.isin(source, rows))
        encoder = CrossEncoder.load(made[f"1/cross/fold-{fold} train"].path)
        np.testing.assert_allclose(scores[of_fold], encoder.predict([pairs[row] for row in of_fold]), atol=1e-5)
    assert len(np.load(made["2/cross label"] / "labels.npy")) == GIVEN


def test_whether_a_bi_encoder_is_well_pooled_is_told_by_the_given_pairs(setting, artifacts_by_title):
    late = ["distill.late_interaction=true", f"data.limit={GIVEN}"]
    setting.run(*late)
    alone = artifacts_by_title["0/bi late pool"].facts
    setting.run(*late, *CROPS, f"paths.artifacts={setting.root}/others", name="with-crops")
    first = (setting.root / "others").glob("score_late-*/artifact.json")
    facts = max((json.loads(path.read_text())["facts"] for path in first), key=lambda facts: facts["pairs"])
    assert facts["pairs"] > alone["pairs"] == GIVEN
    assert facts["agreement"] == pytest.approx(alone["agreement"], abs=1e-6)


def test_document_frequencies_are_those_of_the_given_sentences(setting):
    settings = [f"data.limit={GIVEN}", "distill.late_interaction=true", "distill.teachers=both", "distill.average=z"]
    without = setting.run(*settings, "distill.failure=ignore")
    with_crops = setting.run(*CROPS, *settings, f"paths.artifacts={setting.root}/others", name="with-crops")
    alone, beside = (pandas.read_csv(folder / "labels" / "1-bi.csv").label for folder in (without, with_crops))
    np.testing.assert_allclose(alone, beside, atol=1e-4)


@pytest.mark.parametrize("epochs", [1, 3])
def test_epochs_share_the_steps_that_crops_fill(setting, artifacts_by_title, epochs):
    folder = setting.run(*CROPS, "data.limit=40", f"distill.cross.epochs={epochs}", "distill.select=last")
    curves = pandas.read_csv(folder / "curves.csv").query("loss.notna() and place == '1/cross'")
    assert 20 <= curves.step.max() <= 20 + epochs
    assert artifacts_by_title["pool with crops"].facts["pairs"] <= 1.1 * 160 / epochs + 8


@pytest.mark.parametrize(("limit", "few"), [(39, True), (40, False)])
def test_there_is_no_crop_where_the_pairs_fill_the_steps(setting, limit, few):
    settings = ["distill.cross.min_steps=5", "distill.select=last", f"data.limit={limit}"]  # 5 x 16 pairs, both ways
    setting.run(*CROPS, *settings)
    assert ("extend" in [stage for stage, _ in setting.built]) == few


def test_each_pair_is_before_its_crops_in_the_order_by_source():
    pairs = TokenisedPairs(np.empty(0), np.empty(1), np.zeros((6, 2)), source=np.array([0, 1, 2, 1, 0, 1]))
    assert pairs.by_source().tolist() == [0, 4, 1, 3, 5, 2]
    assert replace(pairs, source=None).by_source().tolist() == list(range(6))


@pytest.mark.parametrize(
    "unless", ["distill.cross.crops_below=40", "distill.cross.min_steps=1", "distill.direction=gold_to_cross"]
)
def test_there_are_none_unless_few_pairs_with_labels_of_a_bi_encoder_must_fill_steps(setting, files, unless):
    setting.run(*CROPS, "data.limit=40", f"data.gold=[{files}/pool.tsv]", unless)
    assert not [stage for stage, _ in setting.built if stage == "extend"]


def test_beside_a_file_of_scores_pairs_are_repeated_and_a_warning_says_so(setting, caplog):
    labels = setting.run(f"data.limit={GIVEN}") / "labels" / "1-bi.csv"
    setting.run(*CROPS, f"data.limit={GIVEN}", f"model.teachers=[{labels}]", name="second")
    assert not [stage for stage, _ in setting.built if stage == "extend"]
    told = [record.getMessage() for record in caplog.records if "crops" in record.getMessage()]
    assert told == [f"model.teachers={labels}: has no scores of crops, so few pairs are repeated instead"]


def test_a_resumed_run_ends_in_the_same_bytes_and_a_rerun_builds_nothing(setting, monkeypatch):
    settings = [*CROPS, "distill.folds=2", f"data.limit={GIVEN}"]
    whole = setting.run(*settings, f"paths.artifacts={setting.root}/whole-artifacts", name="whole")
    stage = transenc.stages.run.train

    def interrupt(out, config, progress, *inputs):
        raise KeyboardInterrupt

    monkeypatch.setattr(transenc.stages.run, "train", replace(stage, build=interrupt))
    with pytest.raises(KeyboardInterrupt):
        setting.run(*settings)
    monkeypatch.setattr(transenc.stages.run, "train", stage)
    resumed = setting.run(*settings)
    for name in ("results.csv", "models/cross-encoder/model.safetensors", "labels/1-bi-crops.csv"):
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
    setting.run(*settings)
    assert setting.built == []
