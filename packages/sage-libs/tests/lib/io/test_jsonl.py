"""JSON Lines files: what is read, what is written, and when it is there."""

from __future__ import annotations

import json
import math
import os
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.core.functions import StopSignal
from sage.common.core.local_path import NotALocalPathError
from sage.kernel.api import LocalEnvironment
from sage.libs.io import (
    InputFileError,
    JSONLSink,
    JSONLSource,
    OutputFileError,
    ParquetSink,
    ParquetSource,
)

pytestmark = pytest.mark.usefixtures("each_environment")


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def copy(source: Path, target: Path, function: Any = lambda record: record) -> LocalEnvironment:
    env = LocalEnvironment("copy")
    env.from_source(JSONLSource, source).map(function, name="copy").sink(JSONLSink, target)
    return env


def test_records_go_through_as_they_are(tmp_path: Path) -> None:
    records = [
        {"id": 1, "text": "Grüße, 世界"},
        "text",
        3,
        None,
        [1.5, {"a": [True]}],
        "half \ud83d",
    ]
    source = write(tmp_path / "in.jsonl", *map(json.dumps, records))
    copy(source, tmp_path / "new" / "out.jsonl").submit()
    lines = (tmp_path / "new" / "out.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records
    assert "世界" in lines[0]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.jsonl"]


def test_a_folder_is_read_by_name_and_blank_lines_are_no_records(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder / "b.jsonl", "3", "", "4")
    write(folder / "a.jsonl", "1", "  ", "2", "")
    write(folder / "c.txt", "no JSON")
    copy(folder, tmp_path / "out.jsonl").submit()
    assert (tmp_path / "out.jsonl").read_text() == "1\n2\n3\n4\n"


@pytest.mark.parametrize("line", ["{", "{'a': 1}", "nothing", "\\x"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    source = write(tmp_path / "in.jsonl", "1", "", line, "2")
    with pytest.raises(InputFileError, match=r"in\.jsonl, line 3: no JSON: ") as caught:
        copy(source, tmp_path / "out.jsonl").submit()
    assert (caught.value.path, caught.value.line) == (str(source), 3)


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'1\n"\xff"\n')
    with pytest.raises(InputFileError, match=r"line 2: .*can't decode byte 0xff"):
        copy(tmp_path / "in.jsonl", tmp_path / "out.jsonl").submit()


def test_a_missing_input_is_named_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*in\.jsonl"):
        copy(tmp_path / "in.jsonl", tmp_path / "out.jsonl").submit()
    (tmp_path / "in").mkdir()
    with pytest.raises(FileNotFoundError, match=r"in holds no \*\.jsonl file"):
        copy(tmp_path / "in", tmp_path / "out.jsonl").submit()
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_an_output_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", *map(str, range(1000)))
    target = write(tmp_path / "out.jsonl", "of an earlier run")
    seen = []

    def look(record: int) -> int:
        seen.append(target.read_text())
        if record == 700 and len(seen) < 1000:
            raise OSError("cut")
        return record

    with pytest.raises(OSError, match="cut"):
        copy(source, target, look).submit()
    assert target.read_text() == "of an earlier run\n"
    copy(source, target, look).submit()
    assert set(seen) == {"of an earlier run\n"}
    assert target.read_text() == source.read_text()


def test_no_records_make_an_empty_file(tmp_path: Path) -> None:
    copy(write(tmp_path / "in.jsonl"), tmp_path / "out.jsonl").submit()
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_what_is_no_json_is_named(tmp_path: Path) -> None:
    env = LocalEnvironment("set")
    env.from_collection([{1, 2}]).sink(JSONLSink, tmp_path / "out.jsonl")
    with pytest.raises(TypeError, match=r"a set cannot be written as JSON: \{1, 2\}; turn it into"):
        env.submit()


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"id": 7, "scores": [0.5, math.nan]}, "record['scores'][1] is nan"),
        (math.inf, "record is inf"),
        ([{"a": (1.0, -math.inf)}, math.nan], "record[0]['a'][1] is -inf"),
        ({math.nan: 1}, "a number of the record is not finite"),
    ],
)
def test_numbers_that_json_does_not_have_are_named(tmp_path: Path, record: Any, says: str) -> None:
    env = LocalEnvironment("nan")
    env.from_collection([record]).sink(JSONLSink, tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="turn it into None or a string by a map") as caught:
        env.submit()
    assert f"{says}, for which JSON has no number; " in str(caught.value)


def test_a_folder_is_no_output_file(tmp_path: Path) -> None:
    with pytest.raises(OutputFileError, match="it is a folder"):
        copy(write(tmp_path / "in.jsonl"), tmp_path).submit()


def test_a_device_is_no_output_file_and_stays_what_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputFileError, match=r"device or a pipe, .*; name a file"):
        copy(write(tmp_path / "in.jsonl"), pipe).submit()
    assert pipe.is_fifo()
    (tmp_path / "link").symlink_to(pipe)
    with pytest.raises(OutputFileError, match="device or a pipe"):
        copy(tmp_path / "in.jsonl", tmp_path / "link").submit()


def test_a_link_is_followed_to_the_output_file(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    link = tmp_path / "out.jsonl"
    link.symlink_to("far/real.jsonl")
    for number in "12":  # what it leads to is not there at first
        copy(write(tmp_path / "in.jsonl", number), link).submit()
        assert link.is_symlink()
        assert link.read_text() == f"{number}\n"
    assert [path.name for path in (tmp_path / "far").iterdir()] == ["real.jsonl"]


@pytest.mark.parametrize("path", [None, "", b"in.jsonl", ["in.jsonl"], 7])
@pytest.mark.parametrize("of", [JSONLSource, JSONLSink, ParquetSource, ParquetSink])
def test_what_is_no_path_is_told_before_anything_is_read(of: Any, path: Any) -> None:
    with pytest.raises(NotALocalPathError, match="is no path; give the path of a file") as caught:
        of(path)
    assert caught.value.path == repr(path)


def test_folders_in_a_folder_are_no_input(tmp_path: Path) -> None:
    (tmp_path / "in" / "b.jsonl").mkdir(parents=True)
    write(tmp_path / "in" / "a.jsonl", "1")
    copy(tmp_path / "in", tmp_path / "out.jsonl").submit()
    assert (tmp_path / "out.jsonl").read_text() == "1\n"


def test_two_runs_do_not_write_one_output(tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", "1")
    refused = []

    def run_another(record: int) -> int:
        with pytest.raises(OutputFileError, match="another run is writing it") as caught:
            copy(source, tmp_path / "out.jsonl").submit()
        refused.append(caught.value)
        return record

    copy(source, tmp_path / "out.jsonl", run_another).submit()
    assert len(refused) == 1
    assert (tmp_path / "out.jsonl").read_text() == "1\n"


def odd_is_bad(record: int) -> int:
    if record % 2:
        raise ValueError(f"{record} is odd")
    return record


@pytest.mark.parametrize("parallelism", [1, 2])
def test_dead_letters_are_lines_of_their_own(tmp_path: Path, parallelism: int) -> None:
    env = LocalEnvironment("dead")
    dead = partial(JSONLSink, tmp_path / "failed.jsonl")
    stream = env.from_collection(range(4)).map(odd_is_bad, parallelism=parallelism, on_error=dead)
    stream.sink(JSONLSink, tmp_path / "out")
    env.submit()
    lines = (tmp_path / "failed.jsonl").read_text().splitlines()
    if parallelism > 1:  # threads keep no order
        lines.sort()
    error = {"type": "ValueError", "message": "1 is odd"}
    expected = {"operator": "odd_is_bad", "record": 1, "error": error, "attempts": 1}
    assert json.loads(lines[0]) == expected
    assert len(lines) == 2


class Odd:
    def __repr__(self) -> str:
        return "an odd one"


def test_dead_letters_hold_in_words_what_json_cannot(tmp_path: Path) -> None:
    noon = datetime(2024, 1, 1, 12, tzinfo=UTC)
    loop: list[Any] = []
    loop.append(loop)
    records = [
        {"id": 1, "at": noon},
        {"deep": [(b"\xff", Odd()), math.nan, {("a", 1): {2}, 3: None, "x": 0.5}]},
        noon,
        loop,
        "half \ud83d",
    ]

    def fail(record: Any) -> None:
        raise ValueError("always")

    env = LocalEnvironment("dead")
    dead = partial(JSONLSink, tmp_path / "failed.jsonl")
    env.from_collection(records).map(fail, on_error=dead).sink(JSONLSink, tmp_path / "out")
    env.submit()
    lines = (tmp_path / "failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["record"] for line in lines] == [
        {"id": 1, "at": "2024-01-01T12:00:00+00:00"},
        {"deep": [["/w==", "an odd one"], "nan", {"('a', 1)": "{2}", "3": None, "x": 0.5}]},
        "2024-01-01T12:00:00+00:00",
        "[[...]]",
        "half \ud83d",
    ]


class Run:
    """A copy with a checkpoint, which a poison record stops."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = write(folder / "in.jsonl", *map(str, range(100)))
        self.target = folder / "out.jsonl"

    def submit(self, poison: int | None = None) -> None:
        def work(record: int) -> int:
            if record == poison:
                raise OSError("cut")
            return record

        copy(self.source, self.target, work).submit(checkpoint=self.folder / "checkpoint")

    def stop_at(self, poison: int) -> None:
        with pytest.raises(OSError, match="cut"):
            self.submit(poison)


def test_a_continued_run_appends(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.stop_at(40)
    partial_file = tmp_path / "out.jsonl.partial"
    assert len(partial_file.read_text().splitlines()) == 40
    with partial_file.open("a") as file:
        file.write("what came after the last commit")
    run.submit()
    assert run.target.read_text() == run.source.read_text()
    run.submit()
    assert run.target.read_text() == run.source.read_text()


def test_a_mended_line_lets_the_run_go_on(tmp_path: Path) -> None:
    run = Run(tmp_path)
    whole = run.source.read_text()
    run.source.write_text(whole.replace("50", "{50"))
    with pytest.raises(InputFileError, match="line 51"):
        run.submit()
    run.source.write_text(whole)
    run.submit()
    assert run.target.read_text() == whole


def skipping(path: Path, count: int) -> JSONLSource:
    source = JSONLSource(path)
    source.setup()
    source.skip(count)
    return source


def test_lines_that_are_done_are_not_parsed_again(tmp_path: Path) -> None:
    source = skipping(write(tmp_path / "in.jsonl", *["{}}"] * 40, "40", "41"), 40)
    assert [source.execute() for _ in range(2)] == [40, 41]
    assert isinstance(source.execute(), StopSignal)


def test_a_shorter_input_is_refused(tmp_path: Path) -> None:
    source = skipping(write(tmp_path / "in.jsonl", *map(str, range(30))), 40)
    with pytest.raises(InputFileError, match="it ends 10 records before where the last run stop"):
        source.execute()


def test_an_output_that_lost_lines_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.stop_at(40)
    (tmp_path / "out.jsonl.partial").write_text("1\n")
    with pytest.raises(OutputFileError, match="has 2 bytes where the checkpoint has counted 110"):
        run.submit()


def test_a_kill_between_publishing_and_the_last_commit_is_mended(tmp_path: Path) -> None:
    sink = JSONLSink(tmp_path / "out.jsonl")
    sink.begin(None)
    sink.execute("a")
    state = sink.state()
    sink.finish()
    sink.cleanup()
    again = JSONLSink(tmp_path / "out.jsonl")
    again.begin(state)
    assert not (tmp_path / "out.jsonl").exists()
    again.finish()
    again.cleanup()
    assert (tmp_path / "out.jsonl").read_text() == '"a"\n'
