"""ServiceRecord: what `sage llm status` sees of a service in another process."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from sage.common.components.sage_vllm.config import VLLMServiceConfig
from sage.common.components.sage_vllm.engine_contract import Role
from sage.common.components.sage_vllm.pool.engine_pool import EnginePool
from sage.common.components.sage_vllm.pool.pool_entry import PoolEntry
from sage.common.kept_record import KeptRecord

_WINDOW_BEATS = 20  # tokens/s are of the last 10 s: only requests that are done are counted


class ServiceRecord:
    """Says what a service does now, for its record in the run folder."""

    def __init__(self, config: VLLMServiceConfig, engines: EnginePool) -> None:
        self._config = config
        self._engines = engines
        self._kept = KeptRecord(self._figures)
        self._samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW_BEATS + 1)
        self._model: str | None = None

    def open(self, name: str) -> None:
        """Publish the record; see KeptRecord."""
        self._kept.open(name)

    def tell(self) -> None:
        """Have the record updated now, not at the next beat."""
        self._kept.tell()

    def close(self) -> None:
        """Remove the record; idempotent."""
        self._kept.close()

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
