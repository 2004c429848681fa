"""Late interaction: two sentences compared token by token, by the vectors that a bi-encoder pools.

What pooling loses is still in the tokens: a shortened backbone, or one read by the wrong pooling, often tells pairs
apart better this way than by the cosine of its embeddings (docs/adapting.md).

Axes: K weightings, B pairs, L tokens in the longest sentence, D width, S sentences, V tokens of the vocabulary.
"""

import numpy as np
import torch.nn.functional as F
from torch import Tensor

MIN_IDF = 1e-3  # of a token that all sentences have, so that those of such tokens alone still have a mean


def late_interaction(first: Tensor, second: Tensor, first_weights: Tensor, second_weights: Tensor) -> Tensor:
    """The mean of precision and recall of BERTScore (Zhang et al. 2020, arXiv 1904.09675, section 3): each token's
    highest cosine with a token of the other sentence (the MaxSim of ColBERT, arXiv 2004.12832), averaged by weights.

    Args:
        first, second: [B, L, D] last hidden states.
        first_weights, second_weights: [K, B, L], at least 0. A token that has 0 throughout does not count.

    Returns:
        [K, B] in [-1, 1]; 0 where a sentence has no token.
    """
    if not first.shape[1]:
        return first_weights.new_zeros(first_weights.shape[:2])
    in_first, in_second = (weights.any(0) for weights in (first_weights, second_weights))
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT  # [B, L, L]
    cosines = cosines.masked_fill(~(in_first[:, :, None] & in_second[:, None, :]), -2.0)
    none = ~(in_first.any(-1) & in_second.any(-1))
    sides = []
    for best, weights in ((cosines.amax(2), first_weights), (cosines.amax(1), second_weights)):
        sides.append((best * weights).sum(-1) / weights.sum(-1).clamp(min=MIN_IDF))
    return ((sides[0] + sides[1]) / 2).masked_fill(none, 0.0)


def mean_cosine(first: Tensor, second: Tensor, in_first: Tensor, in_second: Tensor) -> Tensor:
    """The cosine that mean pooling over the tokens that count would give.

    Args:
        first, second: [B, L, D] last hidden states.
        in_first, in_second: [B, L], 1 for a token that counts, else 0.

    Returns:
        [B] in [-1, 1]; 0 where a sentence has no token.
    """
    sums = [(hidden * counts[..., None]).sum(1) for hidden, counts in ((first, in_first), (second, in_second))]
    return F.cosine_similarity(*sums, dim=-1)


def inverse_document_frequencies(counts: np.ndarray, sentences: int) -> np.ndarray:
    """[V] float32, at least `MIN_IDF`: BERTScore's weights, with add-one smoothing.

    Args:
        counts: [V], in how many sentences each token is.
        sentences: S, of how many.
    """
    return np.log((sentences + 1) / (counts + 1)).clip(min=MIN_IDF).astype(np.float32)
