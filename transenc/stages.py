"""The stages that teach, and where the configuration of a run becomes objects.

A stage is a pure step from (configuration, artifacts) to a folder (`transenc.artifacts`). Those that make pairs are in
`transenc.pairs`; the others are

    tokenise  -> ids.npy, offsets.npy, and the pairs (and gold scores) again
    start     -> a model folder
    centre    -> a bi-encoder's folder again, its vectors' mean taken to 0
    score     -> raw.npy, scores.npy: one encoder's cosines or logits for one set of pairs, and the scores they make
    label     -> labels.npy: scores averaged over the teachers, in [0, 1]
    teach     -> a model folder, and its learning curve

`Stages` gives each its settings; the loop (`transenc.loop`) calls its methods.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from transenc import distributed
from transenc.artifacts import Artifact, Store, file_digest, stage
from transenc.config import (
    Accelerator,
    Centre,
    Data,
    Failure,
    Paths,
    Precision,
    Scores,
    Select,
    Start,
    Strategy,
    Teachers,
    Train,
    Trainer,
    listed,
)
from transenc.data import hub, published
from transenc.data.tokens import TokenisedPairs
from transenc.data.tokens import tokenise as tokenise_pairs
from transenc.errors import InputError, nearest
from transenc.metrics import main_measure, measure, varies
from transenc.model_folder import Source, describe, find
from transenc.pairs import Config, Facts, corpus, embed, flatten, gather, gold, mine, read, sentences_of, spread
from transenc.progress import Watch
from transenc.results import NAMES, Row, shown
from transenc.terminal import quiet

if TYPE_CHECKING:
    from transenc.encoders import PairEncoder

log = logging.getLogger("transenc")

LONGEST = 200  # bytes in a set's name; names of files may have 255, and are made of this and the encoder's
CONSTANT = 0.003  # standard deviation of labels in [0, 1] below which there is nothing to learn
REMEDIES = {  # by the cause of a failed training
    "few steps": "raise distill.{kind}.min_steps",
    "low rate": "raise distill.{kind}.learning_rate, or distill.{kind}.min_steps",
    "high rate": "lower distill.{kind}.learning_rate",
    "nan": "lower distill.{kind}.learning_rate, or set trainer.precision=32-true",
    "chance": "try another distill.{kind}.learning_rate, or raise distill.{kind}.min_steps",
}
FLAT_GOLD = "holds one gold score only, once or throughout"
KNOWN = (*published.PUBLISHED, *hub.HUB)  # sets of pairs that have a name


def stem(name: str) -> str:
    """What a set is reported under: its own name, or a file's without folder and suffix."""
    return name if name in KNOWN else Path(name).stem


# The stages themselves: plain values in `config`, a folder out. What takes seconds to import is imported by the stage
# that needs it, so that a run which finds everything built starts at once.


def encoder_class(kind: str) -> "type[PairEncoder]":
    from transenc.encoders import BiEncoder, CrossEncoder

    quiet()
    return {"bi": BiEncoder, "cross": CrossEncoder}[kind]


@stage(version=1, ignore=("folder",))
def tokenise(out: Path, config: Config, watch: Watch, pairs: Artifact) -> Facts:
    """The tokens of a set of pairs; models that share a tokenizer share them."""
    from transformers import AutoTokenizer

    quiet()
    tokenizer = AutoTokenizer.from_pretrained(config["folder"], trust_remote_code=False)
    sentences = sentences_of(pairs)
    gold = np.load(pairs / "gold.npy") if (pairs / "gold.npy").exists() else None
    with watch.bar("tokenise", len(sentences), "sentence") as bar:
        tokens = tokenise_pairs(sentences, np.load(pairs / "pairs.npy"), tokenizer, gold, bar.update)
    tokens.save(out)
    facts = {"binary": pairs.facts["binary"]} if gold is not None else {}
    return {**facts, "tokens": len(tokens.ids), "summary": f"{len(tokens.ids):,} tokens"}


@stage(version=3, ignore=("source", "key", "state"))
def start(out: Path, config: Config, watch: Watch) -> Facts:
    """The model a person named, as the kind of encoder it is to be, in our own folder layout."""
    source, settings = config["source"], config["settings"]
    try:
        model = encoder_class(config["kind"]).load(source, **settings)
        if source.state() != config["state"]:  # the identity is of other bytes, perhaps, than were read
            raise InputError(f"{source.name}: changed while it was read; give the command again")
    except InputError as error:
        raise InputError(f"{config['key']}={error}") from None
    model.save(out)
    summary, facts = source.name.partition("#")[0], {}
    if config["kind"] == "bi":
        default = settings["pooling"] == "auto" and describe(source.folder).pooling is None
        summary += f", {model.pooling} pooling{' (the default)' if default else ''}"
        facts = {"centrable": model.shift() is not None}
    return {**_describe(out, model), **facts, "summary": summary}


@stage(version=1, ignore=("batch_tokens", "accelerator"))
def centre(out: Path, config: Config, watch: Watch, model: Artifact, tokens: Artifact) -> Facts:
    """A bi-encoder whose vectors have a mean of 0 over the pool's sentences."""
    from transenc.encoders.bi import CENTRED, BiEncoder

    quiet()
    encoder, pairs = BiEncoder.load(model.path).to(config["accelerator"]), TokenisedPairs.load(tokens.path)
    with watch.bar("centre", min(CENTRED, len(pairs.lengths)), "sentence") as bar:
        share = encoder.centre(pairs, config["batch_tokens"], bar.update)
    encoder.save(out)
    return {**_describe(out, encoder), "share": share, "summary": f"the mean was {share:.0%} of a vector's length"}


@stage(version=3, ignore=("batch_tokens", "accelerator"))
@distributed.together
def score(out: Path, config: Config, watch: Watch, model: Artifact, tokens: Artifact) -> Facts:
    """One encoder's similarities for one set of pairs."""
    encoder = encoder_class(model.facts["kind"]).load(model.path).to(config["accelerator"])
    pairs = TokenisedPairs.load(tokens.path)
    with watch.bar("score", encoder.work(pairs.select(distributed.own(len(pairs)))), "seq") as bar:
        raw = _score(encoder, pairs, config, bar.update)
    if distributed.rank():
        return {}
    scores = encoder.to_score(torch.from_numpy(raw)).numpy()
    np.save(out / "raw.npy", raw)
    np.save(out / "scores.npy", scores)
    summary = f"{len(raw):,} pairs"
    facts = {}
    if pairs.gold is not None:
        facts = measure(raw, pairs.gold, tokens.facts["binary"])
        name = "auc" if tokens.facts["binary"] else "spearman"
        summary += f", {NAMES[name]} {shown(facts[name])}"
    return {"kind": encoder.kind, "pairs": len(raw), **facts, "summary": summary}


def _score(
    encoder: "PairEncoder", pairs: TokenisedPairs, config: Config, progress: Callable[[int], Any] = lambda count: None
) -> np.ndarray:
    """[N] similarities, of which each rank computes its share."""
    rows = distributed.own(len(pairs))
    mine = pairs if len(rows) == len(pairs) else pairs.select(rows)
    raw = encoder.score(mine, config["batch_tokens"], progress, config["precision"])
    return distributed.united(raw, len(pairs))


@stage(version=2)
def label(out: Path, config: Config, watch: Watch, *scored: Artifact) -> Facts:
    """Labels for the students: the teachers' scores, averaged, and clamped to [0, 1], where both losses are defined."""
    scores = average(np.stack([np.load(artifact / "scores.npy") for artifact in scored]), config["average"])
    clamped = float(np.mean((scores < 0) | (scores > 1)))
    labels = np.clip(scores, 0, 1).astype(np.float32)
    np.save(out / "labels.npy", labels)
    low, middle, high = np.quantile(labels, (0.1, 0.5, 0.9)).tolist()
    summary = f"10/50/90% {low:.2f} {middle:.2f} {high:.2f}, clamped {clamped:.1%}"
    return {"clamped": clamped, **spread(labels), "summary": summary}


def average(scores: np.ndarray, how: str) -> np.ndarray:
    """Several teachers' scores as one.

    Args:
        scores: [M, N], a row for each teacher.
        how: "mean"; "z", the mean of the standardised rows, brought back to the rows' average mean and deviation; or
            "rank", the pairs in the order of their mean rank, given the values of the plain mean in that order. All
            three are the same for a single teacher.

    Returns:
        [N] float64.
    """
    scores = scores.astype(np.float64)
    mean = scores.mean(axis=0)
    if len(scores) == 1 or how == "mean":
        return mean
    if how == "z":
        centre, deviation = scores.mean(axis=1, keepdims=True), scores.std(axis=1, keepdims=True)
        # A constant teacher says nothing; rounding leaves it a deviation of not quite 0.
        standard = np.where(deviation > 1e-9, (scores - centre) / np.maximum(deviation, 1e-9), 0)
        return centre.mean() + deviation.mean() * standard.mean(axis=0)
    from scipy.stats import rankdata

    place = rankdata(rankdata(scores, axis=1).mean(axis=0))  # 1 to N; ties lie between two places
    return np.interp(place, np.arange(1, len(mean) + 1), np.sort(mean))


@stage(version=5, ignore=("batch_tokens",))
@distributed.together
def teach(
    out: Path, config: Config, watch: Watch, student: Artifact, tokens: Artifact, labels: Artifact, *dev: Artifact
) -> Facts:
    """A student taught the labels; kept is its best checkpoint by the selection that `config` names, or its last.

    Of one that comes to nothing only the curve is kept, and the fact `failed`, which says why.
    """
    from transenc.data.module import PairDataModule
    from transenc.encoders import Learning
    from transenc.training import SAMPLE, Bookmark, Failed, examine
    from transenc.training import teach as teach_student

    settings, seed = config["teaching"], config["seed"]
    encoder = encoder_class(student.facts["kind"]).load(student.path)
    encoder.learning = Learning(**{k: settings[k] for k in ("loss", "learning_rate", "warmup", "weight_decay")})
    pairs, targets = TokenisedPairs.load(tokens.path), np.load(labels / "labels.npy")
    judged: TokenisedPairs | None = None
    truth: np.ndarray | None = None
    binary = False
    if config["select"] == "dev":
        judged = TokenisedPairs.load(dev[0].path)
        truth, binary = judged.gold, dev[0].facts["binary"]
    elif config["select"] == "agreement":
        # The same pairs in every iteration, since iterations are compared by them.
        rows = np.random.default_rng(config["holdout"]["seed"]).permutation(len(pairs))
        held, taught_rows = np.split(rows, [max(2, int(config["holdout"]["share"] * len(pairs)))])
        judged, truth = pairs.select(np.sort(held)), targets[np.sort(held)]
        pairs, targets = pairs.select(np.sort(taught_rows)), targets[np.sort(taught_rows)]
    if not len(pairs):
        raise InputError("data.path: too few pairs to hold some out for selection by agreement; add pairs")

    lessons = PairDataModule(
        pairs,
        targets,
        encoder.collate,
        batch_size=settings["batch_size"],
        both_orders=settings["both_orders"],
        seed=seed,
        min_batches=math.ceil(settings["min_steps"] / settings["epochs"]),
        part=(distributed.rank(), distributed.size()),
    )
    if lessons.passes > 1:
        few = f"{len(pairs):,} pairs are few; an epoch passes over them {lessons.passes} times"
        log.info("%s: %s, so that there are %d steps or more", watch.place, few, settings["min_steps"])

    def selection(model: "PairEncoder") -> float:
        assert judged is not None
        assert truth is not None
        raw = _score(model, judged, config)
        return main_measure(raw, truth, binary)

    curve: list[dict[str, float]] = []

    def record(row: dict[str, float]) -> None:
        curve.append(row)
        watch.row(row)

    def written(facts: Facts) -> Facts:
        if distributed.rank():
            return {}
        (out / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in curve), encoding="utf-8")
        return {"kind": encoder.kind, **facts}

    with watch.bar("teach", settings["epochs"] * lessons.batches, "step") as bar:
        try:
            taught = teach_student(
                encoder,
                lessons,
                epochs=settings["epochs"],
                clip=settings["clip"],
                accelerator=config["accelerator"],
                precision=config["precision"],
                seed=seed,
                selection=selection if judged is not None else None,
                eval_steps=settings["eval_steps"],
                bookmark=Bookmark(out),
                record=record,
                progress=bar.update,
            )
            encoder.to(config["accelerator"])
            if "centre" in config:
                encoder.centre(pairs, config["batch_tokens"])
                if taught.best is not None:
                    taught.best = selection(encoder)  # iterations are compared as they are handed on
            if config["examine"]:
                some = np.unique(np.linspace(0, len(pairs) - 1, SAMPLE).astype(int))
                raw = _score(encoder, pairs.select(some), config)
                scores, steps = encoder.to_score(torch.from_numpy(raw)).numpy(), settings["epochs"] * lessons.batches
                examine(scores, targets[some], steps, settings["learning_rate"])
        except Failed as failed:
            return written({"failed": str(failed), "cause": failed.cause, "summary": f"failed: {failed}"})
    if distributed.rank():
        return {}
    encoder.save(out)
    losses = [row["loss"] for row in curve if "loss" in row]
    repeated = f" in {settings['epochs'] * lessons.passes} passes" if lessons.passes > 1 else ""
    summary = f"{len(losses):,} steps{repeated}, loss {np.mean(losses[-20:]):.4f}"
    if taught.best is not None:
        summary += f", {config['select']} {100 * taught.best:.2f} at {taught.step:,}"
    facts = {"select": config["select"], "selection": taught.best, "step": taught.step, "summary": summary}
    facts["centred"] = "centre" in config
    return written({**_describe(out, encoder), **facts})


def _describe(folder: Path, model: "PairEncoder") -> Facts:
    # A tokenizer is the same for two models if this file is; the lengths to which they cut are in another.
    return {"kind": model.kind, "tokenizer": file_digest(folder / "tokenizer.json")}


def locate(key: str, name: str) -> Source:
    """Find the model that the configuration names under `key`; an error says so."""
    try:
        return find(name)
    except InputError as error:
        raise InputError(f"{key}={error}") from None


def device_of(asked: Accelerator) -> str:
    """Lightning's name of the device to use.

    Raises:
        InputError: a GPU is asked for and torch sees none.
    """
    found = torch.cuda.is_available()
    if asked is Accelerator.gpu and not found:
        raise InputError("trainer.accelerator=gpu: torch sees no GPU here; use cpu or auto")
    return "cuda" if found and asked is not Accelerator.cpu else "cpu"


def _check_processes(strategy: Strategy) -> None:
    """
    Raises:
        InputError: what was started is not what `trainer.strategy` says.
    """
    processes = distributed.started()
    if (processes or 1) != distributed.size():
        raise InputError(
            f"{processes} processes were started, and this one knows of none: use train.py, not Python code"
        )
    if strategy is Strategy.ddp and processes is None:
        raise InputError(
            "trainer.strategy=ddp: nothing started several processes; use"
            " torchrun --nproc-per-node N train.py trainer=ddp ... (or srun), or leave it out"
        )
    if strategy is Strategy.single and processes not in (None, 1):
        raise InputError(f"trainer.strategy=single: {processes} processes were started as one run; add trainer=ddp")


def precision_of(asked: Precision, accelerator: str) -> str:
    """Lightning's name of the training precision: bf16 where the hardware computes in it, which halves the time."""
    if asked is not Precision.auto:
        return asked.name
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


# From here on: configuration.


@dataclass(frozen=True)
class Member:
    """One encoder of an iteration: an artifact with its place in the run.

    Attributes:
        kind: "bi" or "cross".
        iteration: 0 for a start model, None for one that stands beside the run.
        number: its place in `model.bi` or `model.cross`.
        several: whether it is one of several there.
        artifact: its model folder.
        centred: whether it is a start bi-encoder whose vectors' mean has been taken to 0.
    """

    kind: str
    iteration: int | None
    number: int
    several: bool
    artifact: Artifact
    centred: bool = False

    @property
    def encoder(self) -> str:
        """What it is called in results.csv."""
        return f"{self.kind}-centred" if self.centred else self.kind

    @property
    def name(self) -> str:
        """`cross`, or `cross-0`, `cross-1`, ... where there are several."""
        return f"{self.kind}-{self.number}" if self.several else self.kind

    @property
    def place(self) -> str:
        if self.iteration is None:
            return "reference"
        return f"{self.iteration}/{self.name}" + ("-centred" if self.centred else "")


def _digest(path: Path) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


class Scoring:
    """Sets of pairs and similarities as artifacts: `data`, `paths` and `trainer` bound to a store."""

    def __init__(self, store: Store, data: Data, paths: Paths, trainer: Trainer, watch: Watch):
        self.store, self.data, self.dataset, self.watch = store, data, Path(paths.dataset), watch
        self.accelerator = device_of(trainer.accelerator)
        _check_processes(trainer.strategy)
        self.score_tokens = trainer.score_tokens

    def read(self, name: str, scored: bool) -> Artifact:
        """The pairs of a set or file, with gold scores if `scored`."""
        kind, form = name, None
        if name in published.PUBLISHED:
            files = published.find(name, self.dataset)
        elif name in hub.HUB:
            local = hub.find(name, self.dataset)
            files = [] if local is None else [local]
            kind = f"{name}@{hub.HUB[name].source[1]}"  # the revision, in place of the digest that only files have
        elif os.path.isfile(name):
            files, kind = [Path(name)], Path(name).suffix.lower()
            if scored and self.data.columns.score is None:
                raise InputError(f"{name}: has to be scored, and data.columns.score=null names no column of scores")
            form = asdict(self.data.columns) | ({} if scored else {"score": None})
            form |= {"score_min": self.data.score_min, "score_max": self.data.score_max}
            form |= {"binary": self.data.scores is Scores.binary}
            if form["binary"]:
                form |= {"score_min": 0.0, "score_max": 1.0}
        else:
            hint = nearest(name, KNOWN, listed=True)
            raise InputError(f"{name}: neither a file nor a known set of pairs{hint}")
        config = {
            "name": name,
            "kind": kind,
            "files": [str(path) for path in files],
            "digests": [_digest(path) for path in files],
            "scored": scored,
            "format": form,
            "strip": self.data.clean.blanks,
        }
        return self.store(read, config, watch=self.watch, title=f"read {stem(name)}")

    def tasks(self, names: Sequence[str]) -> dict[str, Artifact]:
        """Scored sets by the name under which they are reported: a set's own, or a file's without suffix."""
        found: dict[str, str] = {}
        for name in names:
            if found.setdefault(stem(name), name) != name:
                raise InputError(f"{name} and {found[stem(name)]} would be reported under one name; rename a file")
            if len(stem(name).encode()) > LONGEST:
                raise InputError(f"{name}: results are written under this name, which is too long; rename the file")
        return {task: self.read(name, True) for task, name in found.items()}

    def start(self, kind: str, source: Source, key: str, **settings: Any) -> Artifact:
        """The model that the configuration names under `key`. It counts by the bytes of its files."""
        state = source.state()
        identity = [[str(path.relative_to(source.folder)), file_digest(path)] for path in source.files]
        config = {"kind": kind, "source": source, "key": key, "settings": settings, "state": state}
        config["identity"] = identity
        return self.store(start, config, watch=self.watch, title=f"start {key.removeprefix('model.')}")

    def tokens(self, pairs: Artifact, model: Artifact, title: str) -> Artifact:
        config = {"tokenizer": model.facts["tokenizer"], "folder": str(model.path)}
        return self.store(tokenise, config, pairs, watch=self.watch.at(title), title=f"tokenise {title}")

    def score(self, model: Artifact, pairs: Artifact, place: str, title: str, precision: str = "32-true") -> Artifact:
        """A model's similarities for a set of pairs."""
        tokens = self.tokens(pairs, model, title)
        config = {**self._batches, "precision": precision}
        return self.store(score, config, model, tokens, watch=self.watch.at(place), title=f"{place} {title}")

    @property
    def _batches(self) -> dict[str, Any]:
        return {"batch_tokens": self.score_tokens, "accelerator": self.accelerator}

    def correlate(self, members: Sequence[Member], tasks: Mapping[str, Artifact]) -> list[Row]:
        """Each member's results on each task; of several members, those of their mean score too."""
        rows = []
        for task, pairs in tasks.items():
            gold = np.load(pairs / "gold.npy")
            scored = [self.score(member.artifact, pairs, member.place, task) for member in members]
            for member, artifact in zip(members, scored, strict=True):
                values = {key: value for key, value in artifact.facts.items() if key in NAMES}
                rows.append(Row(member.iteration, member.encoder, member.number, task, len(gold), **values))
            if len(members) > 1:
                mean = average(np.stack([np.load(artifact / "scores.npy") for artifact in scored]), "mean")
                values = measure(mean, gold, pairs.facts["binary"])
                rows.append(
                    Row(members[0].iteration, f"{members[0].encoder}-ensemble", None, task, len(gold), **values)
                )
        return rows


class Stages(Scoring):
    """The verbs of the loop: the whole configuration bound to a store.

    What is wrong with the data shows here, before a model is loaded.
    """

    def __init__(self, cfg: Train, store: Store, watch: Watch):
        super().__init__(store, cfg.data, cfg.paths, cfg.trainer, watch)
        self.cfg = cfg
        self.failures: list[dict[str, Any]] = []  # of students: where, why by seed, what stands in their place
        self.precision = precision_of(cfg.trainer.precision, self.accelerator)
        self.select = cfg.distill.select
        if self.select is Select.auto:
            self.select = Select.agreement if cfg.data.dev is None else Select.dev
        self._read_sources()
        dev = [] if cfg.data.dev is None else [cfg.data.dev]
        tasks = self.tasks([*dev, *cfg.data.test])
        for name in [*dev, *cfg.data.test]:
            if not varies(np.load(tasks[stem(name)] / "gold.npy")):
                if name == cfg.data.dev and self.select is Select.dev:
                    raise InputError(
                        f"data.dev={name}: {FLAT_GOLD}, and nothing can be selected by it; give other pairs, or"
                        " data.dev=null"
                    )
                log.warning("%s: %s, so correlations with it are undefined", name, FLAT_GOLD)
        self.dev = {task: pairs for task, pairs in tasks.items() if task in map(stem, dev)}
        self.tests = {task: pairs for task, pairs in tasks.items() if task in map(stem, cfg.data.test)}

    def _read_sources(self) -> None:
        """What is learnt from: sets of pairs, a corpus to make pairs of, and pairs added to them."""
        data = self.data
        self.corpus: Artifact | None = None
        self.extra: list[Artifact] = []
        if self.cfg.distill.direction.supervised:
            self.own = [self.read(name, True) for name in data.gold]
            return
        if data.sentences is not None:
            if not os.path.isfile(data.sentences):
                raise InputError(f"data.sentences={data.sentences}: no such file")
            config = {"file": data.sentences, "digest": _digest(Path(data.sentences))}
            self.corpus = self.store(corpus, config, watch=self.watch, title=f"read {stem(data.sentences)}")
        names = [data.path] if data.path is not None else data.pool if data.sentences is None else []
        self.own = [self.read(name, False) for name in names]
        self.extra = [self.read(name, False) for name in ([] if data.extra is None else listed(data.extra))]

    def start_models(self, kind: str) -> list[Member]:
        """The start models of one kind, as iteration 0. A student cross-encoder's head is new, and untrained."""
        choice = self.cfg.model
        names = listed(getattr(choice, kind))

        def each(values: Any) -> list[Any]:
            return list(values) if isinstance(values, list) else [values] * len(names)

        if kind == "bi":
            settings = {"pooling": each(choice.pooling)}
        else:
            settings = {"new_head": each(None), "symmetric": each(self.cfg.distill.symmetric and not self.data.ordered)}
            if kind in self.cfg.distill.direction.students:
                # The first member's head is of the run's seed itself, the others' of seeds that no other run has.
                settings["new_head"] = [self.cfg.seed + number * 1_000_003 for number in range(len(names))]
        for key in ("layers", "max_tokens"):
            settings[key] = each(getattr(choice, f"{kind}_{key}"))
        members = []
        for number, name in enumerate(names):
            own = {key: values[number] for key, values in settings.items()}
            key = f"model.{kind}"
            model = self.start(kind, locate(key, name), key, **own)
            members.append(Member(kind, 0, number, len(names) > 1, model))
        if kind == "bi":
            for member in members:
                if self.cfg.distill.centre is not Centre.none and not member.artifact.facts["centrable"]:
                    raise InputError(
                        f"model.bi={names[member.number]}: cannot be centred, its last layer does not end with a"
                        " normalisation that has a bias; set distill.centre=none"
                    )
        return members

    def _centring(self, member: Member) -> Centre:
        """Whether a bi-encoder is centred as the start it is, or once it has been taught."""
        asked = self.cfg.distill.centre
        if asked is not Centre.auto:
            return asked
        return Centre.starts if describe(member.artifact.path).pooling == "cls" else Centre.students

    def trained(self, encoders: Mapping[str, Sequence[Member]]) -> list[str]:
        """The kinds that can score: all but a start cross-encoder that is to be taught first."""
        students = self.cfg.distill.direction.students
        return [kind for kind in encoders if kind == "bi" or kind not in students or encoders[kind][0].iteration]

    def gather(self, starts: Mapping[str, Sequence[Member]]) -> Artifact:
        """The pairs to learn from. The first start bi-encoder finds the neighbours among single sentences."""
        data, sources = self.data, self.own
        judged = [*self.dev.values(), *self.tests.values()]
        if self.corpus is not None:
            sources = [*sources, self.mine(self.corpus, starts["bi"][0])]
        config: dict[str, Any] = {"own": len(sources), "ordered": data.ordered, "seed": data.seed}
        config |= {key: getattr(data.clean, key) for key in ("empty", "identical", "repeated")}
        config |= {"limit": None if data.flatten else data.limit}
        if self.cfg.distill.direction.supervised:
            return self.store(gold, config, *sources, *judged, watch=self.watch, title="gold")
        config |= {"extra": len(self.extra), "extra_limit": data.extra_limit, "transductive": data.transductive}
        return self.store(gather, config, *sources, *self.extra, *judged, watch=self.watch, title="pool")

    def flatten(self, pool: Artifact, labels: Artifact) -> Artifact:
        """`data.limit` pairs of the pool, their start labels spread evenly."""
        config = {"count": self.data.limit, "seed": self.data.seed}
        return self.store(flatten, config, pool, labels, watch=self.watch, title="flatten")

    def centre(self, starts: Mapping[str, Sequence[Member]], pool: Artifact) -> dict[int, Member]:
        """Those start bi-encoders that are to be centred, by number, their mean vector over the pool taken to 0."""
        centred = {}
        for member in starts.get("bi", ()):
            if self._centring(member) is not Centre.starts:
                continue
            moved = replace(member, centred=True)
            tokens = self.tokens(pool, member.artifact, "pool")
            watch = self.watch.at(moved.place)
            artifact = self.store(centre, self._batches, member.artifact, tokens, watch=watch, title=moved.place)
            centred[member.number] = replace(moved, artifact=artifact)
        return centred

    def mine(self, corpus: Artifact, bi: Member) -> Artifact:
        """Pairs out of single sentences."""
        mining, vectors = self.data.mining, []
        if mining.nearest > 0:
            tokens = self.tokens(corpus, bi.artifact, "sentences")
            watch = self.watch.at(bi.place)
            vectors = [self.store(embed, self._batches, bi.artifact, tokens, watch=watch, title=f"{bi.place} embed")]
        config = {
            "pairs": mining.pairs,
            "shares": {kind: getattr(mining, kind) for kind in ("random", "nearest", "lexical")},
            "neighbours": mining.neighbours,
            "seed": self.data.seed,
        }
        return self.store(mine, config, corpus, *vectors, watch=self.watch, title="mine")

    def label(self, encoders: Mapping[str, Sequence[Member]], teacher: str, pool: Artifact, iteration: int) -> Artifact:
        """Labels for the pool: the teachers' average, or the human scores that came with it."""
        if teacher == "gold":
            return pool
        kinds = [teacher] if self.cfg.distill.teachers is Teachers.other else self.trained(encoders)
        members = [member for kind in kinds for member in encoders[kind]]
        scored = [self.score(m.artifact, pool, m.place, "pool", self.precision) for m in members]
        config = {"average": self.cfg.distill.average.name}
        title = f"{iteration}/{teacher} label"
        labels = self.store(label, config, *scored, watch=self.watch, title=title)
        if not labels.facts["std"] >= CONSTANT and self.cfg.distill.failure is not Failure.ignore:
            raise InputError(
                f"{title}: all but constant, mean {labels.facts['mean']:.3f} and standard deviation"
                f" {labels.facts['std']:.2g}, below {CONSTANT:g}: nothing can be learnt of them; take a start that"
                " tells these pairs apart (model.bi, model.pooling), or other pairs"
            )
        return labels

    def teach(self, student: Member, previous: Member, pool: Artifact, labels: Artifact, iteration: int) -> Member:
        """One student, taught from where `student` stands; `previous` in its place if all seeds fail, and it may.

        Raises:
            InputError: it failed with every seed.
        """
        teaching = self.cfg.distill.cross if student.kind == "cross" else self.cfg.distill.bi
        if self.data.ordered:
            teaching = replace(teaching, both_orders=False)
        taught = Member(student.kind, iteration, student.number, student.several, student.artifact)
        holdout = {"share": self.cfg.distill.holdout, "seed": self.cfg.seed}
        config = {
            "teaching": {key: v.name if isinstance(v, Enum) else v for key, v in asdict(teaching).items()},
            "select": self.select.name,
            "holdout": holdout if self.select is Select.agreement else None,
            "precision": self.precision,
            "accelerator": self.accelerator,
            "batch_tokens": self.score_tokens,
            "examine": self.cfg.distill.failure is not Failure.ignore,
        }
        if student.kind == "bi" and self._centring(student) is Centre.students:
            config["centre"] = True
        if distributed.size() > 1:  # each draws a dropout of its own
            config["processes"] = distributed.size()
        tokens = self.tokens(pool, student.artifact, "pool")
        dev = [self.tokens(pairs, student.artifact, name) for name, pairs in self.dev.items()]
        inputs = [student.artifact, tokens, labels, *(dev if self.select is Select.dev else [])]
        reasons: list[str] = []
        for name in (taught.place, *(f"{taught.place}/{retry}" for retry in range(1, self.cfg.distill.retries + 1))):
            config["seed"] = int(hashlib.sha256(f"{self.cfg.seed}/{name}".encode()).hexdigest()[:8], 16)
            watch = self.watch.at(name)
            artifact = self.store(teach, config, *inputs, watch=watch, title=f"{taught.place} teach")
            if artifact.reused:  # its curve belongs to this run as well
                watch.rows(map(json.loads, (artifact / "curve.jsonl").read_text(encoding="utf-8").splitlines()))
            if "failed" not in artifact.facts:
                break
            reasons.append(artifact.facts["failed"])
            if artifact.facts["cause"] != "chance":
                break
        kept = "failed" in artifact.facts
        if reasons:
            self.failures.append({"place": taught.place, "reasons": reasons, "kept": previous.place if kept else None})
        if not kept:
            return replace(taught, artifact=artifact)
        seeds = f"with {len(reasons)} seeds" if len(reasons) > 1 else "with one seed"
        told = f"{taught.place} failed {seeds}: {reasons[-1]}"
        if self.cfg.distill.failure is Failure.keep and (previous.iteration or previous.kind == "bi"):
            log.warning("%s; %s is kept in its place", told, previous.place)
            return replace(taught, artifact=previous.artifact)
        raise InputError(f"{told}; {REMEDIES[artifact.facts['cause']].format(kind=student.kind)}")

    def students(self, bases: Sequence[Member], previous: Sequence[Member]) -> Sequence[Member]:
        """What an iteration's students begin as."""
        return bases if self.cfg.distill.start is Start.base else previous

    def evaluate(self, members: Sequence[Member]) -> list[Row]:
        """The members' results on the development and test sets."""
        return self.correlate(members, {**self.dev, **self.tests})

    def reference(self) -> list[Row]:
        """The bi-encoder named for comparison, on the same sets; nothing where none is named."""
        name = self.cfg.model.reference
        if name is None:
            return []
        key = "model.reference"
        model = self.start("bi", locate(key, name), key, pooling="auto", layers=None, max_tokens=None)
        return self.evaluate([Member("bi", None, 0, False, model)])
