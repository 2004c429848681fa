"""The loop from Python: pairs in memory go in, and the results and the selected encoders come out."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from conftest import pairs

import transenc
from transenc.composition import compose
from transenc.data.files import Format, read_pairs
from transenc.errors import InputError
from transenc.in_memory import _rows, file_of
from transenc.training import TrainingCallback

FORM = Format("sentence1", "sentence2", "score", 0, 5)


@pytest.fixture
def settings(bert, files, tmp_path):
    return [
        f"model.bi={bert}", f"model.cross={bert}", f"paths.artifacts={tmp_path}/artifacts", "trainer=cpu",
        "distill=paper", "distill.iterations=1", "distill.failure=ignore", "distill.bi.epochs=1",
        f"data.dev={files}/dev.tsv", f"data.test=[{files}/test.tsv]",
    ]  # fmt: skip


def test_pairs_in_memory_are_distilled_and_results_and_models_come_back(settings, tmp_path, caplog):
    sentences = [pair[:2] for pair in pairs(60, seed=1)]
    run = transenc.distill(*settings, pairs=sentences, folder=tmp_path / "run")
    assert not transenc.stages.models._last_used  # a notebook goes on without the run's last encoder in memory
    assert list(run.results.encoder) == ["bi", "bi", "cross", "cross", "bi", "bi"]
    assert run.results.auc.isna().all()
    assert run.results.dtypes["spearman"] == run.results.dtypes["auc"] == "float64"
    assert {name: (path / "config.json").exists() for name, path in run.models.items()} == {"bi": True, "cross": True}
    assert "<td>0  bi</td>" in run._repr_html_()
    assert "Spearman x100" in caplog.text
    labelled = pandas.read_csv(tmp_path / "run" / "labels" / "1-bi.csv")
    assert set(zip(labelled.sentence1, labelled.sentence2, strict=True)) <= set(sentences)


def test_queries_and_documents_in_memory_become_pairs(settings, tmp_path):
    table = pandas.DataFrame(pairs(60, seed=1)).drop_duplicates()
    queries, documents = [*table[0], None, "two\nlines"], table[1]
    run = transenc.distill(*settings, queries=queries, documents=documents, folder=tmp_path / "run")
    labelled = pandas.read_csv(run.folder / "labels" / "1-bi.csv")
    assert set(labelled.sentence1) <= {*table[0], "two lines"}
    assert set(labelled.sentence2) <= set(documents)
    run = transenc.distill(*settings, sentences=documents, folder=tmp_path / "alone")
    labelled = pandas.read_csv(run.folder / "labels" / "1-bi.csv")
    assert {*labelled.sentence1, *labelled.sentence2} <= set(documents)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"sentences": [None, "a", 2]}, "sentences: item 2 is 2; give texts"),
        ({"sentences": [("a", "b")]}, r"sentences: item 0 is \('a', 'b'\); give texts"),
        ({"sentences": [None]}, "sentences: there are none"),
        ({"sentences": 7}, "sentences: int holds no texts; give a file, or an iterable of texts"),
        ({"queries": ["a"], "documents": pandas.DataFrame({"text": ["b"]})}, "documents: DataFrame holds no texts"),
        ({"queries": ["a"]}, "data.queries: give data.sentences alone, or both data.queries and data.documents"),
    ],
)
def test_what_holds_no_texts_is_one_line(settings, given, says):
    with pytest.raises(InputError, match=f"^{says}"):
        transenc.distill(*settings, **given)


def test_a_notebook_may_stop_a_run_and_give_it_again(settings, tmp_path, monkeypatch):
    sentences = [pair[:2] for pair in pairs(60, seed=1)]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has it ignored in the background
    try:
        with monkeypatch.context() as patch:
            patch.setattr(TrainingCallback, "on_train_epoch_end", lambda *_: signal.raise_signal(signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                transenc.distill(*settings, pairs=sentences, folder=tmp_path / "run")
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert "cross" in transenc.distill(*settings, pairs=sentences, folder=tmp_path / "run").models


@pytest.mark.slow
def test_a_data_frame_and_a_file_give_the_same_run_as_a_list(settings, tmp_path):
    sentences = [pair[:2] for pair in pairs(60, seed=1)]
    frame = pandas.DataFrame(sentences, columns=["text", "other"])
    frame.set_axis(["sentence1", "sentence2"], axis=1).to_csv(tmp_path / "pairs.csv", index=False)
    runs = [
        transenc.distill(*settings, pairs=source, folder=tmp_path / str(i))
        for i, source in enumerate([sentences, frame, tmp_path / "pairs.csv"])
    ]
    results = [(run.folder / "results.csv").read_text() for run in runs]
    assert results[0] == results[1] == results[2]


def test_a_mistake_is_an_error_that_python_code_can_catch(settings):
    with pytest.raises(InputError, match=r"no such key; did you mean distill.iterations"):
        transenc.distill(*settings, "distill.iteration=1")


@pytest.mark.parametrize(
    ("columns", "read"),
    [
        ((), ["sentence1", "sentence2"]),
        (("question", "answer"), ["question", "answer"]),
        *(((places), list(places)) for places in ((0, 1), (1, 0), (3, 5))),
    ],
)
def test_pairs_in_memory_are_a_file_with_the_columns_that_the_settings_name(tmp_path, columns, read):
    settings = [f"data.columns.sentence{i}={column}" for i, column in enumerate(columns, start=1)]
    cfg = compose("train", ["data=pairs", "data.path=-", f"paths.artifacts={tmp_path}", *settings])
    half = "\ud83d"  # of a surrogate pair, which is no character
    path = file_of("pairs", [("one", f"two {half}"), ("three", "four")], cfg)
    found = list(read_pairs(path, Format(*read, None, 0, 1)))
    assert [pair[:2] for pair in found] == [("one", "two ?"), ("three", "four")]
    if columns and isinstance(columns[0], str):
        rows = (("one", "two ?"), ("three", "four"))
        assert file_of("pairs", [dict(zip(columns, row, strict=True)) for row in rows], cfg) == path


class Polars:
    """A data frame that iterates over its columns."""

    def __init__(self, rows, columns):
        self.rows, self.columns = rows, columns

    def __getitem__(self, names):
        places = [self.columns.index(name) for name in names]
        return Polars([tuple(row[place] for place in places) for row in self.rows], names)

    def __iter__(self):
        return iter(zip(*self.rows, strict=True))

    def iter_rows(self):
        return iter(self.rows)


def test_a_data_frame_is_read_by_its_rows(tmp_path):
    rows = [("one", "two"), ("four", "five"), ("seven", "eight")]
    for columns in (["a", "b"], ["x", "y"]):
        for frame in (Polars(rows, columns), pandas.DataFrame(rows, columns=columns)):
            assert _rows("pairs", frame, ("a", "b"), FORM) == rows


@pytest.mark.parametrize("kind", [Polars, pandas.DataFrame])
def test_columns_of_a_data_frame_are_found_by_their_names_and_others_are_not_guessed(kind):
    rows = [("id 1", "one", "two"), ("id 2", "three", "four")]
    assert _rows("pairs", kind(rows, columns=["id", "a", "b"]), ("a", "b"), FORM) == [("one", "two"), ("three", "four")]
    with pytest.raises(InputError, match=r"with the columns 'id', 'x', 'b'; name some of them 'a' and 'b'"):
        _rows("pairs", kind(rows, columns=["id", "x", "b"]), ("a", "b"), FORM)
    with pytest.raises(InputError, match=r"with the columns 'a', 'a', 'b'"):
        _rows("pairs", kind(rows, columns=["a", "a", "b"]), ("a", "b"), FORM)


@pytest.mark.parametrize(
    ("settings", "pairs", "says"),
    [
        (["data.path=my.csv"], None, "data.path: by default encoders are selected and tested on STS-B"),
        (
            ["distill=supervised_bi", "data.gold=[my.csv]"],
            None,
            "data.gold: by default encoders are selected and tested",
        ),
        (["model=minilm", [("a", "b")]], None, r"\[\('a', 'b'\)\] is no setting; give texts"),
        (["-m", "seed=1,2"], None, "'-m' is no setting"),
        (["model=minilm"], [], "pairs: there are none"),
        (["data.path=x.csv"], [("a", "b")], "data.path=x.csv: pairs=... is given too; leave one"),
        (["model=minilm"], [("a", "b"), ("a", "b\0")], "pairs: item 1 holds a NUL character"),
        (["model=minilm"], [{"question": "a", "answer": "b"}], "item 0 is {'question'.* mappings with 'sentence1' and"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_written(tmp_path, monkeypatch, settings, pairs, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=says):
        transenc.distill(*settings, pairs=pairs)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("item", ["ab", ("one",), ("one", 2), {"a": "one", "b": "two"}, ("7", "one", "two")])
def test_what_is_no_pair_of_sentences_is_refused_with_its_number(settings, item):
    with pytest.raises(InputError, match=r"pairs: item 1 is .*; give two sentences"):
        transenc.distill(*settings, pairs=[("one", "two"), item])


def test_a_file_may_have_a_quote_in_its_name(settings, tmp_path):
    file = tmp_path / "it's, mine=1.csv"
    pandas.DataFrame(pairs(60, seed=1)).set_axis(["sentence1", "sentence2", "score"], axis=1).to_csv(file, index=False)
    assert transenc.distill(*settings, pairs=file, folder=tmp_path / "run").models


def test_a_file_where_a_folder_belongs_is_refused(settings, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match=r"paths.artifacts=.*/file/x: .*/file is a file; give a folder"):
        transenc.distill(*settings, f"paths.artifacts={tmp_path}/file/x", pairs=[("a", "b")])
    with pytest.raises(InputError, match=r"file: is a file; give a folder for the run"):
        transenc.distill(*settings, pairs=[("a", "b")], folder=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_each_run_of_a_second_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("transenc.api.datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 2, 3, 4, 5)))
    names = []
    monkeypatch.setattr("transenc.api.run_loop", lambda cfg, folder: names.append(str(folder.relative_to(tmp_path))))
    monkeypatch.setattr("transenc.api.DistilledRun.read", lambda folder: folder)
    for _ in range(3):
        transenc.distill("experiment=quickstart")
    assert names == [f"outputs/2026-01-02/03-04-05{end}" for end in ("", "-1", "-2")]


def test_runs_at_once_may_put_the_same_pairs_into_the_store(tmp_path):
    cfg = compose("train", ["data=pairs", "data.path=-", f"paths.artifacts={tmp_path}"])
    many = [(f"a sentence {i}", "another") for i in range(20_000)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: file_of("pairs", many, cfg), range(12)))
    assert len(set(paths)) == 1
    assert len(paths[0].read_text().splitlines()) == 20_001


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["hydra.run.dir=here"], r"hydra.run.dir=here: is for the command line; give folder=\.\.\."),
        (["experiment=quickstart distill.iterations=1"], "if it is several settings, give each by itself"),
    ],
)
def test_settings_of_the_command_line_that_python_does_not_take_are_refused(given, says):
    with pytest.raises(InputError, match=says):
        transenc.distill(*given)


def test_a_pool_beside_pairs_in_memory_is_refused_since_it_is_not_read():
    with pytest.raises(InputError, match=r"^data.pool: is not read beside data.path"):
        transenc.distill("data.pool=[a.csv]", pairs=[("a", "b")])


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([None], "item 0 is None; give two sentences"),
        ([(np.array(["a"]), "b")], "item 0 is .*; give two sentences"),
        (5, "pairs: 5 holds no pairs"),
        (type("LazyFrame", (), {"collect": None, "__getitem__": None})(), "holds no pairs"),
        ({"sentence1": ["one"], "sentence2": ["two"]}, "is a mapping; give a data frame"),
    ],
)
def test_what_holds_no_pairs_is_refused_with_the_remedy(pairs, says):
    with pytest.raises(InputError, match=says):
        _rows("pairs", pairs, ("sentence1", "sentence2"), FORM)


@pytest.mark.parametrize(
    "frame", [lambda frame: frame, lambda frame: frame.convert_dtypes(), lambda f: f.to_dict("records")]
)
def test_a_cell_without_a_sentence_is_empty_as_in_a_file(frame):
    items = frame(pandas.DataFrame({"a": ["one", None], "b": [float("nan"), "two"]}))
    assert _rows("pairs", items, ("a", "b"), FORM) == [("one", ""), ("", "two")]


SCORED = pairs(60, seed=1)


@pytest.mark.parametrize(
    "gold",
    [
        SCORED,
        pandas.DataFrame(SCORED, columns=["sentence1", "sentence2", "score"]),
        [{"sentence1": a, "sentence2": b, "score": np.float32(s)} for a, b, s in SCORED],
    ],
    ids=["tuples", "frame", "mappings"],
)
def test_pairs_with_scores_in_memory_are_what_a_file_of_them_is(settings, files, tmp_path, gold, monkeypatch):
    file, test = tmp_path / "gold.csv", files / "test.tsv"
    pandas.DataFrame(SCORED, columns=["sentence1", "sentence2", "score"]).to_csv(file, index=False)
    settings = [*settings[:-2], "distill=supervised_bi", "distill.bi.epochs=1", "distill.failure=ignore"]
    monkeypatch.chdir(tmp_path)
    settings += ["paths.artifacts=artifacts"]
    memory = transenc.distill(*settings, gold=gold, test=pandas.read_table(test), folder=tmp_path / "memory")
    from_file = transenc.distill(*settings, gold=file, test=test, folder=tmp_path / "files")
    assert list(memory.results.task) == ["test", "test"]
    assert memory.results.equals(from_file.results)
    assert "- Learnt from: `gold.csv`." in (memory.models["bi"] / "README.md").read_text()


@pytest.mark.parametrize(
    ("gold", "says"),
    [
        (
            [("a", "b")],
            "gold: item 0 is .*; give two sentences and a score, or mappings with 'sentence1', 'sentence2' and 's",
        ),
        ([("a", "b", "c")], "gold: item 0: the score 'c' is not a number"),
        ([("a", "b", None)], "gold: item 0: the score None is not a number"),
        ([("id", "a", "b", 1)], "gold: item 0 is .*; give two sentences and a score"),
        (
            pandas.DataFrame({"a": ["b"], "c": ["d"]}),
            "gold: a data frame with the columns 'a', 'c'; name some of them 'sent",
        ),
        (
            pandas.DataFrame(SCORED, columns=["sentence1", "sentence2", "id"]),
            "gold: a data frame with the columns 'sentence1', 'sentence2', 'id'; .* and 'score', or give 3",
        ),
        ([("a", "b", 7)], r"gold: item 0: the score 7 is not in \[0, 5\]"),
        ([("a", "b", float("nan"))], "gold: item 0: the score nan is not a number"),
        (
            [(*pair[:2], pair[2] > 2) for pair in SCORED],
            r"data.gold=.*gold.csv: no score is above 1, of 5; set data.score",
        ),
        ("", "gold: is empty; give a file"),
    ],
)
def test_what_has_no_score_is_refused(settings, gold, says):
    with pytest.raises(InputError, match=says):
        transenc.distill(*settings, "distill=supervised_bi", gold=gold)


def test_scored_pairs_that_lack_a_sentence_are_dropped(settings, tmp_path, caplog):
    lacking, learnt = [("a man", None, 5), (" ", "a dog", 5), (float("nan"), "", 0)], pairs(60, seed=9)
    settings = [*settings[:-1], "distill.direction=bi_to_cross"]
    first, second = (
        transenc.distill(*settings, pairs=learnt, test=test, folder=tmp_path / str(len(test))).results
        for test in (SCORED, SCORED + lacking)
    )
    assert first.equals(second)
    assert set(second[second.task == "test"].n) == {60}
    assert "read test" in caplog.text
    assert "dropped 3 with an empty side" in caplog.text
    with pytest.raises(InputError, match=r"test.csv: each pair lacks a sentence; give pairs of two"):
        transenc.distill(*settings, pairs=learnt, test=lacking)


def test_scored_sets_from_memory_leave_the_choice_of_pairs_to_learn_from(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("transenc.api.run_loop", lambda cfg, folder: seen.append(cfg))
    monkeypatch.setattr(transenc.api.DistilledRun, "read", lambda folder: None)
    for given in ({"test": SCORED}, {"test": SCORED, "pairs": SCORED}, {"gold": SCORED}):
        transenc.distill(f"paths.artifacts={tmp_path}", folder="~/x", **given)
    assert [cfg.data.pool for cfg in seen] == [["stsb-train"], [], []]
    assert [cfg.data.dev for cfg in seen] == ["stsb-dev", None, None]
    assert [len(cfg.data.test) for cfg in seen] == [1, 1, 0]


def test_a_home_folder_is_written_as_in_a_shell_and_an_empty_folder_is_not_left(settings, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    places = []
    monkeypatch.setattr("transenc.api.run_loop", lambda cfg, folder: places.append(folder) or 1 / 0)
    (tmp_path / "run").mkdir()
    for folder in ("~/run", None):
        with pytest.raises(ZeroDivisionError):
            transenc.distill(*settings, pairs=SCORED, folder=folder)
    assert places[0] == tmp_path / "run"
    assert places[0].exists()  # it was there before
    assert places[1].parent.parent == tmp_path / "outputs"
    assert not places[1].exists()


def test_a_notebook_can_be_stopped_again_wherever_it_was_stopped_before(settings, monkeypatch):
    def stop(self):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pytorch_lightning.trainer.connectors.signal_connector._SignalConnector.teardown", stop)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            transenc.distill(*settings, pairs=SCORED)
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interruption_that_falls_into_a_destructor_is_not_lost(settings, monkeypatch):
    class Falls:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def run(cfg, folder):
        Falls()
        time.sleep(60)

    monkeypatch.setattr("transenc.api.run_loop", run)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            transenc.distill(*settings, pairs=SCORED)
        assert time.monotonic() - began < 30  # it wakes what waits
    finally:
        signal.signal(signal.SIGINT, before)


def test_scores_are_given_once(settings):
    with pytest.raises(InputError, match=r"^data.test=.*: test=... is given too; leave one of them out$"):
        transenc.distill(*settings, pairs=[("a", "b")], test=SCORED)
