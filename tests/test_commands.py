"""The commands and choices that the documents name are there."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from transenc.composition import CONF, choices, compose
from transenc.data.files import Pair
from transenc.data.published import Published

ROOT = Path(__file__).parents[1]
TEXTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((CONF / "experiment").glob("*.yaml"))]
GROUPS = choices("train")
FOR_EXAMPLE = {"SEED": "0", "PAIRS": "300", "experiment=NAME": "experiment=quickstart"}


def commands():
    """The settings of each `python train.py`; of a sweep, those of its first job."""
    found = {}
    for path in TEXTS:
        parts = re.sub(r" *\\\n#? *", " ", path.read_text(encoding="utf-8")).split("```")
        parts[::2] = [re.sub(r"`[^`]+`", lambda span: span[0].replace("\n", " "), part) for part in parts[::2]]
        for line in re.findall(r"python train\.py ((?!-sc)[^`\n]+)", "```".join(parts)):
            words = shlex.split(line, comments=True)
            if "-m" in words:
                words = [re.sub(r"=([^\[,]+),.*", r"=\1", word) for word in words]
            settings = [word for word in words if re.match(r"(?!hydra)[a-z_.]+=", word)]
            for name, one in FOR_EXAMPLE.items():
                settings = [word.replace(name, one) for word in settings]
            found[" ".join(settings)] = [word for word in settings if "=tag(" not in word]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("settings", commands().values(), ids=commands())
def test_a_command_of_the_documents_composes(settings):
    compose("train", settings)


@pytest.mark.slow
def test_the_arms_of_the_ablations_compose():
    arms = runpy.run_path(str(ROOT / "benchmarks" / "ablations.py"))
    start = [*arms["DATA"]["stsb"], *arms["STARTS"]["weak"]]
    for variant in arms["VARIANTS"].values():
        compose("train", [*start, *variant, *arms["SMALL"]])


@pytest.mark.slow
def test_the_benchmark_of_the_layers_runs(monkeypatch, capsys):
    pairs = [Pair(f"a cat of {years} years", "it purrs", None) for years in range(8)]
    monkeypatch.setattr(Published, "find", lambda *_: [])
    monkeypatch.setattr(Published, "read", lambda *_: pairs)
    monkeypatch.setattr(sys, "argv", "layers.py --rounds 1 --batches 2 --batch 4".split())
    runpy.run_path(str(ROOT / "benchmarks" / "layers.py"), run_name="__main__")
    assert re.search(r"AdamW +\d+\.\d ms a step", capsys.readouterr().out)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_choice_of_a_group_that_a_document_names_is_there(path):
    text = re.sub(r"python benchmarks/[^`]*", "", path.read_text(encoding="utf-8"))  # which have choices of their own
    named = re.findall(r"\b(data|distill|trainer|experiment)=([a-z]\w*)", text)
    assert {f"{group}={one}" for group, one in named if one not in GROUPS[group]} == set()
