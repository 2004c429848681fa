"""Pairs as tokens: each sentence tokenised once, without special tokens, however many pairs it is in.

Axes: S sentences, N pairs, T tokens in all, V tokens of the vocabulary.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

log = logging.getLogger("transenc")

MAX_UNKNOWN = 0.1  # share of the tokens that may be unknown without a warning
CHUNK = 1024  # sentences handed to the tokenizer at once: enough for its own threads, little to hold
COUNTED = 1 << 16  # sentences whose tokens are counted at once


@dataclass(frozen=True)
class TokenisedPairs:
    """Sentences as token ids, and pairs as two sentence numbers.

    Attributes:
        ids: [T] int32, the sentences' tokens one after the other, uncut, without special tokens.
        offsets: [S + 1] int64; sentence i is `ids[offsets[i]:offsets[i + 1]]`.
        pairs: [N, 2] int32, sentence numbers.
        second_offset: added to the numbers of second sentences if the two prompts differ: all sentences are then stored
            twice, with the first prompt and behind that with the second. 0: the prompts are equal.
        gold: [N] float64 human scores on the set's own scale, or None. Pairs to learn from never have any.
        source: [N] int64, or None where there are no crops. Of a crop, the number of the pair it was cut from; of an
            original pair, its own. Original pairs come first, and so do their sentences.
    """

    ids: np.ndarray
    offsets: np.ndarray
    pairs: np.ndarray
    gold: np.ndarray | None = None
    second_offset: int = 0
    source: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def originals(self) -> int:
        """How many pairs are no crops."""
        return len(self) if self.source is None else int(np.count_nonzero(self.source == np.arange(len(self))))

    @property
    def original_sentences(self) -> int | None:
        """How many sentences the original pairs have, with one prompt; None where there are no crops."""
        return None if self.source is None else int(self.pairs[: self.originals].max()) + 1

    def with_crops(self, rows: np.ndarray) -> np.ndarray:
        """Sorted numbers of the original pairs `rows`, and of all crops of these."""
        return np.sort(rows) if self.source is None else np.flatnonzero(np.isin(self.source, rows))

    def by_source(self) -> np.ndarray:
        """[N] int64, numbers of all pairs, each original one right before its crops."""
        return np.arange(len(self)) if self.source is None else np.argsort(self.source, kind="stable")

    def sides(self, rows: np.ndarray | slice = slice(None), swapped: np.ndarray | None = None) -> np.ndarray:
        """[B, 2] sentence numbers of some pairs, reversed where `swapped`. A prompt belongs to the place:
        `second_offset` is added to whatever stands second.
        """
        sides = self.pairs[rows]
        if swapped is not None:
            sides = np.where(swapped[:, None], sides[:, ::-1], sides)
        return sides + np.array([0, self.second_offset], dtype=sides.dtype) if self.second_offset else sides

    def tokens(self, sentence: int) -> np.ndarray:
        """[L] int32, the tokens of one sentence."""
        return self.ids[self.offsets[sentence] : self.offsets[sentence + 1]]

    @cached_property
    def lengths(self) -> np.ndarray:
        """[S] int64, tokens in each sentence."""
        return np.diff(self.offsets)

    def sentence_counts(
        self, vocabulary: int, prompts: Sequence[int] = (0, 0), sentences: int | None = None
    ) -> np.ndarray:
        """[V] int64, in how many sentences each of V tokens is.

        Args:
            vocabulary: V.
            prompts: how many tokens to pass over where a first and where a second sentence begins.
            sentences: how many of the S count, the first ones; None: all. Of two prompts, as many with each.
        """
        counts = np.zeros(vocabulary, dtype=np.int64)
        copies = [0, self.second_offset] if self.second_offset else [0]
        for begin, prompt in zip(copies, prompts, strict=False):
            end = begin + (sentences or (len(self.offsets) - 1) // len(copies))
            for start in range(begin, end, COUNTED):
                offsets = self.offsets[start : min(start + COUNTED, end) + 1]
                ids, lengths = self.ids[offsets[0] : offsets[-1]], np.diff(offsets)
                rows = np.repeat(np.arange(len(lengths)), lengths)
                behind = np.arange(len(ids)) - (offsets[:-1] - offsets[0])[rows] >= prompt
                once = np.unique(rows[behind] * vocabulary + ids[behind])
                counts += np.bincount(once % vocabulary, minlength=vocabulary)
        return counts

    def select(self, rows: np.ndarray) -> "TokenisedPairs":
        """The same sentences with some of the pairs; `rows` are pair numbers. `source` is not kept."""
        gold = None if self.gold is None else self.gold[rows]
        return TokenisedPairs(self.ids, self.offsets, self.pairs[rows], gold, self.second_offset)

    def save(self, folder: Path) -> None:
        for name in ("ids", "offsets", "pairs", "gold", "source"):
            if (array := getattr(self, name)) is not None:
                np.save(folder / f"{name}.npy", array)
        if self.second_offset:
            np.save(folder / "second.npy", np.array([self.second_offset]))

    @classmethod
    def load(cls, folder: Path) -> "TokenisedPairs":
        """Memory-mapped: what is not looked at is not read."""
        found = {p.stem: np.load(p, mmap_mode="r") for p in folder.glob("*.npy")}
        second = int(found["second"][0]) if "second" in found else 0
        return cls(found["ids"], found["offsets"], found["pairs"], found.get("gold"), second, found.get("source"))


def count_unknown(ids: np.ndarray, tokenizer: Any) -> int:
    """How many tokens stand for text that the tokenizer does not know."""
    return 0 if tokenizer.unk_token_id is None else int(np.count_nonzero(ids == tokenizer.unk_token_id))


def warn_of_unknown(unknown: int, tokens: int, where: str) -> bool:
    """Log a warning if many of some tokens are unknown, and return whether they are."""
    if many := unknown > MAX_UNKNOWN * tokens:
        log.warning(
            "%s: %.0f%% of the tokens are unknown to the tokenizer, and all the same to the encoder; take a model for"
            " this language",
            where,
            100 * unknown / tokens,
        )
    return many


def number_sentences(pairs: Sequence[tuple[str, str]]) -> tuple[list[str], np.ndarray]:
    """The distinct sentences in order of appearance, and the pairs as [N, 2] int32 numbers into them."""
    numbers: dict[str, int] = {}
    index = [[numbers.setdefault(sentence, len(numbers)) for sentence in pair[:2]] for pair in pairs]
    return list(numbers), np.asarray(index, dtype=np.int32).reshape(-1, 2)


def tokenise(
    sentences: Sequence[str],
    pairs: np.ndarray,
    tokenizer: Any,
    prompts: tuple[str, str] = ("", ""),
) -> TokenisedPairs:
    """Tokenise every sentence once, or once for each of two different prompts.

    Args:
        sentences, tokenizer, prompts: see `token_chunks`.
        pairs: [N, 2] numbers into them.
    """
    ids, lengths = zip(*token_chunks(sentences, tokenizer, prompts=prompts), strict=True)
    return assemble(np.concatenate(ids), lengths, pairs, None, prompts)


def assemble(
    ids: np.ndarray,
    lengths: Sequence[np.ndarray],
    pairs: np.ndarray,
    gold: np.ndarray | None,
    prompts: tuple[str, str],
) -> TokenisedPairs:
    """`TokenisedPairs` of what `token_chunks` gave, the `ids` one after the other."""
    offsets = np.cumsum(np.concatenate([np.zeros(1, dtype=np.int64), *lengths]))
    second = (len(offsets) - 1) // 2 if prompts[0] != prompts[1] else 0
    return TokenisedPairs(ids, offsets, pairs, gold, second)


def token_chunks(
    sentences: Sequence[str],
    tokenizer: Any,
    progress: Callable[[int], Any] = lambda count: None,
    prompts: tuple[str, str] = ("", ""),
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Token ids ([T] int32) and numbers of tokens ([S] int64) of `CHUNK` sentences at a time. The first chunk is empty,
    so that there is always one.

    Args:
        sentences: S texts.
        tokenizer: of the transformers library.
        progress: called with the number of sentences just done.
        prompts: what stands before a first and before a second sentence. It is tokenised with the sentence, as tokens
            may span both. If they differ, all sentences come twice, first with the one, then with the other.
    """
    yield np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int64)
    for prompt, start in product(dict.fromkeys(prompts), range(0, len(sentences), CHUNK)):
        chunk = [prompt + sentence for sentence in sentences[start : start + CHUNK]]
        # verbose=False: a sentence above the model's length is cut when batches are made, not here.
        ids = tokenizer(chunk, add_special_tokens=False, truncation=False, padding=False, verbose=False)["input_ids"]
        yield np.fromiter(chain.from_iterable(ids), dtype=np.int32), np.fromiter(map(len, ids), dtype=np.int64)
        progress(len(chunk))
