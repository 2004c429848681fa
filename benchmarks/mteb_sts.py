"""MTEB's own evaluation of a bi-encoder on its seven English STS tasks, on the local copies of their pairs.

    python benchmarks/mteb_sts.py MODEL [--tasks STS12 ...] [--dataset FOLDER]    # needs mteb, requirements-extras.txt

Shows Spearman x100 by MTEB's code and by this project's, side by side. With a network, leave the local copies out:
docs/usage.md has the lines. MTEB's cache is off: it knows every local folder by the same name, and would return the
scores of the model before.
"""

import argparse
import logging
import os
import sys
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import mteb
import numpy as np
from datasets import Dataset
from sentence_transformers import SentenceTransformer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from transenc.data.published import PUBLISHED
from transenc.data.tokens import number_sentences, tokenise
from transenc.encoders import BiEncoder
from transenc.metrics import spearman
from transenc.model_folder import find

SETS = {f"STS{year}": f"sts{year}" for year in range(12, 17)} | {"STSBenchmark": "stsb-test", "SICK-R": "sickr-all"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tasks", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--dataset", type=Path, default=Path("dataset"))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # MTEB's, on names of its own that are to change
    logging.getLogger("mteb").setLevel(logging.ERROR)
    folder = find(options.model).root
    theirs, ours = SentenceTransformer(str(folder), device="cpu"), BiEncoder.load(str(folder))
    print(f"{'Spearman x100':<16}{'MTEB':>8}{'here':>8}")
    for name in options.tasks:
        known = PUBLISHED[SETS[name]]
        pairs = known.read(known.find(options.dataset), scored=True)
        gold = np.array([pair.score for pair in pairs])
        task = mteb.get_task(name)
        columns = {"sentence1": [p.sentence1 for p in pairs], "sentence2": [p.sentence2 for p in pairs]}
        task.dataset = {"test": Dataset.from_dict(columns | {"score": gold.tolist()})}
        task.data_loaded = True
        result = mteb.evaluate(theirs, task, cache=None, show_progress_bar=False)
        score = result.task_results[0].get_score()
        sentences, numbers = number_sentences([pair[:2] for pair in pairs])
        here = spearman(ours.similarities(tokenise(sentences, numbers, ours.tokenizer)), gold)
        print(f"{name:<16}{100 * score:8.2f}{100 * here:8.2f}", flush=True)


if __name__ == "__main__":
    main()
