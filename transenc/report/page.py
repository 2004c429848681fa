"""A run's page, and the file that it or a comparison is written to."""

import html
import json
import re
from collections.abc import Sequence
from pathlib import Path

from transenc.artifacts import replacing
from transenc.report.comparison import comparison
from transenc.report.plots import plots
from transenc.report.run import Run
from transenc.report.tables import disagreements, errors, score_table
from transenc.results import averaged_over, failed_training, percent

HERE = Path(__file__).parent
# Control codes in a person's texts do not belong on a page; a replacement character stands for each.
CONTROL_CODES = {code: 0xFFFD for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n\r"}


def write_report(folders: Sequence[Path], out: Path, failed: Sequence[str] | None = None) -> None:
    """One run's page, or the comparison of several.

    Args:
        folders: of finished runs.
        out: the file to write.
        failed: names of a sweep's jobs that did not finish; even a single finished one then gets a comparison.

    Raises:
        InputError: a folder holds no finished run.
    """
    runs = [Run.read(folder) for folder in folders]
    body = _run_page(runs[0]) if len(runs) == 1 and failed is None else comparison(runs, failed or [])
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("style.css", "sort.js"))
    with replacing(out) as file:
        file.write(
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>Trans-Encoder</title><style>\n{style}</style></head>"
            f"<body>{body.translate(CONTROL_CODES)}<script>\n{script}</script></body></html>\n"
        )


def _run_page(run: Run) -> str:
    facts = run.facts
    config, data, git = facts["config"], facts["data"], facts["git"]
    models = re.sub(r"#sha256=\w+", "", f"bi: {config['model']['bi']}, cross: {config['model']['cross']}")
    read = [f"<li>{html.escape(model['name'])}: {html.escape(model['read_as'])}" for model in facts.get("models", ())]
    notes = [html.escape(failed_training(failure)) for failure in facts["failures"]]
    notes += map(html.escape, facts.get("notes", {}).values())  # runs of earlier versions have none
    notes += [
        f"<b>Do not use {html.escape(name)}</b>: {html.escape(reason)}."
        for name, reason in facts.get("warnings", {}).items()
    ]
    differences, largest_errors = disagreements(run), errors(run)
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    commit = f"commit {git['commit'][:12]}{', changed' if git['changed'] else ''}" if git["commit"] else "no git state"
    return "".join(
        [
            f"<h1>Trans-Encoder</h1><p>{' '.join(_gain(run, name) for name in run.selected)}</p>",
            *(f"<p>{note}</p>" for note in notes),
            f'<p class="faint">{html.escape(models)}; {data["pairs"]:,} pairs to learn from; seed {config["seed"]};'
            f" {facts['seconds']:.0f} s.</p><pre>{html.escape(facts['command'])}</pre>",
            f"<h2>Scores</h2>{score_table(run)}<h2>Plots</h2><div class='plots'>{''.join(plots(run))}</div>",
            f"<h2>Where the labels differ</h2>{differences}" if differences else "",
            f"<h2>Largest errors</h2>{largest_errors}" if largest_errors else "",
            "<h2>How it was made</h2>",
            f"<ul>{''.join(read)}</ul>" if read else "",
            f'<p class="faint">Python {facts["python"]}, {html.escape(facts["machine"])},'
            f" {html.escape(versions)}; {commit}.</p><details><summary>All settings</summary>"
            f"<pre>{html.escape(json.dumps(config, indent=1))}</pre></details>",
        ]
    )


def _gain(run: Run, name: str) -> str:
    """One sentence on a selected encoder."""
    key, tests = run.key(name), run.facts["tests"]
    iteration, encoder, member = key
    if not tests:
        return f"<b>{name}</b>: iteration {iteration}."
    value = sum(run.test_values(key)) / len(tests)
    where = html.escape(averaged_over(tests))
    gain = ""
    # The initial cross-encoder has no results where its head is new.
    initial = run.test_values((0, name.partition("-")[0], member))
    if initial and (iteration, encoder) != (0, name.partition("-")[0]):
        before = sum(initial) / len(initial)
        if before == before and value == value:  # both are defined
            gain = f", {100 * (value - before):+.2f} from the initial {100 * before:.2f}"
    return f"<b>{name}</b>: {percent(value)} on {where}{gain} (iteration {iteration})."
