"""KeptRecord: what `sage llm status` sees of a service, kept up to date."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sage.common.core.context import ContextBound
from sage.common.run_folder import ROOT_VARIABLE, RunRecord

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
"""From one look at the figures to the next."""

_CLOSE_SECONDS = 2.0


class KeptRecord:
    """Keeps a service's record in the run folder up to date, from a thread of its own.

    Args:
        figures: returns what changes while the service runs, as JSON can hold it.
    """

    def __init__(self, figures: Callable[[], Mapping[str, Any]]) -> None:
        self._figures = figures
        self._record: RunRecord | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._changed = threading.Event()

    def open(self, name: str) -> None:
        """Publish the record; where the folder cannot be written, the service goes without.

        A service that no environment runs is named after its program.
        """
        program = Path(sys.argv[0]).name or "python"
        name = program if name == ContextBound.ctx.name else name
        try:
            figures = {**self._figures(), "state": "loading"}
            self._record = RunRecord("service", name=name, program=program, **figures)
        except OSError as error:
            logger.warning(
                "`sage llm status` will not show service %r: its record cannot be written (%s); "
                "%s sets another folder",
                name,
                error,
                ROOT_VARIABLE,
            )
            return
        thread = threading.Thread(target=self._keep, name="sage-record", daemon=True)
        thread.start()
        self._thread = thread  # only now: one that a Ctrl-C kept from starting cannot be joined

    def tell(self) -> None:
        """Have the record updated now, not at the next beat."""
        self._changed.set()

    def close(self) -> None:
        """Remove the record; idempotent."""
        self._closing = True
        self._changed.set()
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)  # a disk that hangs must not keep the service open
        if self._record is not None:
            self._record.remove()

    def _keep(self) -> None:
        record = self._record
        while record is not None:
            self._changed.wait(BEAT_SECONDS)
            self._changed.clear()
            if self._closing:
                return
            figures = self._figures()
            if figures != {name: record.facts[name] for name in figures}:
                try:
                    record.update(**figures)
                except OSError as error:  # a full disk; the next beat tries again
                    logger.debug("the record of this service was not written: %s", error)
