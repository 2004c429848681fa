"""From tokens to a model's inputs: special tokens, truncation, segments, padding, mask, batches of similar length.

Sentences are tokenised once without special tokens (`transenc.data.tokens`). Here they get those that the model's own
tokenizer gives, alone or in pairs, which differ by family: BERT joins with one [SEP] and marks segments, RoBERTa joins
with </s></s> and marks none, Qwen's puts one token behind a sentence and nothing between two.

Padding is on the right whatever the tokenizer says: a model whose scores depend on the side is refused
(`PairEncoder._check_forward`).

Axes: B sequences in a batch, L tokens in the longest, N sequences in all.
"""

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from transenc.data.tokens import TokenisedPairs
from transenc.errors import InputError

log = logging.getLogger("transenc")


class ModelInputs:
    """What one tokenizer puts round the tokens of a sentence and of a pair.

    Args:
        tokenizer: of the transformers library.
        max_tokens: length to which a sequence is cut, special tokens included.
        segments: whether the model takes `token_type_ids`.
        behind_pairs: tokens that stand behind a pair, which has no other special ones: the end of a template whose
            other parts are prompts of the two sentences. None: the tokenizer's own special tokens.
        special: whether a sentence alone has special tokens.
    """

    def __init__(
        self, tokenizer: Any, max_tokens: int, segments: bool, behind_pairs: list[int] | None = None,
        special: bool = True,
    ):  # fmt: skip
        self.pad, self.max_tokens, self.segments = tokenizer.pad_token_id or 0, max_tokens, segments
        self.from_left = tokenizer.truncation_side == "left"
        self.template = behind_pairs is not None
        # What stands before, between and behind is read off a probe, so that any family's own is right.
        self.before, self.between, self.behind = [], [], [(token, 0) for token in behind_pairs or ()]
        self.types = 0, 0
        if not self.template:
            probe = tokenizer("a", "b", return_token_type_ids=True)
            tokens = list(zip(probe.sequence_ids(), probe["input_ids"], probe["token_type_ids"], strict=True))
            first, second = ([i for i, token in enumerate(tokens) if token[0] == side] for side in (0, 1))
            parts = tokens[: first[0]], tokens[first[-1] + 1 : second[0]], tokens[second[-1] + 1 :]
            self.before, self.between, self.behind = ([token[1:] for token in part] for part in parts)
            self.types = tokens[first[0]][2], tokens[second[0]][2]
        alone = tokenizer("a", add_special_tokens=special)
        inside = [i for i, side in enumerate(alone.sequence_ids()) if side == 0]
        self.alone_before = [(token, 0) for token in alone["input_ids"][: inside[0]]]
        self.alone_behind = [(token, 0) for token in alone["input_ids"][inside[-1] + 1 :]]
        # What is left for the tokens of a sentence alone, and for those of both sentences of a pair.
        self.room = max_tokens - len(self.alone_before) - len(self.alone_behind)
        self.pair_room = max_tokens - len(self.before) - len(self.between) - len(self.behind)

    @property
    def added(self) -> list[int]:
        """Every token that is put round a sentence's or a pair's own."""
        parts = (self.before, self.between, self.behind, self.alone_before, self.alone_behind)
        return [self.pad, *(token for part in parts for token, _ in part)]

    def single_lengths(self, lengths: np.ndarray) -> np.ndarray:
        """Length, special tokens included, of a sentence of each of the given numbers of tokens, cut."""
        return np.minimum(lengths, self.room) + self.max_tokens - self.room

    def cut_pairs(self, first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many tokens of each sentence of a pair are kept.

        The longer one is cut until the two are equal, then both (the tokenizers library's "longest_first"; where an odd
        number is left, the second of two equal ones keeps one more). In a template the end is cut.

        Args:
            first, second: [B] token counts.
        """
        room = self.pair_room
        if self.template:
            first = np.minimum(first, room)
            return first, np.minimum(second, room - first)
        short, long = np.minimum(first, second), np.maximum(first, second)
        long = np.where(short + long > room, np.maximum(short, room - short), long)
        both = short + long > room
        short, long = np.where(both, room // 2, short), np.where(both, room - room // 2, long)
        return np.where(first > second, long, short), np.where(first > second, short, long)

    def pair_lengths(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Length, special tokens included, of pairs whose sentences have the given numbers of tokens, cut."""
        first, second = self.cut_pairs(first, second)
        return first + second + self.max_tokens - self.pair_room

    def singles(self, pairs: TokenisedPairs, sentences: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs for sentences on their own, each [B, L] int64, L being what the longest needs."""
        rows = [
            [(self.alone_before, None), (self._cut(pairs.tokens(s), self.room), 0), (self.alone_behind, None)]
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
        sides = pairs.sides(rows, swapped)
        first, second = self.cut_pairs(*pairs.lengths[sides].T)
        return self._batch(
            [
                [
                    (self.before, None),
                    (self._cut(pairs.tokens(a), n), self.types[0]),
                    (self.between, None),
                    (self._cut(pairs.tokens(b), m), self.types[1]),
                    (self.behind, None),
                ]
                for (a, b), n, m in zip(sides.tolist(), first.tolist(), second.tolist(), strict=True)
            ]
        )

    def _cut(self, tokens: np.ndarray, count: int) -> np.ndarray:
        return tokens[max(0, len(tokens) - count) :] if self.from_left else tokens[:count]

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


def in_batches(lengths: np.ndarray, batch_tokens: int, run: Callable[[np.ndarray], Any]) -> None:
    """Call `run` with groups of indices of similar length, longest first, until each has been in one.

    Where a GPU's memory does not hold a group, it and all behind it are halved.

    Args:
        lengths: [N] tokens.
        batch_tokens: of a group padded to its longest, at most; a longer sequence is a group of its own.
        run: what to do with a group.

    Raises:
        InputError: the memory does not hold a group of one.
    """
    order, start = np.argsort(-lengths, kind="stable"), 0
    while start < len(order):
        longest = int(lengths[order[start]])
        size = min(max(1, batch_tokens // max(1, longest)), len(order) - start)
        try:
            run(order[start : start + size])
        except torch.OutOfMemoryError:
            if size == 1:
                raise InputError(
                    f"a text of {longest} tokens does not fit into the GPU's memory; lower model.bi_max_tokens or"
                    " model.cross_max_tokens (model.max_tokens in transenc.evaluate and transenc.score)"
                ) from None
            batch_tokens = size // 2 * longest
        else:
            start += size
            continue
        torch.cuda.empty_cache()  # out here, where the error no longer holds on to what it could not hold
        log.warning("the GPU's memory is full: batches of %d tokens from here on (trainer.score_tokens)", batch_tokens)
