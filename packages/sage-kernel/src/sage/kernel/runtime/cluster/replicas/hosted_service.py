"""HostedService: a service in a process of the cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from sage.common.core.background import in_background
from sage.common.core.context import RuntimeContext
from sage.common.service import ServiceClosedError
from sage.common.service.replication import NotHereYet
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.cluster.mail.carriage import (
    error_outcome,
    from_bytes,
    outcome_of,
    to_bytes,
)
from sage.kernel.runtime.cluster.mail.messages import Message
from sage.kernel.runtime.cluster.mail.postbox import Postbox
from sage.kernel.runtime.cluster.mail.remote_services import RemoteServices
from sage.kernel.runtime.cluster.mail.unsendable import unsendable_part
from sage.kernel.runtime.service.running_service import RunningService
from sage.kernel.runtime.service.service_factory import ServiceFactory

_NO_MODULE = (
    "that machine lacks it: {'runtime_env': {'working_dir': '.'}} in the configuration brings a "
    "program's own modules there"
)
_LOOK_EVERY = 0.5  # seconds from one look at a service's progress to the next


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a process says of itself with each answer.

    Args:
        in_flight: calls that it works on.
        steps: the service's own count of its progress; None if it has none.
    """

    in_flight: int
    steps: int | None


def hosting(name: str, what: str, factory: ServiceFactory, parts: Mapping[str, Any]) -> bytes:
    """Return what makes a HostedService in another process; see there.

    Raises what pickling it raises, with a note that names which of ``parts`` it is, and what of it.
    """
    try:
        return to_bytes(partial(HostedService, name, what, to_bytes(factory)))
    except Exception as error:
        with suppress(Exception):  # what is wrong with it may be wrong here too
            part, cause = next(
                (each, cause) for each in parts if (cause := unsendable_part(parts[each]))
            )
            annotate(
                error,
                f"{part} runs in other processes, and {cause} cannot be sent there: let setup() of "
                f"a class make it there, and call services by self.call_service(); or keep it "
                f"here, by parallelism=1 or 'replicas': 0",
            )
        raise


class HostedService:
    """Opens the service of a factory, runs the calls that come by mail, and mails the results.

    All methods are for the Mailbox's side; what they accept and return can be sent.

    Args:
        name: what the service is called by.
        what: it is, with its name, for errors.
        factory: makes it: a ServiceFactory as bytes, which this process may not be able to read.
        node: the machine that this is.
    """

    def __init__(self, name: str, what: str, factory: bytes, node: str) -> None:
        self._name = name
        self._what = what
        self._factory = factory
        self._node = node
        self._box = Postbox(self._receive, self._report)
        self._services = RemoteServices(self._box.post)
        self._opening = threading.Lock()
        self._opened: bytes | None = None
        self._running: RunningService | None = None
        self._calls: dict[int, Future[Any]] = {}
        self._steps: int | None = None
        self._look_again_at = 0.0

    def setup(self) -> bytes:
        """Open the service, once; return the outcome: what it says of itself, or its error."""
        with self._opening:
            if self._opened is None:
                self._opened = self._open()
            return self._opened

    def submit(self, number: int, batch: bytes) -> int:
        """Receive calls, cancels and answers; see Postbox."""
        return self._box.submit(number, batch)

    def take(self, received: int, seconds: float) -> bytes:
        """Return results and questions; see Postbox."""
        return self._box.take(received, seconds)

    def close(self) -> None:
        """Close the service; calls in flight end with an error."""
        closed = ServiceClosedError(self._name)
        self._services.close(closed)
        if self._running is not None:
            self._running.close(closed)
        self._box.close()

    def _open(self) -> bytes:
        try:
            factory: ServiceFactory = from_bytes(self._factory)
            service = factory.create()
            services = self._services
            service.ctx = RuntimeContext(
                name=self._name, services=services, call_origin=services.call_origin
            )
            running = RunningService(self._name, service)
            service.open()
        except BaseException as error:  # noqa: BLE001 - it is raised on the other side
            annotate(error, f"while starting {self._what} on {self._node}")
            if isinstance(error, ModuleNotFoundError):
                annotate(error, _NO_MODULE)
            return error_outcome(error)
        self._running = running
        return to_bytes(
            (
                True,
                {
                    "node": self._node,
                    "process": os.getpid(),
                    "capacity": service.capacity,
                    "identity": service.checkpoint_identity(),
                },
            )
        )

    def _report(self) -> Report:
        running, now = self._running, time.monotonic()
        if running is not None and now >= self._look_again_at:  # it may cost more than a call
            self._steps, self._look_again_at = running.service.steps_done, now + _LOOK_EVERY
        return Report(in_flight=len(self._calls), steps=self._steps)

    def _receive(self, message: Message) -> None:
        kind, number, data = message
        if kind in ("call", "stream"):
            self._start(message)
        elif kind == "answer":
            self._services.answer(number, data)
        elif (future := self._calls.get(number)) is not None:
            future.cancel()

    def _start(self, message: Message) -> None:
        kind, number, data = message
        try:
            method, args, kwargs = from_bytes(data)
            if self._running is None:
                raise ServiceClosedError(self._name, "it has not been opened yet")  # noqa: TRY301
            if kind == "stream":
                start = getattr(self._running.service, method)
                future = start(partial(self._post_piece, number), *args, **kwargs)
            else:
                future = self._running.endpoint(method).submit(*args, **kwargs)
        except NotHereYet as missing:
            self._bring(missing, message)
            return
        except Exception as error:  # noqa: BLE001 - it is the call's
            self._post_result(number, error_outcome(error))
            return
        self._calls[number] = future
        future.add_done_callback(partial(self._done, message, f"{self._name}.{method}()"))

    def _bring(self, missing: NotHereYet, message: Message) -> None:
        """Get what a call lacks, and make it then."""

        def brought(done: Future[Any]) -> None:
            error = done.exception()
            if error is None:
                self._start(message)
            else:
                self._post_result(message[1], error_outcome(error))

        in_background(missing.bring).add_done_callback(brought)

    def _done(self, message: Message, what: str, future: Future[Any]) -> None:
        number = message[1]
        if not future.cancelled():
            if isinstance(missing := future.exception(), NotHereYet):
                self._bring(missing, message)
                return
            self._post_result(number, outcome_of(future, what))
            return
        # By whom it was: if by the other side, nobody hears this.
        closed = ServiceClosedError(self._name, "it was closed before the call could run")
        self._post_result(number, error_outcome(closed))

    def _post_piece(self, number: int, piece: Any) -> None:
        self._box.post(("piece", number, to_bytes(piece)))

    def _post_result(self, number: int, outcome: bytes) -> None:
        self._calls.pop(number, None)
        self._box.post(("result", number, outcome))
