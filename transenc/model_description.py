"""What a model folder says of itself, as sentence-transformers reads it, and what of that is not supported here."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transenc.errors import InputError
from transenc.model_folder import ADAPTER_CONFIG, Module, Source, read_json, value_of

BUILT_IN = ("query", "document")  # prompts that sentence-transformers has by itself, without a text
PAIR_PROMPTS = "transenc_prompts"  # our key: names of the prompts of first and second sentences, if they differ
MAX_CONFIG_VALUE = 2**20  # no size in an encoder's config.json is above: the largest vocabulary has 900,000 tokens
BEHIND_POOLING = ("Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")  # modules that may follow the first
MODEL_TYPES = ("SentenceTransformer", "CrossEncoder")
# Files in which a transformer's settings stand, in the order in which they are looked for.
SETTINGS = tuple(
    f"sentence_{family}_config.json"
    for family in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
# What they may say, and the only values of some; and arguments that change nothing that we compute.
SUPPORTED_KEYS = {"max_seq_length", "do_lower_case", "unpad_inputs"}
SUPPORTED_VALUES = {
    "transformer_task": ("feature-extraction", "sequence-classification"),
    "module_output_name": ("token_embeddings", "scores"),
    "method_output_name": ("last_hidden_state", "logits"),
}
HARMLESS_ARGUMENTS = {
    "dtype", "torch_dtype", "attn_implementation", "padding_side", "use_fast", "trust_remote_code", "add_pooling_layer",
}  # fmt: skip


@dataclass(frozen=True)
class Description:
    """What a model folder says of itself.

    Attributes:
        cross: whether it is a trained cross-encoder (it has a classification head).
        max_tokens: length its sentence-transformers files cut to, or None.
        lowercase: whether they ask for text in lower case, whatever the tokenizer does.
        padding_side: "left" or "right" where they name it, or None.
        prompts: texts to put before a sentence, by name.
        default_prompts: those that are put before a first and before a second sentence by default; "" for none.
        truncate_dim: numbers of an embedding that are kept, the first ones; None: all.
        symmetric: whether a cross-encoder's score is the mean over both orders of a pair.
        activation: the class by which sentence-transformers turns a cross-encoder's logit into a score.
        template: whether a cross-encoder's pairs are put into its tokenizer's chat template, if it has one.
        unsupported: what else they ask for and is lacking here, or None.
        pad_token_id: the padding token where they name it beside config.json, or None.
        architecture: the class that config.json names, or "".
        own_code: the class of its own code that the folder names (`auto_map`), which is not run; or None.
        similarity: the function by which it has embeddings compared ("dot", "euclidean", ...), where that orders pairs
            otherwise than cosines do; or None.
    """

    cross: bool
    max_tokens: int | None
    lowercase: bool
    padding_side: str | None
    symmetric: bool
    activation: str
    template: bool
    unsupported: str | None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompts: tuple[str, str] = ("", "")
    truncate_dim: int | None = None
    pad_token_id: int | None = None
    architecture: str = ""
    own_code: str | None = None
    similarity: str | None = None


def describe(source: Source) -> Description:
    """Read a model folder's own files. Those of sentence-transformers count only beside a modules.json, as there.

    Raises:
        InputError: a file is not what it should be.
    """
    where = source.folder / "config.json"
    config = read_json((source.base or source).folder / "config.json")
    for key, value in config.items():
        if isinstance(value, int) and abs(value) > MAX_CONFIG_VALUE and not key.endswith("theta"):
            raise InputError(f"{where}: {key}={value:.3g} is beyond any encoder; copy the file again")
    if "transformers_weights" in config:
        raise InputError(f"{where}: transformers_weights names other weights, which is not supported; remove the key")
    own_code = value_of(config, "auto_map", dict, where) or {}
    architectures = value_of(config, "architectures", list, where) or [""]
    general = source.root / "config_sentence_transformers.json"
    named = next((path for name in SETTINGS if (path := source.folder / name).is_file()), source.folder / SETTINGS[0])
    settings, reading = (read_json(general), read_json(named)) if source.modules else ({}, {})
    if (model_type := settings.get("model_type", MODEL_TYPES[0])) not in MODEL_TYPES:
        raise InputError(f"{general}: model_type={model_type!r:.80}, and only {' and '.join(MODEL_TYPES)} are read")
    classifier = str(architectures[0]).endswith("ForSequenceClassification")
    if source.base is not None:
        classifier |= read_json(source.folder / ADAPTER_CONFIG).get("task_type") == "SEQ_CLS"
    alone = len(source.modules) < 2
    cross = model_type == "CrossEncoder" or (classifier and alone)
    prompts, default_prompts = _prompts(settings, general)
    truncate_dim = value_of(settings, "truncate_dim", int, general)
    if truncate_dim is not None and truncate_dim < 1:
        raise InputError(f"{general}: truncate_dim={truncate_dim} must be at least 1, or null")
    symmetric = config.get("transenc_symmetric", False)
    if not isinstance(symmetric, bool):
        raise InputError(f"{where}: transenc_symmetric={symmetric!r:.80} must be true or false")
    messages = "message" in (value_of(reading, "modality_config", dict, named) or {})
    lacking = [*_lacking_modules(source.modules, cross), *_lacking_settings(reading, named.name)]
    if messages and not cross:
        lacking.append(f"texts put into a chat template ({named.name})")
    if cross and source.modules and model_type != "CrossEncoder":
        lacking.append(f"a classification head in modules without model_type=CrossEncoder ({general.name})")
    similarity = value_of(settings, "similarity_fn_name", str, general)
    unit = any(module.name == "Normalize" for module in source.modules)  # embeddings have length 1
    as_cosine = cross or similarity == "cosine" or (unit and similarity in ("dot", "euclidean"))
    sides = {value.get("padding_side") for value in reading.values() if isinstance(value, dict)}
    return Description(
        cross=cross,
        max_tokens=value_of(reading, "max_seq_length", int, named),
        lowercase=bool(reading.get("do_lower_case")),
        padding_side=next((side for side in ("left", "right") if side in sides), None),
        symmetric=symmetric,
        activation=_activation(config, settings),
        template=messages or not source.modules,
        unsupported=lacking[0] if lacking else None,
        prompts=prompts,
        default_prompts=default_prompts,
        truncate_dim=truncate_dim,
        pad_token_id=value_of(value_of(reading, "config_kwargs", dict, named) or {}, "pad_token_id", int, named),
        architecture=str(architectures[0]),
        own_code=next((str(code) for auto, code in own_code.items() if auto.startswith("AutoModel")), None),
        similarity=None if as_cosine else similarity,
    )


def _prompts(settings: Mapping[str, Any], where: Path) -> tuple[dict[str, str], tuple[str, str]]:
    """Texts to put before a sentence, by name, and those put before a first and before a second one by default: none
    where the default has no text.

    Raises:
        InputError: the default is none of them.
    """
    named = value_of(settings, "prompts", dict, where) or {}
    prompts = {name: text for name, text in named.items() if isinstance(text, str)}
    default = value_of(settings, "default_prompt_name", str, where)
    names = value_of(settings, PAIR_PROMPTS, list, where) or [default, default]
    for name in names:
        if len(names) != 2 or (name is not None and (not isinstance(name, str) or name not in {*named, *BUILT_IN})):
            raise InputError(f"{where}: default_prompt_name={name!r:.80} is none of its prompts {list(prompts)}")
    first, second = (prompts.get(name, "") for name in names)
    return prompts, (first, second)


def _activation(config: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Its name, from where each version of sentence-transformers keeps it."""
    inner = config.get("sentence_transformers")
    found = settings.get("activation_fn") or (inner.get("activation_fn") if isinstance(inner, dict) else None)
    found = found or config.get("sbert_ce_default_activation_function") or "Sigmoid"
    return str(found).rpartition(".")[2]


def _lacking_modules(modules: tuple[Module, ...], cross: bool) -> Iterator[str]:
    for place, module in enumerate(modules):
        if module.foreign:
            yield f"a module of code of its own, {module.name:.80}"
        elif cross and (place or module.name != "Transformer"):
            yield f"a module {module.name:.80} (model.teachers takes such a cross-encoder)"
        elif module.name not in (BEHIND_POOLING if place else ("Transformer", "StaticEmbedding")):
            yield f"a module {module.name:.80}"
    names = [module.name for module in modules[1:]]
    if not cross and names and modules[0].name == "Transformer" and (names[0] != "Pooling" or "Pooling" in names[1:]):
        yield f"modules in the order {', '.join(names):.80}, where one Pooling comes first"


def _lacking_settings(reading: Mapping[str, Any], file: str) -> Iterator[str]:
    for key, value in reading.items():
        if key in SUPPORTED_KEYS or value in (None, {}, False):
            continue
        if key == "modality_config":
            known = all(
                modality in ("text", "message")
                and isinstance(entry, dict)
                and entry.get("method") == "forward"
                and entry.get("method_output_name") in SUPPORTED_VALUES["method_output_name"]
                and entry.get("format", "flat") == "flat"
                for modality, entry in value.items()
            )
        elif key in SUPPORTED_VALUES:
            known = value in SUPPORTED_VALUES[key]
        elif key == "config_kwargs":
            known = set(value) <= {"pad_token_id"}
        else:
            known = isinstance(value, dict) and set(value) <= HARMLESS_ARGUMENTS
        if not known:
            yield f"{key}={value!r:.80} in {file}"


def read_as(facts: Mapping[str, Any]) -> str:
    """How a model is read, from an encoder's `facts`, on one line."""
    parts: list[str] = []
    if "pooling" in facts:
        parts.append(f"{facts['pooling']} pooling" + "".join(f", {module}" for module in facts["modules"]))
        parts.append(f"{facts['dimensions']} dimensions")
    first, second = facts["prompts"]
    if facts.get("template"):
        parts.append(f"template {first!r}, sentence, {second!r}, sentence")
    elif first or second:
        parts.append(f"prompt {first!r}" if first == second else f"prompts {first!r} and {second!r}")
    if facts.get("symmetric"):
        parts.append("both orders of a pair")
    if facts.get("activation", "Sigmoid") != "Sigmoid":
        parts.append(f"scores are the sigmoid of its logit (its folder says {facts['activation']})")
    parts += [
        f"{facts['max_tokens']:,} tokens",
        f"{facts['layers']} layers",
        f"{facts['parameters'] / 1e6:.1f}M parameters",
    ]
    return ", ".join(parts)
