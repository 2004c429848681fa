"""A run deletes nothing that it did not write, and begins in no folder of others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from transenc.errors import InputError
from transenc.hydra_folders import check_folder
from transenc.run_folder import PARTS, RECORD, RunFolder, recorded

TRAIN = Path(__file__).parents[1] / "train.py"


def content(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_text() for path in folder.rglob("*")}


@pytest.fixture
def others(tmp_path):
    """A folder of someone's, with names that a run uses too."""
    folder = tmp_path / "work"
    for part in PARTS:
        (folder / part).mkdir(parents=True)
        (folder / part / "mine.txt").write_text(part)
    (folder / "results.csv").write_text("mine")
    return folder


@pytest.mark.parametrize(
    "setting",
    [
        "hydra.run.dir=.",
        *(pytest.param(value, marks=pytest.mark.slow) for value in ("hydra.run.dir={folder}", "hydra.run.dir=")),
    ],
)
def test_a_command_in_a_folder_of_others_ends_in_one_line_and_changes_nothing(others, setting):
    before = content(others)
    done = subprocess.run(
        [sys.executable, TRAIN, "experiment=quickstart", setting.format(folder=others)],
        cwd=others, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert ("is no run's folder" in done.stderr) == (setting != "hydra.run.dir=")
    assert content(others) == before


def test_a_run_that_was_killed_while_it_wrote_its_first_record_is_given_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".{RECORD}.part").touch()
    RunFolder(tmp_path / "run", tmp_path / "artifacts").path("labels")
    assert (tmp_path / "run" / RECORD).exists()


def test_a_folder_of_others_is_refused_from_python_too_and_behind_links(others, tmp_path):
    before = content(others)
    with pytest.raises(
        InputError, match=r"work: holds labels, models, predictions, and 2 more, and is no run's folder"
    ):
        RunFolder(others, tmp_path / "artifacts")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "models").symlink_to(others / "models")
    with pytest.raises(InputError, match="run: holds models, and is no run's folder"):
        RunFolder(tmp_path / "run", tmp_path / "artifacts")
    assert content(others) == before


def test_hydras_own_files_make_a_folder_no_one_elses(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / "train.log").write_text("")
    assert recorded(tmp_path) is None
    assert recorded(tmp_path / "new") is None


def test_only_what_an_earlier_run_wrote_is_removed(tmp_path):
    first = RunFolder(tmp_path, tmp_path / "artifacts")
    for name in ("one", "other"):
        first.path("models", name).mkdir(parents=True)
    first.remove_earlier()
    (tmp_path / "models" / "mine").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "mine.csv").write_text("mine")
    killed = RunFolder(tmp_path, tmp_path / "artifacts")
    killed.path("models", "third").mkdir()  # and does not come to sweep
    second = RunFolder(tmp_path, tmp_path / "artifacts")
    second.path("models", "one")
    second.remove_earlier()
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["mine", "one"]
    assert (tmp_path / "labels" / "mine.csv").read_text() == "mine"
    assert json.loads((tmp_path / RECORD).read_text()) == {"written": ["models/one"]}


def test_a_folder_whose_last_file_is_removed_goes_with_it(tmp_path):
    first = RunFolder(tmp_path, tmp_path / "artifacts")
    (tmp_path / "predictions").mkdir()
    first.path("predictions", "test.csv").write_text("scores")
    first.remove_earlier()
    RunFolder(tmp_path, tmp_path / "artifacts").remove_earlier()
    assert not (tmp_path / "predictions").exists()


def test_a_folder_that_is_a_link_by_now_loses_the_link_and_not_what_it_leads_to(others, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    RunFolder(run, tmp_path / "artifacts").path("models", "bi")
    (run / "models").mkdir()
    (run / "models" / "bi").symlink_to(others)
    before = content(others)
    RunFolder(run, tmp_path / "artifacts").remove_earlier()
    assert not (run / "models" / "bi").is_symlink()
    assert content(others) == before


@pytest.mark.parametrize("name", ["../work", "{others}", "labels/../../work"])
def test_a_record_that_names_what_is_outside_removes_nothing(tmp_path, others, name):
    run = tmp_path / "run"
    (run / "labels").mkdir(parents=True)
    (run / RECORD).write_text(json.dumps({"written": [name.format(others=others)]}))
    RunFolder(run, tmp_path / "artifacts").remove_earlier()
    assert others.exists()


def test_a_folder_is_cleaned_by_whatever_path_it_is_named(tmp_path):
    (tmp_path / "other").mkdir()
    folder = tmp_path / "other" / ".." / "run"
    folder.mkdir()
    RunFolder(folder, tmp_path / "artifacts").path("labels").mkdir()
    RunFolder(folder, tmp_path / "artifacts").remove_earlier()
    assert not (folder / "labels").exists()


@pytest.mark.parametrize("store", ["run/models", "run/labels/artifacts", "run/tensorboard", ".", "run"])
def test_a_store_and_a_run_folder_within_each_other_are_refused(tmp_path, store):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="must not lie in one another"):
        RunFolder(tmp_path / "run", tmp_path / store)
    RunFolder(tmp_path / "run", tmp_path / "run" / "artifacts")


def test_a_file_is_no_run_folder(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match="run: is a file; give a folder"):
        recorded(tmp_path / "run")


def test_a_sweep_in_a_folder_of_others_is_refused(others, tmp_path):
    with pytest.raises(InputError, match="is not empty, and no sweep's folder; name another"):
        check_folder(others, "sweep", "train")
    check_folder(tmp_path / "new", "sweep", "train")
    (tmp_path / "earlier").mkdir()
    (tmp_path / "earlier" / "multirun.yaml").touch()
    check_folder(tmp_path / "earlier", "sweep", "train")


def test_an_evaluation_replaces_the_results_of_another_and_not_of_a_training_run(tmp_path):
    (tmp_path / "results.csv").write_text("of an evaluation")
    check_folder(tmp_path, "run", "evaluate")
    with pytest.raises(InputError, match="is no run's folder"):
        check_folder(tmp_path, "run", "train")
    (tmp_path / RECORD).write_text(json.dumps({"written": ["results.csv"]}))
    check_folder(tmp_path, "run", "train")
    with pytest.raises(InputError, match=r"is a training run's folder, whose results.csv would be replaced"):
        check_folder(tmp_path, "run", "evaluate")


def test_a_wrong_setting_leaves_what_the_last_run_wrote_as_it_was(setting):
    folder = setting.run()
    written = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for wrong in ("model.cross=./nowhere", "data.path=nowhere.tsv"):
        with pytest.raises(InputError, match="no such f"):
            setting.run(wrong)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == written
