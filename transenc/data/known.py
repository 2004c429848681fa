"""The sets of pairs that have a name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from transenc.data.files import Pair
from transenc.data.hub import HUB
from transenc.data.published import PUBLISHED


class KnownSet(Protocol):
    """A set of pairs that has a name, and what is known of it."""

    @property
    def name(self) -> str:
        """Its key in `KNOWN`."""

    @property
    def identity(self) -> str:
        """What it is known by, beside its files."""

    @property
    def has_scores(self) -> bool: ...

    @property
    def scale(self) -> tuple[float, float]:
        """Lowest and highest gold score."""

    @property
    def binary(self) -> bool:
        """Whether gold scores are 0 or 1."""

    @property
    def terms(self) -> str:
        """What the pairs' publisher demands of those who use them; "" where that is not known."""

    @property
    def hub(self) -> str:
        """The same pairs on the Hugging Face Hub, for a model's card; "" where they are not there."""

    @property
    def hub_split(self) -> str:
        """Which split there they are; "" where they are a part of one."""

    def find(self, dataset: Path) -> list[Path]:
        """Its files under `paths.dataset`."""

    def read(self, paths: Sequence[Path], scored: bool) -> list[Pair]:
        """The pairs, in order.

        Args:
            paths: as `find` gives them.
            scored: True for a test: scored pairs only, with their gold scores. False for learning: all pairs, without.
        """

    def subsets(self, paths: Sequence[Path]) -> list[int]:
        """How many scored pairs each of its subsets has, in the order of `read`; [] where it is not in parts."""


KNOWN: Mapping[str, KnownSet] = {**PUBLISHED, **HUB}
