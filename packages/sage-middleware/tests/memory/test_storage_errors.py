"""Files that are damaged, gone or in the way: errors of ours, that say what and where."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import EmbeddingModel
from sage.middleware.components.memory import (
    MemoryCollectionError,
    MemoryStorageError,
    VDBMemoryCollection,
)

USES: dict[str, Callable[[VDBMemoryCollection], Any]] = {
    "search": lambda memory: memory.search("fox"),
    "search for words": lambda memory: memory.search("fox", mode="text"),
    "get": lambda memory: memory.get("a"),
    "insert": lambda memory: memory.insert("another"),
    "upsert": lambda memory: memory.upsert("a", "another"),
    "delete": lambda memory: memory.delete("a"),
    "count": lambda memory: memory.count({"year": 1}),
}


def damage(folder: Path, pattern: str, content: bytes | None) -> None:
    paths = sorted(folder.glob(pattern))
    assert paths
    for path in paths:
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("content", [None, b"", b"not a file of LanceDB" * 9])
def test_data_that_is_damaged_is_an_error_that_names_the_collection(
    notes: VDBMemoryCollection,
    tmp_path: Path,
    embedder: EmbeddingModel,
    use: str,
    content: bytes | None,
) -> None:
    notes.insert("the red fox", {"year": 1}, record_id="a")
    damage(tmp_path, "notes.lance/data/*.lance", content)
    error: MemoryCollectionError | None = None
    with VDBMemoryCollection(tmp_path, "notes", embedder=embedder) as fresh:
        try:
            USES[use](fresh)
        except MemoryCollectionError as caught:
            error = caught
    if use in ("search", "search for words", "get"):  # the others need not read the data
        assert error is not None
    if error is not None:
        assert isinstance(error, MemoryStorageError)
        assert "collection 'notes': " in str(error)
        assert ".rs:" not in str(error)
        assert error.__cause__ is not None


def test_data_that_cannot_be_read_fails_the_search(
    notes: VDBMemoryCollection, tmp_path: Path, embedder: EmbeddingModel
) -> None:
    notes.insert("the red fox", record_id="a")
    damage(tmp_path, "notes.lance/data/*.lance", None)
    with VDBMemoryCollection(tmp_path, "notes", embedder=embedder) as fresh:
        with pytest.raises(MemoryStorageError, match=r"could not search collection 'notes'"):
            fresh.search("fox")
        with pytest.raises(MemoryStorageError, match="could not read collection 'notes'"):
            fresh.get("a")


@pytest.mark.parametrize("content", [b"", b"rubbish"])
def test_a_table_that_cannot_be_opened_is_no_new_one(
    notes: VDBMemoryCollection, tmp_path: Path, content: bytes
) -> None:
    notes.insert("the red fox", record_id="a")
    damage(tmp_path, "notes.lance/_versions/*", content)
    with pytest.raises(MemoryStorageError, match="could not open collection 'notes'"):
        VDBMemoryCollection(tmp_path, "notes")


def test_a_collection_that_is_deleted_under_an_open_one_says_so(
    notes: VDBMemoryCollection, tmp_path: Path
) -> None:
    notes.insert("the red fox", record_id="a")
    shutil.rmtree(tmp_path / "notes.lance")
    for use in ("search", "get", "insert", "count"):
        with pytest.raises(MemoryStorageError, match="collection 'notes'"):
            USES[use](notes)


def test_a_writer_that_was_killed_before_its_first_version_left_none(
    tmp_path: Path,
) -> None:
    (tmp_path / "memory.lance" / "data").mkdir(parents=True)
    with VDBMemoryCollection(tmp_path) as memory:
        memory.insert("first", vector=[1.0], record_id="a")
        assert memory.count() == 1
