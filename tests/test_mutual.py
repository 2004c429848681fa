"""Mutual distillation: several members, whose scores are averaged."""

import numpy as np
import pandas
import pytest

import transenc.stages.labels
from transenc.artifacts import file_digest
from transenc.encoders import BiEncoder
from transenc.results import member_name


def test_mutual_distillation_averages_labels_and_reports_members_and_ensembles(setting, models):
    """Against averages made by hand, of each member's scores."""
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
    scored = [place for stage, place in setting.built if stage == "score"]
    assert scored[:4] == ["0/bi-0", "0/bi-0", "0/bi-1", "0/bi-1"]  # each is loaded once for dev and test
    names = ["bi-encoder-0", "bi-encoder-1", "cross-encoder-0", "cross-encoder-1"]
    assert sorted(p.name for p in (folder / "models").iterdir()) == names

    for iteration, kind in ((0, "bi"), (1, "cross"), (1, "bi")):
        predictions = [pandas.read_csv(folder / "predictions" / f"{iteration}-{kind}-{i}-test.csv") for i in (0, 1)]
        both = test[test.iteration == iteration]
        for number, member in enumerate(predictions):
            row = both[(both.encoder == kind) & (both.member == number)]
            assert member.score.corr(member.gold, method="spearman") == pytest.approx(row.spearman.item(), abs=1e-4)
        mean = (predictions[0].score + predictions[1].score) / 2
        row = both[both.encoder == f"{kind}-ensemble"]
        assert mean.corr(predictions[0].gold, method="spearman") == pytest.approx(row.spearman.item(), abs=2e-3)  # ties

    labels = pandas.read_csv(folder / "labels" / "1-bi.csv")
    both = list(zip(labels.sentence1, labels.sentence2, strict=True))
    alone = [
        BiEncoder.load(name, layers=layers).predict(both) for name, layers in ((setting.model, 2), (other, None))
    ]  # clamped, which these scores need not be
    assert np.abs(labels.label - np.clip(np.mean(alone, axis=0), 0, 1)).max() < 1e-4


def test_a_single_encoder_beside_several_of_the_other_kind_has_no_number():
    keys = [(0, "bi", 0), (0, "bi", 1), (0, "bi-centred", 1), (0, "bi-ensemble", None), (1, "cross", 0)]
    assert [member_name(key, keys) for key in keys] == ["bi-0", "bi-1", "bi-centred-1", "bi-ensemble", "cross"]


@pytest.mark.slow
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
        np.testing.assert_allclose(transenc.stages.labels.average(np.stack(teachers), how), expected, atol=1e-5)


@pytest.mark.parametrize("how", ["mean", "z", "rank"])
def test_one_teacher_is_left_as_it_is_and_a_constant_one_ranks_nothing(how):
    scores = np.random.default_rng(0).random(7)
    np.testing.assert_array_equal(transenc.stages.labels.average(scores[None], how), scores)
    both = transenc.stages.labels.average(np.stack([scores, np.full(7, 0.1)]), how)
    assert list(np.argsort(both)) == list(np.argsort(scores))
    assert both.mean() == pytest.approx((scores.mean() + 0.1) / 2)
