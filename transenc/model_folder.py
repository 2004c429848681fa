"""Model folders: finding one by its name, and its files.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from transenc.artifacts import file_digest
from transenc.errors import InputError
from transenc.model_hub import download

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there; pickled only where nothing else is
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
DESCRIPTION = ("*.json", "*.txt", "*.model", "*.codes", "*.jinja")  # what describes a model and its tokenizer


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
        name = self.name.partition("#sha256=")[0]
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


def find(name: str, adapters: bool = True) -> Source:
    """Find a model by name; a hub name is looked up on the hub or, failing that, in its local cache.

    Args:
        name: of the model.
        adapters: whether it may be a LoRA adapter.

    Raises:
        InputError: there is no such folder or package, it holds no model, its digest is not the demanded one, or
            neither the hub nor the cache has the name.
    """
    path, _, demanded = name.partition("#sha256=")
    if path.startswith("package://"):
        root = _in_package(path)
    elif os.path.isdir(os.path.expanduser(path)):  # Path.expanduser raises where there is no such user
        root = Path(os.path.expanduser(path))
    elif os.path.isfile(os.path.expanduser(path)):
        raise InputError(f"{path}: is a file; give its folder")
    elif re.fullmatch(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?", path) and not Path(path).is_absolute() and path[0] != ".":
        root = download(path, (*DESCRIPTION, "*/config.json"), _to_download)
    else:
        raise InputError(f"{path}: no such folder")
    source = _source(name, path, root, adapters)
    if special := [path.name for path in source.files.values() if path.exists() and not path.is_file()]:
        raise InputError(f"{path}: {special[0]} is no file; copy the model again")  # a pipe, say, which nothing ends
    if missing := [file.name for file in source.weights if not file.is_file()]:
        raise InputError(f"{path}: lacks {', '.join(missing)}; download or copy it again")
    if demanded and [file_digest(file) for file in source.weights] != [demanded]:
        raise InputError(f"{path}: {source.weights[0].name} has not the sha256 {demanded}; install or copy it again")
    return source


def _source(name: str, path: str, root: Path, adapters: bool) -> Source:
    modules = _modules(root)
    folder = modules[0].folder if modules else root
    static = bool(modules) and modules[0].name == "StaticEmbedding"
    if (folder / ADAPTER_CONFIG).is_file():
        if (folder / "config.json").is_file():
            raise InputError(
                f"{path}: holds a model and an adapter ({ADAPTER_CONFIG}); move one of them to another folder"
            )
        if not adapters:
            raise InputError(f"{path}: is an adapter itself")
        if not (folder / ADAPTER_WEIGHTS).is_file():
            raise InputError(f"{path}: lacks {ADAPTER_WEIGHTS}, the weights of its LoRA adapter; copy it again")
        base = value_of(read_json(folder / ADAPTER_CONFIG), "base_model_name_or_path", str, folder / ADAPTER_CONFIG)
        try:
            return Source(name, root, folder, (folder / ADAPTER_WEIGHTS,), modules, find(base or "", adapters=False))
        except InputError as error:
            raise InputError(f"{path}: a LoRA adapter, whose base model is missing: {error}") from None
    if modules and modules[0].name == "Router":
        raise InputError(
            f"{path}: has a Router, different modules for queries and documents, which is not supported; name the"
            " folder of one of them"
        )
    if modules and modules[0].name not in ("Transformer", "StaticEmbedding") and not modules[0].foreign:
        raise InputError(f"{path}: has a module {modules[0].name:.80}, which is not supported; take another model")
    if not static and not (folder / "config.json").is_file():
        inside = sorted(
            str(found.parent) for found in (*root.glob("*/config.json"), *root.glob("models/*/config.json"))
        )
        hint = f"; there is one in {' and in '.join(inside[:2])}" if inside else ""
        raise InputError(f"{path}: there is no model there (no config.json){hint}")
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
        if (folder / name).is_file():  # which transformers takes first, too
            return (folder / name,)
        if index.is_file():
            parts = (value_of(read_json(index), "weight_map", dict, index) or {}).values()
            inside = {inside_of(folder, part, index) for part in parts}
            for part in inside:
                if part.suffix != Path(name).suffix:
                    raise InputError(f"{index}: names {part.name!r:.80}, and only {Path(name).suffix} files are read")
            return tuple(sorted(inside))
    return ()


def _to_download(root: Path) -> Iterator[list[str]]:
    """Patterns of the other files of a model on the hub, whose description is in `root`."""
    modules = _modules(root)
    folder = modules[0].folder if modules else root
    place = "" if folder == root else f"{folder.relative_to(root)}/"
    if place:
        yield [place + pattern for pattern in DESCRIPTION]
    if (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file():
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
    return inside_of(root, inside, Path(path)) if inside else root


def name_base(path: Path, base: str, revision: str | None) -> None:
    """Say in a LoRA adapter's adapter_config.json which model it adapts, see `Source.public`."""
    settings = read_json(path) | {"base_model_name_or_path": base, "revision": revision}
    path.write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")


def _modules(root: Path) -> tuple[Module, ...]:
    """What modules.json lists; nothing where there is none."""
    modules, names = [], []
    for module in read_json(root / "modules.json", list):
        if not (isinstance(module, dict) and isinstance(module.get("type"), str)):
            raise InputError(f"{root / 'modules.json'}: {module!r:.80} is no module with a type and a path")
        package, _, name = module["type"].rpartition(".")
        ours = package.partition(".")[0] == "sentence_transformers"
        place = inside_of(root, module.get("path"), root / "modules.json")
        if module.get("name") in names:
            raise InputError(f"{root / 'modules.json'}: two modules are named {module['name']!r:.80}; rename one")
        names.append(module.get("name", len(names)))
        modules.append(Module(name if ours else module["type"], place, not ours))
    return tuple(modules)


def read_json(path: Path, kind: type = dict) -> Any:
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


def value_of(content: Mapping[str, Any], key: str, kind: type, where: Path) -> Any:
    """A key's value, of the right type; None where there is none."""
    value = content.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        raise InputError(f"{where}: {key}={value!r:.80} must be of type {kind.__name__}, or null")
    return value


def inside_of(folder: Path, name: Any, where: Path) -> Path:
    """A path that a file of a model names, which must not lead out of the model's folder."""
    if not isinstance(name, str) or Path(name).is_absolute() or ".." in Path(name).parts:
        raise InputError(f"{where}: names {name!r:.80}, which is no path inside the model's folder")
    return folder / name
