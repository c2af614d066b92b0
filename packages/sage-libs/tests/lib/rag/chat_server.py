"""A local HTTP server that speaks enough of /v1/chat/completions for the official client."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any


class ChatServer(ThreadingHTTPServer):
    """Answers with the words of the last message; can be told to fail, to hold back, to hang."""

    daemon_threads = True
    request_queue_size = 512  # connections that wait to be taken

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.failures: list[int] = []  # HTTP statuses of the next answers
        self.together: threading.Barrier | None = None  # answers only so many at once
        self.says: str | None = None  # instead of a completion
        self.hangs = False
        self.hanging: SimpleQueue[str] = SimpleQueue()  # prompts that wait for no answer
        self.abandoned: SimpleQueue[str] = SimpleQueue()  # those whose client is gone

    @property
    def base_url(self) -> str:
        """What a client is given."""
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append({"key": self.headers["Authorization"], **body})
        prompt = body["messages"][-1]["content"]
        if self.server.hangs:
            self.server.hanging.put(prompt)
            self.connection.recv(1)  # returns when the client closes the connection
            self.server.abandoned.put(prompt)
        elif self.server.failures:
            self._answer(self.server.failures.pop(0), {"error": {"message": "told to fail"}})
        elif self.server.says is not None:
            self._send(200, self.server.says)
        else:
            if self.server.together is not None:
                self.server.together.wait(30)
            self._answer(200, _completion(body, prompt.split()))

    def _answer(self, status: int, body: Any) -> None:
        self._send(status, json.dumps(body))

    def _send(self, status: int, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's signature
        """Say nothing."""


def _completion(body: dict[str, Any], words: list[str]) -> dict[str, Any]:
    said = words[: body.get("max_tokens")]
    choice = {
        "message": {"role": "assistant", "content": " ".join(said)},
        "finish_reason": "stop" if said == words else "length",
    }
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [{"index": index, **choice} for index in range(body.get("n", 1))],
        "usage": {
            "prompt_tokens": len(words),
            "completion_tokens": len(said),
            "total_tokens": len(words) + len(said),
        },
    }


@contextmanager
def running_server() -> Iterator[ChatServer]:
    """A server on a port of its own."""
    with ChatServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
