"""What one stage hands to the next, and the store that builds each artifact once.

An artifact is a folder with a record, `artifact.json`. Its identity is a fingerprint of the stage's name and version,
of its configuration less the keys that cannot change the result, and of the artifacts it was built from. A stage
works in a scratch folder; the record is written last, and one rename publishes the folder. So a folder under its final
name is complete, a killed run leaves none that looks so, and running again builds only what is missing. The record
holds the sha256 of every file and its own: a damaged artifact is logged and built again.

Two processes that want the same artifact build it once: the second waits for the first. A folder's modification time
is when a run last used it.

Standard library only: nothing here knows what a stage computes.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any

log = logging.getLogger("transenc")

RECORD = "artifact.json"
CHECKPOINT_SUFFIX = ".checkpoint"  # suffix of a file that an interrupted stage resumes from; a finished one has none
MIN_FREE_BYTES = 1 << 20  # bytes; with less the disk counts as full, whatever error a library raised


def digest(value: Any) -> str:
    """The sha256 of a JSON-able value, as 64 hex digits; key order does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits; computed once for a file that stays as it is."""
    found = path.stat()
    return _file_digest(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@cache
def _file_digest(path: Path, state: tuple[int, ...]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished folder: `artifact / "file"` is a path in it, `facts` what its stage recorded about it.

    Later stages know it by its fingerprint: of what it was built from, or of its content (`Stage.content`).
    """

    path: Path
    fingerprint: str
    facts: Mapping[str, Any]
    reused: bool = False

    def __truediv__(self, name: str) -> Path:
        return self.path / name


@dataclass(frozen=True)
class Stage:
    """A pure step from (configuration, artifacts) to a folder.

    Attributes:
        name: names the artifact's folder.
        version: raise it when the code changes what the same input gives; what reads changed files is then built again.
        ignore: configuration keys that cannot change the result (a batch size when scoring, say).
        content: files that are all that later stages read. Where named, artifacts with equal ones are the same to later
            stages, however they came about. Otherwise an artifact counts by what it was built from.
        build: `build(out, config, progress, *inputs) -> facts`; fills the empty folder `out`. The facts are JSON-able,
            go into the record, and come back as `Artifact.facts`.
    """

    name: str
    version: int
    ignore: frozenset[str]
    build: Callable[..., Mapping[str, Any]]
    content: tuple[str, ...] = ()


def stage(
    version: int, ignore: tuple[str, ...] = (), content: tuple[str, ...] = ()
) -> Callable[[Callable[..., Mapping[str, Any]]], Stage]:
    """Make a build function a `Stage` of the function's name."""
    return lambda build: Stage(build.__name__, version, frozenset(ignore), build, content)


class Store:
    """A folder of artifacts: `store(stage, config, *inputs)` returns one, building it if it is not there.

    Args:
        root: the folder; made when first needed, safe to delete.
    """

    def __init__(self, root: Path):
        self.root = root
        self.logged: set[str] = set()  # fingerprints that the log has a line for
        # The artifacts that were requested, in order: title, seconds it took to build, reused.
        self.requested: list[dict[str, Any]] = []

    def __call__(
        self,
        stage: Stage,
        config: Mapping[str, Any],
        *inputs: Artifact,
        progress: Any = None,
        title: str = "",
        summary: Callable[[Mapping[str, Any]], str] = lambda facts: facts.get("summary", ""),
    ) -> Artifact:
        """Return the artifact of `stage` on `config` and `inputs`, built now if no earlier run did.

        Args:
            stage: what to run.
            config: plain values, all of which count for the fingerprint except those that `stage.ignore` names, which
                may be anything.
            inputs: artifacts the stage reads.
            progress: handed to the stage as it is, for its progress; cannot change the result.
            title: what the stage's line in the log calls it.
            summary: of its facts: how that line ends.
        """
        identity = {
            "stage": stage.name,
            "version": stage.version,
            "config": {key: value for key, value in config.items() if key not in stage.ignore},
            "inputs": [artifact.fingerprint for artifact in inputs],
        }
        fingerprint = digest(identity)
        path = self.root / f"{stage.name}-{fingerprint[:16]}"
        title = title or stage.name
        record, reused = self._find(path, fingerprint), True
        if record is None:
            with self._claim(path) as scratch:
                record = self._find(path, fingerprint, warn=True)  # this time no other process is building it
                if record is None:
                    if path.exists():  # damaged, or left of an interrupted deletion of the store
                        shutil.rmtree(path)  # now: where this is refused, nothing is built in vain
                    started, reused = time.monotonic(), False
                    with _disk_full_as_oserror(scratch):
                        facts = json.loads(json.dumps(stage.build(scratch, config, progress, *inputs)))
                    record = {**identity, "fingerprint": fingerprint, "facts": facts}
                    record["seconds"] = time.monotonic() - started
                    _seal(scratch, record, stage.content)
                    _publish(scratch, path)
                    log.debug("%s: in %s", title, path)
        if not (reused and fingerprint in self.logged):
            self.logged.add(fingerprint)
            self.requested.append({"title": title, "seconds": round(record["seconds"], 2), "reused": reused})
            took = "reused" if reused else f"{record['seconds']:.1f} s"
            log.info("%-24s %9s  %s", title, took, summary(record["facts"]))
            with suppress(OSError):  # a store may be read-only
                os.utime(path)
        return Artifact(path, record.get("content", fingerprint), record["facts"], reused)

    def _find(self, path: Path, fingerprint: str, warn: bool = False) -> dict[str, Any] | None:
        """The record of a finished artifact; None where there is none, or, with a warning if `warn`, it is damaged."""
        try:
            record = json.loads((path / RECORD).read_text(encoding="utf-8"))
            files, intact = record["files"], record.pop("sha256") == digest(record)
            intact &= record["fingerprint"] == fingerprint
        except FileNotFoundError:
            return None
        except PermissionError:  # it may be whole, for others
            raise
        except (OSError, ValueError, KeyError, TypeError):
            files, intact = {}, False
        damaged = [RECORD] if not intact else [name for name, sha256 in files.items() if not _is(path / name, sha256)]
        if damaged and warn:
            log.warning(
                "%s: %s is damaged, missing or of an earlier version; it is built again", path, ", ".join(damaged)
            )
        return None if damaged else record

    @contextmanager
    def _claim(self, path: Path) -> Iterator[Path]:
        """A scratch folder for `path` that no other process has, gone at the end unless it was renamed.

        The folder itself is locked. A lock ends with its process, however that ends, so whatever a killed one left in
        the folder is known to be nobody's. It is empty but for checkpoints, from which a stage resumes where one with
        the same fingerprint ended early, whatever ended it.
        """
        scratch = path.with_name(f".{path.name}")
        self.root.mkdir(parents=True, exist_ok=True)
        while True:
            with suppress(FileExistsError):
                scratch.mkdir()
            with suppress(FileNotFoundError):
                handle = lock(scratch)
                if _stands(scratch, handle):
                    break
                os.close(handle)  # while this process waited, the holder renamed or removed the folder
        try:
            _clear(scratch)
            yield scratch
        finally:
            if _stands(scratch, handle):  # and is not published, nor another's since
                _clear(scratch)
                if not any(scratch.iterdir()):
                    scratch.rmdir()
            os.close(handle)


def _is(file: Path, sha256: str) -> bool:
    try:
        return file_digest(file) == sha256
    except PermissionError:  # it may be whole, for others
        raise
    except OSError:
        return False


def _stands(folder: Path, handle: int) -> bool:
    """Whether an open folder still goes by its name."""
    try:
        return os.path.samestat(os.stat(folder), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _disk_full_as_oserror(scratch: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        reason = os.strerror(errno.ENOSPC)  # which safetensors tells in words; others in none
        if reason in str(error) or shutil.disk_usage(scratch).free < MIN_FREE_BYTES:
            remedy = f"{reason} (docs/usage.md says how to shrink paths.artifacts)"
            raise OSError(errno.ENOSPC, remedy, str(scratch.parent)) from error
        raise


def _clear(scratch: Path) -> None:
    for left in scratch.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif left.suffix != CHECKPOINT_SUFFIX:
            left.unlink()


def _seal(scratch: Path, record: dict[str, Any], content: Sequence[str]) -> None:
    """Complete the record of what is in a scratch folder by the digests of its files, and write it there.

    Args:
        scratch: what a stage built.
        record: gets `files`, its own `sha256`, and `content` if there is any.
        content: see `Stage`.
    """
    if content:
        record["content"] = digest([file_digest(scratch / name) for name in content])
    files = sorted(file for file in scratch.rglob("*") if file.is_file())
    record["files"] = {str(file.relative_to(scratch)): file_digest(file) for file in files}
    record["sha256"] = digest(record)
    (scratch / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")


def _publish(scratch: Path, path: Path) -> None:
    """Rename a finished folder; neither its files nor its new name are lost if the power fails after that.

    Its files get the mode of the record, which is the umask's: safetensors makes its own readable by their owner alone.
    """
    mode = stat.S_IMODE((scratch / RECORD).stat().st_mode)
    for written in (*scratch.rglob("*"), scratch):
        if written.is_file():
            written.chmod(mode)
        sync(written)
    scratch.rename(path)
    sync(path.parent)


def lock(folder: Path, wait: bool = True) -> int:
    """Hold a folder against other processes until the handle that this returns is closed, or the process ends.

    Raises:
        BlockingIOError: another process holds it, and `wait` is false.
        FileNotFoundError: it is gone.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(handle)
        raise
    return handle


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file, UTF-8, to write what `path` is to hold; it takes that name when all is written, or not at all.

    One process at a time: `lock` the folder where several may write.
    """
    aside = path.with_name(f".{path.name}.part")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            yield file
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file's or folder's content outlast a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
