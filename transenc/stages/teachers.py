"""The stages of fixed teachers, which label beside the loop's own encoders and are never trained:

predict      -> scores.npy: a model's scores of the pool, by sentence-transformers, which runs any kind of model
read_scores  -> scores.npy: scores of the pool out of a file
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from transenc.artifacts import Artifact, stage
from transenc.data.files import Format, Reader, read_pairs
from transenc.errors import InputError, reason
from transenc.model_description import describe
from transenc.model_folder import Source
from transenc.progress import Progress
from transenc.stages.models import check_unchanged, release
from transenc.stages.pairs import Config, Facts, label_statistics, sentences_of
from transenc.terminal import quiet

log = logging.getLogger("transenc")

CHUNK = 2048  # pairs or sentences between two steps of the progress bar


@stage(version=1, ignore=("source", "key", "state", "batch_size", "accelerator"))
def predict(out: Path, config: Config, progress: Progress, pool: Artifact) -> Facts:
    """A fixed model's scores in [0, 1]: a bi-encoder's cosines, the sigmoid of a cross-encoder's logit, or the
    probability of entailment of a classifier of natural language inference.
    """
    source: Source = config["source"]
    sentences, pairs = sentences_of(pool), np.load(pool / "pairs.npy")
    try:
        description = describe(source)
        if not source.modules and description.architecture.endswith("ForCausalLM"):
            raise InputError(
                f"{source.name}: is a language model, and no file says how to score with it; save it by"
                " sentence-transformers, as a CrossEncoder (LogitScore) or with a Pooling"
            )
        if description.cross:
            model = _loaded("CrossEncoder", source, config)
            scores = _scores_of_cross(model, source, config, progress, [(sentences[a], sentences[b]) for a, b in pairs])
        else:
            if not source.modules:
                log.warning("%s: no file names its pooling; sentence-transformers takes the mean", source.name)
            model = _loaded("SentenceTransformer", source, config)
            scores = _scores_of_bi(model, config, progress, sentences, pairs)
        check_unchanged(source, config)
    except InputError as error:
        named = str(error) if source.name in str(error) else f"{source.name}: {error}"
        raise InputError(f"{config['key']}={named}") from None
    if not np.isfinite(scores).all():
        raise InputError(f"{config['key']}={source.name}: scores some pairs NaN; take another model")
    parameters = sum(weight.numel() for weight in model.parameters()) / 1e6
    read_as = ", ".join([*(type(module).__name__ for module in model), f"{parameters:.1f}M parameters"])
    return {**_finished(out, scores), "read_as": f"by sentence-transformers: {read_as}"}


def _scores_of_cross(
    model: Any, source: Source, config: Config, progress: Progress, pairs: Sequence[Any]
) -> np.ndarray:
    entailment = None
    if model.num_labels != 1:
        labels = getattr(model.config, "id2label", {})
        found = [number for number, name in labels.items() if str(name).lower().startswith("entail")]
        if len(found) != 1:
            raise InputError(
                f"{source.name}: its head has {model.num_labels} outputs ({', '.join(map(str, labels.values()))}), and"
                " none is called entailment (id2label in config.json); take a model with one output"
            )
        entailment = int(found[0])
    raw = _in_chunks(
        progress, "pair", pairs,
        lambda part: model.predict(
            part, batch_size=config["batch_size"], activation_fn=torch.nn.Identity(), convert_to_tensor=True,
            show_progress_bar=False,
        ),
    )  # fmt: skip
    scores = torch.sigmoid(raw) if entailment is None else torch.softmax(raw, -1)[:, entailment]
    return scores.numpy()


def _scores_of_bi(
    model: Any, config: Config, progress: Progress, sentences: Sequence[str], pairs: np.ndarray
) -> np.ndarray:
    def embed(encode: Any) -> torch.Tensor:
        options = {"batch_size": config["batch_size"], "convert_to_tensor": True, "show_progress_bar": False}
        vectors = _in_chunks(progress, "sentence", sentences, lambda part: encode(part, **options))
        return torch.nn.functional.normalize(vectors, dim=-1)

    if config["ordered"]:
        first, second = embed(model.encode_query), embed(model.encode_document)
    else:
        first = second = embed(model.encode)
    numbers = torch.from_numpy(pairs.astype(np.int64))
    return (first[numbers[:, 0]] * second[numbers[:, 1]]).sum(-1).numpy()


def _loaded(kind: str, source: Source, config: Config) -> Any:
    import sentence_transformers

    release()
    quiet()
    try:
        return getattr(sentence_transformers, kind)(
            str(source.root), device=config["accelerator"], trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # whatever it stumbles over in files of others
        raise InputError(
            f"{source.name}: sentence-transformers cannot load it ({reason(error)}); take another model"
        ) from error


def _in_chunks(progress: Progress, unit: str, items: Sequence[Any], run: Callable[[list[Any]], Any]) -> torch.Tensor:
    """`run` on some items at a time; float32, on the CPU."""
    parts = []
    with progress.bar("predict", len(items), unit) as bar:
        for start in range(0, len(items), CHUNK):
            part = list(items[start : start + CHUNK])
            try:
                parts.append(run(part).float().cpu())
            except torch.OutOfMemoryError:
                raise InputError("its batches do not fit into the GPU's memory; lower trainer.score_tokens") from None
            except Exception as error:  # whatever it stumbles over in files of others
                raise InputError(
                    f"sentence-transformers cannot score with it ({reason(error)}); take another model"
                ) from error
            bar.update(len(part))
    return torch.cat(parts)


def format_of_scores(file: Path, form: Format) -> Format:
    """Where a file of scores has them: a run's labels/ as it writes them, any other file as is configured, or in a
    column `label`.
    """

    def names(columns: Format) -> list[str]:
        reader = Reader(file, replace(columns, score=None), warn=lambda text: None)
        with suppress(InputError):  # it has other columns
            next(iter(reader))
        return list(reader.names)

    written = replace(form, sentence1="sentence1", sentence2="sentence2", score="label")
    if names(written) == [written.sentence1, written.sentence2, written.score]:
        return written
    named = names(form) if isinstance(form.sentence1, str) else []
    return replace(form, score="label") if "label" in named and form.score not in named else form


@stage(version=1, ignore=("file",))
def read_scores(out: Path, config: Config, progress: Progress, pool: Artifact) -> Facts:
    """Scores in [0, 1] of the pool's pairs, found by their sentences."""
    key, form = f"model.teachers={config['file']}", Format(**config["format"])
    ordered, found, several = config["ordered"], {}, set()
    for pair in read_pairs(Path(config["file"]), form):
        sides = pair.sentence1.strip(), pair.sentence2.strip()
        if not 0 <= pair.score <= 1:
            raise InputError(f"{key}: the score {pair.score:g} of {pair.sentence1!r:.40} is not in [0, 1]; scale them")
        sides = sides if ordered else tuple(sorted(sides))
        if found.setdefault(sides, pair.score) != pair.score:
            several.add(sides)
    sentences = [sentence.strip() for sentence in sentences_of(pool)]
    pairs = [(sentences[a], sentences[b]) for a, b in np.load(pool / "pairs.npy")]
    keys = pairs if ordered else [tuple(sorted(pair)) for pair in pairs]
    if missing := [pair for pair, sides in zip(pairs, keys, strict=True) if sides not in found]:
        first, second = missing[0]
        raise InputError(
            f"{key}: has no score for {len(missing):,} of the pool's {len(pairs):,} pairs, {first[:40]!r} and"
            f" {second[:40]!r} first; a file of scores holds every pair (data.path, or labels/ of another run)"
        )
    facts = _finished(out, np.array([found[sides] for sides in keys], dtype=np.float32))
    if count := len(several.intersection(keys)):
        facts["summary"] += f"; of {count:,} with different scores, the first counts"
    return facts


def _finished(out: Path, scores: np.ndarray) -> Facts:
    np.save(out / "scores.npy", scores.astype(np.float32))
    statistics = label_statistics(scores)
    summary = f"{len(scores):,} pairs, mean {statistics['mean']:.2f}, standard deviation {statistics['std']:.2f}"
    return {**statistics, "summary": summary}
