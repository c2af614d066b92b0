"""SinkFunction: where records leave the pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from sage.common.core.functions.base import BaseFunction


class SinkFunction(BaseFunction, ABC):
    """The end of a stream."""

    @abstractmethod
    def execute(self, record: Any) -> None:
        """Take the record."""
