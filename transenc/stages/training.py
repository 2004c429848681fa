"""The stages of a turn of the loop:

label  -> labels.npy: the teachers' scores, averaged, in [0, 1]
train  -> a model folder, and its learning curve
score_held_out -> scores.npy: of each pair by the one of several cross-fitted encoders that did not learn from it
"""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from transenc import distributed
from transenc.artifacts import Artifact, stage
from transenc.data.tokens import TokenisedPairs
from transenc.errors import InputError
from transenc.metrics import bootstrap, main_metric, spearman
from transenc.progress import Progress
from transenc.stages.models import loaded, model_facts, similarities
from transenc.stages.pairs import Config, Facts, label_statistics

if TYPE_CHECKING:
    from transenc.encoders import PairEncoder

log = logging.getLogger("transenc")

RESAMPLES = 200  # enough for a standard error (Efron and Tibshirani 1993, section 6.4)
MIN_HELD_OUT = 10  # pairs, for a standard error
ADAPTER = "adapter"  # folder in a student's


@stage(version=2)
def label(out: Path, config: Config, progress: Progress, *scored: Artifact) -> Facts:
    """The teachers' scores, averaged, and clamped to [0, 1], where both losses are defined."""
    scores = average(np.vstack([np.load(artifact / "scores.npy") for artifact in scored]), config["average"])
    clamped = float(np.mean((scores < 0) | (scores > 1)))
    labels = np.clip(scores, 0, 1).astype(np.float32)
    np.save(out / "labels.npy", labels)
    low, middle, high = np.quantile(labels, (0.1, 0.5, 0.9)).tolist()
    summary = f"10/50/90% {low:.2f} {middle:.2f} {high:.2f}, clamped {clamped:.1%}"
    return {"clamped": clamped, **label_statistics(labels), "summary": summary}


def average(scores: np.ndarray, how: str) -> np.ndarray:
    """The scores of several teachers as one.

    Args:
        scores: [M, N], a row for each teacher.
        how: "mean"; "z", the mean of the standardised rows, scaled back to the rows' average mean and standard
            deviation; or "rank", the pairs in the order of their mean rank, with the values of the plain mean in that
            order. For a single teacher all three are the same.

    Returns:
        [N] float64.
    """
    scores = scores.astype(np.float64)
    mean = scores.mean(axis=0)
    if len(scores) == 1 or how == "mean":
        return mean
    if how == "z":
        means, stds = scores.mean(axis=1, keepdims=True), scores.std(axis=1, keepdims=True)
        # A constant teacher carries no order; rounding leaves it a standard deviation of not quite 0.
        standardised = np.where(stds > 1e-9, (scores - means) / np.maximum(stds, 1e-9), 0)
        return means.mean() + stds.mean() * standardised.mean(axis=0)
    from scipy.stats import rankdata

    mean_rank = rankdata(rankdata(scores, axis=1).mean(axis=0))  # 1 to N; ties share their average rank
    return np.interp(mean_rank, np.arange(1, len(mean) + 1), np.sort(mean))


def folds_of(pairs: int, folds: int, seed: int) -> list[np.ndarray]:
    """The rows of a pool in random order and `folds` parts of equal size; the same in every iteration."""
    return np.array_split(np.random.default_rng(seed).permutation(pairs), folds)


@dataclass(frozen=True)
class Selection:
    """What a student's checkpoints are compared by: its metric on N pairs.

    Attributes:
        pairs: the development pairs, or held-out pairs of the pool.
        truth: [N] gold scores, or the teacher's labels.
        binary: whether these are 0 or 1.
        config: how to score.
    """

    pairs: TokenisedPairs
    truth: np.ndarray
    binary: bool
    config: Config

    def __call__(self, encoder: "PairEncoder") -> float:
        return main_metric(similarities(encoder, self.pairs, self.config), self.truth, self.binary)


def interpolated(
    initial: Mapping[str, torch.Tensor], trained: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """WiSE-FT (Wortsman et al. 2022, arXiv 2109.01903, equation 1): between initial and trained weights, `share` of the
    way.
    """
    return {
        name: torch.lerp(initial[name], weight, share) if weight.is_floating_point() else weight
        for name, weight in trained.items()
    }


def improves(before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> bool:
    """The one-standard-error rule (Breiman et al. 1984): whether scores agree better with labels than others do by more
    than the standard error of the difference, from a paired bootstrap.

    Args:
        before, after: [N] scores of the same pairs. Fewer than `MIN_HELD_OUT` tell nothing: their resamples are often
            alike.
        labels: [N], by Spearman.
    """
    if len(labels) < MIN_HELD_OUT:
        return False
    values = bootstrap([before, after], labels, False, RESAMPLES)
    gain = spearman(after, labels) - spearman(before, labels)
    return bool(gain > np.nanstd(values[:, 1] - values[:, 0]))


def interpolate_by_agreement(
    encoder: "PairEncoder",
    initial: Mapping[str, torch.Tensor],
    before: np.ndarray,
    shares: Sequence[float],
    selection: Selection,
    initial_labels: np.ndarray,
) -> float:
    """Move an encoder from its initial weights towards its trained ones.

    The first step must agree better with its own labels by more than a standard error (`improves`), each further one
    better than the step before. None may agree less with the initial bi-encoder's labels than the initial weights do:
    these labels do not repeat the cross-encoder's mistakes.

    Args:
        encoder: with its trained weights; it ends with those of the last step that improved.
        initial: its weights before training.
        before: [N] its similarities with these.
        shares: of trained weights in each step, ascending.
        selection: the pairs, and the labels to agree with.
        initial_labels: [N], the initial bi-encoder's of the same pairs; the same as in `selection` where it has none.

    Returns:
        The share reached; 0: the initial weights are kept.
    """
    trained = {name: weight.clone() for name, weight in encoder.trained_state().items()}
    reached, weights, agreement = 0.0, initial, -1.0
    lowest = spearman(before, initial_labels)
    for share in shares:
        step = interpolated(initial, trained, share)
        encoder.load_state_dict(step, strict=False)
        scores = similarities(encoder, selection.pairs, selection.config)
        value = spearman(scores, selection.truth)
        better = value > agreement if reached else improves(before, scores, selection.truth)
        if not better or spearman(scores, initial_labels) < lowest:
            break
        reached, weights, agreement = share, step, value
    encoder.load_state_dict(weights, strict=False)
    return reached


@stage(version=12, ignore=("batch_tokens",))
@distributed.collective
def train(
    out: Path,
    config: Config,
    progress: Progress,
    student: Artifact,
    tokens: Artifact,
    labels: Artifact,
    *more: Artifact,
) -> Facts:
    """A student trained on the labels. It keeps its best checkpoint by the selection that `config` names, or its last.
    What was trained already is interpolated with its weights from before (`interpolated`); by agreement, only as far as
    that improves it (`interpolate_by_agreement`). With a `fold`, it learns from the other folds only.

    `more` are the development pairs, if they select, or the initial bi-encoder's labels, if these judge a student too.

    Of a failed training only the curve is kept, and the facts `failed`, the reason, and `cause`. What was trained with
    LoRA is kept twice: as a model, and as its adapter (in `ADAPTER`).
    """
    from transenc.checkpoint import Checkpoint
    from transenc.data.module import PairDataModule
    from transenc.encoders import OptimizerConfig
    from transenc.training import MAX_EXAMINED_PAIRS, TrainingFailed, check_collapse
    from transenc.training import train as train_student

    settings, seed = config["training"], config["seed"]
    encoder = loaded(student, config, change=True)
    encoder.optimizer_config = OptimizerConfig(
        settings["loss"], settings["learning_rate"], settings["warmup"], settings["weight_decay"]
    )
    if settings["lora_rank"]:
        torch.manual_seed(seed)
        encoder.add_lora(settings["lora_rank"])
    if settings["micro_batch_size"] is not None:
        encoder.part_size = settings["micro_batch_size"] * encoder.sequences_per_pair
    if settings["gradient_checkpointing"]:
        encoder.checkpoint_layers()
    pairs, targets = TokenisedPairs.load(tokens.path), np.load(labels / "labels.npy")
    selection: Selection | None = None
    if config["select"] == "dev":
        dev_pairs = TokenisedPairs.load(more[0].path)
        assert dev_pairs.gold is not None
        selection = Selection(dev_pairs, dev_pairs.gold, more[0].facts["binary"], config)
    # The same pairs are held out in every iteration, since iterations are compared by them.
    by_agreement = config["select"] == "agreement"
    count = max(2, int(config["holdout"] * len(pairs))) if by_agreement else 0
    if "fold" in config:
        left_out = folds_of(len(pairs), config["folds"], config["split_seed"])[config["fold"]]
    else:
        left_out = folds_of(len(pairs), 1, config["split_seed"])[0][:count]
    held_out, kept = np.sort(left_out[:count]), np.setdiff1d(np.arange(len(pairs)), left_out)
    if by_agreement:
        selection = Selection(pairs.select(held_out), targets[held_out], False, config)
    if not len(kept):
        remedy = "set distill.folds=1" if "fold" in config else "lower distill.holdout"
        raise InputError(f"data.path: too few pairs to hold some out ({len(pairs)}); add pairs, or {remedy}")
    if len(kept) < len(pairs):
        pairs, targets = pairs.select(kept), targets[kept]

    datamodule = PairDataModule(
        pairs,
        targets,
        encoder.collate,
        batch_size=settings["batch_size"],
        both_orders=settings["both_orders"],
        seed=seed,
        min_batches=math.ceil(settings["min_steps"] / settings["epochs"]),
        part=(distributed.rank(), distributed.size()),
    )
    steps = settings["epochs"] * datamodule.batches
    if datamodule.passes > 1:
        passes = f"{len(pairs):,} pairs are few; an epoch passes over them {datamodule.passes} times"
        log.info("%s: %s, so that there are %d steps or more", progress.place, passes, settings["min_steps"])
    curve: list[dict[str, float]] = []

    def record(row: dict[str, float]) -> None:
        curve.append(row)
        progress.row(row)

    def finished(facts: Facts) -> Facts:
        if distributed.rank():
            return {}
        (out / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8")
        return {"kind": encoder.kind, **facts}

    encoder.to(config["accelerator"])
    initial, before = {}, None  # its weights, and its similarities
    if config["trained_already"]:
        initial = {name: weight.clone() for name, weight in encoder.trained_state().items()}
    if selection is not None and by_agreement and config["trained_already"]:
        before = similarities(encoder, selection.pairs, config)
        record({"step": 0, "selection": main_metric(before, selection.truth, False)})

    with progress.bar("train", steps, "step") as bar:
        try:
            result = train_student(
                encoder,
                datamodule,
                epochs=settings["epochs"],
                clip=settings["clip"],
                accelerator=config["accelerator"],
                precision=config["precision"],
                seed=seed,
                selection=selection,
                eval_steps=settings["eval_steps"],
                checkpoint=Checkpoint(out),
                record=record,
                progress=bar.update,
            )
            encoder.to(config["accelerator"])
            share = config["interpolate"]
            if before is not None and selection is not None:
                initial_labels = np.load((more or [labels])[0] / "labels.npy")[held_out]
                shares = sorted({share, 1.0})
                share = interpolate_by_agreement(encoder, initial, before, shares, selection, initial_labels)
                result.step = result.step if share else 0
            elif share < 1:
                encoder.load_state_dict(interpolated(initial, encoder.trained_state(), share), strict=False)
            if "centre" in config:
                encoder.centre(pairs, config["batch_tokens"])
            if selection is not None and (share < 1 or "centre" in config):
                result.best = selection(encoder)  # iterations are compared as they are handed on
            if config["examine"]:
                rows = np.unique(np.linspace(0, len(pairs) - 1, MAX_EXAMINED_PAIRS).astype(int))
                raw = similarities(encoder, pairs.select(rows), config)
                scores = encoder.to_score(torch.from_numpy(raw)).numpy()
                check_collapse(scores, targets[rows], steps, settings["learning_rate"])
        except TrainingFailed as failure:
            return finished({"failed": str(failure), "cause": failure.cause, "summary": f"failed: {failure}"})
    if distributed.rank():
        return {}
    if settings["lora_rank"]:
        encoder.save_adapter(out / ADAPTER)
        encoder.merge_lora()
    encoder.save(out)
    losses = [row["loss"] for row in curve if "loss" in row]
    repeated = f" in {settings['epochs'] * datamodule.passes} passes" if datamodule.passes > 1 else ""
    summary = f"{len(losses):,} steps{repeated}, loss {np.mean(losses[-20:]):.4f}"
    if result.best is not None:
        summary += f", {config['select']} {100 * result.best:.2f} at {result.step:,}"
    if 0 < share < 1:
        summary += f", {share:g} of the way"
    facts = {"select": config["select"], "selection": result.best, "step": result.step, "summary": summary}
    return finished({**model_facts(out, encoder), **facts, "centred": "centre" in config})


@stage(version=1, ignore=("batch_tokens", "accelerator"))
@distributed.collective
def score_held_out(out: Path, config: Config, progress: Progress, tokens: Artifact, *models: Artifact) -> Facts:
    """The pool's scores by cross-fitting: each fold is scored by the encoder that did not learn from it."""
    pairs = TokenisedPairs.load(tokens.path)
    scores = np.empty(len(pairs), dtype=np.float32)
    folds = folds_of(len(pairs), len(models), config["split_seed"])
    with progress.bar("score", len(pairs), "pair") as bar:
        for rows, model in zip(folds, models, strict=True):
            encoder = loaded(model, config)
            raw = similarities(encoder, pairs.select(np.sort(rows)), config)
            scores[np.sort(rows)] = encoder.to_score(torch.from_numpy(raw)).numpy()
            bar.update(len(rows))
    if distributed.rank():
        return {}
    np.save(out / "scores.npy", scores)
    return {"pairs": len(pairs), "summary": f"{len(pairs):,} pairs, each by an encoder that did not learn from it"}
