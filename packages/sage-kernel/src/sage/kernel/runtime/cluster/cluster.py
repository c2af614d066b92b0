"""Cluster and Remote: all that is asked of a cluster, whichever it is.

``ray_cluster`` has the one that runs on Ray; ``fake_cluster`` one of threads, for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one process on a cluster takes of its machine.

    Args:
        gpus: GPUs, all of one machine.
        cpus: processors.
        resources: the cluster's own resources, by their names.
    """

    gpus: float = 0
    cpus: float = 1
    resources: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        own = [f"{amount:g} {name}" for name, amount in self.resources.items()]
        gpus = [f"{self.gpus:g} GPU{'' if self.gpus == 1 else 's'}"] if self.gpus else []
        cpus = f"{self.cpus:g} CPU{'' if self.cpus == 1 else 's'}"
        return " and ".join([*gpus, cpus, *own])


@dataclass(frozen=True, kw_only=True)
class Node:
    """One machine of a cluster, with all that it has, in use or not."""

    name: str
    gpus: float = 0
    cpus: float = 0
    resources: Mapping[str, float] = field(default_factory=dict)


Hosted = Callable[[str], Any]
"""Makes, in its process, the object that a Remote calls; accepts the name of the machine."""


class Remote(Protocol):
    """An object in a process of its own, somewhere on the cluster."""

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method; arguments and result are bytes and numbers.

        Calls may overlap. The Future raises RemoteDiedError if the process ends before it answers,
        and RemoteUnavailableError if the call or its answer was lost: then it may have run or not.
        The process need not have started yet.
        """
        ...

    def kill(self) -> None:
        """End the process at once, or do not start it; may be called more than once."""
        ...


class Cluster(Protocol):
    """Machines on which processes can be started."""

    def nodes(self) -> Sequence[Node]:
        """Return the machines that there are now."""
        ...

    def start(self, hosted: bytes, need: Need) -> Remote:
        """Have a process started where there is room for it, now or later, and return at once.

        Args:
            hosted: a Hosted as bytes, see ``carriage``.
            need: what the process takes.
        """
        ...

    def close(self) -> None:
        """End what was started here; may be called more than once."""
        ...
