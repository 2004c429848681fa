"""A flat sample: pairs of every score, as evenly as the supply allows, the same for the same seed."""

import numpy as np
import pytest

from transenc.data import mining
from transenc.data.mining import flat_sample


def histogram(scores, bins):
    return np.histogram(scores, np.linspace(*bins))[0]


def test_a_flat_sample_is_as_flat_as_the_supply_allows(monkeypatch):
    scores = np.concatenate([np.full(size, number + 0.5) for number, size in enumerate((500, 3, 100, 40, 0, 1000))])
    scores = np.concatenate([[0.0, 6.0], scores])  # the ends, so that the bins are [0, 1), ... [5, 6]
    scores = np.random.default_rng(0).permutation(scores)
    monkeypatch.setattr(mining, "BINS", 6)
    rows = flat_sample(scores, 233, seed=0)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == 233
    counts = histogram(scores[rows], (0, 6, 7)).tolist()
    assert [counts[1], counts[3], counts[4]] == [3, 40, 0]
    assert sorted([counts[0], counts[2], counts[5]]) == [63, 63, 64]


def test_a_flat_sample_depends_on_the_seed_and_reaches_every_row():
    scores = np.random.default_rng(0).normal(size=300)
    samples = [flat_sample(scores, 60, seed=seed) for seed in range(200)]
    np.testing.assert_array_equal(samples[0], flat_sample(scores, 60, seed=0))
    assert samples[0].tolist() != samples[1].tolist()
    assert set(np.concatenate(samples).tolist()) == set(range(300))


@pytest.mark.parametrize("count", [10, 11, 10**6])
def test_a_flat_sample_of_more_than_there_are_is_all(count):
    assert flat_sample(np.arange(10.0), count, seed=0).tolist() == list(range(10))


def test_scores_all_alike_are_sampled_too():
    assert len(flat_sample(np.full(50, 0.3, dtype=np.float32), 7, seed=0)) == 7
    assert len(flat_sample(np.zeros(0), 0, seed=0)) == 0
