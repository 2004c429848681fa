"""The folders that Hydra writes into, those of a run or of a sweep: checked and held before it does."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import open_dict

from transenc.errors import InputError
from transenc.run_folder import hold, new_folder, recorded

BY_TIME = re.compile(r"(outputs|multirun)/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d")  # Hydra's own choice, for a command a second


def check_folder(folder: Path, kind: str, command: str) -> None:
    """Refuse a folder of others.

    Args:
        folder: which need not exist.
        kind: what it is for, "run" or "sweep".
        command: a key of `transenc.composition.SCHEMAS`.

    Raises:
        InputError: it is not empty and no run's (no sweep's), or a training run's, and `command` is another.
    """
    if kind == "sweep":
        held = os.listdir(folder) if folder.is_dir() else []
        if held and not any(entry == "multirun.yaml" or entry.isdigit() for entry in held):
            raise InputError(f"{folder}: is not empty, and no sweep's folder; name another")
    elif command == "train":
        recorded(folder)
    elif recorded(folder, own=("results.csv",)) is not None:
        raise InputError(f"{folder}: is a training run's folder, whose results.csv would be replaced; give another")


class Folders(Callback):
    """Checks the folder of a run or of a sweep, and holds it as long as the process lives. A folder that is named by
    the time gets a number where another command of this second has it.

    Args:
        command: a key of `transenc.composition.SCHEMAS`.
    """

    def __init__(self, command: str):
        self.command = command

    def on_run_start(self, config: Any, **_: Any) -> None:
        self._take(config, "run")

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        self._take(config, "sweep")

    def _take(self, config: Any, kind: str) -> None:
        key, name = f"hydra.{kind}.dir", config.hydra[kind].dir
        try:
            if name == "":
                raise InputError(f"{key}: no folder is named; name one, or leave it out")
            folder = Path(str(name))
            if BY_TIME.fullmatch(str(name)):
                folder = new_folder(folder)
                with open_dict(config):
                    config.hydra[kind].dir = str(folder)
                    config.hydra.overrides.hydra.append(f"{key}={folder}")  # of which a sweep's jobs are composed
            else:
                check_folder(folder, kind, self.command)
                folder.mkdir(parents=True, exist_ok=True)
            hold(folder)
        except InputError as error:  # Hydra would make a warning of it
            print(error, file=sys.stderr)
            sys.exit(1)
        except OSError:  # it meets Hydra too, which ends with it
            return
