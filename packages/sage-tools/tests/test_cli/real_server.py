"""Helpers for the tests that start vLLM's own server on the tiny model."""

from __future__ import annotations

import json
import random
import socket
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sage.common.run_folder import read_records

MODEL = "test/tiny-chat"
SMALL = ("--", "--max-num-seqs", "8", "--kv-cache-memory-bytes", str(64 << 20))
_PATIENCE = 300.0


def free_port() -> int:
    """A port that nobody has, and that the system gives nobody by itself before it is used."""
    while True:
        port = random.randrange(20_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def complete(url: str, **options: Any) -> dict[str, Any]:
    body = json.dumps({"model": MODEL, "prompt": "hello", "max_tokens": 4, **options}).encode()
    request = urllib.request.Request(
        f"{url}/completions", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        result: dict[str, Any] = json.load(answer)
    return result


def recorded(port: int, test: Callable[[dict[str, Any]], bool] = lambda _: True) -> dict[str, Any]:
    """The record of the server on a port, as soon as there is one as wanted."""
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up:
        for record in read_records():
            if record.get("port") == port and test(record):
                return record
        time.sleep(0.02)
    raise AssertionError(f"no such record: {read_records()}")


def gone(pid: int, members: Callable[[int], list[str]]) -> None:
    """Wait until nothing of a server is left; fails where something stays."""
    give_up = time.monotonic() + _PATIENCE
    while time.monotonic() < give_up and members(pid):
        time.sleep(0.05)
    left = members(pid)
    assert not left, left
    assert pid not in {record["pid"] for record in read_records()}


def is_loading(record: dict[str, Any]) -> bool:
    """Whether the server's engine runs in a process of its own by now."""
    log = Path(record["log"])
    return log.exists() and "EngineCore pid=" in log.read_text()
