"""RemoteServices: the services of an environment, for what runs on another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from itertools import count
from typing import Any

from sage.common.core.futures import errors_in_future, settle
from sage.kernel.runtime.cluster.mail.carriage import read_outcome
from sage.kernel.runtime.cluster.mail.messages import Message
from sage.kernel.runtime.cluster.mail.unsendable import call_bytes


class RemoteServices:
    """A ServiceCaller whose calls are made by the process that keeps the pipeline.

    That process knows where each service is. So a service that calls another, or a function in a
    worker, reaches replicas and services of the pipeline's own process alike.

    Args:
        post: leaves a message for that process.
    """

    def __init__(self, post: Callable[[Message], None]) -> None:
        self._post = post
        self._numbers = count(1)
        self._asked: dict[int, Future[Any]] = {}
        self._lock = threading.Lock()

    def call_service(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a service and wait; see ServiceCaller."""
        future = self.call_service_async(name, *args, method=method, timeout=timeout, **kwargs)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # a Ctrl-C must not leave the call running
            raise

    @errors_in_future
    def call_service_async(
        self,
        name: str,
        /,
        *args: Any,
        method: str | None = "process",
        timeout: float | None = None,
        **kwargs: Any,
    ) -> Future[Any]:
        """Call a service; see ServiceCaller."""
        return self._ask(
            "call_service_async", name, *args, method=method, timeout=timeout, **kwargs
        )

    def capacity(self, name: str, /) -> int | None:
        """Return how many calls the service can make use of; see ServiceCaller."""
        capacity: int | None = self._ask("capacity", name).result()
        return capacity

    def call_origin(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        """Call what the copies of a service have in common; see RuntimeContext.call_origin."""
        return self._ask("origin", method, *args, **kwargs)

    def answer(self, number: int, outcome: bytes) -> None:
        """Take in the answer to a question."""
        with self._lock:
            future = self._asked.pop(number, None)
        if future is not None and future.set_running_or_notify_cancel():
            settle(future, read_outcome, outcome)

    def close(self, error: Exception) -> None:
        """Fail what was not answered."""
        with self._lock:
            unanswered, self._asked = self._asked, {}
        for future in unanswered.values():
            if future.set_running_or_notify_cancel():
                future.set_exception(error)

    def _ask(self, what: str, *args: Any, **kwargs: Any) -> Future[Any]:
        question = call_bytes(what, args, kwargs)
        future: Future[Any] = Future()
        with self._lock:
            number = next(self._numbers)
            self._asked[number] = future
        future.add_done_callback(partial(self._forget, number))
        self._post(("ask", number, question))
        return future

    def _forget(self, number: int, future: Future[Any]) -> None:
        if future.cancelled():
            with self._lock:
                asked = self._asked.pop(number, None)
            if asked is not None:
                self._post(("unask", number, b""))
