"""The exception for mistakes in the input, suggestions for misspelt names, and what libraries raise."""

import difflib
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """Something given to the program is wrong. The message is one line: what, where, and what to do.

    The command line prints the message alone and ends with status 1; every other exception is a bug and keeps its
    traceback.
    """

    def __init__(self, message: str):
        # What it repeats of files and names may hold line breaks, or codes that a terminal would obey.
        super().__init__("".join(c if c.isprintable() else repr(c)[1:-1] for c in message))


def nearest(word: str, words: Iterable[str], listed: bool = False) -> str:
    """`; did you mean ...?` for a misspelt word, with the whole list if requested; else where to look."""
    words = list(words)
    ends: dict[str, str] = {}
    for full in words:  # a key is recognised by its last part too: iteratons is distill.iterations
        ends.setdefault(full.rpartition(".")[2], full)
    close = [full for full in words if word and full.startswith(word)] or difflib.get_close_matches(word, words, n=1)
    close = close or [ends[end] for end in difflib.get_close_matches(word.rpartition(".")[2], ends, n=1)]
    hint = f"; did you mean {close[0]}?" if close else ""
    if listed:
        return f"{hint} (there are {', '.join(words)})" if hint else f"; there are {', '.join(words)}"
    return hint or "; --cfg job shows all keys"


def reason(error: BaseException) -> str:
    """An error of a library, short, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def in_context(error: BaseException | None, kind: type[BaseException]) -> BaseException | None:
    """The exception of a kind among `error` and those in whose handling it was raised; None if there is none.

    Cleaning up after one exception may raise another, which hides the first.
    """
    while error is not None and not isinstance(error, kind):
        error = error.__context__
    return error


@contextmanager
def sent_again(kind: type[BaseException], number: Callable[[Any], int]) -> Iterator[None]:
    """Send a signal again whose exception was raised in a destructor: Python drops it there, and only tells a hook.

    Args:
        kind: of the exception.
        number: the signal's, of such an exception.
    """

    def hook(dropped: Any) -> None:
        if not isinstance(dropped.exc_value, kind):
            before(dropped)
            return
        signal_number = number(dropped.exc_value)
        threading.Timer(0.05, os.kill, (os.getpid(), signal_number)).start()  # when the destructor is done

    before, sys.unraisablehook = sys.unraisablehook, hook
    try:
        yield
    finally:
        sys.unraisablehook = before
