"""Crops of pairs: each sentence without some words at its ends. A teacher's labels tell what they still have in common.

As augmentation for contrastive training of embeddings, crops do far better than dropout (arXiv 2508.03453).
"""

from collections.abc import Iterator, Sequence

import numpy as np

SHORTEST = 2  # words of a crop, or half of the sentence's
MAX_PASSES = 100  # over the pairs: short sentences have few different crops


def crop(text: str, rng: np.random.Generator) -> str:
    """Half of a text's words or more, one after the other. A text without spaces is cropped by characters."""
    words = text.split()
    parts, space = (words, " ") if len(words) > 1 else (list(text), "")
    if len(parts) <= SHORTEST:
        return text
    count = int(rng.integers(max(SHORTEST, len(parts) // 2), len(parts) + 1))
    start = int(rng.integers(len(parts) - count + 1))
    return space.join(parts[start : start + count])


def crops(pairs: Sequence[tuple[str, str]], count: int, seed: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """`count` different crops of pairs, or what there is, none of them one of the pairs: one of each, then another.

    Args:
        pairs: N pairs of texts.
        count: how many.
        seed: of every choice.

    Yields:
        The number of the pair, and a crop of it.
    """
    rng, known = np.random.default_rng(seed), set(pairs)
    left = count
    for _ in range(MAX_PASSES):
        for number, (first, second) in enumerate(pairs):
            cropped = crop(first, rng), crop(second, rng)
            if left and cropped not in known:
                known.add(cropped)
                left -= 1
                yield number, cropped
        if not left:
            return
