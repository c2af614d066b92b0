"""What servers say of themselves when they are asked, and how long that may take."""

from __future__ import annotations

import threading
import time
from http.client import HTTPConnection, HTTPException
from typing import Any, Literal

from sage.tools.cli.servers.records import Record, reached

Health = Literal["ready", "failed", "silent", "down"]

_PATIENCE = 3.0  # seconds for all servers together; one that hangs must not hang the asker
_BETWEEN_SAMPLES = 0.5
_METRICS = {
    "vllm:request_success_total": "requests_done",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:generation_tokens_total": "generated",
    "vllm:prompt_tokens_total": "read",
}


def health(host: str, port: int) -> Health:
    """Whether a server takes requests: ``silent`` takes connections and does not answer."""
    try:
        status, _ = _get(host, port, "/health")
    except TimeoutError:
        return "silent"
    except (OSError, HTTPException):
        return "down"
    return "ready" if status == 200 else "failed"


class ServerFigures:
    """Asks servers for their figures; remembers counts, so that the next time there are rates."""

    def __init__(self) -> None:
        self._tokens: dict[str, tuple[float, int]] = {}

    def add_to(self, servers: list[Record]) -> None:
        """Put ``state``, request counts and ``tokens_per_second`` into records of servers.

        A record of which nothing can be told keeps None. The rate is that since the last time;
        the first time it takes half a second where a server is at work.
        """
        self._ask_all(servers)
        fresh = [each for each in servers if each.get("running") and _key(each) not in self._tokens]
        self._rates(servers)
        if fresh:
            time.sleep(_BETWEEN_SAMPLES)  # the time between two samples, not a wait for something
            self._ask_all(fresh)
            self._rates(fresh)

    def _rates(self, servers: list[Record]) -> None:
        for server in servers:
            tokens = server.pop("tokens", None)
            if tokens is None:
                continue
            now = time.monotonic()
            since, before = self._tokens.get(_key(server), (now, tokens))
            self._tokens[_key(server)] = (now, tokens)
            server["tokens_per_second"] = (
                round((tokens - before) / (now - since), 1) if now > since else 0.0
            )

    @staticmethod
    def _ask_all(servers: list[Record]) -> None:
        asked = []
        for server in servers:
            answer: dict[str, Any] = {}
            thread = threading.Thread(target=_ask, args=(server, answer), daemon=True)
            thread.start()
            asked.append((server, answer, thread))
        give_up = time.monotonic() + _PATIENCE
        for server, answer, thread in asked:
            thread.join(max(0.0, give_up - time.monotonic()))
            server.setdefault("tokens_per_second", None)
            server.update(dict.fromkeys(("requests_done", "running", "waiting"), None))
            server.update(answer.copy())
            server["state"] = _state(server["state"], answer.get("health", "silent"))
            server.pop("health", None)


def _ask(server: Record, answer: dict[str, Any]) -> None:
    answer["health"] = health(server["host"], server["port"])
    if answer["health"] == "ready":
        try:
            figures = _figures(_get(server["host"], server["port"], "/metrics")[1])
            generated, read = figures.pop("generated"), figures.pop("read")
            # As of a service: of texts to embed, those that are read count.
            answer.update(figures, tokens=read if server.get("embeds") else generated)
        except (OSError, HTTPException, ValueError):
            return


def _state(recorded: str, health: Health) -> str:
    if health in ("ready", "failed"):
        return health
    return "starting" if recorded == "starting" else "not answering"


def _figures(text: str) -> dict[str, int]:
    """Return the sums of the metrics that are of interest, from Prometheus's text format."""
    sums = dict.fromkeys(_METRICS.values(), 0)
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if name in _METRICS:
            sums[_METRICS[name]] += int(float(rest.rpartition(" ")[2]))
    return sums


def _get(host: str, port: int, path: str) -> tuple[int, str]:
    # Not urllib: it would send a request to this machine through the user's proxy.
    connection = HTTPConnection(reached(host), port, timeout=_PATIENCE)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    finally:
        connection.close()


def _key(server: Record) -> str:
    return f"{server['pid']}-{server['start_ticks']}"
