"""LoRA (Hu et al. 2021, arXiv 2106.09685) through peft: the backbone's matrices stay as they are, and a product of two
narrow ones is trained beside each; a head is trained whole.
"""

import json
import re
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from transenc.errors import InputError

ALPHA_PER_RANK = 2  # the product is multiplied by alpha / rank, so the learning rate fits any rank


def add_lora(backbone: Any, rank: int) -> Any:
    """Put adapters of a rank beside all linear layers of a transformers model, in place, and freeze the rest.

    Args:
        backbone: an encoder, or one with a classification head, which is trained whole, as is a pooler.
        rank: width of the adapters.

    Returns:
        peft's model around it.

    Raises:
        InputError: there is no linear layer to adapt.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    if not hasattr(backbone, "base_model"):
        raise InputError(f"lora_rank={rank}: {type(backbone).__name__} have no linear layers to adapt; set it to 0")
    inside = "" if backbone.base_model is backbone else f"{backbone.base_model_prefix}."
    layers = [
        name for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and name.startswith(inside) and not name.startswith(f"{inside}pooler.")
    ]  # fmt: skip
    if not layers:
        raise InputError(f"lora_rank={rank}: {type(backbone).__name__} have no linear layers to adapt; set it to 0")
    head = [] if not inside else [name for name, _ in backbone.named_children() if f"{name}." != inside]
    whole = [name for name in (*head, f"{inside}pooler") if _has_parameters(backbone, name)]
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA_PER_RANK * rank,
        target_modules=layers,
        # By their last names alone, as peft writes many, they would be in the pooler too where a reader has one.
        exclude_modules=rf"{re.escape(inside)}pooler\..*",
        modules_to_save=whole or None,
        task_type=TaskType.SEQ_CLS if inside else TaskType.FEATURE_EXTRACTION,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of transformers, on what peft asks it
        warnings.filterwarnings("ignore", ".* no modules were excluded")
        return get_peft_model(backbone, config)


def _has_parameters(backbone: nn.Module, name: str) -> bool:
    try:
        module = backbone.get_submodule(name)
    except AttributeError:
        return False
    return next(module.parameters(), None) is not None


def save_adapter(adapted: Any, folder: Path) -> None:
    """Write adapter_config.json, which names no base model yet, and adapter_model.safetensors."""
    adapted.peft_config["default"].base_model_name_or_path = ""
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)  # peft's own card
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])  # a set of peft's, in another order each time
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
