"""Pairs out of a corpus: any two sentences, near ones by their vectors, near ones by their words; or a query and a
document, likewise.

Most random pairs are unrelated, most near ones alike; a student needs both, so kinds are mixed by shares. Once a
teacher has scored them, `flat_sample` takes pairs of every score.

Axes: S sentences, N pairs, K neighbours, D dimensions, Q sentences whose neighbours are searched for at once, V words.
"""

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from transenc.errors import InputError

KINDS = ("nearest", "lexical", "random")  # made in this order: random pairs last, as there are the most of them
BINS = 20  # of scores, in a flat sample
BATCH = 512  # Q: a search holds 200 MB of cosines with EXACT sentences
EXACT = 100_000  # S up to which every cosine is computed: 1.3 ms a sentence there, measured on two cores with D = 384

# https://github.com/facebookresearch/faiss/wiki/Guidelines-to-choose-an-index: below a million vectors, 4 to 16 times
# sqrt(S) lists, trained on 30 to 256 vectors each; few of both, which save time. PROBES is by recall (`_by_cosine`).
LISTS, TRAINED, PROBES = 4, 40, 32

POSTINGS = 10_000  # sentences looked at for one query: its words from the rarest on, as long as they occur in no more
# Runs of Thai, Lao, Burmese, Khmer, Japanese and Chinese, which are written without spaces.
UNSPACED = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]{2,}"
RESCORED = 10  # for each neighbour asked for, so many of the best by the rarest words are ranked by all

# [Q] sentence numbers -> [Q, K] int64 numbers of others, best first; -1: none.
Search = Callable[[np.ndarray], np.ndarray]


def mine(
    sentences: Sequence[str],
    count: int,
    shares: Mapping[str, float],
    *,
    vectors: np.ndarray | None,
    neighbours: int,
    seed: int,
    queries: int = 0,
    progress: Callable[[int], Any] = lambda count: None,
) -> tuple[np.ndarray, dict[str, int]]:
    """Pairs of different sentences, none twice in either order, in an order independent of their kinds.

    Args:
        sentences: S texts, distinct but where a query is a document too.
        count: pairs in all, divided among the kinds by largest remainder. A kind that has fewer to give gives those.
        shares: of each kind, not negative, of any sum: "random" (any two sentences, evenly), "nearest" (a random
            sentence and one of its nearest by cosine, evenly), "lexical" (likewise by BM25, over lower-cased words).
        vectors: [S, D] floats of unit length, a memory map at best; None where no pair is to be nearest.
        neighbours: K, how many of a sentence's nearest count as near.
        seed: of every choice.
        queries: how many of the sentences, the first ones, are queries. The others are then documents, and each pair is
            a query and a document. 0: all are of one kind.
        progress: called with the number of pairs just made.

    Returns:
        pairs: [N, 2] int32 sentence numbers.
        counts: pairs made of each kind, in the order of `shares`.

    Raises:
        InputError: there are no two sentences, the shares make no sense, or faiss or bm25s is needed and not installed.
    """
    size = len(sentences)
    if size < 2:
        raise InputError(f"{size} sentences make no pair; give at least two")
    wanted = _divide(count, shares)
    assert neighbours > 0, "of no neighbours, none can be drawn"
    assert not wanted.get("nearest") or (vectors is not None and len(vectors) == size), "a vector for each sentence"
    neighbours = min(neighbours, size - max(queries, 1))
    same = _same(sentences, queries)
    made = np.array([np.iinfo(np.int64).max])  # sorted keys of the pairs made so far; the last one is a sentinel
    parts, counts = [np.zeros((0, 2), dtype=np.int64)], dict.fromkeys(shares, 0)
    for number, kind in enumerate(KINDS):
        if not wanted.get(kind):
            continue
        rng = np.random.default_rng([seed, number])
        if kind == "random":
            candidates = _any_two(size, queries, same, wanted[kind] + len(made) - 1, rng)
        elif kind == "nearest":
            candidates = _near(_by_cosine(vectors, queries, same, neighbours, rng), len(same), neighbours, rng)
        else:
            candidates = _near(_by_words(sentences, queries, same, neighbours), len(same), neighbours, rng)
        for pairs in candidates:
            keys = pairs.min(axis=1) * size + pairs.max(axis=1)
            rows = np.sort(np.unique(keys, return_index=True)[1])
            rows = rows[made[np.searchsorted(made, keys[rows])] != keys[rows]][: wanted[kind] - counts[kind]]
            new = np.sort(keys[rows])
            made = np.insert(made, np.searchsorted(made, new), new)
            parts.append(pairs[rows])
            counts[kind] += len(rows)
            progress(len(rows))
            if counts[kind] == wanted[kind]:
                break
    order = np.random.default_rng([seed, len(KINDS)]).permutation(sum(counts.values()))
    return np.concatenate(parts)[order].astype(np.int32), counts


def _divide(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """`count` in whole numbers by shares, what is left over going to the largest remainders."""
    total = sum(shares.values())
    if not set(shares) <= set(KINDS) or min(shares.values(), default=0) < 0 or not 0 < total < np.inf:
        raise InputError(
            f"shares of pairs {dict(shares)}: give {', '.join(KINDS)} numbers from 0 up, one of them above 0"
        )
    quotas = np.array([count * share / total for share in shares.values()])
    parts = np.floor(quotas).astype(int)
    parts[np.argsort(parts - quotas, kind="stable")[: count - parts.sum()]] += 1
    return dict(zip(shares, parts.tolist(), strict=True))


def _same(sentences: Sequence[str], queries: int) -> np.ndarray:
    """The sentence that each must not be paired with: itself; of a query, the document of the same text, or -1."""
    if not queries:
        return np.arange(len(sentences))
    documents = {text: number for number, text in enumerate(sentences[queries:], queries)}
    return np.array([documents.get(text, -1) for text in sentences[:queries]])


def _any_two(size: int, queries: int, same: np.ndarray, most: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """[N, 2] different pairs, evenly: `most` of those that there are, or all.

    They are numbered, without a table of them. Of one kind of sentence, pair n is a sentence and the one 1 + n // S
    further round the circle: each of the S (S - 1) / 2 once.
    """
    if queries:
        there = queries * (size - queries)
        most += np.count_nonzero(same >= 0)  # so many may be left out
        documents, rows = np.divmod(rng.choice(there, min(most, there), replace=False), queries)
        pairs = np.stack([rows, queries + documents], axis=1)
        yield pairs[pairs[:, 1] != same[rows]]
    else:
        there = size * (size - 1) // 2
        further, first = np.divmod(rng.choice(there, min(most, there), replace=False), size)
        yield np.stack([first, (first + further + 1) % size], axis=1)


def _near(search: Search, size: int, neighbours: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """[N, 2] pairs of a sentence and one near it, searched for on demand.

    Each sentence in random order with one of its neighbours drawn evenly; then each with a second one, and so on.
    """
    order = rng.permutation(size)
    drawn = []
    for start in range(0, size, BATCH):
        rows = order[start : start + BATCH]
        found = rng.permuted(search(rows), axis=1)
        found = np.take_along_axis(found, np.argsort(found < 0, axis=1, kind="stable"), axis=1)
        drawn.append(found.astype(np.int32))
        yield np.stack([rows, found[:, 0]], axis=1)[found[:, 0] >= 0]
    table = np.concatenate(drawn)
    for rank in range(1, neighbours):
        found = table[:, rank].astype(np.int64)
        yield np.stack([order, found], axis=1)[found >= 0]


def _by_cosine(
    vectors: np.ndarray, queries: int, same: np.ndarray, neighbours: int, rng: np.random.Generator
) -> Search:
    """Nearest by cosine: exact among up to `EXACT` sentences, among more by faiss, in float32.

    faiss's inverted lists miss some. Recall of the 10 nearest, of 50,000 synthetic vectors of 384 dimensions in 1,000
    clusters: .99 or more where clusters stand apart or have 100 dimensions, .88 where they overlap in 32 dimensions.
    """
    if len(vectors) - queries > EXACT:
        return _by_lists(vectors, queries, same, neighbours, rng)
    documents = torch.from_numpy(np.array(vectors[queries:], dtype=np.float32))

    def search(asked: np.ndarray) -> np.ndarray:
        cosines = torch.from_numpy(np.array(vectors[asked], dtype=np.float32)) @ documents.T
        rows = np.flatnonzero(same[asked] >= 0)
        cosines[rows, same[asked[rows]] - queries] = -torch.inf
        best, found = cosines.topk(neighbours)
        return np.where(best.isneginf().numpy(), -1, queries + found.numpy())

    return search


def _by_lists(vectors: np.ndarray, queries: int, same: np.ndarray, neighbours: int, rng: np.random.Generator) -> Search:
    size, dimensions = len(vectors) - queries, vectors.shape[1]
    try:
        import faiss
    except ImportError:
        raise InputError(f"the nearest of {size:,} sentences are found with faiss: pip install faiss-cpu") from None
    lists = int(LISTS * size**0.5)
    index = faiss.index_factory(dimensions, f"IVF{lists},Flat", faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = int(rng.integers(2**31))
    sample = np.sort(rng.choice(size, min(TRAINED * lists, size), replace=False))
    index.train(vectors[queries + sample].astype(np.float32))
    for start in range(queries, len(vectors), EXACT):
        index.add(vectors[start : start + EXACT].astype(np.float32))
    index.nprobe = PROBES

    def search(asked: np.ndarray) -> np.ndarray:
        found = index.search(vectors[asked].astype(np.float32), neighbours + 1)[1]
        found[found >= 0] += queries
        others = np.argsort(found == same[asked][:, None], axis=1, kind="stable")[:, :neighbours]  # it goes last
        return np.take_along_axis(found, others, axis=1)

    return search


def _word_pattern() -> str:
    """A run of letters, digits and the marks that belong to them, such as vowel signs, which end a word to `re`."""
    marks = [mark for mark in map(chr, range(0x300, 0x1E950)) if unicodedata.category(mark) in ("Mn", "Mc")]
    return rf"[\w{''.join(marks)}]+"


def _with_spaces(text: str) -> str:
    """A text in composed characters, in which words are apart. Of scripts without spaces every two neighbouring
    characters are a word, as in Lucene's CJKAnalyzer.
    """

    def bigrams(run: re.Match[str]) -> str:
        return f" {' '.join(map(''.join, pairwise(run[0])))} "

    return text if text.isascii() else re.sub(UNSPACED, bigrams, unicodedata.normalize("NFC", text))


def _by_words(sentences: Sequence[str], queries: int, same: np.ndarray, neighbours: int) -> Search:
    """Best by BM25, Lucene's variant with bm25s's k1 = 1.5 and b = 0.75; a word counts once in a query.

    A query's rarest words choose, all its words rank what they chose (`POSTINGS`, `RESCORED`): frequent words cost
    nearly all the time and tell least. Recall of the 10 best was .93 among 100,000 sentences of Python docstrings (.70
    without the second ranking); up to about POSTINGS words in all, nothing is left out. Sentences without a word in
    common are never near.
    """
    try:
        import bm25s
    except ImportError:
        raise InputError("pairs by common words are found with bm25s: pip install bm25s") from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it asks for DEBUG when it is imported
    words = bm25s.tokenize(
        map(_with_spaces, sentences), lower=True, token_pattern=_word_pattern(), stopwords=None, allow_empty=False,
        show_progress=False,
    )  # fmt: skip
    ids = words.ids[queries:]
    model = bm25s.BM25()
    model.index(words._replace(ids=ids), show_progress=False)
    scores = model.scores
    frequency = np.diff(scores["indptr"])
    rarest = np.argsort(frequency, kind="stable")
    # Not the words that lead nowhere: those of one sentence alone, and bm25s's empty one, of sentences without any.
    rarest = rarest[(frequency[rarest] > (not queries)) & (rarest != words.vocab.get("", -1))]
    weights = sp.csr_array((scores["data"], scores["indices"], scores["indptr"]), (len(frequency), len(ids)))
    weights, frequency = weights[rarest], frequency[rarest]  # [V, documents]
    documents = weights.T.tocsr()  # in each row the rarest word first
    asking = _occurrences(words.ids[:queries], rarest) if queries else documents

    def search(asked: np.ndarray) -> np.ndarray:
        queried = asking[asked]
        queried.data[:] = 1
        chosen = (_rarest(queried, frequency) @ weights).tocsr()
        rows, near = _highest(chosen, RESCORED * neighbours + 1)  # one more, which may be the same
        others = queries + near != same[asked[rows]]
        rows, near = rows[others], near[others]
        bm25 = queried[rows].multiply(documents[near]).sum(axis=1)
        order = np.lexsort((near, -bm25, rows))
        lengths = np.bincount(rows, minlength=len(asked))
        ranks = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        found = np.full((len(asked), neighbours), -1, dtype=np.int64)
        kept = ranks < neighbours
        # `rows` is sorted, so its order is that of `order`
        found[rows[kept], ranks[kept]] = queries + near[order][kept]
        return found

    return search


def _rarest(queried: sp.csr_array, frequency: np.ndarray) -> sp.csr_array:
    """The rarest words of each query, as long as they occur in no more than `POSTINGS` sentences; one in any case.

    Args:
        queried: [Q, V] ones where a query has a word, in each row the rarest first.
        frequency: [V], in how many sentences a word is.
    """
    rows = np.repeat(np.arange(queried.shape[0]), np.diff(queried.indptr))
    reach = np.cumsum(np.concatenate([[0], frequency[queried.indices]]))
    start = queried.indptr[rows]
    kept = (reach[1:] - reach[start] <= POSTINGS) | (np.arange(queried.nnz) == start)
    return sp.csr_array((queried.data[kept], (rows[kept], queried.indices[kept])), queried.shape)


def _highest(scores: sp.csr_array, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column numbers of the `count` highest scores of each row, or of all that it has."""
    columns = []
    for begin, end in pairwise(scores.indptr):
        first = end - begin - min(count, end - begin)
        best = np.argpartition(scores.data[begin:end], first)[first:] if end > begin else []
        columns.append(scores.indices[begin:end][best])
    return np.repeat(np.arange(len(columns)), list(map(len, columns))), np.concatenate(columns)


def _occurrences(texts: Sequence[Sequence[int]], words: np.ndarray) -> sp.csr_array:
    """[S, V] ones where a text has a word, in each row in the order of `words`.

    Args:
        texts: S times word numbers.
        words: [V] word numbers.
    """
    lengths = np.fromiter(map(len, texts), dtype=np.int64)
    found = np.concatenate([np.zeros(0, dtype=np.int64), *texts])
    place = np.full(1 + max(found.max(initial=0), words.max(initial=0)), -1)
    place[words] = np.arange(len(words))
    rows, columns = np.repeat(np.arange(len(texts)), lengths), place[found]
    rows, columns = rows[columns >= 0], columns[columns >= 0]
    return sp.csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), (len(texts), len(words)))


def flat_sample(scores: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Some of the pairs, with scores as evenly spread as the supply allows.

    The scores are divided into `BINS` bins of equal width. Each bin gives the same number of rows (or one more), drawn
    at random, or all it has.

    Args:
        scores: [N], of any range.
        count: how many to take; N or more takes all.
        seed: of the choice.

    Returns:
        [min(count, N)] int64 row numbers, sorted.
    """
    if count >= len(scores):
        return np.arange(len(scores))
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    inside = np.digitize(scores[shuffled], np.linspace(scores.min(), scores.max(), BINS + 1)[1:-1])
    sizes = np.bincount(inside, minlength=BINS)
    turn = np.empty_like(shuffled)  # every bin's first row, then every bin's second, ...
    turn[np.argsort(inside, kind="stable")] = np.arange(len(scores)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(shuffled[np.argsort(turn, kind="stable")[:count]])
