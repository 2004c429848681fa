"""Sentences in a text file, one a line: found by number, told apart by digest, and never all in memory.

Axes: S sentences.
"""

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import overload

import numpy as np

BLOCK = 2**20  # bytes looked through for line ends at once
DIGEST = np.dtype([("high", "<u8"), ("low", "<u8")])  # 128 bits: two of a billion texts share one with odds of 1e-21


class Sentences(Sequence[str]):
    """The lines of a UTF-8 file that `write` made, memory-mapped."""

    def __init__(self, path: Path):
        size = path.stat().st_size
        self.bytes = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
        parts = range(0, size, BLOCK)
        found = [np.flatnonzero(self.bytes[start : start + BLOCK] == ord("\n")) + start for start in parts]
        self.ends = np.concatenate([np.empty(0, np.int64), *found])

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> list[str]: ...

    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        number = range(len(self))[place]
        start = self.ends[number - 1] + 1 if number else 0
        return self.bytes[start : self.ends[number]].tobytes().decode()


def write(path: Path, sentences: Iterable[str]) -> int:
    """Write sentences, which hold no line feed, one a line; return how many."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for sentence in sentences:
            file.write(f"{sentence}\n")
            count += 1
    return count


def digest(sentence: str) -> bytes:
    """16 bytes that differ where sentences do."""
    return blake2b(sentence.encode(), digest_size=DIGEST.itemsize).digest()


def digests(sentences: Iterable[str]) -> np.ndarray:
    """[S] of `DIGEST`."""
    found = bytearray()
    for sentence in sentences:
        found += digest(sentence)
    return np.frombuffer(found, DIGEST)


def distinct(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the different elements of an array in the order in which they appear.

    Args:
        found: [S] of `DIGEST`.

    Returns:
        [K] int64, where each of the K different ones is first; [S] int64 in [0, K), the number of each.
    """
    order = np.lexsort((found["low"], found["high"]))  # stable: the first of equal ones stays the first
    ordered = found[order]
    begins = np.ones(len(found), dtype=bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    first = order[begins]
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    numbers = np.empty(len(found), dtype=np.int64)
    numbers[order] = rank[np.cumsum(begins) - 1]
    return np.sort(first), numbers
