"""From a model's files to transformers objects: configuration, tokenizer, weights, each checked before it is used."""

import json
import re
import warnings
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer, normalizers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast

from transenc.errors import InputError, reason
from transenc.model_description import Description
from transenc.model_folder import ADAPTER_CONFIG, Source, read_json

VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")  # without one, transformers makes one up
UNKNOWN = "\N{SNOWMAN}"
LAYERS = 1000  # at most; what config.json asks for is built before its weights are looked at
# Model types that number positions from the padding id + 1, which leaves that many fewer than the table has.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "luke", "xmod")
ENCODER_HALF = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}  # of encoder-decoders
UNLIMITED = 2**20  # tokens; what a tokenizer without a limit says is above
FP32_ONLY = ("deberta",)  # model types that transformers cannot run in bf16: its mask's value overflows there


def refuse(source: Source, description: Description) -> None:
    """Refuse a model whose files ask for something that is not supported, without which its scores would differ.

    Raises:
        InputError: they do.
    """
    if description.unsupported:
        raise InputError(f"{source.name}: has {description.unsupported}, which is not supported; take another model")


def load_parts(
    source: Source, description: Description, max_tokens: int | None, layers: int | None, pair: bool
) -> tuple[Any, Any, int]:
    """A model's configuration, its tokenizer, and the length it cuts to.

    Args:
        source, description: the model.
        max_tokens: tokens to truncate to; None: the most that the model and its tokenizer allow.
        layers: keep this many of the first layers; None keeps all.
        pair: whether a sequence is a pair, which takes room for two sentences.

    Raises:
        InputError: more tokens or layers than the model has, or files that transformers cannot make a model of.
    """
    own = any(path for pattern in VOCABULARIES for path in source.folder.glob(pattern))
    of_tokenizer = source if own or source.base is None else source.base
    if not own and source.base is None:
        raise InputError(
            f"{source.name}: there is no tokenizer in this folder (none of {', '.join(VOCABULARIES)}); save it there"
            " with tokenizer.save_pretrained"
        )
    try:  # by default transformers asks on the terminal whether to run code of the model
        config = AutoConfig.from_pretrained((source.base or source).folder, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(of_tokenizer.folder, trust_remote_code=False)
    except Exception as error:  # whatever it stumbles over in files of others
        problem = _own_code(description) or reason(error)  # where the library advises to run it
        raise InputError(f"{source.name}: {problem}") from error
    _check_config(source, config, pair)
    vars(config).pop("auto_map", None)  # it names code
    config._attn_implementation = None  # one that is named may be fetched from the hub, as code
    if getattr(config, "use_cache", False) and not hasattr(config, "is_decoder"):
        config.use_cache = False  # of a decoder, which would keep keys and values for a token that never comes
    tokenizer.padding_side = description.padding_side or tokenizer.padding_side
    if not tokenizer.is_fast:
        raise InputError(f"{source.name}: its tokenizer has no fast form (tokenizer.json), which is needed here")
    drop_tokens_without_embedding(tokenizer, config.vocab_size)
    _check_tokenizer(source, tokenizer, config.vocab_size)
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise InputError(f"{source.name}: {layers} layers asked for, the model has {config.num_hidden_layers}")
        config.num_hidden_layers = layers
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:layers]
    length = _length(source, config, tokenizer, max_tokens, max_tokens == description.max_tokens, pair)
    tokenizer.backend_tokenizer.no_truncation()  # settings that some tokenizer files carry along
    tokenizer.backend_tokenizer.no_padding()
    normalizer = tokenizer.backend_tokenizer.normalizer
    if description.lowercase and (normalizer is None or normalizer.normalize_str("A") != "a"):
        tokenizer = lowercasing(tokenizer)
    return config, tokenizer, length


def _own_code(description: Description) -> str:
    """Why a model that comes with code may not load; "" for others."""
    if not description.own_code:
        return ""
    return (
        f"needs code of its own ({description.own_code}), which never runs here; take another model, or a copy of it in"
        " a family of transformers"
    )


def _check_config(source: Source, config: Any, pair: bool) -> None:
    """Check that a model is of a sort that is read here.

    Raises:
        InputError: it is not.
    """
    if getattr(config, "quantization_config", None) is not None:
        raise InputError(
            f"{source.name}: its weights are quantised, which is not supported; take the model they are of"
        )
    if not isinstance(getattr(config, "vocab_size", None), int) or not isinstance(
        getattr(config, "num_hidden_layers", None), int
    ):
        raise InputError(f"{source.name}: {config.model_type} is no model of text with layers, which is needed here")
    if config.is_encoder_decoder and (pair or config.model_type not in ENCODER_HALF):
        raise InputError(
            f"{source.name}: {config.model_type} is an encoder-decoder; of these, {', '.join(ENCODER_HALF)} are read,"
            " as bi-encoders"
        )
    if config.model_type == "big_bird":
        raise InputError(f"{source.name}: the first short batch changes how big_bird reads long ones; not supported")
    if not 1 <= config.num_hidden_layers <= LAYERS:
        raise InputError(f"{source.name}: config.json says {config.num_hidden_layers} layers; 1 to {LAYERS} are read")


def _check_tokenizer(source: Source, tokenizer: Any, vocabulary: int) -> None:
    """Check that a tokenizer can be used here, and belongs to a model of `vocabulary` tokens.

    Raises:
        InputError: it cannot, or does not.
    """
    if not isinstance(tokenizer.model_input_names, list) or "attention_mask" not in tokenizer.model_input_names:
        raise InputError(
            f"{source.name}: model_input_names={tokenizer.model_input_names!r:.80} in tokenizer_config.json has to name"
            " attention_mask, without which padding would count"
        )
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{source.name}: its tokenizer has no padding token; set pad_token in tokenizer_config.json, as a rule to"
            f" its end of text ({tokenizer.eos_token})"
        )
    if not (type(tokenizer.model_max_length) in (int, float) and tokenizer.model_max_length >= 1):
        raise InputError(f"{source.name}: model_max_length={tokenizer.model_max_length!r:.80} must be at least 1")
    highest = max([*tokenizer.get_vocab().values(), *tokenizer("a", "a")["input_ids"]])
    if highest >= vocabulary:
        raise InputError(
            f"{source.name}: its tokenizer gives ids up to {highest}, and vocab_size is {vocabulary};"
            " take the tokenizer that belongs to these weights"
        )
    begins = {tokenizer.cls_token_id, tokenizer.bos_token_id}  # ModernBERT-Ja has a [CLS], and puts its <s>
    if tokenizer.cls_token_id is not None and not begins.intersection(tokenizer("a")["input_ids"]):
        raise InputError(
            f"{source.name}: its tokenizer puts no {tokenizer.cls_token} before a text; take the tokenizer that belongs"
            " to these weights"
        )
    try:
        tokenizer(UNKNOWN)
    except Exception as error:
        raise InputError(
            f"{source.name}: its tokenizer has no token for what it does not know ({reason(error)}); take the tokenizer"
            " that belongs to these weights"
        ) from error


def _length(source: Source, config: Any, tokenizer: Any, max_tokens: int | None, by_folder: bool, pair: bool) -> int:
    """Tokens that sequences are cut to: `max_tokens`, or the most that the model and its tokenizer allow.

    Args:
        by_folder: whether the model's folder says `max_tokens`. If its table of positions is shorter, that counts.

    Raises:
        InputError: the model reads fewer than a person asked for, or they leave no room for a text.
    """
    positions = getattr(config, "max_position_embeddings", None) or UNLIMITED
    if positions < 0:  # XLNet's
        positions = UNLIMITED
    if config.model_type in OFFSET_POSITIONS:
        positions -= 1 + (config.pad_token_id or 0)
    if max_tokens is not None and max_tokens > positions:
        if not by_folder:
            raise InputError(f"{source.name}: max_tokens={max_tokens}, but the model reads {positions} at most")
        if not getattr(config, "rope_parameters", None):  # which has no table of positions
            max_tokens = positions
    length = max_tokens or int(min(tokenizer.model_max_length, positions))
    special, texts = tokenizer.num_special_tokens_to_add(pair=pair), 2 if pair else 1
    if length < special + texts:
        what = "two sentences" if pair else "a sentence"
        raise InputError(
            f"{source.name}: max_tokens={length} leaves no room for {what} beside {special} special tokens"
        )
    return length


def drop_tokens_without_embedding(tokenizer: Any, vocabulary: int) -> None:
    """Take out special tokens that a model of `vocabulary` embeddings has none for. Gemma 3's text models have the
    token of an image. A text that spells one is then read like any other.
    """
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder().items()
    beyond = [number for number, token in added if number >= vocabulary and token.special]
    if beyond:
        state = json.loads(backend.to_str())
        state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] not in beyond]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))


def saved_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder that `PairEncoder.save` wrote."""
    if (folder / "tokenizer_config.json").is_file():
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        drop_tokens_without_embedding(tokenizer, config.vocab_size)
        return tokenizer
    return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))  # of static embeddings


def lowercasing(tokenizer: Any) -> Any:
    """The tokenizer with one step before its others, which brings text to lower case.

    Its class is the one that is saved as it stands: a family's own would be made without the step when it is loaded.
    """
    backend = tokenizer.backend_tokenizer
    steps = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    kept = {
        name: getattr(tokenizer, name)
        for name in ("model_max_length", "model_input_names", "padding_side", "truncation_side", "chat_template")
    }
    kept["split_special_tokens"] = getattr(tokenizer, "split_special_tokens", False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **tokenizer.special_tokens_map, **kept)


def load_backbone(
    auto: Any, source: Source, description: Description, config: Any, new_head: int | None = None
) -> torch.nn.Module:
    """Weights in fp32, all of them the model's own, but for those of a new head, or of a pooler that nothing uses.

    A LoRA adapter is merged into its base model.

    Args:
        auto: AutoModel, or AutoModelForSequenceClassification.
        source, description, config: the model.
        new_head: seed to draw missing weights of a head by, and of the pooler below it; None: none may be missing.

    Raises:
        InputError: the weights are missing, unreadable, not numbers, or not those that `config` describes.
    """
    if source.base is None:
        return _load_weights(auto, source, description, config, new_head)[0]
    # A head is the adapter's; below it is drawn what the base lacks.
    backbone, drawn = _load_weights(auto, source.base, description, config, new_head or 0)
    backbone, brought = _with_adapter(backbone, source)
    if new_head is None and (lacking := sorted(drawn - brought)):
        raise InputError(
            f"{source.name}: neither the adapter nor {source.base.name} has {lacking[0]}; merge them where it was"
            " trained, and take that model"
        )
    return backbone


def _load_weights(
    auto: Any, source: Source, description: Description, config: Any, new_head: int | None
) -> tuple[torch.nn.Module, set[str]]:
    """`load_backbone` without an adapter; and the names of the weights of a head that were drawn."""
    if config.model_type in ENCODER_HALF:
        auto = getattr(transformers, ENCODER_HALF[config.model_type])
    held = sum(path.stat().st_size for path in source.weights)
    state = read_pickled(source) if source.pickled else None
    try:
        with torch.device("meta"):  # missing weights would be allocated first
            described = auto.from_config(config) if hasattr(auto, "from_config") else auto(config)
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
    has_head, inside = backbone.base_model is not backbone, f"{backbone.base_model_prefix}."
    for name, found, needed in sorted(loading_info["mismatched_keys"]):
        shapes = f"{name} is {list(found)} in the weights, {list(needed)} by config.json"
        raise InputError(f"{source.name}: {_own_code(description) or shapes}")
    for name in sorted(loading_info["missing_keys"]):
        drawn = name.startswith("pooler.")
        if has_head:
            drawn = new_head is not None and (not name.startswith(inside) or name.startswith(f"{inside}pooler."))
        if not drawn:
            lack = f"its weights lack {name}; copy it again, or save it with save_pretrained"
            raise InputError(f"{source.name}: {_own_code(description) or lack}")
    for name, weight in backbone.named_parameters():
        if not weight.isfinite().all():
            raise InputError(f"{source.name}: {name} holds NaN or infinite values; copy it again")
    return backbone, set(loading_info["missing_keys"]) if has_head else set()


def compute_in_fp32(backbone: torch.nn.Module) -> None:
    """Have a model compute in fp32, whatever the precision around it."""
    forward = backbone.forward

    @wraps(forward)  # its signature says what the model takes
    def in_fp32(*arguments: Any, **inputs: Any) -> Any:
        with torch.autocast(next(backbone.parameters()).device.type, enabled=False):
            return forward(*arguments, **inputs)

    backbone.forward = in_fp32  # type: ignore[method-assign]


def _with_adapter(backbone: torch.nn.Module, source: Source) -> tuple[torch.nn.Module, set[str]]:
    """A model with an adapter merged into it; and the names of the weights that it got whole from there."""
    from peft import PeftModel

    settings = read_json(source.folder / ADAPTER_CONFIG)
    if (kind := settings.get("peft_type", "LORA")) not in ("LORA", "IA3"):
        raise InputError(f"{source.name}: an adapter of type {kind!r:.80}, and LORA and IA3 are read")
    if settings.get("use_dora"):
        raise InputError(f"{source.name}: a DoRA adapter, whose magnitudes sentence-transformers loses; merge it first")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adapted = PeftModel.from_pretrained(backbone, str(source.folder))
        if lost := [str(warning.message) for warning in caught if "missing adapter keys" in str(warning.message)]:
            raise ValueError(lost[0])
        with safe_open(source.weights[0], "pt") as file:
            brought = {name.removeprefix("base_model.model.") for name in file.keys()}  # noqa: SIM118  # no mapping
        return adapted.merge_and_unload(), brought
    except Exception as error:
        raise InputError(
            f"{source.name}: its LoRA adapter does not fit {source.base.name} ({reason(error)}); take the model that"
            " it was trained on"
        ) from error


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
