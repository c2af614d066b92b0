"""ReplicatedService: a service whose calls are answered by replicas on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from functools import partial
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any

from sage.common.core.background import in_background
from sage.common.core.context import ServiceCaller
from sage.common.core.futures import errors_in_future
from sage.common.core.old_names import missing_attribute
from sage.common.kept_record import KeptRecord
from sage.common.service import BaseService, Replication, ServiceClosedError
from sage.common.service.replication import OnPiece
from sage.kernel.runtime.cluster.cluster import Cluster, Need
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.hosted_service import hosting
from sage.kernel.runtime.cluster.replicas.replica_set import ReplicaSet
from sage.kernel.runtime.cluster.replicas.supervision import Supervision
from sage.kernel.runtime.metrics.replica_status import ReplicaState, ReplicaStatus
from sage.kernel.runtime.service.running_service import is_callable_name
from sage.kernel.runtime.service.service_factory import ServiceFactory


@dataclass(frozen=True, kw_only=True)
class ReplicaSettings:
    """How one service is run on a cluster.

    Args:
        least: replicas that must be ready before a record moves.
        most: replicas that there may be; None is as many as the cluster has room for.
        gpus: GPUs that each takes; None is what the service says.
        cpus: processors that each takes; None is what the service says.
        resources: what each takes of the cluster's own resources.
        most_in_flight: calls that one replica has at most; None is what its service says.
        supervision: when replicas are replaced.
    """

    least: int = 1
    most: int | None = 1
    gpus: float | None = None
    cpus: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    most_in_flight: int | None = None
    supervision: Supervision = field(default_factory=Supervision)

    def need(self, said: Replication, placement: Placement) -> Need:
        """Return what each replica takes of its machine.

        A service that wants GPUs runs on processors where no machine has one, or will have. It then
        takes all of the smallest machine's that workers leave, so that no two share a machine's.
        """
        gpus = said.gpus if self.gpus is None else self.gpus
        cpus = said.cpus if self.cpus is None else self.cpus
        has_gpus = placement.grows or any(node.gpus for node in placement.nodes)
        if self.gpus is None and gpus and not has_gpus:
            gpus = 0
            if self.cpus is None:
                smallest = min((node.cpus for node in placement.nodes if node.cpus), default=1)
                cpus = max(1, smallest - placement.cpus_for_workers)
        return Need(gpus=gpus, cpus=cpus, resources=self.resources)


Join = Callable[[str, Callable[[], list[ReplicaStatus]]], tuple[Cluster, Placement]]
"""Returns the cluster, and the room that is left on it, to a service that opens; it is given the
service's name, and what returns its replicas as data."""


class ReplicatedService(BaseService):
    """Has the public methods of the service that it stands for; each call goes to one replica.

    For a ServiceManager it is a service like any other: all its methods have twins that return
    Futures, so that no thread is held by a call.

    Args:
        factory: makes the service, in the process of each replica.
        replication: what the service says of that.
        settings: how many there are, and where.
        join: returns the cluster once the service opens.
    """

    max_concurrency = None

    def __init__(
        self,
        factory: ServiceFactory,
        replication: Replication,
        settings: ReplicaSettings,
        join: Join,
    ) -> None:
        self._factory = factory
        self._replication = replication
        self._settings = settings
        self._join = join
        self._replicas: ReplicaSet | None = None
        self._record = KeptRecord(self._figures)
        self._answered: set[str] = set()  # methods that answer as a whole
        service = factory.service_class
        for name, method in _methods(service).items():
            if name in replication.streams:
                setattr(self, name, partial(self._stream, name))
            elif iscoroutinefunction(method) and not hasattr(service, f"{name}_async"):
                setattr(self, name, method)  # which is refused, as one of a service here is
            else:
                self._answered.add(name)
                setattr(self, name, partial(self._call_and_wait, name))

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Return the twin of a method; it is not kept, and so not listed with the methods."""
            method = name.removesuffix("_async")
            if method == name or method not in self._answered:
                raise missing_attribute(self, name)
            return partial(self._call, method)

    @property
    def capacity(self) -> int | None:  # type: ignore[override]  # known once replicas are up
        """Calls in flight that keep all replicas busy."""
        return None if self._replicas is None else self._replicas.capacity

    def setup(self) -> None:
        """Start the replicas; raises the error of a service's own setup, PlacementError."""
        settings, name = self._settings, self.ctx.name
        cluster, placement = self._join(name, lambda: self.replica_states)
        need = settings.need(self._replication, placement)
        what = f"service {name!r}"
        most = placement.take(what, need, settings.least, settings.most)
        self._record.open(name)
        hosted = hosting(name, what, self._factory, {what: self._factory})
        self._replicas = ReplicaSet(
            name,
            f"a replica of {what}",
            partial(cluster.start, hosted, need),
            most=most,
            takes=str(need),
            replayable=self._replication.replayable,
            ask=partial(answer, self.ctx.services, self._replication.origin),
            most_in_flight=settings.most_in_flight,
            supervision=settings.supervision,
        )
        self._replicas.open(settings.least)
        self._record.tell()

    def stop(self) -> None:
        """End the replicas; calls in flight end with an error."""
        if self._replicas is not None:
            self._replicas.close(ServiceClosedError(self.ctx.name))

    def cleanup(self) -> None:
        """Take away what `sage llm status` shows."""
        self._record.close()

    def checkpoint_identity(self) -> Mapping[str, Any] | None:
        """Return what the service says of itself: a replica, or before one is there, one here."""
        there = None if self._replicas is None else self._replicas.identity
        return there or self._factory.create().checkpoint_identity()

    @property
    def replica_states(self) -> list[ReplicaStatus]:
        """The replicas as data; none before it is open."""
        return [] if self._replicas is None else self._replicas.status()

    @errors_in_future
    def _call(self, method: str, *args: Any, **kwargs: Any) -> Future[Any]:
        replicas = self._open_ones()
        scope = self._replication.scope(method, args, kwargs)
        if scope != "one":
            # On a thread of its own: it may last, and ends as a whole.
            return in_background(self._call_each, method, args, kwargs, change=scope == "change")
        prefix = self._replication.prefix(method, args, kwargs)
        return replicas.call(method, args, kwargs, prefix=prefix)

    def _stream(self, method: str, *args: Any, **kwargs: Any) -> Any:
        streaming = self._replication.streams[method]
        prefix = self._replication.prefix(method, args, kwargs)

        def start(on_piece: OnPiece) -> Future[Any]:
            return self._open_ones().call(
                streaming.start, args, kwargs, prefix=prefix, on_piece=on_piece
            )

        return streaming.reader(start)

    def _figures(self) -> dict[str, Any]:
        """Return what `sage llm status` shows of it."""
        states = self.replica_states
        return {
            "model_id": None,  # each replica's own record, on its machine, has that
            "state": _together([each.state for each in states]),
            "requests_done": sum(each.finished for each in states),
            "running": sum(each.in_flight for each in states),
            "waiting": 0 if self._replicas is None else self._replicas.waiting,
            "tokens_per_second": None,
            "replicas": [asdict(each) for each in states],
        }

    def _open_ones(self) -> ReplicaSet:
        if self._replicas is None:
            raise ServiceClosedError(self.ctx.name, "it has not been opened yet")
        return self._replicas

    def _call_and_wait(self, method: str, *args: Any, **kwargs: Any) -> Any:
        future = self._call(method, *args, **kwargs)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _call_each(self, method: str, args: Any, kwargs: Any, *, change: bool) -> Any:
        results = self._open_ones().call_each(method, args, kwargs, change=change)
        return self._replication.combine(results)


def _together(states: Sequence[ReplicaState]) -> str:
    """Return the state of a service whose replicas have these, in the words of a VLLMService."""
    if "ready" in states:
        return "ready" if set(states) == {"ready"} else "degraded"
    if "starting" in states or not states:
        return "loading"
    return "recovering" if "resting" in states else "failed"


def answer(services: ServiceCaller, origin: object, what: str, *args: Any, **kwargs: Any) -> Any:
    """Answer a question of a process on the cluster.

    It is a call of a service, or about its capacity, or a call of what its copies have in common.
    """
    if what == "origin":
        method, *rest = args
        return in_background(getattr(origin, method), *rest, **kwargs)  # it may wait for a disk
    if what == "capacity":
        return services.capacity(*args)
    return services.call_service_async(*args, **kwargs)


def _methods(service: type[BaseService]) -> dict[str, Any]:
    """Return the methods that callers may call, by name; of those that have a twin not that."""
    found = {
        name: method
        for name in dir(service)
        if is_callable_name(name) and callable(method := getattr(service, name))
    }
    return {n: each for n, each in found.items() if n.removesuffix("_async") not in {*found} - {n}}
