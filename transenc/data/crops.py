"""Crops of pairs: of each sentence a span of its words. A teacher's labels tell how alike these still are.

As augmentation for contrastive training of embeddings, crops do far better than dropout (arXiv 2508.03453).
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np

SHORTEST = 0.5  # of the words
MAX_CROPS = 100  # of a sentence: short ones have few different crops


def crop(text: str, rng: np.random.Generator) -> str:
    """A random span of at least half (rounded down) of a text's words, but not of all. A text without spaces is cut by
    characters. A text of one or two words or characters stays whole.
    """
    words = text.split()
    parts, space = (words, " ") if len(words) > 1 else (list(text), "")
    if len(parts) <= 2:
        return text
    count = int(rng.integers(int(SHORTEST * len(parts)), len(parts)))
    start = int(rng.integers(len(parts) - count + 1))
    return space.join(parts[start : start + count])


def crops(pairs: Sequence[tuple[str, str]], seed: int) -> Iterator[tuple[int, tuple[str, str]]]:
    """Different crops of pairs, none of them one of the pairs: one of each pair, then another of each.

    Few crops of each sentence make many pairs, since each is combined with all of the other sentence, and with the
    whole: n of each make (n + 1)^2 - 1 pairs, and a bi-encoder encodes each but once.

    Args:
        pairs: N pairs of texts.
        seed: of every choice.

    Yields:
        The number of the pair, and a crop of it.
    """
    rng, known = np.random.default_rng(seed), set(pairs)
    versions = {text: [text] for text in chain.from_iterable(pairs)}
    for newest in range(1, MAX_CROPS + 1):
        for text, found in versions.items():
            found.append(crop(text, rng))
        for i, j in [*((newest, j) for j in range(newest)), *((i, newest) for i in range(newest + 1))]:
            for number, (first, second) in enumerate(pairs):
                cropped = versions[first][i], versions[second][j]
                if cropped not in known:
                    known.add(cropped)
                    yield number, cropped
