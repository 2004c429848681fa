"""A tiny model and pairs for the real command, in processes of its own, and what an undisturbed run of it leaves."""

import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


WORDS = "the a man woman dog cat is eats runs sleeps in park house food".split()


class Wrong(AssertionError):  # noqa: N818  # what the run went
    """A run that ended otherwise than it must."""


class Place:
    """One run folder and one artifact folder, and the command that belongs to them.

    Args:
        bench: what all runs have in common.
        folder: where both are.
        run: name of the run folder in it.
    """

    def __init__(self, bench: "Bench", folder: Path, run: str = "run"):
        self.bench, self.folder, self.run, self.artifacts = bench, folder, folder / run, folder / "artifacts"

    def start(
        self, *more: str, process: Mapping[str, Any] = MappingProxyType({}), **environment: str
    ) -> subprocess.Popen:
        folders = [f"hydra.run.dir={self.run}", f"hydra.sweep.dir={self.run}", f"paths.artifacts={self.artifacts}"]
        return subprocess.Popen(
            [sys.executable, "train.py", *more, *self.bench.settings, *folders],
            cwd=ROOT,
            env=os.environ
            | {"OMP_NUM_THREADS": "1", "TMPDIR": str(self.bench.temporary), "HOME": str(self.bench.home)}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **process,
        )

    def finish(self, **process: Any) -> None:
        """The same command, undisturbed, ends well and in the bytes it must."""
        status, output = ended(self.start(process=process))
        if status:
            raise Wrong(f"{self.folder}: status {status} when given again\n{output[-2000:]}")
        self.compare()

    def compare(self) -> None:
        found, wanted = self.digests(), self.bench.wanted
        if found != wanted:
            differ = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
            raise Wrong(f"{self.folder}: differs from an undisturbed run in {', '.join(differ)}")
        left = [path.name for path in self.artifacts.glob(".*")]
        if left:
            raise Wrong(f"{self.folder}: {', '.join(left)} left behind")

    def digests(self) -> dict[str, str]:
        """sha256 of every file that must be the same; records hold seconds, cards and run.json the folders' names."""
        kept = [file for file in self.artifacts.rglob("*") if file.name != "artifact.json"]
        left = [self.run / "results.csv", *self.run.glob("labels/*"), *self.run.glob("models/*/*")]
        return _digests(self.artifacts, kept) | _digests(self.run, [file for file in left if file.name != "README.md"])

    def files(self) -> list[Path]:
        return sorted(file for file in self.artifacts.glob("[!.]*/**/*") if file.is_file())


class Bench:
    """A tiny model, pairs, and the outcome and the seconds of an undisturbed run.

    Args:
        work: an empty folder for everything.
    """

    def __init__(self, work: Path):
        sys.path.insert(0, str(ROOT))
        from families import build

        self.work, self.temporary, self.home = work, work / "tmp", work / "home"
        self.temporary.mkdir(parents=True)
        self.home.mkdir()
        model = build("bert", work / "model")
        rng = random.Random(0)
        for name, number in (("pool", 400), ("dev", 60)):
            lines = ["sentence1\tsentence2\tscore"]
            for _ in range(number):
                first = rng.choices(WORDS, k=rng.randint(2, 9))
                second = [word if rng.random() < 0.6 else rng.choice(WORDS) for word in first]
                shared = len({*first} & {*second}) / len({*first} | {*second})
                lines.append(f"{' '.join(first)}\t{' '.join(second)}\t{5 * shared:.2f}")
            (work / f"{name}.tsv").write_text("\n".join(lines))
        self.settings = [
            "data=pairs", f"data.path={work}/pool.tsv", f"data.dev={work}/dev.tsv", f"model.bi={model}",
            f"model.cross={model}", "trainer=cpu", "distill=paper", "distill.iterations=2",
            "distill.failure=ignore",  # of this model's cross-encoders some fail to train, which is no matter here
            "distill.cross.epochs=3", "distill.cross.batch_size=16",
            "distill.cross.learning_rate=1e-3",
            "distill.bi.epochs=3", "distill.bi.batch_size=16", "distill.bi.learning_rate=1e-4",
        ]  # fmt: skip
        undisturbed = Place(self, work / "whole")
        began = time.monotonic()
        status, output = ended(undisturbed.start())
        self.seconds = time.monotonic() - began
        if status:
            raise Wrong(f"the undisturbed run failed: {output[-2000:]}")
        self.wanted = undisturbed.digests()
        self.undisturbed = undisturbed.folder
        self.numbers = itertools.count(1)

    def place(self, copied: bool = False) -> Place:
        """A new one, empty or with the outcome of the undisturbed run."""
        folder = self.work / f"{next(self.numbers)}"
        shutil.copytree(self.undisturbed, folder) if copied else folder.mkdir()
        return Place(self, folder)


def _digests(folder: Path, files: list[Path]) -> dict[str, str]:
    found = {str(file.relative_to(folder)): file for file in files if file.is_file()}
    return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in found.items()}


def ended(process: subprocess.Popen, seconds: float = 600) -> tuple[int, str]:
    """Exit status and output. A hang is an error."""
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        raise Wrong(f"hung for {seconds:.0f} s") from None
    return process.returncode, output


def check_one_line(status: int, output: str, words: str) -> None:
    """It ended with an error in one line that holds some words."""
    lines = output.strip().splitlines()
    if status != 1 or "Traceback" in output or not lines or words not in lines[-1]:
        raise Wrong(f"status {status}, where one line with {words} belongs\n{output[-2000:]}")
