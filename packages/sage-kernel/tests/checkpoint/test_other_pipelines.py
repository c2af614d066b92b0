"""What tells a pipeline from the one that began a checkpoint: the arguments of its functions."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from sage.kernel.api import DataStream, LocalEnvironment
from sage.kernel.runtime.checkpoint import CheckpointMismatchError


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
        subprocess.run(command, env=environment, check=True, timeout=20)
