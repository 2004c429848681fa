"""The schema: what every setting is called, its unit, and what its special values mean. No values: those are in conf/.

Hydra checks every composed configuration against these classes, so a misspelt key or a wrong type stops before
anything runs. `transenc.stages` turns the settings into objects; nothing below it sees them.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from transenc.errors import InputError, nearest


class Pooling(Enum):
    """How a bi-encoder makes one vector of its tokens' last hidden states."""

    auto = "what the model folder says, else cls"
    cls = "the first token's vector"
    mean = "the mean over all tokens, padding left out"


class Direction(Enum):
    """Who teaches whom."""

    both = "the bi-encoder teaches the cross-encoder and is taught back, iteration by iteration"
    bi_to_cross = "the bi-encoder teaches the cross-encoder, once"
    cross_to_bi = "a trained cross-encoder teaches the bi-encoder, once"
    gold_to_cross = "human scores (data.gold) teach the cross-encoder: supervised, a ceiling to compare with"
    gold_to_bi = "human scores (data.gold) teach the bi-encoder"

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(teacher, student) in the order of an iteration."""
        return [("bi", "cross"), ("cross", "bi")] if self is Direction.both else [tuple(self.name.split("_to_"))]  # type: ignore[list-item]

    @property
    def kinds(self) -> list[str]:
        """The kinds of encoder that take part."""
        return [kind for kind in ("bi", "cross") if any(kind in turn for turn in self.turns)]

    @property
    def supervised(self) -> bool:
        return self.name.startswith("gold")

    @property
    def students(self) -> list[str]:
        return [kind for kind in ("bi", "cross") if any(kind == student for _, student in self.turns)]


class Teachers(Enum):
    """Who labels the pairs for a student."""

    other = "the newest encoders of the other kind (the paper)"
    both = "the newest encoders of both kinds, as far as they are trained"


class Centre(Enum):
    """Which bi-encoders' vectors are moved so that their mean over the pool's sentences is 0."""

    none = "none (the paper)"
    starts = "the start models'"
    students = "each one's that has been taught"
    auto = "the start's where it is read through [CLS], else the student's (docs/ablations.md says why)"


class Average(Enum):
    """How the scores of several teachers make one label."""

    mean = "their mean (the paper); the teacher with the widest range counts most"
    z = "mean of the standardised scores, at the teachers' average mean and deviation"
    rank = "mean of the ranks, at the quantiles of the plain mean"


class Scores(Enum):
    """What gold scores are."""

    graded = "degrees of similarity, scored by Spearman's rank correlation"
    binary = "0 or 1, scored by the area under the ROC curve (AUC)"


class Start(Enum):
    """Which weights a student has when an iteration begins."""

    base = "the start model's, fresh in every iteration (the paper)"
    previous = "its own of the iteration before (the seed implementation)"


class Select(Enum):
    """What picks the checkpoint inside a stage and the best iteration at the end."""

    auto = "dev where there is a development set, else agreement"
    dev = "Spearman (AUC where they are binary) on the development pairs' gold scores (the paper)"
    agreement = "Spearman with the teacher's labels on held-out pairs of the pool; uses no gold score but a teacher's"
    last = "no selection: the last checkpoint of the last iteration"


class Failure(Enum):
    """What happens when a student's training failed, with every seed that could mend it."""

    stop = "the run ends with an error that says why"
    keep = "the encoder of the iteration before, or a start bi-encoder, stays in its place"
    ignore = "neither students nor labels are examined; only a loss that is no number ends the run"


class Loss(Enum):
    """What a student's output is held against its teacher's label with."""

    bce = "binary cross-entropy, the raw output (logit or cosine) taken as a logit"
    mse = "squared error of the score (the logit's sigmoid, or the cosine)"
    cosent = "every two pairs of a batch whose scores are not in the order of their labels; the scale is free"


class Accelerator(Enum):
    """What training and scoring run on."""

    auto = "a GPU where torch sees one, else the CPU"
    cpu = "the CPU"
    gpu = "one GPU"


class Verbosity(Enum):
    """What stands on the terminal; the run folder's log always has it all."""

    quiet = "warnings, errors and the table at the end"
    normal = "a line a stage, and bars"
    verbose = "where each artifact lies, and what the libraries below have to say, too"


class Logger(Enum):
    """Whom a run tells its curves and scores beside TensorBoard and curves.csv, which it always does."""

    wandb = "Weights & Biases; its own environment variables say the rest (WANDB_PROJECT, WANDB_MODE=offline, ...)"
    mlflow = "MLflow; likewise (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...)"


class Strategy(Enum):
    """How many processes teach and score."""

    single = "one"
    ddp = "those that torchrun or srun started; a batch is divided among them, and so are pairs to be scored"


# Of training, labelling and selection on the way; results are reported in fp32. Names are Lightning's, hence the form.
Precision = Enum(
    "Precision",
    {
        "auto": "bf16-mixed where the hardware computes in it, else 32-true",
        "bf16-mixed": "products and layers in bf16; weights, cosines, logits and losses in fp32",
        "32-true": "all in fp32",
    },
)


@dataclass
class Model:
    """`pooling`, `*_layers` and `*_max_tokens` are one value for all members, or a list with one for each."""

    bi: Any  # start bi-encoder(s): a hub name (NAME or NAME@REVISION), a folder, package://..., or a list of them
    cross: Any  # pretrained encoder(s) under the cross-encoder: likewise; a trained one where it is the only teacher
    pooling: Any  # a name of Pooling
    bi_layers: Any  # keep only this many of the start bi-encoder's first layers; null: all
    bi_max_tokens: Any  # tokens a sentence is cut to, special tokens included; null: what the model folder says
    cross_layers: Any
    cross_max_tokens: Any  # tokens a pair is cut to
    reference: str | None  # a further bi-encoder to score once and show beside the results; null: none


@dataclass
class Columns:
    sentence1: Any  # a column's name, or its number (from 0) in a file without a header line
    sentence2: Any
    score: Any  # read for development, test and gold pairs only


@dataclass
class Cleaning:
    """What is done to pairs to learn from; each is counted and told."""

    blanks: bool  # take blanks off both ends of a sentence (in development and test pairs too)
    empty: bool  # drop a pair with an empty side
    identical: bool  # drop a pair of two equal sides
    repeated: bool  # keep one of equal pairs, whichever way round they are written (as they stand if data.ordered)


@dataclass
class Mining:
    """Pairs out of single sentences (data.sentences)."""

    pairs: int | None  # how many to make; null: as many as there are sentences
    random: float  # share of pairs of two sentences drawn evenly; the shares are divided by their sum
    nearest: float  # share of pairs of a sentence and one of its nearest by cosine of the (first) start bi-encoder
    lexical: float  # share of pairs of a sentence and one of its nearest by BM25
    neighbours: int  # "one of its nearest" is drawn evenly from this many


@dataclass
class Data:
    path: str | None  # a file of your own unlabelled pairs to learn from, in place of pool; null: none
    sentences: str | None  # a file of single sentences, one a line, to make such pairs of; null: none
    pool: list[str]  # unlabelled pairs to learn from where neither is given: names of known sets, or files
    extra: Any  # more unlabelled pairs beside those: a known set or a file, or a list of them; null: none
    extra_limit: int | None  # take this many of them, drawn at random; null: all
    limit: int | None  # learn from this many pairs in all, drawn at random; null: all
    flatten: bool  # draw them so that the start bi-encoder's scores are spread evenly; needs limit
    seed: int  # decides which are drawn, and what is mined
    gold: list[str]  # pairs whose scores teach when distill.direction says so, and are never read otherwise
    dev: str | None  # scored pairs for selection: a known set or a file; null: none
    test: list[str]  # scored pairs to report: known sets or files
    transductive: (
        bool  # whether pairs of dev and test may be among those learnt from, without their scores; gold: never
    )
    ordered: bool  # the two sides differ in kind (a question, an answer): a pair is never turned round
    clean: Cleaning
    mining: Mining
    columns: Columns  # where sentences and scores stand in your files
    scores: Scores  # what the gold scores of your files are
    score_min: float  # gold scores of your files lie in [score_min, score_max]
    score_max: float


@dataclass
class Teaching:
    loss: Loss
    epochs: int  # passes over the labelled pairs
    min_steps: int  # steps at least: an epoch makes several passes where one has too few; 0: always one
    batch_size: int  # pairs a step
    learning_rate: float  # AdamW, at its highest
    warmup: float  # share of the steps in which the learning rate rises from 0; it falls linearly to 0 afterwards
    weight_decay: float  # not on biases and normalisation weights
    clip: float  # gradients are scaled down to this norm; 0: never
    both_orders: bool  # train on (a, b) and on (b, a), unless data.ordered; a bi-encoder gains nothing from it
    eval_steps: int  # steps between selection scores, which are also taken at the end of each epoch; 0: only there


@dataclass
class Distill:
    direction: Direction
    iterations: int  # times the bi-encoder teaches the cross-encoder and is taught back, at least 1
    teachers: Teachers
    average: Average  # of several teachers' scores
    start: Start
    centre: Centre
    symmetric: bool  # a cross-encoder's logit of a pair is the mean over both orders, unless data.ordered
    select: Select
    holdout: float  # share of the unlabelled pairs kept from training when selection is by agreement
    retries: int  # how often a training that failed for no cause that is known is repeated, with another seed each time
    failure: Failure
    cross: Teaching  # the cross-encoder, taught by the bi-encoder
    bi: Teaching  # the bi-encoder, taught by the cross-encoder


@dataclass
class Trainer:
    accelerator: Accelerator
    strategy: Strategy
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
    save_predictions: bool  # write predictions/: every encoder's score of every test pair
    loggers: list[Logger]
    published: dict[str, dict[str, float]]  # figures to show beside a run's, x100, by encoder and test set; a recipe's
    verbosity: Verbosity


@dataclass
class Scored:
    path: Any  # bi- or cross-encoder(s): a hub name, a folder, package://..., or a list, which is an ensemble too
    pooling: Pooling  # bi-encoders only
    max_tokens: int | None  # null: what the model folder says
    symmetric: bool | None  # a cross-encoder's logit is the mean over both orders; null: what the model folder says


@dataclass
class Evaluate:
    """`python -m transenc.evaluate` and, with the pairs of one file, `python -m transenc.score`."""

    model: Scored
    data: Data
    trainer: Trainer
    paths: Paths
    resamples: int  # of the bootstrap behind 95% intervals and p-values; 0: neither
    verbosity: Verbosity


MOST_STEPS = 1_000_000  # whose pairs are put in order at once

Rule = tuple[str, Any, bool, str]  # a key, its value, whether it is as it should be, and what that is

MODELS = "a hub name, a folder, package://..., or a list of them"


def _hold(rules: list[Rule]) -> None:
    for key, value, holds, rule in rules:
        if not holds:
            raise InputError(f"{key}={value}: must be {rule}")


def _names(value: Any) -> bool:
    return bool(listed(value)) and all(isinstance(name, str) and name for name in listed(value))


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value under its dotted key; those of a list each under the list's."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, f"{key}.{name}" if key else name)
    else:
        for one in listed(value):
            yield key, one


def _common_rules(cfg: "Train | Evaluate") -> list[Rule]:
    folder, columns = Path(cfg.paths.artifacts), asdict(cfg.data.columns)
    numbers = [(key, value) for key, value in _leaves(asdict(cfg)) if isinstance(value, int | float)]
    lists = {f"data.{key}": getattr(cfg.data, key) for key in ("pool", "gold", "test")}
    return [
        *((key, value, abs(value) < 2**32, "a number, below 2**32") for key, value in numbers),  # NaN is not below
        *(
            (key, names, names == [] or (isinstance(names, list) and _names(names)), "a list of names")
            for key, names in lists.items()
        ),
        *(
            (
                f"data.columns.{key}",
                column,
                column is None or type(column) is str or (type(column) is int and column >= 0),
                "a column's name, or its number from 0",
            )
            for key, column in columns.items()
        ),
        ("data.score_max", cfg.data.score_max, cfg.data.score_max > cfg.data.score_min, "above data.score_min"),
        ("trainer.score_tokens", cfg.trainer.score_tokens, cfg.trainer.score_tokens >= 1, "at least 1"),
        ("paths.artifacts", folder, folder.is_dir() or not folder.exists(), "a folder, or nothing yet"),
    ]


def check_evaluation(cfg: Evaluate) -> None:
    """`check` for the commands that score models.

    Raises:
        InputError: a value out of its range.
    """
    _hold(
        [
            ("model", cfg.model.path, _names(cfg.model.path), MODELS),
            ("resamples", cfg.resamples, cfg.resamples >= 0, "at least 0"),
            *_common_rules(cfg),
        ]
    )


def check(cfg: Train) -> None:
    """What types cannot say.

    Raises:
        InputError: a value out of its range, or values that do not go together.
    """
    direction, data = cfg.distill.direction, cfg.data
    rules = [
        ("seed", cfg.seed, cfg.seed >= 0, "at least 0"),
        ("data.seed", data.seed, data.seed >= 0, "at least 0"),
        ("data.limit", data.limit, data.limit is None or data.limit >= 1, "at least 1, or null"),
        (
            "data.extra_limit",
            data.extra_limit,
            data.extra_limit is None or data.extra_limit >= 1,
            "at least 1, or null",
        ),
        ("data.mining.pairs", data.mining.pairs, data.mining.pairs is None or data.mining.pairs >= 1, "at least 1"),
        ("data.mining.neighbours", data.mining.neighbours, data.mining.neighbours >= 1, "at least 1"),
        ("distill.iterations", cfg.distill.iterations, cfg.distill.iterations >= 1, "at least 1"),
        ("distill.retries", cfg.distill.retries, cfg.distill.retries >= 0, "at least 0"),
        ("distill.holdout", cfg.distill.holdout, 0 < cfg.distill.holdout < 1, "between 0 and 1"),
        ("data.extra", data.extra, data.extra is None or _names(data.extra), "a known set, a file, or a list of them"),
        *_common_rules(cfg),
    ]
    for kind in direction.kinds:
        names = getattr(cfg.model, kind)
        rules.append((f"model.{kind}", names, _names(names), MODELS))
    for kind in direction.students:
        teaching: Teaching = getattr(cfg.distill, kind)
        rules += [
            (f"distill.{kind}.{key}", getattr(teaching, key), ok, rule)
            for key, ok, rule in (
                ("epochs", teaching.epochs >= 1, "at least 1"),
                ("min_steps", 0 <= teaching.min_steps <= MOST_STEPS, f"0 to {MOST_STEPS:,}"),
                ("batch_size", teaching.batch_size >= 1, "at least 1"),
                ("learning_rate", teaching.learning_rate > 0, "above 0"),
                ("warmup", 0 <= teaching.warmup < 1, "at least 0 and below 1"),
                ("weight_decay", teaching.weight_decay >= 0, "at least 0"),
                ("clip", teaching.clip >= 0, "at least 0"),
                ("eval_steps", teaching.eval_steps >= 0, "at least 0"),
            )
        ]
    _hold(rules)
    _check_members(cfg)
    shares = (data.mining.random, data.mining.nearest, data.mining.lexical)
    if min(shares) < 0 or sum(shares) == 0:
        raise InputError("data.mining: the shares random, nearest, lexical must be at least 0, and one of them above")
    if data.flatten and data.limit is None:
        raise InputError("data.flatten=true: flattening leaves pairs out; say with data.limit=N how many to keep")
    if direction is not Direction.both and cfg.distill.iterations > 1:
        raise InputError(f"distill.direction={direction.name} is one step; set distill.iterations=1")
    if cfg.distill.select is Select.dev and data.dev is None:
        raise InputError("distill.select=dev: there is no development set; give data.dev=FILE, or select by agreement")
    if direction.supervised:
        if data.flatten or data.extra is not None or cfg.distill.centre is not Centre.none:
            told = "takes no data.flatten, no data.extra and no distill.centre"
            raise InputError(f"distill.direction={direction.name}: {told}")
        if not data.gold:
            raise InputError(f"distill.direction={direction.name}: no gold scores to learn from; give data.gold=[FILE]")
    elif not learnt_from(cfg):
        raise InputError(
            "data.path: no pairs to learn from; give data.path=FILE, data.sentences=FILE, or data=NAME for a known set"
        )


def _check_members(cfg: Train) -> None:
    """Settings that may be one for all members, or a list with one for each."""
    sizes, choices = {}, Pooling.__members__
    keys = {"bi": ("pooling", "bi_layers", "bi_max_tokens"), "cross": ("cross_layers", "cross_max_tokens")}
    for kind in cfg.distill.direction.kinds:
        size = sizes[kind] = len(listed(getattr(cfg.model, kind)))
        for key in keys[kind]:
            values = getattr(cfg.model, key)
            if isinstance(values, list) and len(values) != size:
                raise InputError(f"model.{key}: a list of {len(values)}, where model.{kind} names {size} models")
            for value in listed(values):
                if key == "pooling" and (not isinstance(value, str) or value not in choices):
                    raise InputError(
                        f"model.pooling={value}: no such choice{nearest(str(value), choices, listed=True)}"
                    )
                if key != "pooling" and value is not None and (type(value) is not int or value < 1):
                    raise InputError(f"model.{key}={value}: must be at least 1, or null")
    if cfg.distill.direction is Direction.both and sizes["bi"] != sizes["cross"]:
        names = f"model.bi names {sizes['bi']} and model.cross {sizes['cross']} models"
        raise InputError(f"{names}: members come in pairs; repeat a name to fill up")


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def learnt_from(cfg: Train) -> list[str]:
    """The sets or files whose pairs, or sentences, are learnt from."""
    data = cfg.data
    if cfg.distill.direction.supervised:
        return data.gold
    own = [name for name in (data.path, data.sentences) if name is not None]
    return (own or data.pool) + ([] if data.extra is None else listed(data.extra))
