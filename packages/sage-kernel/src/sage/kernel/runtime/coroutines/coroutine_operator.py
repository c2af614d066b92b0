"""CoroutineOperator: has a window run an ``async def`` function as it runs an AsyncMapFunction."""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

from sage.common.core.context import ServiceCaller
from sage.common.core.functions import AsyncMapFunction, BaseFunction
from sage.kernel.graph.coroutine_settings import check_settings, settings_of
from sage.kernel.runtime.checkpoint import Checkpoint
from sage.kernel.runtime.coroutines.coroutine_call import CoroutineCall
from sage.kernel.runtime.coroutines.kept_calls import KeptCalls
from sage.kernel.runtime.coroutines.run_loop import RunLoop
from sage.kernel.runtime.coroutines.service_capacities import ServiceCapacities
from sage.kernel.runtime.flow.unawaited import no_coroutine

_IN_FLIGHT = 256  # records, as long as no service is known that the function calls


class CoroutineOperator(AsyncMapFunction):
    """Starts a coroutine per record on the loop of the run.

    Its results are records to emit; those of a filter and of a flatmap are lists of them.

    Args:
        function: one whose ``execute`` is ``async def``; its attributes say how it is run.
        kind: ``"map"``, ``"flatmap"`` or ``"filter"``.
        loop: the run's.
        checkpoint: the run's, if it has one.
    """

    def __init__(
        self, function: BaseFunction, kind: str, loop: RunLoop, checkpoint: Checkpoint | None
    ) -> None:
        self.ctx = function.ctx
        execute: Callable[[Any], Any] = function.execute  # type: ignore[attr-defined]  # each kind of function has one
        self._execute = partial(_listed, execute) if kind == "flatmap" else execute
        self.kind = kind
        self._loop = loop
        self._told = False
        settings = settings_of(function)
        check_settings(settings, self.ctx.name)
        for name, value in settings.items():
            setattr(self, name, value)
        self.capacities = ServiceCapacities(self.ctx.services)
        services: ServiceCaller = self.ctx.services
        if self.max_in_flight is None:  # else nobody asks
            services = self.capacities
        self.position = 0
        if checkpoint is not None:
            self.position = checkpoint.position
            if function.keep_calls:
                services = KeptCalls(services, checkpoint.kept_calls(), function.ctx)
        function.ctx = replace(self.ctx, services=services)
        loop.enter()

    def default_max_in_flight(self) -> int:
        """Return the window until the function has called a service."""
        return _IN_FLIGHT

    def submit(self, record: Any) -> Future[Any]:
        """Start the coroutine of a record."""
        call = CoroutineCall(
            self._execute,
            record,
            operator=self.ctx.name,
            tell_blocked=self._tell_blocked,
            cancel_task=self._loop.cancel_task,
        )
        self._loop.submit(call)
        return call

    def complete(self, record: Any, result: Any) -> Any:
        """Return what is to be emitted; raises UnawaitedCoroutineError."""
        result = no_coroutine(result)
        if self.kind == "filter":
            return [record] if result else []
        return result

    def leave(self) -> None:
        """Note that no record follows."""
        self._loop.leave()

    def _tell_blocked(self, seconds: float) -> None:
        if not self._told:
            self._told = True
            self.logger.warning(
                "operator %r ran for %.1f s without an await, and held up the coroutines of all "
                "other records: call what takes long by await asyncio.to_thread(...), or use a "
                "plain function",
                self.ctx.name,
                seconds,
            )


async def _listed(execute: Callable[[Any], Any], record: Any) -> list[Any]:
    """Return what a flatmap makes of a record."""
    started = execute(record)
    if isinstance(started, AsyncIterable):
        return [item async for item in started]
    made = await started
    return [] if made is None else list(made)
