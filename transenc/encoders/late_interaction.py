"""Late interaction: two sentences compared token by token, by the vectors that a bi-encoder pools.

What pooling loses is still in the tokens: a shortened backbone, or one read by the wrong pooling, often tells pairs
apart better this way than by the cosine of its embeddings (docs/adapting.md).

Axes: N pairs, B pairs of a batch, S sentences, T tokens in all, L tokens in the longest sentence, V tokens of the
vocabulary, D width, K weightings.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from transenc.data.tokens import TokenisedPairs
from transenc.encoders.inputs import in_batches

MIN_IDF = 1e-3  # of a token that all sentences have, so that those of such tokens alone still have a mean


@dataclass(frozen=True)
class TokenVectors:
    """The last hidden states of some sentences' tokens, each sentence encoded once, however many pairs it is in.

    Attributes:
        vectors: [T, D] float32, one sentence after the other.
        ids: [T] int64, what tokens they are.
        starts, lengths: [S] int64, where a sentence begins among the T, and how many tokens it has.
    """

    vectors: Tensor
    ids: Tensor
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(
        cls, encoder: Any, pairs: TokenisedPairs, sentences: np.ndarray, skipped: np.ndarray, batch_tokens: int
    ) -> Self:
        """Encode sentences. Special tokens do not count.

        Args:
            encoder: a bi-encoder, in `scoring`.
            pairs: the tokenised sentences.
            sentences: [S] numbers of those wanted.
            skipped: [2], how many tokens before a first and before a second sentence do not count either.
            batch_tokens: padded tokens in a batch, at most.
        """
        side = (sentences >= pairs.second_offset) if pairs.second_offset else np.zeros(len(sentences), dtype=bool)
        begin, whole = skipped[side.astype(int)], encoder.inputs.single_lengths(pairs.lengths[sentences])
        end = whole - len(encoder.inputs.alone_behind)
        vectors, ids, groups = [], [], []

        def run(group: np.ndarray) -> None:
            inputs = encoder.to_device(encoder.inputs.singles(pairs, sentences[group]))
            hidden = encoder.backbone(**inputs).last_hidden_state
            places = np.arange(hidden.shape[1])
            counts = (places >= begin[group, None]) & (places < end[group, None])
            rows = torch.from_numpy(counts).to(hidden.device)
            vectors.append(hidden[rows].float())
            ids.append(inputs["input_ids"][rows])
            groups.append(group)

        in_batches(whole, batch_tokens, run)
        lengths, order = np.maximum(end - begin, 0), np.concatenate(groups)
        starts = np.empty_like(lengths)
        starts[order] = np.cumsum(lengths[order]) - lengths[order]
        return cls(torch.cat(vectors), torch.cat(ids), starts, lengths)

    def compare(
        self, pairs: np.ndarray, weightings: Tensor, batch_tokens: int, progress: Callable[[int], Any]
    ) -> np.ndarray:
        """Similarities of pairs by each weighting, and by the tokens' mean.

        Args:
            pairs: [N, 2] sentence numbers.
            weightings: [K, V] the weight of each token of the vocabulary; those of the first one are above 0.
            batch_tokens: padded tokens in a batch, at most.
            progress: called with the number of pairs just done.

        Returns:
            [K + 1, N] float32 in [-1, 1].
        """
        scores = np.empty((len(weightings) + 1, len(pairs)), dtype=np.float32)

        def run(group: np.ndarray) -> None:
            (first, first_ids, in_first), (second, second_ids, in_second) = map(self._padded, pairs[group].T)
            weights = weightings[:, first_ids] * in_first, weightings[:, second_ids] * in_second
            scores[:-1, group] = late_interaction(first, second, *weights).cpu().numpy()
            scores[-1, group] = mean_cosine(first, second, in_first, in_second).cpu().numpy()
            progress(len(group))

        with torch.autocast(self.vectors.device.type, enabled=False):
            in_batches(2 * self.lengths[pairs].max(axis=1), batch_tokens, run)
        return scores

    def _padded(self, sentences: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """[B, L, D] vectors, [B, L] ids, [B, L] bool, whether a token is there; padding repeats a token."""
        lengths = self.lengths[sentences, None]
        there = np.arange(lengths.max()) < lengths
        places = np.where(there, self.starts[sentences, None] + np.arange(there.shape[1]), 0)
        where = torch.from_numpy(places).to(self.vectors.device)
        return self.vectors[where], self.ids[where], torch.from_numpy(there).to(self.vectors.device)


def late_interaction(first: Tensor, second: Tensor, first_weights: Tensor, second_weights: Tensor) -> Tensor:
    """The mean of precision and recall of BERTScore (Zhang et al. 2020, arXiv 1904.09675, section 3): each token's
    highest cosine with a token of the other sentence (the MaxSim of ColBERT, arXiv 2004.12832), averaged by weights.

    Args:
        first, second: [B, L, D] last hidden states; L may differ.
        first_weights, second_weights: [K, B, L], at least 0. A token that has 0 throughout does not count.

    Returns:
        [K, B] in [-1, 1]; 0 where a sentence has no token.
    """
    if not (first.shape[1] and second.shape[1]):
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
