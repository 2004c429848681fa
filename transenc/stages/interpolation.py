"""Interpolation of a student's initial and trained weights (WiSE-FT), and the metrics that say whether to keep it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from transenc.data.tokens import TokenisedPairs
from transenc.metrics import MIN_HELD_OUT, RESAMPLES, bootstrap, main_metric, spearman
from transenc.stages.models import similarities
from transenc.stages.pairs import Config

if TYPE_CHECKING:
    from transenc.encoders import PairEncoder


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


@dataclass(frozen=True)
class InitialState:
    """A student as it was before its training, if it could score already.

    Attributes:
        weights: by name.
        scores: [N] similarities of the held-out pairs; None where none are compared.
    """

    weights: dict[str, torch.Tensor]
    scores: np.ndarray | None

    @classmethod
    def of(cls, encoder: "PairEncoder", metric: SelectionMetric | None) -> Self:
        weights = {name: weight.clone() for name, weight in encoder.trained_state().items()}
        return cls(weights, None if metric is None else similarities(encoder, metric.pairs, metric.config))


def interpolate(
    encoder: "PairEncoder",
    initial: InitialState,
    share: float,
    metric: SelectionMetric | None,
    judges: Sequence[np.ndarray],
    one_standard_error: bool,
) -> float:
    """Interpolate a trained student with its weights from before. If it was compared on held-out pairs, it must then
    agree better with each judge; else the weights from before are put back.

    Args:
        encoder: with its trained weights.
        initial: before the training.
        share: of the trained weights, above 0; 1: only these.
        metric: has the held-out pairs.
        judges: [N] labels of these: those it learnt, and the initial bi-encoder's, which do not repeat the
            cross-encoder's mistakes.
        one_standard_error: see `improves`.

    Returns:
        The share of trained weights that it has now; 0: it is as it was.
    """
    encoder.load_state_dict(interpolated(initial.weights, encoder.trained_state(), share), strict=False)
    if metric is None or initial.scores is None:
        return share
    after = similarities(encoder, metric.pairs, metric.config)
    if all(improves(initial.scores, after, labels, one_standard_error) for labels in judges):
        return share
    encoder.load_state_dict(initial.weights, strict=False)
    return 0.0
