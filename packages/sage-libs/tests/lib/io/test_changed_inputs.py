"""Sources say what became of their input between two runs, and which records are as they were."""

from __future__ import annotations

import codecs
import gzip
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from sage.kernel.api import InputChange, InputChangedError, LocalEnvironment
from sage.kernel.runtime.checkpoint import FingerprintedInput
from sage.libs.io import InputFileError, JSONLSink, JSONLSource, ParquetSource

Lines = list[str]
LINES = [f'{{"id": {n}}}' for n in range(20)]


def text(lines: Lines) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def known(source: FingerprintedInput) -> Any:
    """Return its fingerprint as a checkpoint keeps it."""
    return json.loads(json.dumps(source.input_fingerprint()))


def change(path: Path, before: bytes, after: bytes) -> InputChange | None:
    path.write_bytes(before)
    fingerprint = known(JSONLSource(path))
    path.write_bytes(after)
    os.utime(path, ns=(1, 1))  # a test may write twice within one tick of the file system's clock
    return JSONLSource(path).input_change(fingerprint)


@pytest.mark.parametrize(
    ("edit", "what", "first"),
    [
        (lambda lines: ["0", *lines], "record 1 of {} is another than before", 0),
        (lambda lines: [*lines[:7], "{}", *lines[8:]], "record 8 of {} is another than before", 7),
        (lambda lines: lines[:7] + lines[8:], "record 8 of {} is another than before", 7),
        (lambda lines: lines[:12], "{} has 12 records, not 20", 12),
        (lambda lines: [], "{} has 0 records, not 20", 0),
        (lambda lines: [*lines[:19], "1"], "record 20 of {} is another than before", 19),
    ],
    ids=["put before", "changed", "taken out", "cut", "emptied", "the last one changed"],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_changed_input_says_what_changed_and_how_much_did_not(
    tmp_path: Path,
    edit: Callable[[Lines], Lines],
    what: str,
    first: int,
    pack: Callable[[bytes], bytes],
) -> None:
    path = tmp_path / "in.jsonl"
    found = change(path, pack(text(LINES)), pack(text(edit(LINES))))
    assert found == InputChange(what=what.format(path), first=first)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_input_that_only_grew_says_so(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "in.jsonl"
    grown = InputChange(what=f"{path} has more than 20 records", grew=True, first=20)
    before = pack(text(LINES))
    assert change(path, before, before + pack(text(["20", "21"]))) == grown
    assert change(path, pack(text(LINES)[:-1]), pack(text(LINES) + b"20")) == grown


def test_a_last_record_that_goes_on_in_what_was_added_has_changed(tmp_path: Path) -> None:
    found = change(tmp_path / "in.jsonl", b"1\n2", b"1\n22\n3\n")
    assert found is not None
    assert (found.grew, found.first) == (False, 1)


@pytest.mark.parametrize(
    "after",
    [
        text(LINES),
        codecs.BOM_UTF8 + text(LINES),
        text(LINES).replace(b"\n", b"\r\n\r\n"),
        text(LINES).decode().encode("utf-16"),
        gzip.compress(text(LINES)),
    ],
    ids=["touched", "bom", "line ends", "utf-16", "compressed"],
)
def test_the_same_records_are_the_same_input(tmp_path: Path, after: bytes) -> None:
    assert change(tmp_path / "in.jsonl", text(LINES), after) is None


def test_an_input_of_many_lines_has_few_marks(tmp_path: Path) -> None:
    lines = [str(n) for n in range(10_000)]
    path = tmp_path / "in.jsonl"
    path.write_bytes(text(lines))
    assert len(known(JSONLSource(path))["marks"]) <= 1024
    found = change(path, text(lines), text([*lines[:5000], "x", *lines[5001:]]))
    assert found is not None
    assert 5000 - 16 <= found.first <= 5000
    assert found.what.startswith("one of records ")


def test_a_folder_is_one_input(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jsonl").write_bytes(text(LINES))
    fingerprint = known(JSONLSource(tmp_path))
    (tmp_path / "3.jsonl").write_bytes(text(LINES))
    found = JSONLSource(tmp_path).input_change(fingerprint)
    assert found is not None
    assert (found.grew, found.first) == (True, 60)
    (tmp_path / "3.jsonl").rename(tmp_path / "00.jsonl")
    (tmp_path / "00.jsonl").write_bytes(b"1\n")
    found = JSONLSource(tmp_path).input_change(fingerprint)
    assert found is not None
    assert (found.grew, found.first) == (False, 20)


def test_a_file_of_the_same_size_and_time_is_not_read_again(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"1\n")
    fingerprint = known(JSONLSource(path))
    stat = path.stat()
    path.write_bytes(b"\xff\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert JSONLSource(path).input_change(fingerprint) is None


def test_a_pipe_is_not_read_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    fingerprint = known(JSONLSource(tmp_path / "pipe"))
    assert JSONLSource(tmp_path / "pipe").input_change(fingerprint) is None
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(b"1\n",))
    writer.start()
    source = JSONLSource(tmp_path / "pipe")
    source.setup()
    assert source.execute() == 1
    source.cleanup()
    writer.join()


def test_parquet_files_change_and_grow_file_by_file(tmp_path: Path) -> None:
    def write(name: str, ids: list[int]) -> None:
        pyarrow.parquet.write_table(pyarrow.table({"id": ids}), tmp_path / name)

    write("a.parquet", [1, 2])
    write("b.parquet", [3, 4, 5])
    fingerprint = known(ParquetSource(tmp_path))
    assert ParquetSource(tmp_path).input_change(fingerprint) is None
    write("c.parquet", [6])
    found = ParquetSource(tmp_path).input_change(fingerprint)
    assert found == InputChange(what=f"{tmp_path} has more than 5 records", grew=True, first=5)
    write("b.parquet", [3, 4, 7])
    found = ParquetSource(tmp_path).input_change(fingerprint)
    what = f"one of records 3 to 5 of {tmp_path} is another than before"
    assert found == InputChange(what=what, first=2)


# -- runs that go on -----------------------------------------------------


class Job:
    """A run with a checkpoint from one compressed file into another."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "in.jsonl.gz"
        self.output = folder / "out.jsonl.gz"
        self.checkpoint = folder / "checkpoint"

    def submit(self, lines: Lines, *, stop_at: int | None = None, **options: Any) -> None:
        def work(record: dict[str, int]) -> dict[str, int]:
            if record["id"] == stop_at:
                raise OSError("cut")
            return record

        self.source.write_bytes(gzip.compress(text(lines)))
        env = LocalEnvironment("job")
        env.from_source(JSONLSource, self.source).map(work).sink(JSONLSink, self.output)
        env.submit(checkpoint=self.checkpoint, **options)

    @property
    def written(self) -> bytes:
        return gzip.decompress(self.output.read_bytes())


def test_a_compressed_input_that_grew_goes_on_into_a_compressed_output(tmp_path: Path) -> None:
    job = Job(tmp_path)
    with pytest.raises(OSError, match="cut"):
        job.submit(LINES, stop_at=7)
    with pytest.raises(InputChangedError, match=r"record 1 of .*, and 7 are done"):
        job.submit(['{"id": 99}', *LINES])
    job.submit(LINES)
    more = [*LINES, '{"id": 20}']
    with pytest.raises(InputChangedError, match="its input grew since it was begun"):
        job.submit(more)
    job.submit(more, input_grew="continue")
    assert job.written == text(more)


def test_a_bad_line_of_a_compressed_input_is_mended_and_the_run_goes_on(tmp_path: Path) -> None:
    job = Job(tmp_path)
    with pytest.raises(InputFileError, match=r"in\.jsonl\.gz, line 8: no JSON"):
        job.submit([*LINES[:7], "{", *LINES[8:]])
    job.submit(LINES)
    assert job.written == text(LINES)
