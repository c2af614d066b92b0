"""How a record goes through each kind of operator: one closure per operator, nothing per record.

A closure runs the user's function on a record and hands what comes out to ``emit``, the closure
of the operator after it. The call of ``emit`` stays outside the ``try``: an error belongs to the
operator that raised it, never to one before it. Only what no other count implies is counted.

A function that returns coroutines does so from its first record on, and only that one is looked at:
from then on ``execute`` is the function itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any

from sage.kernel.runtime.flow.error_policy import ErrorPolicy
from sage.kernel.runtime.flow.link import Push
from sage.kernel.runtime.flow.unawaited import no_coroutine
from sage.kernel.runtime.metrics.counts import Counts

logger = logging.getLogger(__name__)

Execute = Callable[[Any], Any]


def _looked_at(execute: Execute, become: Callable[[Execute], None]) -> Execute:
    """Return what is called with the first record, and has ``execute`` take its place then."""

    def first(record: Any) -> Any:
        become(execute)
        return no_coroutine(execute(record))

    return first


def _map(execute: Execute, policy: ErrorPolicy, emit: Push, _counts: Counts) -> Push:
    def become(function: Execute) -> None:
        nonlocal execute
        execute = function

    execute = _looked_at(execute, become)

    def push(record: Any) -> None:
        try:
            output = execute(record)
        except BaseException as error:  # noqa: BLE001 - the policy decides what becomes of it
            policy.handle(record, error)
            return
        emit(output)

    return push


def _filter(execute: Execute, policy: ErrorPolicy, emit: Push, counts: Counts) -> Push:
    out = 0
    counts.variable_out = lambda: out

    def become(function: Execute) -> None:
        nonlocal execute
        execute = function

    execute = _looked_at(execute, become)

    def push(record: Any) -> None:
        nonlocal out
        try:
            stays = bool(execute(record))
        except BaseException as error:  # noqa: BLE001 - the policy decides what becomes of it
            policy.handle(record, error)
            return
        if stays:
            try:
                emit(record)
            finally:
                out += 1

    return push


def _flatmap(execute: Execute, policy: ErrorPolicy, emit: Push, counts: Counts) -> Push:
    out = 0
    counts.variable_out = lambda: out

    def push(record: Any) -> None:
        nonlocal out
        try:
            result = execute(record)
            outputs = iter(() if result is None else result)
        except BaseException as error:  # noqa: BLE001 - the policy decides what becomes of it
            policy.handle(record, error)
            return
        while True:
            try:
                output = next(outputs)
            except StopIteration:
                return
            except BaseException as error:  # noqa: BLE001 - the policy decides what becomes of it
                policy.handle(record, error)
                return
            try:
                emit(output)
            except BaseException:  # the error's traceback would keep a generator open
                _close(outputs)
                raise
            finally:
                out += 1

    return push


def _close(outputs: Iterator[Any]) -> None:
    if isinstance(outputs, Generator):
        try:
            outputs.close()
        except Exception:
            logger.exception("a flatmap's generator that was left early could not be closed")


def _keyby(execute: Execute, policy: ErrorPolicy, emit: Push, _counts: Counts) -> Push:
    """Emit ``(hash of the key, record)``: an unhashable key is this operator's error."""

    def become(function: Execute) -> None:
        nonlocal execute
        execute = function

    execute = _looked_at(execute, become)

    def push(record: Any) -> None:
        try:
            key_hash = hash(execute(record))
        except BaseException as error:  # noqa: BLE001 - the policy decides what becomes of it
            policy.handle(record, error)
            return
        emit((key_hash, record))

    return push


def _sink(execute: Execute, policy: ErrorPolicy, _emit: Push, _counts: Counts) -> Push:
    def become(function: Execute) -> None:
        nonlocal execute
        execute = function

    execute = _looked_at(execute, become)

    def push(record: Any) -> None:
        try:
            execute(record)
        except BaseException as error:  # noqa: BLE001 - the policy decides what becomes of it
            policy.handle(record, error)

    return push


def emit_each(emit: Push, counts: Counts) -> Push:
    """Return what emits the records of a list, and counts them."""
    out = 0
    counts.variable_out = lambda: out

    def push(outputs: list[Any]) -> None:
        nonlocal out
        for output in outputs:
            try:
                emit(output)
            finally:
                out += 1

    return push


PUSH_FUNCTIONS: dict[str, Callable[[Execute, ErrorPolicy, Push, Counts], Push]] = {
    "map": _map,
    "flatmap": _flatmap,
    "filter": _filter,
    "keyby": _keyby,
    "sink": _sink,
}
