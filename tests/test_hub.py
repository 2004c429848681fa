"""Binary tasks by name: from local files of the hub's columns, from the hub at its pinned revision, or one error."""

import pytest

from transenc.data.hub import GLUE, HUB
from transenc.errors import InputError


def lay(root, task, split, text, suffix=".tsv"):
    (root / task).mkdir(exist_ok=True)
    path = root / task / f"{split}{suffix}"
    path.write_text(text)
    return path


def test_a_local_file_of_the_hubs_columns_takes_the_hubs_place(tmp_path):
    path = lay(tmp_path, "mrpc", "test", "idx\tlabel\tsentence1\tsentence2\n0\t1\ta\tb\n1\t0\tc\td\n")
    mrpc = HUB["mrpc-test"]
    assert mrpc.find(tmp_path) == [path]
    assert mrpc.read([path], True) == [("a", "b", 1.0), ("c", "d", 0.0)]
    assert mrpc.read([path], False) == [("a", "b", None), ("c", "d", None)]


def test_qnli_calls_an_answer_0_and_here_it_is_1(tmp_path):
    path = lay(tmp_path, "qnli", "validation", "question\tsentence\tlabel\nq\ts\t0\nr\tt\t1\n")
    assert [pair.score for pair in HUB["qnli-dev"].read([path], True)] == [1.0, 0.0]


def test_the_papers_subsets_do_not_overlap(tmp_path):
    rows = "".join(f"a{i}\tb{i}\t{i % 2}\n" for i in range(12_000))
    path = lay(tmp_path, "qqp", "validation", "question1\tquestion2\tlabel\n" + rows)
    dev, test = (HUB[name].read([path], True) for name in ("qqp-dev", "qqp-test"))
    assert (len(dev), len(test), dev[-1][0], test[0][0]) == (1000, 10_000, "a999", "a1000")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("mrpc-dev", "sentence1\tsentence2\tlabel\na\tb\t0.5\n", r"validation.tsv:2: the label 0.5 is neither 0 nor 1"),
        ("mrpc-dev", "sentence1\tsentence2\tlabel\na\tb\t2\n", r"validation.tsv:2: the label 2 is neither 0 nor 1"),
        ("mrpc-dev", "sentence1\tsentence2\tlabel\na\tb\tyes\n", r"validation.tsv:2: the label yes is neither 0 nor 1"),
        ("mrpc-dev", "sentence1\tsentence2\na\tb\n", r"no column 'label' among 'sentence1', 'sentence2'"),
        ("qqp-test", "question1\tquestion2\tlabel\na\tb\t1\n", r"ends before row 1000, where this set begins"),
    ],
)
def test_what_is_wrong_with_a_local_file_is_reported_in_one_line(tmp_path, name, text, says):
    task = name.split("-")[0]
    with pytest.raises(InputError, match=says) as error:
        HUB[name].read([lay(tmp_path, task, "validation", text)], True)
    assert "\n" not in str(error.value)


def test_the_hub_is_asked_for_the_pinned_revision(monkeypatch):
    import datasets

    request = {}

    def load_dataset(repository, configuration, *, split, revision):
        request.update(repository=repository, configuration=configuration, split=split, revision=revision)
        return datasets.Dataset.from_dict({"question": ["q", "r"], "sentence": [" s\n", "t"], "label": [0, 1]})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert HUB["qnli-dev"].read([], True) == [("q", " s ", 1.0), ("r", "t", 0.0)]
    assert request == {
        "repository": "nyu-mll/glue",
        "configuration": "qnli",
        "split": "validation",
        "revision": GLUE[1],
    }


@pytest.mark.parametrize("error", [OSError(""), RuntimeError("a\nb"), KeyError("label")])
def test_whatever_the_hubs_library_raises_is_one_line(monkeypatch, error):
    def load_dataset(*_, **__):
        raise error

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    with pytest.raises(InputError, match=r"qqp-train: .*put the train split") as e:
        HUB["qqp-train"].read([], False)
    assert "\n" not in str(e.value)


def test_without_a_hub_and_a_file_the_line_says_which_file_to_put_where():
    """HF_HUB_OFFLINE is set in all tests."""
    with pytest.raises(InputError, match=r"qqp-train: .*put the train split of nyu-mll/glue in qqp/train.parquet") as e:
        HUB["qqp-train"].read([], False)
    assert "\n" not in str(e.value)
