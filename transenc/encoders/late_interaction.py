"""Late interaction: two sentences compared token by token, by the vectors that a bi-encoder pools.

What pooling loses is still in the tokens: a shortened backbone, or one read by the wrong pooling, often tells pairs
apart better this way than by the cosine of its embeddings (docs/adapting.md).

Axes: B pairs, L tokens in the longest sentence, D width.
"""

import torch.nn.functional as F
from torch import Tensor


def late_interaction(first: Tensor, second: Tensor, in_first: Tensor, in_second: Tensor) -> Tensor:
    """The mean of precision and recall of BERTScore (Zhang et al. 2020, arXiv 1904.09675, section 3, without weights):
    each token's highest cosine with a token of the other sentence (the MaxSim of ColBERT, arXiv 2004.12832), averaged.

    Args:
        first, second: [B, L, D] last hidden states.
        in_first, in_second: [B, L] bool, which tokens count.

    Returns:
        [B] in [-1, 1]; 0 where a sentence has no token.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT  # [B, L, L]
    cosines = cosines.masked_fill(~(in_first[:, :, None] & in_second[:, None, :]), -2.0)
    none = ~(in_first.any(-1) & in_second.any(-1))
    sides = []
    for best, counts in ((cosines.amax(2), in_first), (cosines.amax(1), in_second)):
        sides.append((best * counts).sum(-1) / counts.sum(-1).clamp(min=1))
    return ((sides[0] + sides[1]) / 2).masked_fill(none, 0.0)
