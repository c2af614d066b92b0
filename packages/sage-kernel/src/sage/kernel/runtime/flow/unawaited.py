"""UnawaitedCoroutineError: a function of a pipeline returns a coroutine, in place of its result."""

from __future__ import annotations

from types import CoroutineType
from typing import Any

from sage.common.core.errors import SageError


class UnawaitedCoroutineError(SageError, TypeError):
    """A function has called an ``async def``, ``coroutine`` by name, and not awaited it.

    It has done nothing, and a record would be a coroutine, or a filter let all of them pass.
    """

    skippable = False

    def __init__(self, coroutine: str) -> None:
        super().__init__(
            f"the function returned the coroutine {coroutine}, which nobody has awaited",
            hint="await it, in a function that is `async def`",
        )
        self.coroutine = coroutine


def no_coroutine(result: Any) -> Any:
    """Return a function's result; raises UnawaitedCoroutineError for a coroutine."""
    if isinstance(result, CoroutineType):
        result.close()  # else Python warns of it, later and somewhere else
        raise UnawaitedCoroutineError(result.__qualname__)
    return result
