"""ReplicaStatus: one replica of a service on a cluster, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ReplicaState = Literal["starting", "ready", "resting", "given up", "closed"]


@dataclass(frozen=True, kw_only=True)
class ReplicaStatus:
    """One replica of a service, or one worker of operators, on a cluster."""

    number: int
    node: str | None
    """The machine that it is on, or was on last; None before it is on one."""
    state: ReplicaState
    """``resting``: it died, and begins again after a while."""
    process: int | None
    """Its process, by the number that it has on its machine."""
    in_flight: int = 0
    """Calls that it works on."""
    finished: int = 0
    """Calls that it has answered."""
    deaths: int = 0
    """How often its process died."""
    replayed: int = 0
    """Calls that were made again, since its process died with them."""
