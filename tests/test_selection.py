"""Selection: by what the models of a run are selected, and which of them are not to be used."""

import html
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import weights
from safetensors.torch import load_file

from transenc.artifacts import Artifact
from transenc.config.schema import Select
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.metrics import spearman
from transenc.model_card import card
from transenc.report.page import write_report
from transenc.results import Row
from transenc.selection import Selected, note, select, warning
from transenc.stages.evaluation import Member
from transenc.stages.interpolation import InitialState, SelectionMetric, improves, interpolate


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
        assert selected[kind] == {
            "iteration": best.iteration,
            "encoder": kind,
            "place": f"{best.iteration}/{kind}",
            "score": best.spearman,
        }
        model = ours.load(folder / "models" / f"{kind}-encoder")
        scores = model.predict(both)
        if kind == "bi":
            theirs = st.SentenceTransformer(str(folder / "models" / "bi-encoder"), device="cpu")
            first, second = (theirs.encode(list(side), convert_to_tensor=True) for side in zip(*both, strict=True))
            expected = (first * second).sum(1) / first.norm(dim=1) / second.norm(dim=1)
            np.testing.assert_allclose(scores, expected, atol=1e-5)
        else:
            theirs = st.CrossEncoder(str(folder / "models" / "cross-encoder"), device="cpu")
            np.testing.assert_allclose(scores, theirs.predict(both), atol=1e-5)
        row = results[(results.encoder == kind) & (results.task == "test") & (results.iteration == best.iteration)]
        assert pandas.Series(scores).corr(table.score, method="spearman") == pytest.approx(
            row.spearman.item(), abs=0.02
        )
    assert setting.score == pytest.approx((selected["bi"]["score"] + selected["cross"]["score"]) / 2)


@pytest.mark.parametrize("select", ["last", "agreement"])
def test_selection_without_gold_scores_never_reads_any(setting, files, select, tmp_path):
    """Inverting the gold scores changes the results and nothing else."""
    for name in ("dev", "test"):
        table = pandas.read_csv(files / f"{name}.tsv", sep="\t")
        table.assign(score=5 - table.score).to_csv(tmp_path / f"{name}.tsv", sep="\t", index=False)
    settings = [f"distill.select={select}", "distill.iterations=2"]
    first = setting.run(*settings)
    inverted = [f"data.dev={tmp_path}/dev.tsv", f"data.test=[{tmp_path}/test.tsv]"]
    second = setting.run(*settings, *inverted, f"paths.artifacts={setting.root}/other-artifacts", name="other")
    assert weights(first) == weights(second)
    runs = [json.loads((folder / "run.json").read_text())["selected"] for folder in (first, second)]
    assert runs[0] == runs[1]
    assert runs[0]["by"] == select
    if select == "last":
        assert runs[0]["bi"] == {"iteration": 2, "encoder": "bi", "place": "2/bi", "score": None}
        assert setting.score is None
    else:
        assert -1 <= setting.score <= 1


def test_a_run_needs_no_gold_scores_at_all(setting):
    folder = setting.run("data.dev=null", "data.test=[]")
    assert json.loads((folder / "run.json").read_text())["selected"]["by"] == "agreement"
    assert pandas.read_csv(folder / "results.csv").empty


@pytest.mark.parametrize("test", ["dev", "copy", "test"])
def test_a_development_set_that_is_a_test_set_too_or_its_copy_is_warned_of(setting, files, tmp_path, caplog, test):
    shutil.copy(files / "dev.tsv", tmp_path / "copy.tsv")
    folder = tmp_path if test == "copy" else files
    setting.run(f"data.dev={files}/dev.tsv", f"data.test=[{folder}/{test}.tsv]", "distill=bi_to_cross")
    assert ("is in data.test too: encoders are selected by its scores" in caplog.text) == (test != "test")


@pytest.mark.parametrize("few", [True, False])
def test_a_small_development_set_is_warned_of(setting, files, tmp_path, caplog, few):
    lines = (files / "dev.tsv").read_text().splitlines(keepends=True)
    (tmp_path / "dev.tsv").write_text("".join([lines[0], *(lines[1:] * 30)[: 29 if few else 30]]))
    setting.run(f"data.dev={tmp_path}/dev.tsv", "distill=bi_to_cross")
    assert ("dev.tsv: 29 pairs are too few to tell which encoder is better" in caplog.text) == few


def test_automatic_selection_is_by_dev_if_there_is_one_and_by_agreement_if_not(setting):
    by = lambda folder: json.loads((folder / "run.json").read_text())["selected"]["by"]  # noqa: E731
    assert by(setting.run()) == "dev"
    assert by(setting.run("data.dev=null", name="without")) == "agreement"


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


def warnings(folder):
    return json.loads((folder / "run.json").read_text())["warnings"]


def test_a_model_that_scores_below_the_initial_bi_encoder_is_warned_of_in_run_card_log_and_report(
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


def test_without_gold_scores_a_cross_encoder_that_hardly_agrees_with_its_teacher_is_warned_of(setting, caplog):
    caplog.set_level("INFO", "transenc")
    folder = setting.run("data.dev=null", "data.test=[]", "distill.holdout=0.3")
    scores = {
        kind: json.loads((folder / "run.json").read_text())["selected"][kind]["score"] for kind in ("bi", "cross")
    }
    assert set(warnings(folder)) == {"cross"}  # a bi-encoder that disagrees with a poor teacher may be right
    assert scores["cross"] < 0.8
    assert (
        f"Do not use cross: Spearman with its teacher's labels is {scores['cross']:.2f} on held-out pairs"
        in caplog.text
    )
    notes = json.loads((folder / "run.json").read_text())["notes"]
    told = "Without scored pairs (data.test), whether bi beat the initial bi-encoder is not known."
    assert (told in caplog.text) == ("bi" not in notes)  # of cross it is told already


def test_few_held_out_pairs_do_not_tell_whether_a_cross_encoder_agrees_with_its_teacher():
    few, enough = (
        Member("cross", 1, 0, False, Artifact(Path(), "", {"selection": -1.0, "held_out": n})) for n in (9, 10)
    )
    assert warning(few, [], Select.agreement, []) is None
    assert "is -1.00 on held-out pairs" in warning(enough, [], Select.agreement, [])


def test_few_held_out_pairs_are_told_where_they_kept_the_initial_weights():
    texts = []
    for held_out in (9, 10):
        facts = {"step": 0, "trained": False, "held_out": held_out}
        texts.append(note(Selected(Member("bi", 1, 0, False, Artifact(Path(), "", facts)), 0.5), Select.agreement))
    assert texts[0].startswith("1/bi: 9 held-out pairs are too few to tell")
    assert texts[1].startswith("1/bi: its agreement with held-out labels did not improve enough")


def test_an_undefined_result_on_one_set_hides_no_loss_on_another():
    member = Member("cross", 1, 0, False, Artifact(Path(), "", {}))
    values = {"good": (0.6, 0.2), "flat": (math.nan, math.nan), "one": (0.1, math.nan)}
    rows = [
        Row(i, kind, 0, task, 9, value, value)
        for task, both in values.items()
        for (i, kind), value in zip([(0, "bi"), (1, "cross")], both, strict=True)
    ]
    text = warning(member, rows, Select.agreement, list(values))
    assert text == "20.00 on good, below the initial bi-encoder's 60.00"


def test_an_iteration_that_improved_nothing_is_not_selected_before_one_that_did(tmp_path):
    facts = [{"selection": 0.8, "step": 100}, {"selection": 0.9, "step": 0}]
    members = [Member("bi", i, 0, False, Artifact(tmp_path, "", one)) for i, one in enumerate(facts, start=1)]
    assert select(members, [], Select.agreement, None) == [Selected(members[0], 0.8)]


def test_the_card_of_initial_weights_that_three_iterations_kept_says_unchanged(setting, monkeypatch):
    monkeypatch.setattr("transenc.stages.interpolation.improves", lambda *_: False)
    folder = setting.run("distill.select=agreement", "distill.failure=ignore", "distill.iterations=3")
    initial, final = (BiEncoder.load(path).state_dict() for path in (setting.model, folder / "models" / "bi-encoder"))
    assert all((final[name] == weight).all() for name, weight in initial.items())
    card = (folder / "models" / "bi-encoder" / "README.md").read_text()
    assert "unchanged: " in " ".join(card.split())
    assert "Fine-tuned" not in card


def test_the_card_of_an_initial_encoder_that_is_handed_back_says_so():
    text = [card_of(Row(i, "bi", 0, "dev", 3, 0.5, 0.5), ["sickr-all"], trained=i > 0) for i in (0, 1)]
    assert ("unchanged" in text[0], "unchanged" in text[1]) == (True, False)
    assert ("not for commercial use" in text[0], "not for commercial use" in text[1]) == (False, True)


def card_of(row, sources, shared=0, trained=True):
    return card("bi", "model", "model", "It was trained.", sources, shared, [row], "python train.py", trained=trained)


@pytest.mark.parametrize(
    ("scores", "iteration"), [([math.nan, 0.1], 2), ([math.nan, math.nan], 1), ([0.3, math.nan], 1), ([0.2, 0.2], 1)]
)
def test_a_defined_score_is_selected_before_an_undefined_one_and_the_earliest_of_equals(tmp_path, scores, iteration):
    members = [
        Member("bi", number, 0, False, Artifact(tmp_path, "", {"selection": score}))
        for number, score in enumerate(scores, start=1)
    ]
    (selected,) = select(members, [], Select.agreement, None)
    assert selected.member.iteration == iteration
    assert selected.score == (None if math.isnan(scores[iteration - 1]) else scores[iteration - 1])


@pytest.mark.parametrize("kept", [True, False])
def test_a_bi_encoder_that_does_not_improve_is_not_handed_out(setting, kept, caplog, monkeypatch):
    """At a rate that ruins it, the initial weights are kept; log, run.json and card say so."""
    caplog.set_level("INFO", "transenc")
    if not kept:
        monkeypatch.setattr("transenc.stages.training.interpolate", lambda *_: 1.0)
    settings = ["distill.select=agreement", "distill.holdout=0.4", "distill.failure=ignore", "distill.teachers=both"]
    folder = setting.run(*settings, "distill.bi.learning_rate=5e-2")
    results = pandas.read_csv(folder / "results.csv").query("encoder == 'bi' and task == 'test'").spearman
    assert kept == (results.nunique() == 1)
    text = "1/bi: its agreement with held-out labels did not improve enough; the initial weights are kept."
    assert json.loads((folder / "run.json").read_text())["notes"] == ({"bi": text} if kept else {})
    card = (folder / "models/bi-encoder/README.md").read_text()
    reason = "Its agreement with held-out labels did not improve enough; the initial weights are kept."
    assert (text in caplog.text) == (reason in card) == ("Fine-tuned from" not in card) == kept


def test_an_untrained_cross_encoder_is_no_candidate(setting):
    folder = setting.run("distill.select=agreement")
    curves = pandas.read_csv(folder / "curves.csv").query("selection.notna()")
    assert set(curves[curves.step == 0].place) == {"1/bi"}


@pytest.mark.parametrize(
    ("before", "after", "better"),
    [
        (0.3, 0.3, False),  # the same
        (0.3, 0.28, False),  # a gain that 60 pairs cannot show
        (0.3, 0.01, True),
        (0.01, 0.3, False),
        (0.3, None, False),  # constant scores agree with nothing
    ],
)
def test_an_encoder_improves_on_another_by_more_than_a_standard_error_or_not_at_all(before, after, better):
    rng = np.random.default_rng(0)
    labels, noise = rng.random(60), rng.normal(size=(2, 60))
    scores = [labels + size * noise[i] if size is not None else np.ones(60) for i, size in enumerate((before, after))]
    assert improves(*scores, labels, one_standard_error=True) == better
    agreement = [spearman(one, labels) for one in scores]
    assert improves(*scores, labels, one_standard_error=False) == (agreement[1] > agreement[0])


def test_interpolated_weights_lie_between_the_initial_and_the_trained_ones(setting):
    weights = {}
    for share in (1, 0.25):
        folder = setting.run("distill.select=last", f"distill.interpolate={share}", name=f"share-{share}")
        weights[share] = load_file(folder / "models" / "bi-encoder" / "model.safetensors")
    initial = BiEncoder.load(setting.model).backbone.state_dict()
    changed = [name for name in initial if (weights[1][name] != initial[name]).any()]
    assert changed
    for name in changed:
        between = initial[name] + 0.25 * (weights[1][name] - initial[name])
        np.testing.assert_allclose(weights[0.25][name], between, atol=1e-6)


@pytest.mark.parametrize("one_standard_error", [True, False])
@pytest.mark.parametrize(
    ("own", "initially", "moves"),  # how much better the scores after agree with either labels
    [("surely", "surely", True), ("slightly", "surely", False), ("surely", "slightly", False), ("no", "surely", False)],
)
def test_by_agreement_a_bi_encoder_moves_if_it_agrees_better_with_its_labels_and_with_the_initial_ones(
    bert, monkeypatch, own, initially, moves, one_standard_error
):
    labels, initial_labels, before, after = np.random.default_rng(0).random((4, 60))
    better = {id(labels): own, id(initial_labels): initially}

    def improves(before, after, labels, one_standard_error):
        return better[id(labels)] in ("surely", *(() if one_standard_error else ("slightly",)))

    monkeypatch.setattr("transenc.stages.interpolation.similarities", lambda *_: after)
    monkeypatch.setattr("transenc.stages.interpolation.improves", improves)
    encoder = BiEncoder.load(bert)
    initial = InitialState({name: weight.clone() for name, weight in encoder.trained_state().items()}, before)
    trained = {name: weight + 1 if weight.is_floating_point() else weight for name, weight in initial.weights.items()}
    encoder.load_state_dict(trained, strict=False)
    metric = SelectionMetric(None, labels, False, {})
    share = 0.25 if moves or (not one_standard_error and "no" not in (own, initially)) else 0
    assert interpolate(encoder, initial, 0.25, metric, [labels, initial_labels], one_standard_error) == share
    for name, weight in encoder.trained_state().items():
        torch.testing.assert_close(weight, torch.lerp(initial.weights[name], trained[name], share))


@pytest.mark.parametrize("select", ["last", "agreement"])
@pytest.mark.parametrize(("well_pooled", "share"), [(True, 0.25), (False, 1)])
def test_a_bi_encoder_goes_all_the_way_on_less_proof_where_its_embeddings_and_tokens_disagree(
    setting, artifacts_by_title, monkeypatch, select, well_pooled, share
):
    monkeypatch.setattr("transenc.stages.run.WELL_POOLED", -1 if well_pooled else 1)
    asked, sure = [], []
    monkeypatch.setattr("transenc.stages.interpolation.improves", lambda *values: not sure.append(values[-1]))
    monkeypatch.setattr(
        "transenc.stages.interpolation.interpolated", lambda initial, trained, share: asked.append(share) or trained
    )
    settings = ["distill.late_interaction=true", "distill.interpolate=0.25", "distill.failure=ignore"]
    setting.run(f"distill.select={select}", *settings)
    assert sure == ([well_pooled] * 2 if select == "agreement" else [])
    assert asked == ([] if (select, share) == ("last", 1) else [share])  # then there is nothing to interpolate


def test_a_bi_encoder_is_judged_by_the_initial_labels_too(setting, monkeypatch):
    """Where these hold late interaction, and so more than the cosines that are judged by them."""

    def judge(encoder, initial, share, metric, judges, one_standard_error):
        assert (metric.truth == judges[0]).all()
        asked.append(any((judges[0] != labels).any() for labels in judges[1:]))
        return share

    monkeypatch.setattr("transenc.stages.training.interpolate", judge)
    asked = []
    for late in (True, False):
        method = ["distill.teachers=both", f"distill.late_interaction={late}", "distill.failure=ignore"]
        setting.run("distill.select=agreement", *method, name=f"late-{late}")
    assert asked == [True, False]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["distill.interpolate=0"], "^distill.interpolate=0.0: must be above 0, and at most 1$"),
        (["distill.interpolate=0.5", "distill.bi.lora_rank=2"], "^distill.interpolate=0.5: adapters are not interpol"),
    ],
)
def test_an_impossible_interpolation_is_refused(setting, settings, says):
    with pytest.raises(InputError, match=says):
        setting.run(*settings)


def test_a_retained_initial_encoder_has_no_selection_score(tmp_path):
    member = Member("bi", 1, 0, False, Artifact(tmp_path, "", {}))
    assert select([member], [], Select.agreement, None) == [Selected(member, None)]


@pytest.mark.parametrize(("pairs", "told"), [(39, True), (40, False)])  # of which a quarter is held out by default
def test_a_pool_too_small_to_show_a_gain_is_told_of_before_any_training(setting, pairs, told, caplog):
    setting.run("data.dev=null", "distill.failure=ignore", f"data.limit={pairs}")
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"{pairs} pairs cannot show a gain") for line in lines) == told


@pytest.mark.parametrize("count", [9, 10])
def test_fewer_than_ten_held_out_pairs_show_no_improvement(count):
    labels = np.arange(count)
    assert improves(-labels, labels, labels, one_standard_error=False) == (count == 10)


def test_a_pool_of_which_no_pair_can_be_held_out_is_refused_before_any_training(setting, tmp_path):
    (tmp_path / "two.tsv").write_text("sentence1\tsentence2\nthe dog runs\ta dog\na cat\tthe man eats\n")
    with pytest.raises(
        InputError, match=r"^2 pairs to learn from are too few to hold some out; .* distill.select=last$"
    ):
        setting.run(f"data.path={tmp_path}/two.tsv", "data.dev=null", "distill.failure=ignore")
    assert setting.trained() == []
