"""The part of the hub's HTTP protocol that its client uses to download a model."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import time
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_faults import Body, Cut, Hold, Request, Status

if TYPE_CHECKING:
    from local_hub import LocalHub, Repository

LARGE_FILE_SUFFIXES = (".safetensors", ".bin")
SEND_AT_ONCE = 1 << 16


class HubServer(ThreadingHTTPServer):
    """Serves requests from threads of their own, for one hub."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128  # the system refuses, or forgets for a second, who comes beyond that
    hub: LocalHub

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is what these tests are about, not an error of the hub."""


class HubHandler(BaseHTTPRequestHandler):
    """Answers the requests that the hub's client makes."""

    protocol_version = "HTTP/1.1"
    server: HubServer

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
