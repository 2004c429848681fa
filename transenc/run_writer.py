"""What a run tells: scores and labels as they come, and at the end the selection, the models and the table."""

import csv
import json
import logging
import math
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from transenc import distributed
from transenc.artifacts import Artifact, lock, replacing
from transenc.config import Direction, Logger, Select, Train, Verbosity, learnt_from, listed
from transenc.errors import InputError
from transenc.model_card import card, code, copy_model, environment, public_name, write_pairs
from transenc.progress import Watch
from transenc.report import flat, write_report
from transenc.results import RESULT, Row, table, write_results
from transenc.run_folder import RunFolder
from transenc.stages import Member, Stages

log = logging.getLogger("transenc")


AGREES = 0.8  # Spearman with the bi-encoder, below which all cross-encoders measured were worse (docs/reliability.md)
CURVES = ("loss", "learning_rate", "selection")


def plain(settings: Any) -> Any:
    """Settings as plain values: choices by their name."""
    if isinstance(settings, dict):
        return {key: plain(value) for key, value in settings.items()}
    if isinstance(settings, list):
        return [plain(value) for value in settings]
    return settings.name if isinstance(settings, Enum) else settings


def make_logger(kind: Logger, settings: dict[str, Any], folder: Path) -> Any:
    """One of Lightning's loggers, told the settings of a run in `folder`.

    Raises:
        InputError: its library is not installed, or refuses.
    """
    from pytorch_lightning import loggers

    try:
        if kind is Logger.wandb:
            made = loggers.WandbLogger(project=os.environ.get("WANDB_PROJECT", "transenc"), save_dir=folder)
        else:
            made = loggers.MLFlowLogger(
                os.environ.get("MLFLOW_EXPERIMENT_NAME", "transenc"),
                tracking_uri=os.environ.get("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db"),
            )
        made.log_hyperparams(settings)
    except ModuleNotFoundError:
        raise InputError(f"loggers=[{kind.name}]: {kind.name} is not installed; pip install {kind.name}") from None
    except Exception as error:  # whatever it stumbles over: no login, no server, a setting of its own
        raise InputError(f"loggers=[{kind.name}]: {' '.join(str(error).split())[:200]}") from error
    return made


class Journal:
    """Everything a run writes into its folder.

    Args:
        cfg: the run's settings.
        folder: the run folder.
    """

    def __init__(self, cfg: Train, folder: Path):
        asked = {argument.partition("=")[0].partition(".")[0] for argument in sys.argv[1:]}
        if asked & {"model", "data", "distill"}:  # published figures are those of a recipe as it is
            cfg = replace(cfg, published={})
        self.cfg, self.folder, self.started = cfg, folder, time.monotonic()
        self.rows: list[Row] = []
        self.members: list[Member] = []
        self.loggers: dict[Logger, Any] = {}

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            try:
                opened.callback(os.close, lock(self.folder, wait=False))
            except BlockingIOError:
                raise InputError(
                    f"{self.folder}: another run writes there; wait for it, or give another hydra.run.dir"
                ) from None
            self.place = RunFolder(self.folder, Path(self.cfg.paths.artifacts))
            (self.folder / "run.json").unlink(missing_ok=True)  # it says that a run is finished
            self.writer = opened.enter_context(SummaryWriter(str(self.folder / "tensorboard")))
            self.writer.add_text("config", "```\n" + json.dumps(plain(asdict(self.cfg)), indent=2) + "\n```")
            self.curves = opened.enter_context(open(self.folder / "curves.csv", "w", encoding="utf-8", newline=""))
            self.curve_writer = csv.DictWriter(self.curves, ("place", "step", *CURVES), lineterminator="\n")
            self.curve_writer.writeheader()
            self.watch = Watch(self.tell, bars=self.cfg.verbosity is not Verbosity.quiet)
            opened.push(self._finish_loggers)
            for kind in self.cfg.loggers:
                self.loggers[kind] = make_logger(kind, flat(plain(asdict(self.cfg))), self.folder)
            self.opened = opened.pop_all()
        return self

    def __exit__(self, *failure: Any) -> None:
        self.opened.__exit__(*failure)

    def _finish_loggers(self, failure: type[BaseException] | None, *_: object) -> None:
        for kind, logger in self.loggers.items():
            with self._told_not_raised(kind):
                logger.finalize("failed" if failure else "success")
                if kind is Logger.wandb:  # else the next run of this process would go on in this one's
                    logger.experiment.finish(exit_code=int(failure is not None))

    @contextmanager
    def _told_not_raised(self, kind: Logger) -> Iterator[None]:
        """What a tracker stumbles over, its network say, ends no run."""
        try:
            yield
        except Exception as error:
            log.warning("%s: %s; it is told no more of this run", kind.name, " ".join(str(error).split())[:200])
            self.loggers = {other: logger for other, logger in self.loggers.items() if other is not kind}

    def tell(self, place: str, row: Mapping[str, float]) -> None:
        """A row of a learning curve, to all who listen, and curves.csv."""
        self.curve_writer.writerow({"place": place, **row})
        self.point({f"{place}/{name}": row[name] for name in CURVES if name in row}, int(row["step"]))

    def point(self, values: Mapping[str, float], step: int) -> None:
        """Values by tag, to TensorBoard and the other loggers; the step is a training's, or an iteration."""
        values = {tag: value for tag, value in values.items() if not math.isnan(value)}
        for tag, value in values.items():
            self.writer.add_scalar(tag, value, step)
        for kind, logger in self.loggers.items():
            with self._told_not_raised(kind):
                logger.log_metrics(values, step)

    def scores(self, members: Sequence[Member], stages: Stages) -> None:
        """Results of one iteration's encoders of one kind; results.csv is whole after each."""
        rows = stages.evaluate(members)
        self.members += members
        self.rows += rows
        for row in rows:
            name = row.encoder if row.member is None or not members[0].several else f"{row.encoder}-{row.member}"
            self.point({f"{row.measure}/{row.task}/{name}": row.value}, row.iteration)
        write_results(self.folder / "results.csv", self.rows)
        if self.cfg.save_predictions:
            self.predictions(members, stages)

    def predictions(self, members: Sequence[Member], stages: Stages) -> None:
        """Their score of every test pair."""
        for member in members:
            for task, pairs in stages.tests.items():
                path = self.place.path("predictions", f"{member.place.replace('/', '-')}-{task}.csv")
                scores = stages.score(member.artifact, pairs, member.place, task) / "scores.npy"
                write_pairs(path, pairs, gold=np.load(pairs / "gold.npy"), score=np.load(scores))

    def labels(self, iteration: int, teacher: str, labels: Artifact, pairs: Artifact) -> None:
        """The labels that a kind of teacher gave in an iteration; in iteration 0, to pairs that are then drawn from."""
        values = np.load(labels / "labels.npy")
        self.writer.add_histogram(f"labels/{teacher}", values, iteration)
        facts = ("clamped", "mean", "std")
        self.point({f"labels/{teacher}/{fact}": labels.facts[fact] for fact in facts}, iteration)
        write_pairs(self.place.path("labels", f"{iteration}-{teacher}.csv"), pairs, label=values)

    def finish(self, stages: Stages, pool: Artifact) -> float | None:
        """Select, copy the selected models, write run.json, print the table.

        Returns:
            The mean selection score of the selected encoders; None where the last ones were taken.
        """
        reference = stages.reference()
        selected = [m for kind in self.cfg.distill.direction.students for m in self.select(kind, stages)]
        command = self._command()
        warnings = {m.name: said for m in selected if (said := self.warning(m, stages))}
        for member in selected:
            folder = self.place.path("models", member.name.replace(member.kind, f"{member.kind}-encoder"))
            card = self._card(member, stages, pool, command, warnings.get(member.name))
            copy_model(member.artifact.path, folder, card)
        if not self.cfg.save_predictions:  # then all are written already
            self.predictions(selected, stages)
        self.place.sweep()
        scores = {m.name: None if stages.select is Select.last else self.value(m, stages) for m in selected}
        scores = {name: None if score is None or math.isnan(score) else score for name, score in scores.items()}
        score = None if None in scores.values() or not scores else sum(scores.values()) / len(scores)
        run = {
            "command": command,
            "selected": {
                "by": stages.select.name,
                "score": score,
                **{m.name: {"iteration": m.iteration, "encoder": m.encoder, "score": scores[m.name]} for m in selected},
            },
            "data": {"transductive": self.cfg.data.transductive}
            | {key: pool.facts[key] for key in ("pairs", "sentences", "shared", "dropped")},
            "failures": stages.failures,
            "warnings": warnings,
            "tests": {task: next(row.measure for row in self.rows if row.task == task) for task in stages.tests},
            "stages": stages.store.log,
            "seconds": round(time.monotonic() - self.started, 1),
            "processes": distributed.size(),
            **environment(),
            "config": plain(asdict(self.cfg)),
        }
        with replacing(self.folder / "run.json") as file:
            json.dump(run, file, indent=1)
        self._hparams(selected)
        self.curves.flush()
        write_report([self.folder], self.folder / "report.html")
        self._show(stages, selected, reference, warnings)
        return score

    def _command(self) -> str:
        if Path(sys.argv[0]).name != "train.py":
            return "transenc.loop.distill, from Python"
        start = ["python"] if distributed.size() == 1 else ["torchrun", "--nproc-per-node", str(distributed.size())]
        return shlex.join([*start, *sys.argv])

    def _card(self, member: Member, stages: Stages, pool: Artifact, command: str, warning: str | None) -> str:
        starts = {kind: listed(getattr(self.cfg.model, kind)) for kind in self.cfg.distill.direction.kinds}
        names = {kind: " + ".join(code(public_name(name)) for name in listing) for kind, listing in starts.items()}
        made = {
            Direction.both: "a bi-encoder ({bi}) and a cross-encoder ({cross}) taught each other in turn, without"
            " labels ([Trans-Encoder](https://arxiv.org/abs/2109.13059), Liu et al., ICLR 2022)",
            Direction.bi_to_cross: "the bi-encoder ({bi}) labelled the pairs that the cross-encoder learnt",
            Direction.cross_to_bi: "the cross-encoder ({cross}) labelled the pairs that the bi-encoder learnt",
        }.get(self.cfg.distill.direction, "supervised: it learnt human scores").format(**names)
        chosen = {
            Select.dev: "Checkpoint and iteration were chosen by gold development scores.",
            Select.agreement: "Checkpoint and iteration were chosen by agreement with the teacher on held-out pairs.",
            Select.last: "It is the last checkpoint of the last iteration.",
        }[stages.select]
        if member.kind == "cross" and self.cfg.distill.symmetric and not self.cfg.data.ordered:
            chosen += " Its figures below are of the mean logit over both orders of a pair; `predict` takes one."
        if member.artifact.facts.get("centred"):
            chosen += " Then the mean of its vectors over the pool's sentences was taken to 0."
        if warning:
            chosen += f" **Do not use it**: {warning}."
        return card(
            member.kind,
            public_name(starts[member.kind][member.number]),
            f"{made}. {chosen}",
            learnt_from(self.cfg),
            pool.facts["shared"],
            self._own(member),
            command,
        )

    def select(self, kind: str, stages: Stages) -> list[Member]:
        """The best iteration of each member of one kind; the earliest of equals.

        By development score the start model is a candidate too: if nothing beats it, it is handed back.
        """
        best: dict[int, Member] = {}
        values: dict[int, float] = {}
        for member in self.members:
            value = self.value(member, stages) if member.kind == kind else None
            if value is None:
                continue
            value = -2.0 if math.isnan(value) else value  # correlations begin at -1
            if member.number not in best or value > values[member.number]:
                best[member.number], values[member.number] = member, value
        return list(best.values())

    def value(self, member: Member, stages: Stages) -> float | None:
        """What an encoder is selected by, NaN where that is undefined; None if it is no candidate."""
        if stages.select is Select.dev:
            task = next(iter(stages.dev))
            return next(row.value for row in self._own(member) if row.task == task)
        if member.iteration == 0:
            return None
        if stages.select is Select.last:
            return float(member.iteration)
        return member.artifact.facts.get("selection", -1.0)  # a start that stands in for a student has never agreed

    def _own(self, member: Member) -> list[Row]:
        key = (member.iteration, member.encoder, member.number)
        return [row for row in self.rows if (row.iteration, row.encoder, row.member) == key]

    def warning(self, member: Member, stages: Stages) -> str | None:
        """Why not to use a selected encoder: it scores below the initial bi-encoder. Where there are no gold scores, a
        cross-encoder that hardly agrees with its teacher is one. None where nothing speaks against it.
        """
        tasks = list(stages.tests or stages.dev)
        own, initial = (
            [row.value for row in self.rows if (row.iteration, row.encoder, row.member) == key and row.task in tasks]
            for key in ((member.iteration, member.encoder, member.number), (0, "bi", member.number))
        )
        if own and initial:
            value, began = 100 * sum(own) / len(own), 100 * sum(initial) / len(initial)
            where = tasks[0] if len(tasks) == 1 else f"{len(tasks)} sets on average"
            return f"{value:.2f} on {where}, below the initial bi-encoder's {began:.2f}" if value < began else None
        agreement = member.artifact.facts.get("selection") if stages.select is Select.agreement else None
        if member.kind == "cross" and agreement is not None and agreement < AGREES:
            return f"Spearman with its teacher's labels is {agreement:.2f} on held-out pairs, below {AGREES:g}"
        return None

    def _hparams(self, selected: Sequence[Member]) -> None:
        metrics = {f"selected/{m.name}/{row.task}": row.value for m in selected for row in self._own(m)}
        for summary in hparams(self._asked(), metrics):
            self.writer.file_writer.add_summary(summary)  # type: ignore[union-attr]
        self.point(metrics, 0)

    def _asked(self) -> dict[str, Any]:
        """What the command line set, and the models and the seed: TensorBoard shows the first few of its list only."""
        settings, asked = flat(plain(asdict(self.cfg))), {}
        for key, equals, value in (argument.partition("=") for argument in sys.argv[1:]):
            if key in settings:
                asked[key] = settings[key]
            elif equals and "." not in key and "/" not in key:  # a recipe or another choice of a group
                asked[key] = value
        return asked | {key: settings[key] for key in ("model.bi", "model.cross", "seed")}

    def _show(
        self, stages: Stages, selected: Sequence[Member], reference: Sequence[Row], warnings: Mapping[str, str]
    ) -> None:
        marks = {(member.iteration, member.encoder, member.number): "*" for member in selected}
        lines = [table([*self.rows, *reference], list(stages.tests), marks, self.cfg.published)] if self.rows else []
        by = next(iter(stages.dev)) if stages.select is Select.dev else stages.select.name
        lines.append(f"* by {by}: " + ", ".join(f"{m.name} of iteration {m.iteration}" for m in selected))
        for failure in stages.failures:
            kept = "taught with another seed" if failure["kept"] is None else f"{failure['kept']} stands in its place"
            lines.append(f"{failure['place']} failed ({'; '.join(failure['reasons'])}): {kept}.")
        for member in selected:
            if member.iteration == 0:
                lines.append(f"No iteration improved on {member.name}'s start by that: {member.place} is handed back.")
        lines += [f"Do not use {name}: {warning}." for name, warning in warnings.items()]
        if not self.rows:
            lines.append("Whether they beat the initial bi-encoder is not known: that takes gold scores (data.test).")
        log.log(RESULT, "\n%s\n", "\n".join(lines))
        for name in ("report.html", "models", "labels", "predictions", "results.csv", "tensorboard"):
            log.info("%-12s %s", name, self.folder / name)
        log.info("%-12s %.0f s", "in all", time.monotonic() - self.started)
