"""Scored sets of pairs, and the metrics of encoders on them, for training runs and for `transenc.evaluate`."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transenc import distributed
from transenc.artifacts import Artifact, Store, file_digest
from transenc.config.schema import Accelerator, Data, Paths, Precision, Scores, Trainer
from transenc.data.known import KNOWN
from transenc.data.tokens import warn_of_unknown
from transenc.errors import InputError, nearest
from transenc.metrics import RESAMPLES, bootstrap, compute_metrics
from transenc.model_description import read_as
from transenc.model_folder import Source
from transenc.progress import Progress
from transenc.results import METRIC_NAMES, Key
from transenc.stages.labels import average
from transenc.stages.models import load, score
from transenc.stages.pairs import read, tokenise

log = logging.getLogger("transenc")

MAX_LOW = 0.2  # share of the scale that some score should exceed: scores from 0 to 1 are a fifth of 0 to 5
MAX_NAME_BYTES = 200  # in a set's name. A file name may have 255, and some are made of this and the encoder's
SCORE_TOKENS = {"cpu": 2048, "cuda": 65536}  # on a CPU a batch's activations stay in the cache


def task_name(name: str) -> str:
    """What a set is reported under: its own name, or a file's without folder and suffix."""
    return name if name in KNOWN else Path(name).stem


def device_of(accelerator: Accelerator) -> str:
    """Lightning's name of the device to use.

    Raises:
        InputError: a GPU is asked for and torch sees none.
    """
    available = torch.cuda.is_available()
    if accelerator is Accelerator.gpu and not available:
        raise InputError("trainer.accelerator=gpu: torch sees no GPU here; use cpu or auto")
    return "cuda" if available and accelerator is not Accelerator.cpu else "cpu"


def precision_of(precision: Precision, accelerator: str) -> str:
    """Lightning's name of the precision: bf16 where the hardware computes in it, which halves the time."""
    if precision is not Precision.auto:
        return precision.name
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


def digest_of(path: Path) -> str:
    """The sha256 of a person's file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


@dataclass(frozen=True)
class Member:
    """One encoder of an iteration: an artifact with its place in the run.

    Attributes:
        kind: "bi" or "cross".
        iteration: 0 for an initial encoder, None for one that is only compared with.
        number: its position in `model.bi` or `model.cross`.
        several: whether there are several members.
        artifact: its model folder.
        centred: whether it is an initial bi-encoder that has been mean-centred.
        folds: the cross-fitted encoders that label in its place, in the order of the folds that they have not seen. Its
            weights are their mean, or it is one of them.
    """

    kind: str
    iteration: int | None
    number: int
    several: bool
    artifact: Artifact
    centred: bool = False
    folds: tuple[Artifact, ...] = ()

    @property
    def encoder(self) -> str:
        """Its name in results.csv."""
        return f"{self.kind}-centred" if self.centred else self.kind

    @property
    def name(self) -> str:
        """`cross`, or `cross-0`, `cross-1`, ... where there are several."""
        return f"{self.kind}-{self.number}" if self.several else self.kind

    @property
    def place(self) -> str:
        """Its prefix in the log, the curves and TensorBoard: `1/cross`."""
        if self.iteration is None:
            return "reference"
        return f"{self.iteration}/{self.name}" + ("-centred" if self.centred else "")

    @property
    def key(self) -> Key:
        """What its rows of results.csv are found by: iteration, encoder and member."""
        return self.iteration, self.encoder, self.number


@dataclass(frozen=True)
class Evaluated:
    """An encoder, or an ensemble of all members, on one task.

    Attributes:
        encoder: its name in results.csv.
        number: of the member; None for an ensemble.
        raw: [N] cosines or logits; of an ensemble, mean scores.
        metrics: by name, see `transenc.metrics.compute_metrics`.
    """

    encoder: str
    number: int | None
    raw: np.ndarray
    metrics: dict[str, float]


class Evaluation:
    """The settings `data`, `paths` and `trainer`, bound to a store.

    Raises:
        InputError: a GPU is asked for and torch sees none, or several processes run something else than train.py.
    """

    def __init__(self, store: Store, data: Data, paths: Paths, trainer: Trainer, progress: Progress):
        self.store, self.data, self.dataset, self.progress = store, data, Path(paths.dataset), progress
        self.accelerator = device_of(trainer.accelerator)
        check_processes()
        self.warned: set[Path] = set()  # artifacts of tokens whose many unknown ones were warned of
        self.models: list[dict[str, Any]] = []  # named by the configuration: `key`, `name`, and what was read
        self.scoring = {
            "batch_tokens": trainer.score_tokens or SCORE_TOKENS[self.accelerator],
            "accelerator": self.accelerator,
            "precision": precision_of(trainer.precision, self.accelerator),
            "cpu_layers": trainer.cpu_layers,
        }

    def read(self, name: str, scored: bool, teaches: bool = False) -> Artifact:
        """The pairs of a set or file, with gold scores if `scored`.

        Raises:
            InputError: there is no such set, or it `teaches` and its scores are of another scale.
        """
        form = None
        if known := KNOWN.get(name):
            if scored and not known.has_scores:
                raise InputError(f"{name}: has no scores; it is for data.pool or data.extra")
            files, kind = known.find(self.dataset), known.identity
        elif os.path.isfile(name):
            files, kind, form = [Path(name)], Path(name).suffix.lower(), self._format(name, scored)
        elif os.path.isdir(name):
            raise InputError(f"{name}: a folder; give a file of pairs")
        elif Path(name).suffix or os.sep in name:
            raise InputError(f"{name}: {'is not a file' if os.path.exists(name) else 'no such file'}")
        else:
            hint = nearest(name, KNOWN, listed=True)
            raise InputError(f"{name}: neither a file nor a known set of pairs{hint}")
        config = {
            "name": name,
            "kind": kind,
            "files": [str(path) for path in files],
            "digests": [digest_of(path) for path in files],
            "scored": scored,
            "format": form,
            "strip": self.data.clean.blanks,
        }
        pairs = self.store(read, config, progress=self.progress, title=f"read {task_name(name)}")
        for text in pairs.facts.get("warnings", ()):  # when it is reused too
            log.warning("%s: %s", name, text)
        if scored and form is not None and self.data.scores is Scores.graded:
            gold, low, high = np.load(pairs / "gold.npy"), form["score_min"], form["score_max"]
            too_low = low < gold.max() <= low + MAX_LOW * (high - low)
            if teaches and too_low:
                raise InputError(
                    f"data.gold={name}: no score is above {gold.max():g}, of {high:g}; set data.score_max to your"
                    " scale's, or data.scores=binary"
                )
            if set(np.unique(gold)) == {0, 1}:
                log.warning("%s: all scores are 0 or 1; for AUC set data.scores=binary", name)
            elif too_low:
                log.warning(
                    "%s: no score is above %g; set data.score_max, now %g, to your scale's", name, gold.max(), high
                )
        return pairs

    def _format(self, name: str, scored: bool) -> dict[str, Any]:
        """Where sentences and gold scores stand in a person's file, see `transenc.data.files.Format`."""
        if scored and self.data.columns.score is None:
            raise InputError(f"{name}: has to be scored, and data.columns.score=null names no column of scores")
        binary, (low, high) = self.data.scores is Scores.binary, self.data.scale
        columns = asdict(self.data.columns) | ({} if scored else {"score": None})
        return {**columns, "score_min": low, "score_max": high, "binary": binary}

    def tasks(self, names: Sequence[str]) -> dict[str, Artifact]:
        """Scored sets by the name under which they are reported.

        Raises:
            InputError: a name is too long, or two are the same.
        """
        paths: dict[str, str] = {}
        for path in names:
            task = task_name(path)
            if paths.setdefault(task, path) != path:
                raise InputError(f"{path} and {paths[task]} would be reported under one name; rename a file")
            if len(task.encode()) > MAX_NAME_BYTES:
                raise InputError(f"{path}: results are written under this name, which is too long; rename the file")
        return {task: self.read(path, True) for task, path in paths.items()}

    def load(self, kind: str, source: Source, key: str, **settings: Any) -> Artifact:
        """The model that the configuration names under `key`. Its fingerprint is of the bytes of its files."""
        config = self._identity(source, key) | {"kind": kind, "settings": settings}
        name = source.name.partition("#sha256=")[0]
        artifact = self.store(
            load, config, progress=self.progress, title=f"load {key.removeprefix('model.')}",
            summary=lambda facts: f"{name}: {read_as(facts['encoder'])}",
        )  # fmt: skip
        encoder = artifact.facts["encoder"]
        self.models.append({"key": key, "name": name, "kind": kind, **encoder, "read_as": read_as(encoder)})
        if encoder.get("guessed"):
            remedy = "its folder has to say" if key == "model.reference" else "set model.pooling to cls or mean"
            taken = "its files name no pooling, and [CLS] is taken (sentence-transformers would take the mean)"
            log.warning(f"{key}={name}: {taken}; {remedy}")
        return artifact

    def _identity(self, source: Source, key: str) -> dict[str, Any]:
        """The settings of `load` that identify a model by its files, and where it is."""
        return {
            "source": source,
            "key": key,
            "state": source.state(),  # before the files are read
            "identity": [[name, file_digest(path)] for name, path in source.files.items()],
        }

    def tokens(self, pairs: Artifact, model: Artifact, title: str) -> Artifact:
        config = {
            "tokenizer": model.facts["tokenizer"],
            "folder": str(model.path),
            "prompts": model.facts["encoder"]["prompts"],
        }
        tokens = self.store(tokenise, config, pairs, progress=self.progress.at(title), title=f"tokenise {title}")
        if tokens.path not in self.warned and warn_of_unknown(tokens.facts["unknown"], tokens.facts["tokens"], title):
            self.warned.add(tokens.path)
        return tokens

    def score(self, model: Artifact, pairs: Artifact, place: str, title: str) -> Artifact:
        """A model's similarities for a set of pairs."""
        tokens, progress = self.tokens(pairs, model, title), self.progress.at(place)
        return self.store(score, self.scoring, model, tokens, progress=progress, title=f"{place} {title}")

    def evaluate_each(
        self, members: Sequence[Member], tasks: Mapping[str, Artifact]
    ) -> Iterator[tuple[str, Artifact, list[Evaluated]]]:
        """For each task, its pairs and the members on them; if there are several, their ensemble comes last."""
        # Member by member, so that each is loaded once.
        by_member = [
            {task: self.score(member.artifact, pairs, member.place, task) for task, pairs in tasks.items()}
            for member in members
        ]
        for task, pairs in tasks.items():
            scored = [scores[task] for scores in by_member]
            evaluated = [
                Evaluated(
                    member.encoder,
                    member.number,
                    np.load(artifact / "raw.npy"),
                    {name: artifact.facts[name] for name in METRIC_NAMES if name in artifact.facts},
                )
                for member, artifact in zip(members, scored, strict=True)
            ]
            if len(members) > 1:
                mean = average(np.stack([np.load(artifact / "scores.npy") for artifact in scored]), "mean")
                encoders = {member.encoder for member in members}
                name = f"{encoders.pop()}-ensemble" if len(encoders) == 1 else "ensemble"
                metrics = compute_metrics(mean, np.load(pairs / "gold.npy"), pairs.facts["binary"])
                evaluated.append(Evaluated(name, None, mean, metrics))
            yield task, pairs, evaluated

    def standard_error(self, first: Member, second: Member, tasks: Mapping[str, Artifact]) -> float:
        """Of the difference between the mean results of two encoders on some tasks, from a paired bootstrap."""
        variances = []
        for task, pairs in tasks.items():
            raws = [np.load(self.score(one.artifact, pairs, one.place, task) / "raw.npy") for one in (first, second)]
            values = bootstrap(raws, np.load(pairs / "gold.npy"), pairs.facts["binary"], RESAMPLES)
            differences = values[:, 1] - values[:, 0]
            defined = differences[~np.isnan(differences)]
            variances.append(np.var(defined) if len(defined) else np.nan)
        return float(np.sqrt(sum(variances)) / len(variances))


def check_processes() -> None:
    """Refuse to run in one of several processes that have not joined.

    Raises:
        InputError: several processes were launched, and this one has not joined them.
    """
    processes = distributed.launched() or 1
    if processes != distributed.size():
        raise InputError(f"{processes} processes were launched as one run; use train.py for that, not Python code")
