"""The plots of a run's page, as SVG."""

import html
import io
import re
from collections.abc import Callable, Iterable
from typing import Any

from transenc.report.run import Run
from transenc.results import averaged_over, member_name, percent

BI, CROSS = "#2f7ed8", "#d9622b"
INK, LINE = "#010203", "#040506"  # placeholders for the page's own colours
SMOOTHED_STEPS = 20
MAX_BARS = 10


def plots(run: Run) -> Iterable[str]:
    """All plots of a run, each an HTML figure."""
    if run.facts["tests"]:
        yield _scores(run)
    if run.labels:
        yield _histograms(run)
    for iteration in sorted({iteration for iteration, _ in run.labels if iteration}):
        bi, cross = run.labels.get((iteration, "bi")), run.labels.get((iteration, "cross"))
        if bi is not None and cross is not None:
            caption = f"Iteration {iteration}: what the two encoders learn of each pair of the pool"
            yield _scatter(
                bi.label, cross.label, "label for the cross-encoder", "label for the bi-encoder", CROSS, caption
            )
    for name in run.selected:
        for task, table in list(run.predictions(name).items())[:1]:
            value = run.value(run.key(name), task)
            caption = f"The selected {name} on {task}, {percent(float('nan') if value is None else value)}"
            yield _scatter(table.gold, table.score, "gold score", f"score of {name}", _colour(name), caption)
    yield from _curves(run)
    yield _seconds(run)


def _figure(draw: Callable[[Any], None], caption: str, long_names: bool = False) -> str:
    """One plot as SVG inside the page, in the page's own colours.

    Margins are fixed, as finding them takes as long as drawing, unless `long_names` stand at the left.
    """
    import matplotlib
    from matplotlib.figure import Figure

    style = {
        "svg.fonttype": "none", "svg.hashsalt": "transenc", "font.family": "sans-serif", "font.size": 10,
        "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": LINE, "xtick.color": INK, "ytick.color": INK,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": LINE,
        "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 9,
        "text.parse_math": False,  # in names of files
    }  # fmt: skip
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained" if long_names else None)
        if not long_names:
            figure.subplots_adjust(left=0.17, right=0.97, bottom=0.16, top=0.96)
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
    keys = list(dict.fromkeys(row.key for row in run.rows))
    encoders = list(dict.fromkeys((encoder, member) for _, encoder, member in keys))

    def draw(axes: Any) -> None:
        for encoder, member in encoders:
            iterations = [key[0] for key in keys if key[1:] == (encoder, member)]
            values = [run.test_values((iteration, encoder, member)) for iteration in iterations]
            axes.plot(
                iterations,
                [100 * sum(of_key) / len(of_key) for of_key in values],
                marker="o",
                color=_colour(encoder),
                linestyle="--" if member is None else "-",  # an ensemble has no member's number
                label=member_name((None, encoder, member), keys),
            )
        axes.set_xticks(sorted({key[0] for key in keys}))
        axes.set_xlabel("iteration")
        axes.legend()

    return _figure(draw, f"Results x100 on {averaged_over(run.facts['tests'])}")


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

    return _figure(draw, "Labels by teacher and iteration; later ones darker")


def _scatter(x: Any, y: Any, x_label: str, y_label: str, colour: str, caption: str) -> str:
    def draw(axes: Any) -> None:
        axes.scatter(x, y, s=4, color=colour, alpha=max(0.05, min(0.6, 400 / len(x))), linewidths=0, rasterized=True)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    return _figure(draw, caption)


def _curves(run: Run) -> Iterable[str]:
    rows = run.curves
    for kind in ("cross", "bi"):  # apart: their losses differ in size
        losses = rows[rows.loss.notna() & rows.place.str.contains(f"/{kind}")]
        if len(losses):
            yield _curve(losses, "loss", f"Training loss of the {kind}-encoder, mean of {SMOOTHED_STEPS} steps")
    scores = rows[rows.selection.notna()]
    if len(scores):
        yield _curve(scores, "selection", "Selection score during training")


def _curve(rows: Any, column: str, caption: str) -> str:
    def draw(axes: Any) -> None:
        places = sorted(rows.place.unique(), key=lambda place: (int(place.partition("/")[0]), place))
        last = int(places[-1].partition("/")[0])
        for place in places:
            curve = rows[rows.place == place]
            values = curve[column].rolling(SMOOTHED_STEPS, min_periods=1).mean() if column == "loss" else curve[column]
            iteration, _, name = place.partition("/")
            marker = {} if column == "loss" else {"marker": "o", "markersize": 3}
            alpha = (1 + int(iteration)) / (2 + last)  # later ones darker
            fold = re.search(r"fold-(\d+)", name)
            style = ("-", "--", ":", "-.")[int(fold[1]) % 4] if fold else "-"
            axes.plot(curve.step, values, style, color=_colour(name), alpha=alpha, label=place, linewidth=1.3, **marker)
        axes.set_xlabel("step")
        axes.legend()

    return _figure(draw, caption)


def _seconds(run: Run) -> str:
    def name_of(title: str) -> str:
        words = title.split()
        first, last = words[0], words[-1] if len(words) > 1 else ""
        if last in ("pool", "crops", "label") and "/" in first:
            return f"{first} label"  # an encoder's scores of the pool become labels
        if last in ("train", "soup", "pool", "crops", "embed"):
            return title
        return "evaluate" if "/" in first else first

    def draw(axes: Any) -> None:
        seconds: dict[str, float] = {}
        for stage in run.facts["stages"]:
            name = name_of(stage["title"])
            seconds[name] = seconds.get(name, 0.0) + stage["seconds"]
        longest = sorted(seconds.items(), key=lambda item: item[1])[-MAX_BARS:]
        axes.barh([name for name, _ in longest], [value for _, value in longest], color=BI)
        axes.set_xlabel("seconds")
        axes.grid(axis="y", visible=False)

    caption = "Where the time went (a reused stage counts with the time that it took when it was built)"
    return _figure(draw, caption, long_names=True)
