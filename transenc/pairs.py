"""The stages that make pairs, each a pure step from (plain settings, artifacts) to a folder (`transenc.artifact`):

    read      -> sentences.txt, pairs.npy: one set or file; gold.npy too, for development, test and gold pairs only
    corpus    -> sentences.txt, and no pairs: a file of single sentences
    embed     -> vectors.npy: a corpus by a bi-encoder
    mine      -> sentences.txt, pairs.npy: pairs out of a corpus
    gather    -> sentences.txt, pairs.npy: the pool, cleaned and drawn from everything above
    flatten   -> sentences.txt, pairs.npy: fewer of the pool, their starting scores spread evenly
    gold      -> sentences.txt, pairs.npy, labels.npy: human scores as labels, for supervised training only

Whatever the unsupervised path learns from comes through `gather`, which reads no scores.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from transenc.artifact import Artifact, stage
from transenc.data import hub, published
from transenc.data.files import Format, Pair, read_file, read_sentences
from transenc.data.mining import flat_sample
from transenc.data.mining import mine as mine_pairs
from transenc.data.tokens import TokenisedPairs, number_sentences
from transenc.encoders import BiEncoder
from transenc.errors import InputError
from transenc.watch import Watch

Config = Mapping[str, Any]
Facts = dict[str, Any]


def sentences_of(pairs: Artifact) -> list[str]:
    text = (pairs / "sentences.txt").read_text(encoding="utf-8")
    return text.split("\n") if text else []


def _write(out: Path, sentences: Sequence[str], pairs: np.ndarray) -> Facts:
    (out / "sentences.txt").write_text("\n".join(sentences), encoding="utf-8", newline="\n")
    np.save(out / "pairs.npy", pairs)
    return {"pairs": len(pairs), "sentences": len(sentences)}


@stage(version=2, ignore=("name", "files"))
def read(out: Path, config: Config, watch: Watch) -> Facts:
    """The pairs of one set or file, as they stand; scored ones bring gold scores, others have no place for any."""
    name, paths, scored = config["name"], [Path(path) for path in config["files"]], config["scored"]
    if name in published.PUBLISHED:
        pairs = published.read(name, paths, scored)
        scale, binary = published.PUBLISHED[name].scale, False
    elif name in hub.HUB:
        pairs = hub.read(name, paths[0] if paths else None, scored)
        scale, binary = (0, 1), True
    else:
        form = Format(**config["format"])
        pairs = read_file(paths[0], form)
        scale, binary = (form.score_min, form.score_max), form.binary
    if config["strip"]:
        pairs = [Pair(pair.sentence1.strip(), pair.sentence2.strip(), pair.score) for pair in pairs]
    sentences, index = number_sentences([pair[:2] for pair in pairs])
    facts: Facts = _write(out, sentences, index)
    if scored:
        np.save(out / "gold.npy", np.array([pair.score for pair in pairs]))
        subsets = published.subsets(name, paths) if name in published.PUBLISHED else []
        facts |= {"scale": scale, "binary": binary, "subsets": subsets}
    return {**facts, "summary": f"{len(pairs):,} pairs, {len(sentences):,} sentences"}


@stage(version=1, ignore=("file",))
def corpus(out: Path, config: Config, watch: Watch) -> Facts:
    """The different sentences of a file, as a set without pairs."""
    lines = read_sentences(Path(config["file"]))
    sentences = list(dict.fromkeys(lines))
    if len(sentences) < 2:
        raise InputError(f"{config['file']}: pairs are made of two different sentences, and there is only one")
    facts = _write(out, sentences, np.empty((0, 2), dtype=np.int32))
    summary = f"{len(sentences):,} sentences" + told({"repeated": len(lines) - len(sentences)})
    return {**facts, "summary": summary}


@stage(version=1, ignore=("batch_tokens", "accelerator"))
def embed(out: Path, config: Config, watch: Watch, model: Artifact, tokens: Artifact) -> Facts:
    """A bi-encoder's vector of each sentence: [S, D] float16 of length 1, precise enough to tell neighbours."""
    encoder = BiEncoder.load(model.path).to(config["accelerator"])
    corpus = TokenisedPairs.load(tokens.path)
    shape = (len(corpus.lengths), encoder.width)
    vectors = np.lib.format.open_memmap(out / "vectors.npy", mode="w+", dtype=np.float16, shape=shape)
    with watch.bar("embed", len(vectors), "sentence") as bar:
        encoder.encode(corpus, np.arange(len(vectors)), vectors, config["batch_tokens"], bar.update)
    vectors.flush()
    return {"summary": f"{len(vectors):,} vectors of {encoder.width}"}


@stage(version=1)
def mine(out: Path, config: Config, watch: Watch, corpus: Artifact, *vectors: Artifact) -> Facts:
    """Pairs out of a corpus, in the asked shares."""
    sentences = sentences_of(corpus)
    count = config["pairs"] or len(sentences)
    with watch.bar("mine", count, "pair") as bar:
        pairs, made = mine_pairs(
            sentences,
            count,
            config["shares"],
            vectors=np.load(vectors[0] / "vectors.npy", mmap_mode="r") if vectors else None,
            neighbours=config["neighbours"],
            seed=config["seed"],
            progress=bar.update,
        )
    facts = _write(out, sentences, pairs)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in made.items() if number)
    return {**facts, "made": made, "summary": f"{len(pairs):,} pairs ({kinds})"}


@stage(version=1)
def gather(out: Path, config: Config, watch: Watch, *artifacts: Artifact) -> Facts:
    """The pool: the pairs of all sources, cleaned, less those of the development and test sets, and drawn from.

    The first `own` artifacts are the pairs to learn from, the next `extra` those added, the rest development and test.
    """
    own, extra = config["own"], config["extra"]
    numbers: dict[str, int] = {}
    parts = [_renumbered(artifact, numbers) for artifact in artifacts]
    pairs, tested = np.concatenate(parts[: own + extra]), _keys(np.concatenate([_NONE, *parts[own + extra :]]), config)
    added = np.arange(len(pairs)) >= sum(map(len, parts[:own]))
    blank = [number for sentence, number in numbers.items() if not sentence.strip()]
    found, dropped = len(pairs), {}
    rules = (
        ("with an empty side", config["empty"], lambda: ~np.isin(pairs, blank).any(axis=1)),
        ("of equal sides", config["identical"], lambda: pairs[:, 0] != pairs[:, 1]),
        ("of dev or test", not config["transductive"], lambda: ~np.isin(_keys(pairs, config), tested)),
        ("repeated", config["repeated"], lambda: _first(_keys(pairs, config))),
    )
    for reason, wanted, good in rules:
        if wanted:
            rows = good()
            dropped[reason] = len(pairs) - int(rows.sum())
            pairs, added = pairs[rows], added[rows]
    if not len(pairs):
        hint = "; data.transductive=true keeps those of dev and test" if dropped.get("of dev or test") else ""
        raise InputError(f"data.path: none of the {found:,} pairs to learn from is left{told(dropped)}{hint}")
    rng = np.random.default_rng(config["seed"])
    for limit, rows in ((config["extra_limit"], np.flatnonzero(added)), (config["limit"], None)):
        rows = np.arange(len(pairs)) if rows is None else rows
        if limit is not None and limit < len(rows):
            left_out = rng.choice(rows, len(rows) - limit, replace=False)
            pairs, added = np.delete(pairs, left_out, axis=0), np.delete(added, left_out)
    shared = int(np.isin(_keys(pairs, config), tested).sum())
    facts = _write(out, *_used(list(numbers), pairs))
    summary = f"{len(pairs):,} pairs, {facts['sentences']:,} sentences{told(dropped)}"
    summary += f"; {shared:,} are of dev or test" if shared else ""
    return {**facts, "dropped": dropped, "shared": shared, "summary": summary}


@stage(version=1)
def flatten(out: Path, config: Config, watch: Watch, pool: Artifact, labels: Artifact) -> Facts:
    """Some pairs of the pool, drawn so that the start's labels of them are spread as evenly as the supply allows."""
    rows = flat_sample(np.load(labels / "labels.npy"), config["count"], seed=config["seed"])
    facts = _write(out, *_used(sentences_of(pool), np.load(pool / "pairs.npy")[rows]))
    return {**pool.facts, **facts, "summary": f"{len(rows):,} pairs, {facts['sentences']:,} sentences"}


@stage(version=1)
def gold(out: Path, config: Config, watch: Watch, *artifacts: Artifact) -> Facts:
    """Human scores as labels: each set's scale becomes [0, 1]. Pairs of the development and test sets are left out.

    The first `own` artifacts are the scored pairs to learn from, the rest development and test.
    """
    numbers: dict[str, int] = {}
    parts = [_renumbered(artifact, numbers) for artifact in artifacts]
    pairs, tested = (
        np.concatenate(parts[: config["own"]]),
        _keys(np.concatenate([_NONE, *parts[config["own"] :]]), config),
    )
    labels = np.concatenate([_to_unit(artifact) for artifact in artifacts[: config["own"]]])
    rows = np.full(len(pairs), True) if config["transductive"] else ~np.isin(_keys(pairs, config), tested)
    dropped = {"of dev or test": len(pairs) - int(rows.sum())}
    if not rows.any():
        raise InputError(f"data.gold: no pair to learn from is left{told(dropped)}; data.transductive=true keeps these")
    np.save(out / "labels.npy", labels[rows])
    facts = _write(out, *_used(list(numbers), pairs[rows]))
    shared = int(np.isin(_keys(pairs[rows], config), tested).sum())
    summary = f"{len(pairs[rows]):,} pairs with human scores{told(dropped)}"
    return {**facts, **spread(labels[rows]), "clamped": 0.0, "dropped": dropped, "shared": shared, "summary": summary}


def told(dropped: Mapping[str, int]) -> str:
    """`; dropped 57 repeated, 1 of equal sides`, or nothing."""
    counts = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items() if number)
    return f"; dropped {counts}" if counts else ""


def spread(labels: np.ndarray) -> dict[str, float]:
    return {"mean": float(labels.mean()), "std": float(labels.std())}


_NONE = np.empty((0, 2), dtype=np.int64)


def _renumbered(artifact: Artifact, numbers: dict[str, int]) -> np.ndarray:
    """An artifact's pairs, [N, 2] int64, by numbers that several artifacts share; new sentences get new ones."""
    places = [numbers.setdefault(sentence, len(numbers)) for sentence in sentences_of(artifact)]
    return np.asarray(places, dtype=np.int64)[np.load(artifact / "pairs.npy")]


def _keys(pairs: np.ndarray, config: Config) -> np.ndarray:
    """[N] int64, equal for equal pairs; whichever way round, unless their sides differ in kind."""
    sides = pairs if config["ordered"] else np.sort(pairs, axis=1)
    return sides[:, 0] << 32 | sides[:, 1]


def _first(keys: np.ndarray) -> np.ndarray:
    """[N] bool, the first of each."""
    rows = np.zeros(len(keys), dtype=bool)
    rows[np.unique(keys, return_index=True)[1]] = True
    return rows


def _used(sentences: Sequence[str], pairs: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Only the sentences that occur in pairs, in order of appearance, and the pairs by their new numbers, int32."""
    used, first, places = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(used), dtype=np.int32)
    rank[order] = np.arange(len(used), dtype=np.int32)
    return [sentences[number] for number in used[order].tolist()], rank[places].reshape(-1, 2)


def _to_unit(artifact: Artifact) -> np.ndarray:
    low, high = artifact.facts["scale"]
    return ((np.load(artifact / "gold.npy") - low) / (high - low)).astype(np.float32)
