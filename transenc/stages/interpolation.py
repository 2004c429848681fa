"""Whether a student goes from its initial weights towards its trained ones, and what it is judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from transenc.data.tokens import TokenisedPairs
from transenc.metrics import bootstrap, main_metric, spearman
from transenc.stages.models import similarities
from transenc.stages.pairs import Config

if TYPE_CHECKING:
    from transenc.encoders import PairEncoder

RESAMPLES = 200  # enough for a standard error (Efron and Tibshirani 1993, section 6.4)
MIN_HELD_OUT = 10  # pairs, for a standard error


@dataclass(frozen=True)
class SelectionMetric:
    """What a student's weights are selected by: its metric on N pairs.

    Attributes:
        pairs: the development pairs, or held-out pairs of the pool.
        truth: [N] gold scores, or the teacher's labels.
        binary: whether these are 0 or 1.
        config: how to score.
    """

    pairs: TokenisedPairs
    truth: np.ndarray
    binary: bool
    config: Config

    def __call__(self, encoder: "PairEncoder") -> float:
        return main_metric(similarities(encoder, self.pairs, self.config), self.truth, self.binary)


def interpolated(
    initial: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903, equation 1): between initial and trained weights, `share` of the
    way.
    """
    return {
        name: torch.lerp(initial[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in trained.items()
    }


def improves(before: np.ndarray, after: np.ndarray, labels: np.ndarray, one_standard_error: bool) -> bool:
    """Whether scores agree better with labels than others do, by Spearman.

    Args:
        before, after: [N] scores of the same pairs. Fewer than `MIN_HELD_OUT` tell nothing: their resamples are often
            alike.
        labels: [N].
        one_standard_error: whether by more than the standard error of the difference, from a paired bootstrap: the
            one-standard-error rule (Breiman et al. 1984).
    """
    gain = spearman(after, labels) - spearman(before, labels)
    if len(labels) < MIN_HELD_OUT or not gain > 0:  # an undefined one is not
        return False
    if not one_standard_error:
        return True
    values = bootstrap([before, after], labels, False, RESAMPLES)
    return bool(gain > np.nanstd(values[:, 1] - values[:, 0]))


def interpolate_by_agreement(
    encoder: "PairEncoder",
    initial: Mapping[str, torch.Tensor],
    before: np.ndarray,
    share: float,
    metric: SelectionMetric,
    initial_labels: np.ndarray,
    one_standard_error: bool,
) -> bool:
    """Move an encoder from its initial weights towards its trained ones, if that improves it; else put the initial ones
    back.

    It must agree better with the labels it learnt, and with the initial bi-encoder's labels, which do not repeat the
    cross-encoder's mistakes.

    Args:
        encoder: with its trained weights.
        initial: its weights before training.
        before: [N] its similarities with these.
        share: how far to go, above 0; 1: all the way.
        metric: the held-out pairs, and the labels it learnt to give.
        initial_labels: [N], the initial bi-encoder's of the same pairs; the same as in `metric` where it has none.
        one_standard_error: see `improves`.

    Returns:
        Whether it improved.
    """
    encoder.load_state_dict(interpolated(initial, encoder.trained_state(), share), strict=False)
    after = similarities(encoder, metric.pairs, metric.config)
    if all(improves(before, after, labels, one_standard_error) for labels in (metric.truth, initial_labels)):
        return True
    encoder.load_state_dict(initial, strict=False)
    return False
