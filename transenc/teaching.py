"""One student learns one teacher's labels: Lightning's loop, with selection along the way."""

import math
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch

from transenc.data.module import PairDataModule
from transenc.encoders import PairEncoder
from transenc.errors import InputError

FLUSH = 50  # steps between looks at the loss: each look waits for the device


@dataclass
class Taught:
    """What came of it.

    Attributes:
        curve: one row per record: {"step": int, and any of "loss", "learning_rate", "selection"}.
        best: the selection score of the weights that were kept, or None where there was no selection.
        step: the step they are from.
    """

    curve: list[dict[str, float]]
    best: float | None
    step: int


class Lesson(pl.Callback):
    """Records losses, stops at one that is no number, scores the student from time to time and keeps its best weights.

    Args:
        selection: gives the student's selection score, higher being better; None keeps the last weights.
        eval_steps: steps between selection scores, which are also taken at each epoch's end; 0: only there.
        record: called with each row of the curve as it comes.
        progress: called after each step with the number of steps done, 1.
    """

    def __init__(
        self,
        selection: Callable[[PairEncoder], float] | None,
        eval_steps: int,
        record: Callable[[dict[str, float]], Any],
        progress: Callable[[int], Any],
    ):
        self.selection, self.eval_steps, self.record, self.progress = selection, eval_steps, record, progress
        self.pending: list[tuple[int, torch.Tensor, float]] = []
        self.taught = Taught([], None, 0)
        self.best_weights: dict[str, torch.Tensor] | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, student: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]  # after the step it is the next one's

    def on_train_batch_end(
        self, trainer: pl.Trainer, student: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self.pending.append((step, outputs["loss"].detach(), self.rate))
        self.progress(1)
        if len(self.pending) >= FLUSH:
            self.flush()
        if self.eval_steps and step % self.eval_steps == 0 and not trainer.is_last_batch:
            self.select(step, student)

    def on_train_epoch_end(self, trainer: pl.Trainer, student: pl.LightningModule) -> None:
        self.flush()
        self.select(trainer.global_step, student)

    def flush(self) -> None:
        for step, loss, rate in self.pending:
            if not math.isfinite(value := float(loss)):
                raise InputError(
                    f"the loss is {value} at step {step}, learning rate {rate:.2g}: training stopped; lower the"
                    " learning rate, or set trainer.precision=32-true"
                )
            self._add({"step": step, "loss": value, "learning_rate": rate})
        self.pending.clear()

    def select(self, step: int, student: Any) -> None:
        self.taught.step = step
        if self.selection is None:
            return
        score = self.selection(student)
        self._add({"step": step, "selection": score})
        if self.taught.best is None or score > self.taught.best:
            self.taught.best, self.best_step = score, step
            self.best_weights = {name: w.detach().clone() for name, w in student.state_dict().items()}

    def _add(self, row: dict[str, float]) -> None:
        self.taught.curve.append(row)
        self.record(row)

    def finish(self, student: PairEncoder) -> None:
        """Put the best weights back into the student."""
        if self.best_weights is not None:
            student.load_state_dict(self.best_weights)
            self.taught.step = self.best_step


def teach(
    student: PairEncoder,
    lessons: PairDataModule,
    *,
    epochs: int,
    clip: float,
    accelerator: str,
    precision: str,
    seed: int,
    selection: Callable[[PairEncoder], float] | None,
    eval_steps: int,
    record: Callable[[dict[str, float]], Any] = lambda row: None,
    progress: Callable[[int], Any] = lambda count: None,
) -> Taught:
    """Train `student` on labelled pairs, in place; it ends with its best weights by `selection`, or its last.

    Args:
        student: with `learning` set.
        lessons: the labelled pairs.
        epochs: passes over them.
        clip: gradients are scaled down to this norm; 0: never.
        accelerator, precision: Lightning's.
        seed: of dropout.
        selection, eval_steps, record, progress: see `Lesson`.

    Raises:
        InputError: the loss is not finite; names step and learning rate.
    """
    lesson = Lesson(selection, eval_steps, record, progress)
    torch.manual_seed(seed)  # dropout: the same whatever ran before in this process
    student.train()  # Lightning leaves the mode as it finds it, and a model comes from its folder in eval mode
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # advice on data workers and logging intervals, which are chosen here
        trainer = pl.Trainer(
            max_epochs=epochs,
            gradient_clip_val=clip or None,
            accelerator=accelerator,
            devices=1,
            precision=precision,  # type: ignore[arg-type]
            default_root_dir=folder,
            callbacks=[lesson],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        with student.used_rows(lessons.pairs):
            trainer.fit(student, datamodule=lessons)
            lesson.finish(student)
    student.eval()
    return lesson.taught
