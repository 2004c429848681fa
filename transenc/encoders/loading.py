"""From a model's files to transformers objects: configuration, tokenizer, weights, each checked before it is used."""

from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer

from transenc.errors import InputError
from transenc.folder import Source

LAYERS = 1000  # at most; what config.json asks for is built before its weights are looked at


def load_parts(source: Source, max_tokens: int | None, layers: int | None = None) -> tuple[Any, Any, int]:
    """A model's configuration, its tokenizer, and the length it cuts to.

    Args:
        source: the model.
        max_tokens: asked for, or None for the longest the model and its tokenizer allow.
        layers: keep this many of the first layers; None keeps all.

    Raises:
        InputError: more tokens or layers than the model has, or files that transformers cannot make a model of.
    """
    try:  # unless told, transformers asks on the terminal whether to run a model's own code
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
    tokenizer.backend_tokenizer.no_truncation()  # settings that some tokenizer files carry along
    tokenizer.backend_tokenizer.no_padding()
    return config, tokenizer, max_tokens or longest


def load_backbone(auto: Any, source: Source, config: Any, new_head: bool = False, **settings: Any) -> torch.nn.Module:
    """Weights in fp32, from safetensors only, all of them the model's own.

    Args:
        auto: AutoModel or one of its kin.
        source, config: the model and its configuration.
        new_head: whether weights outside the encoder proper, and its pooler's, may be missing; they are drawn then.
        settings: of the model's class.

    Raises:
        InputError: the weights are missing, unreadable, not numbers, or not those that `config` describes.
    """
    held = sum(path.stat().st_size for path in source.folder.glob("*.safetensors"))
    try:
        if source.revision is None:  # missing weights would be allocated before they are told of
            with torch.device("meta"):
                described = sum(weight.numel() for weight in auto.from_config(config, **settings).parameters())
            if described > held:
                raise ValueError(f"config.json describes {described:.3g} of them, the files have {held:,} bytes")
        backbone, told = auto.from_pretrained(
            source.weights,
            **({} if source.revision is None else {"revision": source.revision}),
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # whatever the library stumbles over in files of others
        raise InputError(f"{source.name}: its weights cannot be loaded ({reason(error)})") from error
    inside = f"{backbone.base_model_prefix}."
    for name, found, needed in sorted(told["mismatched_keys"]):
        raise InputError(f"{source.name}: {name} is {list(found)} in the weights, {list(needed)} by config.json")
    for name in sorted(told["missing_keys"]):
        if not (new_head and (not name.startswith(inside) or name.startswith(f"{inside}pooler."))):
            raise InputError(f"{source.name}: its weights lack {name}; copy it again, or save it with save_pretrained")
    for name, weight in backbone.named_parameters():
        if not weight.isfinite().all():
            raise InputError(f"{source.name}: {name} holds values that are no numbers (NaN or infinite); copy it again")
    return backbone


def reason(error: Exception) -> str:
    """An error of a library, short, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
