"""A run folder, and a record of what runs wrote there: nothing else in it is ever deleted.

Standard library only: the command line asks before Hydra writes its own files into the folder.
"""

import json
import os
import shutil
from collections.abc import Collection, Iterable
from contextlib import suppress
from itertools import count
from pathlib import Path

from transenc.artifacts import lock, replacing
from transenc.errors import InputError

RECORD = ".transenc.json"
PARTS = ("models", "labels", "predictions", "tensorboard")  # folders that are emptied of what earlier runs wrote
HYDRAS = (".hydra", "multirun.yaml")  # there before a run begins, as is the log


def model_path(name: str) -> str:
    """Where a run puts a selected encoder: `models/bi-encoder-0` for `bi-0`."""
    kind, dash, number = name.partition("-")
    return f"models/{kind}-encoder{dash}{number}"


def predictions_path(place: str, task: str) -> str:
    """Where a run puts an encoder's scores of a task: `predictions/2-cross-stsb-test.csv`."""
    return f"predictions/{place.replace('/', '-')}-{task}.csv"


def recorded(folder: Path, own: Collection[str] = ()) -> set[str] | None:
    """Paths in the folder that runs wrote; None where no run has been.

    Args:
        folder: which need not exist.
        own: names of files that may be there without a run, and are replaced.

    Raises:
        InputError: the folder is not empty, and no run's.
    """
    try:
        return set(json.loads((folder / RECORD).read_text(encoding="utf-8"))["written"])
    except (OSError, ValueError, TypeError, KeyError):
        pass
    if not folder.exists():
        return None
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder for the run (hydra.run.dir)")
    with suppress(OSError, ValueError, TypeError):
        if {"selected", "stages", "config"} <= set(json.loads((folder / "run.json").read_text(encoding="utf-8"))):
            return {"tensorboard"}  # of a version that kept no record
    known = {*HYDRAS, *own, f".{RECORD}.part"}  # what a run leaves that was killed while it wrote its first record
    others = sorted(path.name for path in folder.iterdir() if path.name not in known and path.suffix != ".log")
    if others:
        more = f", and {len(others) - 3} more" if len(others) > 3 else ""
        raise InputError(
            f"{folder}: holds {', '.join(others[:3])}{more}, and is no run's folder; give an empty or new one"
            " (hydra.run.dir; in Python, folder=...)"
        )
    return None


_held: dict[Path, int] = {}  # what `hold` holds, by its lock


def hold(folder: Path) -> None:
    """Hold a folder against other runs until this process ends.

    Raises:
        InputError: another run holds it.
    """
    _held[folder.resolve()] = lock_run(folder)


def lock_run(folder: Path) -> int:
    """Hold a run folder against other runs, see `transenc.artifacts.lock`.

    Raises:
        InputError: another run holds it.
    """
    if (held := _held.get(folder.resolve())) is not None:
        return os.dup(held)
    try:
        return lock(folder, wait=False)
    except BlockingIOError:
        raise InputError(f"{folder}: another run writes there; wait for it, or give another folder") from None


def new_folder(named: Path) -> Path:
    """Make a folder of that name, with a number where there is one already."""
    folder = named
    for number in count(1):
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            break
        folder = named.with_name(f"{named.name}-{number}")
    return folder


def check_store(store: Path) -> None:
    """Check that the store of the artifacts is a folder, or can become one.

    Raises:
        InputError: it is a file, or lies in one.
    """
    for path in (store, *store.parents):
        if path.exists() and not path.is_dir():
            raise InputError(f"paths.artifacts={store}: {path} is a file; give a folder")


class RunFolder:
    """A run folder, with a record of what runs wrote there.

    Args:
        folder: of the run, which exists.
        store: of the artifacts.
        inputs: files and folders that the run reads; other names are passed over.

    Raises:
        InputError: the folder is not empty, and no run's; or the store is no folder, or the run folder lies in it, or
            it, or an input, lies in a folder that a run empties.
    """

    def __init__(self, folder: Path, store: Path, inputs: Iterable[str] = ()):
        check_store(store)
        self.folder = folder
        inside, artifacts = folder.resolve(), store.resolve()
        parts = [(inside / part).resolve() for part in PARTS]
        if inside.is_relative_to(artifacts) or any(artifacts.is_relative_to(part) for part in parts):
            raise InputError(f"paths.artifacts={store}: it and the run folder, {folder}, must not lie in one another")
        for name in inputs:
            path = Path(name.partition("#sha256=")[0])
            if os.path.exists(path) and any(path.resolve().is_relative_to(part) for part in parts):
                raise InputError(f"{name}: this run would replace it; give another run folder than {folder}")
        self.earlier, self.written = recorded(folder) or set(), set[str]()

    def begin(self) -> None:
        """Empty `tensorboard/`: in the folder of a killed run everything is written again."""
        self.remove("tensorboard")
        self.path("tensorboard")

    def path(self, *parts: str) -> Path:
        """Where to write something, which is recorded as this run's."""
        name = "/".join(parts)
        if name not in self.written:
            self.written.add(name)
            with replacing(self.folder / RECORD) as file:
                json.dump({"written": sorted(self.earlier | self.written)}, file, indent=1)
        return self.folder / name

    def remove(self, name: str) -> None:
        """Remove what an earlier run wrote."""
        if name not in self.earlier or ".." in Path(name).parts or Path(name).is_absolute():
            return
        path = self.folder / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)

    def remove_earlier(self) -> None:
        """Remove what earlier runs left, now that all of this one's is there."""
        for name in sorted(self.earlier - self.written):
            self.remove(name)
        for part in PARTS:
            if (self.folder / part).is_dir() and not any((self.folder / part).iterdir()):
                (self.folder / part).rmdir()
        self.earlier = set()
        with replacing(self.folder / RECORD) as file:
            json.dump({"written": sorted(self.written)}, file, indent=1)
