"""The stages that make and use encoders:

load    -> a model folder
centre  -> a bi-encoder's folder, its embeddings mean-centred
embed   -> vectors.npy: a bi-encoder's embeddings of a corpus
score   -> raw.npy, scores.npy: one encoder's cosines or logits for one set of pairs, and the scores they make
score_late -> scores.npy: what a bi-encoder labels by with late interaction, two scores a pair
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from transenc import distributed
from transenc.artifacts import Artifact, digest, file_digest, stage
from transenc.data.tokens import TokenisedPairs
from transenc.errors import InputError
from transenc.metrics import compute_metrics, spearman
from transenc.model_description import describe
from transenc.model_folder import Source, find, read_json
from transenc.progress import Progress
from transenc.results import METRIC_NAMES, percent
from transenc.stages.pairs import Config, Facts
from transenc.terminal import quiet

if TYPE_CHECKING:
    from transenc.encoders import PairEncoder

log = logging.getLogger("transenc")

WELL_POOLED = 0.96  # Spearman of embeddings and tokens, below which tokens alone label better (docs/adapting.md)


def encoder_class(kind: str) -> "type[PairEncoder]":
    from transenc.encoders import BiEncoder, CrossEncoder

    quiet()
    return {"bi": BiEncoder, "cross": CrossEncoder}[kind]


_last_used: dict[tuple[str, ...], "PairEncoder"] = {}  # one at most, so that memory holds no two


def loaded(model: Artifact, config: Config, change: bool = False) -> Any:
    """The encoder of a model's artifact, on the device and with the layers that a stage's settings name.

    It is kept for the next stage, which often scores other pairs with it, unless this one is to `change` it.
    """
    key = (str(model.path), config["accelerator"], str(config["cpu_layers"]))
    encoder = _last_used.get(key)
    if encoder is None or change:
        release()
        encoder = encoder_class(model.facts["kind"]).load(model.path)
        encoder.use_cpu_layers(config["cpu_layers"])
        encoder = encoder.to(config["accelerator"])
        if not change:
            _last_used[key] = encoder
    return encoder


def release() -> None:
    """Free the memory of the encoder that `loaded` keeps."""
    _last_used.clear()


def find_model(key: str, name: str, adaptable: bool = False) -> Source:
    """Find the model that the configuration names under `key`.

    Args:
        key, name: of the model.
        adaptable: whether an adapter may name it as its base, in a way that other libraries read.

    Raises:
        InputError: see `transenc.model_folder.find`; the message begins with the key.
    """
    try:
        source = find(name)
        description = describe(source)
        if adaptable and (source.base is not None or source.folder != source.root):
            what = "is an adapter itself" if source.base is not None else f"has its weights in {source.folder.name}/"
            raise InputError(f"{name}: {what}, and no adapter can name it as its base; set distill.adapters=merged")
    except InputError as error:
        raise InputError(f"{key}={error}") from None
    caveats = []
    if description.own_code is not None:
        caveats.append(
            f"its own code ({description.own_code}) is not run, transformers' class for its model_type reads it"
        )
    if description.similarity is not None and key != "model.cross":
        caveats.append(f"its folder has embeddings compared by {description.similarity}, and cosines are taken here")
    for caveat in caveats:
        log.warning("%s=%s: %s; compare it with its published scores", key, name, caveat)
    return source


def advise_mean_pooling(bi: Artifact, late: Artifact, pooling: str) -> None:
    """Say so where a bi-encoder's files do not name its pooling, and mean pooling agrees better with its tokens.

    Args:
        bi, late: the encoder, and its scores by its tokens.
        pooling: what was set for it.
    """
    encoder = bi.facts["encoder"]
    changed = set(encoder["modules"]) - {"Normalize"}  # which changes no cosine
    if (pooling == "auto" and not encoder["guessed"]) or encoder["pooling"] == "mean" or changed:
        return
    agreement, of_mean = late.facts["agreement"], late.facts["mean_agreement"]
    if of_mean > agreement:
        log.warning(
            "model.bi: mean pooling agrees better with the tokens (Spearman %s) than %s pooling (%s); try"
            " model.pooling=mean",
            percent(of_mean),
            encoder["pooling"],
            percent(agreement),
        )


def find_reference(name: str) -> Source:
    """Find the bi-encoder that the configuration names as `model.reference`.

    Raises:
        InputError: see `find_model`, or it is a cross-encoder.
    """
    source = find_model("model.reference", name)
    if describe(source).cross:
        raise InputError(f"model.reference={name}: is a cross-encoder; name a bi-encoder")
    return source


def check_unchanged(source: Source, config: Config) -> None:
    """Refuse a model whose files changed after their digests were taken.

    Raises:
        InputError: the digests may be of other bytes than were read.
    """
    if source.state() != config["state"]:
        raise InputError(f"{source.name}: changed while it was read; give the command again")


def model_facts(folder: Path, encoder: "PairEncoder") -> Facts:
    settings = read_json(folder / "tokenizer_config.json")
    settings.pop("model_max_length", None)  # sentences are tokenised whole
    tokenizer = digest([file_digest(folder / "tokenizer.json"), settings])
    return {"kind": encoder.kind, "tokenizer": tokenizer, "encoder": encoder.facts}


@stage(version=6, ignore=("source", "key", "state"))
def load(out: Path, config: Config, progress: Progress) -> Facts:
    """The model that a person named, as the kind of encoder it will be, in our own folder layout."""
    source, settings = config["source"], config["settings"]
    try:
        encoder = encoder_class(config["kind"]).load(source, **settings)
        check_unchanged(source, config)
    except InputError as error:
        raise InputError(f"{config['key']}={error}") from None
    encoder.save(out)
    facts = model_facts(out, encoder)
    if config["kind"] == "bi":
        facts["can_be_centred"] = encoder.embedding_bias() is not None
    else:
        facts["new_head"] = not describe(source).cross
    return facts


@stage(version=3, ignore=("batch_tokens", "accelerator", "precision"))
def centre(out: Path, config: Config, progress: Progress, model: Artifact, tokens: Artifact) -> Facts:
    """A bi-encoder whose embeddings are mean-centred over the sentences of the pool."""
    from transenc.encoders.bi import CENTRING_SENTENCES

    encoder, pairs = loaded(model, config, change=True), TokenisedPairs.load(tokens.path)
    with progress.bar("centre", min(CENTRING_SENTENCES, len(pairs.lengths)), "sentence") as bar:
        share = encoder.centre(pairs, config["batch_tokens"], bar.update)
    encoder.save(out)
    return {
        **model_facts(out, encoder),
        "centred": True,
        "summary": f"the mean was {share:.0%} of an embedding's length",
    }


@stage(version=2, ignore=("batch_tokens", "accelerator"))
def embed(out: Path, config: Config, progress: Progress, model: Artifact, tokens: Artifact) -> Facts:
    """A bi-encoder's embedding of each sentence of a corpus: [S, D] float16 of length 1, precise enough to find
    neighbours. Of two prompts, a document has the second, all others the first.
    """
    encoder = loaded(model, config)
    corpus = TokenisedPairs.load(tokens.path)
    numbers = np.arange(corpus.second_offset or len(corpus.lengths))
    if config["queries"]:
        numbers[config["queries"] :] += corpus.second_offset  # documents
    shape = (len(numbers), encoder.width)
    vectors = np.lib.format.open_memmap(out / "vectors.npy", mode="w+", dtype=np.float16, shape=shape)
    with progress.bar("embed", len(vectors), "sentence") as bar, encoder.scoring(config["precision"]):
        encoder.encode(corpus, numbers, vectors, config["batch_tokens"], bar.update)
    vectors.flush()
    return {"summary": f"{len(vectors):,} vectors of {encoder.width}"}


@stage(version=3, ignore=("batch_tokens", "accelerator"))
@distributed.collective
def score(out: Path, config: Config, progress: Progress, model: Artifact, tokens: Artifact) -> Facts:
    """One encoder's similarities for one set of pairs."""
    encoder = loaded(model, config)
    pairs = TokenisedPairs.load(tokens.path)
    with progress.bar("score", encoder.work(pairs.select(distributed.shard(len(pairs)))), "seq") as bar:
        raw = similarities(encoder, pairs, config, bar.update)
    if distributed.rank():
        return {}
    np.save(out / "raw.npy", raw)
    np.save(out / "scores.npy", encoder.to_score(torch.from_numpy(raw)).numpy())
    summary, metrics = f"{len(raw):,} pairs", {}
    if pairs.gold is not None:
        binary = tokens.facts["binary"]
        metrics = compute_metrics(raw, pairs.gold, binary)
        name = "auc" if binary else "spearman"
        summary += f", {METRIC_NAMES[name]} {percent(metrics[name])}"
    cut = encoder.truncated(pairs)
    summary += truncated_text(encoder, cut)
    return {"kind": encoder.kind, "pairs": len(raw), **metrics, "truncated": cut, "summary": summary}


def truncated_text(encoder: "PairEncoder", count: int) -> str:
    """How many sentences or pairs are cut, as a summary ends with it; nothing where none are."""
    return f", {count:,} {encoder.unit} cut to {encoder.max_tokens} tokens" if count else ""


@stage(version=7, ignore=("batch_tokens", "accelerator"))
@distributed.collective
def score_late(
    out: Path, config: Config, progress: Progress, model: Artifact, tokens: Artifact, cosines: Artifact
) -> Facts:
    """What a bi-encoder labels by, [2, N] in [-1, 1]: its `cosines` and its tokens, where these hardly differ in order
    (`WELL_POOLED`). Else pooling loses much of what the tokens hold, and it labels by these alone, unweighted and
    weighted by inverse document frequency.
    """
    encoder = loaded(model, config)
    pairs = TokenisedPairs.load(tokens.path)
    order = pairs.by_source()  # a sentence is encoded once for pairs that come together, as crops of one pair do
    rows = order[distributed.shard(len(pairs))]
    with progress.bar("score", len(rows), "pair") as bar:
        found = encoder.late_interaction(
            pairs.select(rows), config["batch_tokens"], bar.update, config["precision"], pairs.original_sentences
        )
    found = distributed.gather_shards(found, len(pairs))
    if distributed.rank():
        return {}
    scores = np.empty_like(found)
    scores[:, order] = found
    embedded, (unweighted, _, mean) = np.load(cosines / "scores.npy"), scores
    originals = slice(pairs.originals)
    agreement = spearman(embedded[originals], unweighted[originals])
    well_pooled = agreement >= WELL_POOLED
    np.save(out / "scores.npy", np.stack([embedded, unweighted]) if well_pooled else scores[:2])
    by = "embeddings and tokens" if well_pooled else "tokens, unweighted and weighted by IDF"
    summary = f"{len(pairs):,} pairs, by {by}; Spearman of embeddings and tokens {percent(agreement)}"
    mean_agreement = spearman(mean[originals], unweighted[originals])
    return {"pairs": len(pairs), "agreement": agreement, "mean_agreement": mean_agreement, "summary": summary}


def similarities(
    encoder: "PairEncoder", pairs: TokenisedPairs, config: Config, progress: Callable[[int], Any] = lambda count: None
) -> np.ndarray:
    """[N] cosines or logits, of which each rank computes its shard."""
    rows = distributed.shard(len(pairs))
    shard = pairs if len(rows) == len(pairs) else pairs.select(rows)
    raw = encoder.similarities(shard, config["batch_tokens"], progress, config["precision"])
    return distributed.gather_shards(raw, len(pairs))
