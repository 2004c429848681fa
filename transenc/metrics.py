"""Metrics of similarities against gold scores, and their confidence intervals.

A correlation of one pair, of constant scores or of NaN is undefined, and so is a ranking measure where all gold scores
are equal. It is NaN here, and an empty cell in results.csv.

Axes: N pairs, M models, R resamples. Everywhere `raw` is [N] similarities of a model, on any scale, and `gold` [N] gold
scores, which are 0 or 1 for a binary task.
"""

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 200  # enough for a standard error (Efron and Tibshirani 1993, section 6.4)
MIN_HELD_OUT = 10  # pairs, for a standard error
ROUNDING = 1e-6  # relative; cosines of equal sentences differ by up to 5e-7 in fp32


def varies(values: np.ndarray) -> bool:
    """Whether there is an order in [N] values: two differ by more than rounding, and none is NaN."""
    return len(values) > 1 and bool(np.ptp(values) > ROUNDING * np.abs(values).max())


def spearman(raw: np.ndarray, gold: np.ndarray) -> float:
    """Spearman's rank correlation, in [-1, 1], or NaN."""
    from scipy.stats import spearmanr  # here: a second to import, and a run that finds all built measures nothing

    return float(spearmanr(raw, gold).statistic) if varies(raw) and varies(gold) else float("nan")


def pearson(raw: np.ndarray, gold: np.ndarray) -> float:
    """Pearson's correlation, in [-1, 1], or NaN."""
    from scipy.stats import pearsonr

    return float(pearsonr(raw, gold).statistic) if varies(raw) and varies(gold) else float("nan")


def auc(raw: np.ndarray, gold: np.ndarray) -> float:
    """Area under the ROC curve of 0/1 gold scores: how often a 1 lies above a 0. In [0, 1], or NaN."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(gold, raw)) if varies(gold) and np.isfinite(raw).all() else float("nan")


def average_precision(raw: np.ndarray, gold: np.ndarray) -> float:
    """Precision averaged over the recalls of 0/1 gold scores, in [0, 1], or NaN."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(gold, raw)) if varies(gold) and np.isfinite(raw).all() else float("nan")


def ranked(score: float | None) -> float:
    """What to sort correlations by: an undefined one (NaN) is below a missing one (None), and both below all others."""
    if score is None:
        return -1.5
    return -2.0 if math.isnan(score) else score


def main_metric(raw: np.ndarray, gold: np.ndarray, binary: bool) -> float:
    """What encoders are selected and compared by: `auc` on a binary task, `spearman` on a graded one."""
    return auc(raw, gold) if binary else spearman(raw, gold)


def compute_metrics(raw: np.ndarray, gold: np.ndarray, binary: bool) -> dict[str, float]:
    """All metrics: `spearman` and `pearson`, and for a binary task `auc` and `average_precision`."""
    values = {"spearman": spearman(raw, gold), "pearson": pearson(raw, gold)}
    if binary:
        values |= {"auc": auc(raw, gold), "average_precision": average_precision(raw, gold)}
    return values


def bootstrap(raws: Sequence[np.ndarray], gold: np.ndarray, binary: bool, resamples: int) -> np.ndarray:
    """The main metric of several models on the same resampled pairs (Efron and Tibshirani 1993, chapter 13).

    Args:
        raws: M arrays of [N] similarities.
        gold: [N] gold scores.
        binary: whether they are 0 or 1.
        resamples: R, of N pairs each, drawn with replacement; always the same ones.

    Returns:
        [R, M]; NaN where a resample leaves it undefined. The 2.5% and 97.5% quantiles of a column's numbers are a
        model's 95% interval.
    """
    rng, values = np.random.default_rng(0), np.empty((resamples, len(raws)))
    for i in range(resamples):
        rows = rng.integers(len(gold), size=len(gold))
        values[i] = [main_metric(raw[rows], gold[rows], binary) for raw in raws]
    return values


def p_value(first: np.ndarray, second: np.ndarray) -> float:
    """Two-sided p-value of "no difference" between two models, from their columns of a paired `bootstrap`, or NaN.

    Twice the share of resamples in which the difference has the other sign, with one more counted (Davison and Hinkley
    1997, section 4.2): R resamples never say less than 2 / (R + 1).
    """
    difference = (second - first)[~np.isnan(second - first)]
    if not len(difference):
        return float("nan")
    tail = min(np.sum(difference <= 0), np.sum(difference >= 0))
    return float(min(1.0, 2 * (tail + 1) / (len(difference) + 1)))
