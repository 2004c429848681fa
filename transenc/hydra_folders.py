"""The folders that Hydra writes into, those of a run or of a sweep: checked and held before it does."""

import os
import re
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import open_dict

from transenc.errors import InputError
from transenc.run_folder import hold, lock_run, new_folder, recorded

BY_TIME = re.compile(r"(outputs|multirun)/\d{4}-\d\d-\d\d/\d\d-\d\d-\d\d")  # Hydra's own choice, for a command a second


def check_folder(name: str, key: str, folder: Any) -> None:
    """Refuse a folder of others, as a run's or a sweep's, before Hydra writes into it.

    Args:
        name: of the command, a key of `transenc.composition.SCHEMAS`.
        key: `hydra.run.dir` or `hydra.sweep.dir`.
        folder: its value.

    Raises:
        InputError: it has no name, or is not empty and no run's (no sweep's), or another run writes there, or it is a
            training run's and `name` is another command.
    """
    if folder in (None, ""):
        raise InputError(f"{key}: no folder is named; name one, or leave it out")
    if "${" in str(folder):
        return  # it is checked when it is known
    if key == "hydra.sweep.dir":
        held = os.listdir(folder) if os.path.isdir(folder) else []
        if held and not any(entry == "multirun.yaml" or entry.isdigit() for entry in held):
            raise InputError(f"{folder}: is not empty, and no sweep's folder; name another")
        return
    if name == "train":
        if recorded(Path(str(folder))) is not None:
            os.close(lock_run(Path(str(folder))))
    elif recorded(Path(str(folder)), own=("results.csv",)) is not None:
        raise InputError(f"{folder}: is a training run's folder, whose results.csv would be replaced; give another")


class Folders(Callback):
    """Holds the folder of a run or of a sweep as long as the process lives. A folder that is named by the time gets a
    number where another command of this second has it.
    """

    def on_run_start(self, config: Any, **_: Any) -> None:
        self._take(config, "run")

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        self._take(config, "sweep")

    def _take(self, config: Any, kind: str) -> None:
        key, folder = f"hydra.{kind}.dir", str(config.hydra[kind].dir)
        try:
            if BY_TIME.fullmatch(folder):
                folder = str(new_folder(Path(folder)))
                with open_dict(config):
                    config.hydra[kind].dir = folder
                    config.hydra.overrides.hydra.append(f"{key}={folder}")  # of which a sweep's jobs are composed
            else:
                check_folder(config.hydra.job.name, key, folder)
                Path(folder).mkdir(parents=True, exist_ok=True)
            hold(Path(folder))
        except InputError as error:  # Hydra would make a warning of it
            print(error, file=sys.stderr)
            sys.exit(1)
        except OSError:  # it meets Hydra too, which ends with it
            return
