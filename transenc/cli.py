"""The command line: Hydra, signals, several processes, and one line for whatever a person got wrong.

A mistake in what the program was given (`InputError`, or Hydra's own errors), a file or a disk that fails, or too
little memory is one line on the terminal and status 1; `HYDRA_FULL_ERROR=1` shows where it was raised. Anything else is
a bug and keeps its traceback.
"""

import gc
import logging
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import OmegaConf

from transenc.composition import (
    CONF,
    MULTIRUN,
    check_overrides,
    check_own_data,
    expand_home,
    explain,
    of_configuration,
    readable,
    settings_help,
)
from transenc.errors import InputError, in_context, sent_again
from transenc.sweep import Sweep, begin_job
from transenc.terminal import show

log = logging.getLogger("transenc")

# `main` sets HYDRA_FULL_ERROR itself, and a sweep's worker processes inherit it: there it is nobody's wish.
ONE_LINE = "TRANSENC_ONE_LINE_ERRORS"
TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1" and ONE_LINE not in os.environ

Task = Callable[[Any, Path, Sequence[str]], float | None]


def main(name: str, task: Task, usage: str, shorthand: Callable[[str], str] = str) -> None:
    """Compose `conf/<name>.yaml` with the command line and run `task(config, run_folder, overrides)`.

    Args:
        name: the primary configuration, a key of `SCHEMAS`.
        task: gets the schema's dataclass, filled, Hydra's run folder, and what the command line set (in a sweep, what
            this job is without the others); its return value goes to a sweeper.
        usage: what `--help` begins with.
        shorthand: rewrites each command-line argument before Hydra reads it.
    """

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
    def run(cfg: Any) -> float | None:
        job = HydraConfig.get()
        if job.mode is RunMode.MULTIRUN:
            begin_job(job.job.num)
        try:
            with one_line_errors(name, log.error):  # here as well, so that the error stands in the run folder's log
                settings = OmegaConf.to_object(cfg)
                show(settings.verbosity.name)
                return task(settings, Path(job.runtime.output_dir), list(job.overrides.task))
        except SystemExit:
            if job.mode is not RunMode.MULTIRUN:
                raise
        # As an error it lets the jobs behind this one go on, and ends the sweep with it.
        raise InputError(f"job {job.job.num} failed; see above, and the log in {job.runtime.output_dir}")

    # By default Hydra prints its errors itself, over several lines, and exits.
    os.environ |= {"HYDRA_FULL_ERROR": "1"} if TRACEBACKS else {"HYDRA_FULL_ERROR": "1", ONE_LINE: "1"}
    logging.raiseExceptions = TRACEBACKS  # where a log file cannot be written, the error itself says why
    threading.excepthook = ignore_writer_oserror
    with few_full_collections(), interruptible(), one_line_errors(name, print_error), join_ranks(name):
        words = [readable(expand_home(shorthand(argument))) for argument in sys.argv[1:]]
        sys.argv[1:] = sorted(
            words, key=lambda word: word not in MULTIRUN
        )  # behind a setting, argparse would refuse it
        if not {"-sc", "--shell-completion"} & set(sys.argv):  # its words look like key=value
            check_overrides(name, sys.argv[1:])
            if name == "train":
                check_own_data(sys.argv[1:])
        flags = {argument for argument in sys.argv[1:] if argument.startswith("-")}
        if flags and flags <= {"-h", "--help"}:  # Hydra's own help knows what other flags mean
            print(f"{usage}\n\n{settings_help(name, [a for a in sys.argv[1:] if a not in flags])}")
            return
        try:
            run()
        finally:
            Sweep.report()


@contextmanager
def few_full_collections() -> Iterator[None]:
    """Keep Python's garbage collector from scanning the libraries' half a million objects, which are no garbage, again
    and again. That takes a second while they are imported, and another when the process ends.
    """
    threshold = gc.get_threshold()
    gc.set_threshold(*threshold[:2], 1000)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.freeze()


def ignore_writer_oserror(failure: threading.ExceptHookArgs) -> None:
    """Ignore an OSError in TensorBoard's writer thread: closing the writer raises it again."""
    if TRACEBACKS or not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


class Interrupted(BaseException):
    """Raised by SIGINT and SIGTERM. It is no KeyboardInterrupt, which Lightning catches to end the process itself."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Say what stopped the command and how to resume it; exit with 128 and the signal's number."""

    def interrupt(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process
        raise Interrupted(number)

    def again(dropped: Interrupted) -> int:
        (number,) = dropped.args
        signal.signal(number, interrupt)
        return number

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with sent_again(Interrupted, again):
            yield
    except BaseException as error:
        interrupted = in_context(error, Interrupted)
        if interrupted is None:
            raise
        number = signal.Signals(interrupted.args[0])
        print_error(f"stopped by {number.name}; the same command goes on from the last stage or checkpoint")
        sys.exit(128 + number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def join_ranks(name: str) -> Iterator[None]:
    """If several processes were launched as one run, rank 0 continues, and the others serve it and end here.

    Raises:
        InputError: it is a sweep.
    """
    if not {"RANK", "SLURM_STEP_NUM_TASKS"} & os.environ.keys():  # known without torch, which --help need not load
        yield
        return
    from transenc import distributed

    if distributed.launched() == 1:
        yield
        return
    with distributed.group():
        if distributed.rank():
            for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 says what there is to say
                signal.signal(number, signal.SIG_DFL)
            with one_line_errors(name, lambda line: print_error(f"rank {distributed.rank()}: {line}")):
                from transenc.progress import Progress
                from transenc.stages import training  # noqa: F401  # imports all build functions that are collective

                distributed.serve(Progress())
            sys.exit()
        if MULTIRUN & set(sys.argv):
            raise InputError(
                "--multirun: the jobs of a sweep run in one process each, a GPU each (hydra/launcher=joblib or"
                " submitit_slurm); several processes may share one run, so give them one at a time"
            )
        yield


@contextmanager
def one_line_errors(name: str, report: Callable[[str], Any]) -> Iterator[None]:
    """Report a person's error, or the machine's, in one line and exit with status 1."""
    try:
        yield
    except BrokenPipeError:  # the reader of the output, `head` say, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at the end
        sys.exit(1)
    except Exception as error:
        if in_context(error, Interrupted):
            raise
        line = explain(error, name) if of_configuration(error) else machine_error_line(error) or lost_rank_line(error)
        if TRACEBACKS or line is None:
            raise
        report(line)
        sys.exit(1)


def machine_error_line(error: BaseException | None) -> str | None:
    """One line for what the disk or the memory refused, and where; None for errors that do not come of that."""
    while error is not None:
        what = None
        if isinstance(error, shutil.Error):  # of a copied folder: (from, to, why) for each file
            _, to, why = error.args[0][0]
            what = f"{to}: {why}"
        elif isinstance(error, OSError):
            where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file of this run"
            what = f"{where}: {error.strerror or error}"
        elif isinstance(error, MemoryError) or _is_torch_oom(error):
            what = f"too little memory ({str(error)[:200]})"
        if what is not None:
            return f"{' '.join(what.split())}; fix that and give the same command again"
        error = error.__cause__
    return None


def _is_torch_oom(error: BaseException) -> bool:
    """Whether torch ran out of memory, for which it raises a RuntimeError. Does not import torch."""
    return type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)


def lost_rank_line(error: BaseException) -> str | None:
    """One line where another process of this run is gone; None for errors that do not come of that."""
    distributed = sys.modules.get("transenc.distributed")
    if distributed is None or not distributed.lost(error):
        return None
    return "another process of this run ended; the same command goes on from the last stage or checkpoint"


def print_error(message: str) -> None:
    print(message, file=sys.stderr)
