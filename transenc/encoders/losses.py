"""The losses that a student is trained by. B pairs in a batch; labels lie in [0, 1]."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

COSENT_SCALE = 20.0  # the inverse of CoSENT's temperature


def pair_loss(name: str, raw: Tensor, labels: Tensor, to_score: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean loss over a batch.

    Args:
        name: "bce", binary cross-entropy with `raw` as the logit; "mse", squared error of the score; "cosent", see
            `cosent`, of the score.
        raw: [B] cosines or logits.
        labels: [B]. Cross-entropy has no minimum for labels outside [0, 1].
        to_score: from raw to score.

    Raises:
        ValueError: there is no such loss.
    """
    if name == "bce":
        return F.binary_cross_entropy_with_logits(raw, labels)
    if name == "mse":
        return F.mse_loss(to_score(raw), labels)
    if name == "cosent":
        return cosent(to_score(raw), labels)
    raise ValueError(f"loss={name!r}: there are bce, mse and cosent")


def cosent(scores: Tensor, labels: Tensor) -> Tensor:
    """log(1 + sum of exp(20 (s_j - s_i)) over all i, j with label i above label j).

    Jianlin Su's CoSENT (2022, kexue.fm/archives/8847), at its temperature of 1/20; `CoSENTLoss` of
    sentence-transformers. It depends on the order of the labels only, as Spearman does.

    Args:
        scores, labels: [B].
    """
    gaps = COSENT_SCALE * (scores[None, :] - scores[:, None])
    wrong = gaps[labels[:, None] > labels[None, :]]
    return torch.logsumexp(torch.cat([wrong.new_zeros(1), wrong]), dim=0)
