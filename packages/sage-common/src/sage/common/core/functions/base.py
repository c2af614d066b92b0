"""BaseFunction: what all user functions share."""

from __future__ import annotations

from sage.common.core.context import ContextBound


class BaseFunction(ContextBound):
    """A function of a pipeline; its operator calls ``setup``, ``execute`` often, ``cleanup``.

    Each replica of a parallel operator has an instance of its own, used by one thread at a time.
    """

    def setup(self) -> None:
        """Prepare; called once before the first record, when all services are up."""

    def cleanup(self) -> None:
        """Release and flush; called once after the last record, also when the pipeline failed."""
