"""Several runs side by side: a page, and the table at the end of a sweep."""

import html
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

import yaml

from transenc.report.run import Run, flat
from transenc.report.tables import html_table
from transenc.results import percent


def comparison(runs: Sequence[Run], failed: Sequence[str]) -> str:
    """The selected encoders' results, run by run, and their mean and standard deviation over seeds.

    Args:
        runs: finished runs.
        failed: names of jobs that did not finish.
    """
    settings = [{key: str(value) for key, value in flat(run.facts["config"]).items()} for run in runs]
    differing = [
        key for key in settings[0] if len({one.get(key) for one in settings}) > 1 and not key.startswith("paths.")
    ]
    names = list(dict.fromkeys(name for run in runs for name in run.selected))
    tasks = list(dict.fromkeys(task for run in runs for task in run.facts["tests"]))
    columns = [(name, task) for name in names for task in (tasks or [None])]
    heads = [f"{name} {task or 'selection score'}" for name, task in columns]
    values = [[_percent(run, name, task) for name, task in columns] for run in runs]
    parts = [f"<h1>Trans-Encoder: {len(runs)} {'run' if len(runs) == 1 else 'runs'}</h1>"]
    if failed:
        parts.append(f"<p>Failed, and not among them: job {html.escape(', '.join(failed))}.</p>")
    if "seed" in differing:
        others = [key for key in differing if key != "seed"]
        groups: dict[tuple[str, ...], list[list[float | None]]] = {}
        for one, row in zip(settings, values, strict=True):
            groups.setdefault(tuple(one.get(key, "") for key in others), []).append(row)
        rows = [
            [*setting, str(len(group)), *(_spread(column) for column in zip(*group, strict=True))]
            for setting, group in groups.items()
        ]
        caption = "Selected encoders, x100: mean and standard deviation over seeds"
        parts.append(f"<h2>Over seeds</h2>{html_table([*others, 'runs', *heads], rows, caption, sortable=True)}")
    each = [
        [run.folder.name, *(one.get(key, "") for key in differing), *row]
        for run, one, row in zip(runs, settings, values, strict=True)
    ]
    caption = "Selected encoders, x100; a click on a head sorts"
    parts.append(f"<h2>Each run</h2>{html_table(['run', *differing, *heads], each, caption, sortable=True)}")
    return "".join(parts)


def _percent(run: Run, name: str, task: str | None) -> float | None:
    """A selected encoder's result x100, or its selection score if no task is given; None if there is none."""
    value = None
    if name in run.selected and task is None:
        value = run.selected[name]["score"]
    elif name in run.selected and task in run.facts["tests"]:
        value = run.value(run.key(name), task)
    return None if value is None else 100 * value


def _spread(column: Sequence[float | None]) -> str:
    values = [value for value in column if value is not None]
    if not values:
        return ""
    if any(value != value for value in values):
        return "undefined"
    return f"{mean(values):.2f} ± {stdev(values) if len(values) > 1 else 0:.2f}"


def sweep_table(folders: Sequence[Path], finished: Sequence[Path]) -> str:
    """A line for each job of a multirun: the selected encoders' mean test scores x100 (selection scores if there are no
    test sets), and the settings of this job alone.

    Args:
        folders: of the jobs.
        finished: those of them that ended; the others failed.
    """
    jobs: list[tuple[str, dict[str, str], list[str]]] = []
    for folder in folders:
        settings = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text(encoding="utf-8"))
        overrides = [str(one) for one in settings]
        if folder not in finished:
            jobs.append((folder.name, {}, overrides))
            continue
        run, cells = Run.read(folder), {}
        for name, selected in run.selected.items():
            values = run.test_values(run.key(name)) or [selected["score"]]
            cells[name] = "" if values == [None] else percent(sum(values) / len(values))
        jobs.append((folder.name, cells, overrides))
    common = set.intersection(*(set(overrides) for _, _, overrides in jobs)) if len(jobs) > 1 else set()
    names = list(dict.fromkeys(name for _, cells, _ in jobs for name in cells)) or ["failed"]
    width = max(8, *(len(name) + 2 for name in names))
    lines = [f"{'job':<5}{''.join(f'{name:>{width}}' for name in names)}"]
    for number, cells, overrides in jobs:
        shown = [cells.get(name, "") for name in names] if cells else ["failed", *[""] * (len(names) - 1)]
        changed = " ".join(setting for setting in overrides if setting not in common)
        lines.append(f"{number:<5}{''.join(f'{cell:>{width}}' for cell in shown)}  {changed}")
    return "\n".join(lines)
