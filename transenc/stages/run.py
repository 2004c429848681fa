"""The whole configuration of a run, bound to a store: the steps that the loop calls."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any

from transenc import distributed
from transenc.artifacts import Artifact, Store
from transenc.config.schema import Adapters, Centre, Failure, Select, Start, Teachers, Train, listed, of_member
from transenc.data.files import Format
from transenc.errors import InputError
from transenc.model_folder import Source
from transenc.progress import Progress
from transenc.results import Row
from transenc.stages.evaluation import Member, digest_of, task_name
from transenc.stages.labels import label, score_held_out
from transenc.stages.models import (
    WELL_POOLED,
    advise_mean_pooling,
    centre,
    find_model,
    find_reference,
    score_late,
)
from transenc.stages.pool import PoolStages
from transenc.stages.teachers import format_of_scores, predict, read_scores
from transenc.stages.training import CURVE, soup, train

log = logging.getLogger("transenc")

MIN_LABEL_STD = 0.003  # standard deviation of labels in [0, 1], below which there is nothing to learn
REMEDIES = {  # by the cause of a failed training
    "few steps": "raise distill.{kind}.min_steps",
    "low rate": "raise distill.{kind}.learning_rate, or distill.{kind}.min_steps",
    "high rate": "lower distill.{kind}.learning_rate",
    "nan": "lower distill.{kind}.learning_rate, or set trainer.precision=32-true",
    "initial": "take a teacher that tells these pairs apart (model.{kind}, model.pooling), or other pairs",
    "chance": "try another distill.{kind}.learning_rate, or raise distill.{kind}.min_steps",
}
TEACHER_TOKENS = 64  # tokens of a pair, to turn trainer.score_tokens into a batch size for fixed teachers
HEAD_SEEDS = 1_000_003  # between the seeds of two members' new heads, so that no other run has the same


class Stages(PoolStages):
    """The steps of the loop.

    Attributes:
        initial_sources: the models that the configuration names, by kind and number.
        failures: failed trainings: `place`, `reasons` (one for each seed), and `kept`, what stands in its place: an
            earlier encoder, itself if failures are ignored, None if another seed did not fail.
    """

    def __init__(self, cfg: Train, store: Store, progress: Progress):
        super().__init__(cfg, store, progress)
        self.initial_sources: dict[tuple[str, int], Source] = {}
        self.failures: list[dict[str, Any]] = []
        # What bi-encoders are judged by too; None where these are plain cosines, or no bi-encoder labels first.
        self.initial_labels: Artifact | None = None
        self.well_pooled: dict[int, bool] = {}  # initial bi-encoders by number, where their tokens label too
        self.fixed_teachers = cfg.fixed_teachers
        # Found once: a wrong name is an error before hours of training, and a hub's name is one revision throughout.
        models = [name for name in self.fixed_teachers if not os.path.isfile(name)]
        self.teacher_sources = {name: find_model("model.teachers", name) for name in models}
        self._reference = self._load_reference()

    def initial_encoders(self, kind: str) -> list[Member]:
        """Iteration 0: the encoders that `model` names. A cross-encoder to be trained gets a head if it has none;
        it is neither evaluated nor a candidate for selection before its first training.
        """
        model, key, members = self.cfg.model, f"model.{kind}", []
        separate = self.cfg.distill.adapters is Adapters.separate
        names = listed(model.bi if kind == "bi" else model.cross)
        for i, name in enumerate(names):
            settings = self._bi_settings(i, len(names)) if kind == "bi" else self._cross_settings(i)
            source = self.initial_sources[kind, i] = find_model(key, name, separate)
            artifact = self.load(kind, source, key, **settings)
            members.append(Member(kind, 0, i, len(names) > 1, artifact))
            if kind == "bi":
                self._check_bi(artifact, f"{key}={name}")
            elif ("bi", "cross") in self.cfg.distill.direction.turns and not artifact.facts["new_head"]:
                log.warning(
                    f"{key}={name}: is trained already, but scores only after it has learnt from the bi-encoder; to let"
                    " it teach, set distill=cross_to_bi, or name it in model.teachers"
                )
        return members

    def _bi_settings(self, i: int, members: int) -> dict[str, Any]:
        """How to load initial bi-encoder `i` of so many, see `BiEncoder.from_source`."""
        model = self.cfg.model
        prompt, prompt_name = model.bi_prompt, model.bi_prompt_name
        if members > 1:  # of a single one, a list holds the prompts of first and second sentences
            prompt, prompt_name = of_member(prompt, i), of_member(prompt_name, i)
        return {
            "pooling": of_member(model.pooling, i),
            "prompt": prompt,
            "prompt_name": prompt_name,
            "layers": of_member(model.bi_layers, i),
            "max_tokens": of_member(model.bi_max_tokens, i),
        }

    def _cross_settings(self, i: int) -> dict[str, Any]:
        """How to load initial cross-encoder `i`, see `CrossEncoder.from_source`."""
        model, distill, ordered = self.cfg.model, self.cfg.distill, self.data.ordered
        student, symmetric = "cross" in distill.direction.students, distill.symmetric and not ordered
        return {
            "new_head": self.cfg.seed + i * HEAD_SEEDS if student else None,
            "symmetric": symmetric if student or symmetric or ordered else None,  # by default a teacher's folder says
            "layers": of_member(model.cross_layers, i),
            "max_tokens": of_member(model.cross_max_tokens, i),
        }

    def _check_bi(self, artifact: Artifact, where: str) -> None:
        """Check that an initial bi-encoder goes with the settings.

        Raises:
            InputError: it does not; the message begins with `where`.
        """
        if not self.data.ordered and len(set(artifact.facts["encoder"]["prompts"])) > 1:
            raise InputError(
                f"{where}: has one prompt for first and one for second sentences; set data.ordered=true, or give one"
                " with model.bi_prompt"
            )
        if self.cfg.distill.centre is not Centre.none and not artifact.facts["can_be_centred"]:
            raise InputError(
                f"{where}: cannot be centred, its last layer does not end with a normalisation that has a bias; set"
                " distill.centre=none"
            )

    def _centring(self, member: Member) -> Centre:
        """Whether a bi-encoder is centred before the loop, or after each training."""
        if self.cfg.distill.centre is not Centre.auto:
            return self.cfg.distill.centre
        return Centre.starts if member.artifact.facts["encoder"]["pooling"] == "cls" else Centre.students

    def scorers(self, encoders: Mapping[str, Sequence[Member]]) -> list[str]:
        """The kinds of encoder that score: all but a cross-encoder before its first training here."""
        students = self.cfg.distill.direction.students
        return [kind for kind in encoders if kind == "bi" or kind not in students or encoders[kind][0].iteration]

    def centre(self, initial: Sequence[Member], pool: Artifact) -> dict[int, Member]:
        """Those initial bi-encoders that are centred before the loop, mean-centred over the pool, by number."""
        centred = {}
        for member in initial:
            if self._centring(member) is Centre.starts:
                result = replace(member, centred=True)
                tokens, progress = self.tokens(pool, member.artifact, "pool"), self.progress.at(result.place)
                artifact = self.store(
                    centre, self.scoring, member.artifact, tokens, progress=progress, title=result.place
                )
                centred[member.number] = replace(result, artifact=artifact)
        return centred

    def label(self, encoders: Mapping[str, Sequence[Member]], teacher: str, pool: Artifact, iteration: int) -> Artifact:
        """Labels for the pool: the teachers' average, or the human scores that came with it. Fixed teachers label in
        each iteration.

        Raises:
            InputError: the labels are nearly constant.
        """
        if teacher == "gold":
            if not pool.facts["std"] >= MIN_LABEL_STD and self.cfg.distill.failure is not Failure.ignore:
                raise InputError("data.gold: the scores are nearly constant, nothing can be learnt; give other pairs")
            return pool
        kinds = [teacher] if self.cfg.distill.teachers is Teachers.other else self.scorers(encoders)
        members = [member for kind in kinds for member in encoders[kind]]
        # First those of others: their files may lack pairs.
        fixed = [self._fixed_scores(name, pool) for name in self.fixed_teachers] if iteration else []
        scored = [*(self._pool_scores(member, pool) for member in members), *fixed]
        config = {"average": self.cfg.distill.average.name}
        title = f"{iteration}/{teacher} label"
        labels = self.store(label, config, *scored, progress=self.progress, title=title)
        if iteration == 1 and teacher == "bi" and (self.cfg.distill.late_interaction or self.fixed_teachers):
            self.initial_labels = labels
        if not labels.facts["std"] >= MIN_LABEL_STD and self.cfg.distill.failure is not Failure.ignore:
            remedy = REMEDIES["chance" if members[0].iteration else "initial"].format(kind=teacher)
            raise InputError(
                f"{title}: nearly constant, mean {labels.facts['mean']:.3f} and standard deviation"
                f" {labels.facts['std']:.2g}, below {MIN_LABEL_STD:g}: nothing can be learnt from them; {remedy}"
            )
        return labels

    def _pool_scores(self, member: Member, pool: Artifact) -> Artifact:
        """A teacher's scores of the pool. A bi-encoder's are by its tokens too, if that is asked for; those of a
        cross-fitted encoder are of pairs that it did not learn from.
        """
        name, progress = _log_name(pool), self.progress.at(member.place)
        tokens, config, title = self.tokens(pool, member.artifact, name), dict(self.scoring), f"{member.place} {name}"
        if member.folds:
            config["split_seed"] = self.cfg.seed
            return self.store(score_held_out, config, tokens, *member.folds, progress=progress, title=title)
        scores = self.score(member.artifact, pool, member.place, name)
        if member.kind == "cross" or not self.cfg.distill.late_interaction:
            return scores
        title, inputs = f"{member.place} late {name}", (member.artifact, tokens, scores)
        late = self.store(score_late, config, *inputs, progress=progress, title=title)
        if member.iteration == 0:
            first = member.number not in self.well_pooled
            self.well_pooled[member.number] = late.facts["agreement"] >= WELL_POOLED
            if first and not self.well_pooled[member.number]:
                advise_mean_pooling(member.artifact, late, of_member(self.cfg.model.pooling, member.number))
        return late

    def _fixed_scores(self, name: str, pool: Artifact) -> Artifact:
        """A fixed teacher's scores of the pool: a model's, or those in a file."""
        key = "model.teachers"
        if name not in self.teacher_sources:
            form = self._format(name, True) | {"score_min": -math.inf, "score_max": math.inf, "binary": False}
            form = asdict(format_of_scores(Path(name), Format(**form)))
            config = {"file": name, "digest": digest_of(Path(name)), "format": form, "ordered": self.data.ordered}
            return self.store(read_scores, config, pool, progress=self.progress, title=f"teacher {task_name(name)}")
        source = self.teacher_sources[name]
        config = self._identity(source, key) | {
            "ordered": self.data.ordered,
            "batch_size": max(1, self.scoring["batch_tokens"] // TEACHER_TOKENS),
            "accelerator": self.accelerator,
        }
        title = f"teacher {name.rpartition('/')[2]}"
        scores = self.store(predict, config, pool, progress=self.progress.at("teacher"), title=title)
        read = {"key": key, "name": source.name.partition("#sha256=")[0], "read_as": scores.facts["read_as"]}
        if read not in self.models:
            self.models.append(read)
        return scores

    def train(self, initial: Member, previous: Member, pool: Artifact, labels: Artifact, iteration: int) -> Member:
        """One student of an iteration, trained on the labels.

        Args:
            initial: the encoder of iteration 0, which training begins with unless `distill.start=previous`.
            previous: the encoder of the iteration before; it stays if the training fails and `distill.failure=keep`.
            pool, labels: what it learns.
            iteration: from 1.

        Raises:
            InputError: the training failed.
        """
        student = previous if self.cfg.distill.start is Start.previous else initial
        result = Member(student.kind, iteration, student.number, student.several, student.artifact)
        inputs = [student.artifact, self.tokens(pool, student.artifact, _log_name(pool)), labels]
        if self.select_by is Select.dev:
            inputs += [self.tokens(pairs, student.artifact, name) for name, pairs in self.dev.items()]
        if self.select_by is Select.agreement and student.kind == "bi" and self.initial_labels is not None:
            inputs.append(self.initial_labels)
        config = self._training_config(student)
        if student.kind == "bi" or self.cfg.distill.folds == 1:
            trained = self._train_with_retries(result.place, config, inputs, previous)
            return replace(result, artifact=trained or previous.artifact)
        folds: list[Artifact] = []
        for fold in range(self.cfg.distill.folds):
            in_fold = config | {"folds": self.cfg.distill.folds, "fold": fold}
            begin = student.folds[fold] if student.folds else student.artifact  # the best has learnt from other folds
            trained = self._train_with_retries(f"{result.place}/fold-{fold}", in_fold, [begin, *inputs[1:]], previous)
            if trained is None:
                return replace(result, artifact=previous.artifact, folds=previous.folds)
            folds.append(trained)
        title = f"{result.place} soup"
        mean = self.store(soup, self.scoring, *inputs[1:3], *folds, progress=self.progress, title=title)
        better = mean.facts["better_fold"]
        return replace(result, artifact=mean if better is None else folds[better], folds=tuple(folds))

    def _training_config(self, student: Member) -> dict[str, Any]:
        """The settings of the stage `train`, but for its seed and fold."""
        distill, bi = self.cfg.distill, student.kind == "bi"
        settings = asdict(distill.bi if bi else distill.cross)
        settings["both_orders"] = settings.get("both_orders", False) and not self.data.ordered
        settings.pop("crops_below", None)  # the crops are among the pairs by now
        # Where the embeddings lose what the tokens hold, all of the trained weights are taken, for any gain.
        badly_pooled = bi and not self.well_pooled.get(student.number, True)
        config: dict[str, Any] = {
            "training": {key: v.name if isinstance(v, Enum) else v for key, v in settings.items()},
            "select": self.select_by.name,
            "holdout": distill.holdout if self.select_by is Select.agreement else None,
            "split_seed": self.cfg.seed,
            "interpolate": distill.interpolate if bi and not badly_pooled else 1.0,
            "one_standard_error": not badly_pooled,
            "trained_already": bi or student.iteration != 0,
            **self.scoring,
        }
        if bi and self._centring(student) is Centre.students:
            config["centre"] = True
        if distributed.size() > 1:  # each rank has a dropout of its own
            config["processes"] = distributed.size()
        elif self.accelerator == "cuda" and self.cfg.trainer.cuda_graphs:
            config["cuda_graphs"] = True
        return config

    def _train_with_retries(
        self, place: str, config: dict[str, Any], inputs: Sequence[Artifact], previous: Member
    ) -> Artifact | None:
        """The trained student, with the first seed that does not fail; None if the encoder before is kept instead."""
        reasons: list[str] = []
        for attempt in range(self.cfg.distill.retries + 1):
            tried = f"{place}/{attempt}" if attempt else place
            seed = int(hashlib.sha256(f"{self.cfg.seed}/{tried}".encode()).hexdigest()[:8], 16)
            progress = self.progress.at(tried)
            artifact = self.store(train, config | {"seed": seed}, *inputs, progress=progress, title=f"{place} train")
            if artifact.reused:  # its curve belongs to this run as well
                for row in (artifact / CURVE).read_text(encoding="utf-8").splitlines():
                    progress.row(json.loads(row))
            cause = artifact.facts.get("cause")
            reasons += [] if cause is None else [artifact.facts["failed"]]
            if cause is None or (cause != "nan" and self.cfg.distill.failure is Failure.ignore):
                if reasons:
                    self.failures.append({"place": place, "reasons": reasons, "kept": None if cause is None else place})
                return artifact
            if cause != "chance":
                break
        # In the place of an encoder whose own training failed stands an earlier one.
        standing = {one["place"].partition("/fold-")[0]: one["kept"] for one in self.failures}
        kept = standing.get(previous.place) or previous.place
        self.failures.append({"place": place, "reasons": reasons, "kept": kept})
        seeds = f"{len(reasons)} seeds" if len(reasons) > 1 else "one seed"
        message = f"{place} failed with {seeds}: {reasons[-1]}"
        if self.cfg.distill.failure is Failure.keep and (previous.iteration or previous.kind == "bi"):
            log.warning("%s; %s is kept in its place", message, kept)
            return None
        raise InputError(f"{message}; {REMEDIES[artifact.facts['cause']].format(kind=previous.kind)}")

    def evaluate(self, members: Sequence[Member]) -> list[Row]:
        """The members' results on the development and test sets, set by set."""
        return [
            Row(members[0].iteration, one.encoder, one.number, task, pairs.facts["pairs"], **one.metrics)
            for task, pairs, evaluated in self.evaluate_each(members, {**self.dev, **self.tests})
            for one in evaluated
        ]

    def _load_reference(self) -> list[Member]:
        """`model.reference`, if there is one: what is wrong with it shows before hours of training."""
        name = self.cfg.model.reference
        if name is None:
            return []
        if not (self.dev or self.tests):
            log.warning("model.reference=%s: is not evaluated, as there are no scored pairs (data.test)", name)
            return []
        as_it_is = {"pooling": "auto", "prompt": None, "prompt_name": None, "layers": None, "max_tokens": None}
        model = self.load("bi", find_reference(name), "model.reference", **as_it_is)
        return [Member("bi", None, 0, False, model)]

    def reference(self) -> list[Row]:
        """The results of `model.reference` on the same sets; none where no model is named."""
        return self.evaluate(self._reference) if self._reference else []


def _log_name(pool: Artifact) -> str:
    """What the log calls a pool: those with and without crops are scored one after the other."""
    return "crops" if "originals" in pool.facts else "pool"
