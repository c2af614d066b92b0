"""Workload: the requests that a driver has taken and not answered yet."""

from __future__ import annotations

import heapq
from collections import deque

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest
from sage.common.replicas.replay_queue import ReplayQueue


class Workload:
    """Where a request is on its way: ``arrived``, then perhaps in ``texts``, then ``in_flight``.

    Requests that were in flight when an engine died are in ``replays``, and outlive that engine.
    One thread moves them; any thread may count them.
    """

    def __init__(self) -> None:
        self.arrived: deque[EngineRequest] = deque()
        self.texts: deque[EngineRequest] = deque()  # to be tokenised by the driver
        self.replays: ReplayQueue[EngineRequest] = ReplayQueue()
        self.in_flight: dict[str, EngineRequest] = {}
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self.arrived) + len(self.texts) + len(self.replays) + len(self.in_flight)

    def watch_deadline(self, request: EngineRequest) -> None:
        """Remember when a request is to be answered with what there is."""
        if request.deadline is not None:
            heapq.heappush(self._deadlines, (request.deadline, request.id))

    def take_expired(self, now: float) -> list[EngineRequest]:
        """Return the requests in flight whose deadline has passed, each once."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            request = self.in_flight.get(heapq.heappop(self._deadlines)[1])
            if request is not None:
                expired.append(request)
        return expired

    def clear(self) -> list[EngineRequest]:
        """Forget and return all requests."""
        requests = [
            *self.in_flight.values(),
            *self.replays.clear(),
            *self.texts,
            *self.arrived,
        ]
        for held in (self.in_flight, self.texts, self.arrived):
            held.clear()
        return requests
