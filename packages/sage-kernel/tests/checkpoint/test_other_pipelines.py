"""What tells a pipeline from the one that began a checkpoint: the arguments and its sinks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.common.core.functions import AsyncMapFunction, SinkFunction
from sage.kernel.api import DataStream, LocalEnvironment
from sage.kernel.runtime.checkpoint import CheckpointMismatchError, DurableSink
from sage.kernel.runtime.failed_record import FailedRecord


def _no_op(record: Any) -> None: ...


def _emit(*records: Any, **others: Any) -> Iterator[Any]:
    yield from records


def _described(build: Callable[[LocalEnvironment], DataStream]) -> LocalEnvironment:
    env = LocalEnvironment("described")
    build(env).sink(_no_op)
    return env


OTHER_ARGUMENTS: dict[str, tuple[Any, Any]] = {
    "a range": (range(100), range(1, 101)),
    "a long list": ([*range(500)], [*range(499), 0]),
    "a long list of dicts": ([{"id": i} for i in range(500)], [{"id": i // 2} for i in range(500)]),
    "a long text": ("a" * 500, "a" * 499 + "b"),
    "a long text that is bytes": (b"a" * 500, "a" * 500),
    "long bytes": (b"a" * 500, b"a" * 499 + b"b"),
    "a long dict": (dict.fromkeys(range(500)), dict.fromkeys(range(500), 1)),
    "a set": ({"a", "b", "c"}, {"a", "b", "d"}),
    "a partial": (partial(int, base=8), partial(int, base=16)),
    "the function of a partial": (partial(int, "1"), partial(float, "1")),
    "a text deep inside": ([{"a": ("x" * 500,)}], [{"a": ("y" * 500,)}]),
}


@pytest.mark.parametrize("what", OTHER_ARGUMENTS)
def test_other_arguments_make_another_pipeline(tmp_path: Path, what: str) -> None:
    def emitting(argument: Any) -> LocalEnvironment:
        return _described(lambda env: env.from_source(_emit, argument))

    before, now = OTHER_ARGUMENTS[what]
    emitting(before).submit(checkpoint=tmp_path)
    emitting(before).submit(checkpoint=tmp_path)
    with pytest.raises(CheckpointMismatchError, match=r"has argument 0 _emit\(.*, not _emit\("):
        emitting(now).submit(checkpoint=tmp_path)


def test_other_records_make_another_pipeline(tmp_path: Path) -> None:
    _described(lambda env: env.from_collection([1] * 500)).submit(checkpoint=tmp_path)
    expected = (
        "argument 0 a list of length 500, SHA-256 .*, not a list of length 500.*another folder"
    )
    with pytest.raises(CheckpointMismatchError, match=expected):
        _described(lambda env: env.from_collection([2] * 500)).submit(checkpoint=tmp_path)


def test_a_partial_for_a_function_is_told_by_its_arguments(tmp_path: Path) -> None:
    def mapped(base: int) -> LocalEnvironment:
        return _described(lambda env: env.from_collection(["1"]).map(partial(int, base=base)))

    mapped(8).submit(checkpoint=tmp_path)
    expected = r"has function int\(base=16\), not int\(base=8\)"
    with pytest.raises(CheckpointMismatchError, match=expected):
        mapped(16).submit(checkpoint=tmp_path)


class Remote(AsyncMapFunction):
    free_arguments = frozenset({"timeout", "retries"})

    def __init__(
        self, add: int, timeout: float | None = None, *, label: str = "", retries: int = 0
    ) -> None:
        self.add, self.timeout, self.retries = add, timeout, retries

    def submit(self, record: int) -> Future[int]:
        future: Future[int] = Future()
        future.set_result(record + self.add)
        return future


def test_arguments_that_change_no_result_may_be_others(tmp_path: Path) -> None:
    def mapped(*args: Any, **kwargs: Any) -> None:
        stream = _described(lambda env: env.from_collection([1]).map(Remote, *args, **kwargs))
        stream.submit(checkpoint=tmp_path)

    mapped(1)
    mapped(1, 30)
    mapped(1, 60, retries=2)
    mapped(1, timeout=7, retries=3)
    with pytest.raises(CheckpointMismatchError, match=r"has argument 0 2, not 1"):
        mapped(2, 30)
    with pytest.raises(CheckpointMismatchError, match=r"has argument label 'b', not \(none\)"):
        mapped(1, label="b")


@pytest.mark.timeout(180)  # four processes, one after the other
def test_the_same_arguments_are_the_same_in_every_process(tmp_path: Path) -> None:
    code = """
        import sys
        from functools import partial
        from pathlib import Path
        from sage.kernel.api import LocalEnvironment

        words = {f"word {number}" for number in range(int(sys.argv[2]))}
        argument = [words, frozenset(words), Path("file"), partial(int, base=8), object(), None]
        env = LocalEnvironment("described")
        env.from_collection([1]).map(lambda *_, option: None, argument, option=argument * 100)
        env.submit(checkpoint=sys.argv[1])
    """
    for number, words in enumerate((3, 3, 300, 300)):
        folder = str(tmp_path / str(words))
        command = [sys.executable, "-c", textwrap.dedent(code), folder, str(words)]
        environment = {**os.environ, "PYTHONHASHSEED": str(number)}
        subprocess.run(command, env=environment, check=True, timeout=40)


class Numbers(DurableSink):
    """Writes the numbers of records, or of those that failed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.numbers: list[int] = []

    def begin(self, state: int | None) -> None:
        self.numbers = json.loads(self.path.read_text())[:state] if state else []

    def state(self) -> int:
        return len(self.numbers)

    def sync(self) -> None:
        self.path.write_text(json.dumps(self.numbers))

    def finish(self) -> None:
        self.sync()
        self.path.with_suffix(".finished").touch()

    def execute(self, record: Any) -> None:
        self.numbers.append(record.record if isinstance(record, FailedRecord) else record)


def _odd_is_bad(number: int) -> int:
    if number % 2:
        raise ValueError("odd")
    return number


def test_dead_letters_that_are_counted_do_not_get_lost(tmp_path: Path) -> None:
    dead, out, stops = tmp_path / "dead", tmp_path / "out", [50]

    def stop_once(number: int) -> int:
        if number in stops:
            raise OSError(stops.pop())
        return number

    def run(on_error: Any) -> None:
        env = LocalEnvironment("dead letters")
        stream = env.from_collection(range(100)).map(_odd_is_bad, name="odd", on_error=on_error)
        stream.map(stop_once).sink(Numbers, out)
        env.submit(checkpoint=tmp_path / "checkpoint")

    with pytest.raises(OSError, match="50"):
        run(partial(Numbers, dead))
    for other in ("skip", "raise", _no_op):
        expected = "the dead-letter sink of 'odd' is gone, .*Submit the pipeline that began it, or"
        with pytest.raises(CheckpointMismatchError, match=expected):
            run(other)
    run(partial(Numbers, dead))
    assert json.loads(dead.read_text()) == [*range(1, 100, 2)]
    assert json.loads(out.read_text()) == [*range(0, 100, 2)]
    assert dead.with_suffix(".finished").exists()
    run("skip")  # all is done and published: there is nothing that could get lost


def test_a_sink_that_is_durable_no_more_is_refused(tmp_path: Path) -> None:
    class Plain(SinkFunction):
        def __init__(self, path: Path) -> None: ...

        def execute(self, record: int) -> None: ...

    def run(sink: type[SinkFunction], records: Callable[[], Iterator[int]]) -> None:
        env = LocalEnvironment("sinks")
        env.from_source(records, name="numbers").sink(sink, tmp_path / "out", name="write")
        env.submit(checkpoint=tmp_path / "checkpoint")

    def numbers() -> Iterator[int]:
        yield 1
        raise OSError("cut")

    Plain.__qualname__ = Numbers.__qualname__
    with pytest.raises(OSError, match="cut"):
        run(Numbers, numbers)
    with pytest.raises(CheckpointMismatchError, match="the sink of 'write' is gone"):
        run(Plain, numbers)
