"""report.html: a run, or several side by side, as one page that needs no network.

    python -m transenc.report RUN [RUN ...] [--out FILE]

RUN is a run folder, or a multirun's, which stands for the runs in it. All is read from the run folders. One run's page
goes to its own report.html; that of several to the file that `--out` names, or comparison.html here.
"""

import argparse
import html
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transenc.artifacts import replacing
from transenc.errors import InputError
from transenc.results import NAMES, shown

SHOWN = 20  # pairs in a table of disagreements or errors
BI, CROSS, INK, LINE = "#2f7ed8", "#d9622b", "#010203", "#040506"  # the last two become the page's own colours

CSS = """
:root{color-scheme:light dark;--ink:#1c2126;--faint:#66707a;--line:#d9dee3;--ground:#fff;--mark:#eef4fb}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--faint:#9aa5b0;--line:#3a424a;--ground:#15191d;--mark:#1f2b38}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:72rem;margin:0 auto;
 padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2.5rem 0 .5rem}p{margin:.4rem 0}
.faint,th,figcaption{color:var(--faint)}figcaption{font-size:.9rem}
.wide{overflow-x:auto}code,pre{font:.85rem/1.4 ui-monospace,monospace}pre{white-space:pre-wrap;overflow-wrap:anywhere}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}th{font-weight:500;text-align:left}
td,th{padding:.25rem .7rem;border-bottom:1px solid var(--line);vertical-align:top}td.n,th.n{text-align:right}
tr.chosen{background:var(--mark)}tr.chosen td:first-child{font-weight:600}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,21rem),1fr));gap:1.5rem}
figure{margin:0}svg{width:100%;height:auto;display:block}th[data-sort]{cursor:pointer}th[data-sort]:hover{color:var(--ink)}
"""

# A click on a head sorts its table by that column, numbers as numbers; a second click turns it round.
SORT = """
for(const h of document.querySelectorAll('th[data-sort]'))h.onclick=()=>{const t=h.closest('table'),b=t.tBodies[0],
i=[...h.parentNode.children].indexOf(h),v=r=>{const s=r.cells[i].dataset.value||r.cells[i].textContent,n=parseFloat(s);
return isNaN(n)?s:n},d=h.dataset.sort==='1'?-1:1;h.dataset.sort=d;
[...b.rows].sort((a,c)=>{const x=v(a),y=v(c);return(x>y)-(x<y)===0?0:((x>y)||(typeof x>typeof y)?d:-d)})
.forEach(r=>b.append(r))}
"""


@dataclass(frozen=True)
class Run:
    """What a run left in its folder.

    Attributes:
        folder: of the run.
        facts: its run.json.
    """

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """
        Raises:
            InputError: the folder holds no finished run.
        """
        try:
            facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{folder}: no finished run (its run.json is missing or damaged)") from None
        whole = "stages" in facts and all((folder / name).exists() for name in ("results.csv", "curves.csv"))
        if not whole:
            raise InputError(f"{folder}: a run of an earlier version, or files are missing; run its command again")
        return cls(folder, facts)

    @cached_property
    def results(self) -> Any:
        return _table(self.folder / "results.csv")

    @cached_property
    def labels(self) -> dict[tuple[int, str], Any]:
        """By iteration and kind of teacher."""
        files = {tuple(path.stem.split("-", 1)): path for path in (self.folder / "labels").glob("*-*.csv")}
        return {(int(iteration), kind): _table(path) for (iteration, kind), path in sorted(files.items())}

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The selected encoders by name, `cross` or `cross-0`: iteration and selection score."""
        return {name: value for name, value in self.facts["selected"].items() if isinstance(value, dict)}

    def predictions(self, name: str) -> dict[str, Any]:
        """A selected encoder's test pairs by task: sentence1, sentence2, gold, score."""
        stem = f"{self.chosen[name]['iteration']}-{name}" + self.encoder(name).removeprefix(name.partition("-")[0])
        paths = {task: self.folder / "predictions" / f"{stem}-{task}.csv" for task in self.facts["tests"]}
        return {task: _table(path) for task, path in paths.items() if path.exists()}

    @cached_property
    def curves(self) -> Any:
        return _table(self.folder / "curves.csv")

    def encoder(self, name: str) -> str:
        """What a selected encoder is called in results.csv: its kind, or `bi-centred`."""
        return self.chosen[name].get("encoder", name.partition("-")[0])

    def row(self, name: str, task: str) -> float:
        """A selected encoder's result on a task."""
        member = name.partition("-")[2]
        r = self.results
        r = r[(r.encoder == self.encoder(name)) & (r.task == task) & (r.iteration == self.chosen[name]["iteration"])]
        return float(r[r.member == int(member or 0)][self.facts["tests"][task]].iloc[0])


NUMBERS = ("member", "spearman", "pearson", "auc", "average_precision", "loss", "learning_rate", "selection")


def _table(path: Path) -> Any:
    """A csv; a sentence that reads NA is a sentence, an empty number is none."""
    import pandas

    return pandas.read_csv(path, keep_default_na=False, na_values={name: [""] for name in NUMBERS})


# Pictures.


def _figure(draw: Callable[[Any], None], caption: str) -> str:
    """One picture as SVG inside the page, in the page's own colours."""
    import io

    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "transenc", "font.family": "sans-serif", "font.size": 10,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": LINE, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE,
        "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9,
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "var(--ink)").replace(LINE, "var(--line)")
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg))
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL).replace("font: 10px", "font:10px")
    return f"<figure>{svg}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _colour(name: str) -> str:
    return BI if name.startswith("bi") else CROSS


def _scores(run: Run) -> str:
    def draw(axes: Any) -> None:
        rows = run.results[run.results.task.isin(run.facts["tests"])].copy()
        rows["value"] = [row[run.facts["tests"][row["task"]]] for _, row in rows.iterrows()]
        for (encoder, member), some in rows.groupby(["encoder", "member"], dropna=False):
            line = 100 * some.groupby("iteration").value.mean()
            several = rows[rows.encoder == encoder].member.nunique() > 1
            name = f"{encoder}-{int(member)}" if several else encoder
            dashes = {"linestyle": "--"} if encoder.endswith("ensemble") else {}
            axes.plot(line.index, line.values, marker="o", color=_colour(encoder), label=name, **dashes)
        axes.set_xticks(sorted(rows.iteration.unique()))
        axes.set_xlabel("iteration")
        axes.legend()

    tests = list(run.facts["tests"])
    return _figure(draw, f"Scores (x100) on {tests[0] if len(tests) == 1 else f'{len(tests)} test sets, averaged'}")


def _histograms(run: Run) -> str:
    def draw(axes: Any) -> None:
        last = max(iteration for iteration, _ in run.labels)
        for (iteration, kind), table in run.labels.items():
            axes.hist(
                table.label, bins=50, range=(0, 1), histtype="step", color=_colour(kind), linewidth=1.4,
                alpha=0.35 + 0.65 * (iteration / last if last else 1), label=f"{iteration} {kind}",
            )  # fmt: skip
        axes.set_xlabel("label")
        axes.set_ylabel("pairs")
        axes.legend()

    return _figure(draw, "Labels that each teacher gave, by iteration; later ones darker")


def _scatter(x: Any, y: Any, across: str, up: str, colour: str, caption: str) -> str:
    def draw(axes: Any) -> None:
        axes.scatter(x, y, s=4, color=colour, alpha=max(0.05, min(0.6, 400 / len(x))), linewidths=0, rasterized=True)
        axes.set_xlabel(across)
        axes.set_ylabel(up)

    return _figure(draw, caption)


def _pictures(run: Run) -> Iterable[str]:
    if run.facts["tests"]:
        yield _scores(run)
    if run.labels:
        yield _histograms(run)
    for iteration in sorted({iteration for iteration, _ in run.labels if iteration}):
        bi, cross = (run.labels.get((iteration, kind)) for kind in ("bi", "cross"))
        if bi is not None and cross is not None:
            caption = f"Teacher and student of iteration {iteration}: what both say of the pairs they learn from"
            yield _scatter(bi.label, cross.label, "bi-encoder's label", "cross-encoder's", CROSS, caption)
    for name in run.chosen:
        for task, table in list(run.predictions(name).items())[:1]:
            caption = f"{name}, selected: its score and the human one, {task}, {shown(run.row(name, task))}"
            yield _scatter(table.gold, table.score, "gold", f"{name}'s score", _colour(name), caption)
    yield from _curves(run)
    yield _seconds(run)


def _curves(run: Run) -> Iterable[str]:
    rows = run.curves
    for kind in ("cross", "bi"):  # apart: their losses are of different size
        some = rows[rows.loss.notna() & rows.place.str.contains(f"/{kind}")]
        if len(some):
            yield _curve(some, "loss", f"Training loss of the {kind}-encoder, mean of 20 steps")
    some = rows[rows.selection.notna()]
    if len(some):
        yield _curve(some, "selection", "Selection score while training")


def _curve(rows: Any, column: str, caption: str) -> str:
    def draw(axes: Any) -> None:
        places = sorted(rows.place.unique())
        for place in places:
            some = rows[rows.place == place]
            values = some[column].rolling(20, min_periods=1).mean() if column == "loss" else some[column]
            share = (1 + int(place.partition("/")[0])) / (2 + int(places[-1].partition("/")[0]))
            colour = _colour(place.partition("/")[2])
            marker = {} if column == "loss" else {"marker": "o", "markersize": 3}
            axes.plot(some.step, values, color=colour, alpha=share, label=place, linewidth=1.3, **marker)
        axes.set_xlabel("step")
        axes.legend()

    return _figure(draw, caption)


def _seconds(run: Run) -> str:
    def draw(axes: Any) -> None:
        spent: dict[str, float] = {}
        for stage in run.facts["stages"]:
            words = stage["title"].split()
            name = stage["title"] if words[-1] in ("teach", "pool") else "evaluate" if "/" in words[0] else words[0]
            spent[name.replace(" pool", " label")] = spent.get(name.replace(" pool", " label"), 0.0) + stage["seconds"]
        largest = sorted(spent.items(), key=lambda item: item[1])[-10:]
        axes.barh([name for name, _ in largest], [seconds for _, seconds in largest], color=BI)
        axes.set_xlabel("seconds")
        axes.grid(axis="y", visible=False)

    return _figure(draw, "Where the time went (stages that were found built count with the time they once took)")


# Tables.


def _rows(heads: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "", chosen: Iterable[int] = (),
          sort: bool = False) -> str:  # fmt: skip
    """Numbers with two decimals, to the right; nothing for None; everything else escaped."""

    def cell(value: Any) -> str:
        if value is None:
            return "<td></td>"
        if isinstance(value, float):
            return f'<td class="n" data-value="{value!r}">{shown(value / 100)}</td>'
        return f"<td>{html.escape(str(value))}</td>"

    rows, chosen = [list(row) for row in rows], set(chosen)
    numeric = [bool(rows) and all(isinstance(row[i], float | None) for row in rows) for i in range(len(heads))]
    click = ' data-sort=""' if sort else ""
    head = "".join(
        f"<th{click}{' class=n' if n else ''}>{html.escape(h)}</th>" for h, n in zip(heads, numeric, strict=True)
    )
    body = "".join(
        f"<tr{' class=chosen' if i in chosen else ''}>{''.join(map(cell, row))}</tr>" for i, row in enumerate(rows)
    )
    title = f'<p class="faint">{html.escape(caption)}</p>' if caption else ""
    return f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _score_table(run: Run) -> str:
    results, tests = run.results, run.facts["tests"]
    tasks = list(dict.fromkeys(results.task))
    average = len(tests) > 1 and len(set(tests.values())) == 1
    rows, chosen = [], []
    for (iteration, encoder, member), some in results.groupby(
        ["iteration", "encoder", "member"], dropna=False, sort=False
    ):
        measure = {task: tests.get(task, "auc" if some.auc.notna().any() else "spearman") for task in tasks}
        values = {row["task"]: 100 * float(row[measure[row["task"]]]) for _, row in some.iterrows()}
        several = results[results.encoder == encoder].member.nunique() > 1
        number = f"-{int(member)}" if several and member == member else ""
        name, plain = encoder + number, encoder.removesuffix("-centred") + number
        if plain in run.chosen and (run.chosen[plain]["iteration"], run.encoder(plain)) == (iteration, encoder):
            chosen.append(len(rows))
        row: list[Any] = [f"{iteration} {name}", *(values.get(task) for task in tasks)]
        rows.append(row + ([sum(values[task] for task in tests) / len(tests)] if average else []))
    for name, said in run.facts["config"].get("published", {}).items():
        known = all(test in said for test in tests)
        row = [f"paper: {name}", *(said.get(task) for task in tasks)]
        rows.append(row + ([sum(said[test] for test in tests) / len(tests) if known else None] if average else []))
    by = run.facts["selected"]["by"]
    measures = " and ".join(NAMES[measure] for measure in dict.fromkeys(tests.values())) or NAMES["spearman"]
    caption = f"{measures} x100; marked: selected, by {by}"
    return _rows(["", *tasks, *(["average"] if average else [])], rows, caption, chosen)


def _ranks(values: Any) -> Any:
    return values.rank() / len(values)


def _disagreements(run: Run) -> str:
    both = [i for i in {i for i, _ in run.labels} if i and (i, "bi") in run.labels and (i, "cross") in run.labels]
    if not both:
        return ""
    bi, cross = run.labels[max(both), "bi"], run.labels[max(both), "cross"]
    far = (_ranks(cross.label) - _ranks(bi.label)).abs().sort_values(ascending=False, kind="stable").index[:SHOWN]
    rows = [(bi.sentence1[i], bi.sentence2[i], float(bi.label[i]), float(cross.label[i])) for i in far]
    caption = f"Pairs on which the two encoders of iteration {max(both)} disagree most, by rank among all labels"
    return _rows(("sentence 1", "sentence 2", "bi", "cross"), rows, caption)


def _errors(run: Run) -> str:
    tables = []
    for name in run.chosen:
        worst = []
        for task, table in run.predictions(name).items():
            off = _ranks(table.score) - _ranks(table.gold)
            for i in off.abs().sort_values(ascending=False, kind="stable").index[:SHOWN]:
                row = (table.sentence1[i], table.sentence2[i], float(table.gold[i]), float(table.score[i]), task)
                worst.append((abs(float(off[i])), row))
        rows = [row for _, row in sorted(worst, key=lambda one: -one[0])[:SHOWN]]
        if rows:
            caption = f"{name}: test pairs whose score is furthest from its human one, by rank"
            tables.append(_rows(("sentence 1", "sentence 2", "gold", "score", "task"), rows, caption))
    return "".join(tables)


# Pages.


# Texts of others may hold codes that are no part of a page; a replacement character stands for each.
UNPRINTABLE = {code: 0xFFFD for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head><body>{body.translate(UNPRINTABLE)}"
        f"<script>{SORT}</script></body></html>\n"
    )


def _gain(run: Run, name: str) -> str:
    """One sentence on a selected encoder."""
    iteration, tests = run.chosen[name]["iteration"], run.facts["tests"]
    if not tests:
        return f"<b>{name}</b>: iteration {iteration}."
    value = sum(run.row(name, task) for task in tests) / len(tests)
    kind, _, member = name.partition("-")
    rows = run.results
    start = rows[(rows.iteration == 0) & (rows.encoder == kind) & (rows.member == int(member or 0))]
    where = html.escape(next(iter(tests))) if len(tests) == 1 else f"{len(tests)} test sets on average"
    gain = ""
    if len(start) and (iteration or run.encoder(name) != kind):  # a cross-encoder's start is untrained, and has none
        began = sum(start[start.task == task][measure].iloc[0] for task, measure in tests.items()) / len(tests)
        if began == began and value == value:
            gain = f", {100 * (value - began):+.2f} from its start's {100 * began:.2f}"
    return f"<b>{name}</b>: {shown(value)} on {where}{gain} (iteration {iteration})."


def _one(run: Run) -> str:
    facts = run.facts
    config, data = facts["config"], facts["data"]
    models = re.sub(r"#sha256=\w+", "", ", ".join(f"{kind}: {config['model'][kind]}" for kind in ("bi", "cross")))
    failures = "".join(
        f"<p>{html.escape(failure['place'])} failed: {html.escape('; '.join(failure['reasons']))}.</p>"
        for failure in facts["failures"]
    )
    failures += "".join(
        f"<p><b>Do not use {html.escape(name)}</b>: {html.escape(said)}.</p>"
        for name, said in facts.get("warnings", {}).items()  # runs of earlier versions have none
    )
    pictures = "".join(_pictures(run))
    disagreements, errors = _disagreements(run), _errors(run)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    git = facts["git"]
    commit = f"commit {git['commit'][:12]}{', changed' if git['changed'] else ''}" if git["commit"] else "no git state"
    return "".join(
        [
            f"<h1>Trans-Encoder</h1><p>{' '.join(_gain(run, name) for name in run.chosen)}</p>{failures}",
            f'<p class="faint">{html.escape(models)}; {data["pairs"]:,} pairs to learn from; seed {config["seed"]};'
            f" {facts['seconds']:.0f} s.</p><pre>{html.escape(facts['command'])}</pre>",
            f"<h2>Scores</h2>{_score_table(run)}<h2>Pictures</h2><div class='pictures'>{pictures}</div>",
            f"<h2>Where the two differ</h2>{disagreements}" if disagreements else "",
            f"<h2>Largest errors</h2>{errors}" if errors else "",
            f'<h2>How it was made</h2><p class="faint">Python {facts["python"]}, {html.escape(facts["machine"])},'
            f" {html.escape(versions)}; {commit}.</p><details><summary>Every setting</summary>"
            f"<pre>{html.escape(json.dumps(config, indent=1))}</pre></details>",
        ]
    )


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists as text; figures of others are none."""
    items: dict[str, Any] = {}
    for key, value in settings.items():
        if key == "published":
            continue
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{key}.")
        else:
            items[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return items


def _several(runs: Sequence[Run], failed: Sequence[str]) -> str:
    settings = [{key: str(value) for key, value in flat(run.facts["config"]).items()} for run in runs]
    keys = [key for key in settings[0] if len({one.get(key) for one in settings}) > 1 and not key.startswith("paths.")]
    names = list(dict.fromkeys(name for run in runs for name in run.chosen))
    tasks = list(dict.fromkeys(task for run in runs for task in run.facts["tests"]))
    heads = [f"{name} {task}" for name in names for task in tasks]

    def values(run: Run) -> list[float | None]:
        return [
            100 * run.row(name, task) if name in run.chosen and task in run.facts["tests"] else None
            for name in names
            for task in tasks
        ]

    rows = [
        [run.folder.name, *(one.get(k, "") for k in keys), *values(run)]
        for run, one in zip(runs, settings, strict=True)
    ]
    parts = [f"<h1>Trans-Encoder: {len(runs)} run{'s' * (len(runs) != 1)}</h1>"]
    if failed:
        parts.append(f"<p>Failed, and not among them: job {html.escape(', '.join(failed))}.</p>")
    groups: dict[tuple[str, ...], list[list[float | None]]] = {}
    others = [key for key in keys if key != "seed"]
    for run, one in zip(runs, settings, strict=True):
        groups.setdefault(tuple(one.get(key, "") for key in others), []).append(values(run))
    if "seed" in keys:
        import numpy as np

        table = []
        for setting, members in groups.items():
            cells = []
            for column in zip(*members, strict=True):
                have = [value for value in column if value is not None]
                mean, spread = (np.mean(have), np.std(have, ddof=min(1, len(have) - 1))) if have else (0, 0)
                cells.append(f"{mean:.2f} ± {spread:.2f}" if have and mean == mean else "undefined" if have else "")
            table.append([*setting, str(len(members)), *cells])
        caption = "Selected encoders, x100: mean and standard deviation over seeds"
        parts.append(f"<h2>Over seeds</h2>{_rows([*others, 'runs', *heads], table, caption, sort=True)}")
    caption = "Selected encoders, x100; a click on a head sorts"
    parts.append(f"<h2>Each run</h2>{_rows(['run', *keys, *heads], rows, caption, sort=True)}")
    return "".join(parts)


def write_report(folders: Sequence[Path], out: Path, failed: Sequence[str] | None = None) -> None:
    """One run's page, or the comparison of several.

    Args:
        folders: of finished runs.
        out: the file to write.
        failed: names of a sweep's jobs that did not finish; a single one that did is compared with none, then.

    Raises:
        InputError: a folder holds no finished run.
    """
    runs = [Run.read(folder) for folder in folders]
    body = _one(runs[0]) if len(runs) == 1 and failed is None else _several(runs, failed or [])
    with replacing(out) as file:
        file.write(_page("Trans-Encoder", body))


def sweep_table(folder: Path) -> str:
    """A line for each job of a multirun: the selected encoders' test scores x100 on average (their selection scores
    where nothing is tested), and what was asked of this job alone.
    """
    lines: list[tuple[str, dict[str, str], list[str]]] = []
    for job in sorted(folder.glob("*/.hydra/overrides.yaml"), key=lambda path: path.parts[-3].zfill(9)):
        asked = [line.removeprefix("- ") for line in job.read_text(encoding="utf-8").splitlines()]
        try:
            run = Run.read(job.parents[1])
        except InputError:
            lines.append((job.parts[-3], {}, asked))
            continue
        tests = list(run.facts["tests"])
        scores = {
            name: [run.row(name, test) for test in tests] or ([] if chosen["score"] is None else [chosen["score"]])
            for name, chosen in run.chosen.items()
        }
        lines.append((job.parts[-3], {name: shown(sum(v) / len(v)) if v else "" for name, v in scores.items()}, asked))
    common = set.intersection(*(set(asked) for _, _, asked in lines)) if len(lines) > 1 else set()
    names = list(dict.fromkeys(name for _, scores, _ in lines for name in scores)) or ["failed"]
    width = max(8, *(len(name) + 2 for name in names))
    rows = [f"{'job':<5}{''.join(f'{name:>{width}}' for name in names)}"]
    for number, scores, asked in lines:
        cells = [scores.get(name, "") for name in names] if scores else ["failed", *[""] * (len(names) - 1)]
        own = " ".join(setting for setting in asked if setting not in common)
        rows.append(f"{number:<5}{''.join(f'{cell:>{width}}' for cell in cells)}  {own}")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m transenc.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    folders: list[Path] = []
    for folder in options.run:
        inside = sorted(path.parent for path in folder.glob("*/run.json"))
        folders += [folder] if (folder / "run.json").exists() or not inside else inside
    out = options.out or (folders[0] / "report.html" if len(folders) == 1 else Path("comparison.html"))
    try:
        write_report(folders, out)
    except (InputError, OSError) as error:
        print(error if isinstance(error, InputError) else f"{error.filename or out}: {error.strerror}", file=sys.stderr)
        return 1
    except Exception as error:  # whatever a damaged file makes a reader stumble over
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        where = folders[0] if len(folders) == 1 else f"one of {len(folders)} runs"
        said = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
        print(f"{where}: a file is damaged ({said}); run its command again", file=sys.stderr)
        return 1
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
