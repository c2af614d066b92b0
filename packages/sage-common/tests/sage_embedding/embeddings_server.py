"""A local HTTP server that speaks enough of /v1/embeddings for the official client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sage.common.components.sage_embedding import get_embedding_model


class EmbeddingsServer(ThreadingHTTPServer):
    """Embeds by hashing; keeps the requests, and can be told to answer otherwise."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.failures: list[int] = []  # HTTP statuses of the next answers
        self.replies: list[tuple[int, dict[str, str], str]] = []  # status, headers and body of them
        self.cut = False  # the next body ends half-way
        self.leave_out = 0  # vectors missing at the end of each answer

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: EmbeddingsServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        key = self.headers["Authorization"]
        self.server.requests.append({"path": self.path, "key": key, **body})
        if self.server.replies:
            self._send(*self.server.replies.pop(0))
            return
        if self.server.failures:
            self._answer(self.server.failures.pop(0), {"error": {"message": "told to fail"}})
            return
        model = get_embedding_model("hash", dim=body.get("dimensions", 16))
        vectors = enumerate(model.embed_batch(body["input"]))
        data = [{"object": "embedding", "index": i, "embedding": v} for i, v in vectors]
        data = data[: len(data) - self.server.leave_out]
        usage = {"prompt_tokens": 1, "total_tokens": 1}
        answer = {"object": "list", "model": body["model"], "data": data[::-1], "usage": usage}
        self._answer(200, answer)

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        self._send(status, {}, json.dumps(body))

    def _send(self, status: int, headers: dict[str, str], body: str) -> None:
        content = body.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cut, self.server.cut = self.server.cut, False
        self.wfile.write(content[: len(content) // 2] if cut else content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Say nothing."""


@contextmanager
def running_server() -> Iterator[EmbeddingsServer]:
    """Serve for the length of a block."""
    with EmbeddingsServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
