"""Parquet files: rows, columns, parts, and parts of a run that was stopped."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sage.kernel.api import LocalEnvironment
from sage.libs.io import InputFileError, OutputFileError, ParquetSink, ParquetSource

ROWS = [{"id": number, "text": f"text {number}", "tags": [number, 1]} for number in range(100)]


def write(rows: list[dict[str, Any]], target: Path, **options: Any) -> None:
    env = LocalEnvironment("write")
    env.from_collection(rows).sink(ParquetSink, target, **options)
    env.submit()


def read(source: Path, **options: Any) -> list[Any]:
    out: list[Any] = []
    env = LocalEnvironment("read")
    env.from_source(ParquetSource, source, **options).sink(out.append)
    env.submit()
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_rows_go_through_as_they_are(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "out", rows_per_part=40)
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == [f"part-0000{part}.parquet" for part in range(3)]
    assert read(tmp_path / "out") == ROWS
    assert read(tmp_path / "out" / "part-00002.parquet") == ROWS[80:]
    assert read(tmp_path / "out", columns=["id"])[99] == {"id": 99}


def test_columns_are_the_keys_there_are_or_those_of_a_schema(tmp_path: Path) -> None:
    rows = [{"a": 1}, {"b": "x"}]
    write(rows, tmp_path / "out")
    assert read(tmp_path / "out") == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    schema = pyarrow.schema([("b", pyarrow.string()), ("c", pyarrow.int8())])
    write(rows, tmp_path / "typed", schema=schema)
    assert read(tmp_path / "typed") == [{"b": None, "c": None}, {"b": "x", "c": None}]
    assert pyarrow.parquet.read_schema(tmp_path / "typed" / "part-00000.parquet") == schema


def test_no_rows_make_one_empty_part(tmp_path: Path) -> None:
    write([], tmp_path / "out")
    assert names(tmp_path / "out") == ["part-00000.parquet"]
    assert read(tmp_path / "out") == []


def test_an_output_that_exists_is_not_touched(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "out")
    with pytest.raises(OutputFileError, match="it exists; delete it or write elsewhere"):
        write([], tmp_path / "out")
    assert read(tmp_path / "out") == ROWS


def test_what_is_no_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="a row of a Parquet file is a dict, not 'text'"):
        write(["text"], tmp_path / "out")  # type: ignore[list-item]  # wrong by intent
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("done", [0, 1, 7, 10, 29, 30, 31, 60, 99])
def test_skipped_rows_are_not_given(tmp_path: Path, done: int) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for part in range(2):
        table = pyarrow.Table.from_pylist(ROWS[part * 30 : part * 30 + 30 + part * 40])
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet", row_group_size=10)
    source = ParquetSource(folder)
    source.setup()
    source.skip(done)
    assert [source.execute() for _ in ROWS[done:]] == ROWS[done:]
    source.cleanup()


def test_a_shorter_input_is_refused(tmp_path: Path) -> None:
    write(ROWS, tmp_path / "in")
    source = ParquetSource(tmp_path / "in")
    source.setup()
    source.skip(110)
    with pytest.raises(InputFileError, match="it ends 10 rows before where the last run stopped"):
        source.execute()


class Run:
    """A run with a checkpoint that stops where it is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def submit(self, poison: int | None = None) -> None:
        def work(row: dict[str, Any]) -> dict[str, Any]:
            if row["id"] == poison:
                raise OSError("cut")
            return row

        env = LocalEnvironment("run")
        stream = env.from_collection(ROWS).map(work)
        stream.sink(ParquetSink, self.folder / "out", rows_per_part=30)
        env.submit(checkpoint=self.folder / "checkpoint")


@pytest.mark.parametrize("stops", [[1], [29, 30, 31], [60], [10, 20, 95], [99, 99]])
def test_a_continued_run_makes_the_same_parts(tmp_path: Path, stops: list[int]) -> None:
    run = Run(tmp_path)
    for poison in stops:
        with pytest.raises(OSError, match="cut"):
            run.submit(poison)
        assert not (tmp_path / "out").exists()
    run.submit()
    run.submit()
    write(ROWS, tmp_path / "undisturbed", rows_per_part=30)
    assert names(tmp_path / "out") == names(tmp_path / "undisturbed")
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "undisturbed" / path.name).read_bytes()


def deliver(sink: ParquetSink, start: int, stop: int) -> int:
    for row in ROWS[start:stop]:
        sink.execute(row)
    return sink.state()


def test_what_a_kill_leaves_at_any_step_is_brought_back_to_the_commit(tmp_path: Path) -> None:
    """Each sink is dropped as a kill drops it: nothing is called any more, only its lock goes."""

    def sink(state: int | None) -> ParquetSink:
        opened = ParquetSink(tmp_path / "out", rows_per_part=30)
        opened.begin(state)
        return opened

    first = sink(None)
    state = deliver(first, 0, 40)
    first.sync()
    deliver(first, 40, 75)  # a part is written after the commit
    first.cleanup()
    second = sink(state)
    assert names(tmp_path / "out.partial") == [".journal", "part-00000.parquet"]
    second.cleanup()  # killed before it had done anything
    third = sink(state)
    assert deliver(third, 40, 50) == 50
    third.sync()
    deliver(third, 50, 55)
    third.sync()  # in the journal, but not committed
    third.cleanup()
    with (tmp_path / "out.partial" / ".journal").open("ab") as file:
        file.write(b"\x80\x05torn")
    fourth = sink(50)
    state = deliver(fourth, 50, 80)
    fourth.sync()
    fourth.cleanup()
    fifth = sink(state)
    state = deliver(fifth, 80, 100)
    fifth.sync()
    fifth.finish()
    fifth.cleanup()  # killed after publishing, before the last commit
    sixth = sink(state)
    assert not (tmp_path / "out").exists()
    sixth.finish()
    sixth.cleanup()
    assert read(tmp_path / "out") == ROWS


def test_an_output_that_lost_rows_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(OSError, match="cut"):
        run.submit(70)
    (tmp_path / "out.partial" / "part-00001.parquet").unlink()
    with pytest.raises(OutputFileError, match="has not the 70 rows that the checkpoint"):
        run.submit()


def test_without_pyarrow_only_parquet_is_missing_and_says_what_to_install(tmp_path: Path) -> None:
    code = """
        import sys
        sys.modules["pyarrow"] = None
        from sage.kernel.api import LocalEnvironment
        from sage.libs.io import JSONLSink, ParquetSink
        for sink in (JSONLSink, ParquetSink):
            env = LocalEnvironment("write")
            env.from_collection([{"a": 1}]).sink(sink, sink.__name__)
            try:
                env.submit()
            except ImportError as error:
                print(error.args[0])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, check=True, timeout=240,
    )  # fmt: skip
    assert names(tmp_path) == ["JSONLSink"]
    expected = "Parquet files need pyarrow; install it with: pip install 'isage-libs[parquet]'\n"
    assert done.stdout == expected
