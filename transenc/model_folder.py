"""Model folders: finding one by its name, and reading what it says of itself.

A model is named by a folder; by `package://PACKAGE/FOLDER`, a folder inside an installed Python package (which is
found, never imported); or by a hub name, `OWNER/NAME` or `OWNER/NAME@REVISION`. `#sha256=HEX` after a folder or a
package demands that digest of its weights.

A folder holds a transformers model, or modules of sentence-transformers (modules.json), or a LoRA adapter of another
model (adapter_config.json).
"""

import importlib.util
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transenc.artifacts import file_digest
from transenc.errors import InputError
from transenc.model_hub import download

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there; pickled only where nothing else is
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PAIR_PROMPTS = "transenc_prompts"  # our key: names of the prompts of first and second sentences, if they differ
MAX_CONFIG_VALUE = 2**20  # no size in an encoder's config.json is above: the largest vocabulary has 900,000 tokens
DESCRIPTION = ("*.json", "*.txt", "*.model", "*.jinja")  # what a model is described and its tokenizer built by
BEHIND_POOLING = ("Pooling", "Dense", "LayerNorm", "Normalize", "Dropout")  # modules that may follow the first

# What a module of sentence-transformers may say of its transformer without changing what we compute.
KNOWN_SETTINGS = {
    "max_seq_length", "do_lower_case", "transformer_task", "modality_config", "module_output_name", "unpad_inputs",
    "method_output_name",
}  # fmt: skip
HARMLESS_ARGUMENTS = {"dtype", "torch_dtype", "attn_implementation", "padding_side", "model_max_length", "use_fast"}


class Module(NamedTuple):
    """An entry of modules.json: the name of its class, its folder, and whether it is not one of sentence-transformers
    but of code of its own; the name is then the dotted one.
    """

    name: str
    folder: Path
    foreign: bool


@dataclass(frozen=True)
class Source:
    """A model's files.

    Attributes:
        name: as the person wrote it.
        root: the folder of that name.
        folder: where the transformer or the static embeddings lie, with their tokenizer; as a rule the root.
        weights: the files with their weights, all .safetensors, or all pickled (.bin).
        modules: what modules.json lists, the first included; none in a plain transformers folder.
        base: of a LoRA adapter, the model that it adapts; `weights` are then the adapter's.
    """

    name: str
    root: Path
    folder: Path
    weights: tuple[Path, ...]
    modules: tuple[Module, ...] = ()
    base: "Source | None" = None

    @property
    def pickled(self) -> bool:
        return self.weights[0].suffix == ".bin"

    @property
    def static(self) -> bool:
        """Whether it is a table of word embeddings, without a transformer."""
        return bool(self.modules) and self.modules[0].name == "StaticEmbedding"

    @property
    def public(self) -> tuple[str, str | None]:
        """Its name on the hub, and the revision if one was named; or its folder, and None."""
        name = self.name.partition("#")[0]
        if name.startswith("package://") or os.path.isdir(os.path.expanduser(name)):
            return str(self.root.resolve()), None
        name, _, revision = name.partition("@")
        return name, revision or None

    def state(self) -> list[tuple[int, ...]]:
        """What differs once a file has been written to, or another has taken its place, even if that is undone."""
        found = [path.stat() for path in self.files.values()]
        return [(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns) for status in found]

    @property
    def files(self) -> dict[str, Path]:
        """All that decides what the model computes, by path inside the folder."""
        folders = {self.root, self.folder, *(module.folder for module in self.modules)}
        paths = {path for folder in folders for pattern in DESCRIPTION for path in folder.glob(pattern)}
        for module in self.modules[1:]:
            paths |= {module.folder / name for name in WEIGHTS if (module.folder / name).exists()}
        files = {str(path.relative_to(self.root)): path for path in sorted(paths | set(self.weights))}
        return files | {f"base/{name}": path for name, path in (self.base.files.items() if self.base else ())}


def find(name: str) -> Source:
    """Find a model by name; a hub name is looked up on the hub or, failing that, in its local cache.

    Raises:
        InputError: there is no such folder or package, it holds no model, its digest is not the demanded one, or
            neither the hub nor the cache has the name.
    """
    path, _, demanded = name.partition("#sha256=")
    if path.startswith("package://"):
        root = _in_package(path)
    elif os.path.isdir(os.path.expanduser(path)):  # Path.expanduser raises where there is no such user
        root = Path(os.path.expanduser(path))
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", path) and not Path(path).is_absolute() and path[0] != ".":
        root = download(path, (*DESCRIPTION, "*/config.json"), _to_download)
    else:
        raise InputError(f"{path}: no such folder")
    source = _source(name, path, root)
    if special := [path.name for path in source.files.values() if path.exists() and not path.is_file()]:
        raise InputError(f"{path}: {special[0]} is no file; copy the model again")  # a pipe, say, which nothing ends
    if missing := [file.name for file in source.weights if not file.is_file()]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; download or copy it again")
    if demanded and [file_digest(file) for file in source.weights] != [demanded]:
        raise InputError(f"{path}: {source.weights[0].name} has not the sha256 {demanded}; install or copy it again")
    return source


def _source(name: str, path: str, root: Path) -> Source:
    modules = _modules(root)
    folder = modules[0].folder if modules else root
    static = bool(modules) and modules[0].name == "StaticEmbedding"
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise InputError(f"{path}: lacks {ADAPTER_WEIGHTS}, the weights of its LoRA adapter; copy it again")
        base = _get(_json(folder / ADAPTER), "base_model_name_or_path", str, folder / ADAPTER)
        try:
            return Source(name, root, folder, (folder / ADAPTER_WEIGHTS,), modules, find(base or ""))
        except InputError as error:
            raise InputError(f"{path}: a LoRA adapter, whose base model is missing: {error}") from None
    if modules and modules[0].name == "Router":
        raise InputError(
            f"{path}: has a Router, different modules for queries and documents, which is not supported; name the"
            " folder of one of them"
        )
    if not static and not (folder / "config.json").is_file():
        raise InputError(f"{path}: there is no model there (no config.json)")
    weights = weights_in(folder)
    if not weights:
        raise InputError(
            f"{path}: holds no weights that are read, {' or '.join(WEIGHTS)}, whole or in parts with an index; save the"
            " model again with a current save_pretrained"
        )
    return Source(name, root, folder, weights, modules)


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


def _to_download(root: Path) -> Iterator[list[str]]:
    """Patterns of the other files of a model on the hub, whose description is in `root`."""
    modules = _modules(root)
    folder = modules[0].folder if modules else root
    place = "" if folder == root else f"{folder.relative_to(root)}/"
    if place:
        yield [place + pattern for pattern in DESCRIPTION]
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        yield [place + ADAPTER_WEIGHTS]
    else:
        for name in WEIGHTS:
            yield [place + name, *(str(part.relative_to(root)) for part in weights_in(folder))]
            if weights_in(folder):
                break
    for module in modules[1:]:
        for name in WEIGHTS if module.folder != root else ():
            yield [f"{module.folder.relative_to(root)}/{name}"]
            if weights_in(module.folder):
                break


def _in_package(path: str) -> Path:
    package, _, inside = path.removeprefix("package://").partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"{path}: no package {package} is installed; 'pip install -r requirements.txt' brings it")
    root = Path(spec.submodule_search_locations[0])
    return _inside(root, inside, Path(path)) if inside else root


@dataclass(frozen=True)
class Description:
    """What a model folder says of itself.

    Attributes:
        cross: whether it is a trained cross-encoder (it has a classification head).
        max_tokens: length its sentence-transformers files cut to, or None.
        lowercase: whether they have text brought to lower case, whatever the tokenizer does.
        prompts: texts to put before a sentence, by name.
        default_prompts: those that are put before a first and before a second sentence by default; "" for none.
        truncate_dim: numbers of an embedding that are kept, the first ones; None: all.
        symmetric: whether a cross-encoder's score is the mean over both orders of a pair.
        activation: the class by which sentence-transformers turns a cross-encoder's logit into a score.
        template: whether a cross-encoder's pairs are put into its tokenizer's chat template.
        unsupported: what else they ask for and is lacking here, or None.
    """

    cross: bool
    max_tokens: int | None
    lowercase: bool
    symmetric: bool
    activation: str
    template: bool
    unsupported: str | None
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompts: tuple[str, str] = ("", "")
    truncate_dim: int | None = None


def name_base(path: Path, base: str, revision: str | None) -> None:
    """Say in a LoRA adapter's adapter_config.json which model it adapts, see `Source.public`."""
    settings = _json(path) | {"base_model_name_or_path": base, "revision": revision}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def describe(source: Source) -> Description:
    """Read a model folder's own files, the layout before sentence-transformers 6 or since.

    Raises:
        InputError: a file is not what it should be, or names a file outside the folder.
    """
    where = source.folder / "config.json"
    config = _json((source.base or source).folder / "config.json")
    for key, value in config.items():
        if isinstance(value, int) and abs(value) > MAX_CONFIG_VALUE:
            raise InputError(f"{where}: {key}={value:.3g} is beyond any encoder; copy the file again")
    architectures = _get(config, "architectures", list, where) or [""]
    general = source.root / "config_sentence_transformers.json"
    settings = _json(general)
    cross = settings.get("model_type") == "CrossEncoder" or str(architectures[0]).endswith("ForSequenceClassification")
    if source.base is not None:
        cross |= _json(source.folder / ADAPTER).get("task_type") == "SEQ_CLS"
    named = sorted(source.folder.glob("sentence_*_config.json"))
    lengths = next(iter(named), source.folder / "sentence_bert_config.json")
    reading = _json(lengths)
    prompts = {
        name: text for name, text in (_get(settings, "prompts", dict, general) or {}).items() if isinstance(text, str)
    }
    default = _get(settings, "default_prompt_name", str, general)
    names = _get(settings, PAIR_PROMPTS, list, general) or [default, default]
    for name in names:
        if name is not None and name not in prompts:
            raise InputError(f"{general}: default_prompt_name={name!r:.80} is none of its prompts {list(prompts)}")
    first, second = (prompts.get(name, "") for name in names[:2])
    symmetric = config.get("transenc_symmetric", False)
    if not isinstance(symmetric, bool):
        raise InputError(f"{where}: transenc_symmetric={symmetric!r:.80} must be true or false")
    messages = "message" in (_get(reading, "modality_config", dict, lengths) or {})
    lacking = [*_lacking_modules(source.modules, cross), *_lacking_settings(reading, lengths)]
    if messages and not cross:
        lacking.append(f"texts put into a chat template ({lengths.name})")
    return Description(
        cross,
        _get(reading, "max_seq_length", int, lengths),
        reading.get("do_lower_case") is True,
        symmetric,
        _activation(config, settings),
        messages or not source.modules,
        lacking[0] if lacking else None,
        prompts,
        (first, second),
        _get(settings, "truncate_dim", int, general),
    )


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


def _lacking_settings(reading: Mapping[str, Any], lengths: Path) -> Iterator[str]:
    for key, value in reading.items():
        if key in KNOWN_SETTINGS or value in (None, {}, False):
            continue
        inner = set(value) - HARMLESS_ARGUMENTS if isinstance(value, dict) else {value}
        if inner:
            yield f"{key}={value!r:.80} in {lengths.name}"


def _modules(root: Path) -> tuple[Module, ...]:
    """What modules.json lists; nothing where there is none."""
    modules = []
    for module in _json(root / "modules.json", list):
        if not (isinstance(module, dict) and isinstance(module.get("type"), str)):
            raise InputError(f"{root / 'modules.json'}: {module!r:.80} is no module with a type and a path")
        package, _, name = module["type"].rpartition(".")
        ours = package.partition(".")[0] == "sentence_transformers"
        place = _inside(root, module.get("path"), root / "modules.json")
        modules.append(Module(name if ours else module["type"], place, not ours))
    return tuple(modules)


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


def _get(content: Mapping[str, Any], key: str, kind: type, where: Path) -> Any:
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
