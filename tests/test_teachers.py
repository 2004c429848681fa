"""Fixed teachers: models of any kind, and files of scores, label beside the loop's encoders and are never trained."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from families import build
from scipy.special import expit, softmax
from sentence_transformers import CrossEncoder as TheirCrossEncoder
from sentence_transformers import SentenceTransformer
from standin import change
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

import transenc.stages.run
import transenc.stages.teachers
from transenc.artifacts import file_digest
from transenc.data.tokens import number_sentences
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError


def run_json(folder):
    return json.loads((folder / "run.json").read_text())


ONE_TURN = ("distill.select=last", "distill.failure=ignore", "distill.bi.epochs=1")


@pytest.fixture
def nli(models, tmp_path):
    """A classifier of contradiction, entailment, neutral."""
    config = AutoConfig.from_pretrained(models["roberta"], num_labels=3)
    config.id2label = dict(enumerate(("contradiction", "entailment", "neutral")))
    config.label2id = {name: number for number, name in config.id2label.items()}
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path / "nli")
    AutoTokenizer.from_pretrained(models["roberta"]).save_pretrained(tmp_path / "nli")
    return tmp_path / "nli"


def labels(run, name):
    table = pandas.read_csv(run / "labels" / name)
    return table.label.to_numpy(), list(zip(table.sentence1, table.sentence2, strict=True))


def initial_scores(setting, pairs):
    encoder = BiEncoder.load(setting.model)
    return encoder.similarities(encoder.tokenise(*number_sentences(pairs)))


def test_labels_are_the_mean_of_the_loops_teacher_and_a_fixed_bi_encoder(setting, models, caplog):
    run = setting.run(f"model.teachers={models['electra']}", "model.pooling=cls", *ONE_TURN)
    assert "no file names its pooling; sentence-transformers takes the mean" in caplog.text
    found, pairs = labels(run, "1-bi.csv")
    model = SentenceTransformer(str(models["electra"]), device="cpu")
    first, second = (model.encode(list(side), normalize_embeddings=True) for side in zip(*pairs, strict=True))
    expected = (initial_scores(setting, pairs) + (first * second).sum(1)) / 2
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-5)


def test_a_fixed_cross_encoder_labels_for_both_students_by_the_sigmoid_of_its_logit(setting, models, tmp_path):
    CrossEncoder.load(models["roberta"], new_head=5).save(tmp_path / "fixed")
    change(
        tmp_path / "fixed" / "config.json", sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"}
    )
    before = file_digest(tmp_path / "fixed" / "model.safetensors")
    run = setting.run(f"model.teachers=[{tmp_path}/fixed]", "model.pooling=cls", *ONE_TURN)
    found, pairs = labels(run, "1-bi.csv")
    fixed = expit(TheirCrossEncoder(str(tmp_path / "fixed"), device="cpu").predict([list(pair) for pair in pairs]))
    np.testing.assert_allclose(found, ((initial_scores(setting, pairs) + fixed) / 2).clip(0, 1), atol=1e-5)
    found, _ = labels(run, "1-cross.csv")
    student = CrossEncoder.load(run / "models" / "cross-encoder").predict(pairs)
    np.testing.assert_allclose(found, (student + fixed) / 2, atol=1e-5)
    assert file_digest(tmp_path / "fixed" / "model.safetensors") == before
    assert "fixed teachers that were not trained" in (run / "models" / "bi-encoder" / "README.md").read_text()


def test_a_classifier_of_inference_labels_by_its_probability_of_entailment(setting, nli):
    run = setting.run(f"model.teachers=[{nli}]", "model.pooling=cls", *ONE_TURN)
    found, pairs = labels(run, "1-bi.csv")
    logits = TheirCrossEncoder(str(nli), device="cpu").predict([list(pair) for pair in pairs])
    expected = (initial_scores(setting, pairs) + softmax(logits, axis=1)[:, 1]) / 2
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-5)


def test_a_language_model_whose_files_do_not_say_how_to_score_is_refused(setting, tmp_path):
    build("qwen3", tmp_path / "generative")
    change(tmp_path / "generative" / "config.json", architectures=["Qwen3ForCausalLM"])
    with pytest.raises(InputError, match=r"model.teachers=.*: is a language model, and no file says how to score with"):
        setting.run(f"model.teachers={tmp_path}/generative", "model.pooling=cls", *ONE_TURN)


def test_a_classifier_without_an_entailment_is_one_line(setting, nli):
    change(
        nli / "config.json", id2label={"0": "bad", "1": "good", "2": "ugly"}, label2id={"bad": 0, "good": 1, "ugly": 2}
    )
    with pytest.raises(
        InputError, match=r"model.teachers=.* 3 outputs \(bad, good, ugly\), and none is called entailment"
    ):
        setting.run(f"model.teachers=[{nli}]", *ONE_TURN)


def scores_file(setting, path, rows=slice(None), swap=False):
    pool = pandas.read_csv(f"{setting.files}/pool.tsv", sep="\t").iloc[rows]
    first, second = (pool.sentence2, pool.sentence1) if swap else (pool.sentence1, pool.sentence2)
    table = pandas.DataFrame({"sentence1": first, "sentence2": second, "score": np.linspace(0, 1, len(pool))})
    table.to_csv(path, index=False)
    return table


@pytest.mark.parametrize("swap", [False, True])
def test_a_file_of_scores_labels_the_pairs_by_their_sentences_in_either_order(setting, tmp_path, swap):
    table = scores_file(setting, tmp_path / "scores.csv", swap=swap)
    run = setting.run(f"model.teachers={tmp_path}/scores.csv", "model.pooling=cls", *ONE_TURN)
    found, pairs = labels(run, "1-bi.csv")
    given = {frozenset(row[:2]): row[2] for row in table.iloc[::-1].itertuples(index=False)}
    expected = (initial_scores(setting, pairs) + np.array([given[frozenset(pair)] for pair in pairs])) / 2
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-5)


@pytest.mark.parametrize("columns", [("q", "a"), (0, 1)])
def test_a_runs_own_labels_label_a_pool_whose_columns_have_other_names_or_numbers(setting, files, tmp_path, columns):
    table = scores_file(setting, tmp_path / "scores.csv").rename(columns={"score": "label"})
    table.to_csv(tmp_path / "labels.csv", index=False)
    header = list(columns) if isinstance(columns[0], str) else False
    table.iloc[:, :2].to_csv(tmp_path / "pool.csv", index=False, header=header)
    named = [f"data.columns.sentence{n + 1}={column}" for n, column in enumerate(columns)]
    run = setting.run(
        f"model.teachers={tmp_path}/labels.csv", f"data.path={tmp_path}/pool.csv", *named, "data.dev=null",
        "data.test=[]", "model.pooling=cls", *ONE_TURN,
    )  # fmt: skip
    found, pairs = labels(run, "1-bi.csv")
    given = {frozenset(row[:2]): row[2] for row in table.iloc[::-1].itertuples(index=False)}
    expected = (initial_scores(setting, pairs) + np.array([given[frozenset(pair)] for pair in pairs])) / 2
    np.testing.assert_allclose(found, expected.clip(0, 1), atol=1e-5)


def test_of_a_pair_with_different_scores_in_a_file_the_first_counts_and_the_log_says_so(setting, tmp_path, caplog):
    table = scores_file(setting, tmp_path / "scores.csv")
    others = pandas.concat([table, table, table.assign(score=0.5)])
    others.to_csv(tmp_path / "others.csv", index=False)
    first, second = (
        setting.run(f"model.teachers={tmp_path}/{name}.csv", "model.pooling=cls", *ONE_TURN, name=name)
        for name in ("scores", "others")
    )
    np.testing.assert_array_equal(labels(first, "1-bi.csv")[0], labels(second, "1-bi.csv")[0])
    told = [record.getMessage() for record in caplog.records if "different scores" in record.getMessage()]
    pairs = len(labels(first, "1-bi.csv")[1])
    assert [line.endswith(f"; of {pairs} with different scores, the first counts") for line in told] == [True]


def test_a_file_of_scores_that_lacks_pairs_is_one_line_with_their_number_before_the_pool_is_scored(
    setting, tmp_path, caplog
):
    scores_file(setting, tmp_path / "scores.csv", slice(0, 20))
    with pytest.raises(
        InputError, match=r"scores.csv: has no score for \d+ of the pool's \d+ pairs, '.*' and '.*' first"
    ):
        setting.run(f"model.teachers={tmp_path}/scores.csv", *ONE_TURN)
    assert "0/bi test" in caplog.text
    assert "0/bi pool" not in caplog.text


def test_a_score_outside_the_unit_interval_is_one_line(setting, tmp_path):
    table = scores_file(setting, tmp_path / "scores.csv")
    (table * {"sentence1": 1, "sentence2": 1, "score": 5}).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(InputError, match=r"scores.csv: the score .* of '.*' is not in \[0, 1\]; scale them"):
        setting.run(f"model.teachers={tmp_path}/scores.csv", *ONE_TURN)


def test_a_fixed_teacher_that_changes_while_it_is_read_is_refused(setting, models, tmp_path, monkeypatch):
    folder, load = Path(shutil.copytree(models["electra"], tmp_path / "fixed")), transenc.stages.teachers._loaded

    def changing(*arguments):
        os.utime(folder / "config.json", ns=(0, 0))
        return load(*arguments)

    monkeypatch.setattr("transenc.stages.teachers._loaded", changing)
    with pytest.raises(InputError, match=r"^model.teachers=.*: changed while it was read; give the command again$"):
        setting.run(f"model.teachers={folder}", *ONE_TURN)


@pytest.mark.slow
def test_what_a_fixed_teacher_scored_is_reused_and_nobody_trains_it(setting, models):
    overrides = (f"model.teachers={models['electra']}", *ONE_TURN)
    before = file_digest(models["electra"] / "model.safetensors")
    setting.run(*overrides)
    assert sum(stage == "predict" for stage, _ in setting.built) == 1
    setting.run(*overrides, "distill.iterations=2", name="longer")
    assert not [stage for stage, _ in setting.built if stage == "predict"]
    assert file_digest(models["electra"] / "model.safetensors") == before
    (teacher,) = [model for model in run_json(setting.root / "longer")["models"] if model["key"] == "model.teachers"]
    assert teacher["name"] == str(models["electra"])
    assert teacher["read_as"].startswith("by sentence-transformers: Transformer, Pooling, ")


def test_a_fixed_teacher_is_found_once_for_all_iterations(setting, models, monkeypatch):
    found = []
    find = transenc.stages.run.find_model
    monkeypatch.setattr("transenc.stages.run.find_model", lambda key, *more: found.append(key) or find(key, *more))
    setting.run(f"model.teachers={models['electra']}", *ONE_TURN, "distill.iterations=2")
    assert found.count("model.teachers") == 1


def test_fixed_teachers_and_human_labels_exclude_each_other(setting):
    with pytest.raises(InputError, match=r"human scores are the labels; set model.teachers=null"):
        setting.run("distill.direction=gold_to_bi", "model.teachers=x", f"data.gold=[{setting.files}/pool.tsv]")


@pytest.mark.parametrize("key", ["model.teachers", "model.reference"])
def test_a_model_that_is_not_there_is_one_line_before_anything_is_scored(setting, key):
    with pytest.raises(InputError, match=rf"{key}=/no/such: no such folder"):
        setting.run(f"{key}=/no/such")
    assert "score" not in dict(setting.built)


def test_the_labels_of_a_run_are_the_scores_of_another(setting):
    first = setting.run(*ONE_TURN)
    again = setting.run(f"model.teachers={first}/labels/1-bi.csv", *ONE_TURN, name="again")
    pandas.testing.assert_frame_equal(*(pandas.read_csv(run / "labels" / "1-bi.csv") for run in (first, again)))
