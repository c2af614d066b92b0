"""GeneratorSource: a source over what a generator function yields."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sage.kernel.api.iterable_source import IterableSource


class GeneratorSource(IterableSource):
    """Calls the function in setup(), so that the description of a pipeline can be pickled."""

    def __init__(self, function: Callable[[], Iterable[Any]]) -> None:
        super().__init__(())
        self._function = function

    def setup(self) -> None:
        """Begin the generator."""
        self._iterable = self._function()
        super().setup()
