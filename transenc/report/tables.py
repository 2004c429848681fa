"""The tables of a run's page, as HTML."""

import html
from collections.abc import Iterable, Sequence
from typing import Any

from transenc.report.run import Run
from transenc.results import METRIC_NAMES, percent, tabulate

MAX_PAIRS = 20  # in a table of disagreements or errors


def html_table(
    heads: Sequence[str],
    rows: Iterable[Sequence[Any]],
    caption: str,
    marked: Iterable[int] = (),
    sortable: bool = False,
) -> str:
    """A table. Numbers, x100 already, are right-aligned with two decimals; None is an empty cell; text is escaped."""

    def cell(value: Any) -> str:
        if value is None:
            return "<td></td>"
        if isinstance(value, float):
            return f'<td class="n" data-value="{value!r}">{percent(value / 100)}</td>'
        return f"<td>{html.escape(str(value))}</td>"

    rows, marked = [list(row) for row in rows], set(marked)
    numeric = [bool(rows) and all(isinstance(row[i], float | None) for row in rows) for i in range(len(heads))]
    sort = ' data-sort=""' if sortable else ""
    head = "".join(
        f"<th{sort}{' class=n' if right else ''}>{html.escape(text)}</th>"
        for text, right in zip(heads, numeric, strict=True)
    )
    body = "".join(
        f"<tr{' class=chosen' if i in marked else ''}>{''.join(map(cell, row))}</tr>" for i, row in enumerate(rows)
    )
    title = f'<p class="faint">{html.escape(caption)}</p>'
    return f'{title}<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def score_table(run: Run) -> str:
    """All results, the selected encoders marked."""
    if not run.rows:
        return "<p>There are no scored pairs: whether the encoders beat the initial bi-encoder is not known.</p>"
    tests = run.facts["tests"]
    results = tabulate(run.rows, tests, run.facts.get("published", {}))
    rows = [[name, *(None if v is None else 100 * v for v in values)] for _, name, values in results.lines]
    selected = [run.key(name) for name in run.selected]
    marked = [i for i, (key, _, _) in enumerate(results.lines) if key in selected]
    metrics = " and ".join(METRIC_NAMES[metric] for metric in dict.fromkeys(results.metrics.values()))
    caption = f"{metrics} x100; marked: selected, by {run.facts['selected']['by']}"
    heads = ["", *results.metrics, "average"] if results.averaged else ["", *results.metrics]
    return html_table(heads, rows, caption, marked)


def disagreements(run: Run) -> str:
    """The pairs that the labels of the last iteration's two students order most differently."""
    iterations = {iteration for iteration, _ in run.labels if iteration}
    both = [i for i in iterations if (i, "bi") in run.labels and (i, "cross") in run.labels]
    if not both:
        return ""
    bi, cross = run.labels[max(both), "bi"], run.labels[max(both), "cross"]
    distance = (_ranks(cross.label) - _ranks(bi.label)).abs()
    furthest = distance.sort_values(ascending=False, kind="stable").index[:MAX_PAIRS]
    rows = [(bi.sentence1[i], bi.sentence2[i], float(bi.label[i]), float(cross.label[i])) for i in furthest]
    caption = f"Pairs whose two labels in iteration {max(both)} differ most, by rank among all labels"
    return html_table(("sentence 1", "sentence 2", "for cross", "for bi"), rows, caption)


def errors(run: Run) -> str:
    """The test pairs that each selected encoder ranks furthest from their gold scores."""
    tables = []
    for name in run.selected:
        worst = []
        for task, predictions in run.predictions(name).items():
            distance = (_ranks(predictions.score) - _ranks(predictions.gold)).abs()
            for i in distance.sort_values(ascending=False, kind="stable").index[:MAX_PAIRS]:
                pair = predictions.loc[i]
                row = (pair.sentence1, pair.sentence2, float(pair.gold), float(pair.score), task)
                worst.append((float(distance[i]), row))
        rows = [row for _, row in sorted(worst, key=lambda item: -item[0])[:MAX_PAIRS]]
        if rows:
            caption = f"{name}: test pairs whose score is furthest from the human one, by rank"
            tables.append(html_table(("sentence 1", "sentence 2", "gold", "score", "task"), rows, caption))
    return "".join(tables)


def _ranks(values: Any) -> Any:
    return values.rank() / len(values)
