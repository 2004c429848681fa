"""The configuration of a command: what Hydra composes of `conf/` and of `key=value`, held against the schema."""

import dataclasses
import os
import re
import textwrap
import threading
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from transenc.config.schema import Evaluate, Train
from transenc.errors import InputError, nearest

CONF = Path(__file__).resolve().parents[1] / "conf"
MULTIRUN = {"-m", "--multirun"}  # Hydra's flags for a sweep
OWN_FILES = {"data.path", "data.sentences", "data.queries", "data.documents"}
SCHEMAS = {"train": Train, "evaluate": Evaluate}
_composing = threading.Lock()  # Hydra composes one configuration at a time in a process
for _name, _schema in SCHEMAS.items():
    ConfigStore.instance().store(name=f"{_name}_schema", node=_schema)


def compose(name: str, arguments: Sequence[str]) -> Any:
    """The configuration alone, as the schema's dataclass, for commands that leave no run folder, and for Python.

    Raises:
        InputError: an argument is wrong.
    """
    check_overrides(name, arguments)
    try:
        return OmegaConf.to_object(_composed(name, arguments))
    except Exception as error:
        if not of_configuration(error):
            raise
        raise InputError(explain(error, name)) from error


def _composed(name: str, arguments: Sequence[str]) -> Any:
    with _composing:
        hydra_of_others = GlobalHydra.instance().hydra  # where this is called in a program of Hydra's
        GlobalHydra.instance().clear()
        try:
            with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
                return hydra.compose(name, list(arguments))
        finally:
            GlobalHydra.instance().hydra = hydra_of_others


def check_overrides(name: str, arguments: Sequence[str]) -> None:
    """Hold every `key=value` on the command line against the schema and the files in conf/.

    Hydra itself lets `+key=value` through, and names no nearest key.

    Raises:
        InputError: a key that the schema lacks, a choice that its group lacks, or one value for several settings.
    """
    known = keys(SCHEMAS[name])
    groups = choices(name)
    own_folder = any(argument.startswith(("--config-dir", "-cd")) for argument in arguments)  # it may add choices
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if "=" not in argument and argument[:1] not in ("-", "~") and not before.startswith("-"):
            file = f" (a file: data.{'path' if name == 'train' else 'test'}=...)" if os.path.exists(argument) else ""
            raise InputError(f"{argument}: is no setting{file}; settings are KEY=VALUE, --help shows them")
        if argument.startswith("~") and argument[1:] in known:
            raise InputError(f"{argument}: a setting cannot be left out; give it another value")
    for override in parsed([a for a in arguments if "=" in a and a[0] != "-"]):
        key = override.key_or_group
        if key == "hydra":
            raise InputError("hydra: holds several settings; set one of them, hydra.NAME=...")
        if key.split(".")[0].split("/")[0] == "hydra":
            if key == "hydra.output_subdir":
                raise InputError(f"{key}: the settings of a run are in its .hydra/; leave it out")
            continue
        if key in groups:
            if isinstance(override.value(), Glob):
                continue  # Hydra finds the choices that it matches
            values = override.sweep_iterator() if override.is_sweep_override() else [override.value()]
            for value in ("null" if v is None else str(v) for v in values):
                if value not in groups[key] and not (own_folder and value != "null"):
                    hint = nearest(value, groups[key], listed=True)
                    if key == "data" and os.path.isfile(value):
                        hint = f"; give data=pairs data.path={value}"
                    raise InputError(f"{key}={value}: no such choice{hint}")
        elif key not in known:
            raise InputError(f"{key}: no such key{nearest(key, [*known, *groups])}")
        elif any(one.startswith(f"{key}.") for one in known) and not isinstance(override.value(), dict):
            raise InputError(f"{key}: holds several settings; set one of them, {key}.NAME=...")


def check_own_data(arguments: Sequence[str]) -> None:
    """Refuse own pairs beside the default data choice, which selects and tests on STS-B, and beside another pool.

    Raises:
        InputError: there are own pairs, and no choice of data, or `data.pool` is set too.
    """
    given = {argument.partition("=")[0] for argument in arguments if not argument.endswith(("=null", "=[]"))}
    own, chosen = OWN_FILES & given, {"data", "experiment"} & given
    if own and "data.pool" in given:
        raise InputError(f"data.pool: is not read beside {min(own)}; leave one out, or give data.extra for more pairs")
    own |= {"data.gold" for argument in arguments if re.match(r"data\.gold=.*[./]", argument)}  # a file
    if own and not chosen and not any(argument.startswith(("-c", "--config")) for argument in arguments):
        raise InputError(
            f"{min(own)}: by default encoders are selected and tested on STS-B; give data=pairs, data=sentences or"
            " data=queries for your own data alone, or data=stsb to keep that"
        )


def parsed(arguments: Sequence[str]) -> Iterator[Any]:
    """Hydra's view of each `key=value`.

    Raises:
        InputError: Hydra's grammar has no such value.
    """
    for argument in arguments:
        try:
            yield OverridesParser.create().parse_override(argument)
        except HydraException as error:
            key, _, value = argument.partition("=")
            remedy = f'if it is one text, put it into two sorts of quotes: "{key}={quoted(value)}"'
            if value[:1] == "[" and value[-1:] == "]":
                items = ",".join(map(quoted, value[1:-1].split(",")))
                remedy = f'put its texts into two sorts of quotes: "{key}=[{items}]"'
            elif re.search(r"\s[\w.]+=", value):
                remedy = f"if it is several settings, give each by itself; {remedy}"
            raise InputError(f"{argument}: cannot be read ({' '.join(str(error).split())[:100]}); {remedy}") from None


def quoted(text: str) -> str:
    """A text as Hydra's grammar takes it, whatever characters it holds."""
    return "'" + text.replace("'", "\\'") + "'"


def expand_home(argument: str) -> str:
    """Expand `~/` in `key=~/path` and in a list of paths, as a shell expands it in a word of its own."""
    return re.sub(r"(?<=[=\[,])(\s*)~(?=/|$)", lambda blank: blank[1] + os.path.expanduser("~"), argument)


def readable(argument: str) -> str:
    """`key=value` without + or ++ before a key, since no setting can be added, and with quotes around a value, or the
    texts of a list, that only letters beyond ASCII keep Hydra's grammar from reading.
    """
    if not argument.lstrip("+").startswith("hydra"):
        argument = argument.lstrip("+")
    key, equals, value = argument.partition("=")
    listed = value[:1] == "[" and value[-1:] == "]"
    text = value[1:-1] if listed else value
    if value.isascii() or set(text) & set("'\"[]{}()\\$") or key.startswith("-"):  # a flag is not Hydra's grammar
        return argument
    if listed:
        return f"{key}=[{','.join(item if item.isascii() else quoted(item.strip()) for item in text.split(','))}]"
    return argument if "," in text else key + equals + quoted(text)


def keys(schema: type, prefix: str = "") -> list[str]:
    """The dotted names of a schema's settings, nodes included."""
    names = []
    for field, kind in typing.get_type_hints(schema).items():
        names.append(prefix + field)
        if dataclasses.is_dataclass(kind):
            names += keys(kind, f"{prefix}{field}.")
    return names


def choices(name: str) -> dict[str, list[str]]:
    """The configuration groups that `conf/<name>.yaml` composes, each with its choices; null where it may be none."""
    defaults = OmegaConf.load(CONF / f"{name}.yaml").defaults
    chosen = {group: one for entry in defaults if isinstance(entry, typing.Mapping) for group, one in entry.items()}
    chosen = {group.removeprefix("override "): one for group, one in chosen.items()}
    found = {group: sorted(path.stem for path in (CONF / group).glob("*.yaml")) for group in chosen}
    for group, default in chosen.items():
        if "base" in found[group] and default != "base":  # it holds what the choices of a group share
            found[group].remove("base")
        if default is None:
            found[group].append("null")
    return found


def bi_encoder_of(choice: str) -> str | None:
    """The bi-encoder that conf/model/CHOICE.yaml names; None if there is no such file, or it names several."""
    path = CONF / "model" / f"{choice}.yaml"
    bi = OmegaConf.load(path).get("bi") if choice.isidentifier() and path.is_file() else None
    return bi if isinstance(bi, str) else None


def settings_help(name: str, overrides: Sequence[str]) -> str:
    """The choices of `conf/<name>.yaml`, and its settings with their values. Hydra's own help takes a second, and names
    the groups of other commands too.
    """
    groups = "\n".join(
        textwrap.fill(", ".join(named), 79, initial_indent=f"  {group:<12}", subsequent_indent=" " * 14)
        for group, named in choices(name).items()
        if not group.startswith("hydra/")
    )
    settings = OmegaConf.to_yaml(_composed(name, overrides))
    return f"Groups (GROUP=NAME):\n\n{groups}\n\nSettings (KEY=VALUE):\n\n{textwrap.indent(settings, '  ').rstrip()}"


def of_configuration(error: BaseException) -> bool:
    """Whether an error is ours, Hydra's or OmegaConf's. For some objections Hydra raises errors of Python's."""
    if isinstance(error, InputError | HydraException | OmegaConfBaseException):
        return True
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_globals.get("__name__", "").startswith("hydra.")


def explain(error: Exception, name: str) -> str:
    """One line for an error of ours, Hydra's or OmegaConf's: what, where, what to do."""
    if isinstance(error, InputError):
        return str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    if cause is None:
        text = " ".join(str(error).split())
        if several := re.match("Ambiguous value for argument '(.*?)' 1[.]", text):
            line = f"{several[1]}: several values; add -m to run a job for each"
            quotes = "; a list needs brackets, a text with commas two sorts of quotes"
            return line if several[1] in choices(name) else line + quotes
        if "hydra/" in text and "Could not find" in text:
            return f"{text.partition(' Available options')[0]}; pip install -r requirements-extras.txt"
        return text
    key, message = re.sub(r"\[\d+\]$", "", cause.full_key or ""), str(cause.msg or cause).split("\n")[0]
    if isinstance(cause, MissingMandatoryValue):
        key = key.removesuffix(".path") if key == "model.path" else key  # evaluate and score take the node itself
        return f"{key}: no value; give {key}=... on the command line"
    if key and key not in keys(SCHEMAS[name]) and not key.startswith("hydra."):
        return f"{key}: no such key{nearest(key, keys(SCHEMAS[name]))}"
    if ", expected one of [" in message:
        value, _, expected = message.removesuffix("]").partition(", expected one of [")
        word = value.partition("'")[2].rstrip("'")
        return f"{key}={word}: no such choice{nearest(word, expected.split(', '), listed=True)}"
    if "Cannot convert 'list' to string" in message:
        return f"{key}: takes one value, without brackets; a text with commas needs two sorts of quotes"
    if "is not a ListConfig" in message:
        return f"{key}: takes a list; put it into brackets, '{key}=[A]', or '{key}=[A,B]'"
    return f"{key}: {message}" if key else message
