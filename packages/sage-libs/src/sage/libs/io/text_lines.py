"""text_lines(): the lines of a text file, whatever its encoding and compression."""

from __future__ import annotations

import codecs
import io
import json
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sage.libs.io.compression import open_unpacked
from sage.libs.io.errors import InputFileError

_DAMAGED = (EOFError, OSError, zlib.error, lzma.LZMAError, UnicodeDecodeError)


def text_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, each with its number, as UTF-8 with its line end.

    The file may be UTF-8, or UTF-16 or UTF-32, as its first bytes tell; a byte-order mark is no
    part of a line, also not in the middle of a file that several ones were joined to. It may be
    compressed. Raises InputFileError if it ends too early or is damaged.
    """
    number = 0
    try:
        with open_unpacked(path) as file:
            for number, line in enumerate(_as_utf8(file), 1):
                if line.startswith(codecs.BOM_UTF8):
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line and not line.isspace():
                    yield number, line
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise  # it cannot be opened, and says which
        problem = f"it cannot be read on from here: {error}"
        raise InputFileError(
            str(path), number + 1, problem, hint="bring back the whole file"
        ) from error


def _as_utf8(file: io.BufferedReader[Any]) -> Iterable[bytes]:
    encoding = json.detect_encoding(file.peek(4)[:4])  # JSON begins with an ASCII character
    if encoding.startswith("utf-8"):
        return file
    return _recoded(file, encoding)


def _recoded(file: io.BufferedReader[Any], encoding: str) -> Iterator[bytes]:
    # Half of a surrogate pair is the fault of its line, not of the file.
    with io.TextIOWrapper(file, encoding, "surrogatepass", newline="\n") as text:
        for line in text:
            yield line.encode(errors="surrogatepass")
