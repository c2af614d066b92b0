"""BaseService: a long-lived object that functions call by name."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from sage.common.core.background import in_background
from sage.common.core.context import ContextBound
from sage.common.service.errors import ServiceClosedError
from sage.common.service.replication import Replication

_RESERVED = {
    "setup": "acquires what the service needs",
    "start": "begins to serve",
    "process": "answers a call that names no method",
    "stop": "stops serving",
    "cleanup": "releases what setup() acquired",
    "open": "runs setup() and start()",
    "close": "runs stop() and cleanup()",
    "checkpoint_identity": "says what results follow from",
    "replication": "says how it is run as several copies",
    "call_service": "calls another service",
    "call_service_async": "calls another service",
    "acall_service": "calls another service",
}


class BaseService(ContextBound):
    """A service of an environment: ``setup → start → (calls) → stop → cleanup``.

    Each step runs at most once. Methods without a leading underscore can be called through
    ``call_service``. Where a method ``<name>_async`` returns a Future, a call to ``<name>`` uses
    it, so that no thread is held and cancelling the call cancels the Future.

    The names of these steps, of ``process`` and of the other methods here are reserved: a subclass
    may override the method, but a value of its own needs another name (``self.stop = ["###"]`` is a
    TypeError).
    """

    max_concurrency: int | None = 1
    """How many calls run at once on callers' threads; None means thread-safe and unbounded.
    Methods with an ``_async`` twin admit their calls themselves."""

    capacity: int | None = None
    """How many calls in flight the service can make use of; None does not say."""

    steps_done: int | None = None
    """A number that grows while it works on a call; None does not say. On a cluster, a copy that
    has calls and whose number stands still can be replaced."""

    _opened = False
    _started = False
    _closed = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a class that gives a reserved name to something that cannot be called."""
        super().__init_subclass__(**kwargs)
        for name in _RESERVED.keys() & vars(cls).keys():
            _check_reserved(cls, name, getattr(cls, name))

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse the same of an instance, at the line that sets it."""
        if name in _RESERVED:
            _check_reserved(type(self), name, value)
        super().__setattr__(name, value)

    @property
    def accepts_calls(self) -> bool:
        """Whether it has been opened, and not been closed yet."""
        return self._started and not self._closed

    def setup(self) -> None:
        """Acquire what the service needs; an error here stops the environment's submit().

        It runs on the thread that opens the service, a call on the thread of its caller.
        """

    def start(self) -> None:
        """Begin to serve; all services registered earlier are started already."""

    def process(self, *args: Any, **kwargs: Any) -> Any:
        """Answer a call that names no method; an override has the arguments that it wants."""
        del args, kwargs
        raise NotImplementedError(f"{type(self).__name__} defines no process(); name a method=")

    def stop(self) -> None:
        """Stop serving; calls in flight end with an error."""

    def cleanup(self) -> None:
        """Release what setup() acquired; also called when setup() failed half-way."""

    def checkpoint_identity(self) -> Mapping[str, Any] | None:
        """Return what the results of this service follow from, None if it does not say.

        A run with a checkpoint goes on only with services that say the same as when it began. So
        records of one output are not made by two models, or at two temperatures.

        Returns:
            Names and values that JSON can hold, such as ``{"model": "org/name", "commit": "3f2a",
            "sampling": {"temperature": 0}}``. It is called before ``setup()`` too, so that a run
            that is refused waits for no engine; a value that is known only later is None by then.
        """
        return None

    @classmethod
    def replication(cls, *args: Any, **kwargs: Any) -> Replication | None:
        """Return how the service is run as several copies on a cluster; None if it is one alone.

        A service may say so whose calls do not depend on each other: each copy is asked as if there
        were no other. One that keeps what it is told is none; it stays in the process that has the
        pipeline. It is called with the arguments of the constructor, and must load nothing::

            class Translator(BaseService):
                @classmethod
                def replication(cls, model: str) -> Replication:
                    return Replication(gpus=1, replayable=True)
        """
        del args, kwargs
        return None

    def open(self) -> None:
        """Run setup and start, once; one that fails is cleaned up before its error is raised.

        Raises ServiceClosedError for a service that was closed.
        """
        if self._closed:
            raise ServiceClosedError(
                self.ctx.name, "it has been closed, and does not open again; make a new one"
            )
        if self._opened:
            return
        self._opened = True
        try:
            self.setup()
            self.start()
            self._started = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Run stop and cleanup, once; of several threads that close at once, all return after that.

        Errors are logged: nothing is left to save by raising.
        """
        # Made here, and by one of those threads, for subclasses that forget super().__init__().
        with self.__dict__.setdefault("_close_lock", threading.RLock()):
            if not self._opened or self._closed:
                return
            self._closed = True
            try:
                if self._started:
                    self._run_logged(self.stop)
            finally:  # a second Ctrl-C in stop() must not leave what setup() acquired
                self._run_logged(self.cleanup)

    def _run_logged(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            # If setup() failed, a cleanup() that fails for what is missing says nothing new.
            level = logging.ERROR if self._started else logging.DEBUG
            self.logger.log(
                level, "%s() of service %r failed", step.__name__, self.ctx.name, exc_info=True
            )

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        """Open it on a thread of its own; if that is cancelled, it is closed once it is open."""
        from sage.common.core.awaiting import result_of

        opening = in_background(self.open)
        try:
            await result_of(opening)
        except BaseException:
            opening.add_done_callback(lambda _: in_background(self.close))
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close it on a thread of its own; that goes on to its end if it is cancelled."""
        from sage.common.core.awaiting import in_thread

        await in_thread(self.close)


def _check_reserved(cls: type, name: str, value: object) -> None:
    if not callable(value):
        raise TypeError(
            f"{cls.__name__}.{name} is {value!r}, but {name!r} is reserved for the method that "
            f"{_RESERVED[name]}; choose another name, such as {name}_value"
        )
