"""The schema: what every setting is called, its unit, and what its special values mean. No values: those are in conf/.

Hydra checks every composed configuration against these classes, so a misspelt key or a wrong type stops before
anything runs. `transenc.stages` turns the settings into objects; nothing below it sees them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from transenc.errors import InputError


class Pooling(Enum):
    """How a bi-encoder makes one vector of its tokens' last hidden states."""

    auto = "what the model folder says, else cls"
    cls = "the first token's vector"
    mean = "the mean over all tokens, padding left out"


class Start(Enum):
    """Which weights a student has when an iteration begins."""

    base = "the start model's, fresh in every iteration (the paper)"
    previous = "its own of the iteration before (the seed implementation)"


class Select(Enum):
    """What picks the checkpoint inside a stage and the best iteration at the end."""

    auto = "dev where there is a development set, else agreement"
    dev = "Spearman on the development pairs' gold scores (the paper)"
    agreement = "Spearman with the teacher's labels on held-out unlabelled pairs; uses no gold score"
    last = "no selection: the last checkpoint of the last iteration"


class Loss(Enum):
    """What a student's output is held against its teacher's label with."""

    bce = "binary cross-entropy, the raw output (logit or cosine) taken as a logit"
    mse = "squared error of the score (the logit's sigmoid, or the cosine)"


class Accelerator(Enum):
    """What training and scoring run on."""

    auto = "a GPU where torch sees one, else the CPU"
    cpu = "the CPU"
    gpu = "one GPU"


# Training only: labelling and evaluation are in fp32. Names are Lightning's, hence the functional form.
Precision = Enum(
    "Precision",
    {
        "auto": "bf16-mixed where the hardware computes in it, else 32-true",
        "bf16-mixed": "matrix products in bf16, weights in fp32",
        "32-true": "all in fp32",
    },
)


@dataclass
class Model:
    bi: Any  # start bi-encoder(s): a hub name (NAME or NAME@REVISION), a folder, package://..., or a list of them
    cross: Any  # pretrained encoder(s) under the cross-encoder: likewise
    pooling: Pooling
    bi_layers: int | None  # keep only this many of the start bi-encoder's first layers; null: all
    bi_max_tokens: int | None  # tokens a sentence is cut to, special tokens included; null: what the model folder says
    cross_max_tokens: int | None  # tokens a pair is cut to, likewise
    reference: str | None  # a further bi-encoder to score once and show beside the results; null: none


@dataclass
class Columns:
    sentence1: Any  # a column's name, or its number (from 0) in a file without a header line
    sentence2: Any
    score: Any  # read for development and test pairs only


@dataclass
class Data:
    path: str | None  # a file of your own unlabelled pairs to learn from, in place of pool; null: pool
    pool: list[str]  # unlabelled pairs to learn from: names of known sets, or files
    dev: str | None  # scored pairs for selection: a known set or a file; null: none
    test: list[str]  # scored pairs to report: known sets or files
    columns: Columns  # where sentences and scores stand in your files
    score_min: float  # gold scores of your files lie in [score_min, score_max]
    score_max: float
    deduplicate: bool  # learn from a pair once, whichever way round it is written


@dataclass
class Teaching:
    loss: Loss
    epochs: int  # passes over the labelled pairs
    batch_size: int  # pairs a step
    learning_rate: float  # AdamW, at its highest
    warmup: float  # share of the steps in which the learning rate rises from 0; it falls linearly to 0 afterwards
    weight_decay: float  # not on biases and normalisation weights
    clip: float  # gradients are scaled down to this norm; 0: never
    both_orders: bool  # train on (a, b) and on (b, a); a bi-encoder gains nothing from it
    eval_steps: int  # steps between selection scores, which are also taken at the end of each epoch; 0: only there


@dataclass
class Distill:
    iterations: int  # times the bi-encoder teaches the cross-encoder and is taught back, at least 1
    start: Start
    select: Select
    holdout: float  # share of the unlabelled pairs kept from training when selection is by agreement
    cross: Teaching  # the cross-encoder, taught by the bi-encoder
    bi: Teaching  # the bi-encoder, taught by the cross-encoder


@dataclass
class Trainer:
    accelerator: Accelerator
    precision: Precision
    score_tokens: int  # tokens in a batch when labelling and evaluating


@dataclass
class Paths:
    dataset: str  # what download_dataset.sh fills
    artifacts: str  # the store of finished stages; deleting it is safe


@dataclass
class Train:
    """`python train.py`."""

    model: Model
    data: Data
    distill: Distill
    trainer: Trainer
    paths: Paths
    seed: int  # decides new weights, the order of pairs, dropout


@dataclass
class Scored:
    path: str  # a bi- or cross-encoder: a hub name, a folder, package://...
    pooling: Pooling  # bi-encoders only
    max_tokens: int | None  # null: what the model folder says


@dataclass
class Evaluate:
    """`python -m transenc.evaluate` and, with the pairs of one file, `python -m transenc.score`."""

    model: Scored
    data: Data
    trainer: Trainer
    paths: Paths


def check(cfg: Train) -> None:
    """What types cannot say.

    Raises:
        InputError: a value out of its range, or values that do not go together.
    """
    rules = [
        ("seed", cfg.seed, cfg.seed >= 0, "at least 0"),
        ("distill.iterations", cfg.distill.iterations, cfg.distill.iterations >= 1, "at least 1"),
        ("distill.holdout", cfg.distill.holdout, 0 < cfg.distill.holdout < 1, "between 0 and 1"),
        ("data.score_max", cfg.data.score_max, cfg.data.score_max > cfg.data.score_min, "above data.score_min"),
        ("trainer.score_tokens", cfg.trainer.score_tokens, cfg.trainer.score_tokens >= 1, "at least 1"),
    ]
    for kind in ("bi", "cross"):
        names = getattr(cfg.model, kind)
        listed = names if isinstance(names, list) else [names]
        named = bool(listed) and all(isinstance(name, str) and name for name in listed)
        rules.append((f"model.{kind}", names, named, "a hub name, a folder, package://..., or a list of them"))
        teaching: Teaching = getattr(cfg.distill, kind)
        rules += [
            (f"distill.{kind}.{key}", getattr(teaching, key), ok, rule)
            for key, ok, rule in (
                ("epochs", teaching.epochs >= 1, "at least 1"),
                ("batch_size", teaching.batch_size >= 1, "at least 1"),
                ("learning_rate", teaching.learning_rate > 0, "above 0"),
                ("warmup", 0 <= teaching.warmup < 1, "at least 0 and below 1"),
                ("weight_decay", teaching.weight_decay >= 0, "at least 0"),
                ("clip", teaching.clip >= 0, "at least 0"),
                ("eval_steps", teaching.eval_steps >= 0, "at least 0"),
            )
        ]
    for key, value, holds, rule in rules:
        if not holds:
            raise InputError(f"{key}={value}: must be {rule}")
    if cfg.distill.select is Select.dev and cfg.data.dev is None:
        raise InputError("distill.select=dev: there is no development set; give data.dev=FILE, or select by agreement")
    if not pool(cfg.data):
        raise InputError("data.path: no pairs to learn from; give data.path=FILE, or data=NAME for a known set")


def pool(data: Data) -> list[str]:
    """The sets or files whose pairs are learnt from."""
    return data.pool if data.path is None else [data.path]
