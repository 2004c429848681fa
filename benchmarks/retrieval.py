"""Search with bi-encoders: each question of a file of scored pairs against all of its answers.

    python benchmarks/retrieval.py FILE MODEL [MODEL ...]

FILE is a .tsv with the columns sentence1 (questions), sentence2 (answers) and score (1: it answers the question). A
question without a right answer is left out; the corpus is all different answers. MODEL is a folder, or the name of a
start in benchmarks/ablations.py. Prints nDCG, MRR and recall, all at 10 and x100, by sentence-transformers'
InformationRetrievalEvaluator.
"""

import csv
import sys
import tempfile
from pathlib import Path

import pandas
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # ablations.py is beside this file
from ablations import STARTS

from transenc.composition import compose
from transenc.encoders import BiEncoder


def evaluator(file: str) -> InformationRetrievalEvaluator:
    pairs = pandas.read_csv(file, sep="\t", quoting=csv.QUOTE_NONE, keep_default_na=False)
    answers = {text: str(number) for number, text in enumerate(pairs.sentence2.unique())}
    right = pairs[pairs.score == 1]
    questions = {str(number): text for number, text in enumerate(right.sentence1.unique())}
    relevant = {number: {answers[a] for a in right.sentence2[right.sentence1 == q]} for number, q in questions.items()}
    return InformationRetrievalEvaluator(
        questions, {number: text for text, number in answers.items()}, relevant, mrr_at_k=[10], ndcg_at_k=[10],
        accuracy_at_k=[10], precision_recall_at_k=[10], map_at_k=[10], write_csv=False,
    )  # fmt: skip


def load(name: str) -> SentenceTransformer:
    if name not in STARTS:
        return SentenceTransformer(name, device="cpu")
    model = compose("train", STARTS[name]).model
    with tempfile.TemporaryDirectory() as folder:
        BiEncoder.load(model.bi, pooling=model.pooling, layers=model.bi_layers).save(Path(folder))
        return SentenceTransformer(folder, device="cpu")


def main(file: str, *names: str) -> None:
    measure = evaluator(file)
    print(f"{len(measure.queries)} questions, {len(measure.corpus)} answers\nnDCG    MRR  recall")
    for name in names:
        found = measure(load(name))
        values = [100 * found[f"cosine_{metric}"] for metric in ("ndcg@10", "mrr@10", "recall@10")]
        print("  ".join(f"{value:5.2f}" for value in values), name, flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
