"""The command line, as a person meets it: one line for a mistake, status not 0, and what Hydra offers."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from conftest import PAIRS

from transenc.artifacts import file_digest
from transenc.cli import one_line_errors
from transenc.composition import check_overrides, compose, explain
from transenc.errors import InputError
from transenc.evaluate import shorthand

ROOT = Path(__file__).parents[1]


def python(*arguments, **settings):
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=120, **settings
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("distill.iteratons=2", "distill.iteratons: no such key; did you mean distill.iterations?"),
        ("distill.cross.crops=1", "distill.cross.crops: no such key; did you mean distill.cross.crops_below?"),
        ("++modle.bi=x", "modle.bi: no such key; did you mean model.bi?"),
        ("+iterations=2", "iterations: no such key; did you mean distill.iterations?"),
        ("xylophone=1", "xylophone: no such key; --cfg job shows all keys"),
        ("~seed", "~seed: a setting cannot be left out; give it another value"),
        ("experiment=quikstart", "experiment=quikstart: no such choice; did you mean quickstart? (there are "),
        ("data=imdb", "data=imdb: no such choice; there are mrpc, pairs, "),
        (f"data='{__file__}'", f"data={__file__}: no such choice; give data=pairs data.path={__file__}"),
    ],
)
def test_a_misspelt_key_or_choice_names_the_nearest(override, says):
    with pytest.raises(InputError) as error:
        check_overrides("train", [override])
    assert str(error.value).startswith(says)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "artifacts"), "artifacts: No space left on device; fix that"),
        (OSError(errno.EROFS, "Read-only file system"), "a file of this run: Read-only file system; fix that and "),
        (FileNotFoundError(errno.ENOENT, "No such file", "artifacts/x"), "artifacts/x: No such file; fix that and "),
        (FileNotFoundError("No such file: models"), "a file of this run: No such file: models; fix that and give"),
        (MemoryError("954. GiB"), "too little memory (954. GiB); fix that and give the same command again"),
        (torch.OutOfMemoryError("CUDA out of memory"), "too little memory (CUDA out of memory); fix that and give"),
        (shutil.Error([("a/x", "b/x", "[Errno 28] No space left")]), "b/x: [Errno 28] No space left; fix that and g"),
    ],
)
def test_what_a_disk_refuses_is_one_line_and_status_1(error, says):
    lines = []
    with pytest.raises(SystemExit) as ended, one_line_errors("train", lines.append):
        raise error
    assert ended.value.code == 1
    assert lines[0].startswith(says)


def test_what_torch_cannot_allocate_is_one_line(capsys):
    with pytest.raises(SystemExit), one_line_errors("train", print):
        torch.empty(2**58)
    assert re.fullmatch(r"too little memory \(.*can't allocate memory.*\n", capsys.readouterr().out)


def test_an_error_that_is_neither_a_persons_nor_the_machines_is_a_bug_and_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors("train", print):
        raise KeyError("model.safetensors")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("distill.iterations=abc", "distill.iterations: Value 'abc' of type 'str' could not be converted to Integer"),
        ("distill.iterations=2.5", "distill.iterations: Value '2.5' of type 'float' could not be converted to Integer"),
        ("data.scores=gradde", "data.scores=gradde: no such choice; did you mean graded? (there are graded, binary)"),
    ],
)
def test_a_wrong_value_names_the_key_and_what_belongs(override, says):
    with pytest.raises(Exception) as error:  # noqa: PT011
        compose("train", [override])
    assert explain(error.value, "train") == says


def test_every_precision_is_itself():
    """Two members of an enumeration with one value would be one member."""
    for name in ("auto", "bf16-mixed", "32-true"):
        assert compose("train", [f"trainer.precision={name}"]).trainer.precision.name == name


def test_right_overrides_pass():
    check_overrides(
        "train",
        ["experiment=null", "experiment=quickstart", "seed=0,1", "model.bi=[a,b]", "hydra.run.dir=x", "+hydra.x=1"],
    )


def test_model_is_short_for_its_path():
    assert shorthand("model=a/b") == "model.path=a/b"
    assert shorthand("model.pooling=cls") == "model.pooling=cls"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, bert):
    root = tmp_path_factory.mktemp("command")
    (root / "pool.tsv").write_text(
        "sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{i % 6}\n" for i, (a, b) in enumerate(PAIRS))
    )
    return [
        "train.py", "data=pairs", f"data.path={root}/pool.tsv", f"data.dev={root}/pool.tsv", f"model.bi={bert}",
        f"model.cross={bert}", "data.transductive=true", "distill=paper", "distill.iterations=1", "distill.bi.epochs=1",
        "trainer=cpu",
    ]  # fmt: skip


def test_a_mistake_is_one_line_and_status_1(inputs, tmp_path):
    status, out, error = python("train.py", "distill.iteratons=2")
    assert (status, out) == (1, "")
    assert error == "distill.iteratons: no such key; did you mean distill.iterations?\n"
    status, out, error = python(
        *inputs, "model.bi=./nowhere", f"hydra.run.dir={tmp_path}", f"paths.artifacts={tmp_path}/a"
    )
    assert (status, error) == (1, "model.bi=./nowhere: no such folder\n")
    assert "no such folder" not in out
    assert "no such folder" in (tmp_path / "train.log").read_text()


@pytest.mark.slow
def test_help_and_cfg_work_without_loading_torch(tmp_path):
    status, out, _ = python("train.py", "--help")
    assert status == 0
    assert all(line in out for line in ("  trainer     auto, cpu, gpu\n", "  distill:\n    direction: both\n"))
    status, out, _ = python("train.py", "--help", "distill=paper", "distill.iterations=7")
    assert (status, "    iterations: 7\n" in out) == (0, True)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    status, out, _ = python("train.py", "--help", "--config-dir", tmp_path, "experiment=mine")
    assert (status, "\nseed: 7\n" in out) == (0, True)
    status, out, _ = python("train.py", "--cfg", "job", "--resolve", "experiment=quickstart")
    assert (status, "bi_layers: " in out) == (0, True)
    for flags in (["--help"], ["--cfg", "job"]):
        assert loaded(["train.py", *flags], "torch") == (0, "False")


@pytest.mark.slow
def test_help_names_the_groups_of_its_command_and_no_others():
    status, out, _ = python("-m", "transenc.evaluate", "--help")
    groups, settings = out.split("Settings (KEY=VALUE):")
    named = [line.split()[0] for line in groups.splitlines() if line.startswith("  ") and line[2] != " "]
    assert (status, named) == (0, ["data", "trainer"])
    assert "distill" not in settings
    assert max(map(len, groups.splitlines())) < 80


def loaded(arguments, module):
    """The status of a command, and whether it imported a module."""
    run = f"import sys, runpy; sys.argv = {list(map(str, arguments))}; runpy.run_path('train.py', run_name='__main__')"
    check = f"import atexit, sys; atexit.register(lambda: print({module!r} in sys.modules, file=sys.stderr));"
    status, _, error = python("-c", f"{check} {run}")
    return status, error.splitlines()[-1]


@pytest.mark.slow
def test_the_encoders_are_imported_only_to_build_something(inputs, tmp_path):
    command = [*inputs, f"hydra.run.dir={tmp_path}/run", f"paths.artifacts={tmp_path}/artifacts"]
    assert loaded(command, "pytorch_lightning") == (0, "True")
    assert loaded(command, "pytorch_lightning") == (0, "False")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_run_that_was_stopped_ends_in_the_same_bytes_when_started_again(inputs, tmp_path, number):
    def command(name):
        run = [f"hydra.run.dir={tmp_path}/{name}", f"paths.artifacts={tmp_path}/{name}-artifacts"]
        return [sys.executable, *inputs, "distill.cross.epochs=40", *run]

    subprocess.run(command("whole"), cwd=ROOT, check=True, capture_output=True)
    process = subprocess.Popen(command("killed"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while process.poll() is None and not list((tmp_path / "killed-artifacts").glob(".train-*/*.checkpoint")):
        time.sleep(0.01)  # past the first student's first epoch
    process.send_signal(number)
    output = process.communicate()[0]
    assert process.returncode == 128 + number, output
    assert output.endswith(f"stopped by {number.name}; the same command goes on from the last stage or checkpoint\n")
    assert "Traceback" not in output
    again = subprocess.run(command("killed"), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "resumed at step" in again.stdout
    for model in ("bi-encoder", "cross-encoder"):
        digests = {file_digest(tmp_path / run / "models" / model / "model.safetensors") for run in ("whole", "killed")}
        assert len(digests) == 1


def test_a_command_has_few_full_garbage_collections_and_none_when_it_ends():
    code = "import gc; from transenc.cli import few_full_collections as few\nwith few(): print(gc.get_threshold()[2])"
    after = "print(gc.get_threshold()[2], gc.get_freeze_count() > 10_000)"
    assert python("-c", f"{code}\n{after}") == (0, "1000\n10 True\n", "")


SIGNALS = """
import os, signal, time
from transenc.cli import interruptible, one_line_errors
stop = lambda: os.kill(os.getpid(), signal.SIGTERM)
"""

IN_A_DESTRUCTOR = """
class Destroyed:
    __del__ = lambda self: stop()  # what is raised here, Python drops

with interruptible():
    Destroyed()
    print("goes on", flush=True)
    time.sleep(60)
"""

BEFORE_AN_ERROR = """
with interruptible(), one_line_errors("train", print):
    print("goes on")
    try:
        stop()
    finally:
        raise OSError(28, "a file that cannot be closed")
"""


@pytest.mark.parametrize("code", [IN_A_DESTRUCTOR, BEFORE_AN_ERROR])
def test_a_signal_is_not_lost_in_a_destructor_or_behind_an_error(code):
    status, out, error = python("-c", SIGNALS + code)
    assert (status, out) == (128 + signal.SIGTERM, "goes on\n")
    assert error == "stopped by SIGTERM; the same command goes on from the last stage or checkpoint\n"


TWICE = """
with interruptible():
    try:
        stop()
    except BaseException:
        stop()
        time.sleep(60)
"""


def test_a_second_signal_ends_the_process_at_once():
    assert python("-c", SIGNALS + TWICE)[0] == -signal.SIGTERM


@pytest.mark.slow
def test_a_sweep_shares_artifacts_and_gives_each_job_its_folder(inputs, tmp_path):
    sweep = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep", f"paths.artifacts={tmp_path}/artifacts"]
    status, out, error = python(inputs[0], *inputs[1:], *sweep)  # -m behind other settings
    assert status == 0, error
    assert (tmp_path / "sweep" / "0" / "results.csv").exists()
    assert (tmp_path / "sweep" / "1" / "results.csv").exists()
    for job in ("0", "1"):
        command = json.loads((tmp_path / "sweep" / job / "run.json").read_text())["command"]
        assert f"seed={job}" in command.split()
    second = out[out.index("#1 :") :]
    assert any(line.startswith("0/bi pool") and "reused" in line for line in second.splitlines())
    head, first, second = out[out.index("\njob ") :].strip().splitlines()[:3]
    assert head.split() == ["job", "bi", "cross"]
    assert (first.split()[0], first.split()[3:], second.split()[3:]) == ("0", ["seed=0"], ["seed=1"])
    assert "Over seeds" in (tmp_path / "sweep" / "comparison.html").read_text()


@pytest.mark.slow
def test_a_job_that_fails_leaves_the_others_alone_and_is_reported_at_the_end(inputs, tmp_path):
    sweep = ["-m", "seed=-1,0", f"hydra.sweep.dir={tmp_path}/sweep", f"paths.artifacts={tmp_path}/artifacts"]
    status, out, error = python(inputs[0], *sweep, *inputs[1:])
    assert status == 1
    assert "seed=-1: must be at least 0" in error
    assert [line.split()[-2:] for line in out.splitlines() if line.startswith("0    ")] == [["failed", "seed=-1"]]
    last = f"job 0 failed; see above, and the log in {tmp_path}/sweep/0"
    assert error.strip().splitlines()[-1] == last
    assert "Traceback" not in out + error
    assert (tmp_path / "sweep" / "1" / "results.csv").exists()
    page = (tmp_path / "sweep" / "comparison.html").read_text()
    assert "Trans-Encoder: 1 run<" in page
    assert "Failed, and not among them: job 0." in page


@pytest.mark.slow
def test_a_run_from_python_logs_what_a_command_does(inputs, tmp_path):
    settings = [setting for setting in inputs[1:] if setting != "trainer=cpu"]
    code = f"""
from pathlib import Path
from transenc.composition import compose
from transenc.loop import distill
distill(compose("train", {[*settings, f"paths.artifacts={tmp_path}/artifacts"]!r}), Path({str(tmp_path / "run")!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    for line in ("load bi ", "1/cross train ", "Spearman x100", "1  bi ", f"report.html  {tmp_path}/run/report.html"):
        assert line in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plugin", "more"),
    [
        ("hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1"]),
        ("hydra_submitit_launcher", ["hydra/launcher=submitit_local", "seed=0,1"]),
        (
            "hydra_optuna_sweeper",
            [
                "hydra/sweeper=optuna",
                "hydra.sweeper.direction=maximize",
                "hydra.sweeper.n_trials=2",
                "hydra.sweeper.n_jobs=1",
                "distill.bi.learning_rate=tag(log, interval(1e-5, 1e-3))",
            ],
        ),
    ],
)
def test_sweeps_by_plugins_end_with_the_table(plugin, more, inputs, tmp_path):
    pytest.importorskip(f"hydra_plugins.{plugin}", reason="pip install -r requirements-extras.txt")
    sweep = ["-m", f"hydra.sweep.dir={tmp_path}/sweep", f"paths.artifacts={tmp_path}/artifacts", *more]
    status, out, error = python(inputs[0], *sweep, *inputs[1:])
    assert status == 0, error
    lines = out[out.index("\njob ") :].strip().splitlines()
    assert [line.split()[0] for line in lines[1:3]] == ["0", "1"]
    assert (tmp_path / "sweep" / "comparison.html").exists()


@pytest.mark.slow
def test_the_jobs_of_a_sweep_with_joblib_end_with_it_even_if_it_is_killed(inputs, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install -r requirements-extras.txt")
    sweep = ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "distill.cross.epochs=100000"]
    folders = [f"hydra.sweep.dir={tmp_path}/sweep", f"paths.artifacts={tmp_path}/artifacts"]
    command = [sys.executable, inputs[0], *sweep, *folders, *inputs[1:]]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        while not any((tmp_path / "artifacts").glob(".train-*")):
            assert process.poll() is None
            time.sleep(0.1)
        lists = Path(f"/proc/{process.pid}/task").glob("*/children")
        children = [child for file in lists for child in file.read_text().split()]
        assert len(children) >= 2
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 20
    while left := [child for child in children if running(child)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
def test_a_quiet_run_shows_its_table_and_a_verbose_one_where_artifacts_lie(inputs, tmp_path):
    run = [f"hydra.run.dir={tmp_path}/run", f"paths.artifacts={tmp_path}/artifacts", "model.pooling=cls"]
    _, out, error = python(*inputs, *run, "verbosity=verbose")
    assert f"load bi: in {tmp_path}/artifacts/load-" in out
    status, out, error = python(*inputs, *run, "verbosity=quiet")
    assert (status, error) == (0, "")
    assert [line.strip() for line in out.strip().splitlines()][2] == "pool"  # the table's head, behind two warnings
    assert "reused" not in out
    assert "reused" in (tmp_path / "run" / "train.log").read_text()  # the log has it all


@pytest.mark.slow
def test_tab_completes_settings_and_choices(inputs):
    def completed(line):
        done = subprocess.run(
            [sys.executable, "train.py", "-sc", "query=bash"], cwd=ROOT, capture_output=True, text=True, timeout=60,
            env=os.environ | {"COMP_LINE": line, "COMP_POINT": str(len(line))},
        )  # fmt: skip
        return done.stdout.split()

    assert completed("python train.py distill.it") == ["distill.iterations="]
    assert completed("python train.py experiment=quick") == ["experiment=quickstart"]


@pytest.mark.slow
def test_evaluate_leaves_its_results_and_shows_them(bert, inputs, tmp_path):
    pool = inputs[2].removeprefix("data.path=")
    folder = [f"hydra.run.dir={tmp_path}", f"paths.artifacts={tmp_path}/artifacts"]
    status, out, error = python(
        "-m", "transenc.evaluate", f"model={bert}", "data=pairs", f"data.test=[{pool}]", *folder
    )
    assert status == 0, error
    assert "0  bi" in out
    assert (tmp_path / "results.csv").read_text().splitlines()[1].startswith("0,bi,0,pool,7,")
