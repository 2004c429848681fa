"""Measures against known values, and the bootstrap of models that differ and of one that does not."""

import math

import numpy as np
import pytest

from transenc.metrics import auc, average_precision, bootstrap, compute_metrics, p_value, pearson, ranked, spearman


def test_auc_is_how_often_a_one_lies_above_a_zero_ties_counting_half():
    raw, gold = np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1])
    pairs = [(one > zero) + (one == zero) / 2 for one in raw[gold == 1] for zero in raw[gold == 0]]
    assert auc(raw, gold) == pytest.approx(np.mean(pairs))


def test_average_precision_is_the_mean_precision_at_each_one():
    assert average_precision(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0])) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("raw", [np.ones(4), np.array([0.1, np.nan, 0.2, 0.3])])
def test_of_constant_scores_and_of_nan_every_correlation_is_undefined(raw):
    gold = np.array([0.0, 1.0, 2.0, 3.0])
    assert np.isnan([spearman(raw, gold), pearson(raw, gold), spearman(gold, raw), pearson(gold, raw)]).all()


def test_differences_by_rounding_alone_are_no_order():
    rounding = np.array([1, 1 + 3e-7, 1 - 2e-7, 1])
    assert math.isnan(spearman(rounding, np.array([1, 2, 3, 4])))
    for scale in (1, 1e-4, 1e-9):
        assert spearman(scale * np.arange(4), np.array([1, 2, 3, 4])) == pytest.approx(1)


def test_where_all_gold_scores_are_equal_or_there_is_one_every_measure_is_undefined():
    for gold in (np.ones(4), np.ones(1)):
        assert np.isnan(list(compute_metrics(np.arange(len(gold)), gold, True).values())).all()


def test_graded_tasks_have_no_auc():
    raw = np.arange(4.0)
    assert set(compute_metrics(raw, raw, False)) == {"spearman", "pearson"}
    assert set(compute_metrics(raw, np.array([0.0, 0.0, 1.0, 1.0]), True)) == {
        "spearman",
        "pearson",
        "auc",
        "average_precision",
    }


def test_the_interval_holds_the_measure_and_p_tells_better_from_equal():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=300)
    good, bad = gold + 0.5 * rng.normal(size=300), gold + 2 * rng.normal(size=300)
    like_good = gold + 0.5 * rng.normal(size=300)
    drawn = bootstrap([good, bad, like_good], gold, False, 400)
    low, high = np.quantile(drawn[:, 0], (0.025, 0.975))
    assert low < spearman(good, gold) < high
    assert p_value(drawn[:, 0], drawn[:, 1]) == 2 / 401
    assert p_value(drawn[:, 0], drawn[:, 2]) > 0.05
    assert p_value(drawn[:, 0], drawn[:, 0]) == 1


def test_undefined_correlations_rank_below_missing_ones_and_both_below_all_others():
    assert sorted([0.0, None, 1.0, -1.0, float("nan"), -0.5], key=ranked)[1:] == [None, -1.0, -0.5, 0.0, 1.0]
