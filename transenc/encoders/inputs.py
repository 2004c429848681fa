"""From tokens to a model's inputs: special tokens, truncation, segments, padding, mask.

Sentences are tokenised once without special tokens (`transenc.data.tokens`); here they are framed as the model's own
tokenizer would frame them, alone or in pairs, which differs by family: BERT joins with one [SEP] and marks segments,
RoBERTa joins with </s></s> and marks none.

Axes: B sequences in a batch, L tokens in the longest.
"""

from itertools import groupby
from typing import Any

import numpy as np
import torch

from transenc.data.tokens import TokenisedPairs
from transenc.errors import InputError


class ModelInputs:
    """The frame that one tokenizer puts round its tokens.

    Args:
        tokenizer: of the transformers library.
        max_tokens: length to which a framed sequence is cut, special tokens included.
        segments: whether the model takes `token_type_ids`.

    Raises:
        InputError: max_tokens leaves no room for two tokens of text, or the tokenizer puts no frame round them.
    """

    def __init__(self, tokenizer: Any, max_tokens: int, segments: bool):
        self.pad, self.max_tokens, self.segments = tokenizer.pad_token_id, max_tokens, segments
        # What stands before, between and behind is read off a probe, so that any family's own frame is right.
        probe = tokenizer("a", "b", return_special_tokens_mask=True, return_token_type_ids=True)
        tokens = zip(probe["special_tokens_mask"], probe["input_ids"], probe["token_type_ids"], strict=True)
        runs = [(special, [token[1:] for token in run]) for special, run in groupby(tokens, key=lambda token: token[0])]
        if [special for special, _ in runs] != [1, 0, 1, 0, 1]:
            raise InputError("tokenizer.json: puts no special tokens before, between and behind two sentences")
        before, first, between, second, behind = [run for _, run in runs]
        self.before, self.between, self.behind = before, between, behind
        self.types = first[0][1], second[0][1]
        alone = tokenizer("a", return_special_tokens_mask=True)
        inside = alone["special_tokens_mask"].index(0)
        self.alone_before = [(token, 0) for token in alone["input_ids"][:inside]]
        self.alone_behind = [(token, 0) for token in alone["input_ids"][inside + len(first) :]]

    def single_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Framed and cut length of a sentence of each of the given lengths."""
        return np.minimum(lengths + len(self.alone_before) + len(self.alone_behind), self.max_tokens)

    def cut_pairs(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens of each sentence of a pair are kept.

        The longer one is cut until the two are equal, then both (the tokenizers library's "longest_first"; where an odd
        number is left, the second of two equal ones keeps one more).

        Args:
            first, second: [B] token counts.
        """
        room = self.max_tokens - len(self.before) - len(self.between) - len(self.behind)
        short, long = np.minimum(first, second), np.maximum(first, second)
        long = np.where(short + long > room, np.maximum(short, room - short), long)
        both = short + long > room
        short, long = np.where(both, room // 2, short), np.where(both, room - room // 2, long)
        return np.where(first > second, long, short), np.where(first > second, short, long)

    def pair_lengths(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Framed and cut length of pairs whose sentences have the given token counts."""
        first, second = self.cut_pairs(first, second)
        return first + second + len(self.before) + len(self.between) + len(self.behind)

    def singles(self, pairs: TokenisedPairs, sentences: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs for sentences on their own, each [B, L] int64, L being what the longest needs."""
        room = self.max_tokens - len(self.alone_before) - len(self.alone_behind)
        rows = [
            [(self.alone_before, None), (pairs.tokens(s)[:room], 0), (self.alone_behind, None)]
            for s in sentences.tolist()
        ]
        return self._batch(rows)

    def pairs(self, pairs: TokenisedPairs, rows: np.ndarray, swapped: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs for pairs in one sequence each, [B, L] int64.

        Args:
            pairs: the tokens.
            rows: [B] pair numbers.
            swapped: [B] bool, which pairs to swap.
        """
        sides = pairs.pairs[rows]
        sides = np.where(swapped[:, None], sides[:, ::-1], sides)
        first, second = self.cut_pairs(*pairs.lengths[sides].T)
        return self._batch(
            [
                [
                    (self.before, None),
                    (pairs.tokens(a)[:n], self.types[0]),
                    (self.between, None),
                    (pairs.tokens(b)[:m], self.types[1]),
                    (self.behind, None),
                ]
                for (a, b), n, m in zip(sides.tolist(), first.tolist(), second.tolist(), strict=True)
            ]
        )

    def _batch(self, rows: list[list[tuple[Any, int | None]]]) -> dict[str, torch.Tensor]:
        """Pad on the right. A part is tokens of one segment, or (None) special tokens that bring theirs along."""
        length = max(sum(len(tokens) for tokens, _ in row) for row in rows)
        ids = np.full((len(rows), length), self.pad, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for i, row in enumerate(rows):
            end = 0
            for tokens, segment in row:
                start, end = end, end + len(tokens)
                if segment is None:
                    ids[i, start:end] = [token for token, _ in tokens]
                    types[i, start:end] = [kind for _, kind in tokens]
                else:
                    ids[i, start:end], types[i, start:end] = tokens, segment
            mask[i, :end] = 1
        inputs = {"input_ids": ids, "attention_mask": mask} | ({"token_type_ids": types} if self.segments else {})
        return {name: torch.from_numpy(array) for name, array in inputs.items()}
