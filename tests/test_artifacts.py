"""The store: an artifact's identity is what can change its result, and a folder under its final name is complete."""

import errno
import hashlib
import multiprocessing
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

import transenc.artifacts
from transenc.artifacts import RECORD, Stage, Store, stage


def copying(calls, version=1, ignore=()):
    def build(out, config, progress, *inputs):
        calls.append(config)
        (out / "text").write_text(str(sorted(config.items())) + "".join((i / "text").read_text() for i in inputs))
        return {"size": len(config)}

    return Stage("copying", version, frozenset(ignore), build)


def test_the_same_input_is_built_once_and_found_again_by_another_store(tmp_path):
    calls = []
    first = Store(tmp_path)(copying(calls), {"a": 1, "b": 2})
    again = Store(tmp_path)(copying(calls), {"b": 2, "a": 1})
    assert len(calls) == 1
    assert (again.path, again.facts, again.reused, first.reused) == (first.path, first.facts, True, False)


@pytest.mark.parametrize("change", ["value", "key", "version", "name", "input"])
def test_whatever_can_change_the_result_changes_the_fingerprint(tmp_path, change):
    store, calls = Store(tmp_path), []
    first, second = store(copying(calls), {"n": 1}), store(copying(calls), {"n": 2})
    base = store(copying(calls), {"a": 1}, first)
    other = {
        "value": lambda: store(copying(calls), {"a": 2}, first),
        "key": lambda: store(copying(calls), {"b": 1}, first),
        "version": lambda: store(copying(calls, version=2), {"a": 1}, first),
        "name": lambda: store(Stage("other", 1, frozenset(), copying(calls).build), {"a": 1}, first),
        "input": lambda: store(copying(calls), {"a": 1}, second),
    }[change]()
    assert other.fingerprint != base.fingerprint
    assert not other.reused


def test_an_ignored_key_does_not_change_the_fingerprint_but_reaches_the_stage(tmp_path):
    calls = []
    built = Store(tmp_path)(copying(calls, ignore=["size"]), {"a": 1, "size": 8})
    assert calls == [{"a": 1, "size": 8}]
    assert Store(tmp_path)(copying(calls, ignore=["size"]), {"a": 1, "size": 64}).path == built.path


@pytest.mark.parametrize("left", [0, 2**30])
def test_a_full_disk_is_an_oserror_whatever_a_library_raises(tmp_path, monkeypatch, left):
    """Room may be there again when it is looked at: what did not fit is gone."""
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=left))

    @stage(version=1)
    def failing(out, config, progress):
        raise RuntimeError("I/O error: No space left on device (os error 28)" if left else "unexpected pos")

    with pytest.raises(OSError, match=r"No space left .* how to shrink paths.artifacts") as error:
        Store(tmp_path)(failing, {})
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_a_stage_that_fails_leaves_nothing(tmp_path):
    @stage(version=1)
    def failing(out, config, progress):
        (out / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path)(failing, {})
    assert list(tmp_path.iterdir()) == []


def _slow(root, started):
    @stage(version=1)
    def slow(out, config, progress):
        (out / f"by-{os.getpid()}").write_text("")
        started.set()
        time.sleep(0.5)
        return {}

    Store(root)(slow, {})


def test_what_a_killed_process_left_is_cleared_and_built_anew(tmp_path):
    context = multiprocessing.get_context("fork")
    started = context.Event()
    process = context.Process(target=_slow, args=(tmp_path, started))
    process.start()
    assert started.wait(10)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [p.name[0] for p in tmp_path.iterdir()] == ["."]
    _slow(tmp_path, started)
    (folder,) = tmp_path.iterdir()
    assert {p.name for p in folder.iterdir()} == {RECORD, f"by-{os.getpid()}"}


def test_two_processes_that_want_the_same_artifact_build_it_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_slow, args=(tmp_path, context.Event())) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob("by-*"))) == 1


def test_what_another_process_began_while_one_published_is_left_alone(tmp_path, monkeypatch):
    calls, publish = [], transenc.artifacts._publish

    def publish_and_be_overtaken(scratch, path):
        publish(scratch, path)
        scratch.mkdir()
        (scratch / "of another").write_text("")

    monkeypatch.setattr(transenc.artifacts, "_publish", publish_and_be_overtaken)
    built = Store(tmp_path)(copying(calls), {"a": 1})
    assert (tmp_path / f".{built.path.name}" / "of another").exists()


def test_a_folders_modification_time_is_when_a_run_last_used_it(tmp_path):
    built = Store(tmp_path)(copying([]), {})
    os.utime(built.path, (0, 0))
    before = time.time()
    assert Store(tmp_path)(copying([]), {}).reused
    assert built.path.stat().st_mtime >= before - 1


def test_a_folder_without_its_record_is_not_taken_for_finished(tmp_path):
    calls = []
    built = Store(tmp_path)(copying(calls), {})
    (built / RECORD).unlink()  # as an interrupted deletion of the store leaves it
    again = Store(tmp_path)(copying(calls), {})
    assert (len(calls), again.reused, (again / RECORD).exists()) == (2, False, True)


DAMAGE = {
    "a changed byte": lambda folder: (
        (folder / "text").write_bytes(b"!" + (folder / "text").read_bytes()[1:]),
        os.utime(folder / "text", ns=(0, 0)),  # a file system's clock may be too coarse for a test
    ),
    "a file cut short": lambda folder: os.truncate(folder / "text", 3),
    "an empty file": lambda folder: os.truncate(folder / "text", 0),
    "a file that is gone": lambda folder: (folder / "text").unlink(),
    "a folder in its place": lambda folder: ((folder / "text").unlink(), (folder / "text").mkdir()),
    "an empty record": lambda folder: os.truncate(folder / RECORD, 0),
    "a record cut short": lambda folder: os.truncate(folder / RECORD, 40),
    "a record of something else": lambda folder: (folder / RECORD).write_text('{"files": {}, "fingerprint": "0"}'),
    "another fact in its record": lambda folder: (folder / RECORD).write_text(
        (folder / RECORD).read_text().replace('"size": 1', '"size": 2')
    ),
    "a record that is a list": lambda folder: (folder / RECORD).write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("same_process", [True, False])
def test_a_damaged_artifact_is_logged_and_built_again(tmp_path, caplog, damage, same_process):
    calls, store = [], Store(tmp_path)
    built = store(copying(calls), {"a": 1})
    undamaged = {file.name: file.read_bytes() for file in built.path.iterdir() if file.name != RECORD}
    damage(built.path)
    again = (store if same_process else Store(tmp_path))(copying(calls), {"a": 1})
    assert (len(calls), again.reused) == (2, False)
    assert {file.name: file.read_bytes() for file in again.path.iterdir() if file.name != RECORD} == undamaged
    assert str(built.path) in caplog.text
    assert caplog.text.count("it is built again") == 1
    assert Store(tmp_path)(copying(calls), {"a": 1}).reused


def test_a_stage_that_fails_keeps_its_checkpoint_and_nothing_else(tmp_path):
    @stage(version=1)
    def failing(out, config, progress):
        assert not (out / "half").exists()
        (out / "half").write_text("half")
        if not (out / "at.checkpoint").exists():
            (out / "at.checkpoint").write_text("7")
            raise OSError("no space left")
        (out / "at.checkpoint").unlink()
        return {}

    with pytest.raises(OSError, match="space"):
        Store(tmp_path)(failing, {})
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["at.checkpoint"]
    built = Store(tmp_path)(failing, {})
    assert {file.name for file in built.path.iterdir()} == {RECORD, "half"}
    assert list(tmp_path.iterdir()) == [built.path]


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_files_are_readable_by_whom_the_umask_says_whatever_wrote_them(tmp_path, umask):
    @stage(version=1)
    def private(out, config, progress):
        for name in ("weights", "text"):
            (out / name).write_text(name)
        (out / "weights").chmod(0o600)  # as safetensors has its files
        return {}

    before = os.umask(umask)
    try:
        built = Store(tmp_path)(private, {})
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in built.path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("name", ["text", RECORD])
def test_what_may_not_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch, name):
    calls = []
    built = Store(tmp_path)(copying(calls), {"a": 1})
    closed = built.path / name

    def refuse(what, *arguments, **settings):
        if Path(what) == closed:
            raise PermissionError(13, "Permission denied", str(what))
        return original(what, *arguments, **settings)

    original, where = (Path.read_text, "pathlib.Path.read_text") if name == RECORD else (open, "builtins.open")
    monkeypatch.setattr(where, refuse)
    with pytest.raises(PermissionError):
        Store(tmp_path)(copying(calls), {"a": 1})
    monkeypatch.undo()
    assert Store(tmp_path)(copying(calls), {"a": 1}).reused
    assert len(calls) == 1


def test_a_damaged_artifact_that_may_not_be_replaced_is_not_built_in_vain(tmp_path, monkeypatch):
    calls = []
    built = Store(tmp_path)(copying(calls), {"a": 1})
    (built / "text").write_text("damaged")

    def refuse(path, *_, **__):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(PermissionError):
        Store(tmp_path)(copying(calls), {"a": 1})
    assert len(calls) == 1


def test_damage_to_one_artifact_builds_no_other_again(tmp_path):
    calls, store = [], Store(tmp_path)
    first = store(copying(calls), {"a": 1})
    second = store(copying(calls), {"a": 2}, first)
    os.truncate(first / "text", 0)
    store = Store(tmp_path)
    assert store(copying(calls), {"a": 2}, store(copying(calls), {"a": 1})).reused
    assert second.path.exists()
    assert len(calls) == 3


def test_a_file_is_read_for_its_digest_once_and_again_when_it_changed(tmp_path, monkeypatch):
    read, file_digest = [], hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, how: read.append(file.name) or file_digest(file, how))
    path = tmp_path / "file"
    for content, reads in ((b"some", 1), (b"some", 1), (b"same", 2)):  # of one length
        if not path.exists() or path.read_bytes() != content:
            path.write_bytes(content)
            os.utime(path, ns=(0, reads))  # later, however coarse the clock
        assert transenc.artifacts.file_digest(path) == hashlib.sha256(content).hexdigest()
        assert len(read) == reads


def test_the_artifact_module_needs_the_standard_library_only():
    import ast
    import sys

    tree = ast.parse((Path(__file__).parents[1] / "transenc" / "artifacts.py").read_text())
    names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_artifacts_of_equal_content_are_one_to_later_stages(tmp_path):
    built = []

    @stage(version=1, content=("kept.txt",))
    def first(out, config, progress):
        (out / "kept.txt").write_text(config["text"])
        (out / "other.txt").write_text(config["other"])
        return {}

    @stage(version=1)
    def second(out, config, progress, source):
        built.append((source / "kept.txt").read_text())
        return {}

    for text, other in (("a", "1"), ("a", "2"), ("b", "2"), ("a", "1")):
        store = Store(tmp_path)
        store(second, {}, store(first, {"text": text, "other": other}))
    assert built == ["a", "b"]
