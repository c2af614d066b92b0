"""What is in a collection, listed and described anew without a vector made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.middleware.components.memory import (
    CollectionNotFoundError,
    InvalidFilterError,
    InvalidRecordError,
    MemoryRecord,
    VDBMemoryCollection,
    VDBMemoryService,
)


def test_records_are_listed_whole_by_filter_and_in_pages(notes: VDBMemoryCollection) -> None:
    notes.insert_batch(list("abcdefg"), [{"year": n} for n in range(7)], ids=list("abcdefg"))
    listed = notes.records()
    assert sorted(record.id for record in listed) == list("abcdefg")
    assert listed[0] == MemoryRecord(id="a", text="a", metadata={"year": 0})
    assert {record.id for record in notes.records({"year": {">=": 4}})} == set("efg")
    pages = [notes.records(limit=3, offset=start) for start in range(0, 9, 3)]
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [record for page in pages for record in page] == listed
    assert len(notes.records({"year": {">=": 1}}, limit=2, offset=5)) == 1
    with pytest.raises(InvalidFilterError):
        notes.records({"yaer": 1})


def test_more_records_than_any_default_limit_are_all_listed(tmp_path: Path) -> None:
    with VDBMemoryCollection(tmp_path) as memory:
        memory.insert_batch([str(n) for n in range(3000)], vectors=[[1.0]] * 3000)
        assert {int(record.text) for record in memory.records()} == set(range(3000))


def test_metadata_changes_and_all_else_stays(tmp_path: Path, embedder: EmbeddingModel) -> None:
    seen: list[str] = []

    def embed(texts: list[str]) -> list[list[float]]:
        seen.extend(texts)
        return embedder.embed_batch(texts)

    fields = {"year": int, "source": str}
    with VDBMemoryCollection(tmp_path, embedder=embed, fields=fields) as memory:
        metadata = {"year": 1, "source": "s", "note": "kept"}
        memory.insert_batch(["red fox", "blue whale"], [metadata, None], ids=["a", "b"])
        before = memory.search(embedder.embed("red fox"), k=1)[0].score
        seen.clear()
        assert memory.update_metadata("a", {"year": 2, "source": None, "new": ["x"]}) == 1
        assert memory.update_metadata(["b", "b", "nobody's"], {"year": 3}) == 1
        assert memory.update_metadata([], {"year": 4}) == 0
        assert seen == []
        records = memory.get_batch(["a", "b"])
        assert [r and r.metadata for r in records] == [
            {"year": 2, "note": "kept", "new": ["x"]},
            {"year": 3},
        ]
        assert [r and r.text for r in records] == ["red fox", "blue whale"]
        assert (memory.count({"year": 1}), memory.count({"year": 2})) == (0, 1)
        assert memory.count({"source": None}) == memory.count() == 2
        assert memory.search(embedder.embed("red fox"), k=1)[0].score == pytest.approx(before)
        assert memory.search("whale", mode="text")[0].metadata == {"year": 3}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"year": "x"}, "declared int"),
        ({"x": {}}, "values are str"),
        (None, "changes are a dict of metadata, not None"),
    ],
)
def test_a_change_that_cannot_be_changes_nothing(
    notes: VDBMemoryCollection, changes: Any, says: str
) -> None:
    notes.insert_batch(["one", "two"], [{"year": 1}, {"year": 2}], ids=["a", "b"])
    with pytest.raises(InvalidRecordError, match=says):
        notes.update_metadata(["a", "b"], changes)
    assert sorted(record.metadata["year"] for record in notes.records()) == [1, 2]


def test_what_is_not_there_is_neither_listed_nor_changed(tmp_path: Path) -> None:
    with VDBMemoryCollection(tmp_path) as memory:
        for use in (memory.records, lambda: memory.update_metadata("a", {})):
            with pytest.raises(CollectionNotFoundError):
                use()
    with VDBMemoryCollection(tmp_path, create=True) as memory:
        assert memory.records() == []
        assert memory.update_metadata("a", {"x": 1}) == 0


def test_the_service_lists_and_changes_too(tmp_path: Path) -> None:
    model = get_embedding_model("hash")
    with VDBMemoryService({"folder": tmp_path}, embedder=model) as service:
        service.insert("text", {"x": 1}, record_id="a")
        change = {"task": "update_metadata", "inputs": "a", "options": {"changes": {"x": 2}}}
        assert service.process(change) == 1
        (record,) = service.process({"task": "records", "options": {"limit": 5}})
        assert record == MemoryRecord(id="a", text="text", metadata={"x": 2})
