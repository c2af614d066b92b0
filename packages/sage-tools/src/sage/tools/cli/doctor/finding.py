"""Findings, and the checks that make them: all at once, none for longer than it may take."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from sage.common.core.errors import SageError
from sage.tools.cli.terminal.output import error_lines

_LOOK_EVERY = 0.2
"""Seconds: a Ctrl-C that the system hands to another thread must not find this one asleep."""


class Status(StrEnum):
    """A problem keeps something from working; a warning is worth knowing."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found of one thing; `fix` says what to do where it is not ok."""

    name: str
    status: Status = Status.OK
    detail: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """As plain data."""
        return {
            "check": self.name,
            "status": self.status.value,
            "detail": self.detail,
            "fix": self.fix,
        }


@dataclass(frozen=True, kw_only=True)
class Check:
    """Something to look at; `seconds` is how long it may take."""

    name: str
    look: Callable[[], Sequence[Finding]]
    seconds: float = 15.0


def run_checks(checks: Sequence[Check], show: Callable[[str], None]) -> Iterator[Finding]:
    """Run all checks at once and yield what they find, in the order of `checks`.

    `show` is told which one is waited for. A check that fails, or takes too long, is a finding.
    """
    began = monotonic()
    futures = [_start(check) for check in checks]
    for check, future in zip(checks, futures, strict=True):
        show(f"Checking {check.name} ...")
        while not future.done() and monotonic() < began + check.seconds:
            _wait(future)
        show("")
        yield from _findings(check, future)


def _start(check: Check) -> Future[Sequence[Finding]]:
    future: Future[Sequence[Finding]] = Future()

    def look() -> None:
        try:
            future.set_result(check.look())
        except Exception as error:  # noqa: BLE001 - told as a finding, so that the others are too
            future.set_exception(error)

    # One that hangs, as on a dead network disk, must not keep the process from ending.
    threading.Thread(target=look, name=f"check {check.name}", daemon=True).start()
    return future


def _wait(future: Future[Sequence[Finding]]) -> None:
    with suppress(TimeoutError):
        future.exception(timeout=_LOOK_EVERY)


def _findings(check: Check, future: Future[Sequence[Finding]]) -> Sequence[Finding]:
    if not future.done():
        return [
            Finding(
                name=check.name,
                status=Status.PROBLEM,
                detail=f"no answer within {check.seconds:.0f} s",
                fix="Something it looks at hangs: a disk, the network or a driver.",
            )
        ]
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, SageError):
        problem, fix = error_lines(error)
        return [Finding(name=check.name, status=Status.PROBLEM, detail=problem, fix=fix)]
    return [
        Finding(
            name=check.name,
            status=Status.PROBLEM,
            detail=f"could not be checked: {type(error).__name__}: {error}",
            fix="Run it again; if it stays, report it.",
        )
    ]
