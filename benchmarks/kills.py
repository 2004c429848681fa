"""Kill a run at random moments and start the same command again: are the final weights those of an undisturbed run?

    python benchmarks/kills.py [--kills 5] [--seed 0] [KEY=VALUE ...]

Runs `python train.py experiment=quickstart` (with any further settings) once undisturbed, then once with SIGKILL at
random moments, each followed by the same command. Prints how far each attempt came; exit status 1 if a model differs by
a byte, or a finished stage was built again.
"""

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def records(artifacts: Path) -> dict[str, float]:
    """When each finished artifact was published."""
    return {path.parent.name: path.stat().st_mtime for path in artifacts.glob("[!.]*/artifact.json")}


def digests(run: Path) -> dict[str, str]:
    files = sorted((run / "models").rglob("*.safetensors"))
    return {str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("outputs/kills"))
    parser.add_argument("settings", nargs="*")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    rng = random.Random(options.seed)

    def attempt(name: str, seconds: float | None = None) -> bool:
        """Run the command; kill it after some seconds. True if it came to its end."""
        folders = [f"hydra.run.dir={options.work}/{name}", f"paths.artifacts={options.work}/{name}-artifacts"]
        command = [sys.executable, "train.py", "experiment=quickstart", *options.settings, *folders]
        with open(options.work / "log", "ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
            return process.wait() == 0

    started = time.monotonic()
    if not attempt("whole"):
        print(f"the run failed by itself; see {options.work}/log")
        return 1
    seconds = time.monotonic() - started
    print(f"undisturbed: {seconds:.1f} s, {len(records(options.work / 'whole-artifacts'))} artifacts")

    rebuilt, before = 0, dict[str, float]()
    moments = [rng.uniform(0, seconds / 2) for _ in range(options.kills)]  # half: each attempt is ahead of the last
    for moment in [*moments, None]:
        ended = attempt("killed", moment)
        after = records(options.work / "killed-artifacts")
        rebuilt += sum(after.get(name) != when for name, when in before.items())
        how = "ran to its end" if ended else f"killed after {moment or 0:.1f} s"
        print(f"{how}: {len(after)} artifacts, {len(after) - len(before)} of them new")
        before = after
    same = digests(options.work / "whole") == digests(options.work / "killed")
    print(f"finished stages built again: {rebuilt}; final weights byte-identical: {'yes' if same else 'NO'}")
    return 0 if ended and same and not rebuilt else 1


if __name__ == "__main__":
    sys.exit(main())
