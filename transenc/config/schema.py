"""The schema: what each setting is called, its unit, and what its special values mean. The values are in conf/.

Hydra checks each composed configuration against these classes, so a misspelt key or a wrong type stops before anything
runs. `transenc.stages` turns the settings into objects; nothing below the stages sees them.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Pooling(Enum):
    """How a bi-encoder makes one embedding of the last hidden states of its tokens."""

    auto = "what the model folder says, else cls"
    cls = "the hidden state of the first token"
    mean = "the mean over all tokens but padding"
    max = "the maximum over them, number by number"
    mean_sqrt_len_tokens = "their sum over the square root of their count"
    weightedmean = "their mean, weighted by position"
    lasttoken = "the hidden state of the last token"


class Direction(Enum):
    """Who trains whom."""

    both = "each for the other, in turn"
    bi_to_cross = "the bi-encoder labels for the cross-encoder, once"
    cross_to_bi = "a trained cross-encoder labels for the bi-encoder, once"
    gold_to_cross = "supervised: the cross-encoder learns human scores (data.gold)"
    gold_to_bi = "supervised: the bi-encoder learns them"

    @property
    def turns(self) -> list[tuple[str, str]]:
        """(teacher, student) in the order of an iteration."""
        return {
            Direction.both: [("bi", "cross"), ("cross", "bi")],
            Direction.bi_to_cross: [("bi", "cross")],
            Direction.cross_to_bi: [("cross", "bi")],
            Direction.gold_to_cross: [("gold", "cross")],
            Direction.gold_to_bi: [("gold", "bi")],
        }[self]

    @property
    def kinds(self) -> list[str]:
        """The kinds of encoder that take part."""
        return [kind for kind in ("bi", "cross") if any(kind in turn for turn in self.turns)]

    @property
    def students(self) -> list[str]:
        return [kind for kind in ("bi", "cross") if any(kind == student for _, student in self.turns)]

    @property
    def supervised(self) -> bool:
        return self in (Direction.gold_to_cross, Direction.gold_to_bi)


class Teachers(Enum):
    """Who labels the pairs for a student."""

    other = "the newest encoders of the other kind (the paper)"
    both = "the newest encoders of both kinds; a cross-encoder only once trained"


class Centre(Enum):
    """Which bi-encoders are mean-centred: the mean embedding of the pool's sentences becomes 0."""

    none = "none (the paper)"
    starts = "the initial ones"
    students = "each one after its training"
    auto = "the initial one if it has [CLS] pooling, else the students (docs/ablations.md)"


class Average(Enum):
    """How the scores of several teachers become one label."""

    mean = "their mean (the paper); the teacher with the widest range counts most"
    z = "the mean of their standardised scores, on the teachers' average scale"
    rank = "their mean rank; the pair of rank k gets the k-th smallest plain mean"


class Scores(Enum):
    """What the gold scores of your files are."""

    graded = "degrees of similarity; the metric is Spearman"
    binary = "0 or 1; the metric is AUC"


class Start(Enum):
    """Which weights the training of a student begins with."""

    base = "those of the initial encoder, in every iteration (the paper)"
    previous = "its own of the iteration before (the original prototype)"


class Select(Enum):
    """How the weights of each training, and the final iteration, are selected."""

    auto = "dev if there is a development set, else agreement (supervised: last)"
    dev = "by Spearman (AUC for binary scores) on the development pairs (the paper)"
    agreement = "by Spearman with the teacher's labels on held-out pairs"
    last = "the last weights of the last iteration"


class Adapters(Enum):
    """What a student trained with LoRA is saved as."""

    merged = "a whole model"
    separate = "the adapter, for the initial model"


class Failure(Enum):
    """What to do if a training fails after all retries: its scores are NaN, nearly constant, or unlike its labels."""

    stop = "the run ends with an error"
    keep = "the encoder of the iteration before, or the initial bi-encoder, stays"
    ignore = "only NaN ends the run; nothing is retried"


class Loss(Enum):
    """How a student's output is compared with the label."""

    bce = "binary cross-entropy; the output (logit or cosine) is used as a logit"
    mse = "squared error of the score (sigmoid of the logit, or the cosine)"
    cosent = "CoSENT, a ranking loss: of every two pairs in a batch, the one with the higher label should score higher"


class Accelerator(Enum):
    """The device."""

    auto = "a GPU if torch sees one, else the CPU"
    cpu = "the CPU"
    gpu = "one CUDA GPU in each process"


class Verbosity(Enum):
    """What the terminal shows. The log in the run folder has everything."""

    quiet = "warnings, errors and the table at the end"
    normal = "a line for each stage, and progress bars"
    verbose = "also where artifacts are, and the messages of the libraries"


class Logger(Enum):
    """Where curves and scores go in addition to TensorBoard and curves.csv, as in 'loggers=[wandb]'."""

    wandb = "Weights & Biases, set up by its environment variables (WANDB_PROJECT, WANDB_MODE=offline, ...)"
    mlflow = "MLflow, set up by its environment variables (MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, ...)"


# Lightning's names, hence this form.
Precision = Enum(
    "Precision",
    {
        "auto": "bf16-mixed if the hardware computes in bf16, else 32-true",
        "bf16-mixed": "matrix products in bf16, all else in fp32",
        "32-true": "all in fp32",
    },
)


@dataclass
class Model:
    """The initial encoders. For a list of models (mutual distillation), the other settings may be lists too."""

    bi: Any  # initial bi-encoder(s): a hub name (OWNER/NAME, or OWNER/NAME@REVISION), folder, package://..., or a list
    cross: Any  # pretrained model(s) that the cross-encoder starts from; a trained one with distill=cross_to_bi
    pooling: Any  # how the bi-encoder pools: auto (what the folder says, else cls), or a mode (docs/encoders.md)
    bi_prompt: Any  # text before each sentence, or two, before first and second ones
    bi_prompt_name: Any  # instead: the name of a prompt in the model folder, or of two
    bi_layers: Any  # keep only this many of the bi-encoder's first layers
    bi_max_tokens: Any  # sentences are truncated to this many tokens, special ones included
    cross_layers: Any  # keep only this many of the cross-encoder's first layers
    cross_max_tokens: Any  # pairs are truncated to this many tokens, special ones included
    teachers: Any  # models, or files of scores in [0, 1], that label beside the loop's encoders
    reference: str | None  # another bi-encoder to evaluate and show beside the results


@dataclass
class Columns:
    """The columns of your files."""

    sentence1: Any  # a column's name, or its number (from 0) in a file without a header line
    sentence2: Any  # the same
    score: Any  # the same; only read from files that have scores


@dataclass
class Cleaning:
    """How pairs to learn from are cleaned. The log counts what each rule drops."""

    blanks: bool  # strip whitespace at both ends of a sentence (of development and test pairs too)
    empty: bool  # drop pairs with an empty sentence
    identical: bool  # drop pairs of two equal sentences
    repeated: bool  # of duplicate pairs keep one; (a, b) and (b, a) are duplicates unless data.ordered


@dataclass
class Mining:
    """How pairs are made of single sentences, or of queries and documents."""

    pairs: int | None  # how many; null: one a sentence (data.mining.neighbours a query, if fewer)
    random: float  # share of random pairs; shares are divided by their sum
    nearest: float  # share of pairs that are near by cosine of the (first) initial bi-encoder
    lexical: float  # share of pairs that are near by BM25
    neighbours: int  # near: one of this many nearest ones, at random


@dataclass
class Data:
    """The pairs to learn from, and the scored pairs to select and evaluate by."""

    path: str | None  # a file of your unlabelled pairs
    sentences: str | None  # a file of single sentences, one per line, to make pairs of
    queries: str | None  # a file of queries, one per line; a pair is a query and a document
    documents: str | None  # a file of documents, one per line
    pool: list[str]  # unlabelled pairs where no file is given: known sets (stsb-train, ...), or files
    extra: Any  # more unlabelled pairs: a known set, a file, or a list
    extra_limit: int | None  # use this many extra pairs, at random
    limit: int | None  # use this many pairs in all, at random
    flatten: bool  # draw these data.limit pairs so that the initial bi-encoder's scores are spread evenly
    seed: int  # random seed of the draws and of mining
    gold: list[str]  # pairs with human scores for supervised training (distill.direction=gold_to_...)
    dev: str | None  # scored pairs for selection: a known set or a file
    test: list[str]  # scored pairs to report: known sets or files
    transductive: bool  # keep pairs of dev and test in the pool, without their scores
    ordered: bool  # the two sentences differ in kind (question, answer): never swap them
    clean: Cleaning
    mining: Mining
    columns: Columns
    scores: Scores
    score_min: float  # lowest gold score of your files
    score_max: float  # highest gold score of your files

    @property
    def corpora(self) -> dict[str, str]:
        """The files to make pairs of, by their keys: single sentences, or queries and documents, or none."""
        files = {"sentences": self.sentences, "queries": self.queries, "documents": self.documents}
        return {f"data.{key}": file for key, file in files.items() if file is not None}

    @property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest gold score of your files."""
        return (0.0, 1.0) if self.scores is Scores.binary else (self.score_min, self.score_max)


@dataclass
class TrainingConfig:
    """How a student is trained."""

    loss: Loss
    epochs: int  # passes over the labelled pairs
    min_steps: int  # at least this many steps; few pairs are repeated
    batch_size: int  # pairs per optimiser step
    micro_batch_size: int | None  # pairs in memory at once, each computed twice; null: the whole batch
    gradient_checkpointing: bool  # keep only each layer's input, and compute the rest again
    lora_rank: int  # rank of LoRA adapters, trained with the head in place of all weights; 0: no LoRA
    learning_rate: float  # peak learning rate of AdamW
    warmup: float  # share of the steps in which the learning rate rises; then it falls to 0
    weight_decay: float  # of AdamW, but not on biases and normalisation weights
    clip: float  # maximum norm of the gradients; 0: no clipping
    eval_steps: int  # evaluate for selection every this many steps, and after each epoch; 0: only then


@dataclass
class CrossTrainingConfig(TrainingConfig):
    """How the cross-encoder is trained."""

    both_orders: bool  # train on (a, b) and (b, a), unless data.ordered
    crops_below: int  # pools of fewer pairs fill min_steps with crops, not repeats (docs/few_pairs.md)
    init_bias: bool  # initialise a new head's bias to the mean label's logit


@dataclass
class Distill:
    """The loop."""

    direction: Direction
    iterations: int  # an iteration trains the cross-encoder, then the bi-encoder
    teachers: Teachers
    average: Average
    late_interaction: bool  # bi-encoders label by embeddings and tokens (BERTScore), by tokens alone if these disagree
    start: Start
    centre: Centre
    symmetric: bool  # the cross-encoder's logit is the mean over both orders of a pair, unless data.ordered
    select: Select
    adapters: Adapters
    folds: int  # parts of the pool for cross-fitting; 1: none
    interpolate: float  # a well pooled bi-encoder's share of trained weights, above 0; 1: only these
    holdout: float | None  # share of the pool held out for selection by agreement; null: max(10%, min(30 pairs, 25%))
    retries: int  # repeats, with other seeds, of a training that failed for no known cause
    failure: Failure
    cross: CrossTrainingConfig
    bi: TrainingConfig


@dataclass
class Trainer:
    """What trains and scores."""

    accelerator: Accelerator
    precision: Precision
    score_tokens: int | None  # tokens in a scored batch; null: 2048 (CPU), 65536 (GPU)
    cpu_layers: bool  # faster layers on a CPU for BERT's family
    cuda_graphs: bool  # faster training on a GPU (docs/gpu.md)


@dataclass
class Paths:
    """Folders."""

    dataset: str  # what download_dataset.sh fills
    artifacts: str  # the cache of finished stages


@dataclass
class Train:
    """`python train.py`."""

    model: Model
    data: Data
    distill: Distill
    trainer: Trainer
    paths: Paths
    seed: int  # random seed of new heads, held-out pairs, folds, order, and dropout
    save_predictions: bool  # write predictions/ of every encoder, not only the selected ones
    loggers: list[Logger]
    verbosity: Verbosity

    @property
    def select(self) -> Select:
        """What encoders are selected by, never `auto`.

        A few held-out human scores cannot show the gain of learning from the others (docs/results.md).
        """
        if self.distill.select is not Select.auto:
            return self.distill.select
        if self.data.dev is not None:
            return Select.dev
        return Select.last if self.distill.direction.supervised else Select.agreement

    @property
    def pair_sources(self) -> list[str]:
        """The sets or files of pairs to learn from, without the extra ones."""
        data = self.data
        if self.distill.direction.supervised:
            return data.gold
        if data.path is not None:
            return [data.path]
        return [] if data.corpora else data.pool

    @property
    def extra_sources(self) -> list[str]:
        return [] if self.data.extra is None else listed(self.data.extra)

    @property
    def fixed_teachers(self) -> list[str]:
        """Models and files of scores that label beside the loop's encoders."""
        return [] if self.model.teachers is None else listed(self.model.teachers)

    @property
    def sources(self) -> list[str]:
        """All sets or files to learn from."""
        mined = {} if self.distill.direction.supervised else self.data.corpora
        return [*self.pair_sources, *mined.values(), *self.extra_sources]


@dataclass
class Scored:
    """The encoders to evaluate, or to score pairs with."""

    path: Any  # bi- or cross-encoder(s), as for model.bi; a list is also scored as an ensemble
    pooling: Pooling  # as for train.py's model.pooling
    prompt: Any  # as for model.bi_prompt
    prompt_name: Any  # as for model.bi_prompt_name
    max_tokens: int | None  # texts are truncated to this many tokens
    symmetric: bool | None  # a cross-encoder's logit is the mean over both orders of a pair


@dataclass
class Evaluate:
    """`python -m transenc.evaluate` and, with the pairs of one file, `python -m transenc.score`."""

    model: Scored
    data: Data
    trainer: Trainer
    paths: Paths
    resamples: int  # bootstrap resamples for 95% intervals and p-values; 0: neither
    verbosity: Verbosity


def listed(value: Any) -> list[Any]:
    """A list as it is, anything else as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def of_member(value: Any, number: int) -> Any:
    """A member's own of a setting that is one value for all members, or a list with one for each."""
    return value[number] if isinstance(value, list) else value
