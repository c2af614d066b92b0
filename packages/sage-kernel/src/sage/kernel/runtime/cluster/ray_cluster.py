"""RayCluster: a Cluster on Ray Core. With ``ray_connection``, all that imports ray.

Of Ray it uses what it is good at: it knows the machines, finds room for a process, starts it,
notices when it dies, and carries bytes to it. Each process is one actor that is never restarted by
Ray: what to do about a death is decided by whoever owns the calls.
"""

from __future__ import annotations

import atexit
import socket
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from queue import SimpleQueue
from typing import Any

from sage.kernel.runtime.cluster.cluster import Need, Node
from sage.kernel.runtime.cluster.errors import RemoteDiedError, RemoteUnavailableError
from sage.kernel.runtime.cluster.mail.carriage import from_bytes
from sage.kernel.runtime.cluster.ray_connection import RayConnection, reason_of

_THREADS = 16  # of an actor: three at work, the others for calls that were lost on their way
_OWN_RESOURCES = ("node:", "accelerator_type:", "memory", "object_store_memory")  # Ray's


class RayCluster:
    """The cluster at an address, or one of this machine alone that is started, and ended, here.

    A program that called ``ray.init()`` itself keeps its connection: it is used and left as it is.

    Args:
        address: ``"auto"`` for the cluster that this machine belongs to, or ``host:port``; None
            takes the one that RAY_ADDRESS or this machine has, or starts one.
        init: more arguments of ``ray.init()``.
    """

    def __init__(self, address: str | None = None, init: Mapping[str, Any] | None = None) -> None:
        self._connection = RayConnection.get(address, init or {})
        self._completions: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._remotes: list[_RayRemote] = []
        self.closed = False
        # Ray's own thread must not wait for what follows from the completion of a call.
        self._thread = threading.Thread(target=self._run, name="sage-ray", daemon=True)
        self._thread.start()
        # Before Ray's own way out, after which each process would be taken for one that died.
        atexit.register(self.close)

    def nodes(self) -> list[Node]:
        """Return the machines that are there; see Cluster."""
        import ray

        return [_node(each) for each in ray.nodes() if each["Alive"]]

    def start(self, hosted: bytes, need: Need) -> _RayRemote:
        """Have an actor started; see Cluster."""
        remote = _RayRemote(self, hosted, need)
        self._remotes.append(remote)
        return remote

    def close(self) -> None:
        """End all actors, and the connection if it was made here; see Cluster."""
        if self.closed:
            return
        self.closed = True
        atexit.unregister(self.close)
        self._completions.put(None)
        if threading.current_thread() is not self._thread:
            self._thread.join()
        for remote in self._remotes:
            remote.kill()
        self._connection.leave()

    def later(self, complete: Callable[[], None]) -> None:
        """Have a call completed on this cluster's thread, unless it is closed before that."""
        self._completions.put(complete)

    def _run(self) -> None:
        while (complete := self._completions.get()) is not None:
            complete()
            del complete  # it may keep a result


class _RayRemote:
    """One actor; see Remote."""

    def __init__(self, cluster: RayCluster, hosted: bytes, need: Need) -> None:
        import ray

        self._cluster = cluster
        self._killed = False
        if not ray.is_initialized():  # it would start another cluster; see call()
            return
        # "SPREAD": what one machine's end takes away is as little as can be.
        self._actor = (
            ray.remote(_Actor)
            .options(
                num_gpus=need.gpus,
                num_cpus=need.cpus,
                resources=dict(need.resources) or None,
                max_concurrency=_THREADS,
                max_restarts=0,
                max_task_retries=0,
                enable_task_events=False,  # of each call, which nobody reads
                scheduling_strategy="SPREAD",
            )
            .remote(hosted)
        )

    def call(self, method: str, *args: Any) -> Future[Any]:
        """Call a method of the hosted object; see Remote."""
        import ray

        future: Future[Any] = Future()
        if self._cluster.closed:
            return future  # nobody waits for it any more
        try:
            if not ray.is_initialized():  # the call would start another cluster
                raise RuntimeError("the program has left the cluster")  # noqa: TRY301
            answer = self._actor.call.remote(method, *args).future()
        except Exception as error:  # noqa: BLE001 - Ray has been left, or the actor is gone
            future.set_exception(RemoteDiedError(reason_of(error)))
            return future
        answer.add_done_callback(lambda done: self._cluster.later(lambda: _complete(future, done)))
        return future

    def kill(self) -> None:
        """End the actor's process; see Remote."""
        import ray

        if not self._killed and ray.is_initialized():
            self._killed = True
            with suppress(Exception):  # it is gone, or Ray is
                ray.kill(self._actor, no_restart=True)


class _Actor:
    """What Ray runs in an actor's process: the hosted object, with its methods called by name."""

    def __init__(self, hosted: bytes) -> None:
        import ray

        node_id = ray.get_runtime_context().get_node_id()
        self._hosted = from_bytes(hosted)(_node_name(socket.gethostname(), node_id))

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._hosted, method)(*args)


def _complete(future: Future[Any], done: Future[Any]) -> None:
    """Complete a call's Future with Ray's outcome, in our terms."""
    import ray.exceptions

    error = done.exception()
    if error is None:
        future.set_result(done.result())
    elif isinstance(error, ray.exceptions.ActorUnavailableError):
        future.set_exception(RemoteUnavailableError(reason_of(error)))
    elif isinstance(error, ray.exceptions.RayTaskError):
        future.set_exception(error.cause if isinstance(error.cause, Exception) else error)
    else:
        future.set_exception(RemoteDiedError(reason_of(error)))


def _node(found: Mapping[str, Any]) -> Node:
    resources: Mapping[str, float] = found["Resources"]
    own = {
        name: amount
        for name, amount in resources.items()
        if name not in ("CPU", "GPU") and not name.startswith(_OWN_RESOURCES)
    }
    return Node(
        name=_node_name(found["NodeManagerHostname"], found["NodeID"]),
        gpus=resources.get("GPU", 0),
        cpus=resources.get("CPU", 0),
        resources=own,
    )


def _node_name(host: str, node_id: str) -> str:
    """Return a machine's name; in tests there are several on one host."""
    return f"{host}/{node_id[:6]}"
