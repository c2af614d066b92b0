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
import os
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_faults import Fault, Hold, Kind, Request
from hub_protocol import HubHandler, HubServer


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
        self._server = HubServer(("127.0.0.1", port), HubHandler)
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
