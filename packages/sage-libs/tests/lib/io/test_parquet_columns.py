"""Rows of a Parquet output: which fit beside the others, and what becomes of one that does not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest

from sage.kernel.api import LocalEnvironment
from sage.kernel.runtime.failed_record import FailedRecord
from sage.libs.io import JSONLSink, OutputFileError, ParquetSink
from sage.libs.io.parquet_files import read_rows

NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
ROWS: list[dict[str, Any]] = [{"id": number, "text": f"text {number}"} for number in range(100)]


def read(folder: Path) -> list[dict[str, Any]]:
    parts = sorted(folder.iterdir())
    return [row for part in parts for rows in read_rows(part) for row in rows]


def write(folder: Path, values: list[Any], **options: Any) -> tuple[list[Any], list[FailedRecord]]:
    """Return the values that a column ``a`` holds then, and the rows that it did not take."""
    letters: list[FailedRecord] = []
    env = LocalEnvironment("write")
    rows = env.from_collection([{"a": value} for value in values])
    rows.sink(ParquetSink, folder / "out", on_error=letters.append, **options)
    env.submit()
    return [row["a"] for row in read(folder / "out")], letters


@pytest.mark.parametrize(
    ("values", "stored"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([None, [], [None], [1]], [None, [], [None], [1]]),
        ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
        ([[{"a": [1]}], [{"b": None}]], [[{"a": [1], "b": None}], [{"a": None, "b": None}]]),
        ([Decimal("1.5"), Decimal("100.25"), 3], [Decimal("1.50"), Decimal("100.25"), Decimal(3)]),
        ([NOON, NOON.astimezone(timezone(timedelta(hours=1)))], [NOON, NOON]),
        (["Grüße, 世界", "\n\0", ""], ["Grüße, 世界", "\n\0", ""]),
        ([2**63 - 1, -(2**63)], [2**63 - 1, -(2**63)]),
        ([numpy.float32(0.5), 0.1], [0.5, 0.1]),
        ([[0.5] * 100, [1] * 100], [[0.5] * 100, [1.0] * 100]),
    ],
)
def test_values_of_one_kind_go_into_one_column(
    tmp_path: Path, values: list[Any], stored: list[Any]
) -> None:
    assert write(tmp_path, values) == (stored, [])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([1, "x"], "'x' of type str cannot stand in a column of type int64 (it would be of type s"),
        (["x", b"x"], "b'x' of type bytes cannot stand in a column of type string"),
        ([0.5, True], "True of type bool cannot stand in a column of type double"),
        ([0.5, 2**53 + 1], "Integer value 9007199254740993 is outside of the range exactly"),
        ([1, 2**63], "9223372036854775808 of type int cannot stand in a column of type int64"),
        ([[1], ["x"]], "['x'] of type list cannot stand in a column of type list<element: int64>"),
        ([{"x": 1}, {"x": "1"}], "{'x': '1'} of type dict cannot stand in a column of type struct"),
        ([[1], [1, "x"]], "[1, 'x'] of type list cannot stand in"),
        ([NOON, NOON.replace(tzinfo=None)], "cannot stand in a column of type timestamp[us, tz=UT"),
        ([date(2024, 1, 1), NOON], "cannot stand in a column of type date32[day]"),
        ([Decimal("0.1"), 0.1], "0.1 of type float cannot stand in a column of type decimal128"),
        (["x", "\ud800"], "'\\ud800' of type str cannot stand in a column of type string ('utf-8'"),
        ([1, print], "of type builtin_function_or_method cannot stand in a column of type int64"),
    ],
)
@pytest.mark.parametrize("rows_per_part", [1, 50])
def test_a_value_of_another_kind_is_named_and_left_out(
    tmp_path: Path, values: list[Any], says: str, rows_per_part: int
) -> None:
    first, wrong = values
    stored, (letter,) = write(tmp_path, [first, wrong, None, first], rows_per_part=rows_per_part)
    assert stored == [first, None, first]
    assert letter.record == {"a": wrong}
    assert isinstance(letter.error, OutputFileError)
    assert f"{tmp_path / 'out'}: row 2, column 'a': " in str(letter.error)
    assert says in str(letter.error)
    assert "; mend it by a map() before the sink, or pass a schema= " in str(letter.error)


def test_a_fraction_beside_a_number_that_is_too_large_for_one_is_left_out(tmp_path: Path) -> None:
    stored, (letter,) = write(tmp_path, [2**53 + 1, 0.5, 1])
    assert stored == [2**53 + 1, 1]
    says = (
        "0.5 of type float cannot stand in a column of type int64 (Integer value 9007199254740993"
    )
    assert says in str(letter.error)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"a": {}},
            "column 'a': {} of type dict cannot stand in a new column (Cannot write struct",
        ),
        ({"a": object()}, "of type object cannot stand in a new column"),
        ({1: "x"}, "column 1: 'x' of type str cannot stand in a new column"),
        ({}, "row 1, it has no columns"),
    ],
)
def test_what_no_file_can_hold_is_refused_from_the_first_row_on(
    tmp_path: Path, row: dict[Any, Any], says: str
) -> None:
    env = LocalEnvironment("write")
    env.from_collection([row]).sink(ParquetSink, tmp_path / "out")
    with pytest.raises(OutputFileError) as caught:
        env.submit()
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("type_", "nullable", "values", "wrong"),
    [
        (pyarrow.int8(), True, [1, None, 127], [300, "x", 1.5]),
        (pyarrow.int64(), False, [1, 2], [None, "x"]),
        (pyarrow.string(), True, ["x", None], [1, "\ud800"]),
        (pyarrow.list_(pyarrow.float32(), 2), True, [[0.5, 1]], [[0.5], ["x", "y"]]),
        (
            pyarrow.struct([pyarrow.field("x", pyarrow.int64(), nullable=False)]),
            True,
            [{"x": 1}, None],
            [{"x": None}, {}],
        ),
    ],
)
def test_a_given_schema_says_what_fits(
    tmp_path: Path, type_: Any, nullable: Any, values: list[Any], wrong: list[Any]
) -> None:
    schema = pyarrow.schema([pyarrow.field("a", type_, nullable=nullable)])
    stored, letters = write(tmp_path, [*wrong, *values, *wrong], schema=schema)
    assert stored == values
    assert [letter.record["a"] for letter in letters] == wrong * 2
    assert all("column 'a'" in str(letter.error) for letter in letters)


class Run:
    """A run with a checkpoint whose map makes some ids wrong, until it is mended."""

    def __init__(self, folder: Path, wrong: Callable[[int], bool]) -> None:
        self.folder, self.wrong = folder, wrong

    def submit(self, *, mended: bool = False, on_error: Any = "raise") -> LocalEnvironment:
        def work(row: dict[str, Any]) -> dict[str, Any]:
            return {**row, "id": "none"} if self.wrong(row["id"]) and not mended else row

        env = LocalEnvironment("run")
        self.env = env
        stream = env.from_collection(ROWS).map(work)
        stream.sink(ParquetSink, self.folder / "out", rows_per_part=30, on_error=on_error)
        env.submit(checkpoint=self.folder / "checkpoint")
        return env


@pytest.mark.parametrize("wrong", [7, 30, 45, 99])
def test_a_wrong_row_stops_the_run_at_it_and_a_mended_one_goes_on(
    tmp_path: Path, wrong: int
) -> None:
    run = Run(tmp_path, lambda id_: id_ == wrong)
    says = f"row {wrong + 1}, column 'id': 'none' of type str cannot stand in a column of type int"
    for _ in range(2):
        with pytest.raises(OutputFileError, match=says):
            run.submit()
        assert run.env.failure is not None
        assert run.env.failure.record == {"id": "none", "text": f"text {wrong}"}
    run.submit(mended=True)
    undisturbed = Run(tmp_path / "undisturbed", lambda id_: False)
    undisturbed.submit()
    parts = sorted((tmp_path / "out").iterdir())
    assert [part.name for part in parts] == [f"part-0000{number}.parquet" for number in range(4)]
    for part in parts:
        assert part.read_bytes() == (undisturbed.folder / "out" / part.name).read_bytes()


def test_wrong_rows_go_to_the_dead_letters_and_no_other(tmp_path: Path) -> None:
    run = Run(tmp_path, lambda id_: id_ % 10 == 9)  # the 30th row of a part too
    env = run.submit(on_error=partial(JSONLSink, tmp_path / "failed.jsonl"))
    assert read(tmp_path / "out") == [row for row in ROWS if row["id"] % 10 != 9]
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert len((tmp_path / "failed.jsonl").read_text().splitlines()) == 10
    sink = env.metrics().operator("ParquetSink")
    assert (sink.records_out, sink.dead_lettered) == (90, 10)


def test_a_row_whose_part_cannot_be_written_is_left_out_too(tmp_path: Path) -> None:
    in_the_way = tmp_path / "out.partial" / "part-00000.new"
    letters: list[FailedRecord] = []

    def work(row: dict[str, Any]) -> dict[str, Any]:
        if row["id"] == 0:
            in_the_way.mkdir()
        return row

    def make_room(letter: FailedRecord) -> None:
        letters.append(letter)
        if len(letters) == 2:
            in_the_way.rmdir()

    env = LocalEnvironment("write")
    stream = env.from_collection(ROWS).map(work)
    stream.sink(ParquetSink, tmp_path / "out", rows_per_part=30, on_error=make_room)
    env.submit()
    assert [letter.record["id"] for letter in letters] == [29, 30]
    assert [row["id"] for row in read(tmp_path / "out")] == [*range(29), *range(31, 100)]


# -- one table, whatever part a row is in ---------------------------

LATE = [
    {"a": None, "n": 1, "deep": [], "s": {"x": None}, "price": Decimal("1.5")},
    {"a": None, "n": 2, "deep": [{"k": 1}], "s": {"x": 1}, "price": 2},
    {"a": "text", "n": 3, "deep": None, "s": {"y": "new"}, "price": Decimal("100.25"), "late": 1},
    {"a": None, "n": 0.5, "deep": [{"l": [0.5]}], "s": None, "price": None},
    {"n": 4, "late": 2},
]
LATE_AS_ONE = [
    {
        "a": None, "n": 1.0, "deep": [], "s": {"x": None, "y": None},
        "price": Decimal("1.50"), "late": None,
    },
    {
        "a": None, "n": 2.0, "deep": [{"k": 1, "l": None}], "s": {"x": 1, "y": None},
        "price": Decimal("2.00"), "late": None,
    },
    {
        "a": "text", "n": 3.0, "deep": None, "s": {"x": None, "y": "new"},
        "price": Decimal("100.25"), "late": 1,
    },
    {
        "a": None, "n": 0.5, "deep": [{"k": None, "l": [0.5]}], "s": None,
        "price": None, "late": None,
    },
    {"a": None, "n": 4.0, "deep": None, "s": None, "price": None, "late": 2},
]  # fmt: skip


def submit_late(folder: Path, rows_per_part: int, *, stop_at: int | None = None) -> None:

    def work(row: dict[str, Any]) -> dict[str, Any]:
        if LATE.index(row) == stop_at:
            raise OSError("cut")
        return row

    env = LocalEnvironment("late")
    env.from_collection(LATE).map(work).sink(
        ParquetSink, folder / "out", rows_per_part=rows_per_part
    )
    env.submit(checkpoint=folder / "checkpoint")


def read_as_one(folder: Path) -> list[dict[str, Any]]:
    parts = [pyarrow.parquet.read_schema(part) for part in sorted(folder.iterdir())]
    assert all(part.equals(parts[0]) for part in parts)
    table = pyarrow.dataset.dataset(folder).to_table()  # which takes the first part's columns
    assert table.equals(pyarrow.parquet.read_table(folder))  # as pandas does
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


@pytest.mark.parametrize("rows_per_part", [1, 2, 3, 10])
def test_all_parts_have_one_schema(tmp_path: Path, rows_per_part: int) -> None:
    submit_late(tmp_path, rows_per_part)
    assert read_as_one(tmp_path / "out") == LATE_AS_ONE


@pytest.mark.parametrize("stop_at", [1, 2, 3, 4])
def test_a_continued_run_has_one_schema_too(tmp_path: Path, stop_at: int) -> None:
    with pytest.raises(OSError, match="cut"):
        submit_late(tmp_path, 2, stop_at=stop_at)
    submit_late(tmp_path, 2)
    submit_late(tmp_path / "undisturbed", 2)
    assert read_as_one(tmp_path / "out") == LATE_AS_ONE
    for part in (tmp_path / "out").iterdir():
        assert part.read_bytes() == (tmp_path / "undisturbed" / "out" / part.name).read_bytes()


def test_a_kill_while_parts_get_their_schema_is_mended(tmp_path: Path) -> None:
    """It is dropped as a kill drops it, with the first of three parts done."""

    def sink(state: int | None) -> ParquetSink:
        opened = ParquetSink(tmp_path / "out", rows_per_part=2)
        opened.begin(state)
        return opened

    first = sink(None)
    for row in LATE:
        first.execute(row)
    first.sync()
    state = first.state()
    first.finish()
    first.cleanup()
    whole = (tmp_path / "out").rename(tmp_path / "whole")
    second = sink(None)
    for row in LATE:
        second.execute(row)
    second.sync()
    second.cleanup()
    done = (whole / "part-00000.parquet").read_bytes()
    (tmp_path / "out.partial" / "part-00000.parquet").write_bytes(done)
    (tmp_path / "out.partial" / "part-00001.new").write_bytes(b"half of it")
    third = sink(state)
    third.finish()
    third.cleanup()
    assert read_as_one(tmp_path / "out") == LATE_AS_ONE


def test_what_a_written_part_cannot_become_is_the_error_of_the_record_that_asks_for_it(
    tmp_path: Path,
) -> None:
    values = [2**53 + 1, 3, 0.5, 4]
    stored, (letter,) = write(tmp_path, values, rows_per_part=1)
    assert stored == [2**53 + 1, 3, 4]
    assert letter.record == {"a": 0.5}
    says = (
        "0.5 of type float cannot stand in a column of type int64 (Integer value 9007199254740993"
    )
    assert says in str(letter.error)
    assert read_as_one(tmp_path / "out") == [{"a": value} for value in stored]
