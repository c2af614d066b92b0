"""ReplayQueue: the requests of an engine that died, on their way into the next one."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, MutableMapping

from sage.common.components.sage_vllm.driver.engine_request import EngineRequest

_SUSPECT = 2  # crashes from which on a request may be what kills the engine


class ReplayQueue:
    """Decides what is replayed together and what alone, and finds the request that kills.

    After a first crash all requests are replayed together: usually none of them caused it. Requests
    that were in a second crash are suspects, and are replayed one at a time; a request that crashes
    the engine alone is poison. The others are replayed together again.
    """

    def __init__(self) -> None:
        self._waiting: deque[EngineRequest] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def append(self, request: EngineRequest) -> None:
        """Queue a request that came while others were waiting to be replayed."""
        self._waiting.append(request)

    def take(self, in_flight: Collection[EngineRequest]) -> EngineRequest | None:
        """Return the next request that may go beside those in flight, or None."""
        if in_flight and (_is_suspect(self._waiting[0]) or any(map(_is_suspect, in_flight))):
            return None
        return self._waiting.popleft()

    def put_back(self, in_flight: MutableMapping[str, EngineRequest]) -> EngineRequest | None:
        """Take over what a dead engine had in flight; return the request that is poison."""
        crashed = list(in_flight.values())
        in_flight.clear()
        for request in crashed:
            request.crashes += 1
        if len(crashed) == 1 and _is_suspect(crashed[0]):
            for request in self._waiting:
                request.crashes = min(request.crashes, _SUSPECT - 1)
            return crashed[0]
        self._waiting.extendleft(reversed(crashed))
        return None

    def clear(self) -> list[EngineRequest]:
        """Forget and return all requests."""
        requests = list(self._waiting)
        self._waiting.clear()
        return requests


def _is_suspect(request: EngineRequest) -> bool:
    return request.crashes >= _SUSPECT
