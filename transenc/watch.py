"""Where a run is watched: bars on the terminal, curves in TensorBoard. Nothing here can change a result."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from tqdm import tqdm


def quiet() -> None:
    """Keep the libraries' own remarks (devices found, tips, loading bars) off the terminal."""
    import pytorch_lightning  # noqa: F401  # sets its logger's level when imported
    import transformers

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


class Watch:
    """One place in a run, `1/cross` say, with its bars and its TensorBoard tags.

    Args:
        writer: a TensorBoard SummaryWriter, or None.
        place: prefix of the tags and of the bars.
    """

    def __init__(self, writer: Any = None, place: str = ""):
        self.writer, self.place = writer, place

    def at(self, place: str) -> "Watch":
        return Watch(self.writer, place)

    def bar(self, what: str, total: int, unit: str) -> tqdm:
        """A progress bar, gone when it is done; none where the output is not a terminal."""
        return tqdm(total=total, desc=f"{self.place} {what}".strip(), unit=unit, leave=False, disable=None, ncols=79)

    def row(self, row: Mapping[str, float]) -> None:
        """A row of a learning curve: `step`, and values by name."""
        if self.writer is not None:
            for name, value in row.items():
                if name != "step":
                    self.writer.add_scalar(f"{self.place}/{name}", value, int(row["step"]))

    def rows(self, rows: Iterable[Mapping[str, float]]) -> None:
        for row in rows:
            self.row(row)
