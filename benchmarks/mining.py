"""What mining pairs costs: seconds and memory by kind, of a synthetic corpus.

    python benchmarks/mining.py [--sentences 100000] [--pairs SENTENCES] [--neighbours 10] [--seed 0]

Words are drawn by Zipf's law (exponent 1.07, 200,000 words, 12 a sentence on average); vectors have 384 dimensions, lie
in a cluster for every 50 sentences, and are a float16 memory map. Kinds are made in equal shares, one by one, then all
at once. Peak memory is the process's so far.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from transenc.data.mining import KINDS, mine

WORDS, LENGTH, DIMENSIONS, CHUNK = 200_000, 12, 384, 50_000


def write_sentences(count: int, rng: np.random.Generator) -> list[str]:
    share = 1 / np.arange(1, WORDS + 1) ** 1.07
    words = np.array([f"w{number}" for number in range(WORDS)])
    lengths = np.maximum(3, rng.poisson(LENGTH, count))
    drawn = iter(rng.choice(WORDS, lengths.sum(), p=share / share.sum()))
    return [" ".join(words[[next(drawn) for _ in range(length)]]) for length in lengths]


def write_vectors(path: Path, count: int, rng: np.random.Generator) -> np.ndarray:
    vectors = np.lib.format.open_memmap(path, "w+", np.float16, (count, DIMENSIONS))
    centres = rng.standard_normal((max(1, count // 50), DIMENSIONS), dtype=np.float32)
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        some = centres[rng.integers(len(centres), size=size)]
        some += rng.standard_normal((size, DIMENSIONS), dtype=np.float32)
        vectors[start : start + size] = some / np.linalg.norm(some, axis=1, keepdims=True)
    vectors.flush()
    return np.load(path, mmap_mode="r")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--pairs", type=int, help="of the three kinds together; as many as sentences by default")
    parser.add_argument("--neighbours", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = options.sentences if options.pairs is None else options.pairs
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        sentences = write_sentences(options.sentences, rng)
        vectors = write_vectors(Path(folder) / "vectors.npy", options.sentences, rng)
        settings = {"vectors": vectors, "neighbours": options.neighbours, "seed": options.seed}
        for kinds in (("random",), ("nearest",), ("lexical",), KINDS):
            start = time.monotonic()
            _, counts = mine(sentences, pairs * len(kinds) // len(KINDS), dict.fromkeys(kinds, 1), **settings)
            seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            name, made = kinds[0] if len(kinds) == 1 else "all", sum(counts.values())
            print(f"{name:8} {made:9,} pairs {seconds:8.1f} s, peak {peak / 2**20:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
