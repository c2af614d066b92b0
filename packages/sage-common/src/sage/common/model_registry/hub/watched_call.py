"""Waiting for a call that may hang, without hanging with it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

_TICK = 0.2
_PATIENCE_ON_INTERRUPT = 0.5


class CallCancelledError(Exception):
    """Raised inside the watched call, where it asks whether it may go on."""


class SilentCallError(TimeoutError):
    """The watched call showed no sign of life for too long."""


def watched_call(
    function: Callable[[], Result],
    *,
    sign_of_life: Callable[[], object],
    silence_limit: float,
    on_tick: Callable[[], None],
    cancel: Callable[[], None],
) -> Result:
    """Run `function` in a thread of its own; wait for it, calling `on_tick` several times a second.

    Blocking network code cannot be interrupted from outside, so when the user interrupts, or
    nothing that `sign_of_life` returns changes for `silence_limit` seconds, this asks the call to
    stop (`cancel`), gives it a moment, and leaves it behind.
    """
    outcome: list[Result] = []
    failure: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=run, name="sage-hub-call", daemon=True).start()
    try:
        _wait(done, sign_of_life, silence_limit, on_tick)
    except BaseException:
        cancel()
        done.wait(_PATIENCE_ON_INTERRUPT)
        raise
    if failure:
        raise failure[0]
    return outcome[0]


def _wait(
    done: threading.Event,
    sign_of_life: Callable[[], object],
    silence_limit: float,
    on_tick: Callable[[], None],
) -> None:
    last_sign, heard_at = sign_of_life(), time.monotonic()
    while not done.wait(_TICK):
        on_tick()
        sign = sign_of_life()
        if sign != last_sign:
            last_sign, heard_at = sign, time.monotonic()
        elif time.monotonic() - heard_at > silence_limit:
            raise SilentCallError(f"nothing was heard for {silence_limit:g} s")
