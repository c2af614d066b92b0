"""A local HTTP server that speaks enough of /v1/chat/completions for the official client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What a server that misbehaves sends in place of an answer."""

    status: int = 200
    body: str = '{"error": {"message": "told to fail"}}'
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: bool = False  # the connection ends in the middle of the body

    def send(self, handler: BaseHTTPRequestHandler) -> None:
        """Write it to a client."""
        content = self.body.encode()
        handler.send_response(self.status)
        for name, value in {"Content-Type": "application/json", **self.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2] if self.cut else content)
        handler.close_connection = handler.close_connection or self.cut


class ChatServer(ThreadingHTTPServer):
    """Answers with the words of the last message; can be told to fail, to hold back, to hang."""

    daemon_threads = True
    request_queue_size = 512  # connections that wait to be taken

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[dict[str, Any]] = []
        self.arrivals: list[tuple[float, str]] = []  # when the requests came, and their prompts
        self.failures: list[int] = []  # HTTP statuses of the next answers
        self.replies: list[Reply] = []  # the next answers
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
        prompt = body["messages"][-1]["content"]
        self.server.arrivals.append((time.monotonic(), prompt))
        self.server.requests.append({"key": self.headers["Authorization"], **body})
        if self.server.hangs:
            self.server.hanging.put(prompt)
            self.connection.recv(1)  # returns when the client closes the connection
            self.server.abandoned.put(prompt)
        elif self.server.replies:
            self.server.replies.pop(0).send(self)
        elif self.server.failures:
            Reply(status=self.server.failures.pop(0)).send(self)
        elif self.server.says is not None:
            Reply(body=self.server.says).send(self)
        else:
            if self.server.together is not None:
                self.server.together.wait(120)
            Reply(body=json.dumps(_completion(body, prompt.split()))).send(self)

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
