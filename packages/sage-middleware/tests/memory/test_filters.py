"""Filters choose what Python would choose, whatever the values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sage.middleware.components.memory import InvalidFilterError, VDBMemoryCollection

# What could end a string, a statement or a parser.
STRINGS = [
    "plain", "it's", "' OR '1'='1", "'; DELETE FROM t; --", "''", "\\", "\\'", '"', "`", "``",
    "--", "/*", "%", "_", "$1", "?", "{}", "\n", "\0", "漢字", "🦊", " ", "NULL", "true",
]  # fmt: skip
RECORDS: list[dict[str, Any]] = [
    {"name": text, "size": n - 3, "weight": n / 3, "flag": n % 2 == 0}
    for n, text in enumerate(STRINGS)
]
RECORDS += [{}, {"size": 2**63 - 1, "weight": 1e300}, {"size": -(2**63), "weight": -1e-300}]


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VDBMemoryCollection]:
    """A collection of all the records; a record's id and text are its number."""
    folder: Path = tmp_path_factory.mktemp("filters")
    fields = {"name": str, "size": int, "weight": float, "flag": bool, "Select": int}
    with VDBMemoryCollection(folder, fields=fields) as collection:
        ids = [str(n) for n in range(len(RECORDS))]
        collection.insert_batch(ids, RECORDS, ids=ids, vectors=[[1, n] for n in range(len(ids))])
        collection.insert("named", {"name": "x", "Select": 5}, record_id="it's", vector=[1, 1])
        yield collection


def matching(memory: VDBMemoryCollection, where: dict[str, Any]) -> set[str]:
    found = {hit.id for hit in memory.search([1, 1], k=100, where=where)} - {"it's"}
    if "id" not in where:
        assert memory.count({**where, "id": {"!=": "it's"}}) == len(found)
    return found


def chosen(condition: Callable[[dict[str, Any]], bool]) -> set[str]:
    return {str(n) for n, record in enumerate(RECORDS) if condition(record)}


@pytest.mark.parametrize("text", STRINGS)
def test_a_string_matches_itself_only(memory: VDBMemoryCollection, text: str) -> None:
    assert matching(memory, {"name": text}) == {str(STRINGS.index(text))}
    assert matching(memory, {"name": {"!=": text}}) == chosen(lambda r: r.get("name") != text)
    assert matching(memory, {"name": ["nobody", text]}) == {str(STRINGS.index(text))}


@pytest.mark.parametrize("text", STRINGS)
def test_an_id_is_only_a_value_too(tmp_path: Path, text: str) -> None:
    with VDBMemoryCollection(tmp_path) as memory:
        memory.insert_batch(["kept", "found"], ids=["kept", text], vectors=[[1], [1]])
        record = memory.get(text)
        assert record is not None
        assert record.text == "found"
        assert memory.delete(text) == 1
        assert memory.count() == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", 4), ("size", -3), ("size", 2**63 - 1), ("size", -(2**63)),
        ("weight", 2 / 3), ("weight", 1), ("weight", 1e300), ("weight", -1e-300), ("weight", 0.0),
        ("name", "m"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("sign", ["==", "!=", "<", "<=", ">", ">="])
def test_comparisons_are_those_of_python(
    memory: VDBMemoryCollection, field: str, value: Any, sign: str
) -> None:
    functions = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}
    compare = getattr(operator, functions[sign])
    if sign == "!=":
        expected = chosen(lambda r: r.get(field) != value)
    else:
        expected = chosen(lambda r: field in r and compare(r[field], value))
    assert matching(memory, {field: {sign: value}}) == expected


def test_conditions_must_all_hold(memory: VDBMemoryCollection) -> None:
    where = {"size": {">": 0, "<=": 9}, "flag": True, "name": {"not in": ["--"]}}
    assert matching(memory, where) == chosen(
        lambda r: 0 < r.get("size", 0) <= 9 and r.get("flag") is True and r["name"] != "--"
    )


def test_lists_none_and_names_of_all_kinds(memory: VDBMemoryCollection) -> None:
    everything = chosen(lambda r: True)
    assert matching(memory, {"size": {"in": (1, 2, 99)}}) == {"4", "5"}
    assert matching(memory, {"size": {"not in": {1, 2}}}) == everything - {"4", "5"}
    assert matching(memory, {"size": []}) == set()
    assert matching(memory, {"size": {"not in": []}}) == everything
    assert matching(memory, {"flag": None}) == chosen(lambda r: "flag" not in r)
    assert matching(memory, {"flag": {"!=": None}}) == chosen(lambda r: "flag" in r)
    assert matching(memory, {"flag": False}) == chosen(lambda r: r.get("flag") is False)
    assert matching(memory, {}) == everything
    assert matching(memory, {"id": ["3", "4"]}) == {"3", "4"}
    assert memory.count({"Select": 5}) == 1  # a word of SQL, with a capital
    assert memory.count({"id": "it's"}) == 1


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"nmae": "x"}, "'nmae' is no field to filter by; did you mean 'name'"),
        ({"colour": "x"}, "valid: Select, flag, id, name, size, weight .fields are declared"),
        ({"1=1 OR name": "x"}, "is no field"),
        ({"name` = '' OR `name": "x"}, "is no field"),
        ({3: "x"}, "3 is no field"),
        ({"size": "4"}, "'size' is compared with '4': the field was declared int"),
        ({"size": 4.5}, "declared int"),
        ({"size": True}, "declared int"),
        ({"size": 2**63}, "fit in 64 bits"),
        ({"weight": float("nan")}, "finite"),
        ({"name": "\ud800"}, "no valid Unicode"),
        ({"size": {"=>": 4}}, "unknown operator '=>'; valid: ==, !=, <, <=, >, >=, in, not in"),
        ({"size": {"in": 4}}, "'in' of field 'size' takes a list, not 4"),
        ({"size": {"<": None}}, "compared with None"),
        ({"name": ["x", 3]}, "compared with 3"),
        ("size = 4", "must be a dict such as"),
        (["size"], "must be a dict such as"),
    ],
)
def test_a_bad_filter_says_what_is_valid(
    memory: VDBMemoryCollection, where: Any, says: str
) -> None:
    for use in (memory.count, lambda where: memory.delete(where=where)):
        with pytest.raises(InvalidFilterError, match=says):
            use(where)
    with pytest.raises(InvalidFilterError, match="bad filter for collection 'memory'"):
        memory.search([1, 1], where=where)
    assert memory.count() == len(RECORDS) + 1


def test_a_bad_filter_has_its_way_out_beside_its_reason(memory: VDBMemoryCollection) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        memory.count({"size": {"=>": 4}})
    assert caught.value.reason == "field 'size' has the unknown operator '=>'"
    assert caught.value.hint == "valid: ==, !=, <, <=, >, >=, in, not in"
    with pytest.raises(InvalidFilterError) as caught:
        memory.count({"nmae": "x"})
    assert caught.value.reason == "'nmae' is no field to filter by"
    assert str(caught.value.hint).startswith("did you mean 'name'? (fields are declared")
