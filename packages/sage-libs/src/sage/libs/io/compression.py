"""Compressed files: read by what they hold, written by their suffix."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sage.common.core.durable_files import sync_path
from sage.libs.io.errors import InputFileError

_BUFFER = 1 << 20  # bytes


@dataclass(frozen=True, kw_only=True)
class Compression:
    """One way to compress: what its files begin with, and how they are read and written."""

    magics: tuple[bytes, ...]
    reader: Callable[[BinaryIO], Any]
    writer: Callable[[Path], AbstractContextManager[Any]]


@contextmanager
def _gzip_writer(path: Path) -> Iterator[Any]:
    # Without a name and a time, so that the same lines are the same bytes.
    with path.open("wb") as file, gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
        yield packed


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise ImportError(
            "Zstandard files need pyarrow; install it with: pip install 'isage-libs[zstd]'"
        ) from error
    return pyarrow


_BY_SUFFIX = {
    ".gz": Compression(
        magics=(b"\x1f\x8b",),
        reader=lambda file: gzip.GzipFile(fileobj=file),
        writer=_gzip_writer,
    ),
    ".bz2": Compression(
        magics=(b"BZh",), reader=bz2.BZ2File, writer=partial(bz2.BZ2File, mode="wb")
    ),
    ".xz": Compression(
        magics=(b"\xfd7zXZ\0",),
        reader=lzma.LZMAFile,
        writer=partial(lzma.LZMAFile, mode="wb"),
    ),
    ".zst": Compression(
        magics=(b"\x28\xb5\x2f\xfd", b"\x50\x2a\x4d\x18"),  # the second is how pzstd begins
        reader=lambda file: _pyarrow().CompressedInputStream(file, "zstd"),
        writer=lambda path: _pyarrow().CompressedOutputStream(str(path), "zstd"),
    ),
}
SUFFIXES = tuple(_BY_SUFFIX)
_OTHERS = (".7z", ".br", ".lz4", ".lzma", ".rar", ".snappy", ".tgz", ".z", ".zip")


def compression_of(path: Path) -> Compression | None:
    """Return how a file of this name is compressed; raises ValueError if in a way not known."""
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise ValueError(f"{suffix} files are not known, only {', '.join(SUFFIXES)}")
    return _BY_SUFFIX.get(suffix)


@contextmanager
def open_unpacked(path: Path) -> Iterator[io.BufferedReader[Any]]:
    """Open a file to read its bytes, unpacked where it begins as a compressed one does.

    Its suffix does not matter: servers and browsers unpack files and leave their names.
    """
    try:
        named = compression_of(path)
    except ValueError as error:
        raise InputFileError(str(path), None, str(error), hint="unpack it first") from error
    with io.BufferedReader(io.FileIO(path), _BUFFER) as file:
        start = file.peek(6)[:6]
        if named and not start:
            raise InputFileError(str(path), None, "it is empty, which no compressed file is")
        for compression in _BY_SUFFIX.values():
            if start.startswith(compression.magics):
                yield io.BufferedReader(compression.reader(file), _BUFFER)
                return
        yield file


def pack(source: Path, target: Path, compression: Compression) -> None:
    """Write a file's bytes compressed to another; on return they outlive a power cut."""
    with source.open("rb") as file, compression.writer(target) as packed:
        shutil.copyfileobj(file, packed, _BUFFER)
    sync_path(target)


def unpack(source: Path, target: Path) -> int:
    """Write a compressed file's bytes to another and return how many they are."""
    with open_unpacked(source) as packed, target.open("wb") as file:
        shutil.copyfileobj(packed, file, _BUFFER)
        return file.tell()
