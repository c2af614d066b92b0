"""ServiceRecord: what `sage llm status` sees of a service in another process."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.core.context import ContextBound
from sage.common.run_folder import ROOT_VARIABLE, RunRecord

logger = logging.getLogger(__name__)

_BEAT_SECONDS = 0.5
_CLOSE_SECONDS = 2.0
_WINDOW_BEATS = 20  # tokens/s are of the last 10 s: only requests that are done are counted


class ServiceRecord:
    """Keeps a service's record in the run folder up to date, from a thread of its own."""

    def __init__(self, config: VLLMServiceConfig, engines: EnginePool) -> None:
        self._config = config
        self._engines = engines
        self._record: RunRecord | None = None
        self._thread: threading.Thread | None = None
        self._closing = False
        self._changed = threading.Event()
        self._samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW_BEATS + 1)
        self._model: str | None = None

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
        thread = threading.Thread(target=self._keep, name="sage-vllm-record", daemon=True)
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
            self._changed.wait(_BEAT_SECONDS)
            self._changed.clear()
            if self._closing:
                return
            figures = self._figures()
            if figures != {name: record.facts[name] for name in figures}:
                try:
                    record.update(**figures)
                except OSError as error:  # a full disk; the next beat tries again
                    logger.debug("the record of this service was not written: %s", error)

    def _figures(self) -> dict[str, Any]:
        """Return what changes while the service runs; counts begin when the engines are loaded."""
        config, entries = self._config, self._engines.shown()
        text = self._engines.engine(Role.GENERATE)
        model_id = text.info.model_id if text is not None else config.model_id
        loaded = text or next((entry.engine for entry in entries if entry.engine), None)
        totals = [entry.totals() for entry in entries]
        running = sum(each.running for each in totals)
        waiting = sum(entry.slot.demand().waiting for entry in entries)
        return {
            "model_id": model_id,
            "embedding_model_id": config.embedding_model_id,
            "engine_mode": config.engine_mode if loaded is None else loaded.info.mode,
            "state": self._engines.state,
            "requests_done": sum(each.requests_done for each in totals),
            "running": running,
            "waiting": sum(each.in_flight for each in totals) - running + waiting,
            "tokens_per_second": self._rate(
                model_id,
                sum(
                    each.completion_tokens if entry.role is Role.GENERATE else each.prompt_tokens
                    for entry, each in zip(entries, totals, strict=True)
                ),
            ),
            "models": [
                _row(entry, each.requests_done) for entry, each in zip(entries, totals, strict=True)
            ],
        }

    def _rate(self, model_id: str | None, tokens: int) -> float:
        """Tokens generated, or read by models that do not, per second of late."""
        if model_id != self._model or (self._samples and tokens < self._samples[-1][1]):
            self._samples.clear()  # another engine counts from nothing
        self._model = model_id
        now = time.monotonic()
        self._samples.append((now, tokens))
        since, before = self._samples[0]
        return round((tokens - before) / (now - since), 1) if now > since else 0.0


def _row(entry: PoolEntry, requests_done: int) -> dict[str, Any]:
    return {
        "name": entry.name,
        "model_id": entry.model_id,
        "role": entry.role.label,
        "state": entry.state,
        "loads": entry.loads,
        "memory_bytes": entry.held_bytes,
        "requests_done": requests_done,
        "waiting": entry.slot.demand().waiting,
    }
