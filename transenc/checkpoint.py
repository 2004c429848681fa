"""The training checkpoint: what an interrupted training goes on from."""

from pathlib import Path
from typing import Any

import torch

from transenc.artifacts import CHECKPOINT_SUFFIX, file_digest, sync

INTERVAL_SECONDS = 120.0  # work that an interruption may cost, if no epoch ends before


class Checkpoint:
    """The state of an unfinished training, as one file whose name is its sha256.

    Args:
        folder: a stage's scratch folder, which keeps files with this suffix until the stage is done
            (`transenc.artifacts`).
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file, in one step."""
        scratch = self.folder / "unfinished"
        torch.save(state, scratch)
        sync(scratch)
        path = self.folder / f"{file_digest(scratch)}{CHECKPOINT_SUFFIX}"
        scratch.rename(path)
        self.remove(keep=path)

    def read(self) -> dict[str, Any] | None:
        """The state that was written last; None if there is none or the file is damaged."""
        newest_first = sorted(self._files(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for path in newest_first:
            if file_digest(path) == path.stem:
                return torch.load(path, weights_only=True, map_location="cpu")
        return None

    def remove(self, keep: Path | None = None) -> None:
        """Delete all files but `keep`."""
        for path in self._files():
            if path != keep:
                path.unlink()

    def _files(self) -> list[Path]:
        return list(self.folder.glob(f"*{CHECKPOINT_SUFFIX}"))
