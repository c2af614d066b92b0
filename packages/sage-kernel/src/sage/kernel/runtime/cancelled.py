"""PipelineCancelledError: unwinds a thread of a pipeline that has failed or was closed."""

from __future__ import annotations

from sage.common.core.errors import SageError


class PipelineCancelledError(SageError):
    """The pipeline stopped before all records were through."""

    def __init__(self, problem: str = "the pipeline was stopped before its end") -> None:
        super().__init__(problem)
