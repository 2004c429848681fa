"""Batches of labelled pairs, for Lightning."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Sampler

from transenc.data.tokens import TokenisedPairs

SORTED_BATCHES = 16  # batches that are sorted by length together: little padding, and still random batches


class LengthGroupedSampler(Sampler[int]):
    """Shuffles `range(N)` so that the items of a batch have similar lengths.

    The order depends on `seed` and the epoch only, not on how many random numbers were drawn before. The items are
    shuffled, then sorted within groups of `SORTED_BATCHES` batches, then whole batches are shuffled.

    Args:
        lengths: [N] tokens.
        batch_size: items in a batch; a last, smaller one stays last.
        seed, epoch: of the order.
        skip: leave out this many batches, which an interrupted run has done.
    """

    def __init__(self, lengths: np.ndarray, batch_size: int, seed: int, epoch: int = 0, skip: int = 0):
        self.lengths, self.batch_size, self.seed, self.epoch, self.skip = lengths, batch_size, seed, epoch, skip

    def __len__(self) -> int:
        return len(self.lengths) - self.skip * self.batch_size

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.lengths))
        full = len(order) - len(order) % self.batch_size
        rest, group = order[full:], SORTED_BATCHES * self.batch_size
        for start in range(0, full, group):
            chunk = order[start : min(start + group, full)]
            chunk[:] = chunk[np.argsort(self.lengths[chunk], kind="stable")]
        batches = rng.permutation(order[:full].reshape(-1, self.batch_size))
        return iter(np.concatenate([batches.reshape(-1), rest])[self.skip * self.batch_size :].tolist())


class PairDataModule(pl.LightningDataModule):
    """Pairs with a teacher's labels, shuffled anew each epoch.

    Args:
        pairs: N unlabelled pairs; gold scores are refused.
        labels: [N] float32 in [0, 1], a teacher's scores.
        collate: makes the model inputs of `(pairs, rows, swapped)`, where `rows` are pair numbers and `swapped` says
            which of them to swap; `PairEncoder.collate`.
        batch_size: pairs in a batch.
        both_orders: a pass over the pairs holds each as (a, b) and as (b, a).
        min_batches: batches in an epoch, at least. An epoch then passes over the pairs several times.
        seed: of the order.
        shard: (rank, ranks): take every `ranks`-th pair of a batch, from `rank` on. The mean of the ranks' losses, each
            times its batch's `weight`, is the whole batch's, but for CoSENT, which compares the pairs of a rank only.

    Attributes:
        done: batches that an interrupted run has done; the first epoch begins behind them.
    """

    def __init__(
        self,
        pairs: TokenisedPairs,
        labels: np.ndarray,
        collate: Callable[[TokenisedPairs, np.ndarray, np.ndarray], Any],
        *,
        batch_size: int,
        both_orders: bool,
        seed: int,
        min_batches: int = 1,
        shard: tuple[int, int] = (0, 1),
    ):
        super().__init__()
        assert pairs.gold is None, "pairs to learn from carry no gold scores"
        assert len(pairs) == len(labels), f"{len(pairs)} pairs, {len(labels)} labels"
        self.pairs, self.labels, self.make_inputs = pairs, labels, collate
        self.batch_size, self.seed, self.done = batch_size, seed, 0
        self.orders = 2 if both_orders else 1
        self.passes = max(0, min_batches - 1) * batch_size // (self.orders * len(pairs)) + 1
        self.rank, self.ranks = shard

    @property
    def batches(self) -> int:
        """In an epoch."""
        return math.ceil(self.passes * self.orders * len(self.pairs) / self.batch_size)

    def collate(self, items: list[int]) -> dict[str, Any]:
        """The first N items are pairs as they stand; with both orders, the next N are the same pairs swapped."""
        shard = items[self.rank :: self.ranks]
        weight = len(shard) * self.ranks / len(items)
        shard = shard or items[:1]  # of weight 0: a rank without a pair would keep the others waiting
        repeat, rows = np.divmod(shard, len(self.pairs))
        swapped = repeat % self.orders == 1
        return {
            "inputs": self.make_inputs(self.pairs, rows, swapped),
            "labels": torch.from_numpy(self.labels[rows]),  # fancy indexing copies, so the labels themselves stay
            "weight": weight,
        }

    def train_dataloader(self) -> DataLoader:
        """The batches of the trainer's epoch, behind those that are done; Lightning asks for it in each epoch."""
        past, skip = divmod(self.done, self.batches)
        epoch = 0 if self.trainer is None else self.trainer.current_epoch
        lengths = np.tile(self.pairs.lengths[self.pairs.sides()].sum(axis=1), self.passes * self.orders)
        return DataLoader(
            range(len(lengths)),  # type: ignore[arg-type]
            batch_size=self.batch_size,
            sampler=LengthGroupedSampler(lengths, self.batch_size, self.seed, past + epoch, 0 if epoch else skip),
            collate_fn=self.collate,
            generator=torch.Generator(),  # otherwise each epoch would draw from dropout's random numbers
        )
