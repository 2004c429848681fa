"""What the types of the schema cannot say: ranges, and settings that do not go together."""

import logging
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transenc.config.schema import (
    Adapters,
    Centre,
    Data,
    Direction,
    Evaluate,
    Pooling,
    Select,
    Start,
    Teachers,
    Train,
    TrainingConfig,
    listed,
    of_member,
)
from transenc.errors import InputError, nearest

log = logging.getLogger("transenc")

Rule = tuple[str, Any, bool, str]  # a key, its value, whether the value is valid, and what is valid

MODELS = "a hub name, a folder, package://..., or a list of them"
MAX_MIN_STEPS = 1_000_000  # the order of their pairs is held in memory
MAX_FOLDS = 20  # each takes a training of its own
MAX_LORA_RANK = 1024  # as wide as a layer of many encoders
MAX_NUMBER = 2**32


def check_evaluation(cfg: Evaluate) -> None:
    """`check` for the commands that score models.

    Raises:
        InputError: a value is out of its range.
    """
    _hold(
        [
            ("model", cfg.model.path, _are_names(cfg.model.path), MODELS),
            _at_least("resamples", cfg.resamples, 0),
            *_prompt_rules("model.prompt", cfg.model.prompt, "model.prompt_name", cfg.model.prompt_name),
            *_common_rules(cfg),
        ]
    )


def check(cfg: Train) -> None:
    """Check the settings of a run.

    Raises:
        InputError: a value is out of its range, or settings do not go together.
    """
    _hold(_run_rules(cfg))
    _check_members(cfg)
    _check_adapters(cfg)
    _check_pool(cfg.data)
    _check_direction(cfg)
    if cfg.distill.direction.supervised:
        _check_supervised(cfg)
    else:
        _check_sources(cfg)


def _run_rules(cfg: Train) -> list[Rule]:
    model, data, distill, direction = cfg.model, cfg.data, cfg.distill, cfg.distill.direction
    holdout = distill.holdout
    rules = [
        _at_least("seed", cfg.seed, 0),
        _at_least("data.seed", data.seed, 0),
        _at_least("data.limit", data.limit, 1, null=True),
        *((key, file, file != "", "a file, or null") for key, file in {"data.path": data.path, **data.corpora}.items()),
        ("data.extra", data.extra, data.extra is None or _are_names(data.extra), "a known set, a file, or a list"),
        _at_least("data.extra_limit", data.extra_limit, 1, null=True),
        _at_least("data.mining.pairs", data.mining.pairs, 1, null=True),
        _at_least("data.mining.neighbours", data.mining.neighbours, 1),
        _at_least("distill.iterations", distill.iterations, 1),
        _at_least("distill.retries", distill.retries, 0),
        _between("distill.folds", distill.folds, 1, MAX_FOLDS),
        _at_least("distill.cross.crops_below", distill.cross.crops_below, 0),
        ("distill.interpolate", distill.interpolate, 0 < distill.interpolate <= 1, "above 0, and at most 1"),
        ("distill.holdout", holdout, holdout is None or 0 < holdout < 1, "between 0 and 1, or null"),
        *_common_rules(cfg),
    ]
    teachers = model.teachers
    rules.append(
        ("model.teachers", teachers, teachers is None or _are_names(teachers), MODELS + ", or files of scores")
    )
    for kind, names in (("bi", model.bi), ("cross", model.cross)):
        if kind in direction.kinds:
            rules.append((f"model.{kind}", names, _are_names(names), MODELS))
    for kind, training in (("bi", distill.bi), ("cross", distill.cross)):
        if kind in direction.students:
            rules += _training_rules(f"distill.{kind}", training)
    return rules


def _check_pool(data: Data) -> None:
    """Settings of the draws that make the pool."""
    shares = (data.mining.random, data.mining.nearest, data.mining.lexical)
    if min(shares) < 0 or sum(shares) == 0:
        raise InputError("data.mining: the shares random, nearest, lexical must be at least 0, and one of them above")
    if data.extra_limit is not None and data.extra is None:
        raise InputError(f"data.extra_limit={data.extra_limit}: there are no extra pairs; give data.extra=FILE too")
    if data.flatten and data.limit is None:
        raise InputError("data.flatten=true: flattening leaves pairs out; give data.limit=N, how many to keep")


def _check_direction(cfg: Train) -> None:
    """Settings that do not go with who trains whom."""
    distill, direction = cfg.distill, cfg.distill.direction
    if direction is not Direction.both and distill.iterations > 1:
        raise InputError(f"distill.direction={direction.name} is one step; set distill.iterations=1")
    if distill.interpolate < 1 and "bi" in direction.students and distill.bi.lora_rank:
        raise InputError(
            f"distill.interpolate={distill.interpolate:g}: adapters are not interpolated; set distill.interpolate=1, or"
            " distill.bi.lora_rank=0"
        )
    if distill.folds > 1 and direction is not Direction.both:
        raise InputError(
            f"distill.folds={distill.folds}: with distill.direction={direction.name} no cross-encoder labels pairs that"
            " it learnt from; set distill.folds=1"
        )
    bi_labels = ("bi", "cross") in direction.turns or (distill.teachers is Teachers.both and not direction.supervised)
    if distill.late_interaction and not bi_labels:
        raise InputError(
            f"distill.late_interaction=true: with distill.direction={direction.name} no bi-encoder labels; set"
            " distill.late_interaction=false"
        )
    if distill.select is Select.dev and cfg.data.dev is None:
        raise InputError("distill.select=dev: there is no development set; give data.dev=FILE, or select by agreement")


def _check_supervised(cfg: Train) -> None:
    """Of a supervised run: that it learns from human scores alone."""
    data, distill, direction = cfg.data, cfg.distill, cfg.distill.direction.name
    if data.flatten or data.extra is not None or distill.centre is not Centre.none:
        refused = "takes no data.flatten, no data.extra and no distill.centre"
        raise InputError(f"distill.direction={direction}: {refused}")
    if cfg.model.teachers is not None:
        raise InputError(f"distill.direction={direction}: human scores are the labels; set model.teachers=null")
    if not data.gold:
        raise InputError(f"distill.direction={direction}: no gold scores to learn from; give data.gold=[FILE]")
    given = data.corpora if data.path is None else {"data.path": data.path, **data.corpora}
    for key, file in given.items():
        log.warning("%s=%s: not read, distill.direction=%s learns from data.gold", key, file, direction)


def _check_sources(cfg: Train) -> None:
    """Of an unsupervised run: that there are pairs, or single sentences to make them of."""
    data = cfg.data
    for file in filter(os.path.isfile, data.gold):
        log.warning("data.gold=%s: not read; learn from it afterwards, with distill=supervised_bi", file)
    apart = cfg.select is Select.agreement or cfg.distill.folds > 1
    if apart and not data.clean.repeated:
        raise InputError(
            "data.clean.repeated=false: copies of a held-out pair would be learnt from; leave it out, or set"
            " distill.folds=1 distill.select=last"
        )
    if not cfg.sources:
        raise InputError(
            "data.path: no pairs to learn from; give data.path=FILE, data.sentences=FILE, data.queries=FILE and"
            " data.documents=FILE, or data=NAME for a known set"
        )
    if list(data.corpora) not in ([], ["data.sentences"], ["data.queries", "data.documents"]):
        raise InputError(
            f"{', '.join(data.corpora)}: give data.sentences alone, or both data.queries and data.documents"
        )
    if data.queries is not None and not data.ordered:
        raise InputError(
            "data.queries: queries and documents differ in kind; set data.ordered=true, as data=queries does"
        )


def _at_least(key: str, value: Any, low: int, null: bool = False) -> Rule:
    """`value >= low`, or None where that is allowed (`null`)."""
    valid = null if value is None else value >= low
    return key, value, valid, f"at least {low}" + (", or null" if null else "")


def _between(key: str, value: int, low: int, high: int) -> Rule:
    return key, value, low <= value <= high, f"from {low:,} to {high:,}"


def _hold(rules: list[Rule]) -> None:
    for key, value, valid, rule in rules:
        if not valid:
            raise InputError(f"{key}={value}: must be {rule}")


def _common_rules(cfg: Train | Evaluate) -> list[Rule]:
    data, folder, tokens = cfg.data, Path(cfg.paths.artifacts), cfg.trainer.score_tokens
    numbers = [(key, value) for key, value in _values(asdict(cfg)) if isinstance(value, int | float)]
    texts = [(key, value) for key, value in _values(asdict(cfg)) if isinstance(value, str)]
    lists = [("data.pool", data.pool), ("data.gold", data.gold), ("data.test", data.test)]
    return [
        *((key, value, abs(value) < MAX_NUMBER, "a number, below 2**32") for key, value in numbers),  # NaN is not below
        *((key, text, _is_unicode(text), "UTF-8; rename the file") for key, text in texts),
        *(
            (key, names, names == [] or (isinstance(names, list) and _are_names(names)), "a list of names")
            for key, names in lists
        ),
        *(
            (f"data.columns.{name}", column, _is_column(column, name), "a column's name, or its number from 0")
            for name, column in asdict(data.columns).items()
        ),
        ("data.score_max", data.score_max, data.score_max > data.score_min, "above data.score_min"),
        _at_least("trainer.score_tokens", tokens, 1, null=True),
        ("paths.artifacts", folder, folder.is_dir() or not folder.exists(), "a folder, or nothing yet"),
        *((f"paths.{key}", name, name != "", "a folder") for key, name in asdict(cfg.paths).items()),
        ("data.dev", data.dev, data.dev != "", "a set, a file, or null"),
    ]


def _training_rules(key: str, training: TrainingConfig) -> list[Rule]:
    return [
        _at_least(f"{key}.epochs", training.epochs, 1),
        _between(f"{key}.min_steps", training.min_steps, 0, MAX_MIN_STEPS),
        _at_least(f"{key}.batch_size", training.batch_size, 1),
        _at_least(f"{key}.micro_batch_size", training.micro_batch_size, 1, null=True),
        _between(f"{key}.lora_rank", training.lora_rank, 0, MAX_LORA_RANK),
        (f"{key}.learning_rate", training.learning_rate, training.learning_rate > 0, "above 0"),
        (f"{key}.warmup", training.warmup, 0 <= training.warmup < 1, "at least 0 and below 1"),
        _at_least(f"{key}.weight_decay", training.weight_decay, 0),
        _at_least(f"{key}.clip", training.clip, 0),
        _at_least(f"{key}.eval_steps", training.eval_steps, 0),
    ]


def _check_adapters(cfg: Train) -> None:
    """An adapter fits the initial model as others find it, so nothing else of that may have changed."""
    distill, model = cfg.distill, cfg.model
    if distill.adapters is Adapters.merged:
        return
    for key, good in (
        ("distill.bi.lora_rank above 0", "bi" not in distill.direction.students or distill.bi.lora_rank > 0),
        ("distill.cross.lora_rank above 0", "cross" not in distill.direction.students or distill.cross.lora_rank > 0),
        ("distill.start=base", distill.start is Start.base),
        ("distill.centre=none", distill.centre is Centre.none),
        ("distill.symmetric=false", not distill.symmetric),
        ("distill.folds=1", distill.folds == 1),
        ("model.bi_layers=null", listed(model.bi_layers) == [None]),
        ("model.cross_layers=null", listed(model.cross_layers) == [None]),
    ):
        if not good:
            raise InputError(f"distill.adapters=separate: an adapter fits the initial model as it is; set {key}")


def _check_members(cfg: Train) -> None:
    """Settings that are one value for all members, or a list with one for each."""
    model, kinds = cfg.model, cfg.distill.direction.kinds
    bis, crosses = len(listed(model.bi)), len(listed(model.cross))
    if "bi" in kinds:
        _check_list("model.pooling", model.pooling, "model.bi", bis)
        _check_prompts(cfg, bis)
        for pooling in listed(model.pooling):
            if not isinstance(pooling, str) or pooling not in Pooling.__members__:
                hint = nearest(str(pooling), Pooling.__members__, listed=True)
                raise InputError(f"model.pooling={pooling}: no such choice{hint}")
        _check_counts("model.bi_layers", model.bi_layers, "model.bi", bis)
        _check_counts("model.bi_max_tokens", model.bi_max_tokens, "model.bi", bis)
    if "cross" in kinds:
        _check_counts("model.cross_layers", model.cross_layers, "model.cross", crosses)
        _check_counts("model.cross_max_tokens", model.cross_max_tokens, "model.cross", crosses)
    if cfg.distill.direction is Direction.both and bis != crosses:
        names = f"model.bi names {bis} and model.cross {crosses} models"
        raise InputError(f"{names}: members come in pairs; repeat a name to fill up")


def _check_prompts(cfg: Train, bis: int) -> None:
    """Of a single bi-encoder, a list holds the prompts of first and second sentences; of several, one for each."""
    model = cfg.model
    if bis > 1:
        _check_list("model.bi_prompt", model.bi_prompt, "model.bi", bis)
        _check_list("model.bi_prompt_name", model.bi_prompt_name, "model.bi", bis)
    both = model.bi_prompt, model.bi_prompt_name
    members = [[of_member(value, number) for value in both] for number in range(bis)] if bis > 1 else [both]
    for prompt, name in members:
        _hold(_prompt_rules("model.bi_prompt", prompt, "model.bi_prompt_name", name))
        if not cfg.data.ordered and any(len(set(listed(value))) > 1 for value in (prompt, name)):
            raise InputError(
                "model.bi_prompt: two prompts are for sentences that differ in kind; set data.ordered=true"
            )


def _prompt_rules(key: str, prompt: Any, name_key: str, name: Any) -> list[Rule]:
    return [
        (key, prompt, prompt is None or _are_texts(prompt), "a text, two of them, or null"),
        (name_key, name, name is None or (_are_names(name) and len(listed(name)) <= 2), "a name, two of them, or null"),
        (name_key, name, name is None or prompt is None, f"null, as {key} is given too"),
    ]


def _are_texts(value: Any) -> bool:
    return 1 <= len(listed(value)) <= 2 and all(isinstance(text, str) for text in listed(value))


def _check_list(key: str, value: Any, models: str, members: int) -> None:
    if isinstance(value, list) and len(value) != members:
        raise InputError(f"{key}: a list of {len(value)}, where {models} names {members} models")


def _check_counts(key: str, value: Any, models: str, members: int) -> None:
    _check_list(key, value, models, members)
    for count in listed(value):
        if count is not None and (type(count) is not int or count < 1):
            raise InputError(f"{key}={count}: must be at least 1, or null")


def _are_names(value: Any) -> bool:
    return bool(listed(value)) and all(isinstance(name, str) and name for name in listed(value))


def _is_unicode(text: str) -> bool:
    """Whether a text can be written: a file's name may hold bytes that are no UTF-8."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _is_column(value: Any, name: str) -> bool:
    return (value is None and name == "score") or type(value) is str or (type(value) is int and value >= 0)


def _values(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Each single value under its dotted key; those in a list under the list's key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _values(inner, f"{key}.{name}" if key else name)
    else:
        for inner in listed(value):
            yield key, inner
