"""Where the curves and scores of a run go: TensorBoard always, Weights & Biases and MLflow if they are asked for."""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from transenc.config.schema import Logger
from transenc.errors import InputError, reason
from transenc.report.run import flat

log = logging.getLogger("transenc")


class Trackers:
    """Sends curves and scores to TensorBoard and to the loggers that the settings name, once it is open.

    Args:
        kinds: the loggers beside TensorBoard.
        settings: of the run, as plain nested values.
        folder: of the run; TensorBoard's files go into `tensorboard/`.

    Raises:
        InputError: the library of a logger is not installed, or refuses.
    """

    def __init__(self, kinds: Sequence[Logger], settings: dict[str, Any], folder: Path):
        self.settings, self.folder = settings, folder
        self.writer: Any = None  # until `open`
        self.loggers: dict[Logger, Any] = {}
        try:
            for kind in kinds:
                self.loggers[kind] = _make_logger(kind, flat(settings), folder)
        except BaseException:
            self.close(failed=True)
            raise

    def open(self) -> None:
        """Begin TensorBoard's files."""
        self.writer = SummaryWriter(str(self.folder / "tensorboard"))
        self.writer.add_text("config", "```\n" + json.dumps(self.settings, indent=2) + "\n```")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Values by tag; undefined ones are left out. The step is a training's, or an iteration."""
        values = {tag: value for tag, value in values.items() if not math.isnan(value)}
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        for kind, logger in self.loggers.items():
            with self._errors_logged(kind):
                logger.log_metrics(values, step)

    def histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        self.writer.add_histogram(tag, values, step)

    def hparams(self, settings: dict[str, Any], metrics: dict[str, float]) -> None:
        """What TensorBoard compares runs by."""
        for summary in hparams(settings, metrics):
            self.writer.file_writer.add_summary(summary)
        self.scalars(metrics, 0)

    def close(self, failed: bool) -> None:
        for kind, logger in self.loggers.items():
            with self._errors_logged(kind):
                logger.finalize("failed" if failed else "success")
                if kind is Logger.wandb:  # otherwise the next run of this process would continue this one
                    logger.experiment.finish(exit_code=int(failed))
        if self.writer is not None:
            self.writer.close()

    @contextmanager
    def _errors_logged(self, kind: Logger) -> Iterator[None]:
        """An error of a logger, of its network say, does not end the run."""
        try:
            yield
        except Exception as error:
            log.warning("%s: %s; it gets no more of this run", kind.name, reason(error))
            self.loggers = {other: logger for other, logger in self.loggers.items() if other is not kind}


def _make_logger(kind: Logger, settings: dict[str, Any], folder: Path) -> Any:
    from pytorch_lightning import loggers

    try:
        if kind is Logger.wandb:
            logger = loggers.WandbLogger(project=os.environ.get("WANDB_PROJECT", "transenc"), save_dir=folder)
        else:
            logger = loggers.MLFlowLogger(
                os.environ.get("MLFLOW_EXPERIMENT_NAME", "transenc"),
                tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
            )
        logger.log_hyperparams(settings)
    except ModuleNotFoundError:
        raise InputError(f"loggers=[{kind.name}]: {kind.name} is not installed; pip install {kind.name}") from None
    except Exception as error:  # whatever goes wrong there: no login, no server, a setting of its own
        raise InputError(f"loggers=[{kind.name}]: {reason(error)}") from error
    return logger
