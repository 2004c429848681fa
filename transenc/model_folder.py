"""Model folders: finding one by its name, and saying what it holds.

A model is named by a folder; by `package://PACKAGE/FOLDER`, a folder inside an installed Python package (which is
found, never imported); or by a hub name, `OWNER/NAME` or `OWNER/NAME@REVISION`. `#sha256=HEX` after a folder or a
package demands that digest of its weights.

A hub model is downloaded here, file by file: transformers, given a hub name, would have a third party's service convert
pickled weights.
"""

import importlib.util
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transenc.artifacts import file_digest
from transenc.errors import InputError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there; pickled only where nothing else is
MAX_CONFIG_VALUE = 2**20  # no size in an encoder's config.json is above: the largest vocabulary has 900,000 tokens
DESCRIPTION = ("*.json", "*.txt", "*.model", "*/config.json")  # what a model is described and its tokenizer built by


@dataclass(frozen=True)
class Source:
    """A model's files.

    Attributes:
        name: as the person wrote it.
        folder: where they lie.
        weights: those that hold weights, all .safetensors, or all pickled (.bin).
    """

    name: str
    folder: Path
    weights: tuple[Path, ...]

    @property
    def pickled(self) -> bool:
        return self.weights[0].suffix == ".bin"

    def state(self) -> list[tuple[int, ...]]:
        """What differs once a file has been written to, or another has taken its place, even if that is undone."""
        found = [path.stat() for path in self.files]
        return [(one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]

    @property
    def files(self) -> list[Path]:
        """All that decides what the model computes."""
        return sorted({*(path for pattern in DESCRIPTION for path in self.folder.glob(pattern)), *self.weights})


def find(name: str) -> Source:
    """Find a model by name; a hub name is looked up on the hub or, failing that, in its local cache.

    Raises:
        InputError: there is no such folder or package, it holds no model, its digest is not the demanded one, or
            neither the hub nor the cache has the name.
    """
    path, _, demanded = name.partition("#sha256=")
    if path.startswith("package://"):
        folder = _in_package(path)
    elif os.path.isdir(os.path.expanduser(path)):  # Path.expanduser raises where there is no such user
        folder = Path(os.path.expanduser(path))
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", path) and not Path(path).is_absolute() and path[0] != ".":
        folder = _download(path)
    else:
        raise InputError(f"{path}: no such folder")
    if not (folder / "config.json").is_file():
        raise InputError(f"{path}: there is no model there (no config.json)")
    weights = weights_in(folder)
    if special := [path.name for path in Source(name, folder, ()).files if path.exists() and not path.is_file()]:
        raise InputError(f"{path}: {special[0]} is no file; copy the model again")  # a pipe, say, which nothing ends
    if missing := [file.name for file in weights if not file.is_file()]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; download or copy it again")
    if not weights:
        raise InputError(
            f"{path}: holds no weights that are read, {' or '.join(WEIGHTS)}, whole or in parts with an index; save the"
            " model again with a current save_pretrained"
        )
    if demanded and [file_digest(file) for file in weights] != [demanded]:
        raise InputError(f"{path}: {weights[0].name} has not the sha256 {demanded}; install or copy it again")
    return Source(name, folder, weights)


def weights_in(folder: Path) -> tuple[Path, ...]:
    """The files that hold a model's weights, of which parts named by an index may be missing; none if there are none.

    Raises:
        InputError: an index that names files outside the folder, or of another format than its own.
    """
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = (_get(_json(index), "weight_map", dict, index) or {}).values()
            inside = {_inside(folder, part, index) for part in parts}
            for part in inside:
                if part.suffix != Path(name).suffix:
                    raise InputError(f"{index}: names {part.name!r:.80}, and only {Path(name).suffix} files are read")
            return tuple(sorted(inside))
        if (folder / name).is_file():
            return (folder / name,)
    return ()


def _in_package(path: str) -> Path:
    package, _, inside = path.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{path}: no package {package} is installed; 'pip install -r requirements.txt' brings it")
    root = Path(spec.submodule_search_locations[0])
    return _inside(root, inside, Path(path)) if inside else root


def _download(name: str) -> Path:
    """The files of a hub model that we read, in the hub's local cache: a folder named after the commit."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        """Gone when it is done, like our own, and none where there is no terminal."""

        def __init__(self, *arguments: Any, **settings: Any):
            super().__init__(*arguments, **(settings | {"leave": False, "ncols": 79, "disable": None}))

    def get(revision: str | None, *patterns: str) -> Path:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(patterns), tqdm_class=Bar))

    repo, _, revision = name.partition("@")
    wanted = "config.json"
    try:
        folder = get(revision or None, *DESCRIPTION)
        for wanted in WEIGHTS:
            parts = [str(part.relative_to(folder)) for part in weights_in(folder)]
            get(folder.name, "config.json", wanted, *parts)  # the hub's library warns where nothing matches
            if weights_in(folder):
                break
    except InputError:
        raise
    except Exception as error:  # of the hub, of its client, of the network below it
        raise InputError(f"{name}: {_explain(error, repo, wanted)}") from None
    return folder


def _explain(error: Exception, repo: str, wanted: str) -> str:
    """One line for what kept a file of a model from being downloaded: the hub's own words, and what to do."""
    from huggingface_hub import constants, errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, errors.HfHubHTTPError):
        error = error.__cause__  # the hub did answer, and its client then looked into the cache
    words = getattr(error, "server_message", None) or re.sub(r" ?\(Request ID:[^)]*\)", "", str(error))
    words = " ".join(words.split()).rstrip(".") or type(error).__name__
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repo}"
        return f"a gated model ({words}); ask for access at {page}, then log in with 'hf auth login'"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return (
            f"neither a folder here nor a model on the hub that you may read ({words}); check the name or, for a"
            " private model, log in with 'hf auth login'"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the hub has the model, but not this revision ({words}); leave @... out for the newest"
    if isinstance(error, errors.HFValidationError):
        return f"no such folder, and no name of the hub's ({words})"
    if isinstance(error, errors.LocalEntryNotFoundError):
        return (
            f"no such folder, and the Hugging Face hub cannot be reached, nor has its cache {wanted} of such a model"
            f" ({words}); give a local folder, or try again with a network"
        )
    if status == 403:
        return f"the hub refuses {wanted} ({words}); log in with 'hf auth login' and a token that may read it"
    return f"{wanted} could not be downloaded ({words}); try again, or give a local folder"


@dataclass(frozen=True)
class Description:
    """What a model folder says of itself.

    Attributes:
        cross: whether it is a trained cross-encoder (one score from a classification head).
        pooling: as its sentence-transformers files say, "cls", "mean", or one that is not supported; None: they do not.
        max_tokens: length its sentence-transformers files cut to, or None.
        lowercase: whether they have text brought to lower case, whatever the tokenizer does.
        symmetric: whether a cross-encoder's score is the mean over both orders of a pair.
        unsupported: what else they ask for and is lacking here (a dense layer, a prompt, say), or None.
    """

    cross: bool
    pooling: str | None
    max_tokens: int | None
    lowercase: bool
    symmetric: bool
    unsupported: str | None


def describe(folder: Path) -> Description:
    """Read a model folder's own files, the layout before sentence-transformers 6 or since.

    Raises:
        InputError: a file is not what it should be, or names a file outside the folder.
    """
    config = _json(folder / "config.json")
    for key, value in config.items():
        if isinstance(value, int) and abs(value) > MAX_CONFIG_VALUE:
            raise InputError(f"{folder / 'config.json'}: {key}={value:.3g} is beyond any encoder; copy the file again")
    architectures = _get(config, "architectures", list, folder / "config.json") or [""]
    cross = str(architectures[0]).endswith("ForSequenceClassification")
    general = folder / "config_sentence_transformers.json"
    settings = _json(general)
    cross |= settings.get("model_type") == "CrossEncoder"
    modules, lacking = _modules(folder)
    pooling = _pooling(modules["Pooling"]) if "Pooling" in modules else None
    lengths = next(iter(sorted(folder.glob("sentence_*_config.json"))), folder / "sentence_bert_config.json")
    reading = _json(lengths)
    if prompt := _get(settings, "default_prompt_name", str, general):
        text = (_get(settings, "prompts", dict, general) or {}).get(prompt)
        if text != "":
            lacking.append(f"a default prompt ({text!r:.80}; default_prompt_name in {general.name})")
    if dimensions := settings.get("truncate_dim"):
        lacking.append(f"truncate_dim={dimensions!r:.80} in {general.name}")
    symmetric = config.get("transenc_symmetric", False)
    if not isinstance(symmetric, bool):
        raise InputError(f"{folder / 'config.json'}: transenc_symmetric={symmetric!r:.80} must be true or false")
    return Description(
        cross,
        pooling,
        _get(reading, "max_seq_length", int, lengths),
        reading.get("do_lower_case") is True,
        symmetric,
        lacking[0] if lacking else None,
    )


def _modules(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The folder of each sentence-transformers module we have by its class's name, and what names others."""
    modules, lacking = {}, []
    for module in _json(folder / "modules.json", list):
        if not (isinstance(module, dict) and isinstance(module.get("type"), str)):
            raise InputError(f"{folder / 'modules.json'}: {module!r:.80} is no module with a type and a path")
        package, _, name = module["type"].rpartition(".")
        place = _inside(folder, module.get("path"), folder / "modules.json")
        if package.partition(".")[0] != "sentence_transformers":
            lacking.append(f"a module of code of its own, {module['type']:.80}")
        elif name not in ("Transformer", "Pooling", "Normalize"):  # a cosine is the same without Normalize
            lacking.append(f"a module {name:.80}")
        else:
            modules[name] = place
    return modules, lacking


def _pooling(folder: Path) -> str:
    """A pooling module's mode: "cls", "mean", or another, in the words of its file."""
    settings = _json(folder / "config.json")
    named = [key.removeprefix("pooling_mode_") for key, on in settings.items() if on is True and "_mode_" in key]
    mode = str(settings.get("pooling_mode") or "+".join(named))
    return {"cls_token": "cls", "mean_tokens": "mean"}.get(mode, mode)


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
