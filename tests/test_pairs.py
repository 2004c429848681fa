"""The pairs to train on: cleaned, drawn, and free of the pairs that encoders are judged by."""

import re

import numpy as np
import pytest

from transenc.artifacts import Artifact
from transenc.data.sentences import write
from transenc.data.tokens import number_sentences
from transenc.errors import InputError
from transenc.stages import pairs as stages

SETTINGS = {
    "sources": 1, "extra": 0, "empty": True, "identical": True, "repeated": True, "ordered": False,
    "transductive": False, "limit": None, "extra_limit": None, "seed": 0,
}  # fmt: skip


class Bench:
    """Artifacts made by hand."""

    def __init__(self, root):
        self.root, self.number = root, 0

    def folder(self):
        self.number += 1
        folder = self.root / str(self.number)
        folder.mkdir()
        return folder

    def pairs(self, rows, gold=None, **facts):
        folder = self.folder()
        sentences, index = number_sentences(rows)
        write(folder / "sentences.txt", sentences)
        np.save(folder / "pairs.npy", index)
        if gold is not None:
            np.save(folder / "gold.npy", np.array(gold, dtype=float))
        return Artifact(folder, "", facts)

    def run(self, stage, config, *inputs):
        folder = self.folder()
        facts = stage.build(folder, config, None, *inputs)
        return Artifact(folder, "", facts)

    def gather(self, *inputs, **settings):
        pool = self.run(stages.gather, SETTINGS | settings, *inputs)
        sentences = stages.sentences_of(pool)
        return [(sentences[a], sentences[b]) for a, b in np.load(pool / "pairs.npy")], pool


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path)


ROWS = [("a", "b"), ("b", "a"), ("", "c"), ("c", "c"), ("a", "b"), ("d", "e"), ("f", "g")]


def test_cleaning_drops_and_counts_each_kind(bench):
    found, pool = bench.gather(bench.pairs(ROWS))
    assert found == [("a", "b"), ("d", "e"), ("f", "g")]
    assert pool.facts["dropped"] == {"with an empty side": 1, "of equal sides": 1, "of dev or test": 0, "repeated": 2}


@pytest.mark.parametrize(
    ("switch", "kept"),
    [
        ({"empty": False}, [("a", "b"), ("", "c"), ("d", "e"), ("f", "g")]),
        ({"identical": False}, [("a", "b"), ("c", "c"), ("d", "e"), ("f", "g")]),
        ({"repeated": False}, [("a", "b"), ("b", "a"), ("a", "b"), ("d", "e"), ("f", "g")]),
        ({"ordered": True}, [("a", "b"), ("b", "a"), ("d", "e"), ("f", "g")]),
    ],
)
def test_each_switch_keeps_its_own_kind_only(bench, switch, kept):
    assert bench.gather(bench.pairs(ROWS), **switch)[0] == kept


def test_pairs_of_dev_and_test_are_left_out_whichever_way_round_unless_transductive(bench):
    judged = bench.pairs([("e", "d")], [3.0]), bench.pairs([("x", "y"), ("a", "b")], [1.0, 2.0])
    found, pool = bench.gather(bench.pairs(ROWS), *judged)
    assert found == [("f", "g")]
    assert (pool.facts["dropped"]["of dev or test"], pool.facts["shared"]) == (4, 0)
    found, pool = bench.gather(bench.pairs(ROWS), *judged, transductive=True)
    assert found == [("a", "b"), ("d", "e"), ("f", "g")]
    assert pool.facts["shared"] == 2


def test_a_pool_of_nothing_but_test_pairs_says_what_to_do(bench):
    with pytest.raises(
        InputError, match=r"none of the 1 pairs.*dropped 1 of dev or test; data.transductive=true keeps"
    ):
        bench.gather(bench.pairs([("a", "b")]), bench.pairs([("b", "a")], [1.0]))


def test_limits_draw_the_same_pairs_each_time_and_others_for_another_seed(bench):
    pool = bench.pairs([(f"a{i}", f"b{i}") for i in range(50)])
    more = bench.pairs([(f"c{i}", f"d{i}") for i in range(50)])
    drawn = [bench.gather(pool, more, extra=1, extra_limit=10, seed=seed)[0] for seed in (0, 0, 1)]
    assert [[first[0] for first, _ in pairs].count("a") for pairs in drawn] == [50] * 3
    assert [len(pairs) for pairs in drawn] == [60] * 3
    assert (drawn[0] == drawn[1], drawn[0] == drawn[2]) == (True, False)
    assert len(bench.gather(pool, more, extra=1, limit=30)[0]) == 30


def test_the_pool_holds_no_sentence_that_is_in_none_of_its_pairs(bench):
    _, pool = bench.gather(bench.pairs(ROWS), bench.pairs([("a", "b")], [1.0]))
    assert sorted(stages.sentences_of(pool)) == ["d", "e", "f", "g"]
    assert not (pool / "gold.npy").exists()


def test_gold_scores_become_labels_on_their_own_scale_and_test_pairs_never_do(bench):
    first = bench.pairs([("a", "b"), ("c", "d"), ("", "x"), ("b", "a")], [0, 5, 5, 5], scale=[0, 5])
    second = bench.pairs([("e", "f"), ("g", "h")], [1, 2], scale=[1, 5])
    test = bench.pairs([("d", "c")], [1.0])
    rules = {"ordered": False, "empty": True, "identical": True, "repeated": True, "limit": None, "seed": 0}
    gold = bench.run(stages.gold, rules | {"sources": 2}, first, second, test)
    assert np.load(gold / "labels.npy").tolist() == [0.0, 0.0, 0.25]
    assert list(stages.sentences_of(gold)) == ["a", "b", "e", "f", "g", "h"]
    dropped = {"with an empty side": 1, "of equal sides": 0, "of dev or test": 1, "repeated": 1}
    assert (gold.facts["dropped"], gold.facts["shared"]) == (dropped, 0)
    gold = bench.run(stages.gold, rules | {"sources": 2, "limit": 1}, first, second, test)
    assert len(np.load(gold / "labels.npy")) == 1
    with pytest.raises(InputError, match=r"none of the 2 pairs to learn from is left; dropped 2 of dev or test$"):
        bench.run(stages.gold, rules | {"sources": 1}, second, bench.pairs([("e", "f"), ("g", "h")], [1.0, 2.0]))


def test_flattening_evens_out_the_scores_and_counts_shared_pairs_anew(bench):
    rows = [(f"a{i}", f"b{i}") for i in range(100)]
    _, pool = bench.gather(bench.pairs(rows), bench.pairs(rows[:90], [0.0] * 90), transductive=True)
    labels = np.concatenate([np.full(90, 0.05), np.linspace(0.1, 1, 10)]).astype(np.float32)
    np.save(pool / "labels.npy", labels)
    flat = bench.run(stages.flatten, {"count": 20, "seed": 0}, pool, pool)
    names = stages.sentences_of(flat)
    kept = [int(names[a][1:]) for a, _ in np.load(flat / "pairs.npy")]
    assert set(range(90, 100)) <= set(kept)
    assert (len(kept), flat.facts["shared"]) == (20, 10)


def test_blanks_that_are_kept_make_no_other_sentence_of_one(bench):
    rows = [(" a", "b"), ("a", "b "), (" ", "c"), ("d ", "d"), ("e ", "f")]
    found, _ = bench.gather(bench.pairs(rows), bench.pairs([("f", " e")], [1.0]))
    assert found == [(" a", "b")]


def test_what_looks_wrong_in_a_file_is_warned_of_by_its_name_when_it_was_read_before_too(setting, tmp_path, caplog):
    for name in ("one.csv", "one.csv", "copy.csv"):
        (tmp_path / name).write_text("question,answer\n" + "".join(f"man {i},dog {i}\n" for i in range(20)))
        caplog.clear()
        columns = [
            f"data.columns.{key}={value}" for key, value in (("sentence1", 0), ("sentence2", 1), ("score", "null"))
        ]
        setting.run(f"data.path={tmp_path}/{name}", "data.dev=null", "data.test=[]", *columns, "distill.failure=ignore")
        told = [record.getMessage() for record in caplog.records if "is read as a pair" in record.getMessage()]
        assert told == [
            f"{tmp_path}/{name}: line 1 is read as a pair; if it is a header, name the columns in data.columns"
        ]


def test_the_log_names_the_model_that_was_given_whatever_model_of_the_same_bytes_was_loaded_before(
    setting, bert, model_copy, caplog
):
    caplog.set_level("INFO")
    for model in (bert, model_copy):
        caplog.clear()
        setting.run(f"model.bi={model}", f"model.cross={model}", "distill.failure=ignore")
        (told,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("load bi ")]
        assert f"{model}: " in told


def test_text_that_the_tokenizer_does_not_know_is_warned_of_once(setting, tmp_path, caplog):
    rows = "".join(f"狗 {i}\t猫 {i}\n" for i in range(20))
    (tmp_path / "zh.tsv").write_text(f"sentence1\tsentence2\n{rows}", encoding="utf-8")
    settings = [f"data.path={tmp_path}/zh.tsv", "distill.failure=ignore"]
    for name in ("built", "reused"):
        caplog.clear()
        setting.run(*settings, name=name)
        told = [record.getMessage() for record in caplog.records if "unknown to the tokenizer" in record.getMessage()]
        assert len(told) == 1
        assert re.match(r"pool: \d\d0?% of the tokens are unknown", told[0])
