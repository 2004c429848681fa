"""What a run left in its folder, as the report reads it."""

import csv
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from transenc.errors import InputError
from transenc.results import METRIC_NAMES, Key, Row
from transenc.run_folder import predictions_path

# Columns where an empty cell is NaN.
NUMBERS = ("label", "gold", "score", "loss", "learning_rate", "selection", "member", *METRIC_NAMES)
LABELS = re.compile(r"(\d+)-(bi|cross|gold)\.csv")


@dataclass(frozen=True)
class Run:
    """A finished run, read from its folder.

    Attributes:
        folder: of the run.
        facts: its run.json.
    """

    folder: Path
    facts: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The run in a folder.

        Raises:
            InputError: the folder holds no finished run.
        """
        try:
            facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise InputError(f"{folder}: no finished run (its run.json is missing or damaged)") from None
        if "stages" not in facts or not all((folder / name).exists() for name in ("results.csv", "curves.csv")):
            raise InputError(f"{folder}: a run of an earlier version, or files are missing; run its command again")
        return cls(folder, facts)

    @cached_property
    def rows(self) -> list[Row]:
        """results.csv."""
        with open(self.folder / "results.csv", encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            cells = list(reader)
        if "spearman" not in (reader.fieldnames or ()):
            raise InputError(f"{self.folder / 'results.csv'}: is damaged; run its command again")
        binary = {row["task"] for row in cells if row["auc"]}  # an AUC that is undefined is an empty cell too
        binary |= {task for task, metric in self.facts["tests"].items() if metric == "auc"}

        def number(text: str) -> float:
            return float(text) if text else float("nan")

        return [
            Row(
                int(row["iteration"]),
                row["encoder"],
                int(row["member"]) if row["member"] else None,
                row["task"],
                int(row["n"]),
                number(row["spearman"]),
                number(row["pearson"]),
                number(row["auc"]) if row["task"] in binary else None,
                number(row["average_precision"]) if row["task"] in binary else None,
            )
            for row in cells
        ]

    @cached_property
    def labels(self) -> dict[tuple[int, str], Any]:
        """By iteration and kind of teacher."""
        files = {path: LABELS.fullmatch(path.name) for path in (self.folder / "labels").glob("*.csv")}
        tables = {(int(name[1]), name[2]): read_table(path) for path, name in files.items() if name}
        # Files of others may lie there too.
        return {key: table for key, table in sorted(tables.items()) if "label" in table.columns}

    @cached_property
    def curves(self) -> Any:
        return read_table(self.folder / "curves.csv")

    @property
    def selected(self) -> dict[str, dict[str, Any]]:
        """The selected encoders by name, `cross` or `cross-0`: `iteration`, `encoder`, `place`, selection `score`."""
        return {name: value for name, value in self.facts["selected"].items() if isinstance(value, dict)}

    def key(self, name: str) -> Key:
        """What the rows of a selected encoder are found by."""
        kind, _, member = name.partition("-")
        selected = self.selected[name]
        return selected["iteration"], selected.get("encoder", kind), int(member or 0)

    def value(self, key: Key, task: str) -> float | None:
        """An encoder's result on a task; None if it was not evaluated."""
        return next((row.value for row in self.rows if (row.key, row.task) == (key, task)), None)

    def test_values(self, key: Key) -> list[float]:
        """An encoder's results on the test sets; none if it was not evaluated."""
        values = [self.value(key, task) for task in self.facts["tests"]]
        return [value for value in values if value is not None]

    def predictions(self, name: str) -> dict[str, Any]:
        """A selected encoder's test pairs by task: sentence1, sentence2, gold, score."""
        place = self.selected[name].get("place", f"{self.selected[name]['iteration']}/{name}")
        paths = {task: self.folder / predictions_path(place, task) for task in self.facts["tests"]}
        return {task: read_table(path) for task, path in paths.items() if path.exists()}


def read_table(path: Path) -> Any:
    """A csv file as a data frame. A sentence that reads NA, or 007, is a sentence."""
    import pandas

    empty = {name: ["", "nan"] for name in NUMBERS}
    texts = {"sentence1": str, "sentence2": str}
    return pandas.read_csv(path, keep_default_na=False, na_values=empty, dtype=texts)


def flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name; lists as text."""
    items: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            items |= flat(value, f"{prefix}{key}.")
        else:
            items[prefix + key] = value if isinstance(value, bool | int | float | str) else str(value)
    return items
