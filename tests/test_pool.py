"""The pool of a run: pairs made of sentences, pairs that are dropped, pairs of the test sets."""

import json

import pandas
import pytest
from conftest import PAIRS

import transenc.data.module
import transenc.stages.evaluation
import transenc.stages.pool
from transenc.errors import InputError


@pytest.mark.slow
def test_another_test_set_trains_nothing_anew_where_the_pool_stays_the_same(setting):
    setting.run("data.transductive=true")
    setting.run("data.transductive=true", "data.test=[]", "data.seed=1")
    assert setting.trained() == []


def test_sentences_become_pairs_in_the_given_shares_and_are_counted(setting, files, tmp_path):
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    (tmp_path / "corpus.txt").write_text("\n".join([*pool.sentence1, "", *pool.sentence2]) + "\n")
    folder = setting.run(
        "data.path=null", f"data.sentences={tmp_path}/corpus.txt", "data.mining.pairs=60", "data.limit=40",
        "data.flatten=true", f"data.extra={files}/pool.tsv", "data.extra_limit=10",
    )  # fmt: skip
    (record,) = [json.loads(p.read_text()) for p in (setting.root / "artifacts").glob("mine-*/artifact.json")]
    assert record["facts"]["summary"] == "60 pairs (15 random, 30 nearest, 15 lexical)"
    candidates = pandas.read_csv(folder / "labels" / "0-bi.csv")
    labels = pandas.read_csv(folder / "labels" / "1-bi.csv")
    assert len(labels) == 40
    assert 60 < len(candidates) <= 70
    assert not (labels.sentence1 == labels.sentence2).any()
    again = ["data.path=null", f"data.sentences={tmp_path}/corpus.txt", "data.mining.pairs=60"]
    for more, built in (([], []), (["trainer.precision=bf16-mixed"], ["embed", "mine"])):
        setting.run(*again, *more, name=f"more-{len(more)}")
        assert [stage for stage, _ in setting.built if stage in ("corpus", "embed", "mine")] == built


def test_a_file_of_one_sentence_makes_no_pairs(setting, tmp_path):
    (tmp_path / "corpus.txt").write_text("one sentence\none sentence\n")
    with pytest.raises(InputError, match=r"corpus.txt: pairs are made of two different sentences"):
        setting.run("data.path=null", f"data.sentences={tmp_path}/corpus.txt")
    (tmp_path / "corpus.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\n")
    (tmp_path / "pairs.txt").write_text("a||b\nc||d\n")
    with pytest.raises(InputError, match=r"pairs.txt: its lines are pairs, sentence1\|\|sentence2; give data=pairs"):
        setting.run("data.path=null", f"data.sentences={tmp_path}/pairs.txt")
    for name, says in (
        ("corpus.tsv", "a table; it must have one sentence a line"), ("corpus.json", "a table; it must"),
        ("corpus.zip", "is compressed; unpack it first"), ("corpus.xlsx", "is a spreadsheet"),
    ):  # fmt: skip
        (tmp_path / name).write_text("a\nb\n")
        with pytest.raises(InputError, match=f"{name}: {says}"):
            setting.run("data.path=null", f"data.sentences={tmp_path}/{name}")


@pytest.mark.parametrize("kind", ["data.path", "data.sentences"])
def test_a_file_that_changes_between_its_digest_and_its_reading_is_refused(setting, files, tmp_path, monkeypatch, kind):
    (tmp_path / "texts.txt").write_text("a dog\na cat\n")
    digests = [(transenc.stages.evaluation, "digest_of"), (transenc.stages.pool, "digest_of")]
    for module, name in digests:
        monkeypatch.setattr(module, name, lambda path: "of other bytes")
    file = {"data.path": files / "pool.tsv", "data.sentences": tmp_path / "texts.txt"}[kind]
    given = ["data.path=null"] * (kind != "data.path") + [f"{kind}={file}", "data.dev=null", "data.test=[]"]
    with pytest.raises(InputError, match=f"{file.name}: changed while it was read; give the command again"):
        setting.run(*given)


def test_a_file_of_blank_lines_beside_documents_is_refused(setting, tmp_path):
    (tmp_path / "blank.txt").write_text("\n  \n")
    (tmp_path / "documents.txt").write_text("a dog\na cat\n")
    files = [f"data.queries={tmp_path}/blank.txt", f"data.documents={tmp_path}/documents.txt"]
    with pytest.raises(InputError, match=r"blank.txt: the file is empty"):
        setting.run("data.path=null", *files, "data.ordered=true")


def test_queries_and_documents_become_pairs_of_one_of_either(setting, files, tmp_path):
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    queries, documents = pool.sentence1.drop_duplicates(), pool.sentence2.drop_duplicates()
    for name, texts in (("queries", queries), ("documents", documents)):
        (tmp_path / f"{name}.txt").write_text("\n".join([*texts, texts.iloc[0]]) + "\n")
    folder = setting.run(
        "data.path=null", f"data.queries={tmp_path}/queries.txt", f"data.documents={tmp_path}/documents.txt",
        "data.ordered=true", "data.mining.neighbours=1",
    )  # fmt: skip
    (record,) = [json.loads(p.read_text()) for p in (setting.root / "artifacts").glob("corpus-*/artifact.json")]
    counts = f"{len(queries)} queries and {len(documents)} documents; dropped 2 repeated"
    assert record["facts"]["summary"] == counts
    (record,) = [json.loads(p.read_text()) for p in (setting.root / "artifacts").glob("mine-*/artifact.json")]
    assert record["facts"]["pairs"] == len(queries)
    labels = pandas.read_csv(folder / "labels" / "1-bi.csv")
    assert labels.sentence1.isin(queries).all()
    assert labels.sentence2.isin(documents).all()


def test_ordered_pairs_are_never_swapped(setting, monkeypatch):
    module, orders = transenc.data.module.PairDataModule, []

    def watched(*arguments, both_orders, **settings):
        orders.append(both_orders)
        return module(*arguments, both_orders=both_orders, **settings)

    monkeypatch.setattr(transenc.data.module, "PairDataModule", watched)
    setting.run("data.ordered=true")
    assert orders == [False, False]


@pytest.mark.slow
def test_pairs_of_dev_and_test_in_the_pool_are_a_setting_that_is_reported(setting, files):
    folder = setting.run(f"data.extra={files}/test.tsv")
    data = json.loads((folder / "run.json").read_text())["data"]
    assert (data["transductive"], data["shared"], data["dropped"]["of dev or test"] > 10) == (False, 0, True)
    assert "(transductive): no." in (folder / "models" / "cross-encoder" / "README.md").read_text()
    folder = setting.run(f"data.extra={files}/test.tsv", "data.transductive=true", name="with")
    data = json.loads((folder / "run.json").read_text())["data"]
    assert (data["transductive"], data["shared"] > 10) == (True, True)
    assert "(transductive): yes" in (folder / "models" / "cross-encoder" / "README.md").read_text()


def test_empty_sentences_and_repeated_pairs_are_dropped_and_counted(setting, tmp_path):
    text = "sentence1\tsentence2\na dog\ta cat\n\ta cat\na cat\ta dog\na man\ta cat\na dog\ta cat\na dog\t \n"
    (tmp_path / "pool.tsv").write_text(text + "".join(f"{a}\t{b}\n" for a, b in PAIRS))
    setting.run(f"data.path={tmp_path}/pool.tsv")
    data = json.loads((setting.root / "run" / "run.json").read_text())["data"]
    dropped = {"with an empty side": 2, "of equal sides": 1, "of dev or test": 0, "repeated": 2}
    assert (data["pairs"], data["dropped"]) == (1 + len(PAIRS), dropped)


@pytest.mark.slow
def test_of_a_flattened_pool_the_pairs_of_the_present_test_sets_are_counted(setting, files):
    settings = ["data.flatten=true", "data.limit=20", "data.transductive=true", "data.dev=null"]
    shared = []
    for test in ("[]", f"[{files}/pool.tsv]"):
        folder = setting.run(*settings, f"data.test={test}", "distill.failure=ignore")
        shared.append(json.loads((folder / "run.json").read_text())["data"]["shared"])
    assert shared == [0, 20]
    assert setting.trained() == []


def test_sentences_of_which_no_pair_can_be_made_are_refused_before_a_model_scores(setting, tmp_path):
    (tmp_path / "corpus.txt").write_text("cat\ndog\nhouse\nfood\n")  # no word in common
    shares = ["data.mining.random=0", "data.mining.nearest=0", "data.mining.lexical=1"]
    with pytest.raises(InputError, match=r"^data.mining: makes no pair .* raise data.mining.random"):
        setting.run("data.path=null", f"data.sentences={tmp_path}/corpus.txt", *shares)


def test_mining_that_runs_out_of_pairs_of_a_kind_is_warned_of(setting, files, tmp_path, caplog):
    pool = pandas.read_csv(files / "pool.tsv", sep="\t")
    (tmp_path / "corpus.txt").write_text("\n".join(pool.sentence1) + "\n")
    corpus, shares = f"data.sentences={tmp_path}/corpus.txt", ["data.mining.random=0", "data.mining.lexical=0"]
    for pairs, warned in ((20, False), (5000, True)):  # fewer than all pairs of the sentences
        caplog.clear()
        settings = ["data.path=null", corpus, *shares, f"data.mining.pairs={pairs}", "distill.failure=ignore"]
        setting.run(*settings, name=str(pairs))
        assert ("kinds; raise data.mining.neighbours, or lower data.mining.pairs" in caplog.text) == warned
    (tmp_path / "corpus.txt").write_text("the man eats\na dog\na cow in the park\na man\n")
    setting.run("data.path=null", corpus, "data.mining.pairs=10", "distill=paper", "distill.failure=ignore", name="all")
    assert "makes 6 of 10 pairs, as there are no more of these kinds; lower data.mining.pairs" in caplog.text
