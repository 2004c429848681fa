"""Training one student on one teacher's labels: Lightning's loop, with selection and checkpoints.

Lightning's own checkpoints would not do. They hold no random state, so dropout would differ after them, and in the
middle of an epoch they skip as many batches as were done, but not the same ones.
"""

import gc
import logging
import math
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

from transenc import distributed
from transenc.checkpoint import INTERVAL_SECONDS, Checkpoint
from transenc.data.module import PairDataModule
from transenc.encoders import PairEncoder
from transenc.encoders.cuda_graphs import in_family
from transenc.encoders.cuda_kernels import reproducible
from transenc.encoders.used_rows import train_used_rows
from transenc.errors import InputError, in_context
from transenc.metrics import spearman

log = logging.getLogger("transenc")

FLUSH_STEPS = 50  # steps between reads of the loss, since each read waits for the device

# When a training counts as failed. Students of the quickstart and of STS-B had 0.8 to 1.1 times the standard deviation
# of their labels, and Spearman of 0.90 and more with them.
MIN_EXAMINED_PAIRS = 100  # fewer do not show a collapse
MIN_STD_RATIO = 0.05  # standard deviation of the scores over that of the labels
MIN_SPEARMAN = 0.1  # of scores and labels

# Why it failed.
MIN_STEPS = 150  # a new head on MiniLM learns the order of its labels in 100 to 200 steps, at 2e-5, 5e-5 and 1e-4 alike
MIN_LEARNING_RATE_SUM = 1e-3  # over all steps: about how far Adam moves a weight
MAX_LEARNING_RATE = 3e-4  # for fine-tuning a whole encoder


class TrainingFailed(Exception):  # noqa: N818  # an event, which the loop may handle
    """Training failed. The message says by which criterion, with figures, and the cause where it is clear.

    Args:
        message: one line.
        cause: "few steps", "low rate", "high rate", "nan", or "chance". Only "chance" may go away with another seed.
    """

    def __init__(self, message: str, cause: str = "chance"):
        super().__init__(message)
        self.cause = cause


@dataclass
class TrainingResult:
    """What a training gives.

    Attributes:
        curve: one row per record: {"step": int, and any of "loss", "learning_rate", "selection"}.
        best: selection score of the weights that were kept; None without selection.
        step: the step of these weights.
    """

    curve: list[dict[str, float]]
    best: float | None
    step: int


class TrainingCallback(pl.Callback):
    """Records losses, stops at NaN, evaluates the student from time to time and keeps its best weights.

    Args:
        last: steps of the whole training.
        checkpoint: written at the end of each epoch but the last, and every `INTERVAL_SECONDS`; None: never.
        selection: computes the student's selection score, higher is better, and any number is better than NaN. None
            keeps the last weights.
        eval_steps: steps between selection scores, which are also computed at the end of each epoch; 0: only there.
        record: called with each row of the curve.
        progress: called after each step with the number of steps done, 1.
    """

    def __init__(
        self,
        last: int,
        checkpoint: Checkpoint | None,
        selection: Callable[[PairEncoder], float] | None,
        eval_steps: int,
        record: Callable[[dict[str, float]], Any],
        progress: Callable[[int], Any],
    ):
        self.last, self.checkpoint, self.selection, self.eval_steps = last, checkpoint, selection, eval_steps
        self.record, self.progress = record, progress
        self.result = TrainingResult([], None, 0)
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.best_step = 0
        self.pending: list[tuple[int, torch.Tensor, float]] = []  # step, loss and learning rate, not yet recorded
        self.resumed: dict[str, Any] | None = None  # the checkpoint, until the first batch has restored it
        self.steps_done = 0  # by the interrupted training
        self.checkpoint_time = time.monotonic()
        self.sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: pl.Trainer, student: pl.LightningModule) -> None:
        # Lightning has put its own handler there, which would have the ranks communicate in the middle of a step.
        if self.sigterm is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self.sigterm)

    def on_train_batch_start(
        self, trainer: pl.Trainer, student: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.resumed is not None:  # here, so that nothing draws a random number in between
            trainer.optimizers[0].load_state_dict(self.resumed["optimizer"])
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(self.resumed["schedule"])
            cpu, cuda = self.resumed["random"][distributed.rank()]
            torch.set_rng_state(cpu)
            if cuda is not None:
                torch.cuda.set_rng_state(cuda)
            self.resumed = None
        self.learning_rate = trainer.optimizers[0].param_groups[0]["lr"]  # after the step it is the next one's

    def on_train_batch_end(
        self, trainer: pl.Trainer, student: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = self.steps_done + trainer.global_step
        self.pending.append((step, outputs["loss"].detach(), self.learning_rate))
        self.progress(1)
        if len(self.pending) >= FLUSH_STEPS:
            self.flush()
        if trainer.is_last_batch:
            return
        if self.eval_steps and step % self.eval_steps == 0:
            self.evaluate(step, student)
        if self.checkpoint_due(step):
            self.write_checkpoint(trainer, step, student)

    def on_train_epoch_end(self, trainer: pl.Trainer, student: pl.LightningModule) -> None:
        step = self.steps_done + trainer.global_step
        self.evaluate(step, student)
        if step < self.last:
            self.write_checkpoint(trainer, step, student)

    def checkpoint_due(self, step: int) -> bool:
        """By the clock of rank 0. Several ranks ask it only every `FLUSH_STEPS`, since they wait for one another."""
        if distributed.size() > 1 and step % FLUSH_STEPS:
            return False
        return distributed.broadcast(time.monotonic() - self.checkpoint_time >= INTERVAL_SECONDS)

    def write_checkpoint(self, trainer: pl.Trainer, step: int, student: Any) -> None:
        if self.checkpoint is None:
            return
        self.flush()
        cuda = torch.cuda.get_rng_state() if student.device.type == "cuda" else None
        random = distributed.gather((torch.get_rng_state(), cuda))
        self.checkpoint_time = time.monotonic()
        if distributed.rank():
            return
        self.checkpoint.write(
            {
                "step": step,
                "student": student.trained_state(),
                "optimizer": trainer.optimizers[0].state_dict(),
                "schedule": trainer.lr_scheduler_configs[0].scheduler.state_dict(),
                "random": random,
                "curve": self.result.curve,
                "best": self.result.best,
                "best step": self.best_step,
                "best weights": self.best_weights,
            }
        )

    def resume(self, student: PairEncoder) -> None:
        """Go on from the checkpoint, if there is one."""
        self.resumed = None if self.checkpoint is None else self.checkpoint.read()
        steps = distributed.gather(self.resumed and self.resumed["step"])
        if len(set(steps)) > 1:
            raise InputError(
                f"paths.artifacts: the processes find different checkpoints there (steps {steps}); give a folder that"
                " they share"
            )
        if self.resumed is None:
            return
        student.load_state_dict(self.resumed["student"], strict=False)  # of LoRA it is not all
        self.steps_done = self.resumed["step"]
        self.result.best, self.best_step = self.resumed["best"], self.resumed["best step"]
        self.best_weights = self.resumed["best weights"]
        for row in self.resumed["curve"]:
            self._add(row)
        self.progress(self.steps_done)
        log.info("resumed at step %d of %d", self.steps_done, self.last)

    def flush(self) -> None:
        """Record the pending losses.

        Raises:
            TrainingFailed: one of them is NaN or infinite.
        """
        if not self.pending:
            return
        losses = distributed.mean(torch.stack([loss for _, loss, _ in self.pending])).tolist()
        for (step, _, learning_rate), loss in zip(self.pending, losses, strict=True):
            if not math.isfinite(loss):
                raise TrainingFailed(f"the loss is {loss} at step {step}, learning rate {learning_rate:.2g}", "nan")
            self._add({"step": step, "loss": loss, "learning_rate": learning_rate})
        self.pending.clear()

    def evaluate(self, step: int, student: Any) -> None:
        """Compute the selection score, and keep the weights if it is the best so far."""
        self.flush()
        self.result.step = step
        if self.selection is None:
            return
        score = self.selection(student)
        self._add({"step": step, "selection": score})
        if self.result.best is None or math.isnan(self.result.best) or score > self.result.best:
            self.result.best, self.best_step = score, step
            self.best_weights = {name: weight.detach().clone() for name, weight in student.trained_state().items()}

    def _add(self, row: dict[str, float]) -> None:
        self.result.curve.append(row)
        self.record(row)

    def restore_best(self, student: PairEncoder) -> None:
        """Put the best weights back into the student."""
        if self.best_weights is not None:
            student.load_state_dict(self.best_weights, strict=False)
            self.result.step = self.best_step


def train(
    student: PairEncoder,
    datamodule: PairDataModule,
    *,
    epochs: int,
    clip: float,
    accelerator: str,
    precision: str,
    seed: int,
    selection: Callable[[PairEncoder], float] | None,
    eval_steps: int,
    checkpoint: Checkpoint | None = None,
    record: Callable[[dict[str, float]], Any] = lambda row: None,
    progress: Callable[[int], Any] = lambda count: None,
) -> TrainingResult:
    """Train `student` on labelled pairs, in place. It ends with its best weights by `selection`, or its last.

    Interrupted and called again with the same arguments, it resumes from its checkpoint and ends with the same bits.
    The checkpoint is the caller's to remove.

    Args:
        student: with `optimizer_config` set.
        datamodule: the labelled pairs.
        epochs: passes over them.
        clip: maximum norm of the gradients; 0: no clipping.
        accelerator, precision: Lightning's.
        seed: of dropout.
        selection, eval_steps, checkpoint, record, progress: see `TrainingCallback`.

    Raises:
        TrainingFailed: the loss is NaN or infinite.
        InputError: a batch does not fit into the GPU's memory.
    """
    student.steps = epochs * datamodule.batches
    callback = TrainingCallback(student.steps, checkpoint, selection, eval_steps, record, progress)
    # Dropout: the same whatever ran before in this process, and different in each rank.
    torch.manual_seed(seed + 1_000_003 * distributed.rank())
    strict = in_family(student.backbone)
    student.train()  # Lightning leaves the mode as it is, and a model is loaded in eval mode
    with warnings.catch_warnings(), reproducible(accelerator, strict), train_used_rows(student, datamodule.pairs):
        warnings.simplefilter("ignore")  # advice on data workers and logging intervals, which are chosen here
        callback.resume(student)
        datamodule.done = callback.steps_done
        trainer = pl.Trainer(
            max_epochs=epochs - callback.steps_done // datamodule.batches,
            reload_dataloaders_every_n_epochs=1,  # the first epoch of a resumed training is shorter than the others
            gradient_clip_val=clip or None,
            accelerator=accelerator,
            **_processes(),
            precision=precision,  # type: ignore[arg-type]
            callbacks=[callback],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        sigint = signal.getsignal(signal.SIGINT)
        # At each step it asks all ranks whether one got SIGTERM, and waits for the device. Here SIGTERM ends a process.
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        try:
            trainer.fit(student, datamodule=datamodule)
        except TrainingFailed as failure:
            raise failure.with_traceback(None)  # noqa: B904  # its frames would keep the trainer, see below
        except torch.OutOfMemoryError:
            held = math.ceil(datamodule.batch_size / distributed.size())  # pairs at once
            if student.micro_batch is not None:
                held = min(held, student.micro_batch // student.sequences_per_pair)
            fewer = f"set distill.{student.kind}.micro_batch_size below {held}, which changes no gradient, or "
            step, tokens = callback.steps_done + trainer.global_step, f"model.{student.kind}_max_tokens"
            raise InputError(
                f"a batch of {held} does not fit into the GPU's memory at step {step}; {fewer if held > 1 else ''}lower"
                f" {tokens}, now {student.max_tokens}"
            ) from None
        except BaseException as error:
            if stopped := in_context(error, KeyboardInterrupt):  # Lightning makes a SystemExit of it
                raise stopped from None
            raise
        finally:
            if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and sigint not in (None, signal.SIG_IGN):
                signal.signal(signal.SIGINT, sigint)  # Lightning ignores a second one, at times for good
            # The trainer refers to itself: until it is collected it keeps the optimiser's state and the student.
            trainer = student.trainer = datamodule.trainer = student.graphed = None
            gc.collect()
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()  # the graphs' memory
        callback.restore_best(student)
    student.eval()
    return callback.result


def _processes() -> dict[str, Any]:
    """Lightning's settings for the processes of this run."""
    from pytorch_lightning.plugins.environments import LightningEnvironment, TorchElasticEnvironment

    if distributed.size() == 1:  # also inside a Slurm job, where Lightning would ask for all of its tasks
        return {"devices": 1, "plugins": [LightningEnvironment()]}
    from pytorch_lightning.strategies import DDPStrategy

    local_size = int(os.environ["LOCAL_WORLD_SIZE"])
    return {
        "devices": local_size,
        "num_nodes": distributed.size() // local_size,
        "plugins": [TorchElasticEnvironment()],
        # The one large buffer is the table of word embeddings, which no step changes.
        "strategy": DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True),
        "use_distributed_sampler": False,
    }


def check_collapse(scores: np.ndarray, labels: np.ndarray, steps: int, learning_rate: float) -> None:
    """Raise if a student collapsed or did not learn its labels.

    Args:
        scores, labels: [N] of pairs it was trained on. Of fewer than `MIN_EXAMINED_PAIRS` only NaN is looked for.
        steps: of its training.
        learning_rate: the highest.

    Raises:
        TrainingFailed: scores are NaN or infinite, nearly constant beside the labels, or uncorrelated with them.
    """
    if not np.isfinite(scores).all():
        raise TrainingFailed("its scores are NaN or infinite", "nan")
    if len(scores) < MIN_EXAMINED_PAIRS:
        return
    std, label_std, correlation = float(scores.std()), float(labels.std()), spearman(scores, labels)
    where = f"on {len(scores)} of its training pairs"
    if std < MIN_STD_RATIO * label_std:
        bound = f"below {MIN_STD_RATIO:g} of its labels' {label_std:.3g}"
        symptom = f"it collapsed: the standard deviation of its scores is {std:.3g} {where}, {bound}"
    elif not correlation >= MIN_SPEARMAN:  # undefined where the labels are constant
        symptom = f"it learnt nothing: Spearman with its labels is {correlation:.2f} {where}, below {MIN_SPEARMAN:g}"
    else:
        return
    if steps < MIN_STEPS:
        raise TrainingFailed(f"{symptom}; it had {steps} steps, and needs {MIN_STEPS} or more", "few steps")
    if learning_rate * steps / 2 < MIN_LEARNING_RATE_SUM:
        raise TrainingFailed(
            f"{symptom}; the learning rate of {learning_rate:g} is too low for {steps} steps", "low rate"
        )
    if learning_rate > MAX_LEARNING_RATE:
        raise TrainingFailed(f"{symptom}; the learning rate of {learning_rate:g} is high for an encoder", "high rate")
    raise TrainingFailed(symptom)
