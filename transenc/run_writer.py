"""What a run writes into its folder: results, labels and curves as they come, and at the end the selected models."""

import csv
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np

from transenc import distributed
from transenc.artifacts import RECORD, Artifact, replacing
from transenc.config.schema import Adapters, Select, Train, Verbosity, listed
from transenc.data.known import KNOWN
from transenc.model_card import card, how_made, public_name
from transenc.model_folder import ADAPTER_CONFIG, Source, name_base
from transenc.progress import Progress
from transenc.report.page import write_report
from transenc.report.run import flat
from transenc.results import RESULT, Row, failed_training, member_name, published_results, table, write_results
from transenc.run_folder import RunFolder, lock_run, model_path, predictions_path, recorded
from transenc.selection import Selected, mean_score, note, warning
from transenc.stages.evaluation import Member, task_name
from transenc.stages.pairs import sentences_of
from transenc.stages.run import Stages
from transenc.stages.training import ADAPTER_FOLDER, CURVE
from transenc.trackers import Trackers

log = logging.getLogger("transenc")

CURVES = ("loss", "learning_rate", "selection")
LIBRARIES = ("torch", "pytorch-lightning", "transformers", "tokenizers", "hydra-core", "numpy", "scipy")


class RunWriter:
    """Writes a run's labels, curves, results, models and report into its folder; a context manager.

    Args:
        cfg: the settings of the run.
        folder: the run folder.
        overrides: what the command line set; None if the run was started from Python.

    Attributes:
        rows: all results so far.
        progress: where the stages show theirs.
    """

    def __init__(self, cfg: Train, folder: Path, overrides: Sequence[str] | None):
        self.published = published_results(overrides or ())
        self.cfg, self.folder, self.overrides, self.started = cfg, folder, overrides, time.monotonic()
        self.settings = plain(asdict(cfg))
        self.rows: list[Row] = []

    def __enter__(self) -> Self:
        recorded(self.folder)  # refuses a file, before mkdir does
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            opened.callback(os.close, lock_run(self.folder))
            named = [value for key, value in flat(self.settings).items() if key.startswith(("model.", "data."))]
            inputs = [name for value in named for name in listed(value) if isinstance(name, str)]
            self.files = RunFolder(self.folder, Path(self.cfg.paths.artifacts), inputs)
            self.progress = Progress(self._write_curve, bars=self.cfg.verbosity is not Verbosity.quiet)
            self.opened = opened.pop_all()
        return self

    def begin(self) -> None:
        """Open the files that are written as the run goes, in place of an earlier run's: data and models are found."""
        self.trackers = Trackers(self.cfg.loggers, self.settings, self.folder)  # an earlier run stays if they refuse
        self.opened.push(lambda failure, *_: self.trackers.close(failed=failure is not None))
        for name in ("run.json", "report.html"):  # the first marks a finished run
            (self.folder / name).unlink(missing_ok=True)
        if self.overrides is None and self.files.earlier:  # a command's, which this run is not of
            shutil.rmtree(self.folder / ".hydra", ignore_errors=True)
            (self.folder / "train.log").unlink(missing_ok=True)
        self.files.begin()
        self.trackers.open()
        curves = open(self.folder / "curves.csv", "w", encoding="utf-8", newline="")  # noqa: SIM115
        self.curves = self.opened.enter_context(curves)
        self.curve_writer = csv.DictWriter(self.curves, ("place", "step", *CURVES), lineterminator="\n")
        self.curve_writer.writeheader()

    def __exit__(self, *failure: Any) -> None:
        self.opened.__exit__(*failure)

    def _write_curve(self, place: str, row: Mapping[str, float]) -> None:
        self.curve_writer.writerow({"place": place, **row})
        self.trackers.scalars({f"{place}/{name}": row[name] for name in CURVES if name in row}, int(row["step"]))

    def write_results(self, rows: Sequence[Row]) -> None:
        """More results; results.csv is complete after each call."""
        self.rows += rows
        keys = {row.key for row in rows}
        for row in rows:
            name = member_name(row.key, keys)
            self.trackers.scalars({f"{row.metric}/{row.task}/{name}": row.value}, row.iteration or 0)
        write_results(self.folder / "results.csv", self.rows)

    def write_predictions(self, members: Sequence[Member], stages: Stages) -> None:
        """The members' scores of every test pair."""
        for member in members:
            for task, pairs in stages.tests.items():
                path = self.files.path(predictions_path(member.place, task))
                scores = np.load(stages.score(member.artifact, pairs, member.place, task) / "scores.npy")
                write_pairs(path, pairs, gold=np.load(pairs / "gold.npy"), score=scores)

    def write_labels(self, iteration: int, teacher: str, labels: Artifact, pairs: Artifact) -> None:
        """The labels that a kind of teacher gave in an iteration; in iteration 0, to the pairs that are drawn from."""
        values = np.load(labels / "labels.npy")
        self.trackers.histogram(f"labels/{teacher}", values, iteration)
        statistics = {f"labels/{teacher}/{name}": labels.facts[name] for name in ("clamped", "mean", "std")}
        self.trackers.scalars(statistics, iteration)
        originals, name = pairs.facts.get("originals", len(values)), f"{iteration}-{teacher}"
        write_pairs(self.files.path("labels", f"{name}.csv"), pairs, slice(originals), label=values)
        if originals < len(values):
            write_pairs(self.files.path("labels", f"{name}-crops.csv"), pairs, slice(originals, None), label=values)

    def finish(
        self, selected: Sequence[Selected], candidates: Sequence[Member], stages: Stages, pool: Artifact
    ) -> float | None:
        """Write the selected models, run.json and the report; show the table.

        Args:
            selected: the encoders to save.
            candidates: all that were evaluated.
            stages: of the run.
            pool: what was learnt from.

        Returns:
            The mean selection score, in [-1, 1]; None where an encoder has none.
        """
        reference, members = stages.reference(), [choice.member for choice in selected]
        selected = [
            replace(
                choice,
                note=note(choice, stages.select_by, stages.failures),
                warning=self._warning(choice.member, candidates, stages),
            )
            for choice in selected
        ]
        for choice in selected:
            member = choice.member
            source = stages.initial_sources[member.kind, member.number]
            adapter = self.cfg.distill.adapters is Adapters.separate and (member.artifact / ADAPTER_FOLDER).exists()
            copied = member.artifact / ADAPTER_FOLDER if adapter else member.artifact.path
            copy_model(copied, self.files.path(model_path(member.name)), self._card(choice, stages, pool), source)
        if not self.cfg.save_predictions:  # otherwise all are written already
            self.write_predictions(members, stages)
        self.files.remove_earlier()
        self._write_run_json(selected, stages, pool)
        metrics = {f"selected/{m.name}/{r.task}": r.value for m in members for r in self.rows if r.key == m.key}
        self.trackers.hparams(self._chosen_settings(), metrics)
        self.curves.flush()
        write_report([self.folder], self.folder / "report.html")
        self._show(selected, reference, stages)
        return mean_score(selected)

    def _warning(self, member: Member, candidates: Sequence[Member], stages: Stages) -> str | None:
        """Why not to use a selected encoder; None if nothing speaks against it."""
        sets = stages.tests or stages.dev
        initial = {one.number: one for one in candidates if (one.iteration, one.kind) == (0, "bi")}  # centred last

        def standard_error(number: int, tasks: Collection[str]) -> float:
            return stages.standard_error(initial[number], member, {task: sets[task] for task in tasks})

        supervised = self.cfg.distill.direction.supervised
        return warning(member, self.rows, stages.select_by, list(sets), stages.well_pooled, supervised, standard_error)

    def _write_run_json(self, selected: Sequence[Selected], stages: Stages, pool: Artifact) -> None:
        by_name = {
            choice.member.name: {
                "iteration": choice.member.iteration,
                "encoder": choice.member.encoder,
                "place": choice.member.place,
                "score": choice.score,
            }
            for choice in selected
        }
        run = {
            "command": self._command(),
            "selected": {"by": stages.select_by.name, "score": mean_score(selected), **by_name},
            "data": {"transductive": self.cfg.data.transductive}
            | {key: pool.facts[key] for key in ("pairs", "sentences", "shared", "dropped")},
            "models": stages.models,
            "failures": stages.failures,
            "notes": {choice.member.name: choice.note for choice in selected if choice.note},
            "warnings": {choice.member.name: choice.warning for choice in selected if choice.warning},
            "tests": {task: next(row.metric for row in self.rows if row.task == task) for task in stages.tests},
            "stages": stages.store.requested,
            "seconds": round(time.monotonic() - self.started, 1),
            "published": self.published,
            "processes": distributed.size(),
            **environment(),
            "config": self.settings,
        }
        with replacing(self.folder / "run.json") as file:
            json.dump(run, file, indent=1)

    def _command(self) -> str:
        if self.overrides is None:
            return "transenc.distill, from Python"
        size, local = distributed.size(), int(os.environ.get("LOCAL_WORLD_SIZE", distributed.size()))
        machines = ["--nnodes", str(size // local)] if local < size else []
        launcher = ["python"] if size == 1 else ["torchrun", *machines, "--nproc-per-node", str(local)]
        return shlex.join([*launcher, "train.py", *self.overrides])

    def _card(self, choice: Selected, stages: Stages, pool: Artifact) -> str:
        member, facts = choice.member, choice.member.artifact.facts
        initial = listed(self.cfg.model.bi if member.kind == "bi" else self.cfg.model.cross)
        return card(
            member.kind,
            public_name(initial[member.number]),
            stages.initial_sources[member.kind, member.number].public[0],
            how_made(choice, self.cfg, stages.select_by),
            self.cfg.sources,
            pool.facts["shared"],
            [row for row in self.rows if row.key == member.key],
            self._command(),
            trained=facts.get("trained", False),
            centred=facts.get("centred", False),
            two_prompts=member.kind == "bi" and len(set(facts["encoder"]["prompts"])) > 1,
            files=[task_name(n) for n in (self.cfg.data.dev, *self.cfg.data.test) if n and n not in KNOWN],
        )

    def _chosen_settings(self) -> dict[str, Any]:
        """What the command line set, and the models and the seed: TensorBoard shows only the first few of its list."""
        settings, chosen = flat(self.settings), {}
        for key, equals, value in (override.partition("=") for override in self.overrides or ()):
            if key in settings:
                chosen[key] = settings[key]
            elif equals and "." not in key and "/" not in key:  # a recipe or another choice of a group
                chosen[key] = value
        return chosen | {key: settings[key] for key in ("model.bi", "model.cross", "seed")}

    def _show(self, selected: Sequence[Selected], reference: Sequence[Row], stages: Stages) -> None:
        marked = [choice.member.key for choice in selected]
        lines = [table([*self.rows, *reference], stages.tests, marked, self.published)] if self.rows else []
        by = stages.dev_task if stages.select_by is Select.dev else stages.select_by.name
        how = "the last weights" if stages.select_by is Select.last else f"by {by}"
        which = ", ".join(f"{one.member.name} of iteration {one.member.iteration}" for one in selected)
        lines.append(f"* {how}: {which}")
        unknown = [choice.member.name for choice in selected if not choice.note and not choice.warning]
        lines += map(failed_training, stages.failures)
        lines += [choice.note for choice in selected if choice.note]
        lines += [f"Do not use {choice.member.name}: {choice.warning}." for choice in selected if choice.warning]
        if not self.rows and unknown:
            who = " and ".join(unknown)
            what = f"whether {who} beat the initial bi-encoder"
            if self.cfg.distill.direction.supervised:
                what = f"how good {who} is"
            lines.append(f"Without scored pairs (data.test), {what} is not known.")
        log.log(RESULT, "\n%s\n", "\n".join(lines))
        for name in ("report.html", "models", "labels", "predictions", "results.csv", "tensorboard"):
            if (self.folder / name).exists():
                log.info("%-12s %s", name, self.folder / name)
        log.info("%-12s %.0f s", "in all", time.monotonic() - self.started)


def plain(settings: Any) -> Any:
    """Settings as plain values: choices by their name."""
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [plain(value) for value in settings]
    return settings.name if isinstance(settings, Enum) else settings


def write_pairs(path: Path, pairs: Artifact, rows: slice = slice(None), **columns: np.ndarray) -> None:
    """A csv file of sentence1, sentence2 and the given columns, in the order of the pairs, at float32 precision.

    Args:
        path: of the file.
        pairs: N pairs.
        rows: which of them to write.
        columns: [N] numbers each, by name.
    """
    path.parent.mkdir(exist_ok=True)
    sentences, index = sentences_of(pairs), np.load(pairs / "pairs.npy", mmap_mode="r")
    with replacing(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("sentence1", "sentence2", *columns))
        for (first, second), *values in zip(index[rows], *(column[rows] for column in columns.values()), strict=True):
            writer.writerow((sentences[first], sentences[second], *(f"{value:.9g}" for value in values)))


def copy_model(source: Path, folder: Path, card: str, base: Source) -> None:
    """A model folder for people: the artifact's files without its record and curve, and a card.

    Args:
        source: the artifact's folder, or that of its adapter.
        folder: to write.
        card: its README.md.
        base: the initial model, which an adapter names.
    """
    aside = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, ignore=shutil.ignore_patterns(RECORD, CURVE, ADAPTER_FOLDER))
    if (aside / ADAPTER_CONFIG).exists():
        name_base(aside / ADAPTER_CONFIG, *base.public)
    (aside / "README.md").write_text(card, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def environment() -> dict[str, Any]:
    """What a run ran on: versions, machine, git state."""

    def git(*arguments: str) -> str | None:
        here = Path(__file__).parent
        done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--untracked-files=no")
    except OSError:  # no git here
        commit = changes = None
    return {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "versions": {name: version(name) for name in LIBRARIES},
        "git": {"commit": commit, "changed": bool(changes)},
    }
