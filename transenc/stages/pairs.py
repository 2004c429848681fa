"""The stages that make pairs, each a pure step from (plain settings, artifacts) to a folder (`transenc.artifacts`):

    read      -> sentences.txt, pairs.npy: one set or file; gold.npy too, for development, test and gold pairs only
    corpus    -> sentences.txt, and no pairs: a file of single sentences, or one of queries and one of documents
    mine      -> sentences.txt, pairs.npy: pairs out of a corpus
    gather    -> sentences.txt, pairs.npy, shared.npy: the pool, cleaned and drawn from everything above, and which of
                 its pairs are in a scored set too
    flatten   -> sentences.txt, pairs.npy: fewer of the pool, their initial scores spread evenly
    crop      -> sentences.txt, pairs.npy, source.npy: crops of the pool's pairs, and of which each is
    extend    -> sentences.txt, pairs.npy, source.npy: the pool, and behind it crops of its pairs
    gold      -> sentences.txt, pairs.npy, labels.npy: human scores as labels, for supervised training only
    tokenise  -> ids.npy, offsets.npy, and the pairs (with gold scores and source) again

All that unsupervised training learns from comes through `gather`, which reads no scores.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from transenc.artifacts import Artifact, file_digest, stage
from transenc.data.crops import crops
from transenc.data.files import Format, Pair, read_pairs
from transenc.data.known import KNOWN
from transenc.data.lines import UNREADABLE, read_sentences
from transenc.data.mining import flat_sample
from transenc.data.mining import mine as mine_pairs
from transenc.data.sentences import DIGEST, Sentences, digest, digests, distinct, write
from transenc.data.tokens import assemble, count_unknown, number_sentences, token_chunks
from transenc.errors import InputError
from transenc.progress import Progress
from transenc.terminal import quiet

Config = Mapping[str, Any]
Facts = dict[str, Any]


def sentences_of(pairs: Artifact) -> Sentences:
    return Sentences(pairs / "sentences.txt")


def _write(out: Path, sentences: Iterable[str], pairs: np.ndarray) -> Facts:
    np.save(out / "pairs.npy", pairs.astype(np.int32))
    return {"pairs": len(pairs), "sentences": write(out / "sentences.txt", sentences)}


@stage(version=4, ignore=("name", "files"))
def read(out: Path, config: Config, progress: Progress) -> Facts:
    """The pairs of one set or file, as they stand, and the gold scores of scored ones. Of a file's scored pairs, those
    that lack a sentence are dropped.
    """
    name, paths, scored = config["name"], [Path(path) for path in config["files"]], config["scored"]
    warnings: list[str] = []
    pairs, scale, binary = _source_pairs(config, warnings.append)
    if config["strip"]:
        pairs = (Pair(pair.sentence1.strip(), pair.sentence2.strip(), pair.score) for pair in pairs)
    drop = scored and config["format"] is not None  # only a person's file has a format
    # Each sentence goes to a file as it is read, and its digest into memory; then each different one is written once.
    found, scores, aside, lacking = bytearray(), array("d"), out / "all.txt", 0

    def sides() -> Iterator[str]:
        nonlocal lacking
        for pair in pairs:
            if drop and not (pair.sentence1.strip() and pair.sentence2.strip()):
                lacking += 1
                continue
            for sentence in pair[:2]:
                found.extend(digest(sentence))
                yield sentence
            if scored:
                scores.append(pair.score)

    write(aside, sides())
    _check_unchanged(config)
    first, numbers = distinct(np.frombuffer(found, DIGEST))
    facts: Facts = _write(out, map(Sentences(aside).__getitem__, first), numbers.reshape(-1, 2))
    aside.unlink()
    if drop and not scores:
        raise InputError(f"{name}: each pair lacks a sentence; give pairs of two sentences")
    if scored:
        np.save(out / "gold.npy", np.array(scores))
        subsets = KNOWN[name].subsets(paths) if name in KNOWN else []
        facts |= {"scale": scale, "binary": binary, "subsets": subsets}
    summary = f"{facts['pairs']:,} pairs, {facts['sentences']:,} sentences"
    return {**facts, "warnings": warnings, "summary": summary + dropped_text({"with an empty side": lacking})}


def _check_unchanged(config: Config) -> None:
    """Refuse files that changed after their digests were taken.

    Raises:
        InputError: the digests may be of other bytes than were read.
    """
    for name, known in zip(config["files"], config["digests"], strict=True):
        if file_digest(Path(name)) != known:
            raise InputError(f"{name}: changed while it was read; give the command again")


def _source_pairs(config: Config, warn: Callable[[str], Any]) -> tuple[Iterable[Pair], tuple[float, float], bool]:
    """The pairs of one set or file, the scale of their gold scores, and whether these are 0 or 1."""
    name, paths, scored = config["name"], [Path(path) for path in config["files"]], config["scored"]
    if known := KNOWN.get(name):
        return known.read(paths, scored), known.scale, known.binary
    form = Format(**config["format"])
    return read_pairs(paths[0], form, warn), (form.score_min, form.score_max), form.binary


@stage(version=3, ignore=("files",))
def corpus(out: Path, config: Config, progress: Progress) -> Facts:
    """The different sentences of a file, or of two, queries and documents, as a set without pairs."""
    parts, repeated = [], 0
    for name in config["files"]:
        suffix = Path(name).suffix.lower().removeprefix(".")
        if suffix in ("csv", "tsv", "jsonl", "ndjson", "parquet", "json"):
            raise InputError(f"{name}: a table; it must have one sentence a line (tables of pairs are data.path)")
        if suffix in UNREADABLE:
            raise InputError(f"{name}: is {UNREADABLE[suffix]}")
        lines = read_sentences(Path(name))
        if all(line.count("||") == 1 for line in lines):
            raise InputError(f"{name}: its lines are pairs, sentence1||sentence2; give data=pairs data.path=...")
        parts.append(list(dict.fromkeys(lines)))
        repeated += len(lines) - len(parts[-1])
    _check_unchanged(config)
    sentences = list(chain.from_iterable(parts))
    if len(sentences) < 2:
        raise InputError(f"{config['files'][0]}: pairs are made of two different sentences, and there is only one")
    facts = _write(out, sentences, np.empty((0, 2)))
    several, summary = len(parts) > 1, f"{len(sentences):,} sentences"
    if several:
        summary = f"{len(parts[0]):,} queries and {len(parts[1]):,} documents"
    facts["queries"] = len(parts[0]) if several else 0
    return {**facts, "summary": summary + dropped_text({"repeated": repeated})}


@stage(version=3)
def mine(out: Path, config: Config, progress: Progress, corpus: Artifact, *vectors: Artifact) -> Facts:
    """Pairs out of a corpus, in the given shares."""
    sentences = list(sentences_of(corpus))
    with progress.bar("mine", config["pairs"], "pair") as bar:
        pairs, made = mine_pairs(
            sentences,
            config["pairs"],
            config["shares"],
            vectors=np.load(vectors[0] / "vectors.npy", mmap_mode="r") if vectors else None,
            neighbours=config["neighbours"],
            seed=config["seed"],
            queries=config["queries"],
            progress=bar.update,
        )
    if not len(pairs):
        raise InputError(
            "data.mining: makes no pair of these sentences; raise data.mining.random or data.mining.nearest"
        )
    facts = _write(out, sentences, pairs)
    kinds = ", ".join(f"{number:,} {kind}" for kind, number in made.items() if number)
    return {**facts, "summary": f"{len(pairs):,} pairs ({kinds})"}


@stage(version=3, content=("sentences.txt", "pairs.npy"))
def gather(out: Path, config: Config, progress: Progress, *artifacts: Artifact) -> Facts:
    """The pool: the pairs of all sources, cleaned, less those of the development and test sets, and drawn from.

    The first `sources` artifacts are the pairs to learn from, the next `extra` those added, the rest development and
    test.
    """
    learnt = config["sources"] + config["extra"]
    pool = _cleaned(config, artifacts[:learnt], artifacts[learnt:])
    rng = np.random.default_rng(config["seed"])
    first_added = sum(len(np.load(artifact / "pairs.npy")) for artifact in artifacts[: config["sources"]])
    own, added = np.split(pool.rows, [np.searchsorted(pool.rows, first_added)])
    rows = _drawn(np.concatenate([own, _drawn(added, config["extra_limit"], rng)]), config["limit"], rng)
    facts = _write(out, *_used(pool.sentence, pool.pairs[rows]))
    np.save(out / "shared.npy", pool.shared[rows])
    return {**facts, **_account(facts, pool.shared[rows], pool.dropped)}


@stage(version=3, content=("sentences.txt", "pairs.npy"))
def flatten(out: Path, config: Config, progress: Progress, pool: Artifact, labels: Artifact) -> Facts:
    """Some pairs of the pool, their initial labels spread as evenly as the supply allows."""
    rows = flat_sample(np.load(labels / "labels.npy"), config["count"], seed=config["seed"])
    facts = _write(out, *_used(sentences_of(pool).__getitem__, np.load(pool / "pairs.npy")[rows]))
    return {**facts, **_account(facts, np.load(pool / "shared.npy")[rows], pool.facts["dropped"])}


@stage(version=3)
def crop(out: Path, config: Config, progress: Progress, pool: Artifact) -> Facts:
    """Crops of the pool's pairs, `count` or what there is."""
    sentences = list(sentences_of(pool))
    pairs = [(sentences[a], sentences[b]) for a, b in np.load(pool / "pairs.npy").tolist()]
    made = list(islice(crops(pairs, config["seed"]), config["count"]))
    np.save(out / "source.npy", np.array([number for number, _ in made], dtype=np.int64))
    texts, numbers = number_sentences([pair for _, pair in made])
    facts = _write(out, texts, numbers)
    return {**facts, "summary": f"{len(made):,} crops"}


@stage(version=2, content=("sentences.txt", "pairs.npy", "source.npy"))
def extend(
    out: Path, config: Config, progress: Progress, pool: Artifact, cropped: Artifact, *scored: Artifact
) -> Facts:
    """The pool, and behind it crops. None of these is a pair of the pool, nor, unless `transductive`, of a development
    or test set.
    """
    sentence, pairs, _, rows, *_ = _cleaned({**config, "repeated": True}, (pool, cropped), scored)
    originals = pool.facts["pairs"]
    rows = np.concatenate([np.arange(originals), rows[rows >= originals]])
    np.save(out / "source.npy", np.concatenate([np.arange(originals), np.load(cropped / "source.npy")])[rows])
    facts = _write(out, *_used(sentence, pairs[rows]))
    summary = f"{originals:,} pairs and {len(rows) - originals:,} crops"
    return {**facts, "originals": originals, "summary": summary}


@stage(version=3, content=("sentences.txt", "pairs.npy", "labels.npy"))
def gold(out: Path, config: Config, progress: Progress, *artifacts: Artifact) -> Facts:
    """Human scores as labels: cleaned like a pool, and never those of the development and test sets.

    Each set's scale becomes [0, 1]; of a repeated pair, the first score counts, unless repeats are kept. The first
    `sources` artifacts are the scored pairs to learn from, the rest development and test.
    """
    sources = artifacts[: config["sources"]]
    sentence, pairs, keys, rows, shared, dropped = _cleaned(config, sources, artifacts[config["sources"] :])
    rows = _drawn(rows, config["limit"], np.random.default_rng(config["seed"]))
    scores = np.concatenate([_to_unit(artifact) for artifact in sources])
    labels = scores[rows]
    np.save(out / "labels.npy", labels)
    facts = _write(out, *_used(sentence, pairs[rows]))
    account = _account(facts, shared[rows], dropped)
    _, first, places = np.unique(keys, return_index=True, return_inverse=True)
    several = np.count_nonzero(np.isin(keys[rows], keys[scores != scores[first][places]]))
    if several and config["repeated"]:
        account["summary"] += f"; of {several:,} with different scores, the first counts"
    return {**facts, **label_statistics(labels), "clamped": 0.0, **account}


@stage(version=3, ignore=("folder",))
def tokenise(out: Path, config: Config, progress: Progress, pairs: Artifact) -> Facts:
    """The tokens of a set of pairs; models that share a tokenizer and prompts share them."""
    from transenc.encoders.loading import saved_tokenizer

    quiet()
    tokenizer, prompts = saved_tokenizer(Path(config["folder"])), tuple(config["prompts"])
    sentences = sentences_of(pairs)
    gold = np.load(pairs / "gold.npy") if (pairs / "gold.npy").exists() else None
    aside, lengths = out / "ids.raw", []
    with aside.open("wb") as file, progress.bar("tokenise", len(sentences) * len(set(prompts)), "sentence") as bar:
        for ids, lengths_of_ids in token_chunks(sentences, tokenizer, bar.update, prompts):
            ids.tofile(file)
            lengths.append(lengths_of_ids)
    ids = np.memmap(aside, np.int32, "r") if aside.stat().st_size else np.empty(0, np.int32)
    source = np.load(pairs / "source.npy") if (pairs / "source.npy").exists() else None
    replace(assemble(ids, lengths, np.load(pairs / "pairs.npy"), gold, prompts), source=source).save(out)
    aside.unlink()
    facts = {"binary": pairs.facts["binary"]} if gold is not None else {}
    unknown = count_unknown(ids, tokenizer)
    summary = f"{len(ids):,} tokens" + (f", {unknown:,} of them unknown" if unknown else "")
    return {**facts, "tokens": len(ids), "unknown": unknown, "summary": summary}


class Cleaned(NamedTuple):
    """What is left of some sets' pairs.

    Attributes:
        sentence: gives the sentence of a number.
        pairs: [N, 2] int64 numbers of sentences, of all pairs.
        keys: [N] int64, equal for equal pairs.
        rows: [n] numbers of the pairs that are left.
        shared: [N] bool, which pairs are in a scored set too.
        dropped: how many each rule dropped.
    """

    sentence: Callable[[int], str]
    pairs: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    shared: np.ndarray
    dropped: dict[str, int]


def _cleaned(config: Config, sources: Sequence[Artifact], scored: Sequence[Artifact]) -> Cleaned:
    """What is left of some sets' pairs.

    Args:
        config: which rules hold; without `transductive`, pairs of scored sets are always left out.
        sources: N pairs to learn from.
        scored: development and test sets.

    Raises:
        InputError: none is left.
    """
    texts = [sentences_of(artifact) for artifact in (*sources, *scored)]
    starts = list(accumulate(map(len, texts), initial=0))  # of each artifact's sentences among all
    first, numbers = distinct(digests(chain.from_iterable(texts)))
    # Whitespace around a sentence does not make another sentence of it, even if it is kept.
    stripped = digests(sentence.strip() for sentence in chain.from_iterable(texts))[first]
    empty, same = stripped == digests([""]), distinct(stripped)[1]
    parts = [numbers[start + np.load(a / "pairs.npy")] for start, a in zip(starts, (*sources, *scored), strict=False)]
    pairs = np.concatenate(parts[: len(sources)])
    sides, keys = same[pairs], _keys(same[pairs], config["ordered"])
    shared = np.isin(keys, _keys(same[np.concatenate([_NONE, *parts[len(sources) :]])], config["ordered"]))

    def sentence(number: int) -> str:
        artifact = bisect_right(starts, first[number]) - 1
        return texts[artifact][first[number] - starts[artifact]]

    rows, dropped = np.arange(len(pairs)), {}
    for reason, holds, good in (
        ("with an empty side", config["empty"], lambda rows: ~empty[pairs[rows]].any(axis=1)),
        ("of equal sides", config["identical"], lambda rows: sides[rows, 0] != sides[rows, 1]),
        ("of dev or test", not config.get("transductive", False), lambda rows: ~shared[rows]),
        ("repeated", config["repeated"], lambda rows: _first(keys[rows])),
    ):
        if holds:
            kept = rows[good(rows)]
            dropped[reason], rows = len(rows) - len(kept), kept
    if not len(rows):
        helps = "transductive" in config and dropped.get("of dev or test")
        hint = "; data.transductive=true keeps those of dev and test" if helps else ""
        raise InputError(f"none of the {len(pairs):,} pairs to learn from is left{dropped_text(dropped)}{hint}")
    return Cleaned(sentence, pairs, keys, rows, shared, dropped)


def _drawn(rows: np.ndarray, limit: int | None, rng: np.random.Generator) -> np.ndarray:
    """`limit` of the rows, in order, or all."""
    return rows if limit is None or limit >= len(rows) else np.sort(rng.choice(rows, limit, replace=False))


def _account(facts: Facts, shared: np.ndarray, dropped: dict[str, int]) -> Facts:
    count = int(shared.sum())
    summary = f"{facts['pairs']:,} pairs, {facts['sentences']:,} sentences{dropped_text(dropped)}"
    summary += f"; {count:,} are of dev or test" if count else ""
    return {"dropped": dropped, "shared": count, "summary": summary}


def dropped_text(dropped: Mapping[str, int]) -> str:
    """`; dropped 57 repeated, 1 of equal sides`, or nothing."""
    counts = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items() if number)
    return f"; dropped {counts}" if counts else ""


def label_statistics(labels: np.ndarray) -> dict[str, float]:
    return {"mean": float(labels.mean()), "std": float(labels.std())}


_NONE = np.empty((0, 2), dtype=np.int64)


def _keys(pairs: np.ndarray, ordered: bool) -> np.ndarray:
    """[N] int64, equal for equal pairs; whichever way round, unless their sides differ in kind."""
    sides = pairs if ordered else np.sort(pairs, axis=1)
    return sides[:, 0] << 32 | sides[:, 1]


def _first(keys: np.ndarray) -> np.ndarray:
    """[N] bool, the first of each."""
    rows = np.zeros(len(keys), dtype=bool)
    rows[np.unique(keys, return_index=True)[1]] = True
    return rows


def _used(sentence: Callable[[int], str], pairs: np.ndarray) -> tuple[Iterator[str], np.ndarray]:
    """Only the sentences that occur in pairs, in order of appearance, and the pairs by their new numbers, int32."""
    used, first, places = np.unique(pairs, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(used), dtype=np.int32)
    rank[order] = np.arange(len(used), dtype=np.int32)
    return map(sentence, used[order].tolist()), rank[places].reshape(-1, 2)


def _to_unit(artifact: Artifact) -> np.ndarray:
    low, high = artifact.facts["scale"]
    return ((np.load(artifact / "gold.npy") - low) / (high - low)).astype(np.float32)
