"""What can go wrong at the local hub, on demand, and what it notes of each request."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["info", "tree", "head", "get"]


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
