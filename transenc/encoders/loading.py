"""From a model's files to transformers objects: configuration, tokenizer, weights, each checked before it is used."""

import re
import warnings
from typing import Any

import torch
from tokenizers import normalizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from transenc.errors import InputError
from transenc.model_folder import Description, Source

VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "*.model",
)  # without one, transformers makes a tokenizer up
UNKNOWN = "\N{SNOWMAN}"
LAYERS = 1000  # at most; what config.json asks for is built before its weights are looked at


def refuse(source: Source, description: Description) -> None:
    """
    Raises:
        InputError: the model's files ask for something that is lacking here, without which its scores would be others.
    """
    if description.unsupported:
        raise InputError(f"{source.name}: has {description.unsupported}, which is not supported; take another model")


def load_parts(source: Source, max_tokens: int | None, layers: int | None, lowercase: bool) -> tuple[Any, Any, int]:
    """A model's configuration, its tokenizer, and the length it cuts to.

    Args:
        source: the model.
        max_tokens: tokens to truncate to; None: the most that the model and its tokenizer allow.
        layers: keep this many of the first layers; None keeps all.
        lowercase: bring text to lower case, as sentence-transformers does with such a folder.

    Raises:
        InputError: more tokens or layers than the model has, or files that transformers cannot make a model of.
    """
    if not any(path for pattern in VOCABULARIES for path in source.folder.glob(pattern)):
        raise InputError(
            f"{source.name}: there is no tokenizer in this folder (none of {', '.join(VOCABULARIES)}); save it there"
            " with tokenizer.save_pretrained"
        )
    try:  # by default transformers asks on the terminal whether to run code of the model
        config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:  # whatever it stumbles over in files of others
        raise InputError(f"{source.name}: {reason(error)}") from error
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{source.name}: its weights are quantised, which is not supported; take the model they are of"
        )
    for key in ("auto_map", "transformers_weights"):  # they name code, and weights that may be pickled
        vars(config).pop(key, None)
    config._attn_implementation = None  # one that is named may be fetched from the hub, as code
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or not tokenizer.is_fast or None in (tokenizer.pad_token_id, tokenizer.cls_token_id):
        raise InputError(f"{source.name}: {config.model_type} with this tokenizer is no encoder of BERT's kind")
    if not 1 <= config.num_hidden_layers <= LAYERS:
        raise InputError(f"{source.name}: config.json says {config.num_hidden_layers} layers; 1 to {LAYERS} are read")
    if not (type(tokenizer.model_max_length) in (int, float) and tokenizer.model_max_length >= 1):
        raise InputError(f"{source.name}: model_max_length={tokenizer.model_max_length!r:.80} must be at least 1")
    highest = max(*tokenizer.get_vocab().values(), *tokenizer("a", "a")["input_ids"])
    if highest >= config.vocab_size:
        raise InputError(
            f"{source.name}: its tokenizer gives ids up to {highest}, and vocab_size is {config.vocab_size};"
            " take the tokenizer that belongs to these weights"
        )
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise InputError(f"{source.name}: {layers} layers asked for, the model has {config.num_hidden_layers}")
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    # RoBERTa and its like number positions from the padding id + 1, which leaves that many fewer than the table has.
    longest = min(tokenizer.model_max_length, positions if tokenizer.model_max_length <= positions else positions - 2)
    if max_tokens is not None and max_tokens > longest:
        raise InputError(f"{source.name}: max_tokens={max_tokens}, but the model reads {longest} at most")
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if (max_tokens or longest) < special + 2:
        raise InputError(
            f"{source.name}: max_tokens={max_tokens or longest} leaves no room for two sentences beside"
            f" {special} special tokens"
        )
    try:
        tokenizer(UNKNOWN)
    except Exception as error:
        raise InputError(
            f"{source.name}: its tokenizer has no token for what it does not know ({reason(error)}); take the tokenizer"
            " that belongs to these weights"
        ) from error
    tokenizer.backend_tokenizer.no_truncation()  # settings that some tokenizer files carry along
    tokenizer.backend_tokenizer.no_padding()
    if lowercase and tokenizer("A")["input_ids"] != tokenizer("a")["input_ids"]:
        tokenizer = lowercasing(tokenizer)
    return config, tokenizer, max_tokens or longest


def lowercasing(tokenizer: Any) -> Any:
    """The tokenizer with one step before its others, which brings text to lower case.

    Its class is the one that is saved as it stands: a family's own would be made without the step when it is loaded.
    """
    backend = tokenizer.backend_tokenizer
    steps = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    kept = {name: getattr(tokenizer, name) for name in ("model_max_length", "model_input_names", "padding_side")}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map, **kept)


def load_backbone(auto: Any, source: Source, config: Any, new_head: int | None = None) -> torch.nn.Module:
    """Weights in fp32, all of them the model's own, but for those of a new head, or of a pooler that nothing uses.

    Args:
        auto: AutoModel, or AutoModelForSequenceClassification.
        source, config: the model and its configuration.
        new_head: seed to draw missing weights of a head by, and of the pooler below it; None: none may be missing.

    Raises:
        InputError: the weights are missing, unreadable, not numbers, or not those that `config` describes.
    """
    held = sum(path.stat().st_size for path in source.weights)
    state = read_pickled(source) if source.pickled else None
    try:
        with torch.device("meta"):  # missing weights would be allocated first
            described = auto.from_config(config)
        if (numbers := sum(weight.numel() for weight in described.parameters())) > held:
            raise ValueError(f"config.json describes {numbers:.3g} of them, the files have {held:,} bytes")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(new_head or 0)
            backbone, loading_info = type(described).from_pretrained(
                None if state else source.folder,
                config=config,
                state_dict=state,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # an error below, by name
                output_loading_info=True,
            )
    except Exception as error:  # whatever the library stumbles over in files of others
        raise InputError(f"{source.name}: its weights cannot be loaded ({reason(error)})") from error
    inside = f"{backbone.base_model_prefix}."
    for name, found, needed in sorted(loading_info["mismatched_keys"]):
        raise InputError(f"{source.name}: {name} is {list(found)} in the weights, {list(needed)} by config.json")
    for name in sorted(loading_info["missing_keys"]):
        if backbone.base_model is backbone:
            drawn = name.startswith("pooler.")
        else:
            drawn = new_head is not None and (not name.startswith(inside) or name.startswith(f"{inside}pooler."))
        if not drawn:
            raise InputError(f"{source.name}: its weights lack {name}; copy it again, or save it with save_pretrained")
    for name, weight in backbone.named_parameters():
        if not weight.isfinite().all():
            raise InputError(f"{source.name}: {name} holds NaN or infinite values; copy it again")
    return backbone


def read_pickled(source: Source) -> dict[str, torch.Tensor]:
    """Weights out of pickle files, by torch's restricted loader, which runs no code of theirs.

    Raises:
        InputError: the loader refuses a file, or it holds anything but tensors by name.
    """
    weights: dict[str, torch.Tensor] = {}
    for path in source.weights:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of pickle protocols
                content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever it stumbles over in a file of others
            # Around its reason, torch advises to load the file without restrictions.
            words = re.search(
                r"trusted source\.(?:.*WeightsUnpickler error:)?\s*(.+?)\.?\s*(?:Please use|Check the doc|$)",
                " ".join(str(error).split()),
            )
            raise InputError(
                f"{source.name}: {path.name} is damaged, or holds more than tensors, and is not loaded"
                f" ({words[1] if words else reason(error)}); copy it again, or take the model as safetensors"
            ) from error
        content = content if isinstance(content, dict) else {None: content}
        for name, tensor in content.items():
            plain = isinstance(name, str) and isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided
            if not plain or tensor.numel() > path.stat().st_size:  # a view may claim more than the file holds
                raise InputError(
                    f"{source.name}: {path.name} holds more than tensors by name ({name!r:.80} is a"
                    f" {type(tensor).__name__}); save the model again with a current save_pretrained"
                )
        weights |= content
    return weights


def reason(error: Exception) -> str:
    """An error of a library, short, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
