"""Hydra at the door: composition, and one line for whatever a person got wrong.

A mistake in what the program was given (`InputError`, or Hydra's own errors), a file or a disk that fails, or too
little memory is one line on the terminal and status 1; `HYDRA_FULL_ERROR=1` shows where it was raised. Anything else is
a bug and keeps its traceback.
"""

import dataclasses
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import textwrap
import threading
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from transenc.config.schema import Evaluate, Train
from transenc.errors import InputError, nearest
from transenc.run_folder import recorded
from transenc.terminal import show

log = logging.getLogger("transenc")

TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR") == "1"

CONF = Path(__file__).resolve().parents[1] / "conf"
SCHEMAS = {"train": Train, "evaluate": Evaluate}
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)


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
            take_gpu(job.job.num)
            if multiprocessing.current_process().name.startswith("LokyProcess"):  # joblib's
                end_with_parent()
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
    os.environ["HYDRA_FULL_ERROR"] = "1"
    logging.raiseExceptions = TRACEBACKS  # where a log file cannot be written, the error itself says why
    threading.excepthook = quiet_thread
    with interruptible(), one_line_errors(name, complain), together(name):
        sys.argv[1:] = [at_home(shorthand(argument)) for argument in sys.argv[1:]]
        if not {"-sc", "--shell-completion"} & set(sys.argv):  # whose words look like settings
            check_overrides(name, sys.argv[1:])
        if {"-h", "--help"} & set(sys.argv):
            print(f"{usage}\n\n{settings_help(name, [a for a in sys.argv[1:] if not a.startswith('-')])}")
            return
        try:
            run()
        finally:
            Sweep.report()


def settings_help(name: str, overrides: Sequence[str]) -> str:
    """The choices of `conf/<name>.yaml`, and its settings with their values. Hydra's own help takes a second, and names
    the groups of other commands too.
    """
    groups = "\n".join(
        textwrap.fill(", ".join(named), 79, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
        for group, named in choices(name).items()
        if not group.startswith("hydra/")
    )
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        settings = OmegaConf.to_yaml(hydra.compose(name, list(overrides)))
    return f"Groups (GROUP=NAME):\n\n{groups}\n\nSettings (KEY=VALUE):\n\n{textwrap.indent(settings, '  ').rstrip()}"


def quiet_thread(failure: threading.ExceptHookArgs) -> None:
    """Says nothing of a disk that fails TensorBoard's writer, which raises it again where it is closed."""
    if TRACEBACKS or not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def at_home(argument: str) -> str:
    """`key=~/path` with the home folder in its place, as a shell does it for a word of its own."""
    key, equals, value = argument.partition("=")
    return key + equals + os.path.expanduser(value) if value.startswith("~") else argument


def take_gpu(job: int) -> None:
    """Let a sweep's job see one GPU of several, by its number. A process keeps the one it has seen for its next job."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]
    if len(gpus) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[job % len(gpus)]


def end_with_parent() -> None:
    """End this process when its parent ends, even if that is killed: joblib's workers would go on by themselves."""
    parent = os.getppid()

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


class Sweep(Callback):
    """Ends a multirun with one table, whatever became of its jobs."""

    folder: ClassVar[Path | None] = None

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        Sweep.folder = Path(config.hydra.sweep.dir)

    @classmethod
    def report(cls) -> None:
        if cls.folder is None:
            return
        jobs = sorted((path.parent for path in cls.folder.glob("*/.hydra")), key=lambda path: path.name.zfill(9))
        finished = [job for job in jobs if (job / "run.json").exists()]
        if not finished:
            return
        from transenc.report.comparison import sweep_table
        from transenc.report.page import write_report

        print(f"\n{sweep_table(cls.folder)}\n(x100: the selected encoders, averaged over the test sets)")
        if len(jobs) > 1:
            failed = [job.name for job in jobs if job not in finished]
            write_report(finished, cls.folder / "comparison.html", failed)
            print(cls.folder / "comparison.html")


def compose(name: str, arguments: Sequence[str]) -> Any:
    """The configuration alone, as the schema's dataclass, for commands that leave no run folder, and for Python.

    Raises:
        InputError: an argument is wrong.
    """
    check_overrides(name, arguments)
    try:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return OmegaConf.to_object(hydra.compose(name, list(arguments)))
    except Exception as error:
        if not _of_configuration(error):
            raise
        raise InputError(explain(error, name)) from error


class Interrupted(BaseException):
    """By a signal. No KeyboardInterrupt, after which Lightning would end the process itself, and say little."""


@contextmanager
def interruptible() -> Iterator[None]:
    """Say what stopped the command and how to resume it; exit with 128 and the signal's number."""

    def interrupt(number: int, _: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # one that lands in a destructor is lost; the next then ends the process
        raise Interrupted(number)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except Interrupted as interrupted:
        number = signal.Signals(interrupted.args[0])
        complain(f"stopped by {number.name}; the same command resumes where it stopped")
        sys.exit(128 + number)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def together(name: str) -> Iterator[None]:
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
            with one_line_errors(name, lambda line: complain(f"rank {distributed.rank()}: {line}")):
                from transenc.progress import Progress
                from transenc.stages import training  # noqa: F401  # imports all build functions that are collective

                distributed.serve(Progress())
            sys.exit()
        if {"-m", "--multirun"} & set(sys.argv):
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
    except Exception as error:
        line = explain(error, name) if _of_configuration(error) else refusal(error) or lost(error)
        if TRACEBACKS or line is None:
            raise
        report(line)
        sys.exit(1)


def _of_configuration(error: BaseException) -> bool:
    """Whether an error is ours, Hydra's or OmegaConf's. For some objections Hydra raises errors of Python's."""
    if isinstance(error, InputError | HydraException | OmegaConfBaseException):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals["__name__"].startswith("hydra.")


def refusal(error: BaseException | None) -> str | None:
    """One line for what the disk or the memory refused, and where; None for errors that do not come of that."""
    while error is not None:
        what = None
        if isinstance(error, shutil.Error):  # of a copied folder: (from, to, why) for each file
            _, to, why = error.args[0][0]
            what = f"{to}: {why}"
        elif isinstance(error, OSError):
            where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else "a file of this run"
            what = f"{where}: {error.strerror or error}"
        elif isinstance(error, MemoryError):
            what = f"too little memory ({error})"
        if what is not None:
            return f"{' '.join(what.split())}; fix that and give the same command again"
        error = error.__cause__
    return None


def lost(error: BaseException) -> str | None:
    """One line where another process of this run is gone; None for errors that do not come of that."""
    distributed = sys.modules.get("transenc.distributed")
    if distributed is None or not distributed.lost(error):
        return None
    return "another process of this run ended; the same command resumes where it stopped"


def complain(message: str) -> None:
    print(message, file=sys.stderr)


def check_overrides(name: str, arguments: Sequence[str]) -> None:
    """Hold every `key=value` on the command line against the schema and the files in conf/.

    Hydra itself lets `+key=value` through, and names no nearest key.

    Raises:
        InputError: a key that the schema lacks, a choice that its group lacks, or one value for several settings.
    """
    known = keys(SCHEMAS[name])
    groups = choices(name)
    sweep = bool({"-m", "--multirun"} & set(arguments))
    own_folder = any(argument.startswith(("--config-dir", "-cd")) for argument in arguments)  # it may add choices
    for override in parsed([a for a in arguments if "=" in a and a[0] != "-"]):
        key = override.key_or_group
        if key == "hydra":
            raise InputError("hydra: holds several settings; set one of them, hydra.NAME=...")
        if key.split(".")[0].split("/")[0] == "hydra":
            if key == ("hydra.sweep.dir" if sweep else "hydra.run.dir") and not override.is_sweep_override():
                check_folder(key, override.value())
            continue
        if key in groups:
            values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
            for value in ("null" if v is None else str(v) for v in values):
                if value not in groups[key] and not (own_folder and value != "null"):
                    raise InputError(f"{key}={value}: no such choice{nearest(value, groups[key], listed=True)}")
        elif key not in known:
            raise InputError(f"{key}: no such key{nearest(key, [*known, *groups])}")
        elif any(one.startswith(f"{key}.") for one in known) and not isinstance(override.value(), dict):
            raise InputError(f"{key}: holds several settings; set one of them, {key}.NAME=...")


def parsed(arguments: Sequence[str]) -> Iterator[Any]:
    """Hydra's view of each `key=value`.

    Raises:
        InputError: Hydra's grammar has no such value.
    """
    for argument in arguments:
        try:
            yield OverridesParser.create().parse_override(argument)
        except HydraException as error:
            key, _, value = argument.partition("=")
            raise InputError(
                f"{argument}: cannot be read ({' '.join(str(error).split())[:100]}); if it is one text, put it"
                f' into two sorts of quotes: "{key}={quoted(value)}"'
            ) from None


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes it, whatever characters it holds."""
    return "'" + text.replace("'", "\\'") + "'"


def check_folder(key: str, folder: Any) -> None:
    """Refuse a run folder of others before Hydra writes into it.

    Raises:
        InputError: it has no name, or is not empty and no run's.
    """
    if folder in (None, ""):
        raise InputError(f"{key}: no folder is named; name one, or leave it out")
    if key == "hydra.run.dir" and "${" not in str(folder):
        recorded(Path(str(folder)))


def keys(schema: type, prefix: str = "") -> list[str]:
    """The dotted names of a schema's settings, nodes included."""
    names = []
    for field, kind in typing.get_type_hints(schema).items():
        names.append(prefix + field)
        if dataclasses.is_dataclass(kind):
            names += keys(kind, f"{prefix}{field}.")
    return names


def choices(name: str) -> dict[str, list[str]]:
    """The configuration groups that `conf/<name>.yaml` composes, each with its choices; null where it may be none."""
    defaults = OmegaConf.load(CONF / f"{name}.yaml").defaults
    chosen = {group: one for entry in defaults if isinstance(entry, typing.Mapping) for group, one in entry.items()}
    chosen = {group.removeprefix("override "): one for group, one in chosen.items()}
    return {
        group: sorted(
            path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base" or default == "base"
        )  # base.yaml holds what the choices of a group share
        + ["null"] * (default is None)
        for group, default in chosen.items()
    }


def explain(error: Exception, name: str) -> str:
    """One line for an error of ours, Hydra's or OmegaConf's: what, where, what to do."""
    if isinstance(error, InputError):
        return "\\n".join(str(error).splitlines())  # a name that a person gave may hold line breaks
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if cause is None:
        return " ".join(str(error).split())
    key, message = cause.full_key or "", str(cause.msg or cause).split("\n")[0]
    if isinstance(cause, MissingMandatoryValue):
        return f"{key}: no value; give {key}=... on the command line"
    if key and key not in keys(SCHEMAS[name]):
        return f"{key}: no such key{nearest(key, keys(SCHEMAS[name]))}"
    if ", expected one of [" in message:
        value, _, expected = message.removesuffix("]").partition(", expected one of [")
        word = value.partition("'")[2].rstrip("'")
        return f"{key}={word}: no such choice{nearest(word, expected.split(', '), listed=True)}"
    return f"{key}: {message}" if key else message
