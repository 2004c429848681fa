"""Crops of pairs: of each sentence a span of its words. A teacher's labels tell how alike these still are.

As augmentation for contrastive training of embeddings, crops do far better than dropout (arXiv 2508.03453).
"""

from collections.abc import Iterator, Sequence

import numpy as np

SHORTEST = 2  # words of a crop, or half of the sentence's
MAX_PASSES = 1000  # over the pairs: short sentences have few different crops


def crop(text: str, rng: np.random.Generator) -> str:
    """A span of at least half of a text's words, or of its characters where there are no spaces."""
    words = text.split()
    parts, space = (words, " ") if len(words) > 1 else (list(text), "")
    if len(parts) <= SHORTEST:
        return text
    count = int(rng.integers(max(SHORTEST, len(parts) // 2), len(parts) + 1))
    start = int(rng.integers(len(parts) - count + 1))
    return space.join(parts[start : start + count])


def crops(pairs: Sequence[tuple[str, str]], seed: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Different crops of pairs, none of them one of the pairs: one of each pair, then another of each.

    Args:
        pairs: N pairs of texts.
        seed: of every choice.

    Yields:
        The number of the pair, and a crop of it.
    """
    rng, known = np.random.default_rng(seed), set(pairs)
    for _ in range(MAX_PASSES):
        for number, (first, second) in enumerate(pairs):
            cropped = crop(first, rng), crop(second, rng)
            if cropped not in known:
                known.add(cropped)
                yield number, cropped
