"""What the terminal shows of the log: our lines by `verbosity`, the libraries' only if it is verbose."""

import logging
import os
import sys

from transenc.results import RESULT

log = logging.getLogger("transenc")


class TerminalHandler(logging.StreamHandler):
    """Errors go to standard error, all else to standard output."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr if record.levelno >= logging.ERROR else sys.stdout
        super().emit(record)


def show(verbosity: str) -> None:
    """Set what of the log the terminal shows; where nobody has set up logging, as from Python, it goes there.

    Args:
        verbosity: "quiet", "normal" or "verbose".
    """
    if not log.hasHandlers():
        log.addHandler(TerminalHandler())
    for handler in (*logging.getLogger().handlers, *log.handlers):
        if isinstance(handler, TerminalHandler):
            handler.setLevel(RESULT if verbosity == "quiet" else logging.NOTSET)
    log.setLevel(logging.DEBUG if verbosity == "verbose" else logging.INFO)
    if verbosity == "quiet":
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read when the hub's library is loaded, later
    for client in ("httpx", "httpx2"):  # a line for each request to the hub
        logging.getLogger(client).setLevel(logging.INFO if verbosity == "verbose" else logging.WARNING)


def quiet() -> None:
    """Keep the libraries' own remarks (devices found, tips, loading bars) off the terminal, unless it is verbose."""
    if log.isEnabledFor(logging.DEBUG):
        return
    import pytorch_lightning  # noqa: F401  # sets its logger's level when imported
    import transformers

    for library in ("pytorch_lightning", "sentence_transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
