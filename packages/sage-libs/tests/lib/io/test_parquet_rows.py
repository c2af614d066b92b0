"""Parquet files as people have them: columns, values that JSON has not, damaged files."""

from __future__ import annotations

import json
import logging
import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy
import pyarrow
import pyarrow.parquet
import pytest

from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.io import InputFileError, JSONLSink, ParquetSource


def write(path: Path, columns: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


def read(source: Path, *, on_error: Any = "raise", **options: Any) -> list[Any]:
    out: list[Any] = []
    env = LocalEnvironment("read")
    env.from_source(ParquetSource, source, on_error=on_error, **options).sink(out.append)
    env.submit()
    return out


def as_json(source: Path, **options: Any) -> list[Any]:
    target = source.with_suffix(".jsonl")
    env = LocalEnvironment("convert")
    env.from_source(ParquetSource, source, **options).sink(JSONLSink, target)
    env.submit()
    return [json.loads(line) for line in target.read_text(encoding="utf-8").splitlines()]


def test_what_json_has_no_type_for_becomes_text(tmp_path: Path) -> None:
    noon = datetime(2024, 1, 1, 12, 0, 0, 5, tzinfo=UTC)
    path = write(
        tmp_path / "in.parquet",
        {
            "at": pyarrow.array([noon], pyarrow.timestamp("us", "UTC")),
            "naive": pyarrow.array([datetime(2024, 1, 1)], pyarrow.timestamp("ms")),
            "day": pyarrow.array([date(2024, 2, 29)]),
            "time": pyarrow.array([time(23, 59, 1)]),
            "took": pyarrow.array([timedelta(minutes=-1, microseconds=1)]),
            "price": pyarrow.array([Decimal("12345678901234567890.10")]),
            "raw": pyarrow.array([b"\x00\xff"]),
            "map": pyarrow.array([[("a", 1), ("b", None)]], pyarrow.map_("string", "int64")),
            "days": pyarrow.array([[(date(2024, 1, 1), 1)]], pyarrow.map_("date32", "int64")),
            "deep": pyarrow.array([[{"at": noon}]]),
            "kind": pyarrow.array(["x"]).dictionary_encode(),
            "big": pyarrow.array([2**63 - 1]),
            "half": pyarrow.array([0.5], pyarrow.float16()),
        },
    )
    assert as_json(path) == [
        {
            "at": "2024-01-01T12:00:00.000005+00:00",
            "naive": "2024-01-01T00:00:00",
            "day": "2024-02-29",
            "time": "23:59:01",
            "took": "-PT59.999999S",
            "price": "12345678901234567890.10",
            "raw": "AP8=",
            "map": {"a": 1, "b": None},
            "days": {"2024-01-01": 1},
            "deep": [{"at": "2024-01-01T12:00:00.000005+00:00"}],
            "kind": "x",
            "big": 2**63 - 1,
            "half": 0.5,
        }
    ]


def test_values_of_a_map_function_become_text_too(tmp_path: Path) -> None:
    record = {
        "id": UUID(int=1),
        "vector": numpy.array([0.5, 1.5], dtype="float32"),
        "count": numpy.int32(3),
        Decimal("1.5"): 1,
    }
    env = LocalEnvironment("values")
    env.from_collection([record]).sink(JSONLSink, tmp_path / "out.jsonl")
    env.submit()
    assert json.loads((tmp_path / "out.jsonl").read_text()) == {
        "id": "00000000-0000-0000-0000-000000000001",
        "vector": [0.5, 1.5],
        "count": 3,
        "1.5": 1,
    }


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"a": numpy.datetime64(1, "ns")}, "a datetime64 cannot be written as JSON"),
        ({"a": numpy.float32("nan")}, "a number of the record is not finite"),
        ({date(2024, 1, 1): 1, "2024-01-01": 2}, "two keys are one text in JSON"),
        ({frozenset(): 1}, "a frozenset cannot be written as JSON"),
    ],
)
def test_what_cannot_be_text_is_named(tmp_path: Path, record: Any, says: str) -> None:
    env = LocalEnvironment("values")
    env.from_collection([record]).sink(JSONLSink, tmp_path / "out.jsonl")
    with pytest.raises((TypeError, ValueError), match=says):
        env.submit()


def test_nanoseconds_are_not_lost(tmp_path: Path) -> None:
    counts = [1_700_000_000_000_000_001, 1_700_000_000_000_001_000, None, -1]
    path = write(
        tmp_path / "in.parquet",
        {
            "at": pyarrow.array(counts, pyarrow.timestamp("ns", "UTC")),
            "whole": pyarrow.array([1000, 2000, None, -1000], pyarrow.timestamp("ns")),
            "took": pyarrow.array([1, 1000, None, -1_000_000_001], pyarrow.duration("ns")),
            "deep": pyarrow.array([[1000], [], None, [2000]], pyarrow.list_(pyarrow.time64("ns"))),
        },
    )
    rows = read(path)
    assert [row["at"] for row in rows] == [
        "2023-11-14T22:13:20.000000001+00:00",
        datetime(2023, 11, 14, 22, 13, 20, 1, tzinfo=UTC),
        None,
        "1969-12-31T23:59:59.999999999+00:00",
    ]
    assert rows[0]["whole"] == datetime(1970, 1, 1, 0, 0, 0, 1)
    assert [row["took"] for row in rows] == [
        "PT0.000000001S", timedelta(microseconds=1), None, "-PT1.000000001S",
    ]  # fmt: skip
    assert [row["deep"] for row in rows] == [[time(0, 0, 0, 1)], [], None, [time(0, 0, 0, 2)]]
    assert list(rows[0]) == ["at", "whole", "took", "deep"]


def test_a_row_that_cannot_be_read_goes_to_the_dead_letters(tmp_path: Path) -> None:
    moments = pyarrow.array([0, 2**62, 0], pyarrow.timestamp("us"))  # the year 148107
    doubled = pyarrow.array([[], [], [("a", 1), ("a", 2)]], pyarrow.map_("string", "int64"))
    path = write(tmp_path / "in.parquet", {"id": [0, 1, 2], "at": moments, "map": doubled})
    with pytest.raises(InputFileError, match=r"in\.parquet, row 2: "):
        read(path)
    letters: list[FailedRecord] = []
    rows = read(path, on_error=letters.append)
    assert [row["id"] for row in rows] == [0]
    assert [letter.record for letter in letters] == [
        {"path": str(path), "row": 2},
        {"path": str(path), "row": 3},
    ]


def test_numbers_that_json_has_not_can_be_decided_while_reading(tmp_path: Path) -> None:
    values = [[0.5], [math.nan], None, [math.inf, 1.0]]
    path = write(tmp_path / "in.parquet", {"id": [0, 1, 2, 3], "scores": values})
    assert math.isnan(read(path)[1]["scores"][0])
    nulled = read(path, not_finite="null")
    assert [row["scores"] for row in nulled] == [[0.5], [None], None, [None, 1.0]]
    with pytest.raises(InputFileError, match=r"row 2: row\['scores'\]\[0\] is nan"):
        read(path, not_finite="raise")
    rows = read(path, not_finite="raise", on_error=partial(JSONLSink, tmp_path / "bad.jsonl"))
    assert [row["id"] for row in rows] == [0, 2]
    lines = (tmp_path / "bad.jsonl").read_text().splitlines()
    bad = [json.loads(line)["record"] for line in lines]
    assert [letter["row"] for letter in bad] == [2, 4]


# -- columns --------------------------------------------------------------------------------------


def test_a_column_that_is_not_there_is_an_error_that_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": ["x"], "id": [1]})
    write(tmp_path / "b.parquet", {"text": ["y"]})
    with pytest.raises(InputFileError, match=r"a\.parquet: it has no column 'txt'; did you mean"):
        read(tmp_path, columns=["txt"])
    with pytest.raises(InputFileError, match=r"b\.parquet: it has no column 'id'; valid: text"):
        read(tmp_path, columns=["id"])
    for wrong in ("text", []):
        with pytest.raises(ValueError, match="columns is a list of at least one name, not "):
            ParquetSource(tmp_path, columns=wrong)


def test_a_field_of_a_column_can_be_read_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"a": [{"b": 1, "c": 2}], "d.e": [3]})
    assert read(path, columns=["a.b"]) == [{"a": {"b": 1}}]
    assert read(path, columns=["d.e"]) == [{"d.e": 3}]
    with pytest.raises(InputFileError, match="it has no column 'd'"):
        read(path, columns=["d"])


def test_two_columns_of_one_name_are_an_error(tmp_path: Path) -> None:
    table = pyarrow.table([[1], [2], [3]], names=["id", "text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "in.parquet")
    with pytest.raises(InputFileError, match="it has 2 columns 'text', of which a record can hold"):
        read(tmp_path / "in.parquet")
    assert read(tmp_path / "in.parquet", columns=["id"]) == [{"id": 1}]


# -- files that are damaged -----------------------------------------------------------------------


def damage(path: Path, how: str) -> None:
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "cut": whole[:-100], "text": b"a,b\n1,2\n" * 10}[how])


@pytest.mark.parametrize("how", ["empty", "cut", "text"])
def test_a_file_that_is_no_parquet_is_one_error_with_its_name(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.parquet", {"id": [1]})
    path = write(tmp_path / "b.parquet", {"id": list(range(1000))})
    damage(path, how)
    with caplog.at_level(logging.DEBUG), pytest.raises(InputFileError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path}: no Parquet file, or damaged: ")
    assert caplog.records == []
    assert tuple(capfd.readouterr()) == ("", "")


def test_pages_that_are_damaged_are_named_too(tmp_path: Path) -> None:
    path = write(tmp_path / "in.parquet", {"id": list(range(100_000))})
    data = bytearray(path.read_bytes())
    data[4:2000] = b"\xff" * 1996
    path.write_bytes(data)
    with pytest.raises(InputFileError, match=r"in\.parquet: no Parquet file, or damaged: "):
        read(path)
