"""Errors of what runs on a cluster.

ClusterError                 (SageError)
├── RemoteDiedError          (RuntimeError)  a process ended; what it had in flight is lost
├── RemoteUnavailableError   (RuntimeError)  a message or its answer was lost on the way
├── RemoteError              (RuntimeError)  stands for an error that could not be brought over
├── WorkerDiedError          (RuntimeError)  a record made its workers die
├── PlacementError           (ValueError)    no machine has room for what was asked for
└── NoClusterError           (ConnectionError)  there is no cluster at the address
ReplicaDiedError             (ServiceError, RuntimeError)  the replica that had the call died
├── StreamBrokenError        a part of its answer had come
└── PoisonCallError          the call itself made its replicas die
"""

from __future__ import annotations

from typing import Unpack

from sage.common.core.errors import SageError, WayOut
from sage.common.service import ServiceError

FROM_OUTSIDE = "a program outside of the cluster is sent into it by `ray job submit`"


class ClusterError(SageError):
    """Base of what goes wrong between this process and a cluster."""


class RemoteDiedError(ClusterError, RuntimeError):
    """A process of the cluster ended, by ``reason``; calls in flight may have run or not."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"a process of the cluster died: {reason}")
        self.reason = reason


class RemoteUnavailableError(ClusterError, RuntimeError):
    """A message to a process of the cluster was lost, or its answer; the process may be well."""

    retryable = True

    def __init__(self, reason: str) -> None:
        super().__init__(f"a process of the cluster did not answer: {reason}")
        self.reason = reason


class RemoteError(ClusterError, RuntimeError):
    """Stands for an error that could not be brought here from another process.

    Args:
        type_name: the error's type, with its module.
        text: what it says.
        retryable: whether it said that trying again can succeed.
    """

    def __init__(self, type_name: str, text: str, *, retryable: bool = False) -> None:
        super().__init__(f"{type_name}: {text}")
        self.type_name = type_name
        self.text = text
        self.retryable = retryable


class WorkerDiedError(ClusterError, RuntimeError):
    """Workers died each time they ran ``operator`` on this record, by ``reason``."""

    def __init__(self, operator: str, reason: str) -> None:
        super().__init__(
            f"operator {operator!r} made its workers die on this record again and again, in the "
            f"end on nothing else ({reason})"
        )
        self.operator = operator
        self.reason = reason


class PlacementError(ClusterError, ValueError):
    """No machine of the cluster has, or will have, room for what was asked for."""


class NoClusterError(ClusterError, ConnectionError):
    """There is no cluster at ``address``, or it does not accept this program."""

    def __init__(self, address: str, reason: str, hint: str) -> None:
        at = f"join the cluster at {address!r}"
        what = "start a cluster of this machine" if address == "local" else at
        super().__init__(f"cannot {what}: {reason}", hint=hint)
        self.address = address
        self.reason = reason


class ReplicaDiedError(ServiceError, RuntimeError):
    """The replica that worked on a call died, by ``reason``, and the call is not made again.

    Either its service does not say that calls may be made twice (``replayable``), or no replica is
    left. An operator with ``retries=`` tries the record again. ``each`` says what it was, if
    that is no service's: a worker of the operator that has the name.
    """

    retryable = True

    def __init__(
        self, service: str, reason: str, *, each: str = "", **way_out: Unpack[WayOut]
    ) -> None:
        each = each or f"a replica of service {service!r}"
        super().__init__(service, f"{each} died: {reason}", **way_out)
        self.reason = reason


class StreamBrokenError(ReplicaDiedError):
    """A replica died after ``pieces`` pieces of an answer had come: another one would differ."""

    def __init__(self, service: str, reason: str, pieces: int) -> None:
        super().__init__(service, reason, hint="call again: another one begins it anew")
        self.pieces = pieces
        self.problem = (
            f"a replica of service {service!r} died while it answered in pieces, of which "
            f"{pieces} had come ({reason})"
        )


class PoisonCallError(ReplicaDiedError):
    """Each replica that worked on this call died, in the end with nothing else to do."""

    retryable = False

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(service, reason)
        self.problem = (
            f"this call made replicas of service {service!r} die again and again, so it was given "
            f"up ({reason}); the other calls were not affected"
        )
