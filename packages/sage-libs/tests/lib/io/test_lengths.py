"""File sources know how many records they have, so a run shows how far it is."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink, JSONLSource, ParquetSource


def write(folder: Path, form: str) -> type[JSONLSource] | type[ParquetSource]:
    """Write 100 records as two files and a half-empty one; return the source that reads them."""
    folder.mkdir()
    for number, count in enumerate([70, 0, 30]):
        rows = [{"id": n} for n in range(count)]
        path = folder / f"{number}.{form}"
        if form == "jsonl":
            path.write_text("".join(f"{json.dumps(row)}\n\n" for row in rows) + " \n")
        else:
            table = pyarrow.Table.from_pylist(rows, pyarrow.schema([("id", pyarrow.int64())]))
            pyarrow.parquet.write_table(table, path, row_group_size=7)
    return JSONLSource if form == "jsonl" else ParquetSource


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_a_run_and_the_one_that_goes_on_know_what_they_have_to_do(
    tmp_path: Path, form: str
) -> None:
    source = write(tmp_path / "in", form)
    seen: list[Any] = []

    def run(stop_at: int | None) -> LocalEnvironment:
        def work(record: dict[str, int]) -> dict[str, int]:
            seen.append(env.metrics().length)
            if len(seen) == stop_at:
                raise OSError("cut")
            return record

        env = LocalEnvironment("run")
        env.from_source(source, tmp_path / "in").map(work).sink(JSONLSink, tmp_path / "out")
        if stop_at is None:
            env.submit(checkpoint=tmp_path / "checkpoint")
        else:
            with pytest.raises(OSError, match="cut"):
                env.submit(checkpoint=tmp_path / "checkpoint")
        return env

    run(stop_at=41)
    metrics = run(stop_at=None).metrics()
    assert seen == [100] * 41 + [60] * 60
    assert (metrics.length, metrics.done) == (60, 60)


def length(path: Path) -> int | None:
    env = LocalEnvironment("length")
    env.from_source(JSONLSource, path).sink(lambda record: env.stop())
    env.submit()
    return env.metrics().length


def test_a_pipe_can_be_read_only_once_and_so_is_not_counted(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_text, args=("1\n2\n",))
    writer.start()
    out: list[int] = []
    env = LocalEnvironment("pipe")
    env.from_source(JSONLSource, tmp_path / "pipe").sink(out.append)
    env.submit()
    writer.join()
    assert out == [1, 2]
    assert env.metrics().length is None


def test_a_large_file_does_not_hold_up_the_start(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("1\n2\n")
    assert length(path) == 2
    os.truncate(path, 1 << 40)  # with a hole, which takes no room
    assert length(path) is None
