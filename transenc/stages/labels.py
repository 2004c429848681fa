"""The stages of labelling:

label          -> labels.npy: the teachers' scores, averaged, in [0, 1]
score_held_out -> scores.npy: of each pair by the one of several cross-fitted encoders that did not learn from it
"""

from pathlib import Path

import numpy as np
import torch

from transenc import distributed
from transenc.artifacts import Artifact, stage
from transenc.data.tokens import TokenisedPairs
from transenc.progress import Progress
from transenc.stages.models import loaded, similarities, truncated_text
from transenc.stages.pairs import Config, Facts, label_statistics

HELD_OUT = 30  # pairs, by default, if they are no more than a quarter (docs/few_pairs.md)


@stage(version=2)
def label(out: Path, config: Config, progress: Progress, *scored: Artifact) -> Facts:
    """The teachers' scores, averaged, and clamped to [0, 1], where binary cross-entropy is defined."""
    scores = average(np.vstack([np.load(artifact / "scores.npy") for artifact in scored]), config["average"])
    clamped = float(np.mean((scores < 0) | (scores > 1)))
    labels = np.clip(scores, 0, 1).astype(np.float32)
    np.save(out / "labels.npy", labels)
    low, middle, high = np.quantile(labels, (0.1, 0.5, 0.9)).tolist()
    summary = f"10/50/90% {low:.2f} {middle:.2f} {high:.2f}, clamped {clamped:.1%}"
    return {"clamped": clamped, **label_statistics(labels), "summary": summary}


def average(scores: np.ndarray, how: str) -> np.ndarray:
    """The scores of several teachers as one.

    Args:
        scores: [M, N], a row for each set of scores. A bi-encoder that labels by late interaction has two, so it counts
            twice.
        how: "mean"; "z", the mean of the standardised rows, scaled back to the rows' average mean and standard
            deviation; or "rank", the pairs in the order of their mean rank, with the values of the plain mean in that
            order. For a single teacher all three are the same.

    Returns:
        [N] float64.
    """
    scores = scores.astype(np.float64)
    mean = scores.mean(axis=0)
    if len(scores) == 1 or how == "mean":
        return mean
    if how == "z":
        means, stds = scores.mean(axis=1, keepdims=True), scores.std(axis=1, keepdims=True)
        # A constant teacher carries no order; rounding leaves it a standard deviation of not quite 0.
        standardised = np.where(stds > 1e-9, (scores - means) / np.maximum(stds, 1e-9), 0)
        return means.mean() + stds.mean() * standardised.mean(axis=0)
    from scipy.stats import rankdata

    mean_rank = rankdata(rankdata(scores, axis=1).mean(axis=0))  # 1 to N; ties share their average rank
    return np.interp(mean_rank, np.arange(1, len(mean) + 1), np.sort(mean))


def folds_of(pairs: int, folds: int, seed: int) -> list[np.ndarray]:
    """The rows of a pool in random order, in `folds` parts of equal size, or one row more; the same every time."""
    return np.array_split(np.random.default_rng(seed).permutation(pairs), folds)


def held_out_count(pairs: int, share: float | None) -> int:
    """How many of a pool's pairs are held out for selection by agreement: a share. By default (None) it is a tenth; of
    few pairs it is `HELD_OUT`, but no more than a quarter.
    """
    if share is None:
        return max(2, int(0.1 * pairs), min(HELD_OUT, pairs // 4))
    return max(2, int(share * pairs))


@stage(version=2, ignore=("batch_tokens", "accelerator"))
@distributed.collective
def score_held_out(out: Path, config: Config, progress: Progress, tokens: Artifact, *models: Artifact) -> Facts:
    """The pool's scores by cross-fitting: each fold is scored by the encoder that did not learn from it."""
    pairs = TokenisedPairs.load(tokens.path)
    scores, cut = np.empty(len(pairs), dtype=np.float32), 0
    folds = [pairs.with_crops(rows) for rows in folds_of(pairs.originals, len(models), config["split_seed"])]
    with progress.bar("score", len(pairs), "pair") as bar:
        for rows, model in zip(folds, models, strict=True):
            encoder = loaded(model, config)
            of_fold = pairs.select(rows)
            raw = similarities(encoder, of_fold, config)
            cut += encoder.truncated(of_fold)
            scores[rows] = encoder.to_score(torch.from_numpy(raw)).numpy()
            bar.update(len(rows))
    if distributed.rank():
        return {}
    np.save(out / "scores.npy", scores)
    summary = f"{len(pairs):,} pairs, each by an encoder that did not learn from it" + truncated_text(encoder, cut)
    return {"pairs": len(pairs), "truncated": cut, "summary": summary}
