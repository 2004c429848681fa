"""A cross-encoder's new head begins at the mean of its labels."""

import numpy as np
import pandas
import pytest
from conftest import PAIRS
from families import ENCODERS, build

from transenc.data.tokens import number_sentences
from transenc.encoders import CrossEncoder

UNTRAINED = [
    "distill=bi_to_cross",
    "distill.cross.learning_rate=1e-12",
    "distill.failure=ignore",
    "distill.select=last",
    "distill.cross.init_bias=true",
]


def logits(encoder):
    return encoder.similarities(encoder.tokenise(*number_sentences(PAIRS)))


@pytest.mark.parametrize("family", ENCODERS)
def test_a_new_head_adds_the_logit_of_the_mean_label_to_every_pairs(models, family):
    encoder = CrossEncoder.load(models[family], new_head=0)
    before = logits(encoder)
    encoder.init_bias(0.8)
    np.testing.assert_allclose(logits(encoder) - before, np.log(0.8 / 0.2), atol=1e-4)


@pytest.mark.parametrize("mean", [0.0, 1.0])
def test_labels_that_are_all_0_or_all_1_leave_the_head_finite(bert, mean):
    encoder = CrossEncoder.load(bert, new_head=0)
    encoder.init_bias(mean)
    assert abs(encoder.backbone.classifier.bias.item()) == pytest.approx(np.log(99), rel=1e-4)


def test_a_head_without_a_bias_stays_as_it_is(tmp_path):
    encoder = CrossEncoder.load(build("qwen3", tmp_path / "model"), new_head=0)
    before = logits(encoder)
    encoder.init_bias(0.8)
    assert np.array_equal(logits(encoder), before)


def bias_after(setting, *overrides):
    folder = setting.run(*UNTRAINED, *overrides)
    labels = pandas.read_csv(folder / "labels" / "1-bi.csv").label
    return CrossEncoder.load(folder / "models" / "cross-encoder").backbone.classifier.bias.item(), labels.mean()


@pytest.mark.parametrize("adapter", [[], ["distill.cross.lora_rank=2"]])
def test_training_begins_at_the_mean_of_the_labels(setting, adapter):
    bias, mean = bias_after(setting, *adapter)
    assert bias == pytest.approx(np.log(mean / (1 - mean)), abs=1e-3)


def test_a_trained_head_begins_where_it_was(setting, tmp_path):
    trained = CrossEncoder.load(setting.model, new_head=0)
    trained.init_bias(0.3)
    trained.save(tmp_path / "trained")
    bias, _ = bias_after(setting, f"model.cross={tmp_path}/trained")
    assert bias == pytest.approx(np.log(0.3 / 0.7), abs=1e-3)


def test_a_head_that_goes_on_from_the_iteration_before_keeps_its_bias(setting):
    both = ["distill=paper", "distill.start=previous", "distill.iterations=2", "distill.cross.min_steps=0"]
    bias, mean = bias_after(setting, *both)
    assert bias == pytest.approx(np.log(mean / (1 - mean)), abs=1e-3)
    later = pandas.read_csv(setting.root / "run" / "labels" / "2-bi.csv").label.mean()
    assert abs(np.log(later / (1 - later)) - bias) > 1e-2  # so a second initialisation would show


def test_without_the_setting_a_new_head_begins_at_0(setting):
    bias, _ = bias_after(setting, "distill.cross.init_bias=false")
    assert bias == pytest.approx(0, abs=1e-3)
