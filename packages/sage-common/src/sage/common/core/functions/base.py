"""BaseFunction: what all user functions share."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from sage.common.core.context import ContextBound


class BaseFunction(ContextBound):
    """A function of a pipeline; its operator calls ``setup``, ``execute`` often, ``cleanup``.

    Each replica of a parallel operator has an instance of its own, used by one thread at a time.
    """

    keep_calls: bool = False
    """For an ``async def execute`` that calls services several times for a record: True keeps what
    each ``call`` returned in the run's checkpoint, if it has one, until the record is done. A run
    that goes on makes none of these calls again. What is kept is pickled."""

    async def call(self, service: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a service from an ``async def execute``, and await its result.

        The arguments, ``method=`` and ``timeout=`` are those of ``call_service``. Cancelling the
        await, or a record's timeout, cancels the call::

            (answer,) = await self.call("vllm_service", prompt, method="generate")
        """
        return await self.ctx.await_service(service, *args, **kwargs)

    def setup(self) -> Coroutine[Any, Any, None] | None:
        """Prepare; called once before the first record, when all services are up.

        It may be ``async def``, and so may ``cleanup``: then it runs on the loop of the run.
        """

    def cleanup(self) -> Coroutine[Any, Any, None] | None:
        """Release and flush; called once after the last record, also when the pipeline failed."""
