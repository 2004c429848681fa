"""Tiny random models of every supported family, saved to disk, and small pair files: no test needs a network."""

import os
import shutil
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: no test may reach for the hub

import numpy as np
import pandas
import pytest
from families import ENCODERS, build
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file, save_file

import transenc.stages.evaluation
import transenc.stages.models
import transenc.stages.pool
import transenc.stages.run
from transenc.artifacts import Stage, Store, file_digest
from transenc.composition import compose
from transenc.encoders import BiEncoder
from transenc.errors import InputError
from transenc.loop import distill
from transenc.terminal import quiet

quiet()

# Too slow is a hang, not a busy machine; the same cases each time, so that a change that breaks none stays green.
settings.register_profile(
    "short", max_examples=60, deadline=10_000, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("long", settings.get_profile("short"), max_examples=10_000, derandomize=False)
settings.load_profile("short")

PAIRS = [
    ("the man eats food", "a man is eating"),
    ("the dog runs in the park", "a cat sleeps in the house"),
    ("a woman runs", "a woman runs"),
    ("the cat sleeps", "the man runs in the park with a dog and then eats all of the food in the house"),
    ("food", "the dog eats"),
    ("a man is in the house, the woman is in the park", "the dog is in the house, the cat is in the park, a man runs"),
    ("the man eats food", "the dog runs in the park"),
]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A plain transformers folder for each family. Tests only read them."""
    root = tmp_path_factory.mktemp("models")
    return {family: build(family, root / family) for family in ENCODERS}


@pytest.fixture(scope="session")
def bert(models: dict[str, Path]) -> Path:
    return models["bert"]


LEXICON = "the a man woman dog cat eats runs sleeps park house food".split()


def pairs(number: int, seed: int) -> list[tuple[str, str, float]]:
    """Random sentences; the score is the share of words in common, from 0 to 5."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(number):
        first = rng.choice(LEXICON, rng.integers(2, 8))
        second = np.where(rng.random(len(first)) < rng.random(), first, rng.choice(LEXICON, len(first)))
        shared = len(set(first) & set(second)) / len(set(first) | set(second))
        rows.append((" ".join(first), " ".join(second), round(5 * shared, 2)))
    return rows


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scored pairs as pool.tsv, dev.tsv and test.tsv."""
    root = tmp_path_factory.mktemp("pairs")
    for name, number, seed in (("pool", 60, 1), ("dev", 30, 2), ("test", 30, 3)):
        table = pandas.DataFrame(pairs(number, seed), columns=["sentence1", "sentence2", "score"])
        table.to_csv(root / f"{name}.tsv", sep="\t", index=False)
    return root


STAGES = {  # by the module that calls them
    module: [name for name, value in vars(module).items() if isinstance(value, Stage)]
    for module in (transenc.stages.evaluation, transenc.stages.pool, transenc.stages.run)
}


@cache
def composed(files, model, *overrides):
    """A run of as few steps as there are. A composition takes as long as a short training, so equal ones are shared."""
    return compose(
        "train",
        [
            "data=pairs",
            f"data.path={files}/pool.tsv",
            f"data.dev={files}/dev.tsv",
            f"data.test=[{files}/test.tsv]",
            f"model.bi={model}",
            f"model.cross={model}",
            "trainer=cpu",
            "trainer.precision=32-true",
            "distill=paper",
            "distill.iterations=1",
            "distill.bi.epochs=2",
            "distill.bi.batch_size=16",
            "distill.cross.batch_size=16",
            "distill.cross.eval_steps=3",
            *overrides,
        ],
    )


class Setting:
    """A place to run the loop in, and what happened there."""

    def __init__(self, root, files, model, monkeypatch):
        self.root, self.files, self.model = root, files, model
        self.built: list[tuple[str, str]] = []
        for module, names in STAGES.items():
            for name in names:
                stage = getattr(module, name)
                monkeypatch.setattr(module, name, self.watched(stage))

    def watched(self, stage):
        def build(out, config, progress, *inputs):
            self.built.append((stage.name, progress.place if progress else ""))
            return stage.build(out, config, progress, *inputs)

        return replace(stage, build=build)

    def config(self, *overrides):
        cfg = deepcopy(composed(self.files, self.model, *overrides))
        if not any(override.startswith("paths.artifacts=") for override in overrides):
            cfg.paths.artifacts = f"{self.root}/artifacts"
        return cfg

    def run(self, *overrides, name="run"):
        folder = self.root / name
        folder.mkdir(exist_ok=True)
        self.built.clear()
        self.score = distill(self.config(*overrides), folder)
        return folder

    def trained(self):
        return [place for stage, place in self.built if stage == "train"]


@pytest.fixture
def setting(tmp_path, files, bert, monkeypatch):
    # Drawing the page takes longer than such a run; test_report.py looks at it.
    monkeypatch.setattr("transenc.run_writer.write_report", lambda folders, out: out.write_text(""))
    return Setting(tmp_path, files, bert, monkeypatch)


@pytest.fixture
def artifacts_by_title(monkeypatch):
    """What the store gives to the runs of a test, by title."""
    artifacts, call = {}, Store.__call__

    def watched(self, stage, config, *inputs, title="", **more):
        artifacts[title] = call(self, stage, config, *inputs, title=title, **more)
        return artifacts[title]

    monkeypatch.setattr(Store, "__call__", watched)
    return artifacts


MODELS = ["bi-encoder", "cross-encoder"]


def weights(folder):
    return {name: file_digest(folder / "models" / name / "model.safetensors") for name in MODELS}


@pytest.fixture
def model_copy(bert, tmp_path):
    """A copy of a right model, to be spoilt."""
    return Path(shutil.copytree(bert, tmp_path / "model"))


@pytest.fixture(autouse=True)
def nobody_answers(monkeypatch):
    """A question on the terminal is a failure."""

    def ask(*_):
        raise AssertionError("asked on the terminal")

    monkeypatch.setattr("builtins.input", ask)


def refused(folder, says=None, cls=BiEncoder, **settings):
    with pytest.raises(InputError, match=says) as error:
        cls.load(folder, **settings)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


QUERY = "encoder.layer.1.attention.self.query.weight"


def spoil(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
