"""Progress bars and learning curves of a run. Nothing here changes a result."""

from collections.abc import Callable, Mapping

from tqdm import tqdm

from transenc import distributed

OnRow = Callable[[str, Mapping[str, float]], None]


class Progress:
    """One place in a run, `1/cross` say, with its bars and its learning curve.

    Args:
        on_row: called with the place and each row of its curve: `step`, and values by name.
        bars: whether to show any.
        place: what the bars and the curve are named after.
    """

    def __init__(self, on_row: OnRow = lambda place, row: None, bars: bool = True, place: str = ""):
        self.on_row, self.bars, self.place = on_row, bars, place

    def at(self, place: str) -> "Progress":
        return Progress(self.on_row, self.bars, place)

    def bar(self, what: str, total: int, unit: str) -> tqdm:
        """A progress bar, which disappears when done. Only rank 0 shows one, and only on a terminal."""
        hidden = True if distributed.rank() or not self.bars else None
        return tqdm(total=total, desc=f"{self.place} {what}".strip(), unit=unit, leave=False, disable=hidden, ncols=79)

    def row(self, row: Mapping[str, float]) -> None:
        """A row of the learning curve."""
        self.on_row(self.place, row)
