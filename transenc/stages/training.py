"""The stages of training: `train`, a student on the teachers' labels, and `soup`, the mean of cross-fitted students."""

import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from transenc import distributed
from transenc.artifacts import Artifact, stage
from transenc.data.tokens import TokenisedPairs
from transenc.errors import InputError
from transenc.metrics import main_metric, ranked, spearman
from transenc.progress import Progress
from transenc.results import percent
from transenc.stages.interpolation import InitialState, SelectionMetric, interpolate, interpolated
from transenc.stages.labels import folds_of, held_out_count
from transenc.stages.models import loaded, model_facts, similarities
from transenc.stages.pairs import Config, Facts

if TYPE_CHECKING:
    from transenc.checkpoint import Checkpoint
    from transenc.data.module import PairDataModule
    from transenc.encoders import PairEncoder
    from transenc.training import TrainingResult

log = logging.getLogger("transenc")

MAX_EXAMINED_PAIRS = 500  # enough to tell a collapse, or weights that do not average
ADAPTER_FOLDER = "adapter"  # folder in a student's
CURVE = "curve.jsonl"  # file in a student's folder, a row of its learning curve a line


def pairs_without_repeat(min_steps: int, epochs: int, batch_size: int, both_orders: bool) -> int:
    """How many pairs an epoch needs for its share of `min_steps`, so that it passes over none of them twice."""
    return math.ceil(math.ceil(min_steps / epochs) * batch_size / (2 if both_orders else 1))


def prepare(student: Artifact, config: Config) -> "PairEncoder":
    """The student, loaded and set up to be trained."""
    from transenc.encoders import OptimizerConfig

    settings, encoder = config["training"], loaded(student, config, change=True)
    encoder.optimizer_config = OptimizerConfig(
        settings["loss"], settings["learning_rate"], settings["warmup"], settings["weight_decay"]
    )
    if settings["lora_rank"]:
        torch.manual_seed(config["seed"])
        encoder.add_lora(settings["lora_rank"])
    if settings["micro_batch_size"] is not None:
        encoder.micro_batch = settings["micro_batch_size"] * encoder.sequences_per_pair
    encoder.cuda_graphs = config.get("cuda_graphs", False)
    if settings["gradient_checkpointing"]:
        encoder.checkpoint_layers()
    return encoder.to(config["accelerator"])


def split(pool: TokenisedPairs, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are held out for selection by agreement, and those to learn from: of the pool, less the `fold` if
    there is one. Held-out rows are the same in every iteration, since iterations are compared by them. A crop is learnt
    from where its pair is; none is held out.

    Raises:
        InputError: no pair is left to learn from.
    """
    originals = pool.originals
    held = held_out_count(originals, config["holdout"]) if config["select"] == "agreement" else 0
    if "fold" in config:
        left_out = folds_of(originals, config["folds"], config["split_seed"])[config["fold"]]
    else:
        left_out = folds_of(originals, 1, config["split_seed"])[0][:held]
    kept = np.setdiff1d(np.arange(len(pool)), pool.with_crops(left_out))
    if not len(kept) or ("fold" in config and not len(left_out)):
        raise InputError(
            f"{originals} pairs are too few to hold some out or to make folds; add pairs, or lower distill.folds"
        )
    return np.sort(left_out[:held]), kept


def selection_metric(
    pool: TokenisedPairs, labels: np.ndarray, held_out: np.ndarray, config: Config, more: Sequence[Artifact]
) -> SelectionMetric | None:
    """What the weights of a training are selected by; None if the last ones are kept.

    Args:
        pool, labels: N pairs and their [N] labels.
        held_out: numbers of the pairs that are held out.
        config: of the stage.
        more: begins with the development pairs if they select.
    """
    if config["select"] == "agreement":
        return SelectionMetric(pool.select(held_out), labels[held_out], False, config)
    if config["select"] == "dev":
        dev = TokenisedPairs.load(more[0].path)
        assert dev.gold is not None
        return SelectionMetric(dev, dev.gold, more[0].facts["binary"], config)
    return None


def examined_rows(count: int) -> np.ndarray:
    """The rows of so many pairs by which a trained encoder is judged: all, or some at equal distances."""
    return np.unique(np.linspace(0, count - 1, MAX_EXAMINED_PAIRS).astype(int))


def check_student(
    encoder: "PairEncoder", pairs: TokenisedPairs, labels: np.ndarray, steps: int, config: Config
) -> None:
    """Check a trained student on some of its N training pairs, see `transenc.training.check_collapse`.

    Raises:
        TrainingFailed: it collapsed, or did not learn its [N] labels.
    """
    from transenc.training import check_collapse

    rows = examined_rows(len(pairs))
    raw = similarities(encoder, pairs.select(rows), config)
    scores = encoder.to_score(torch.from_numpy(raw)).numpy()
    check_collapse(scores, labels[rows], steps, config["training"]["learning_rate"])


def learnt_rows(pool: TokenisedPairs, kept: np.ndarray, settings: Mapping[str, Any]) -> np.ndarray:
    """Of the rows that `split` keeps: all original pairs, and as many of their crops as `min_steps` asks for."""
    wanted = pairs_without_repeat(
        settings["min_steps"], settings["epochs"], settings["batch_size"], settings["both_orders"]
    )
    originals = np.count_nonzero(kept < pool.originals)  # which come first
    return kept[: max(wanted, originals)]


def batches(pairs: TokenisedPairs, labels: np.ndarray, encoder: "PairEncoder", config: Config) -> "PairDataModule":
    """The labelled pairs in batches; few of them are repeated until there are `min_steps`."""
    from transenc.data.module import PairDataModule

    settings = config["training"]
    return PairDataModule(
        pairs,
        labels,
        encoder.collate,
        batch_size=settings["batch_size"],
        both_orders=settings["both_orders"],
        seed=config["seed"],
        min_batches=math.ceil(settings["min_steps"] / settings["epochs"]),
        shard=(distributed.rank(), distributed.size()),
    )


def summary(losses: Sequence[float], passes: int, share: float, result: "TrainingResult", select: str) -> str:
    """How the log's line ends.

    Args:
        losses: of each step.
        passes: over the pairs, in all; 1 where none is repeated for want of steps.
        share: of the trained weights in the student's, see `interpolate`.
        result: its score is what the student has now.
        select: what selected its weights.
    """
    repeated = f" in {passes} passes" if passes > 1 else ""
    text = f"{len(losses):,} steps{repeated}, loss {np.mean(losses[-20:]):.4f}"
    if result.best is not None:
        text += f", {select} {100 * result.best:.2f} at {result.step:,}"
    return text + (f", {share:g} of the way" if 0 < share < 1 else "")


def learn(
    encoder: "PairEncoder",
    datamodule: "PairDataModule",
    selection: SelectionMetric | None,
    checkpoint: "Checkpoint",
    record: Callable[[dict[str, float]], Any],
    progress: Progress,
    config: Config,
) -> tuple["TrainingResult | None", Facts]:
    """Train an encoder, in place, and check what it has learnt.

    Returns:
        The result, None where the loss became NaN; and the facts of a failure, none if there was none.
    """
    from transenc.training import TrainingFailed
    from transenc.training import train as train_encoder

    settings, result = config["training"], None
    steps = settings["epochs"] * datamodule.batches
    with progress.bar("train", steps, "step") as bar:
        try:
            result = train_encoder(
                encoder,
                datamodule,
                epochs=settings["epochs"],
                clip=settings["clip"],
                accelerator=config["accelerator"],
                precision=config["precision"],
                seed=config["seed"],
                selection=selection,
                eval_steps=settings["eval_steps"],
                checkpoint=checkpoint,
                record=record,
                progress=bar.update,
            )
            encoder.to(config["accelerator"])
            check_student(encoder, datamodule.pairs, datamodule.labels, steps, config)
        except TrainingFailed as failure:
            return result, {"failed": str(failure), "cause": failure.cause, "summary": f"failed: {failure}"}
    return result, {}


def settle(
    encoder: "PairEncoder",
    pairs: TokenisedPairs,
    before: InitialState | None,
    selection: SelectionMetric | None,
    judges: Sequence[np.ndarray],
    result: "TrainingResult",
    config: Config,
) -> tuple[float, bool]:
    """Interpolate and centre a trained student, in place; `result` then tells of what it has become.

    Returns:
        The share of trained weights that it has (`interpolate`), and whether it was centred.
    """
    share = 1.0
    if before is not None:
        share = interpolate(encoder, before, config["interpolate"], selection, judges, config["one_standard_error"])
        result.step = result.step if share else 0
    centred = "centre" in config and share > 0
    if centred:
        encoder.centre(pairs, config["batch_tokens"])
    if selection is not None and (share < 1 or centred):
        result.best = selection(encoder)  # iterations are compared as they are handed on
    return share, centred


@stage(version=18, ignore=("batch_tokens",))
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
    """Train a student on the labels. It keeps its best weights by `config["select"]`, or its last.

    A student that could score before (a bi-encoder; a cross-encoder with `start=previous`) is then interpolated with
    the weights that it began with. With `select=agreement`, these are put back unless the result agrees better with
    held-out labels (`interpolate`). With a `fold`, a student learns from the other folds only.

    `more`: the development pairs (`select=dev`), or the initial bi-encoder's labels (`select=agreement`).

    A failed training has the facts `failed`, the reason, and `cause`; where that is "nan", only its curve is kept. What
    was trained with LoRA is kept twice: as a model, and as its adapter (in `ADAPTER_FOLDER`).
    """
    from transenc.checkpoint import Checkpoint

    settings, by_agreement = config["training"], config["select"] == "agreement"
    encoder, checkpoint = prepare(student, config), Checkpoint(out)
    pool, targets = TokenisedPairs.load(tokens.path), np.load(labels / "labels.npy")
    held_out, kept = split(pool, config)
    selection = selection_metric(pool, targets, held_out, config, more)
    rows = learnt_rows(pool, kept, settings)
    if settings.get("init_bias") and student.facts.get("new_head"):
        encoder.init_bias(float(targets[rows].mean()))
    datamodule = batches(pool.select(rows), targets[rows], encoder, config)
    if datamodule.passes > 1:
        passes = f"{len(rows):,} pairs are few; an epoch passes over them {datamodule.passes} times"
        log.info("%s: %s, so that there are %d steps or more", progress.place, passes, settings["min_steps"])
    curve: list[dict[str, float]] = []

    def record(row: dict[str, float]) -> None:
        curve.append(row)
        progress.row(row)

    def finished(facts: Facts) -> Facts:
        if distributed.rank():
            return {}
        checkpoint.remove()  # only now: until here an interruption costs the steps since the last checkpoint
        (out / CURVE).write_text("".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8")
        return {"kind": encoder.kind, **facts}

    before = None
    if config["trained_already"] and (by_agreement or config["interpolate"] < 1):
        before = InitialState.of(encoder, selection if by_agreement else None)
        if selection is not None and before.scores is not None:
            record({"step": 0, "selection": main_metric(before.scores, selection.truth, False)})
    result, failed = learn(encoder, datamodule, selection, checkpoint, record, progress, config)
    if result is None or failed.get("cause") == "nan":
        return finished(failed)
    judges = [np.load(by / "labels.npy")[held_out] for by in (labels, *more)] if by_agreement else []
    share, centred = settle(encoder, datamodule.pairs, before, selection, judges, result, config)
    if distributed.rank():
        return {}
    if settings["lora_rank"]:
        encoder.save_adapter(out / ADAPTER_FOLDER)
        encoder.merge_lora()
    encoder.save(out)
    losses = [row["loss"] for row in curve if "loss" in row]
    passes_in_all = settings["epochs"] * datamodule.passes if datamodule.passes > 1 else 1
    facts = {
        "select": config["select"],
        "selection": result.best,
        "step": result.step,
        "summary": summary(losses, passes_in_all, share, result, config["select"]),
        "centred": centred or student.facts.get("centred", False),
        "held_out": len(held_out),
        "trained": result.step > 0 or student.facts.get("trained", False),
    }
    return finished({**model_facts(out, encoder), **facts, **failed})


@stage(version=2, ignore=("batch_tokens", "accelerator"))
@distributed.collective
def soup(out: Path, config: Config, progress: Progress, tokens: Artifact, labels: Artifact, *folds: Artifact) -> Facts:
    """The mean of the weights of cross-fitted encoders: a uniform model soup (Wortsman et al. 2022, arXiv 2203.05482).
    Encoders whose training failed are left out, unless all did.

    The weights of encoders that began from the same ones mostly average well. Where they do not, the mean agrees less
    with the labels of a sample of the pool than the encoders do on average; then the fact `better_fold` is the number
    of the best encoder. A soup's selection score is the mean of theirs, since no pair is unseen by all.
    """
    sound = [number for number, fold in enumerate(folds) if "failed" not in fold.facts] or list(range(len(folds)))
    pool, targets = TokenisedPairs.load(tokens.path), np.load(labels / "labels.npy")
    rows = examined_rows(pool.originals)

    def agreement(encoder: "PairEncoder") -> float:
        return spearman(similarities(encoder, pool.select(rows), config), targets[rows])

    weights: Mapping[str, torch.Tensor] = {}
    agreements: dict[int, float] = {}
    for count, number in enumerate(sound, 1):
        encoder = loaded(folds[number], config, change=True)
        agreements[number] = agreement(encoder)
        weights = interpolated(weights, encoder.state_dict(), 1 / count) if weights else encoder.state_dict()
    encoder.load_state_dict(weights)
    of_mean, of_folds = agreement(encoder), float(np.mean(list(agreements.values())))
    if distributed.rank():
        return {}
    encoder.save(out)
    worse = not of_mean >= of_folds  # an undefined one is
    best = max(sound, key=lambda number: (ranked(folds[number].facts["selection"]), ranked(agreements[number])))
    facts = [folds[number].facts for number in sound]
    scores = [fact["selection"] for fact in facts]
    return {
        **model_facts(out, encoder),
        "better_fold": best if worse else None,
        "mean_of": len(sound),
        "selection": None if None in scores else sum(scores) / len(scores),
        "step": max(fact["step"] for fact in facts),
        "summary": f"Spearman with the labels {percent(of_mean)}, of its {len(sound)} encoders {percent(of_folds)}"
        + ("; the best of these is saved" if worse else ""),
        "held_out": min(fact["held_out"] for fact in facts),
        "trained": any(fact["trained"] for fact in facts),
    }
