"""RunningFunctions: the instances of functions that one run of a pipeline is made of."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sage.common.core.context import RuntimeContext, ServiceCaller
from sage.common.core.functions import BaseFunction
from sage.kernel.graph import FunctionSpec
from sage.kernel.runtime.annotate import annotate
from sage.kernel.runtime.coroutines.run_loop import RunLoop
from sage.kernel.runtime.failed_record import FailedRecord

logger = logging.getLogger(__name__)


class RunningFunctions:
    """Builds functions, sets all up before the first record, cleans up after the last."""

    def __init__(self, services: ServiceCaller, run_loop: RunLoop) -> None:
        self._services = services
        self._run_loop = run_loop
        self._built: list[BaseFunction] = []
        self._set_up: list[BaseFunction] = []
        # The function whose setup() failed. If its cleanup() fails too, that says nothing new.
        self._half_way: BaseFunction | None = None
        self.latest = ""  # the operator whose function was built or set up last

    def build(self, operator: str, spec: FunctionSpec) -> Any:
        """Return an instance of an operator's function, bound to the operator and the services."""
        self.latest = operator
        try:
            function = spec.build()
        except BaseException as error:
            annotate(error, f"while building operator {operator!r}")
            raise
        function.ctx = RuntimeContext(name=operator, services=self._services)
        self._built.append(function)
        return function

    def set_up(self, *, unless: Callable[[], bool]) -> FailedRecord | None:
        """Set all functions up, up to the first that fails; return its error.

        ``unless`` is called before each; once it returns true, no more are set up.
        """
        for function in self._built:
            if unless():
                return None
            self.latest = function.ctx.name
            self._set_up.append(function)  # even if it fails half-way it may hold something
            try:
                self._run_loop.finish(function.setup())
            except BaseException as error:  # noqa: BLE001 - the executor raises it
                self._half_way = function
                return _failure(function, error, "setup")
        return None

    def clean_up(self) -> list[FailedRecord]:
        """Clean up the functions that were set up, the last first; return their errors."""
        failures = []
        for function in reversed(self._set_up):
            try:
                self._run_loop.finish(function.cleanup())
            except BaseException as error:
                if function is self._half_way:
                    logger.debug("cleanup() failed after a setup() that did", exc_info=error)
                else:
                    failures.append(_failure(function, error, "cleanup"))
        return failures


def _failure(function: BaseFunction, error: BaseException, step: str) -> FailedRecord:
    annotate(error, f"in {step}() of operator {function.ctx.name!r}")
    return FailedRecord(operator=function.ctx.name, record=None, error=error)
