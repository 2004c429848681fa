"""The lines of a UTF-8 text file, and of standard input."""

import codecs
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transenc.errors import InputError

STDIN = Path("-")
UNREADABLE = dict.fromkeys(("gz", "xz", "bz2", "zst", "zip"), "compressed; unpack it first")
UNREADABLE["json"] = "not read; save it as .jsonl, one object a line"
UNREADABLE |= dict.fromkeys(("xlsx", "xls", "ods"), "a spreadsheet; save it as .csv (UTF-8)")


def one_line(sentence: str) -> str:
    return sentence.replace("\r", " ").replace("\n", " ")


def read_lines(path: Path) -> list[str]:
    """A UTF-8 file's lines, without their ends and without a byte-order mark.

    Raises:
        InputError: not a file, empty, or bytes that are not UTF-8 (with the line).
    """
    return list(bare_lines(path))


def read_sentences(path: Path) -> list[str]:
    """A text file's sentences, one a line, stripped, in order; blank lines are passed over, repeated sentences kept.

    Raises:
        InputError: not a file, empty, or bytes that are not UTF-8 (with the line).
    """
    return [sentence for line in raw_lines(path) if (sentence := one_line(line).strip())]


def check_file(path: Path) -> None:
    if not os.path.isfile(path):  # Path.is_file raises where a name is too long or a folder closed
        raise InputError(f"{path}: {'is not a file' if os.path.exists(path) else 'no such file'}")


def raw_lines(path: Path, began: Callable[[bytes], Any] = lambda line: None) -> Iterator[str]:
    """Lines with their ends; `began` gets the first as it is.

    Only a line feed ends one: sentences may hold U+2028 and its like.
    """
    if path != STDIN:
        check_file(path)
    elif sys.stdin is None:
        raise InputError("-: standard input is closed; give a file, or pipe pairs in")
    empty = True
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as file:
            for number, raw in enumerate(file, 1):
                if number == 1:
                    began(raw)
                    if raw.startswith(b"\x1f\x8b"):
                        raise InputError(f"{path}: is {UNREADABLE['gz']}")
                line = decoded(raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw, f"{path}:{number}")
                if number == 1 and not line.endswith("\n") and "\r" in line.rstrip("\r"):
                    raise InputError(f"{path}: lines end in carriage returns alone; save it with line feeds")
                empty = empty and not line.strip()
                yield line
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if empty:
        raise InputError(f"{path}: the file is empty")


def decoded(raw: bytes, where: str) -> str:
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 (byte 0x{raw[error.start]:02x}); save it as UTF-8") from None
    if "\0" in line:  # every other byte of UTF-16 without a mark
        raise InputError(f"{where}: holds a NUL character; remove it, or save the file as UTF-8 if it is UTF-16")
    return line


def bare_lines(path: Path, began: Callable[[bytes], Any] = lambda line: None) -> Iterator[str]:
    return (line.removesuffix("\n").removesuffix("\r") for line in raw_lines(path, began))
