"""How far a student goes from its initial weights towards its trained ones, and what it is judged by."""

from collections.abc import Mapping, Sequence
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
    """What a student's checkpoints are compared by: its metric on N pairs.

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


def improves(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> bool:
    """The one-standard-error rule (Breiman et al. 1984): whether scores agree better with labels than others do by more
    than the standard error of the difference, from a paired bootstrap.

    Args:
        before, after: [N] scores of the same pairs. Fewer than `MIN_HELD_OUT` tell nothing: their resamples are often
            alike.
        labels: [N], by Spearman.
    """
    gain = spearman(after, labels) - spearman(before, labels)
    if len(labels) < MIN_HELD_OUT or not gain > 0:  # an undefined one is not
        return False
    values = bootstrap([before, after], labels, False, RESAMPLES)
    return bool(gain > np.nanstd(values[:, 1] - values[:, 0]))


def interpolate_by_agreement(
    encoder: "PairEncoder",
    initial: Mapping[str, torch.Tensor],
    before: np.ndarray,
    shares: Sequence[float],
    metric: SelectionMetric,
    initial_labels: np.ndarray,
) -> float:
    """Move an encoder from its initial weights towards its trained ones.

    The first step must agree better with its own labels by more than a standard error (`improves`), each further one
    better than the step before. None may agree less with the initial bi-encoder's labels than the initial weights do:
    these labels do not repeat the cross-encoder's mistakes.

    Args:
        encoder: with its trained weights; it ends with those of the last step that improved.
        initial: its weights before training.
        before: [N] its similarities with these.
        shares: of trained weights in each step, ascending.
        metric: the pairs, and the labels to agree with.
        initial_labels: [N], the initial bi-encoder's of the same pairs; the same as in `metric` where it has none.

    Returns:
        The share reached; 0: the initial weights are kept.
    """
    trained = {name: weight.clone() for name, weight in encoder.trained_state().items()}
    reached, weights, agreement = 0.0, initial, -1.0
    lowest = spearman(before, initial_labels)
    for share in shares:
        step = interpolated(initial, trained, share)
        encoder.load_state_dict(step, strict=False)
        scores = similarities(encoder, metric.pairs, metric.config)
        value = spearman(scores, metric.truth)
        better = value > agreement if reached else improves(before, scores, metric.truth)
        if not better or spearman(scores, initial_labels) < lowest:
            break
        reached, weights, agreement = share, step, value
    encoder.load_state_dict(weights, strict=False)
    return reached
