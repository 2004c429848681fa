"""One student learns one teacher's labels: Lightning's loop, with selection along the way, and bookmarks to go on from.

Lightning's own checkpoints would not do: they hold no random state, so dropout would be another after them, and in the
middle of an epoch they skip as many batches as were done, but not those that were done.
"""

import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from transenc import distributed
from transenc.artifacts import BOOKMARK, file_digest, sync
from transenc.data.module import PairDataModule
from transenc.encoders import PairEncoder
from transenc.errors import InputError
from transenc.metrics import spearman

log = logging.getLogger("transenc")

FLUSH = 50  # steps between looks at the loss: each look waits for the device
EVERY = 120.0  # seconds of work that an interruption may cost, if no epoch ends before

# When a student counts as failed. Those of the quickstart and STS-B had 0.8 to 1.1 times their labels' deviation, and
# agreed with them to .90 and more.
SAMPLE = 500  # pairs it is examined on, of those it was taught
FEWEST = 100  # fewer say nothing
FLAT = 0.05  # standard deviation of its scores over that of its labels
DISAGREES = 0.1  # Spearman with its labels


FEW_STEPS = 150  # a new head on MiniLM learns its labels' order in 100 to 200 steps, at 2e-5, 5e-5 and 1e-4 alike
LOW_RATE = 1e-3  # sum of a training's learning rates, about what Adam moves a weight by
HIGH_RATE = 3e-4  # of a whole encoder


class Failed(Exception):  # noqa: N818  # what the student has done
    """Training failed. The message says by which criterion and, where that is clear, why, with figures.

    Args:
        message: one line.
        cause: "few steps", "low rate", "high rate", "nan", or "chance", which alone another seed may mend.
    """

    def __init__(self, message: str, cause: str = "chance"):
        super().__init__(message)
        self.cause = cause


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


class Bookmark:
    """Where an unfinished lesson stands, as one file in a folder, under its sha256 as its name.

    Args:
        folder: which keeps files of this suffix until the lesson is done (`transenc.artifacts`).
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def write(self, state: dict[str, Any]) -> None:
        """Replace the file, in one step."""
        scratch = self.folder / "unfinished"
        torch.save(state, scratch)
        sync(scratch)
        path = self.folder / f"{file_digest(scratch)}{BOOKMARK}"
        scratch.rename(path)
        self.remove(path)

    def read(self) -> dict[str, Any] | None:
        """What was written last; None where nothing was, or it is damaged."""
        for path in sorted(self.folder.glob(f"*{BOOKMARK}"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
            if file_digest(path) == path.stem:
                return torch.load(path, weights_only=True, map_location="cpu")
        return None

    def remove(self, but: Path | None = None) -> None:
        for path in self.folder.glob(f"*{BOOKMARK}"):
            if path != but:
                path.unlink()


class Lesson(pl.Callback):
    """Records losses, stops at one that is no number, scores the student from time to time and keeps its best weights.

    Args:
        last: steps of the whole lesson.
        bookmark: written at each epoch's end and every `EVERY` seconds; None: never.
        selection: gives the student's selection score, higher being better, any number better than NaN; None keeps the
            last weights.
        eval_steps: steps between selection scores, which are also taken at each epoch's end; 0: only there.
        record: called with each row of the curve as it comes.
        progress: called after each step with the number of steps done, 1.
    """

    def __init__(
        self,
        last: int,
        bookmark: Bookmark | None,
        selection: Callable[[PairEncoder], float] | None,
        eval_steps: int,
        record: Callable[[dict[str, float]], Any],
        progress: Callable[[int], Any],
    ):
        self.last, self.bookmark, self.written, self.done = last, bookmark, time.monotonic(), 0
        self.selection, self.eval_steps, self.record, self.progress = selection, eval_steps, record, progress
        self.pending: list[tuple[int, torch.Tensor, float]] = []
        self.state: dict[str, Any] | None = None  # to go on from
        self.taught = Taught([], None, 0)
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.best_step = 0
        self.sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, student: pl.LightningModule) -> None:
        # Lightning's own, which is there by now, would have the ranks exchange something in the middle of a step.
        if self.sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.sigterm)

    def on_train_batch_start(
        self, trainer: pl.Trainer, student: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.state is not None:  # here, so that nothing can draw a random number between
            trainer.optimizers[0].load_state_dict(self.state["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.state["schedule"])
            cpu, cuda = self.state["random"][distributed.rank()]
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            self.state = None
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]  # after the step it is the next one's

    def on_train_batch_end(
        self, trainer: pl.Trainer, student: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self.done + trainer.global_step
        self.pending.append((step, outputs["loss"].detach(), self.rate))
        self.progress(1)
        if len(self.pending) >= FLUSH:
            self.flush()
        if trainer.is_last_batch:
            return
        if self.eval_steps and step % self.eval_steps == 0:
            self.select(step, student)
        if self.due(step):
            self.mark(trainer, step, student)

    def on_train_epoch_end(self, trainer: pl.Trainer, student: pl.LightningModule) -> None:
        step = self.done + trainer.global_step
        self.select(step, student)
        if step < self.last:
            self.mark(trainer, step, student)

    def due(self, step: int) -> bool:
        """By the clock of rank 0. Several ranks look at it only now and then, since they wait for one another."""
        if distributed.size() > 1 and step % FLUSH:
            return False
        return distributed.share(time.monotonic() - self.written >= EVERY)

    def mark(self, trainer: pl.Trainer, step: int, student: pl.LightningModule) -> None:
        if self.bookmark is None:
            return
        self.flush()
        random = distributed.gather(
            (torch.get_rng_state(), torch.cuda.get_rng_state() if student.device.type == "cuda" else None)
        )
        self.written = time.monotonic()
        if distributed.rank():
            return
        self.bookmark.write(
            {
                "step": step,
                "student": student.state_dict(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "random": random,
                "curve": self.taught.curve,
                "best": self.taught.best,
                "best step": self.best_step,
                "best weights": self.best_weights,
            }
        )

    def go_on(self, student: PairEncoder) -> None:
        """From where the bookmark is, if there is one."""
        self.state = None if self.bookmark is None else self.bookmark.read()
        steps = distributed.gather(self.state and self.state["step"])
        if len(set(steps)) > 1:
            raise InputError(f"paths.artifacts: the processes find different bookmarks there (steps {steps}); share it")
        if self.state is None:
            return
        student.load_state_dict(self.state["student"])
        self.done = self.state["step"]
        self.taught.best, self.best_step = self.state["best"], self.state["best step"]
        self.best_weights = self.state["best weights"]
        for row in self.state["curve"]:
            self._add(row)
        self.progress(self.done)
        log.info("goes on at step %d of %d", self.done, self.last)

    def forget(self) -> None:
        """The lesson is over."""
        if self.bookmark is not None and not distributed.rank():
            self.bookmark.remove()

    def flush(self) -> None:
        if not self.pending:
            return
        losses = distributed.mean(torch.stack([loss for _, loss, _ in self.pending])).tolist()
        for (step, _, rate), value in zip(self.pending, losses, strict=True):
            if not math.isfinite(value):
                raise Failed(f"the loss is {value} at step {step}, learning rate {rate:.2g}", "nan")
            self._add({"step": step, "loss": value, "learning_rate": rate})
        self.pending.clear()

    def select(self, step: int, student: Any) -> None:
        self.flush()
        self.taught.step = step
        if self.selection is None:
            return
        score = self.selection(student)
        self._add({"step": step, "selection": score})
        if self.taught.best is None or math.isnan(self.taught.best) or score > self.taught.best:
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
    bookmark: Bookmark | None = None,
    record: Callable[[dict[str, float]], Any] = lambda row: None,
    progress: Callable[[int], Any] = lambda count: None,
) -> Taught:
    """Train `student` on labelled pairs, in place; it ends with its best weights by `selection`, or its last.

    Interrupted and called again with the same arguments it goes on from its bookmark, and ends in the same bytes.

    Args:
        student: with `learning` set.
        lessons: the labelled pairs.
        epochs: passes over them.
        clip: gradients are scaled down to this norm; 0: never.
        accelerator, precision: Lightning's.
        seed: of dropout.
        selection, eval_steps, bookmark, record, progress: see `Lesson`.

    Raises:
        Failed: the loss is not finite.
        InputError: the GPU's memory does not hold a batch.
    """
    student.steps = epochs * lessons.batches
    lesson = Lesson(student.steps, bookmark, selection, eval_steps, record, progress)
    # Dropout: the same whatever ran before in this process, and another in each rank.
    torch.manual_seed(seed + 1_000_003 * distributed.rank())
    student.train()  # Lightning leaves the mode as it finds it, and a model comes from its folder in eval mode
    with warnings.catch_warnings(), student.used_rows(lessons.pairs):
        warnings.simplefilter("ignore")  # advice on data workers and logging intervals, which are chosen here
        lesson.go_on(student)
        lessons.done = lesson.done
        trainer = pl.Trainer(
            max_epochs=epochs - lesson.done // lessons.batches,
            reload_dataloaders_every_n_epochs=1,  # an interrupted run's first epoch is shorter than the others
            gradient_clip_val=clip or None,
            accelerator=accelerator,
            **_processes(),
            precision=precision,  # type: ignore[arg-type]
            callbacks=[lesson],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # It asks all ranks at each step whether one got SIGTERM, and waits for the device. Here that ends a process.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        try:
            trainer.fit(student, datamodule=lessons)
        except torch.OutOfMemoryError:
            raise InputError(
                f"a batch of {lessons.batch_size} pairs does not fit into the GPU's memory at step"
                f" {lesson.done + trainer.global_step}; lower distill.{student.kind}.batch_size, or"
                f" model.{student.kind}_max_tokens, now {student.max_tokens}"
            ) from None
        except Failed:  # going on would end there again
            lesson.forget()
            raise
        lesson.finish(student)
    lesson.forget()
    student.eval()
    return lesson.taught


def _processes() -> dict[str, Any]:
    """How Lightning is to train in the processes there are."""
    if distributed.size() == 1:
        return {"devices": 1}
    from pytorch_lightning.plugins.environments import TorchElasticEnvironment
    from pytorch_lightning.strategies import DDPStrategy

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": here,
        "num_nodes": distributed.size() // here,
        "plugins": [TorchElasticEnvironment()],
        # The one large buffer is the table of word embeddings, which no step changes.
        "strategy": DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True),
        "use_distributed_sampler": False,
    }


def examine(scores: np.ndarray, labels: np.ndarray, steps: int, learning_rate: float) -> None:
    """Tell a student that collapsed, or learnt nothing of its teacher, and why.

    Args:
        scores, labels: [N] of pairs it was taught; where they are fewer than `FEWEST`, they need only be numbers.
        steps: of its training.
        learning_rate: at its highest.

    Raises:
        Failed: its scores are no numbers, all but constant beside their labels, or in another order altogether.
    """
    if not np.isfinite(scores).all():
        raise Failed("its scores are no numbers", "nan")
    if len(scores) < FEWEST:
        return
    spread, wanted, agreement = float(scores.std()), float(labels.std()), spearman(scores, labels)
    on = f"on {len(scores)} of the pairs it was taught"
    if spread < FLAT * wanted:
        least = f"below {FLAT:g} of its labels' {wanted:.3g}"
        found = f"it collapsed: the standard deviation of its scores is {spread:.3g} {on}, {least}"
    elif agreement < DISAGREES:
        found = f"it learnt nothing: Spearman with its labels is {agreement:.2f} {on}, below {DISAGREES:g}"
    else:
        return
    if steps < FEW_STEPS:
        raise Failed(f"{found}; it had {steps} steps, and takes {FEW_STEPS} or more", "few steps")
    if learning_rate * steps / 2 < LOW_RATE:
        raise Failed(f"{found}; the learning rate of {learning_rate:g} is too low for {steps} steps", "low rate")
    if learning_rate > HIGH_RATE:
        raise Failed(f"{found}; the learning rate of {learning_rate:g} is high for an encoder", "high rate")
    raise Failed(found)
