"""The whole loop on tiny models: what it leaves, what it builds again and what not, what it never sees."""

import html
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from conftest import LEXICON, PAIRS

import transenc.data.module
import transenc.stages.evaluation
import transenc.stages.run
import transenc.stages.training
import transenc.training
from transenc.artifacts import Artifact, file_digest
from transenc.cli import compose
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.loop import distill
from transenc.metrics import spearman
from transenc.model_card import card
from transenc.report.page import write_report
from transenc.results import Row
from transenc.run_writer import RunWriter
from transenc.training import TrainingFailed


def weights(folder):
    return {name: file_digest(folder / "models" / name / "model.safetensors") for name in MODELS}


MODELS = ["bi-encoder", "cross-encoder"]


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
    turns = [(0, "bi"), (1, "cross"), (1, "bi")]
    assert keys == [(*turn, task, 30) for turn in turns for task in ("dev", "test")]
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


def test_the_models_are_the_selected_ones_and_load_in_sentence_transformers(setting, files):
    st = pytest.importorskip("sentence_transformers")
    folder = setting.run("distill.iterations=2")
    selected = json.loads((folder / "run.json").read_text())["selected"]
    results = pandas.read_csv(folder / "results.csv")
    table = pandas.read_csv(files / "test.tsv", sep="\t")
    both = list(zip(table.sentence1, table.sentence2, strict=True))
    for kind, ours in (("bi", BiEncoder), ("cross", CrossEncoder)):
        dev = results[(results.encoder == kind) & (results.task == "dev")]
        best = dev.loc[dev.spearman.idxmax()]
        assert selected[kind] == {"iteration": best.iteration, "encoder": kind, "score": best.spearman}
        model = ours.load(folder / "models" / f"{kind}-encoder")
        scores = model.predict(both)
        if kind == "bi":
            theirs = st.SentenceTransformer(str(folder / "models" / "bi-encoder"), device="cpu")
            first, second = (theirs.encode(list(side), convert_to_tensor=True) for side in zip(*both, strict=True))
            expected = (first * second).sum(1) / first.norm(dim=1) / second.norm(dim=1)
            np.testing.assert_allclose(scores, expected.clamp(0, 1), atol=1e-5)
            scores = expected.numpy()  # unclamped, as they are ranked
        else:
            theirs = st.CrossEncoder(str(folder / "models" / "cross-encoder"), device="cpu")
            np.testing.assert_allclose(scores, theirs.predict(both), atol=1e-5)
        row = results[(results.encoder == kind) & (results.task == "test") & (results.iteration == best.iteration)]
        assert pandas.Series(scores).corr(table.score, method="spearman") == pytest.approx(
            row.spearman.item(), abs=0.02
        )
    assert setting.score == pytest.approx((selected["bi"]["score"] + selected["cross"]["score"]) / 2)


def test_a_rerun_builds_nothing_and_tells_the_same(setting):
    first = setting.run()
    second = setting.run(name="again")
    assert setting.built == []
    assert (first / "results.csv").read_bytes() == (second / "results.csv").read_bytes()
    assert weights(first) == weights(second)


def test_more_iterations_teach_the_new_ones_only(setting):
    setting.run()
    assert setting.taught() == ["1/cross", "1/bi"]
    setting.run("distill.iterations=2")
    assert setting.taught() == ["2/cross", "2/bi"]


def test_another_seed_shares_everything_up_to_the_first_student(setting):
    setting.run()
    setting.run("seed=1")
    assert setting.taught() == ["1/cross", "1/bi"]
    assert ("load", "") in setting.built  # the cross-encoder's head is seeded
    assert [b for b in setting.built if b[0] in ("read", "gather", "tokenise", "label")] == [
        ("label", "")
    ]  # by the new cross
    assert not [b for b in setting.built if b == ("score", "0/bi")]


@pytest.mark.parametrize(
    ("override", "taught"),
    [
        ("distill.cross.learning_rate=1e-4", ["1/cross", "1/bi"]),
        ("distill.bi.learning_rate=1e-4", ["1/bi"]),
        ("trainer.score_tokens=100", []),
    ],
)
def test_a_changed_setting_redoes_what_lies_downstream_of_it(setting, override, taught):
    setting.run()
    setting.run(override)
    assert setting.taught() == taught


@pytest.mark.parametrize("place", ["0/bi", "1/cross", "1/bi"])
def test_an_interrupted_run_ends_in_the_same_weights_and_repeats_no_finished_stage(setting, monkeypatch, place):
    whole = setting.run("paths.artifacts=" + str(setting.root / "whole-artifacts"), name="whole")
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
    assert weights(resumed) == weights(whole)
    assert (resumed / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()


def test_training_never_sees_a_gold_score(setting, files, monkeypatch, tmp_path):
    """The pool's artifacts have no place for scores, and other scores in its file change no weight."""
    taught, module = [], transenc.data.module.PairDataModule
    monkeypatch.setattr(
        transenc.data.module, "PairDataModule", lambda pairs, *a, **k: taught.append(pairs) or module(pairs, *a, **k)
    )
    first = setting.run()
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    pool["score"] = "gold?"
    pool.to_csv(tmp_path / "other.tsv", sep="\t", index=False)
    second = setting.run(f"data.path={tmp_path}/other.tsv", f"paths.artifacts={tmp_path}/other-artifacts", name="other")
    assert weights(first) == weights(second)
    assert [tokens.gold for tokens in taught] == [None] * 4
    for folder in (setting.root / "artifacts").glob("read-*"):
        scored = json.loads((folder / "artifact.json").read_text())["config"]["scored"]
        assert (folder / "gold.npy").exists() == scored


@pytest.mark.parametrize("select", ["agreement", "last"])
def test_selection_without_gold_scores_never_reads_any(setting, files, select, tmp_path):
    """Turning the gold scores upside down changes the results and nothing else."""
    for name in ("dev", "test"):
        table = pandas.read_csv(files / f"{name}.tsv", sep="\t")
        table.assign(score=5 - table.score).to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    settings = [f"distill.select={select}", "distill.iterations=2"]
    first = setting.run(*settings)
    turned = [f"data.dev={tmp_path}/dev.tsv", f"data.test=[{tmp_path}/test.tsv]"]
    second = setting.run(*settings, *turned, f"paths.artifacts={setting.root}/other-artifacts", name="other")
    assert weights(first) == weights(second)
    runs = [json.loads((folder / "run.json").read_text())["selected"] for folder in (first, second)]
    assert runs[0] == runs[1]
    assert runs[0]["by"] == select
    if select == "last":
        assert runs[0]["bi"] == {"iteration": 2, "encoder": "bi", "score": None}
        assert setting.score is None
    else:
        assert -1 <= setting.score <= 1


def test_labels_are_made_in_the_precision_of_training_and_results_in_fp32(setting):
    setting.run("trainer.precision=bf16-mixed")
    for record in (setting.root / "artifacts").glob("score-*/artifact.json"):
        told = json.loads(record.read_text())
        assert told["config"]["precision"] == ("32-true" if "spearman" in told["facts"] else "bf16-mixed")


def test_a_run_needs_no_gold_scores_at_all(setting):
    folder = setting.run("data.dev=null", "data.test=[]")
    assert json.loads((folder / "run.json").read_text())["selected"]["by"] == "agreement"
    assert pandas.read_csv(folder / "results.csv").empty


def test_automatic_selection_is_by_dev_if_there_is_one_and_by_agreement_if_not(setting):
    by = lambda folder: json.loads((folder / "run.json").read_text())["selected"]["by"]  # noqa: E731
    assert by(setting.run()) == "dev"
    assert by(setting.run("data.dev=null", name="without")) == "agreement"


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
        said = pandas.read_csv(folder / "predictions" / "1-cross-test.csv")
        turned = CrossEncoder.load(model).predict(list(zip(said.sentence2, said.sentence1, strict=True)))
        assert np.allclose(said.score, turned, atol=1e-5) is symmetric


def test_both_kinds_teach_together_as_soon_as_they_are_trained(setting, monkeypatch):
    asked, score = [], transenc.stages.evaluation.Evaluation.score

    def watched(self, model, pairs, place, title, *precision):
        asked.extend([place] if title == "pool" else [])
        return score(self, model, pairs, place, title, *precision)

    monkeypatch.setattr(transenc.stages.evaluation.Evaluation, "score", watched)
    setting.run("distill.teachers=both", "distill.iterations=2")
    assert asked == ["0/bi", "0/bi", "1/cross", "1/bi", "1/cross", "1/bi", "2/cross"]
    asked.clear()
    setting.run("distill.iterations=2")
    assert asked == ["0/bi", "1/cross", "1/bi", "2/cross"]


def test_previous_starts_a_student_from_its_own_last_weights(setting):
    setting.run("distill.iterations=2", "distill.start=previous")
    records = [json.loads(p.read_text()) for p in (setting.root / "artifacts").glob("train-*/artifact.json")]
    fingerprints = {record["fingerprint"] for record in records}
    assert sum(record["inputs"][0] in fingerprints for record in records) == 2


def test_mutual_distillation_averages_labels_and_reports_members_and_ensembles(setting, models):
    """Against averages made by hand, of what each member alone says."""
    other = models["roberta"]
    folder = setting.run(
        f"model.bi=[{setting.model},{other}]", f"model.cross=[{setting.model},{other}]", "model.bi_layers=[2,null]",
        "save_predictions=true",
    )  # fmt: skip
    results = pandas.read_csv(folder / "results.csv")
    test = results[results.task == "test"]
    assert list(zip(test.iteration, test.encoder, test.member.fillna(-1), strict=True)) == [
        (iteration, encoder, member)
        for iteration, kind in ((0, "bi"), (1, "cross"), (1, "bi"))
        for encoder, member in ((kind, 0), (kind, 1), (f"{kind}-ensemble", -1))
    ]
    names = ["bi-encoder-0", "bi-encoder-1", "cross-encoder-0", "cross-encoder-1"]
    assert sorted(p.name for p in (folder / "models").iterdir()) == names

    for iteration, kind in ((0, "bi"), (1, "cross"), (1, "bi")):
        said = [pandas.read_csv(folder / "predictions" / f"{iteration}-{kind}-{i}-test.csv") for i in (0, 1)]
        both = test[test.iteration == iteration]
        for number, one in enumerate(said):
            row = both[(both.encoder == kind) & (both.member == number)]
            assert one.score.corr(one.gold, method="spearman") == pytest.approx(row.spearman.item(), abs=1e-4)
        mean = (said[0].score + said[1].score) / 2
        row = both[both.encoder == f"{kind}-ensemble"]
        assert mean.corr(said[0].gold, method="spearman") == pytest.approx(row.spearman.item(), abs=2e-3)  # ties

    labels = pandas.read_csv(folder / "labels" / "1-bi.csv")
    both = list(zip(labels.sentence1, labels.sentence2, strict=True))
    alone = [
        BiEncoder.load(name, layers=layers).predict(both) for name, layers in ((setting.model, 2), (other, None))
    ]  # clamped, which these scores need not be
    assert np.abs(labels.label - np.clip(np.mean(alone, axis=0), 0, 1)).max() < 1e-4


def test_members_of_one_model_differ(setting):
    folder = setting.run(
        f"model.bi=[{setting.model},{setting.model}]", f"model.cross=[{setting.model},{setting.model}]"
    )
    digests = {file_digest(path / "model.safetensors") for path in (folder / "models").glob("cross-*")}
    assert len(digests) == 2


WIDE, NARROW = np.array([0.0, 1.0, 0.4, 0.6]), np.array([0.52, 0.50, 0.51, 0.53])


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("mean", [0.26, 0.75, 0.455, 0.565]),
        # Both standardised, averaged, times the mean deviation (0.36056 + 0.01118) / 2, plus the mean 0.5075.
        ("z", [0.420184, 0.511692, 0.440163, 0.657961]),
        # Mean ranks 2, 2.5, 2, 3.5: the ties share the places 1 and 2 of the sorted means 0.26, 0.455, 0.565, 0.75.
        ("rank", [0.3575, 0.565, 0.3575, 0.75]),
    ],
)
def test_averages_of_two_teachers_are_those_made_by_hand(how, expected):
    for teachers in ([WIDE, NARROW], [NARROW, WIDE]):
        np.testing.assert_allclose(transenc.stages.training.average(np.stack(teachers), how), expected, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "z", "rank"])
def test_one_teacher_is_left_as_it_is_and_a_constant_one_ranks_nothing(how):
    scores = np.random.default_rng(0).random(7)
    np.testing.assert_array_equal(transenc.stages.training.average(scores[None], how), scores)
    both = transenc.stages.training.average(np.stack([scores, np.full(7, 0.1)]), how)
    assert list(np.argsort(both)) == list(np.argsort(scores))
    assert both.mean() == pytest.approx((scores.mean() + 0.1) / 2)


def test_labels_are_the_mean_of_the_teachers_clamped_to_the_unit_interval(tmp_path):
    artifacts = []
    for number, scores in enumerate(([-0.5, 0.2, 1.0], [0.1, 0.4, 1.0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        np.save(folder / "scores.npy", np.array(scores, dtype=np.float32))
        artifacts.append(Artifact(folder, "", {}))
    facts = transenc.stages.training.label.build(tmp_path, {"average": "mean"}, None, *artifacts)
    np.testing.assert_allclose(np.load(tmp_path / "labels.npy"), [0, 0.3, 1.0], atol=1e-6)
    assert facts["clamped"] == pytest.approx(1 / 3)


def test_one_direction_teaches_one_kind_once(setting):
    folder = setting.run("distill.direction=bi_to_cross")
    assert setting.taught() == ["1/cross"]
    assert [p.name for p in (folder / "models").iterdir()] == ["cross-encoder"]
    assert [p.name for p in (folder / "labels").iterdir()] == ["1-bi.csv"]

    teacher = folder / "models" / "cross-encoder"
    folder = setting.run("distill.direction=cross_to_bi", f"model.cross={teacher}", name="back")
    assert setting.taught() == ["1/bi"]
    results = pandas.read_csv(folder / "results.csv")
    assert list(dict.fromkeys(zip(results.iteration, results.encoder, strict=True))) == [
        (0, "bi"),
        (0, "cross"),
        (1, "bi"),
    ]
    assert [p.name for p in (folder / "models").iterdir()] == ["bi-encoder"]
    assert "the cross-encoder (" in (folder / "models" / "bi-encoder" / "README.md").read_text()


def test_an_untrained_cross_encoder_cannot_be_the_only_teacher(setting):
    with pytest.raises(InputError, match=r"model.cross=.*: is no cross-encoder \(it has no classification head\)"):
        setting.run("distill.direction=cross_to_bi")


@pytest.mark.parametrize("kind", ["cross", "bi"])
def test_gold_scores_teach_only_where_the_direction_says_so(setting, files, kind):
    other = {"cross": "bi", "bi": "cross"}[kind]
    settings = [f"distill.direction=gold_to_{kind}", f"model.{other}=not/there", f"data.gold=[{files}/pool.tsv]"]
    folder = setting.run(*settings)
    assert setting.taught() == [f"1/{kind}"]
    labels = pandas.read_csv(folder / "labels" / "1-gold.csv")
    gold = pandas.read_csv(files / "pool.tsv", sep="\t").merge(labels, on=["sentence1", "sentence2"])
    assert len(gold) == len(labels) > 40
    np.testing.assert_allclose(gold.label, gold.score / 5, atol=1e-6)
    assert "supervised" in (folder / "models" / f"{kind}-encoder" / "README.md").read_text()


def test_gold_pairs_are_no_part_of_an_unsupervised_run(setting, files):
    first = setting.run()
    second = setting.run(
        f"data.gold=[{files}/pool.tsv]", f"paths.artifacts={setting.root}/other-artifacts", name="other"
    )
    assert weights(first) == weights(second)


def test_gold_scores_of_test_pairs_never_teach(setting, files):
    gold = f"data.gold=[{files}/pool.tsv,{files}/test.tsv]"
    folder = setting.run("distill.direction=gold_to_cross", gold, "data.transductive=true")
    said = json.loads((folder / "run.json").read_text())["data"]
    assert (said["shared"], said["dropped"]["of dev or test"] > 10) == (0, True)


def test_another_test_set_trains_nothing_anew_where_the_pool_stays_the_same(setting):
    setting.run("data.transductive=true")
    setting.run("data.transductive=true", "data.test=[]", "data.seed=1")
    assert setting.taught() == []


def test_a_run_leaves_nothing_of_an_earlier_one_in_its_folder(setting):
    setting.run("save_predictions=true")
    folder = setting.run("distill.direction=bi_to_cross")
    left = sorted(
        str(p.relative_to(folder)) for kind in ("models", "labels", "predictions") for p in folder.glob(f"{kind}/*")
    )
    assert left == ["labels/1-bi.csv", "models/cross-encoder", "predictions/1-cross-test.csv"]


def test_sentences_become_pairs_in_the_asked_shares_and_are_told(setting, files, tmp_path):
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    (tmp_path / "corpus.txt").write_text("\n".join([*pool.sentence1, "", *pool.sentence2]) + "\n")
    folder = setting.run(
        "data.path=null", f"data.sentences={tmp_path}/corpus.txt", "data.mining.pairs=60", "data.limit=40",
        "data.flatten=true", f"data.extra={files}/pool.tsv", "data.extra_limit=10",
    )  # fmt: skip
    (record,) = [json.loads(p.read_text()) for p in (setting.root / "artifacts").glob("mine-*/artifact.json")]
    assert record["facts"]["made"] == {"random": 15, "nearest": 30, "lexical": 15}
    candidates = pandas.read_csv(folder / "labels" / "0-bi.csv")
    labels = pandas.read_csv(folder / "labels" / "1-bi.csv")
    assert len(labels) == 40
    assert 60 < len(candidates) <= 70
    assert not (labels.sentence1 == labels.sentence2).any()
    setting.run("data.path=null", f"data.sentences={tmp_path}/corpus.txt", "data.mining.pairs=60", name="more")
    assert not [stage for stage, _ in setting.built if stage in ("corpus", "embed", "mine")]


def test_a_file_of_one_sentence_makes_no_pairs(setting, tmp_path):
    (tmp_path / "corpus.txt").write_text("one sentence\none sentence\n")
    with pytest.raises(InputError, match=r"corpus.txt: pairs are made of two different sentences"):
        setting.run("data.path=null", f"data.sentences={tmp_path}/corpus.txt")
    (tmp_path / "corpus.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\n")
    with pytest.raises(InputError, match=r"corpus.tsv: a table; data.sentences takes one sentence a line"):
        setting.run("data.path=null", f"data.sentences={tmp_path}/corpus.tsv")


def test_binary_scores_are_measured_and_selected_by_auc(setting, files, tmp_path):
    for name in ("dev", "test"):
        table = pandas.read_csv(files / f"{name}.tsv", sep="\t")
        table["score"] = (table.score > table.score.median()).astype(int)
        table.to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    folder = setting.run("data.scores=binary", f"data.dev={tmp_path}/dev.tsv", f"data.test=[{tmp_path}/test.tsv]")
    results = pandas.read_csv(folder / "results.csv")
    assert results.auc.between(0, 1).all()
    assert results.average_precision.between(0, 1).all()
    selected = json.loads((folder / "run.json").read_text())["selected"]
    dev = results[results.task == "dev"]
    assert selected["cross"]["score"] == dev[dev.encoder == "cross"].auc.max()
    (tmp_path / "dev.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t0.5\n")
    with pytest.raises(InputError, match=r"dev.tsv:2: the label 0.5 is neither 0 nor 1"):
        setting.run("data.scores=binary", f"data.dev={tmp_path}/dev.tsv", name="wrong")


def test_ordered_pairs_are_never_turned_round(setting, monkeypatch):
    module, orders = transenc.data.module.PairDataModule, []

    def watched(*arguments, both_orders, **settings):
        orders.append(both_orders)
        return module(*arguments, both_orders=both_orders, **settings)

    monkeypatch.setattr(transenc.data.module, "PairDataModule", watched)
    setting.run("data.ordered=true")
    assert orders == [False, False]


def test_pairs_of_dev_and_test_in_the_pool_are_a_setting_that_is_told(setting, files):
    folder = setting.run(f"data.extra={files}/test.tsv")
    said = json.loads((folder / "run.json").read_text())["data"]
    assert (said["transductive"], said["shared"], said["dropped"]["of dev or test"] > 10) == (False, 0, True)
    assert "(transductive): no." in (folder / "models" / "cross-encoder" / "README.md").read_text()
    folder = setting.run(f"data.extra={files}/test.tsv", "data.transductive=true", name="with")
    said = json.loads((folder / "run.json").read_text())["data"]
    assert (said["transductive"], said["shared"] > 10) == (True, True)
    assert "(transductive): yes" in (folder / "models" / "cross-encoder" / "README.md").read_text()


def test_students_learn_in_training_mode(setting, monkeypatch):
    """Lightning keeps the mode it finds, and models load in eval mode: without dropout nothing would look wrong."""
    modes = []
    step = CrossEncoder.training_step
    monkeypatch.setattr(
        CrossEncoder, "training_step", lambda self, *a: modes.append(self.backbone.training) or step(self, *a)
    )
    setting.run()
    assert modes
    assert all(modes)


def failing(monkeypatch, times, after=0, cause="chance"):
    """Let some students fail: after so many, so often."""
    examined = []

    def examine(scores, labels, steps, learning_rate):
        examined.append((len(scores), steps, learning_rate))
        if after < len(examined) <= after + times:
            raise TrainingFailed("it collapsed: the standard deviation of its scores is 0", cause)

    monkeypatch.setattr(transenc.training, "check_collapse", examine)
    return examined


def told(run):
    return json.loads((run / "run.json").read_text())["failures"]


def test_a_student_that_failed_is_taught_again_with_another_seed_and_that_is_told(setting, monkeypatch, caplog):
    caplog.set_level("INFO", "transenc")
    failing(monkeypatch, times=2)
    run = setting.run("distill.retries=2")
    assert setting.taught() == ["1/cross", "1/cross/1", "1/cross/2", "1/bi"]
    assert told(run) == [
        {"place": "1/cross", "reasons": ["it collapsed: the standard deviation of its scores is 0"] * 2, "kept": None}
    ]
    records = [json.loads(path.read_text()) for path in (setting.root / "artifacts").glob("train-*/artifact.json")]
    assert len({record["config"]["seed"] for record in records}) == 4
    assert "1/cross failed (it collapsed" in caplog.text
    failed = [
        path.parent
        for path in (setting.root / "artifacts").glob("train-*/artifact.json")
        if '"failed"' in path.read_text()
    ]
    assert [{file.name for file in folder.iterdir()} for folder in failed] == [{"artifact.json", "curve.jsonl"}] * 2
    again = setting.run("distill.retries=2", name="again")  # what failed is known, and not tried again
    assert setting.built == []
    assert told(again) == told(run)


def test_a_student_that_failed_with_every_seed_stops_the_run_in_one_line(setting, monkeypatch):
    failing(monkeypatch, times=9)
    says = r"1/cross failed with 2 seeds: it collapsed: .*; try another distill.cross.learning_rate, or raise"
    with pytest.raises(InputError, match=says):
        setting.run("distill.retries=1")
    with pytest.raises(InputError, match=r"1/cross failed with 2 seeds"):  # an untrained head cannot stand in
        setting.run("distill.retries=1", "distill.failure=keep")


def test_a_loss_that_is_no_number_stops_the_run_and_names_step_and_learning_rate(setting):
    says = (
        r"1/cross failed with one seed: the loss is nan at step \d+, learning rate .*; lower distill.cross.learning_ra"
    )
    with pytest.raises(InputError, match=says):
        setting.run("distill.cross.learning_rate=1e9", "distill.cross.clip=0", "distill.cross.epochs=3")
    assert setting.taught() == ["1/cross"]


@pytest.mark.parametrize(
    ("cause", "remedy"),
    [
        ("few steps", "raise distill.bi.min_steps"),
        ("low rate", "raise distill.bi.learning_rate, or distill.bi.min_steps"),
        ("high rate", "lower distill.bi.learning_rate"),
        ("nan", "lower distill.bi.learning_rate, or set trainer.precision=32-true"),
    ],
)
def test_what_another_seed_cannot_mend_is_not_tried_again_and_has_a_remedy_of_its_own(
    setting, monkeypatch, cause, remedy
):
    failing(monkeypatch, times=9, after=1, cause=cause)
    with pytest.raises(InputError, match=f"1/bi failed with one seed: it collapsed: .*; {remedy}$"):
        setting.run("distill.retries=2")
    assert setting.taught() == ["1/cross", "1/bi"]


def test_a_pool_too_small_for_its_epochs_is_passed_over_until_there_are_enough_steps(setting, monkeypatch, caplog):
    caplog.set_level("INFO", "transenc")
    examined = failing(monkeypatch, times=0)
    folder = setting.run("distill.cross.min_steps=30", "distill.bi.min_steps=6", "distill.cross.learning_rate=1e-4")
    pairs = json.loads((folder / "run.json").read_text())["data"]["pairs"]
    passes = 29 * 16 // (2 * pairs) + 1  # two epochs are enough for the bi-encoder
    curves = pandas.read_csv(folder / "curves.csv")
    steps = curves[curves.loss.notna()].groupby("place").step.max()
    assert steps["1/cross"] == -(-passes * 2 * pairs // 16) >= 30
    assert steps["1/bi"] == 2 * -(-pairs // 16) >= 6
    assert [tuple(one[1:]) for one in examined] == [(steps["1/cross"], 1e-4), (steps["1/bi"], 5e-5)]
    assert (
        f"1/cross: {pairs} pairs are few; an epoch passes over them {passes} times, so that there are 30" in caplog.text
    )
    assert "1/bi: " not in caplog.text


def warnings(folder):
    return json.loads((folder / "run.json").read_text())["warnings"]


def test_a_model_that_scores_below_the_initial_bi_encoder_is_not_to_be_used_and_everything_says_so(
    setting, monkeypatch, caplog
):
    caplog.set_level("INFO", "transenc")
    folder = setting.run()
    results = (
        pandas.read_csv(folder / "results.csv").query("task == 'test'").set_index(["iteration", "encoder"]).spearman
    )
    chosen = json.loads((folder / "run.json").read_text())["selected"]
    expected = {
        kind: f"{100 * results[chosen[kind]['iteration'], kind]:.2f} on test, below the initial bi-encoder's"
        f" {100 * results[0, 'bi']:.2f}"
        for kind in ("bi", "cross")
        if results[chosen[kind]["iteration"], kind] < results[0, "bi"]
    }
    assert "cross" in expected  # an untrained model after three steps
    assert warnings(folder) == expected
    for kind in ("bi", "cross"):
        card = (folder / "models" / f"{kind}-encoder" / "README.md").read_text()
        assert (f"**Do not use it**: {expected.get(kind)}." in card) == (kind in expected)
        assert (f"Do not use {kind}: {expected.get(kind)}." in caplog.text) == (kind in expected)
    write_report([folder], folder / "report.html")
    page = (folder / "report.html").read_text()
    assert f"<b>Do not use cross</b>: {html.escape(expected['cross'])}." in page


def test_without_gold_scores_a_cross_encoder_that_hardly_agrees_with_its_teacher_is_not_to_be_used(setting, caplog):
    caplog.set_level("INFO", "transenc")
    folder = setting.run("data.dev=null", "data.test=[]")
    scores = {
        kind: json.loads((folder / "run.json").read_text())["selected"][kind]["score"] for kind in ("bi", "cross")
    }
    assert set(warnings(folder)) == {"cross"}  # a bi-encoder that disagrees with a poor teacher may be right
    assert scores["cross"] < 0.8
    assert (
        f"Do not use cross: Spearman with its teacher's labels is {scores['cross']:.2f} on held-out pairs"
        in caplog.text
    )
    assert "Whether they beat the initial bi-encoder is not known: that takes gold scores (data.test)." in caplog.text


@pytest.mark.parametrize("kind", ["cross", "bi"])
def test_the_encoder_of_the_iteration_before_stays_where_a_student_fails(setting, monkeypatch, kind):
    failing(monkeypatch, times=1, after={"cross": 2, "bi": 3}[kind])  # in the second iteration
    run = setting.run("distill.iterations=2", "distill.retries=0", "distill.failure=keep")
    assert [failure["kept"] for failure in told(run)] == [f"1/{kind}"]
    rows = pandas.read_csv(run / "results.csv").query("encoder == @kind").set_index("iteration")
    assert rows.spearman.loc[1].tolist() == rows.spearman.loc[2].tolist()


def test_a_start_that_stands_in_for_a_failed_student_is_selected_only_if_nothing_else_is_there(setting, monkeypatch):
    failing(monkeypatch, times=1, after=1)
    settings = ["distill.retries=0", "distill.failure=keep", "distill.select=agreement"]
    run = setting.run(*settings)
    assert [failure["kept"] for failure in told(run)] == ["0/bi"]
    assert (run / "models" / "bi-encoder" / "model.safetensors").exists()
    run = setting.run(*settings, "distill.iterations=2", name="longer")
    assert json.loads((run / "run.json").read_text())["selected"]["bi"]["iteration"] == 2


def test_labels_that_are_all_but_constant_stop_the_run_before_a_student_is_taught(setting, tmp_path):
    lines = ["sentence1\tsentence2", *(f"the {word}\tthe {word}" for word in LEXICON)]
    (tmp_path / "same.tsv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"1/bi label: nearly constant, mean 1.000 and standard deviation"):
        setting.run(f"data.path={tmp_path}/same.tsv", "data.clean.identical=false")
    assert setting.taught() == []
    setting.run(f"data.path={tmp_path}/same.tsv", "data.clean.identical=false", "distill.failure=ignore")


def test_students_are_not_examined_where_failure_is_ignored(setting, monkeypatch):
    failing(monkeypatch, times=9)
    assert told(setting.run("distill.failure=ignore")) == []


def test_two_runs_do_not_write_into_one_folder(setting, tmp_path):
    with (
        RunWriter(setting.config(), tmp_path, None),
        pytest.raises(InputError, match=f"{tmp_path}: another run writes there"),
    ):
        RunWriter(setting.config(), tmp_path, None).__enter__()
    with RunWriter(setting.config(), tmp_path, None):
        pass


def test_empty_sentences_and_repeated_pairs_are_dropped_and_counted(setting, tmp_path):
    text = "sentence1\tsentence2\na dog\ta cat\n\ta cat\na cat\ta dog\na man\ta cat\na dog\ta cat\na dog\t \n"
    (tmp_path / "pool.tsv").write_text(text + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    setting.run(f"data.path={tmp_path}/pool.tsv")
    data = json.loads((setting.root / "run" / "run.json").read_text())["data"]
    dropped = {"with an empty side": 2, "of equal sides": 1, "of dev or test": 0, "repeated": 2}
    assert (data["pairs"], data["dropped"]) == (1 + len(PAIRS), dropped)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["distill.iterations=0"], "distill.iterations=0: must be at least 1"),
        (["distill.cross.warmup=1"], "distill.cross.warmup=1.0: must be at least 0 and below 1"),
        (["distill.select=dev", "data.dev=null"], "distill.select=dev: there is no development set"),
        (["data.path=null"], "data.path: no pairs to learn from"),
        (["data.path=null", "data.pool=[nothing]"], "nothing: neither a file nor a known set"),
        (
            ["data=stsb", "data.dev=null", "data.path=null", "paths.dataset=nowhere"],
            "stsb-train: .*download_dataset.sh",
        ),
        (["data.path=null", "data.pool=[stsb-trian]"], "stsb-trian: .* did you mean stsb-train"),
        (["data.path=null", "data.sentences=nowhere.txt"], "data.sentences=nowhere.txt: no such file"),
        (["data.extra=qqp-train"], "qqp-train: the Hugging Face hub cannot be reached"),
        (["data.flatten=true"], "data.flatten=true: .*data.limit=N"),
        (["data.limit=0"], "data.limit=0: must be at least 1"),
        (["data.extra=5"], "data.extra=5: must be a known set, a file, or a list"),
        (["data.columns.sentence1=-2"], "data.columns.sentence1=-2: must be a column's name, or its number from 0"),
        (["data.columns.score=null"], "dev.tsv: has to be scored, and data.columns.score=null"),
        (["paths.artifacts=train.py"], "paths.artifacts=train.py: must be a folder, or nothing yet"),
        (
            ["distill.direction=gold_to_bi", "data.flatten=true", "data.limit=9"],
            "takes no data.flatten, no data.extra and no distill.centre",
        ),
        (["data.mining.random=0", "data.mining.nearest=0", "data.mining.lexical=0"], "data.mining: the shares"),
        (
            ["distill.direction=bi_to_cross", "distill.iterations=2"],
            "bi_to_cross is one step; set distill.iterations=1",
        ),
        (["distill.direction=gold_to_cross"], "gold_to_cross: no gold scores to learn from; give data.gold"),
        (["model.bi=[a,b]"], "model.bi names 2 and model.cross 1 models: members come in pairs"),
        (["model.bi_layers=[1,2]"], "model.bi_layers: a list of 2, where model.bi names 1 models"),
        (["model.pooling=men"], "model.pooling=men: no such choice; did you mean mean?"),
        (["model.cross_layers=0"], "model.cross_layers=0: must be at least 1, or null"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["model.bi=null"], "model.bi=None: must be a hub name"),
        (["model.cross=[]"], r"model.cross=\[\]: must be a hub name"),
        (["model.bi=no/model"], "model.bi=no/model: .*hub cannot be reached"),
        (["model.bi_layers=9"], "9 layers asked for, the model has 3"),
        (["model.bi_max_tokens=100"], "max_tokens=100, but the model reads 64 at most"),
        (["trainer.accelerator=gpu"], "trainer.accelerator=gpu: torch sees no GPU here"),
    ],
)
def test_a_wrong_setting_is_told_in_one_line_and_nothing_is_built(setting, overrides, says):
    if "gpu" in overrides[0] and __import__("torch").cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(InputError, match=says) as error:
        setting.run(*overrides)
    assert "\n" not in str(error.value)
    assert setting.taught() == []
    assert not (setting.root / "run" / "results.csv").exists()


def test_a_cross_encoder_as_the_bi_encoder_is_refused(setting, tmp_path):
    CrossEncoder.load(setting.model, new_head=0).save(tmp_path / "cross")
    with pytest.raises(InputError, match=r"model.bi=.*is a cross-encoder, and a bi-encoder is needed"):
        setting.run(f"model.bi={tmp_path}/cross")


def test_a_test_file_whose_name_is_too_long_to_report_under_is_refused_before_anything_is_built(setting, files):
    path = setting.root / f"{'n' * 245}.tsv"
    path.write_bytes((files / "test.tsv").read_bytes())
    with pytest.raises(InputError, match="results are written under this name, which is too long; rename the file"):
        setting.run(f"data.test=[{path}]")
    assert setting.taught() == []


def test_a_model_that_changes_while_it_is_read_is_refused_though_the_change_is_undone(setting, bert, monkeypatch):
    folder = Path(shutil.copytree(bert, setting.root / "model"))
    load = BiEncoder.load.__func__

    def changing(cls, *arguments, **settings):
        weights = folder / "model.safetensors"
        weights.rename(folder / "aside")
        shutil.copy(folder / "aside", weights)
        loaded = load(cls, *arguments, **settings)
        (folder / "aside").replace(weights)
        return loaded

    monkeypatch.setattr(BiEncoder, "load", classmethod(changing))
    with pytest.raises(InputError, match=r"model.bi=.*: changed while it was read; give the command again"):
        setting.run(f"model.bi={folder}")
    monkeypatch.undo()


def test_two_files_that_would_be_reported_under_one_name_are_refused(setting, files, tmp_path):
    """Else selection by the one would be selection by the other."""
    (tmp_path / "dev.tsv").write_bytes((files / "test.tsv").read_bytes())
    with pytest.raises(InputError, match=r"dev.tsv and .*dev.tsv would be reported under one name"):
        setting.run(f"data.test=[{tmp_path}/dev.tsv]")


def test_a_model_that_is_no_encoder_is_refused_in_one_line(setting, tmp_path):
    import shutil

    import transformers as hf

    config = hf.T5Config(vocab_size=90, d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2)
    hf.AutoModel.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(setting.model / name, tmp_path / "model")
    with pytest.raises(InputError, match=r"model.bi=.*t5 with this tokenizer is no encoder of BERT's kind"):
        setting.run(f"model.bi={tmp_path}/model")


def test_the_card_of_a_start_that_is_handed_back_says_so():
    text = [card_of(Row(i, "bi", 0, "dev", 3, 0.5, 0.5), ["sickr-all"]) for i in (0, 1)]
    assert ("unchanged" in text[0], "unchanged" in text[1]) == (True, False)
    assert ("not for commercial use" in text[0], "not for commercial use" in text[1]) == (False, True)


def card_of(row, sources, shared=0):
    return card("bi", "start", "It was taught.", sources, shared, [row], "python train.py")


def test_the_lines_for_a_notebook_in_the_readme_run(setting, monkeypatch):
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (lines,) = [block for block in readme.split("```python\n")[1:] if "distill(" in block]
    assert lines.count('"experiment=quickstart"') == 1
    monkeypatch.chdir(setting.root)
    monkeypatch.setattr("transenc.cli.compose", lambda name, overrides: setting.config())
    found: dict[str, object] = {}
    exec(lines.split("```")[0], found)
    assert -1 <= found["rho"] <= 1  # type: ignore[operator]
    assert (setting.root / "run" / "report.html").exists()


def test_tensorboard_has_curves_by_stage_also_of_stages_that_were_reused(setting):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def tags(folder):
        events = EventAccumulator(str(Path(folder) / "tensorboard"))
        events.Reload()
        return events.Tags()

    first = tags(setting.run())
    assert {"1/cross/loss", "1/cross/learning_rate", "1/cross/selection", "1/bi/loss"} <= set(first["scalars"])
    assert {"spearman/test/bi", "spearman/test/cross"} <= set(first["scalars"])
    assert set(first["histograms"]) == {"labels/bi", "labels/cross"}
    assert tags(setting.run(name="again")) == first


def test_tensorboard_holds_the_settings_and_what_the_hparams_tab_compares_runs_by(setting):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    distill(setting.config(), setting.root, ["distill.iterations=1", "trainer=cpu", "hydra.run.dir=x"])
    events = EventAccumulator(str(setting.root / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("config/text_summary")
    assert b'"iterations": 1' in text.tensor_proto.string_val[0]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    chosen = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert chosen["distill.iterations"].number_value == 1
    assert chosen["trainer"].string_value == "cpu"
    assert set(chosen) == {"distill.iterations", "trainer", "model.bi", "model.cross", "seed"}
    results = pandas.read_csv(setting.root / "results.csv")
    for kind in ("bi", "cross"):
        (score,) = events.Scalars(f"selected/{kind}/test")
        assert any(abs(results[results.encoder == kind].spearman - score.value) < 1e-6)


def test_mlflow_is_told_settings_curves_and_scores(setting, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="pip install mlflow-skinny")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{setting.root}/mlflow.db")
    setting.run("loggers=[mlflow]")
    client = mlflow.MlflowClient(f"sqlite:///{setting.root}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("transenc").experiment_id])
    assert run.data.params["distill.iterations"] == "1"
    assert {"1/cross/loss", "spearman/test/bi", "labels/bi/mean", "selected/bi/test"} <= set(run.data.metrics)
    assert run.info.status == "FINISHED"


def test_weights_and_biases_is_told_without_a_network(setting, monkeypatch):
    pytest.importorskip("wandb", reason="pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = setting.run("loggers=[wandb]")
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    for tag in (b"1/cross/loss", b"spearman/test/bi", b"selected/bi/test"):
        assert tag in file.read_bytes()


def test_a_tracker_that_fails_is_told_once_and_ends_no_run(setting, monkeypatch, caplog):
    class Broken:
        def log_metrics(self, values, step):
            raise ConnectionError("no way\nto the server")

    monkeypatch.setattr("transenc.trackers._make_logger", lambda *_: Broken())
    folder = setting.run("loggers=[mlflow]")
    assert [r.message for r in caplog.records if "mlflow" in r.message] == [
        "mlflow: no way to the server; it gets no more of this run"
    ]
    assert (folder / "run.json").exists()


def test_published_figures_belong_to_a_recipe_as_it_is(tmp_path):
    cfg = compose("train", ["experiment=paper_self_sickr"])
    for arguments, shown in (
        (["seed=1"], True),
        (["model=simcse_bert_base"], False),
        (["distill.iterations=1"], False),
    ):
        assert bool(RunWriter(cfg, tmp_path, ["experiment=paper_self_sickr", *arguments]).cfg.published) == shown


def test_a_run_that_begins_again_is_not_finished(setting, monkeypatch):
    folder = setting.run()
    monkeypatch.setattr(RunWriter, "finish", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        setting.run()
    assert not (folder / "run.json").exists()
    monkeypatch.undo()


def test_a_logger_that_is_not_installed_is_one_line_that_says_what_to_install(setting, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("wandb")

    monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger", missing)
    with pytest.raises(InputError, match=r"loggers=\[wandb\]: wandb is not installed; pip install wandb"):
        setting.run("loggers=[wandb]")
