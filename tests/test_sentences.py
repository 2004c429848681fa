"""Sentences are read from their file by number, and told apart without being held."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transenc.artifacts import Artifact, file_digest
from transenc.data.sentences import Sentences, digests, distinct, write
from transenc.progress import Progress
from transenc.stages import pairs as stages

LINES = st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=5), max_size=20)


@given(LINES, st.slices(20))
def test_what_was_written_is_read_again(tmp_path_factory, lines, part):
    path = tmp_path_factory.mktemp("sentences") / "sentences.txt"
    assert write(path, iter(lines)) == len(lines)
    sentences = Sentences(path)
    assert list(sentences) == lines
    assert [sentences[number] for number in range(len(sentences))] == lines
    assert sentences[part] == lines[part]


def test_a_number_beyond_the_last_is_an_error(tmp_path):
    write(tmp_path / "sentences.txt", ["a", ""])
    sentences = Sentences(tmp_path / "sentences.txt")
    assert (sentences[-1], sentences[-2]) == ("", "a")
    for number in (2, -3):
        with pytest.raises(IndexError):
            sentences[number]


@given(LINES)
def test_equal_sentences_have_one_number_in_order_of_appearance(lines):
    first, numbers = distinct(digests(lines))
    different = list(dict.fromkeys(lines))
    assert [lines[place] for place in first] == different
    assert [different[number] for number in numbers] == lines


def test_making_a_pool_does_not_hold_the_texts(tmp_path):
    """10,000 pairs of 2,000 characters a sentence: 40 MB, of which less than a tenth is held."""
    path, words = tmp_path / "pairs.tsv", np.random.default_rng(0).integers(10**9, 10**10, size=20_000)
    texts = (f"{word} " * 182 for word in words)
    with path.open("w") as file:
        file.write("sentence1\tsentence2\n")
        file.writelines(f"{first}\t{second}\n" for first, second in zip(texts, texts, strict=True))
    assert path.stat().st_size > 40e6
    columns = {"sentence1": "sentence1", "sentence2": "sentence2", "score": None, "score_min": 0, "score_max": 5}
    read = {"name": "pairs", "files": [str(path)], "scored": False, "strip": True, "format": columns}
    read["digests"] = [file_digest(path)]
    clean = dict.fromkeys(("empty", "identical", "repeated"), True)
    gather = {**clean, "ordered": False, "sources": 1, "extra": 0, "extra_limit": None, "limit": None, "seed": 0}
    folders = [tmp_path / name for name in ("read", "pool")]
    for folder in folders:
        folder.mkdir()
    tracemalloc.start()
    try:
        stages.read.build(folders[0], read, Progress())
        facts = stages.gather.build(folders[1], gather, Progress(), Artifact(folders[0], "", {}))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (facts["pairs"], facts["sentences"]) == (10_000, len(set(words)))
    assert peak < 4e6
