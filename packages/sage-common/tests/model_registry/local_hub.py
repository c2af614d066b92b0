"""A model hub on this machine, for tests: the hub's HTTP protocol, with faults on demand.

In a test::

    with LocalHub() as hub:
        hub.add_model("owner/name", {"config.json": b"{}"})
        hub.faults.append(Fault(on="get", path="config.json", action=Status(503), times=1))
        environment = hub.environment(home)  # for a process that uses huggingface_hub

By hand: ``python local_hub.py owner/name <folder> [--port 8000] [--speed BYTES_PER_SECOND]``, then
``HF_ENDPOINT=http://127.0.0.1:8000 HF_HUB_DISABLE_XET=1 sage llm model download owner/name``.

The protocol spoken here is the part of the hub's that its client uses for `model_info`,
`list_repo_tree` and `snapshot_download`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

Kind = Literal["info", "tree", "head", "get"]
LARGE_FILE_SUFFIXES = (".safetensors", ".bin")
SEND_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class Status:
    """Answer with this status instead."""

    code: int
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Send the first `after` bytes of the body, then close (or reset) the connection."""

    after: int
    reset: bool = False


@dataclass
class Hold:
    """Send the first `after` bytes of the body, then wait: for `release`, or the end of the hub."""

    after: int
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Body:
    """Send these bytes instead of the file's."""

    content: bytes


@dataclass
class Fault:
    """What goes wrong: at which kind of request, for which file, and how often (None: always)."""

    on: Kind
    action: Status | Cut | Hold | Body
    path: str | None = None
    times: int | None = None


@dataclass(frozen=True)
class Request:
    """One request as the hub saw it."""

    kind: Kind
    model_id: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Repository:
    """One model: its commits, its branches and tags, and who may see it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    token: str | None = None
    """Where set, only requests with this token are served."""
    extra_tree_entries: list[dict[str, Any]] = field(default_factory=list)


class LocalHub:
    """The hub; a context manager that serves from a thread of its own."""

    def __init__(self, *, port: int = 0, bytes_per_second: float | None = None) -> None:
        self.models: dict[str, Repository] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.bytes_per_second = bytes_per_second
        self.ended = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hub = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    @property
    def url(self) -> str:
        """What HF_ENDPOINT must be."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> LocalHub:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving; connections that are open end at once."""
        if self.ended.is_set():
            return
        self.ended.set()
        for fault in self.faults:
            if isinstance(fault.action, Hold):
                fault.action.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add_model(self, model_id: str, files: dict[str, bytes], *, revision: str = "main") -> str:
        """Add a commit with these files, let `revision` mean it, and return it."""
        repository = self.models.setdefault(model_id, Repository())
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        commit = hashlib.sha1(model_id.encode() + content).hexdigest()
        repository.commits[commit] = dict(files)
        repository.names[revision] = commit
        return commit

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process that shall use this hub and no other, nor anyone's token."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("HF_") and "proxy" not in name.lower()
        }
        return inherited | {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def fetched(self, kind: Kind = "get") -> Counter[str]:
        """How often each file was asked for."""
        with self._lock:
            return Counter(request.path for request in self.requests if request.kind == kind)

    def note(self, request: Request) -> Fault | None:
        """Log a request; returns the fault that it shall meet."""
        with self._lock:
            self.requests.append(request)
            for fault in self.faults:
                if (
                    fault.on == request.kind
                    and fault.path in (None, request.path)
                    and fault.times != 0
                ):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hub: LocalHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what these tests are about, not an error of the hub."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    _ROUTES = (
        ("info", re.compile(r"/api/models/(?P<id>.+?)/revision/(?P<rev>[^/]+)")),
        ("tree", re.compile(r"/api/models/(?P<id>.+?)/tree/(?P<rev>[^/]+)")),
        ("file", re.compile(r"/(?P<id>.+?)/resolve/(?P<rev>[^/]+)/(?P<path>.+)")),
    )

    def log_message(self, *_: object) -> None:
        """Stay silent."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        url = urlsplit(self.path)
        self._query = parse_qs(url.query)
        matches = ((kind, pattern.fullmatch(url.path)) for kind, pattern in self._ROUTES)
        kind, match = next((pair for pair in matches if pair[1]), ("", None))
        if match is None:
            self._send(404, {})
            return
        if kind == "file":
            kind = "head" if self.command == "HEAD" else "get"
        fields = {name: unquote(value) for name, value in match.groupdict().items()}
        self._serve(kind, fields["id"], fields["rev"], fields.get("path", ""))

    def _serve(self, kind: Any, model_id: str, revision: str, path: str) -> None:
        authorization = self.headers.get("Authorization", "")
        token = authorization.removeprefix("Bearer ") or None
        request = Request(kind, model_id, path, self.headers.get("Range"), token)
        fault = self.server.hub.note(request)
        action = fault.action if fault else None
        if isinstance(action, Status):
            self._send(action.code, action.headers)
            return
        repository = self.server.hub.models.get(model_id)
        refusal = self._refusal(repository, kind, token)
        if refusal or repository is None:
            self._send(*(refusal or (404, {"X-Error-Code": "RepoNotFound"})))
            return
        commit = repository.names.get(revision, revision)
        files = repository.commits.get(commit)
        if files is None:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif kind == "info":
            self._send_json({"id": model_id, "sha": commit, "siblings": []}, action)
        elif kind == "tree":
            self._send_tree(repository, model_id, commit, files, action)
        elif path not in files:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._send_file(commit, path, files[path], action)

    def _refusal(
        self, repository: Repository | None, kind: str, token: str | None
    ) -> tuple[int, dict[str, str]] | None:
        if repository is None:
            return 401, {"X-Error-Code": "RepoNotFound"}
        if repository.gated and kind in ("head", "get"):
            return 403, {"X-Error-Code": "GatedRepo"}
        if repository.token is not None and token != repository.token:
            if token is None:
                return 401, {"X-Error-Code": "RepoNotFound"}
            # A real hub does not repeat the token; a careless one might.
            message = "Invalid credentials in Authorization header"
            return 401, {"X-Error-Message": message, "X-Echo": f"Bearer {token}"}
        return None

    def _send_tree(
        self,
        repository: Repository,
        model_id: str,
        commit: str,
        files: dict[str, bytes],
        action: Any,
    ) -> None:
        entries = [_tree_entry(path, files[path]) for path in sorted(files)]
        entries += repository.extra_tree_entries
        start = int(self._query.get("cursor", ["0"])[0])
        page = entries[start : start + 50]
        headers = {}
        if start + 50 < len(entries):
            following = (
                f"{self.server.hub.url}/api/models/{model_id}/tree/{commit}"
                f"?recursive=true&cursor={start + 50}"
            )
            headers["Link"] = f'<{following}>; rel="next"'
        self._send_json(page, action, headers)

    def _send_file(self, commit: str, path: str, content: bytes, action: Any) -> None:
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{_etag(path, content)}"',
            "Accept-Ranges": "bytes",
        }
        if isinstance(action, Body):
            content = action.content
        status, body = 200, content
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked:
            first = int(asked[1])
            status, body = 206, content[first:]
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
        self._send(status, headers, body, action)

    def _send_json(
        self, answer: Any, action: Any = None, headers: dict[str, str] | None = None
    ) -> None:
        body = action.content if isinstance(action, Body) else json.dumps(answer).encode()
        self._send(200, {"Content-Type": "application/json", **(headers or {})}, body, action)

    def _send(
        self, status: int, headers: dict[str, str], body: bytes = b"", action: Any = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        stop = action.after if isinstance(action, Cut | Hold) else len(body)
        self._write(body[:stop])
        if isinstance(action, Hold):
            action.held.set()
            action.release.wait()
            if self.server.hub.ended.is_set():
                self.close_connection = True
                return
            self._write(body[stop:])
        if isinstance(action, Cut):
            self._cut(reset=action.reset)

    def _write(self, body: bytes) -> None:
        speed = self.server.hub.bytes_per_second
        for start in range(0, len(body), SEND_AT_ONCE):
            piece = body[start : start + SEND_AT_ONCE]
            self.wfile.write(piece)
            if speed is not None:
                time.sleep(len(piece) / speed)

    def _cut(self, *, reset: bool) -> None:
        self.wfile.flush()
        self.close_connection = True
        if reset:  # a linger time of zero makes the kernel send RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()


@lru_cache(maxsize=256)  # or every listing of a large model would hash all of it
def _etag(path: str, content: bytes) -> str:
    if path.endswith(LARGE_FILE_SUFFIXES):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _tree_entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": _etag(path, content),
    }
    if path.endswith(LARGE_FILE_SUFFIXES):
        entry["lfs"] = {"oid": entry["oid"], "size": len(content), "pointerSize": 134}
    return entry


def main() -> None:
    """Serve one folder as one model until interrupted."""
    parser = argparse.ArgumentParser(description="A model hub on this machine, for trying things.")
    parser.add_argument("model_id")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--speed", type=float, help="bytes per second for each connection")
    options = parser.parse_args()
    files = {
        path.relative_to(options.folder).as_posix(): path.read_bytes()
        for path in options.folder.rglob("*")
        if path.is_file()
    }
    with LocalHub(port=options.port, bytes_per_second=options.speed) as hub:
        hub.add_model(options.model_id, files)
        print(f"HF_ENDPOINT={hub.url}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print()
