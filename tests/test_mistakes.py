"""Mistakes that once ended in a traceback, or went unnoticed: each is one line that says what to do."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from transenc.composition import check_overrides, check_own_data, compose, expand_home, parsed, readable
from transenc.config.checks import check
from transenc.encoders import BiEncoder, CrossEncoder
from transenc.errors import InputError
from transenc.model_folder import find
from transenc.publish import card
from transenc.terminal import show

ROOT = Path(__file__).parents[1]


def python(*arguments, shell="", **settings):
    """A command of ours in a process of its own; `shell` goes behind it."""
    command = " ".join([sys.executable, *(f"'{argument}'" for argument in arguments), shell])
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120, **settings)
    return done.returncode, done.stderr.splitlines() + done.stdout.splitlines()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--resolve"],
        pytest.param(["hydra.run.dir={file}/run"], marks=pytest.mark.slow),
        pytest.param(["hydra.run.dir=/dev/null/run"], marks=pytest.mark.slow),
        pytest.param(
            ["hydra.run.dir={run}", "data=pairs", "data.path={file}", "model=minilm", "paths.artifacts={file}/store"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_folder_that_cannot_be_made_and_a_flag_out_of_place_are_one_line(arguments, tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("sentence1\tsentence2\na dog\ta cat\n")
    status, lines = python("train.py", *(argument.format(file=file, run=tmp_path / "run") for argument in arguments))
    assert status == 1
    assert "Traceback" not in "".join(lines)
    assert str(tmp_path) in lines[-1] or "/dev/null" in lines[-1] or "--resolve" in lines[-1]


@pytest.mark.parametrize(
    "argument",
    [
        "model.bi=~nosuch/x", "data.path=a=b.tsv", "data.path=it's.tsv", "data.path=a b].tsv", "data.path=a:,",
        "data.test=[it's.tsv,b]",
    ],
)  # fmt: skip
def test_a_value_that_hydra_cannot_read_is_shown_in_the_quotes_it_takes(argument):
    with pytest.raises(InputError, match="two sorts of quotes: ") as refusal:
        check_overrides("train", [argument])
    # The advice itself, as a shell hands it over, is read as the very text.
    advised = str(refusal.value).rpartition("two sorts of quotes: ")[2]
    word = subprocess.run(f"printf %s {advised}", shell=True, capture_output=True, text=True, check=True).stdout
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value, given = OverridesParser.create().parse_override(word).value(), argument.partition("=")[2]
    assert (f"[{','.join(value)}]" if isinstance(value, list) else value) == given


@pytest.mark.parametrize(
    ("arguments", "refused"),
    [
        (["data.path=a.csv"], True), (["seed=1", "data.sentences=a.txt"], True), (["data.queries=a.txt"], True),
        (["seed=1"], False),
        (["data=pairs", "data.path=a.csv"], False),
        (["experiment=quickstart", "data.path=a.csv"], False), (["--config-name", "config", "data.path=a.csv"], False),
    ],
)  # fmt: skip
def test_own_pairs_need_a_choice_of_data_since_the_default_selects_on_stsb(arguments, refused):
    with pytest.raises(InputError, match="give data=pairs") if refused else nullcontext():
        check_own_data(arguments)


def test_a_pool_beside_own_pairs_is_refused_since_it_is_not_read():
    check_own_data(["data=pairs", "data.pool=[a.csv,b.csv]", "data.path=null"])
    with pytest.raises(InputError, match=r"^data.pool: is not read beside data.path; .* give data.extra for more"):
        check_own_data(["data=pairs", "data.pool=[a.csv]", "data.path=b.csv"])


@pytest.mark.slow
def test_a_reader_of_the_help_that_has_had_enough_is_no_error():
    _, lines = python("train.py", "--help", shell="| head -n 1")
    assert len(lines) == 1
    assert lines[0].startswith("python train.py")


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("data.test=a.tsv", r"^data.test: takes a list; put it into brackets, 'data.test=\[A\]'"),
        ("data.dev=[a.tsv]", "^data.dev: takes one value, without brackets; a text with commas needs two sorts of"),
        ("seed=0,1,2", "^seed=0,1,2: several values; add -m to run a job for each; a list needs brackets, a text with"),
        ("loggers=[wandb,foo]", "^loggers=foo: no such choice; there are wandb, mlflow$"),
        ("hydra/launcher=nope", "Could not find 'hydra/launcher/nope'; pip install -r requirements-extras.txt$"),
    ],
)
def test_what_hydra_cannot_take_is_one_line_that_says_what_to_write(argument, says):
    with pytest.raises(InputError, match=says):
        compose("train", [argument])


def test_a_model_that_is_lacking_is_asked_for_by_the_name_that_the_command_takes():
    with pytest.raises(InputError, match=r"^model: no value; give model=\.\.\. on the command line$"):
        compose("evaluate", ["data=stsb"])


def test_a_pattern_of_choices_is_left_to_hydra():
    check_overrides("train", ["-m", "experiment=glob(minilm_b*)"])


@pytest.mark.parametrize("inherited", [False, True])
def test_a_worker_of_a_sweep_shows_no_tracebacks_that_nobody_asked_for(inherited):
    flags = {"HYDRA_FULL_ERROR": "1"} | ({"TRANSENC_ONE_LINE_ERRORS": "1"} if inherited else {})
    code = "from transenc import cli; print(cli.TRACEBACKS)"
    shown = subprocess.check_output([sys.executable, "-c", code], env=os.environ | flags, cwd=ROOT, text=True)
    assert shown.strip() == str(not inherited)


def test_a_tilde_stands_for_the_home_folder_and_another_users_is_left(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expand_home("model.bi=~/models/x") == "model.bi=/home/me/models/x"
    assert expand_home("data.test=[~/a.csv,b~/c,~/d]") == "data.test=[/home/me/a.csv,b~/c,/home/me/d]"
    assert expand_home("data.test=[~/a.csv, ~/d]") == "data.test=[/home/me/a.csv, /home/me/d]"
    assert expand_home("~data") == "~data"
    with pytest.raises(InputError, match="no such folder"):
        find("~nosuch/x")


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["<&-", ">&-"])
def test_a_closed_input_or_output_of_score_is_one_line(bert, tmp_path, shell):
    file = tmp_path / "pairs.tsv"
    file.write_text("sentence1\tsentence2\na dog\ta cat\n")
    which = "-" if shell == "<&-" else file
    status, lines = python("-m", "transenc.score", f"model={bert}", which, shell=shell)
    assert status == 1
    assert len(lines) == 1
    assert "is closed" in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("removed", ["run", "store"])
def test_a_folder_removed_while_a_run_writes_there_is_one_line(bert, files, tmp_path, removed):
    run, store = tmp_path / "run", tmp_path / "store"
    settings = [f"data.path={files}/pool.tsv", f"data.dev={files}/dev.tsv", f"data.test=[{files}/test.tsv]"]
    settings += [f"model.bi={bert}", f"model.cross={bert}", f"paths.artifacts={store}", f"hydra.run.dir={run}"]
    settings += ["data=pairs", "trainer=cpu", "distill=paper", "distill.failure=ignore", "distill.cross.epochs=100000"]
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen([sys.executable, "train.py", *settings], cwd=ROOT, stdout=log, stderr=log)
        try:
            while not any(store.glob(".train-*")):
                assert process.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            time.sleep(1)
            while (tmp_path / removed).exists():
                shutil.rmtree(tmp_path / removed, ignore_errors=True)  # the run may add a file meanwhile
            assert process.wait(timeout=60) == 1
        finally:
            process.kill()
            process.wait()
    output = (tmp_path / "log").read_text()
    assert "Traceback" not in output
    assert output.endswith("No such file or directory; fix that and give the same command again\n")


def test_a_count_beyond_all_memory_is_one_line(setting):
    with pytest.raises(InputError, match=r"distill.cross.min_steps=4000000000: must be "):
        check(setting.config("distill.cross.min_steps=4000000000"))


def test_too_few_tokens_for_a_text_name_the_model(bert):
    with pytest.raises(InputError, match=r"bert: max_tokens=2 leaves no room for a sentence beside 2 special tokens"):
        BiEncoder.load(bert, max_tokens=2)
    with pytest.raises(InputError, match=r"bert: max_tokens=4 leaves no room for two sentences beside 3 special"):
        CrossEncoder.load(bert, max_tokens=4, new_head=0)
    assert BiEncoder.load(bert, max_tokens=3).max_tokens == 3


def test_a_tokenizer_without_a_token_for_what_it_does_not_know_is_refused(bert, tmp_path):
    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["[NONE]"] = content["model"]["vocab"].pop("[UNK]")
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"unk_token": None, "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="has no token for what it does not know"):
        BiEncoder.load(folder)


def test_a_pipe_in_a_model_folder_is_refused_and_not_waited_for(bert, tmp_path):
    folder = Path(shutil.copytree(bert, tmp_path / "model"))
    os.mkfifo(folder / "special_tokens_map.json")
    with pytest.raises(InputError, match=r"special_tokens_map.json is no file"):
        find(str(folder))


def test_a_package_name_does_not_lead_out_of_the_package():
    with pytest.raises(InputError, match="no path inside"):
        find("package://transenc/../conf")


def test_links_are_not_published(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (tmp_path / "secret").write_text("")
    (model / "README.md").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"README.md: is a link"):
        card(model, "me/model")


@pytest.mark.parametrize(
    ("name", "word", "says"),
    [
        ("train", "train.py", "train.py: is no setting (a file: data.path=...); settings are KEY=VALUE"),
        ("evaluate", "train.py", "train.py: is no setting (a file: data.test=...); settings are KEY=VALUE"),
        ("train", "minilm", "minilm: is no setting; settings are KEY=VALUE, --help shows them"),
    ],
)
def test_a_word_that_is_no_setting_is_one_line(name, word, says, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(InputError) as error:
        check_overrides(name, ["seed=1", word])
    assert str(error.value).startswith(says)


def test_what_follows_a_flag_of_hydra_and_a_removed_key_are_no_mistakes():
    check_overrides("train", ["--config-dir", "mine", "-cn", "train", "~experiment", "seed=1"])


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("data.path=Größe/en.csv", "Größe/en.csv"), ("data.columns.score=Ähnlichkeit", "Ähnlichkeit"),
        ("data.path=数据/a b.csv", "数据/a b.csv"), ("seed=1,2", [1, 2]), ("data.test=[a,b]", ["a", "b"]),
        ("data.test=[prüfung.tsv, stsb-test]", ["prüfung.tsv", "stsb-test"]),
        ("++data.path=a.csv", "a.csv"), ("+seed=1", 1),
    ],
)  # fmt: skip
def test_letters_beyond_ascii_need_no_quotes_and_all_else_is_as_it_is_written(argument, found):
    override = next(parsed([readable(argument)]))
    assert not override.is_add()
    assert not override.is_force_add()
    value = list(override.sweep_iterator()) if override.is_sweep_override() else override.value()
    assert value == found


def test_a_limit_of_extra_pairs_without_extra_pairs_is_refused():
    with pytest.raises(InputError, match=r"data.extra_limit=20: there are no extra pairs"):
        check(compose("train", ["data=stsb", "model=minilm", "data.extra_limit=20"]))


def test_a_wrong_value_of_a_key_of_hydras_is_not_called_a_missing_key():
    with pytest.raises(InputError, match=r"hydra\.job\.num: .*abc"):
        compose("train", ["hydra.job.num=abc"])


def test_the_levels_of_a_persons_own_log_handlers_stay(monkeypatch):
    handler = logging.StreamHandler()
    handler.setLevel(logging.CRITICAL)
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    show("normal")
    assert handler.level == logging.CRITICAL
