"""The pairs of a run: the pool, which it learns from, and the development and test pairs, which the pool leaves out."""

import logging
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transenc.artifacts import Artifact, Store, file_digest
from transenc.config.schema import Select, Train
from transenc.errors import InputError
from transenc.metrics import MIN_HELD_OUT, varies
from transenc.progress import Progress
from transenc.stages.evaluation import Evaluation, Member, digest_of, task_name
from transenc.stages.labels import held_out_count
from transenc.stages.models import embed
from transenc.stages.pairs import corpus, crop, extend, flatten, gather, gold, mine
from transenc.stages.training import pairs_without_repeat

log = logging.getLogger("transenc")

FLAT_GOLD = "has one pair only, or the same gold score for all"
SPARE = 1.1  # times as many pairs as are wanted: cleaning may drop some, and folds differ in size
MIN_POOL = 3  # pairs, of which two are held out
MIN_DEV = 30  # pairs: of fewer, Spearman correlations have a standard error of 0.18 and more (1 / sqrt(n))


class PoolStages(Evaluation):
    """The steps that make the pool. A file that cannot be read is an error here, before a model is loaded; too small a
    pool is one in `gather`, before an encoder scores.

    Attributes:
        corpus: single sentences, or queries and documents, to make pairs of, if there are any.
        dev, tests: the scored sets by name; `dev` has one or none, which is called `dev_task`.
        select_by: what encoders are selected by, never `auto`.
    """

    def __init__(self, cfg: Train, store: Store, progress: Progress):
        super().__init__(store, cfg.data, cfg.paths, cfg.trainer, progress)
        self.cfg, self.select_by = cfg, cfg.select
        supervised = cfg.distill.direction.supervised
        self.corpus: Artifact | None = None
        if cfg.data.corpora and not supervised:
            self.corpus = self._read_corpus(cfg.data.corpora)
        self.sources = [self.read(name, supervised, supervised) for name in cfg.pair_sources]
        self.extra = [self.read(name, False) for name in cfg.extra_sources]
        dev = [] if cfg.data.dev is None else [cfg.data.dev]
        tasks = self.tasks([*dev, *cfg.data.test])
        for name in [*dev, *cfg.data.test]:
            self._check_gold(name, tasks[task_name(name)])
        self.dev = {task_name(name): tasks[task_name(name)] for name in dev}
        self.dev_task = next(iter(self.dev), None)
        self.tests = {task_name(name): tasks[task_name(name)] for name in cfg.data.test}
        if self.select_by is Select.dev and (count := tasks[task_name(cfg.data.dev)].facts["pairs"]) < MIN_DEV:
            log.warning("data.dev=%s: %d pairs are too few to tell which encoder is better", cfg.data.dev, count)
        selected_by = self.dev.values() if self.select_by is Select.dev else ()
        if {one.fingerprint for one in selected_by} & {one.fingerprint for one in self.tests.values()}:  # copies too
            log.warning("data.dev=%s is in data.test too: encoders are selected by its scores", cfg.data.dev)

    def _read_corpus(self, files: Mapping[str, str]) -> Artifact:
        for key, name in files.items():
            if not os.path.isfile(name):
                raise InputError(f"{key}={name}: {'is not a file' if os.path.exists(name) else 'no such file'}")
        config = {"files": list(files.values()), "digests": [digest_of(Path(name)) for name in files.values()]}
        title = f"read {' and '.join(map(task_name, files.values()))}"
        return self.store(corpus, config, progress=self.progress, title=title)

    def _check_gold(self, name: str, pairs: Artifact) -> None:
        if varies(np.load(pairs / "gold.npy")):
            return
        if name == self.cfg.data.dev and self.select_by is Select.dev:
            raise InputError(
                f"data.dev={name}: {FLAT_GOLD}, and nothing can be selected by it; give other pairs, or data.dev=null"
            )
        log.warning("%s: %s, so correlations with it are undefined", name, FLAT_GOLD)

    def gather(self, initial: Mapping[str, Sequence[Member]]) -> Artifact:
        """The pool, the pairs to learn from. The first initial bi-encoder finds neighbours among single sentences."""
        data, sources = self.data, self.sources
        if self.corpus is not None:
            sources = [*sources, self._mine(self.corpus, initial["bi"][0])]
        config = self._cleaning | {"sources": len(sources), "seed": data.seed}
        config |= {"limit": None if data.flatten else data.limit}
        if self.cfg.distill.direction.supervised:
            return self._enough(self.store(gold, config, *sources, *self._scored, progress=self.progress, title="gold"))
        config |= {"extra": len(self.extra), "extra_limit": data.extra_limit, "transductive": data.transductive}
        return self._enough(
            self.store(gather, config, *sources, *self.extra, *self._scored, progress=self.progress, title="pool")
        )

    @property
    def _cleaning(self) -> dict[str, Any]:
        clean = self.data.clean
        return {
            "ordered": self.data.ordered,
            "empty": clean.empty,
            "identical": clean.identical,
            "repeated": clean.repeated,
        }

    @property
    def _scored(self) -> list[Artifact]:
        return [*self.dev.values(), *self.tests.values()]

    def with_crops(self, pool: Artifact) -> Artifact:
        """What the cross-encoder learns from: the pool, and if it has fewer pairs than `crops_below`, behind it as many
        crops of these as an epoch needs for its share of `min_steps` without a repeat.
        """
        cfg, training, originals = self.cfg.distill, self.cfg.distill.cross, pool.facts["pairs"]
        if originals >= training.crops_below or ("bi", "cross") not in cfg.direction.turns:
            return pool
        left_out = 1 / cfg.folds if cfg.folds > 1 else 0.0
        if cfg.folds == 1 and self.select_by is Select.agreement:
            left_out = held_out_count(originals, cfg.holdout) / originals
        both_orders = training.both_orders and not self.data.ordered
        learnt = pairs_without_repeat(training.min_steps, training.epochs, training.batch_size, both_orders)
        wanted = learnt / (1 - left_out)
        if originals >= wanted:
            return pool
        if files := [name for name in self.cfg.fixed_teachers if os.path.isfile(name)]:
            log.warning("model.teachers=%s: has no scores of crops, so few pairs are repeated instead", files[0])
            return pool
        count = math.ceil(SPARE * wanted) - originals
        config = {"count": count, "seed": self.data.seed}
        cropped = self.store(crop, config, pool, progress=self.progress, title="crop")
        config = self._cleaning | {"transductive": self.data.transductive}
        inputs = (pool, cropped, *self._scored)
        return self.store(extend, config, *inputs, progress=self.progress, title="pool with crops")

    def _enough(self, pool: Artifact) -> Artifact:
        if self.select_by is not Select.agreement:
            return pool
        pairs, cfg = pool.facts["pairs"], self.cfg.distill
        if self.data.flatten and self.data.limit is not None:
            pairs = min(pairs, self.data.limit)
        if pairs < MIN_POOL:
            last = ", or set distill.select=last" if pairs > 1 else ""
            raise InputError(
                f"{pairs} pairs to learn from are too few to hold some out; add pairs (data.limit may leave them out)"
                f"{last}"
            )
        if held_out_count(pairs, cfg.holdout) < MIN_HELD_OUT and "bi" in cfg.direction.students:
            log.warning("%d pairs cannot show a gain: the bi-encoder stays as it is; add pairs, or data.dev", pairs)
        return pool

    def _mine(self, corpus: Artifact, bi: Member) -> Artifact:
        """Pairs made of single sentences, or of queries and documents."""
        mining, queries, embeddings = self.data.mining, corpus.facts["queries"], []
        if mining.nearest > 0:
            tokens = self.tokens(corpus, bi.artifact, "sentences")
            config, title = self.scoring | {"queries": queries}, f"{bi.place} embed"
            progress = self.progress.at(bi.place)
            embeddings = [self.store(embed, config, bi.artifact, tokens, progress=progress, title=title)]
        wanted = mining.pairs or corpus.facts["sentences"]
        if queries and mining.pairs is None:  # few queries have few neighbours, however many documents there are
            wanted = min(wanted, mining.neighbours * queries)
        config = {
            "queries": queries,
            "pairs": wanted,
            "shares": {"random": mining.random, "nearest": mining.nearest, "lexical": mining.lexical},
            "neighbours": mining.neighbours,
            "seed": self.data.seed,
        }
        mined = self.store(mine, config, corpus, *embeddings, progress=self.progress, title="mine")
        if (made := mined.facts["pairs"]) < wanted:
            sentences = corpus.facts["sentences"]
            possible = queries * (sentences - queries) if queries else sentences * (sentences - 1) // 2
            raised = "raise data.mining.neighbours, or " if made < possible else ""
            log.warning(
                f"data.mining: makes {made:,} of {wanted:,} pairs, as there are no more of these kinds; {raised}lower"
                " data.mining.pairs"
            )
        return mined

    def flatten(self, pool: Artifact, labels: Artifact) -> Artifact:
        """`data.limit` pairs of the pool, whose initial labels are spread evenly."""
        # A pool counts by its pairs; what is reported of it depends on the test sets and on the sources too.
        reported = {"shared": file_digest(pool / "shared.npy"), "dropped": pool.facts["dropped"]}
        config = {"count": self.data.limit, "seed": self.data.seed, **reported}
        return self.store(flatten, config, pool, labels, progress=self.progress, title="flatten")
