"""Render the tables of the documents from results/*.csv.

    python benchmarks/tables.py            # rewrite the tables in README.md and docs/*.md
    python benchmarks/tables.py --list     # the names of all tables
    python benchmarks/tables.py NAME       # print one table

A document holds a table between `<!-- table: NAME -->` and `<!-- end -->`. Each row of a CSV file is one measurement.
A cell of a table holds the measurements of one row and one column: seeds are separated by commas, tasks by slashes. A
standard deviation, or the p-value of a difference, follows in parentheses.
"""

import argparse
import csv
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARKERS = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
EXTRA = ("sd", "p")  # statistics in parentheses behind the one they belong to


@dataclass(frozen=True)
class Table:
    """How measurements become a table.

    Attributes:
        file: name of the CSV file in results/, without its suffix.
        experiment: which of its rows.
        rows: the columns of the file whose values name a row of the table.
        columns: the column of the file whose values name a column of the table.
        where: further conditions, as column and allowed values.
        mean: whether a cell has the mean of the seeds and, in parentheses, their standard deviation.
    """

    file: str
    experiment: str
    rows: Sequence[str]
    columns: str
    where: dict[str, Sequence[str]] = field(default_factory=dict)
    mean: bool = False


POOLS = ("initial", "task", "pairs")
BI, CROSS = ("initial", "bi-encoder"), ("initial", "cross-encoder")
LAYERS = ("transformers' layers", "CPU layers")
BIASES = ("CPU layers", "CPU layers, initialised bias", "CPU layers, initialised bias, half the steps")
FIRST, LAST = ("1 cross", "1 bi"), ("2 cross", "2 bi", "3 cross", "3 bi")
SEVEN = ("initial", "arm", "encoder", "seed")
TABLES = {
    "quickstart": Table("quickstart", "quickstart", ("seed",), "encoder"),
    "quickstart-steps": Table("quickstart", "quickstart steps", ("arm", "encoder"), "task", {"encoder": LAST}, True),
    "quickstart-first": Table("quickstart", "quickstart steps", ("arm", "encoder"), "task", {"encoder": FIRST}, True),
    "quickstart-best": Table("quickstart", "quickstart with best", ("arm",), "encoder"),
    "small-pools": Table("small_pools", "small pools", ("initial", "pairs", "seed"), "encoder"),
    "stsb": Table("stsb", "stsb", ("initial", "seed"), "encoder"),
    "mutual": Table("stsb", "mutual", ("initial",), "encoder"),
    "supervised": Table("stsb", "supervised", ("encoder", "seed"), "task"),
    "gold": Table("gold", "gold", POOLS, "arm", mean=True),
    "evaluation": Table("evaluation", "mteb", ("arm",), "task"),
    "best": Table("stsb_best", "together", ("initial", "arm", "seed"), "encoder"),
    "sick": Table("sick", "sick", ("initial", "arm"), "encoder"),
    "mutual-best": Table("mutual_best", "mutual best", ("arm", "encoder"), "initial"),
    "seven": Table("seven_tasks", "seven", SEVEN, "task"),
    "seven-sick": Table("seven_tasks", "strong with sick", SEVEN[1:], "task"),
    "seven-no-test-pair": Table("seven_tasks", "no test pair", SEVEN[1:], "task"),
    "seven-no-sick": Table("seven_tasks", "no sentence of sick", SEVEN[1:], "task"),
    "iterations": Table("iterations", "iterations", ("initial", "seed", "arm"), "encoder"),
    "teachers": Table("iterations", "teachers", ("initial",), "encoder"),
    "adapting": Table("adapting", "adapting", ("initial", "task"), "arm", {"encoder": BI}, True),
    "adapting-cross": Table("adapting", "adapting", ("initial", "task"), "arm", {"encoder": CROSS}, True),
    "adapting-unseen": Table("adapting", "adapting unseen", ("initial", "task"), "arm", {"encoder": BI}),
    "adapting-unseen-cross": Table("adapting", "adapting unseen", ("initial", "task"), "arm", {"encoder": CROSS}),
    "adapting-pools": Table("adapting", "adapting pools", POOLS, "arm", {"encoder": BI}),
    "adapting-pools-cross": Table("adapting", "adapting pools", POOLS, "arm", {"encoder": CROSS}),
    "held-out": Table("adapting", "held out", POOLS, "arm"),
    "crops": Table("adapting", "crops", ("encoder", *POOLS), "arm"),
    "queries": Table("adapting", "queries", ("encoder", "metric", "initial"), "arm"),
    "schedule": Table("adapting", "schedule", ("task", "pairs"), "arm"),
    "soup": Table("adapting", "soup", ("initial", "task"), "arm"),
    "labels": Table("labels", "labels", ("initial", "arm"), "task"),
    "fixed-teachers": Table("fixed_teachers", "fixed teachers", ("arm",), "encoder"),
    "centring": Table("centring", "initial", ("initial", "arm"), "task"),
    "centring-students": Table("centring", "students", ("initial", "arm"), "task"),
    "bi-losses": Table("bi_losses", "labels and losses", ("arm", "encoder"), "task"),
    "bi-losses-more": Table("bi_losses", "more losses", ("initial", "arm"), "encoder"),
    "cross-losses": Table("cross_losses", "cross-encoder", ("arm", "seed"), "encoder"),
    "speed": Table("speed", "loop", ("arm",), "seed"),
    "small-job": Table("speed", "small job", ("arm",), "seed"),
    "cpu-layers": Table("speed", "cpu layers", ("arm", "encoder"), "task", {"arm": LAYERS}, True),
    "evaluation-speed": Table("speed", "evaluation speed", ("arm",), "seed"),
    "new-head": Table("new_head", "new head", ("arm",), "encoder", mean=True),
    "new-head-adapt": Table("new_head", "new head, adapt", ("initial", "task", "encoder"), "arm"),
    "new-head-start": Table("new_head", "start", ("arm",), "encoder", mean=True),
    "new-head-dropout": Table("new_head", "dropout", ("arm",), "encoder", mean=True),
    "new-head-test": Table("speed", "cpu layers", ("arm", "encoder"), "task", {"arm": BIASES}, True),
    "stages": Table("speed", "stages", ("task",), "encoder"),
    "gpu-steps": Table("speed", "gpu steps", ("arm",), "task"),
    "gpu-stages": Table("speed", "gpu stages", ("task",), "arm"),
    "profile": Table("speed", "profile", ("task",), "encoder"),
    "scaling": Table("scaling", "scaling", ("pairs",), "encoder"),
}
HEADERS = {"initial": "initial bi-encoder", "task": ""}


def measurements(table: Table) -> list[dict[str, str]]:
    """The rows of the CSV file that belong to a table, in the order of the file."""
    with (ROOT / "results" / f"{table.file}.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["experiment"] == table.experiment]
    return [row for row in rows if all(row[key] in allowed for key, allowed in table.where.items())]


def cell(found: Sequence[dict[str, str]]) -> str:
    """The text of one cell: `value (sd) / value (sd), ...`."""
    seeds: dict[str, dict[str, str]] = {}
    for row in found:
        tasks = seeds.setdefault(row["seed"], {})
        if row["statistic"] in EXTRA:
            tasks[row["task"]] += f" ({row['value']})"
        else:
            tasks[row["task"]] = row["value"]
    return ", ".join(" / ".join(tasks.values()) for tasks in seeds.values())


def mean_cell(found: Sequence[dict[str, str]]) -> str:
    """The text of one cell: `mean (standard deviation)` of the seeds; of a single one its value."""
    values = [float(row["value"]) for row in found]
    if len(values) < 2:
        return cell(found)
    return f"{statistics.mean(values):.2f} ({statistics.stdev(values):.2f})"


def render(table: Table) -> str:
    """A table as Markdown; rows and columns are in the order in which the file names them first."""
    cells: dict[tuple[str, ...], dict[str, list[dict[str, str]]]] = {}
    columns: dict[str, None] = {}
    for row in measurements(table):
        name = row[table.columns]
        columns[name] = None
        cells.setdefault(tuple(row[key] for key in table.rows), {}).setdefault(name, []).append(row)
    head = [*(HEADERS.get(key, key) for key in table.rows), *columns]
    lines = [head, ["---"] * len(head)]
    text = mean_cell if table.mean else cell
    lines += [[*key, *(text(found.get(name, [])) for name in columns)] for key, found in cells.items()]
    return "".join("|" + "|".join(line) + "|\n" for line in lines)


def documents() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rendered(text: str) -> str:
    """A document's text with all of its tables as they are rendered now."""
    return MARKERS.sub(lambda match: match[1] + render(TABLES[match[2]]) + match[3], text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", choices=TABLES, metavar="NAME")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args(arguments)
    if options.list:
        print(*TABLES, sep="\n")
    elif options.name:
        print(render(TABLES[options.name]), end="")
    else:
        for path in documents():
            path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
