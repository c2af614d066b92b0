"""ReplicaCall: one call of a caller's, wherever it is worked on."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from sage.common.components.sage_vllm.engine_contract import Engine, OnText

Start = Callable[[Engine, float, OnText | None], Future[Any]]
"""Starts the call on an engine: with the seconds since it was made, and where its text goes."""


class ReplicaCall:
    """A call, its caller's Future, and the attempt that is to complete it.

    ``deaths`` counts the engines that died while they had it. The owner guards all attributes with
    a lock; ``on_text`` is used by the engine that has the call.
    """

    __slots__ = (
        "_heard",
        "_on_text",
        "_start",
        "attempt",
        "began",
        "deaths",
        "future",
        "has_text",
        "prefix",
    )

    def __init__(self, start: Start, prefix: str, on_text: OnText | None) -> None:
        self._start = start
        self._on_text = on_text
        self.prefix = prefix
        self.began = time.perf_counter()
        self.future: Future[Any] = Future()
        self.attempt: Future[Any] | None = None
        self.deaths = 0
        self._heard: object = None  # the attempt whose text goes to the caller
        self.has_text = False  # its caller has seen a part of the answer

    def start(self, engine: Engine) -> Future[Any]:
        """Start the call on an engine, whose text is heard from now on; raises what that raises."""
        waited = time.perf_counter() - self.began
        if self._on_text is None:
            return self._start(engine, waited, None)
        before, attempt = self._heard, object()
        self._heard = attempt
        try:
            return self._start(engine, waited, self._deliver(attempt, self._on_text))
        except BaseException:
            self._heard = before
            raise

    def _deliver(self, attempt: object, on_text: OnText) -> OnText:
        def deliver(piece: str) -> None:
            if self._heard is attempt:  # else the call has moved to another engine
                self.has_text = True
                on_text(piece)

        return deliver
