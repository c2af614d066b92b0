"""Errors on their way from one process to another."""

from __future__ import annotations

from typing import Any

import pytest

from sage.kernel.runtime.cluster.mail.carriage import error_outcome, read_outcome


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
