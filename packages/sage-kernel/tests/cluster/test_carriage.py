"""Errors on their way from one process to another."""

from __future__ import annotations

import pickle
import threading
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest

from sage.kernel.runtime.cluster.errors import RemoteError
from sage.kernel.runtime.cluster.mail.carriage import (
    error_outcome,
    from_bytes,
    read_outcome,
    to_bytes,
)


class CodedError(Exception):
    """Takes other arguments than it gives its base."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class KeywordError(ValueError):
    """Takes none by position."""

    def __init__(self, *, field: str) -> None:
        super().__init__(f"bad {field}")
        self.field = field


class MuteError(ValueError):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError


class LockedError(Exception):
    """Has what cannot be sent."""

    retryable = True

    def __init__(self) -> None:
        super().__init__("locked")
        self.lock = threading.Lock()


def carried(error: Exception) -> Any:
    try:
        return read_outcome(error_outcome(error))
    except Exception as found:  # noqa: BLE001 - whatever it has become
        return found


@pytest.mark.parametrize("error", [CodedError(3, "no"), KeywordError(field="x"), OSError(2, "no")])
def test_an_error_keeps_type_attributes_and_notes(error: Exception) -> None:
    error.add_note("on Monday")
    found = carried(error)
    assert type(found) is type(error)
    assert (str(found), found.args, vars(found)) == (str(error), error.args, vars(error))


def test_an_error_without_a_text_is_itself() -> None:
    assert type(carried(MuteError("x"))) is MuteError


def test_the_members_of_a_group_keep_what_they_can() -> None:
    coded = CodedError(3, "no")
    coded.add_note("on Monday")
    locked = LockedError()
    locked.add_note("on Tuesday")
    inner = ExceptionGroup("two", [KeywordError(field="x"), locked])
    group = ExceptionGroup("all", [coded, inner, OSError(2, "no")])
    group.add_note("in May")
    found = carried(group)
    assert (type(found), found.message, found.__notes__) == (ExceptionGroup, "all", ["in May"])
    code, two, system = found.exceptions
    assert (type(code), code.code, code.__notes__) == (CodedError, 3, ["on Monday"])
    assert (type(system), system.args) == (FileNotFoundError, (2, "no"))
    field, stand_in = two.exceptions
    assert (type(field), field.field) == (KeywordError, "x")
    assert isinstance(stand_in, RemoteError)
    assert stand_in.type_name.endswith("LockedError")
    assert (stand_in.retryable, stand_in.__notes__) == (True, ["on Tuesday"])


def test_a_function_with_a_cache_goes_by_its_code_also_if_it_calls_itself() -> None:
    calls = 0

    @lru_cache(maxsize=100, typed=True)
    def fibonacci(n: int) -> int:
        nonlocal calls
        calls += 1
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    found = from_bytes(to_bytes(fibonacci))
    assert (found.__name__, found.cache_parameters()) == (
        "fibonacci",
        {"maxsize": 100, "typed": True},
    )
    assert found(60) == 1548008755920
    assert found.cache_info().misses == 61
    assert calls == 0  # it is a copy
    assert from_bytes(to_bytes(importable)) is importable


@cache
def importable(n: int) -> int:
    return n


def test_an_open_file_is_not_copied(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("one\ntwo\n")
    with (
        (tmp_path / "lines").open() as file,
        pytest.raises(pickle.PicklingError, match=r"cannot pickle an open file .*lines"),
    ):
        to_bytes(lambda: file.readline())
