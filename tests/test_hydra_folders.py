"""The folders that Hydra writes into: one for each command, held from its first file on, and nobody else's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from transenc.artifacts import lock
from transenc.errors import InputError
from transenc.hydra_folders import Folders
from transenc.run_folder import RunFolder, new_folder
from transenc.sweep import COMPARISON, Sweep

ROOT = Path(__file__).parents[1]


def config(kind, folder):
    hydra = {kind: {"dir": str(folder)}, "overrides": {"hydra": []}, "job": {"name": "train"}}
    return OmegaConf.create({"hydra": hydra})


@pytest.mark.parametrize(("kind", "base"), [("run", "outputs"), ("sweep", "multirun")])
def test_commands_of_one_second_have_folders_of_their_own_which_a_sweeps_jobs_know(tmp_path, monkeypatch, kind, base):
    monkeypatch.chdir(tmp_path)
    for end in ("", "-1"):
        cfg = config(kind, f"{base}/2026-01-02/03-04-05")
        getattr(Folders("train"), "on_run_start" if kind == "run" else "on_multirun_start")(cfg)
        assert cfg.hydra[kind].dir == f"{base}/2026-01-02/03-04-05{end}"
        assert cfg.hydra.overrides.hydra == [f"hydra.{kind}.dir={cfg.hydra[kind].dir}"]
        assert Path(cfg.hydra[kind].dir).is_dir()


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_a_folder_that_another_process_holds_is_refused_in_one_line_before_hydra_writes_there(tmp_path, kind):
    held = lock(new_folder(tmp_path / "run"))
    flags = ["-m"] if kind == "sweep" else []
    command = [sys.executable, "train.py", *flags, "experiment=quickstart", f"hydra.{kind}.dir={tmp_path}/run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    os.close(held)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{tmp_path}/run: another run writes there; wait for it, or give another folder"
    ]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_folder_without_a_name_is_refused_in_one_line(tmp_path):
    command = [sys.executable, ROOT / "train.py", "experiment=quickstart", "hydra.run.dir="]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["hydra.run.dir: no folder is named; name one, or leave it out"]
    assert list(tmp_path.iterdir()) == []


def test_an_interpolation_that_leads_to_a_folder_of_others_is_refused_before_hydra_writes_there(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    command = [sys.executable, "train.py", "experiment=quickstart", f"paths.dataset={tmp_path}"]
    done = subprocess.run(
        [*command, "hydra.run.dir=${paths.dataset}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert f"{tmp_path}: holds mine.txt, and is no run's folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("part", ["models/bi-encoder", "labels/1-cross.csv"])
def test_what_a_run_reads_may_not_lie_where_it_writes(setting, part):
    folder = setting.run("distill=bi_to_cross", "distill=paper")
    given = f"model.bi={folder}/{part}" if part.startswith("models") else f"model.teachers={folder}/{part}"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="this run would replace it; give another run folder"):
        setting.run(given)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    RunFolder(new_folder(folder.parent / "other"), folder.parent / "artifacts", [str(folder / part)])


def test_a_stopped_run_leaves_no_report_of_an_earlier_one(setting, monkeypatch):
    folder = setting.run()
    assert (folder / "report.html").exists()
    monkeypatch.setattr("transenc.stages.run.Stages.train", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        setting.run("seed=7")
    assert not (folder / "report.html").exists()


def test_a_run_from_python_leaves_no_settings_and_log_of_a_command_beside_its_own(setting):
    folder = setting.run()
    (folder / ".hydra").mkdir()
    (folder / "train.log").write_text("of a command")
    setting.run("seed=5")
    assert not (folder / ".hydra").exists()
    assert not (folder / "train.log").exists()


def test_a_sweep_finds_its_jobs_in_folders_of_folders_and_leaves_no_earlier_comparison(tmp_path):
    (tmp_path / COMPARISON).write_text("of an earlier sweep")
    sweep = Sweep()
    sweep.on_multirun_start(config("sweep", tmp_path))
    for job in ("0", "x/1"):
        (tmp_path / job / ".hydra").mkdir(parents=True)
        (tmp_path / job / ".hydra" / "overrides.yaml").write_text("[]")
    assert set(Sweep.written()) == {tmp_path / "0", tmp_path / "x" / "1"}
    assert not (tmp_path / COMPARISON).exists()
    Sweep.folder = None
