"""VDBMemoryCollection on real files: what goes in, what is found, what is refused."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lancedb
import pytest

from sage.common.components.sage_embedding import EmbeddingModel, get_embedding_model
from sage.common.core.local_path import NotALocalPathError
from sage.middleware.components.memory import (
    CollectionNotFoundError,
    DimensionMismatchError,
    DuplicateIdError,
    InvalidRecordError,
    MemoryCollectionError,
    MemoryRecord,
    MemoryStorageError,
    VDBMemoryCollection,
)

TEXTS = ["the red fox jumps", "a blue whale dives", "share prices fell in Tokyo"]


def texts_of(found: Any) -> list[str]:
    return [hit.text for hit in found]


# -- what it does ---------------------------------------------------------------------------------


def test_what_was_inserted_is_found_by_likeness(notes: VDBMemoryCollection) -> None:
    ids = notes.insert_batch(TEXTS, [{"year": n, "note": "o'k"} for n in range(3)])
    best, *others = notes.search("the red fox", k=2)
    assert (best.id, best.text) == (ids[0], TEXTS[0])
    assert best.metadata == {"year": 0, "note": "o'k"}
    assert best.score > others[0].score
    (exact,) = notes.search(TEXTS[1], k=1)
    assert exact.score == pytest.approx(1)
    assert len(notes.search("fox", k=100)) == 3


def test_a_single_insert_and_its_own_id(notes: VDBMemoryCollection) -> None:
    made = notes.insert("one")
    assert notes.insert("two", {"draft": True}, record_id="mine") == "mine"
    assert notes.get(made) == MemoryRecord(id=made, text="one")
    assert notes.get_batch(["nobody's", "mine"]) == [
        None,
        MemoryRecord(id="mine", text="two", metadata={"draft": True}),
    ]


def test_metadata_comes_back_as_it_was(notes: VDBMemoryCollection) -> None:
    metadata = {"weight": 3, "year": -(2**63), "draft": False, "other": 1e-9, "漢": "\n\0'\"\\"}
    notes.insert("text", metadata, record_id="a")
    record = notes.get("a")
    assert record is not None
    assert record.metadata == metadata
    assert type(record.metadata["weight"]) is int


def test_upsert_replaces_all_of_a_record(notes: VDBMemoryCollection) -> None:
    notes.insert("old words", {"year": 1}, record_id="a")
    assert notes.upsert("a", "new thing", {"source": "s"}) == "a"
    assert notes.upsert_batch(["a", "b"], ["newest thing", "second"]) == ["a", "b"]
    assert notes.count() == 2
    assert notes.get("a") == MemoryRecord(id="a", text="newest thing")
    assert notes.count({"source": "s"}) == 0
    (hit,) = notes.search("newest thing", k=1)
    assert (hit.id, hit.score) == ("a", pytest.approx(1))


def test_delete_by_id_by_ids_and_by_filter(notes: VDBMemoryCollection) -> None:
    notes.insert_batch(list("abcdef"), [{"year": n} for n in range(6)], ids=list("abcdef"))
    assert notes.delete("a") == 1
    assert notes.delete(["b", "nobody's", "a"]) == 1
    assert notes.delete([]) == 0
    assert notes.delete(where={"year": {">=": 4}}) == 2
    assert notes.get_batch(list("abcdef")) == [None, None, *notes.get_batch(["c", "d"]), None, None]
    assert notes.count() == 2


@pytest.mark.parametrize("given", [{}, {"where": {}}, {"ids": "a", "where": {"year": 1}}])
def test_delete_never_means_everything(notes: VDBMemoryCollection, given: Any) -> None:
    notes.insert("kept", record_id="a")
    with pytest.raises(ValueError, match="either ids or a filter that has a condition"):
        notes.delete(**given)
    assert notes.count() == 1


def test_text_and_hybrid_search_find_words(notes: VDBMemoryCollection) -> None:
    notes.insert_batch(TEXTS, [{"year": n} for n in range(3)])
    assert texts_of(notes.search("whales", mode="text")) == [TEXTS[1]]  # by its stem
    notes.insert("one more whale", {"year": 9})  # after the index was made
    assert set(texts_of(notes.search("whales", mode="text"))) == {TEXTS[1], "one more whale"}
    assert texts_of(notes.search("whale", mode="text", where={"year": 9})) == ["one more whale"]
    assert notes.search("of the", mode="text") == []
    (best,) = notes.search("whales", k=1, mode="hybrid")  # no vector shares this word
    assert "whale" in best.text
    hybrid = notes.search("blue whale", k=2, mode="hybrid")
    assert hybrid[0].text == TEXTS[1]
    assert hybrid[0].score > hybrid[1].score
    (only,) = notes.search("blue whale", mode="hybrid", where={"year": 2})
    assert only.text == TEXTS[2]
    for odd in ('fox AND ("', "a:b^2 ~", "'; DROP TABLE notes; --"):  # plain words, no syntax
        assert isinstance(notes.search(odd, mode="hybrid"), list)
    notes.optimize()
    assert notes.search("tokyo", mode="text", k=1)[0].text == TEXTS[2]


def test_vectors_of_ones_own_need_no_embedder(tmp_path: Path) -> None:
    with VDBMemoryCollection(tmp_path) as memory:
        memory.insert_batch(["right", "above"], vectors=[[1, 0], [0, 1]], ids=["r", "u"])
        memory.insert("left", vector=[-2, 0], record_id="l")
        assert [hit.id for hit in memory.search([0.9, 0.1])] == ["r", "u", "l"]
        assert memory.search([1, 0])[-1].score == pytest.approx(-1)
        assert memory.search("right", mode="text")[0].id == "r"
        with pytest.raises(ValueError, match="without an embedder: pass embedder="):
            memory.search("up")


@pytest.mark.parametrize("way", ["object", "dict", "callable"])
def test_any_embedder_is_called_in_batches(tmp_path: Path, way: str) -> None:
    model = get_embedding_model("hash", dim=8)
    sizes: list[int] = []

    def embed(texts: list[str]) -> Any:
        sizes.append(len(texts))
        vectors = model.embed_batch(texts)
        return {"vectors": vectors, "dim": 8} if way == "dict" else vectors

    ways = {
        "object": SimpleNamespace(embed_batch=embed),
        "dict": SimpleNamespace(embed=embed),
        "callable": embed,
    }
    given = ways[way]
    with VDBMemoryCollection(tmp_path, embedder=given, batch_size=4) as memory:
        memory.insert_batch([f"text {n}" for n in range(10)])
        assert memory.search("text 7", k=1)[0].text == "text 7"
    assert sizes == [4, 4, 2, 1]


def test_a_batch_of_any_size_is_one_commit(tmp_path: Path, embedder: EmbeddingModel) -> None:
    sizes: list[int] = []

    def embed(texts: list[str]) -> list[list[float]]:
        sizes.append(len(texts))
        return embedder.embed_batch(texts)

    def commits() -> int:
        return int(lancedb.connect(tmp_path).open_table("memory").version)

    ids = [str(n) for n in range(5000)]
    with VDBMemoryCollection(tmp_path, embedder=embed, batch_size=1000) as memory:
        memory.insert("the first makes the table")
        for write in (memory.insert_batch, memory.upsert_batch):
            before = commits()
            write(texts=[f"text {id_}" for id_ in ids], ids=ids)
            assert commits() == before + 1
        before = commits()
        for number in range(3):
            memory.insert(f"one {number}")
        assert commits() == before + 3
    assert sizes == [1, *[1000] * 10, 1, 1, 1]


def test_an_empty_collection_answers(tmp_path: Path, embedder: EmbeddingModel) -> None:
    notes = VDBMemoryCollection(tmp_path, embedder=embedder, fields={"year": int}, create=True)
    assert notes.search("anything") == notes.search("anything", mode="hybrid") == []
    assert notes.count() == notes.count({"year": 1}) == notes.delete("a") == 0
    assert notes.get("a") is None
    assert notes.insert_batch([]) == []
    assert notes.dim is None
    notes.optimize()
    assert list(tmp_path.iterdir()) == []  # reading makes nothing


def test_many_small_inserts_are_brought_together(tmp_path: Path) -> None:
    def parts() -> int:
        table = lancedb.connect(tmp_path).open_table("memory")
        return int(table.stats()["fragment_stats"]["num_fragments"])

    with VDBMemoryCollection(tmp_path) as memory:
        for n in range(120):
            memory.insert(f"text {n}", vector=[1, n], record_id=str(n))
        assert parts() < 30
        assert memory.count() == 120
        memory.optimize()
        assert parts() == 1
        assert memory.search([1, 40], k=1)[0].text == "text 40"


# -- opening --------------------------------------------------------------------------------------


def test_another_process_finds_what_was_stored(tmp_path: Path, embedder: EmbeddingModel) -> None:
    with VDBMemoryCollection(tmp_path, embedder=embedder, fields={"year": "int"}) as memory:
        memory.insert_batch(TEXTS, [{"year": 2000 + n} for n in range(3)])
    program = (
        "import sys\n"
        "from sage.common.components.sage_embedding import get_embedding_model\n"
        "from sage.middleware.components.memory import VDBMemoryCollection\n"
        "model = get_embedding_model('hash', dim=64)\n"
        "memory = VDBMemoryCollection(sys.argv[1], embedder=model, create=False)\n"
        "(hit,) = memory.search('the red fox jumps', k=1, where={'year': 2000})\n"
        "print(hit.text, memory.fields, memory.dim, round(hit.score, 3))\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{TEXTS[0]} {{'year': {int}}} 64 1.0\n"


def test_create_false_names_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(CollectionNotFoundError, match=r"no collection 'memory'.*\(none\)"):
        VDBMemoryCollection(tmp_path / "nowhere", create=False)
    with VDBMemoryCollection(tmp_path, "notes") as memory:
        memory.insert("one", vector=[1])
    with pytest.raises(CollectionNotFoundError, match=r"'note'.*did you mean 'notes'"):
        VDBMemoryCollection(tmp_path, "note", create=False)
    assert not (tmp_path / "nowhere").exists()


def test_a_name_that_is_not_there_cannot_be_read(
    notes: VDBMemoryCollection, tmp_path: Path, embedder: EmbeddingModel
) -> None:
    notes.insert("one")
    with VDBMemoryCollection(tmp_path, "ntoes", embedder=embedder) as typo:
        for read in (
            lambda: typo.search("one"),
            lambda: typo.search("one", mode="hybrid"),
            lambda: typo.get("a"),
            lambda: typo.get_batch(["a"]),
            typo.count,
            lambda: typo.delete("a"),
            typo.optimize,
        ):
            with pytest.raises(CollectionNotFoundError, match=r"'ntoes'.*did you mean 'notes'"):
                read()
        typo.insert("meant so")
        assert typo.search("one")[0].text == "meant so"


def test_fields_are_those_of_the_first_insert(notes: VDBMemoryCollection, tmp_path: Path) -> None:
    notes.insert("one", {"year": 1})
    with pytest.raises(ValueError, match=r"has the fields year: int, source: .*, not year: str"):
        VDBMemoryCollection(tmp_path, "notes", fields={"year": str})
    assert VDBMemoryCollection(tmp_path, "notes").fields == notes.fields


def test_fields_that_somebody_else_settled_otherwise_are_refused_at_every_use(
    tmp_path: Path,
) -> None:
    memory = VDBMemoryCollection(tmp_path, fields={"year": int})
    with VDBMemoryCollection(tmp_path) as other:
        other.insert("first", vector=[1])
    for _ in range(2):
        with pytest.raises(ValueError, match=r"has the fields \(none\), not year: int: leave"):
            memory.insert("second", {"year": 1}, vector=[1])


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b", "ü", ".hidden", None])
def test_a_name_is_no_path(tmp_path: Path, name: Any) -> None:
    with pytest.raises(ValueError, match="name is letters, digits, _ and -"):
        VDBMemoryCollection(tmp_path, name)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fields": {"yéar": int}}, "letters, digits and _, and not 'id', not 'yéar'"),
        ({"fields": {"id": str}}, "and not 'id'"),
        ({"fields": {"year": "integer"}}, "unknown type 'integer'; did you mean 'int'"),
        ({"fields": {"year": list}}, "unknown type 'list'"),
        ({"embedder": len, "batch_size": 0}, "batch_size must be at least 1, not 0"),
    ],
)
def test_a_bad_option_is_named(tmp_path: Path, options: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        VDBMemoryCollection(tmp_path, **options)


def test_what_embeds_nothing_is_no_embedder(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="takes a list of texts; 7 does neither"):
        VDBMemoryCollection(tmp_path, embedder=7)


def test_closing_twice_is_fine_and_using_it_then_is_not(notes: VDBMemoryCollection) -> None:
    notes.close()
    notes.close()
    with pytest.raises(RuntimeError, match="'notes' has been closed"):
        notes.count()


# -- what is refused, and loses nothing -----------------------------------------------------------


def test_another_length_of_vectors_is_refused_with_both_numbers(
    notes: VDBMemoryCollection, tmp_path: Path
) -> None:
    notes.insert_batch(TEXTS)
    other = get_embedding_model("hash", dim=32)
    with VDBMemoryCollection(tmp_path, "notes", embedder=other) as memory:
        for use in (memory.search, memory.insert):
            with pytest.raises(DimensionMismatchError, match="of 64 numbers, these have 32; use"):
                use("text")
        with pytest.raises(DimensionMismatchError, match="these have 2"):
            memory.upsert("a", "text", vector=[1, 2])
    assert notes.count() == 3


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"texts": ["fine", ""]}, "text 1 must be a non-empty string, not ''"),
        ({"texts": ["fine", None]}, "text 1 must be"),
        ({"texts": "a string"}, "texts must be a list, not 'a string'"),
        ({"texts": ["\ud800"]}, "text 0 is no valid Unicode"),
        ({"texts": ["a"], "ids": [7]}, "id 0 must be a non-empty string, not 7"),
        ({"texts": ["a"], "ids": ["x", "y"]}, "2 ids were given for 1 texts"),
        ({"texts": ["a", "b"], "metadata": [{}]}, "1 metadata were given for 2 texts"),
        ({"texts": ["a"], "metadata": {"year": 1}}, "metadata must be a list"),
        ({"texts": ["a"], "metadata": [3]}, "text 0: metadata must be a flat dict, not 3"),
        ({"texts": ["a", "b"], "metadata": [None, {"x": {}}]}, "text 1: metadata 'x' is .*values"),
        ({"texts": ["a"], "metadata": [{"x": b"y"}]}, "'x' is b'y': values are str"),
        ({"texts": ["a"], "metadata": [{"x": math.nan}]}, "must be finite"),
        ({"texts": ["a"], "metadata": [{"x": 2**63}]}, "must fit in 64 bits"),
        ({"texts": ["a"], "metadata": [{"x": "\udc00"}]}, "no valid Unicode"),
        ({"texts": ["a"], "metadata": [{3: "x"}]}, "the key 3; keys are strings"),
        ({"texts": ["a"], "metadata": [{"year": "1"}]}, "'year' is '1': .* declared int"),
        ({"texts": ["a"], "metadata": [{"year": True}]}, "'year' is True: .* declared int"),
        ({"texts": ["a"], "metadata": [{"draft": 1}]}, "'draft' is 1: .* declared bool"),
        ({"texts": ["a"], "vectors": [[1.0], [2.0]]}, "there are 2 vectors for 1 texts"),
        ({"texts": ["a", "b"], "vectors": [[1, 2], [3]]}, "lists of numbers of one length"),
        ({"texts": ["a"], "vectors": [[math.inf] * 64]}, "vector 0 has no direction"),
        ({"texts": ["a"], "vectors": [[0] * 64]}, "vector 0 has no direction"),
        ({"texts": ["a"], "vectors": [1, 2]}, "a list of lists of numbers, not of shape"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(
    notes: VDBMemoryCollection, given: dict[str, Any], says: str
) -> None:
    notes.insert_batch(TEXTS)
    with pytest.raises(InvalidRecordError, match=says):
        notes.insert_batch(**given)
    assert notes.count() == 3


def test_an_id_is_inserted_once(notes: VDBMemoryCollection) -> None:
    notes.insert("one", record_id="a")
    with pytest.raises(DuplicateIdError, match="already: 'a'; nothing was inserted; upsert"):
        notes.insert_batch(["two", "three"], ids=["b", "a"])
    with pytest.raises(DuplicateIdError, match="'b'"):
        notes.upsert_batch(["b", "b"], ["two", "three"])
    assert notes.count() == 1


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ([[1.0, 2.0]], "there are 1 vectors for 2 texts"),
        ([[1.0], [2.0, 3.0]], "of one length"),
        (None, "lists of lists|list of lists"),
        ([["a"], ["b"]], "lists of numbers"),
    ],
)
def test_an_embedder_that_answers_badly_is_found_out(
    tmp_path: Path, answer: Any, says: str
) -> None:
    with VDBMemoryCollection(tmp_path, embedder=lambda texts: answer, create=True) as memory:
        with pytest.raises(ValueError, match=says):
            memory.insert_batch(["a", "b"])
        assert memory.count() == 0


def test_an_embedder_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        if "bad" in texts:
            raise ConnectionError("gone")
        return [[1.0, 2.0]] * len(texts)

    with VDBMemoryCollection(tmp_path, embedder=embed, batch_size=1, create=True) as memory:
        with pytest.raises(ConnectionError, match="gone"):
            memory.insert_batch(["good", "bad"])
        assert memory.count() == 0


@pytest.mark.parametrize(
    ("query", "options", "says"),
    [
        ("x", {"mode": "hybird"}, "unknown search mode 'hybird'; did you mean 'hybrid'"),
        ("x", {"k": 0}, "k must be an integer of at least 1, not 0"),
        ("x", {"k": True}, "not True"),
        ("x", {"k": 10**12}, "k must be an integer of at most 1,000,000,000, not 1000000000000"),
        ("", {}, "the query is empty"),
        (None, {}, "the query is empty"),
        ([1.0], {"mode": "text"}, "searches for a text, not for"),
        ([0.0] * 64, {}, "no direction"),
        (7, {}, "list of lists of numbers"),
    ],
)
def test_a_search_without_sense_is_refused(
    notes: VDBMemoryCollection, query: Any, options: dict[str, Any], says: str
) -> None:
    notes.insert_batch(TEXTS)
    with pytest.raises(ValueError, match=says):
        notes.search(query, **options)


@pytest.mark.parametrize("page", [{"limit": -1}, {"limit": 1.5}, {"offset": -1}, {"offset": None}])
def test_a_page_without_sense_is_refused(notes: VDBMemoryCollection, page: Any) -> None:
    notes.insert_batch(TEXTS)
    with pytest.raises(ValueError, match="must be an integer of at least 0, not "):
        notes.records(**page)
    assert notes.records(limit=0) == []


def test_a_folder_is_a_path_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with VDBMemoryCollection("~/memory", embedder=get_embedding_model("hash")) as memory:
        memory.insert("a text")
    assert (tmp_path / "memory").is_dir()
    for folder in ("s3://bucket/memory", "", None):
        with pytest.raises(NotALocalPathError):
            VDBMemoryCollection(folder)  # type: ignore[arg-type]  # as of a variable that is not set


@pytest.mark.parametrize(
    "error",
    [
        CollectionNotFoundError("notes", "/folder", ["note"]),
        DimensionMismatchError("notes", 3, 4),
        DuplicateIdError("notes", ["a", "b", "c", "d"]),
        InvalidRecordError("notes", "why"),
        MemoryStorageError("notes", "read", "why"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_pickle(error: MemoryCollectionError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
