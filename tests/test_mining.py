"""Pairs out of single sentences: of three kinds, none twice, as many as there are, the same for the same seed."""

import builtins

import numpy as np
import pytest

from transenc.data import mining
from transenc.data.mining import mine
from transenc.errors import InputError

S, K = 600, 5
EVEN = {"random": 1, "nearest": 1, "lexical": 1}


@pytest.fixture(scope="module")
def sentences():
    """Of a few of 300 words, by Zipf's law, and a number each, so that no two are the same."""
    rng = np.random.default_rng(0)
    share = 1 / np.arange(1, 301)
    drawn = rng.choice(300, (S, 7), p=share / share.sum())
    return [" ".join(f"w{word}" for word in words) + f" n{number}" for number, words in enumerate(drawn)]


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(1)
    noisy = rng.standard_normal((30, 16))[rng.integers(30, size=S)] + 0.5 * rng.standard_normal((S, 16))
    return (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)


def mined(sentences, vectors, count=300, shares=EVEN, **settings):
    return mine(sentences, count, shares, vectors=vectors, **{"neighbours": K, "seed": 0} | settings)


def keys(pairs):
    return [tuple(sorted(pair)) for pair in pairs.tolist()]


def nearest(vectors, count=K, queries=0):
    """By brute force, [S, count]; of queries, only documents."""
    cosines = vectors.astype(np.float64) @ vectors.astype(np.float64).T
    np.fill_diagonal(cosines, -np.inf)
    cosines[:, :queries] = -np.inf
    return np.argsort(-cosines, axis=1)[:, :count]


def best_by_bm25(sentences, count=K, queries=0):
    """By the formula, [S, S] scores and [S, count] numbers; -1 where no word is in common. Of queries, only documents,
    which alone count for frequencies and lengths.
    """
    texts = [text.lower().split() for text in sentences]
    words = {word: number for number, word in enumerate(sorted({word for text in texts for word in text}))}
    tf = np.zeros((len(texts), len(words)))
    for row, text in enumerate(texts):
        np.add.at(tf[row], [words[word] for word in text], 1)
    df = (tf[queries:] > 0).sum(axis=0)
    lengths = tf.sum(axis=1, keepdims=True)
    weights = np.log(1 + (len(texts) - queries - df + 0.5) / (df + 0.5)) * tf
    weights /= tf + 1.5 * (0.25 + 0.75 * lengths / lengths[queries:].mean())
    scores = (tf > 0) @ weights.T
    np.fill_diagonal(scores, 0)
    scores[:, :queries] = 0
    best = np.argsort(-scores, axis=1)[:, :count]
    return scores, np.where(np.take_along_axis(scores, best, axis=1) > 0, best, -1)


@pytest.mark.parametrize("shares", [EVEN, {"random": 1}, {"nearest": 1}, {"lexical": 1}])
def test_no_sentence_is_paired_with_itself_and_no_pair_made_twice(sentences, vectors, shares):
    pairs, _ = mined(sentences, vectors, 1500, shares)
    assert len(pairs) == 1500
    assert pairs.dtype == np.int32
    assert pairs.min() >= 0
    assert pairs.max() < S
    assert (pairs[:, 0] != pairs[:, 1]).all()
    assert len(set(keys(pairs))) == len(pairs)


def test_a_pair_that_one_kind_has_made_is_not_made_again_by_another():
    """Words and vectors agree on one near sentence each, so every kind would make the same three pairs first."""
    sentences = ["red one", "red two", "green one", "green two", "blue one", "blue two"]
    vectors = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    pairs, counts = mined(sentences, vectors, 45, neighbours=50)
    assert len(set(keys(pairs))) == len(pairs) == 15
    assert sum(counts.values()) == 15


@pytest.mark.parametrize(
    ("shares", "count", "counts"),
    [
        ({"random": 1, "nearest": 1, "lexical": 1}, 301, {"random": 101, "nearest": 100, "lexical": 100}),
        ({"lexical": 0.5, "random": 0.3, "nearest": 0.2}, 100, {"lexical": 50, "random": 30, "nearest": 20}),
        ({"random": 5, "nearest": 0, "lexical": 2}, 10, {"random": 7, "nearest": 0, "lexical": 3}),
        ({"random": 1, "nearest": 3}, 2, {"random": 1, "nearest": 1}),
        ({"random": 1.0}, 0, {"random": 0}),
    ],
)
def test_pairs_are_divided_by_shares_and_largest_remainders(sentences, vectors, shares, count, counts):
    pairs, made = mined(sentences, vectors, count, shares)
    assert made == counts
    assert list(made) == list(shares)
    assert pairs.shape == (count, 2)


def test_the_seed_and_nothing_else_decides(sentences, vectors):
    first, _ = mined(sentences, vectors)
    np.random.seed(9)
    again, _ = mined(sentences, vectors)
    other, _ = mined(sentences, vectors, seed=1)
    np.testing.assert_array_equal(first, again)
    assert len(set(keys(first)) & set(keys(other))) < 100


@pytest.mark.parametrize("count", [300, 4000])
def test_pairs_do_not_depend_on_how_many_sentences_are_searched_for_at_once(sentences, vectors, monkeypatch, count):
    first = mined(sentences, vectors, count)
    monkeypatch.setattr(mining, "BATCH", 7)
    again = mined(sentences, vectors, count)
    np.testing.assert_array_equal(first[0], again[0])
    assert first[1] == again[1]


def test_position_does_not_depend_on_the_kind(sentences, vectors):
    """The halves hold as many of the nearest, whose cosines stand out."""
    pairs, counts = mined(sentences, vectors, 1200, {"random": 1, "nearest": 1})
    near = (nearest(vectors)[pairs[:, 0]] == pairs[:, 1:]).any(axis=1)
    assert near.sum() >= counts["nearest"]
    assert abs(near[:600].sum() - near[600:].sum()) < 100  # four standard deviations are 70; unshuffled it is 600


def test_random_pairs_are_any_two_evenly():
    drawn = [keys(mined("abcdefg", None, 7, {"random": 1}, seed=seed)[0]) for seed in range(600)]
    counts = {pair: sum(pair in pairs for pairs in drawn) for pair in {pair for pairs in drawn for pair in pairs}}
    assert len(counts) == 21
    assert min(counts.values()) > 140  # 200 expected, standard deviation 11.5
    assert max(counts.values()) < 260


@pytest.mark.parametrize("size", [2, 3, 6, 7, 40])
def test_every_pair_there_is_can_be_random(size):
    pairs, counts = mined([str(number) for number in range(size)], None, 10**4, {"random": 1})
    assert sorted(keys(pairs)) == [(a, b) for a in range(size) for b in range(a + 1, size)]
    assert counts == {"random": len(pairs)}


@pytest.mark.parametrize("count", [200, 1500])
def test_nearest_pairs_are_a_sentence_and_one_of_its_nearest(sentences, vectors, count):
    pairs, _ = mined(sentences, vectors, count, {"nearest": 1})
    found = nearest(vectors)[pairs[:, 0]] == pairs[:, 1:]
    assert found.any(axis=1).all()
    assert (found.mean(axis=0) > 0.12).all()  # evenly: a fifth each, less where a pair was made from its other side


@pytest.mark.parametrize("count", [200, 1500])
def test_lexical_pairs_are_a_sentence_and_one_of_its_best_by_bm25(sentences, count):
    scores, best = best_by_bm25(sentences)
    pairs, _ = mined(sentences, None, count, {"lexical": 1})
    least = np.take_along_axis(scores, best, axis=1)[:, -1]
    assert (scores[pairs[:, 0], pairs[:, 1]] >= least[pairs[:, 0]] - 1e-4).all()  # ties may go either way
    found = best[pairs[:, 0]] == pairs[:, 1:]
    assert (found.mean(axis=0) > 0.1).all()


def test_a_query_in_frequent_words_is_cut_to_its_rarest(sentences, monkeypatch):
    monkeypatch.setattr(mining, "POSTINGS", 60)
    pairs, counts = mined(sentences, None, 300, {"lexical": 1})
    texts = [set(text.split()) for text in sentences]
    frequency = {word: sum(word in text for text in texts) for word in set.union(*texts)}
    assert counts["lexical"] == 300
    assert max(min(frequency[word] for word in texts[a] & texts[b]) for a, b in pairs) <= 60
    scores, _ = best_by_bm25(sentences)
    ranks = (scores[pairs[:, 0]] > scores[pairs[:, 0], pairs[:, 1]][:, None]).sum(axis=1)
    assert np.median(ranks) < 8  # of 600: all words rank what the rarest chose


def test_the_rarest_word_in_common_is_searched_for_however_frequent(monkeypatch):
    monkeypatch.setattr(mining, "POSTINGS", 1)
    pairs, counts = mined([f"w{number // 2} n{number}" for number in range(20)], None, 100, {"lexical": 1})
    assert sorted(keys(pairs)) == [(number, number + 1) for number in range(0, 20, 2)]
    assert counts == {"lexical": 10}


def test_words_are_lower_cased_and_sentences_without_a_common_word_are_no_lexical_pair():
    sentences = ["A Dog", "the dog", "Über uns", "über alles", "...", "!?", "", "alone", "of it", "of me"]
    pairs, counts = mined(sentences, None, 9, {"lexical": 1})
    assert sorted(keys(pairs)) == [(0, 1), (2, 3), (8, 9)]
    assert counts == {"lexical": 3}


def test_vowel_signs_and_accents_belong_to_their_word_and_scripts_without_spaces_have_words_of_two_characters():
    accents = ["re\u0301sume\u0301", "my r\u00e9sum\u00e9", "sume"]
    sentences = ["किताब", "किताब घर", "कि", *accents, "我喜欢苹果", "吃苹果", "果"]
    pairs, counts = mined(sentences, None, 9, {"lexical": 1})
    assert sorted(keys(pairs)) == [(0, 1), (3, 4), (6, 7)]
    assert counts == {"lexical": 3}


@pytest.mark.parametrize("shares", [EVEN, {"random": 1}, {"nearest": 1}, {"lexical": 1}])
def test_of_queries_and_documents_each_pair_is_one_of_either(sentences, vectors, shares):
    pairs, _ = mined(sentences, vectors, 600, shares, queries=200)
    assert len(set(map(tuple, pairs.tolist()))) == 600
    assert pairs[:, 0].max() < 200 <= pairs[:, 1].min()
    assert pairs[:, 1].max() < S
    assert len(set(pairs[:, 0])) > 150


@pytest.mark.parametrize(("queries", "documents"), [(1, 1), (1, 6), (5, 1), (4, 7)])
def test_every_query_can_be_paired_with_every_document(queries, documents):
    texts = [f"the text {number}" for number in range(queries + documents)]
    every = [(a, queries + b) for a in range(queries) for b in range(documents)]
    for kind in ("random", "lexical", "nearest"):
        vectors = np.ones((len(texts), 2), dtype=np.float32)
        pairs, _ = mined(texts, vectors, 10**4, {kind: 1}, neighbours=50, queries=queries)
        assert sorted(map(tuple, pairs.tolist())) == every, kind


@pytest.mark.parametrize("exact", [mining.EXACT, 10])
@pytest.mark.parametrize("kind", ["random", "nearest", "lexical"])
def test_a_query_that_is_a_document_too_is_not_paired_with_itself(monkeypatch, kind, exact):
    monkeypatch.setattr(mining, "EXACT", exact)
    texts = [f"word w{number // 4} n{number}" for number in range(40)]
    texts += texts[::-1]
    angles = np.arange(40) / 40
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vectors = np.concatenate([vectors, vectors[::-1]]).astype(np.float32)
    pairs, _ = mined(texts, vectors, 10**4, {kind: 1}, neighbours=1, queries=40)
    assert len(pairs) == (40 * 39 if kind == "random" else 40)
    assert not any(texts[a] == texts[b] for a, b in pairs)


@pytest.mark.parametrize("queries", [30, 400])
def test_near_pairs_are_a_query_and_one_of_its_nearest_documents(sentences, vectors, queries, monkeypatch):
    pairs, _ = mined(sentences, vectors, 4 * queries, {"nearest": 1}, queries=queries)
    assert (nearest(vectors, queries=queries)[pairs[:, 0]] == pairs[:, 1:]).any(axis=1).all()
    pytest.importorskip("faiss")
    monkeypatch.setattr(mining, "EXACT", 100)
    pairs, _ = mined(sentences, vectors, 2 * queries, {"nearest": 1}, queries=queries)
    assert len(pairs) == 2 * queries
    assert (nearest(vectors, queries=queries)[pairs[:, 0]] == pairs[:, 1:]).any(axis=1).mean() > 0.9


@pytest.mark.parametrize("queries", [30, 400])
def test_lexical_pairs_are_a_query_and_one_of_its_best_documents_by_bm25(sentences, queries):
    scores, best = best_by_bm25(sentences, queries=queries)
    pairs, _ = mined(sentences, None, 4 * queries, {"lexical": 1}, queries=queries)
    least = np.take_along_axis(scores, best, axis=1)[:, -1]
    assert (scores[pairs[:, 0], pairs[:, 1]] >= least[pairs[:, 0]] - 1e-4).all()


@pytest.mark.parametrize("sentences", [["...", "!!!", "??"], ["one", "two", "three"], ["one", "two"]])
def test_a_corpus_without_common_words_has_no_lexical_pairs(sentences):
    pairs, counts = mined(sentences, None, 5, {"lexical": 1})
    assert pairs.shape == (0, 2)
    assert counts == {"lexical": 0}


def test_a_shortage_of_pairs_is_logged_and_not_waited_for(sentences, vectors):
    pairs, counts = mined(sentences, vectors, 10**5, {"nearest": 1, "lexical": 1}, neighbours=1)
    both = {tuple(sorted(pair)) for pair in enumerate(nearest(vectors, 1)[:, 0].tolist())}
    assert counts["nearest"] == len(both)
    assert 0 < counts["lexical"] < S
    assert len(pairs) == sum(counts.values())


def test_one_sentence_or_shares_without_sense_are_one_line(vectors):
    for sentences, shares in ((["one"], {"random": 1}), ([], {"random": 1})):
        with pytest.raises(InputError, match=r"^\d sentences make no pair.*$"):
            mined(sentences, None, 1, shares)
    for shares in ({}, {"random": 0}, {"random": -1, "nearest": 2}, {"rare": 1}, {"random": float("nan")}):
        with pytest.raises(InputError, match=r"^shares of pairs .*$"):
            mined(["one", "two"], None, 1, shares)


def test_alike_vectors_do_not_make_a_sentence_its_own_neighbour(monkeypatch):
    sentences, vectors = [str(number) for number in range(300)], np.ones((300, 1), dtype=np.float32)
    for exact in (mining.EXACT, 10):
        monkeypatch.setattr(mining, "EXACT", exact)
        pairs, _ = mined(sentences, vectors, 200, {"nearest": 1})
        assert len(pairs) == 200
        assert (pairs[:, 0] != pairs[:, 1]).all()


def test_above_the_limit_faiss_searches_and_mostly_agrees(sentences, vectors, monkeypatch):
    faiss = pytest.importorskip("faiss")
    monkeypatch.setattr(mining, "EXACT", 100)
    monkeypatch.setattr(mining, "PROBES", 24)  # of the 97 lists of so small a corpus
    made, factory = [], faiss.index_factory
    monkeypatch.setattr(faiss, "index_factory", lambda *args: made.append(factory(*args)) or made[-1])
    pairs, counts = mined(sentences, vectors, 500, {"nearest": 1})
    assert made[0].ntotal == S
    assert counts == {"nearest": 500}
    assert (nearest(vectors)[pairs[:, 0]] == pairs[:, 1:]).any(axis=1).mean() > 0.9
    np.testing.assert_array_equal(pairs, mined(sentences, vectors, 500, {"nearest": 1})[0])
    assert made[1].nprobe == 24
    assert made[0].cp.seed == made[1].cp.seed
    monkeypatch.setattr(mining, "EXACT", S)
    mined(sentences, vectors, 500, {"nearest": 1})
    assert len(made) == 2


class InParts:
    """A memory map that can be read by rows only, and notes how many are read at once."""

    def __init__(self, mapped):
        self.mapped, self.shape, self.most = mapped, mapped.shape, 0

    def __len__(self):
        return len(self.mapped)

    def __getitem__(self, rows):
        assert isinstance(rows, slice | np.ndarray), "read whole, row by row"
        self.most = max(self.most, len(self.mapped[rows]))
        return self.mapped[rows]


def test_a_float16_memory_map_is_read_in_parts_and_gives_nearly_the_same(tmp_path, sentences, vectors, monkeypatch):
    vectors.astype(np.float16).tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float16, "r", shape=vectors.shape)
    pairs, _ = mined(sentences, mapped, 300, {"nearest": 1})
    assert (nearest(vectors)[pairs[:, 0]] == pairs[:, 1:]).any(axis=1).mean() > 0.97
    monkeypatch.setattr(mining, "EXACT", 100)
    monkeypatch.setattr(mining, "BATCH", 100)
    monkeypatch.setattr(mining, "TRAINED", 1)
    parts = InParts(mapped)
    pairs, _ = mined(sentences, parts, 300, {"nearest": 1})
    assert len(pairs) == 300
    assert parts.most == 100


@pytest.mark.parametrize(("module", "shares"), [("faiss", {"nearest": 1}), ("bm25s", {"lexical": 1})])
def test_what_is_not_installed_is_named_in_one_line(sentences, vectors, monkeypatch, module, shares):
    def without(name, *args, **kwargs):
        if name == module:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(mining, "EXACT", 100)
    with pytest.raises(InputError, match=rf"^.*pip install {module}.*$"):
        mined(sentences, vectors, 10, shares)


def test_only_as_many_sentences_are_searched_for_as_pairs_are_wanted(sentences, vectors, monkeypatch):
    monkeypatch.setattr(mining, "BATCH", 10)
    real, searched = mining._by_cosine, []

    def counting(*args):
        search = real(*args)
        return lambda queries: searched.append(len(queries)) or search(queries)

    monkeypatch.setattr(mining, "_by_cosine", counting)
    mined(sentences, vectors, 100, {"nearest": 1})
    assert 100 <= sum(searched) <= 130  # some near pairs come from both their sides
    searched.clear()
    mined(sentences, vectors, 1500, {"nearest": 1})
    assert sum(searched) == S  # once each, whatever is wanted


def test_a_sentence_with_few_neighbours_gives_one_at_its_first_turn(monkeypatch):
    monkeypatch.setattr(mining, "BATCH", 20)
    twins = [f"w{number // 2} n{number}" for number in range(200)]
    done = []
    mined(twins, None, 100, {"lexical": 1}, progress=done.append)
    assert done[0] > 15  # of 20, less twins that met; drawn among K places of which one is filled, it would be 4
    assert sum(done) == 100


@pytest.mark.parametrize("kind", ["nearest", "lexical"])
def test_a_few_near_pairs_are_of_sentences_from_the_whole_corpus(sentences, vectors, kind):
    pairs, _ = mined(sentences, vectors, 60, {kind: 1})
    assert np.histogram(pairs[:, 0], 4, (0, S))[0].min() > 5  # 15 expected


def test_progress_adds_up_to_the_pairs(sentences, vectors, monkeypatch):
    monkeypatch.setattr(mining, "BATCH", 10)
    done = []
    pairs, _ = mined(sentences, vectors, 200, progress=done.append)
    assert sum(done) == len(pairs)
    assert len(done) > 10
