"""The tables of the documents are those of results/*.csv, and the documents stay short."""

import csv
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SPEC = importlib.util.spec_from_file_location("tables", ROOT / "benchmarks" / "tables.py")
tables = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tables)
DOCUMENTS = {str(path.relative_to(ROOT)): path for path in tables.documents()}
MEASURED = [path for path in sorted((ROOT / "results").glob("*.csv")) if path.stem != "published"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_tables_of_a_document_are_rendered_from_the_results(name):
    text = DOCUMENTS[name].read_text(encoding="utf-8")
    assert text.count("<!-- table: ") == len(tables.MARKERS.findall(text))
    assert tables.rendered(text) == text, "run python benchmarks/tables.py"


@pytest.mark.parametrize("name", tables.TABLES)
def test_every_table_has_measurements_with_a_value(name):
    found = tables.measurements(tables.TABLES[name])
    assert found
    assert all(row["value"] and row["command"] and row["machine"] for row in found)


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.name)
def test_every_measurement_belongs_to_a_table_and_is_there_once(path):
    with path.open(encoding="utf-8", newline="") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert len(set(rows)) == len(rows)
    shown = [row for table in tables.TABLES.values() if table.file == path.stem for row in tables.measurements(table)]
    assert {tuple(row.values()) for row in shown} == set(rows)


@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - {"README.md"}))
def test_no_document_is_longer_than_1500_words(name):
    assert len(DOCUMENTS[name].read_text(encoding="utf-8").split()) <= 1500


TESTS = list((ROOT / "tests").glob("*.py"))
NAMES = {name for path in TESTS for name in re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_test_that_a_document_names_is_there(name):
    named = re.findall(r"`(test_\w+(?:\.py)?)`", DOCUMENTS[name].read_text(encoding="utf-8"))
    known = {path.name for path in TESTS} | NAMES
    assert not [test for test in named if test not in known and not any(other.startswith(test) for other in NAMES)]


def test_the_readme_has_at_most_150_lines():
    assert len(DOCUMENTS["README.md"].read_text(encoding="utf-8").splitlines()) <= 150


def test_a_cell_joins_tasks_by_slashes_seeds_by_commas_and_has_the_deviation_in_parentheses():
    rows = [
        ("0", "dev", "value", "1.0"),
        ("0", "test", "mean", "2.0"),
        ("0", "test", "sd", "0.1"),
        ("1", "dev", "value", "3.0"),
    ]
    found = [dict(zip(("seed", "task", "statistic", "value"), row, strict=True)) for row in rows]
    assert tables.cell(found) == "1.0 / 2.0 (0.1), 3.0"
