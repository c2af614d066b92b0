"""Metadata as programs have it: values that are not given, NumPy's, and lists of texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sage.middleware.components.memory import InvalidRecordError, VDBMemoryCollection


def test_none_is_not_given(notes: VDBMemoryCollection) -> None:
    notes.insert("text", {"year": None, "source": "s", "other": None}, record_id="a")
    record = notes.get("a")
    assert record is not None
    assert record.metadata == {"source": "s"}
    assert notes.count({"year": None}) == 1
    assert notes.count({"source": None}) == 0


@pytest.mark.parametrize(
    ("field", "given", "kept"),
    [
        ("year", np.int64(2024), 2024),
        ("year", np.uint8(7), 7),
        ("weight", np.float32(0.5), 0.5),
        ("weight", np.float64(1 / 3), 1 / 3),
        ("weight", np.int32(3), 3),
        ("draft", np.True_, True),
        ("source", np.str_("wiki"), "wiki"),
        ("other", np.int64(-1), -1),
    ],
)
def test_scalars_of_numpy_are_those_of_python(
    notes: VDBMemoryCollection, field: str, given: Any, kept: Any
) -> None:
    notes.insert("text", {field: given}, record_id="a")
    record = notes.get("a")
    assert record is not None
    assert record.metadata == {field: kept}
    assert type(record.metadata[field]) is type(kept)
    if field != "other":
        assert notes.count({field: given}) == notes.count({field: np.array([given])}) == 1
        assert notes.search("text", k=np.int64(3), where={field: {"==": given}})[0].id == "a"


@pytest.mark.parametrize(
    "given", [["a", "it's", "漢"], ("a", "it's", "漢"), np.array(["a", "it's", "漢"]), []]
)
def test_a_list_of_texts_comes_back(notes: VDBMemoryCollection, given: Any) -> None:
    notes.insert("text", {"tags": given, "year": 1}, record_id="a")
    (hit,) = notes.search("text")
    assert hit.metadata == {"tags": list(given), "year": 1}
    assert all(type(tag) is str for tag in hit.metadata["tags"])  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ([1, 2], "of lists only those of texts"),
        (["a", None], "of lists only those of texts"),
        ([["a"]], "of lists only those of texts"),
        (["\ud800"], "no valid Unicode"),
        (np.float32("nan"), "numbers must be finite"),
        (np.datetime64("2024-01-01"), "values are str, int, float, bool or a list of str"),
    ],
)
def test_what_cannot_be_kept_is_named(notes: VDBMemoryCollection, value: Any, says: str) -> None:
    with pytest.raises(InvalidRecordError, match=f"text 0: metadata 'x' is .*{says}"):
        notes.insert("text", {"x": value})


def test_a_list_fits_no_declared_field(notes: VDBMemoryCollection) -> None:
    with pytest.raises(InvalidRecordError, match=r"'source' is .*the field was declared str"):
        notes.insert("text", {"source": ["a"]})


def test_texts_ids_and_metadata_may_be_arrays(notes: VDBMemoryCollection) -> None:
    texts, ids = np.array(["red fox", "blue whale"]), np.array(["a", "b"])
    assert notes.insert_batch(texts, np.array([{"year": 1}, None]), ids=ids) == ["a", "b"]  # type: ignore[arg-type]  # what is tested
    assert [r and r.text for r in notes.get_batch(ids)] == ["red fox", "blue whale"]  # type: ignore[arg-type]  # what is tested
