"""Two runs on one output: the second comes in at the worst moment of the first one's end.

Audit hooks of Python are called before each system call that matters here, and stay for the life
of the process, so each test has a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from sage.kernel.api import LocalEnvironment
from sage.libs.io import JSONLSink

SINKS = """
    import sys
    from pathlib import Path
    from sage.libs.io import JSONLSink, OutputFileError, ParquetSink
    from sage.libs.io.parquet_files import read_rows

    path = Path("out")

    def begun(kind, **options):
        sink = kind(path, **options)
        sink.begin(None)
        return sink

    def end(sink):
        sink.finish()
        sink.cleanup()

    def once(event, act):
        waiting = [act]

        def hook(name, arguments):
            if name == event and waiting:
                waiting.pop()()

        sys.addaudithook(hook)
"""


def run(folder: Path, code: str) -> list[str]:
    program = textwrap.dedent(SINKS) + textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder, capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_file_that_is_published_before_its_lock_is_had_is_left_alone(tmp_path: Path) -> None:
    code = """
        first = begun(JSONLSink)
        first.execute("first")
        once("fcntl.flock", lambda: end(first))
        second = begun(JSONLSink)
        print(path.read_text().strip())
        second.execute("second")
        end(second)
        print(path.read_text().strip())
    """
    assert run(tmp_path, code) == ['"first"', '"second"']
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


BEGIN_SECOND = """
    first = begun(ParquetSink, rows_per_part=1)
    first.execute({"id": 1})

    def begin_second():
        try:
            begun(ParquetSink)
        except OutputFileError as error:
            print(error)
"""
IN_THE_END = """
    print(*read_rows(path / "part-00000.parquet"))
    print(*sorted(path.iterdir()))
"""


@pytest.mark.parametrize(
    ("meeting", "refusal"),
    [
        (
            """
            once("fcntl.flock", lambda: end(first))
            begin_second()
            """,
            "it exists; delete it or write elsewhere",
        ),
        (
            """
            once("os.rename", begin_second)
            end(first)
            """,
            "another run is writing it",
        ),
    ],
    ids=["before the lock is had", "while it gets its name"],
)
def test_a_folder_that_is_published_meanwhile_is_left_alone(
    tmp_path: Path, meeting: str, refusal: str
) -> None:
    code = "".join(map(textwrap.dedent, (BEGIN_SECOND, meeting, IN_THE_END)))
    said = run(tmp_path, code)
    assert refusal in said[0]
    assert said[1:] == ["[{'id': 1}]", "out/part-00000.parquet"]


def test_two_operators_of_one_run_with_one_file_are_told_that_it_is_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    env = LocalEnvironment("shared")
    stream = env.from_collection([1]).map(int, name="a", on_error=partial(JSONLSink, "failed"))
    stream = stream.map(int, name="b", on_error=partial(JSONLSink, tmp_path / "failed"))
    stream.sink(JSONLSink, "out")
    with pytest.raises(ValueError, match=r"of this run both write .*failed; give each"):
        env.submit()
    assert list(tmp_path.iterdir()) == []
