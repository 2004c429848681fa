"""The modules of sentence-transformers that follow a bi-encoder's backbone: loading and saving.

Axes: B sequences in a batch, L tokens in the longest, D width of the backbone, E of an embedding.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from transenc.errors import InputError
from transenc.model_description import BEHIND_POOLING, MAX_CONFIG_VALUE
from transenc.model_folder import Module, Source, weights_in

# Keys of a pooling's config.json that older versions of sentence-transformers read too, in the order in which several
# poolings are joined.
LEGACY_POOLING = {
    "cls": "pooling_mode_cls_token",
    "max": "pooling_mode_max_tokens",
    "mean": "pooling_mode_mean_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


class StaticEmbeddings(nn.Module):
    """A table of word embeddings in the place of a transformer: its hidden states do not depend on one another."""

    def __init__(self, table: nn.Embedding):
        super().__init__()
        self.table = table

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """[B, L] token numbers to [B, L, D]."""
        return BaseModelOutput(last_hidden_state=self.table(input_ids))

    def get_input_embeddings(self) -> nn.Module:
        return self.table

    def set_input_embeddings(self, table: nn.Module) -> None:
        self.table = table


def _class(name: str) -> Any:
    from sentence_transformers.sentence_transformer import modules  # slow to import, and no cross-encoder needs it

    return getattr(modules, name)


def pooling_of(mode: str, width: int) -> Any:
    """sentence-transformers' Pooling of hidden states of D = `width`."""
    return _class("Pooling")(width, mode)


def load_modules(source: Source, width: int, pooling: str | None) -> tuple[list[Any], bool]:
    """The modules behind the first.

    Args:
        source: the model folder.
        width: D.
        pooling: takes the place of the folder's; None: what the folder says, else cls.

    Returns:
        The modules, a pooling first, and whether that one was guessed.

    Raises:
        InputError: a module's files are damaged, or it does not fit to the one before it.
    """
    found = [module for module in source.modules if module.name in BEHIND_POOLING]
    modules: list[Any] = []
    if not any(module.name == "Pooling" for module in found):
        modules.append(pooling_of(pooling or ("mean" if source.static else "cls"), width))
    for module in found:
        if module.name == "Pooling" and pooling is not None:
            modules.append(pooling_of(pooling, width))
        else:
            modules.append(_load(source, module))
    size = width
    for module in modules:
        takes = next((getattr(module, key) for key in ("embedding_dimension", "in_features", "dimension")
                      if hasattr(module, key)), size)  # fmt: skip
        if takes != size:
            name = type(module).__name__
            raise InputError(
                f"{source.name}: its {name} takes {takes} numbers, and what stands before it gives {size}; take the"
                f" {name} that belongs to this model"
            )
        size = module.get_embedding_dimension() if hasattr(module, "get_embedding_dimension") else size
    return modules, pooling is None and not found and not source.static


def _load(source: Source, module: Module) -> Any:
    path = module.folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if any(isinstance(value, int) and abs(value) > MAX_CONFIG_VALUE for value in config.values()):
            raise ValueError("config.json has a size beyond any encoder")
        for key in ("module_input_name", "module_output_name"):
            if config.get(key) not in (None, "sentence_embedding"):
                raise ValueError(f"{key}={config[key]!r:.80}, and only sentence_embedding is supported")
        numbers = config.get("in_features", 0) * config.get("out_features", 0)
        if numbers > sum(file.stat().st_size for file in weights_in(module.folder)):
            raise ValueError(f"config.json describes {numbers:.3g} weights, which its files do not hold")
        loaded = _class(module.name).load(str(module.folder), local_files_only=True)
        if any(not weight.isfinite().all() for weight in loaded.parameters()):
            raise ValueError("holds NaN or infinite values")
    except Exception as error:  # whatever it stumbles over in files of others
        where = f"its {module.name} in {module.folder.name}"
        raise InputError(f"{source.name}: {where} cannot be loaded ({_words(error)}); copy it again") from error
    return loaded.float()


def _words(error: Exception) -> str:
    """What a library says, without torch's advice to load a pickled file without its restrictions."""
    text = " ".join(str(error).split())
    return "a pickled file is damaged, or holds more than tensors" if "weights_only" in text else text[:200]


def load_static(source: Source) -> tuple[StaticEmbeddings, Any, int | None]:
    """A static embedding, its tokenizer as one of transformers', and the tokens that it cuts to, or None.

    Raises:
        InputError: its files are damaged.
    """
    from transformers import PreTrainedTokenizerFast

    try:
        loaded = _class("StaticEmbedding").load(str(source.folder), local_files_only=True)
        weights = loaded.embedding.weight.detach().float()
        if not weights.isfinite().all():
            raise ValueError("holds NaN or infinite values")
        highest = max(loaded.tokenizer.get_vocab().values())
        if highest >= len(weights):
            raise ValueError(f"its tokenizer gives ids up to {highest}, and it has {len(weights)} rows")
        truncation = loaded.tokenizer.truncation or {}
        if truncation.get("direction", "right").lower() != "right":
            raise ValueError("tokenizer.json cuts on the left")
    except Exception as error:
        raise InputError(
            f"{source.name}: its StaticEmbedding cannot be loaded ({_words(error)}); copy it again"
        ) from error
    loaded.tokenizer.no_truncation()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=loaded.tokenizer)
    table = nn.Embedding.from_pretrained(weights, freeze=False)
    return StaticEmbeddings(table), tokenizer, truncation.get("max_length")


def save_static(backbone: StaticEmbeddings, tokenizer: Any, limit: int | None, folder: Path) -> None:
    """Write a static embedding, whose tokenizer cuts to `limit` tokens, unless that is None."""
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    if limit is not None:
        backend.enable_truncation(limit)
    weights = backbone.table.weight.detach()
    _class("StaticEmbedding")(backend, embedding_weights=weights).save(str(folder))


def _pooling_config(module: Any) -> dict[str, Any]:
    modes = (module.pooling_mode,) if isinstance(module.pooling_mode, str) else tuple(module.pooling_mode)
    if modes != tuple(mode for mode in LEGACY_POOLING if mode in modes):
        config = module.get_config_dict()  # an order of joined poolings that the older keys cannot name
    else:
        config = {"word_embedding_dimension": module.embedding_dimension}
        config |= {key: mode in modes for mode, key in LEGACY_POOLING.items()}
    return config | ({} if module.include_prompt else {"include_prompt": False})


def save_modules(modules: Sequence[Any], folder: Path) -> list[dict[str, Any]]:
    """Write modules into numbered folders.

    Returns:
        Their entries of modules.json, by the names of types that every version of sentence-transformers reads.
    """
    entries = []
    for number, module in enumerate(modules, 1):
        name = type(module).__name__
        path = f"{number}_{name}"
        (folder / path).mkdir(exist_ok=True)
        if name == "Pooling":
            config = _pooling_config(module)
            (folder / path / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
        else:
            module.save(str(folder / path))
        entries.append(
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        )
    return entries
