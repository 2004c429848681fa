"""The stages, and the only place where configuration becomes objects.

A stage is a pure step from (configuration, artifacts) to a folder (`transenc.artifact`):

    read      -> sentences.txt, pairs.npy, and gold.npy for development and test pairs only
    tokenise  -> ids.npy, offsets.npy, and the pairs (and gold scores) again
    start     -> a model folder
    score     -> raw.npy, scores.npy: one encoder's cosines or logits for one set of pairs, and the scores they make
    label     -> labels.npy: scores averaged over the teachers, in [0, 1]
    teach     -> a model folder, and its learning curve

`Stages` gives each its settings; the loop (`transenc.loop`) calls its methods.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import pearsonr, spearmanr
from transformers import AutoTokenizer

from transenc.artifact import Artifact, Store, file_digest, stage
from transenc.config import Accelerator, Data, Paths, Precision, Select, Start, Train, Trainer, pool
from transenc.data import published
from transenc.data.files import Format, read_file
from transenc.data.module import PairDataModule
from transenc.data.tokens import TokenisedPairs, number_sentences
from transenc.data.tokens import tokenise as tokenise_pairs
from transenc.encoders import BiEncoder, CrossEncoder, Learning, PairEncoder
from transenc.encoders.folder import find
from transenc.errors import InputError
from transenc.results import Row
from transenc.teaching import teach as teach_student
from transenc.watch import Watch

ENCODERS: dict[str, type[PairEncoder]] = {"bi": BiEncoder, "cross": CrossEncoder}
Config = Mapping[str, Any]
Facts = dict[str, Any]


def spearman(raw: np.ndarray, gold: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either side is constant, which ranks nothing."""
    return float(spearmanr(raw, gold).statistic) if np.ptp(raw) > 0 and np.ptp(gold) > 0 else 0.0


def pearson(raw: np.ndarray, gold: np.ndarray) -> float:
    """Pearson's correlation; 0 where either side is constant."""
    return float(pearsonr(raw, gold).statistic) if np.ptp(raw) > 0 and np.ptp(gold) > 0 else 0.0


def stem(name: str) -> str:
    """What a set is reported under: its own name, or a file's without folder and suffix."""
    return name if name in published.PUBLISHED else Path(name).stem


# The stages themselves: plain values in `config`, a folder out.


@stage(version=1, ignore=("names", "files"))
def read(out: Path, config: Config, watch: Watch) -> Facts:
    """The pairs of one or more sets; scored sets bring gold scores, unlabelled ones have no place for any."""
    pairs = []
    for name, paths in zip(config["names"], config["files"], strict=True):
        if name in published.PUBLISHED:
            pairs += published.read(name, [Path(p) for p in paths], config["scored"])
        else:
            pairs += read_file(Path(paths[0]), Format(**config["format"]))
    kept = [pair for pair in pairs if pair.sentence1 and pair.sentence2]
    if not kept:
        raise InputError(f"{', '.join(config['names'])}: every pair has an empty sentence")
    sentences, index = number_sentences([pair[:2] for pair in kept])
    rows = np.arange(len(index))
    if config["deduplicate"]:
        rows = np.sort(np.unique(np.sort(index, axis=1), axis=0, return_index=True)[1])
    (out / "sentences.txt").write_text("\n".join(sentences), encoding="utf-8", newline="\n")
    np.save(out / "pairs.npy", index[rows])
    if config["scored"]:
        np.save(out / "gold.npy", np.array([pair.score for pair in kept])[rows])
    empty, twice = len(pairs) - len(kept), len(kept) - len(rows)
    summary = f"{len(rows):,} pairs, {len(sentences):,} sentences"
    summary += f"; dropped {empty:,} with an empty sentence" if empty else ""
    summary += f"; dropped {twice:,} repeated" if twice else ""
    return {"pairs": len(rows), "sentences": len(sentences), "empty": empty, "repeated": twice, "summary": summary}


def sentences_of(pairs: Artifact) -> list[str]:
    return (pairs / "sentences.txt").read_text(encoding="utf-8").split("\n")


@stage(version=1, ignore=("folder",))
def tokenise(out: Path, config: Config, watch: Watch, pairs: Artifact) -> Facts:
    """The tokens of a set of pairs; models that share a tokenizer share them."""
    tokenizer = AutoTokenizer.from_pretrained(config["folder"])
    sentences = sentences_of(pairs)
    gold = np.load(pairs / "gold.npy") if (pairs / "gold.npy").exists() else None
    with watch.bar("tokenise", len(sentences), "sentence") as bar:
        tokens = tokenise_pairs(sentences, np.load(pairs / "pairs.npy"), tokenizer, gold, bar.update)
    tokens.save(out)
    return {"tokens": len(tokens.ids), "summary": f"{len(tokens.ids):,} tokens"}


@stage(version=1, ignore=("name", "key"))
def start(out: Path, config: Config, watch: Watch) -> Facts:
    """The model a person named, as the kind of encoder it is to be, in our own folder layout."""
    try:
        model = ENCODERS[config["kind"]].load(config["name"], **config["settings"])
    except InputError as error:
        raise InputError(f"{config['key']}={error}") from None
    model.save(out)
    return {**_describe(out, model), "summary": config["name"].partition("#")[0]}


@stage(version=1, ignore=("batch_tokens", "accelerator"))
def score(out: Path, config: Config, watch: Watch, model: Artifact, tokens: Artifact) -> Facts:
    """One encoder's similarities for one set of pairs, in fp32."""
    encoder = ENCODERS[model.facts["kind"]].load(model.path).to(config["accelerator"])
    pairs = TokenisedPairs.load(tokens.path)
    with watch.bar("score", encoder.work(pairs), "seq") as bar:
        raw = encoder.score(pairs, config["batch_tokens"], bar.update)
    scores = encoder.to_score(torch.from_numpy(raw)).numpy()
    np.save(out / "raw.npy", raw)
    np.save(out / "scores.npy", scores)
    summary = f"{len(raw):,} pairs"
    facts = {}
    if pairs.gold is not None:
        facts = {"spearman": spearman(raw, pairs.gold), "pearson": pearson(raw, pairs.gold)}
        summary += f", Spearman {100 * facts['spearman']:.2f}"
    return {"pairs": len(raw), **facts, "summary": summary}


@stage(version=1)
def label(out: Path, config: Config, watch: Watch, *scored: Artifact) -> Facts:
    """Labels for the students: the teachers' scores, averaged, and clamped to [0, 1], where both losses are defined."""
    mean = np.mean([np.load(artifact / "scores.npy") for artifact in scored], axis=0, dtype=np.float64)
    clamped = float(np.mean((mean < 0) | (mean > 1)))
    labels = np.clip(mean, 0, 1).astype(np.float32)
    np.save(out / "labels.npy", labels)
    low, middle, high = np.quantile(labels, (0.1, 0.5, 0.9)).tolist()
    summary = f"10/50/90% {low:.2f} {middle:.2f} {high:.2f}, clamped {clamped:.1%}"
    return {"clamped": clamped, "mean": float(labels.mean()), "std": float(labels.std()), "summary": summary}


@stage(version=1, ignore=("batch_tokens",))
def teach(
    out: Path, config: Config, watch: Watch, student: Artifact, tokens: Artifact, labels: Artifact, *dev: Artifact
) -> Facts:
    """A student taught the labels; kept is its best checkpoint by the selection that `config` names, or its last."""
    settings, seed = config["teaching"], config["seed"]
    encoder = ENCODERS[student.facts["kind"]].load(student.path)
    encoder.learning = Learning(**{k: settings[k] for k in ("loss", "learning_rate", "warmup", "weight_decay")})
    pairs, targets = TokenisedPairs.load(tokens.path), np.load(labels / "labels.npy")
    judged: TokenisedPairs | None = None
    truth: np.ndarray | None = None
    if config["select"] == "dev":
        judged = TokenisedPairs.load(dev[0].path)
        truth = judged.gold
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
    )

    def selection(model: PairEncoder) -> float:
        assert judged is not None
        return spearman(model.score(judged, config["batch_tokens"]), truth)

    with watch.bar("teach", settings["epochs"] * len(lessons.train_dataloader()), "step") as bar:
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
                record=watch.row,
                progress=bar.update,
            )
        except InputError as error:
            raise InputError(f"{watch.place} teach: {error} (distill.{encoder.kind}.learning_rate)") from None
    encoder.save(out)
    (out / "curve.jsonl").write_text("".join(json.dumps(row) + "\n" for row in taught.curve), encoding="utf-8")
    losses = [row["loss"] for row in taught.curve if "loss" in row]
    summary = f"{len(losses):,} steps, loss {np.mean(losses[-20:]):.4f}"
    if taught.best is not None:
        summary += f", {config['select']} {100 * taught.best:.2f} at {taught.step:,}"
    facts = {"select": config["select"], "selection": taught.best, "step": taught.step, "summary": summary}
    return {**_describe(out, encoder), **facts}


def _describe(folder: Path, model: PairEncoder) -> Facts:
    # A tokenizer is the same for two models if its own files are, less the length to which each model cuts.
    return {"kind": model.kind, "tokenizer": file_digest(folder / "tokenizer.json")}


def device_of(asked: Accelerator) -> str:
    """Lightning's name of the device to use.

    Raises:
        InputError: a GPU is asked for and torch sees none.
    """
    found = torch.cuda.is_available()
    if asked is Accelerator.gpu and not found:
        raise InputError("trainer.accelerator=gpu: torch sees no GPU here; use cpu or auto")
    return "cuda" if found and asked is not Accelerator.cpu else "cpu"


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
    """

    kind: str
    iteration: int | None
    number: int
    several: bool
    artifact: Artifact

    @property
    def name(self) -> str:
        """`cross`, or `cross-0`, `cross-1`, ... where there are several."""
        return f"{self.kind}-{self.number}" if self.several else self.kind

    @property
    def place(self) -> str:
        return "reference" if self.iteration is None else f"{self.iteration}/{self.name}"


class Scoring:
    """Sets of pairs and similarities as artifacts: `data`, `paths` and `trainer` bound to a store."""

    def __init__(self, store: Store, data: Data, paths: Paths, trainer: Trainer, watch: Watch):
        self.store, self.data, self.dataset, self.watch = store, data, Path(paths.dataset), watch
        self.accelerator = device_of(trainer.accelerator)
        self.score_tokens = trainer.score_tokens

    def read(self, names: Sequence[str], scored: bool, title: str) -> Artifact:
        """The pairs of some sets or files, with gold scores if `scored`."""
        files, own = [], False
        for name in names:
            if name in published.PUBLISHED:
                files.append(published.find(name, self.dataset))
            elif Path(name).is_file():
                files.append([Path(name)])
                own = True
            else:
                known = ", ".join(published.PUBLISHED)
                raise InputError(f"{name}: neither a file nor a known set of pairs (known are {known})")
        columns = asdict(self.data.columns) | ({} if scored else {"score": None})
        limits = {"score_min": self.data.score_min, "score_max": self.data.score_max}
        config = {
            "names": list(names),
            "kinds": [name if name in published.PUBLISHED else Path(name).suffix.lower() for name in names],
            "files": [[str(path) for path in paths] for paths in files],
            "digests": [[file_digest(path) for path in paths] for paths in files],
            "scored": scored,
            "format": columns | limits if own else None,
            "deduplicate": self.data.deduplicate and not scored,
        }
        return self.store(read, config, watch=self.watch, title=f"read {title}")

    def tasks(self, names: Sequence[str]) -> dict[str, Artifact]:
        """Scored sets by the name under which they are reported: a set's own, or a file's without suffix."""
        found: dict[str, str] = {}
        for name in names:
            if found.setdefault(stem(name), name) != name:
                raise InputError(f"{name} and {found[stem(name)]} would be reported under one name; rename a file")
        return {task: self.read([name], True, task) for task, name in found.items()}

    def start(self, kind: str, name: str, key: str, **settings: Any) -> Artifact:
        """The model that the configuration names under `key`. A folder counts by its files, a hub name by the name."""
        try:
            source = find(name)
        except InputError as error:
            raise InputError(f"{key}={error}") from None
        identity: Any = name
        if source.revision is None:
            kinds = (".json", ".txt", ".model", ".safetensors")
            files = sorted(path for path in source.folder.rglob("*") if path.suffix in kinds)
            identity = [[str(path.relative_to(source.folder)), file_digest(path)] for path in files]
        config = {"kind": kind, "name": name, "key": key, "identity": identity, "settings": settings}
        return self.store(start, config, watch=self.watch, title=f"start {key.removeprefix('model.')}")

    def tokens(self, pairs: Artifact, model: Artifact, title: str) -> Artifact:
        config = {"tokenizer": model.facts["tokenizer"], "folder": str(model.path)}
        return self.store(tokenise, config, pairs, watch=self.watch.at(title), title=f"tokenise {title}")

    def score(self, model: Artifact, pairs: Artifact, place: str, title: str) -> Artifact:
        """A model's similarities for a set of pairs."""
        config = {"batch_tokens": self.score_tokens, "accelerator": self.accelerator}
        tokens = self.tokens(pairs, model, title)
        return self.store(score, config, model, tokens, watch=self.watch.at(place), title=f"{place} {title}")

    def correlate(self, members: Sequence[Member], tasks: Mapping[str, Artifact]) -> list[Row]:
        """Each member's correlation with gold on each task; of several members, that of their mean score too."""
        rows = []
        for task, pairs in tasks.items():
            gold = np.load(pairs / "gold.npy")
            scored = [self.score(member.artifact, pairs, member.place, task) for member in members]
            for member, artifact in zip(members, scored, strict=True):
                correlations = artifact.facts["spearman"], artifact.facts["pearson"]
                rows.append(Row(member.iteration, member.kind, member.number, task, len(gold), *correlations))
            if len(members) > 1:
                mean = np.mean([np.load(artifact / "scores.npy") for artifact in scored], axis=0, dtype=np.float64)
                kind = f"{members[0].kind}-ensemble"
                both = spearman(mean, gold), pearson(mean, gold)
                rows.append(Row(members[0].iteration, kind, None, task, len(gold), *both))
        return rows


class Stages(Scoring):
    """The verbs of the loop: the whole configuration bound to a store."""

    def __init__(self, cfg: Train, store: Store, watch: Watch):
        super().__init__(store, cfg.data, cfg.paths, cfg.trainer, watch)
        self.cfg = cfg
        self.precision = precision_of(cfg.trainer.precision, self.accelerator)
        self.select = cfg.distill.select
        if self.select is Select.auto:
            self.select = Select.agreement if cfg.data.dev is None else Select.dev
        self.pool = self.read(pool(cfg.data), False, "pool")
        dev = [] if cfg.data.dev is None else [cfg.data.dev]
        tasks = self.tasks([*dev, *cfg.data.test])
        self.dev = {task: pairs for task, pairs in tasks.items() if task in map(stem, dev)}
        self.tests = {task: pairs for task, pairs in tasks.items() if task in map(stem, cfg.data.test)}

    def start_models(self, kind: str) -> list[Member]:
        """The start models of one kind, as iteration 0; a cross-encoder's head is new, and untrained."""
        model = self.cfg.model
        if kind == "bi":
            names = model.bi
            settings = {"pooling": model.pooling.name, "layers": model.bi_layers, "max_tokens": model.bi_max_tokens}
        else:
            names = model.cross
            settings = {"new_head": self.cfg.seed, "max_tokens": model.cross_max_tokens}
        names = [names] if isinstance(names, str) else names
        return [
            Member(kind, 0, number, len(names) > 1, self.start(kind, name, f"model.{kind}", **settings))
            for number, name in enumerate(names)
        ]

    def label(self, teachers: Sequence[Member], iteration: int) -> Artifact:
        """Labels for the pool, averaged over the teachers."""
        scored = [self.score(t.artifact, self.pool, t.place, "pool") for t in teachers]
        return self.store(label, {}, *scored, watch=self.watch, title=f"{iteration}/{teachers[0].kind} label")

    def teach(self, student: Member, labels: Artifact, iteration: int) -> Member:
        """One student, taught from where `student` stands."""
        teaching = self.cfg.distill.cross if student.kind == "cross" else self.cfg.distill.bi
        taught = Member(student.kind, iteration, student.number, student.several, student.artifact)
        holdout = {"share": self.cfg.distill.holdout, "seed": self.cfg.seed}
        seed = int(hashlib.sha256(f"{self.cfg.seed}/{taught.place}".encode()).hexdigest()[:8], 16)
        config = {
            "teaching": {key: v.name if isinstance(v, Enum) else v for key, v in asdict(teaching).items()},
            "seed": seed,
            "select": self.select.name,
            "holdout": holdout if self.select is Select.agreement else None,
            "precision": self.precision,
            "accelerator": self.accelerator,
            "batch_tokens": self.score_tokens,
        }
        tokens = self.tokens(self.pool, student.artifact, "pool")
        dev = [self.tokens(pairs, student.artifact, name) for name, pairs in self.dev.items()]
        inputs = [student.artifact, tokens, labels, *(dev if self.select is Select.dev else [])]
        watch = self.watch.at(taught.place)
        artifact = self.store(teach, config, *inputs, watch=watch, title=f"{taught.place} teach")
        if artifact.reused:  # its curve belongs to this run as well
            watch.rows(map(json.loads, (artifact / "curve.jsonl").read_text(encoding="utf-8").splitlines()))
        return replace(taught, artifact=artifact)

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
        model = self.start("bi", name, "model.reference", pooling="auto", layers=None, max_tokens=None)
        return self.evaluate([Member("bi", None, 0, False, model)])
