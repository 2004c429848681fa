"""Gold scores as they are written in a file."""

from contextlib import suppress
from typing import Any

from transenc.errors import InputError

SHOWN = 40  # characters of what is wrong that an error repeats


def parse_score(written: Any, low: float, high: float, where: str) -> float:
    """A gold score in [low, high].

    Raises:
        InputError: not a number, or outside; the message begins with `where`.
    """
    score = as_number(written)
    if score is None:
        raise InputError(f"{where}: the score {written!r:.{SHOWN}} is not a number; mend or remove the line")
    if not low <= score <= high:
        belongs = f"[{low:g}, {high:g}]; set data.score_min and data.score_max to what your scores are"
        raise InputError(f"{where}: the score {written!s:.{SHOWN}} is not in {belongs}")
    return score


def parse_label(written: Any, where: str) -> float:
    """A label of 0 or 1, which may be written as pandas and Excel write booleans.

    Raises:
        InputError: it is neither; the message begins with `where`.
    """
    label = as_number({"false": 0, "true": 1}.get(str(written).strip().lower(), written))
    if label not in (0, 1):
        raise InputError(f"{where}: the label {written!s:.{SHOWN}} is neither 0 nor 1; write 0 and 1")
    return label


def as_number(written: Any) -> float | None:
    """A number; None where it is none, or NaN, or written with an underscore (1_0), as only Python's are."""
    with suppress(TypeError, ValueError, OverflowError):
        if isinstance(written, str) and "_" in written:
            return None
        if (number := float(written)) == number:
            return number
    return None
