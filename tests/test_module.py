"""Batches of labelled pairs: both orders, a new order each epoch, nothing mutated, no gold scores."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import PAIRS

from transenc.data.module import LengthGroupedSampler, PairDataModule
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder, CrossEncoder


@pytest.fixture
def cross(bert):
    return CrossEncoder.load(bert, new_head=0)


def tokens_of(encoder, gold=None):
    sentences, numbers = number_sentences(PAIRS)
    return replace(tokenise(sentences, numbers, encoder.tokenizer), gold=gold)


def module(encoder, **settings):
    settings = {"batch_size": 3, "both_orders": False, "seed": 0} | settings
    labels = np.linspace(0, 1, len(PAIRS), dtype=np.float32)
    return PairDataModule(tokens_of(encoder), labels, encoder.collate, **settings)


def drawn(datamodule, epoch=0):
    """(token ids of a row without padding, its label), in the order of the epoch."""
    datamodule.trainer = SimpleNamespace(current_epoch=epoch)
    rows = []
    for batch in datamodule.train_dataloader():
        for ids, mask, label in zip(*batch["inputs"].values(), batch["labels"], strict=True):
            rows.append((tuple(ids[mask.bool()].tolist()), label.item()))
    return rows


def inputs_of(encoder, pairs):
    tokenizer = encoder.tokenizer
    return [tuple(tokenizer(*pair, truncation=True)["input_ids"]) for pair in pairs]


@pytest.fixture
def plain(models):
    return CrossEncoder.load(models["roberta"], new_head=0)  # inputs of ids and mask only


def test_both_orders_have_one_label(plain):
    labels = np.linspace(0, 1, len(PAIRS), dtype=np.float32).tolist()
    swapped = [(b, a) for a, b in PAIRS]
    expected = list(zip(inputs_of(plain, PAIRS + swapped), labels + labels, strict=True))
    assert sorted(drawn(module(plain, both_orders=True))) == sorted(expected)


@pytest.mark.parametrize(
    ("both_orders", "least", "passes"), [(True, 11, 3), (True, 10, 2), (True, 5, 1), (False, 4, 2)]
)
def test_an_epoch_passes_over_the_pairs_until_it_has_enough_batches(plain, both_orders, least, passes):
    """7 pairs in batches of 3."""
    labels = np.linspace(0, 1, len(PAIRS), dtype=np.float32).tolist()
    once = list(zip(inputs_of(plain, PAIRS), labels, strict=True))
    if both_orders:
        once += zip(inputs_of(plain, [(b, a) for a, b in PAIRS]), labels, strict=True)
    datamodule = module(plain, both_orders=both_orders, min_batches=least)
    assert sorted(drawn(datamodule)) == sorted(passes * once)
    assert datamodule.batches == -(-passes * len(once) // 3) >= least


def test_one_order_is_the_pairs_as_they_stand(plain):
    labels = np.linspace(0, 1, len(PAIRS), dtype=np.float32).tolist()
    assert sorted(drawn(module(plain))) == sorted(zip(inputs_of(plain, PAIRS), labels, strict=True))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else(plain):
    first = drawn(module(plain))
    torch.manual_seed(99)
    torch.rand(7)
    assert drawn(module(plain)) == first
    assert drawn(module(plain), epoch=1) != first
    assert drawn(module(plain, seed=1)) != first


def test_what_is_done_is_left_out_and_the_rest_stays_in_its_order(plain):
    uninterrupted, datamodule = [drawn(module(plain), epoch) for epoch in (0, 1)], module(plain)
    for done in range(2 * datamodule.batches):
        datamodule.done = done
        assert drawn(datamodule) == uninterrupted[done // datamodule.batches][done % datamodule.batches * 3 :]
    datamodule.done = 1
    assert drawn(datamodule, epoch=1) == uninterrupted[1]


def test_an_epoch_holds_every_item_once_in_batches_of_like_length():
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    order = np.array(list(LengthGroupedSampler(lengths, 32, seed=0)))
    assert sorted(order.tolist()) == list(range(1000))
    batches = order[:992].reshape(-1, 32)
    spread = np.ptp(lengths[batches], axis=1)
    assert spread.mean() < 12  # of 57; 54 at random
    assert np.corrcoef(np.arange(31), lengths[batches].mean(axis=1))[0, 1] < 0.5  # short ones do not come first


@pytest.mark.parametrize("kind", [BiEncoder, CrossEncoder])
def test_making_batches_changes_nothing_it_is_made_from(bert, kind):
    encoder = CrossEncoder.load(bert, new_head=0) if kind is CrossEncoder else BiEncoder.load(bert)
    datamodule = module(encoder, both_orders=kind is CrossEncoder)
    arrays = [datamodule.pairs.ids, datamodule.pairs.offsets, datamodule.pairs.pairs, datamodule.labels]
    before = [array.copy() for array in arrays]
    loader = datamodule.train_dataloader()
    first = [batch["inputs"]["input_ids"].shape for batch in loader]
    for batch in loader:
        batch["inputs"]["input_ids"].fill_(0)
        batch["labels"].fill_(-1)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert [batch["inputs"]["input_ids"].shape for batch in loader] == first


def test_pairs_with_gold_scores_are_refused(cross):
    tokens = tokens_of(cross, gold=np.zeros(len(PAIRS)))
    labels = np.zeros(len(PAIRS), dtype=np.float32)
    with pytest.raises(AssertionError, match="no gold"):
        PairDataModule(tokens, labels, cross.collate, batch_size=2, both_orders=True, seed=0)
