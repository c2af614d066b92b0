"""RayEnvironment: a pipeline of this process, with its services on a Ray cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

from sage.common.core.errors import nearest
from sage.kernel.api.environment import Environment
from sage.kernel.api.ray_config import (
    keeps_here,
    ray_config,
    replica_settings,
    worker_settings,
)
from sage.kernel.graph import FunctionSpec, Operator
from sage.kernel.graph.segment import Segment, segments
from sage.kernel.runtime.cluster.cluster import Cluster
from sage.kernel.runtime.cluster.operators.remote_chain import RemoteChain
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.replicated_service import ReplicatedService
from sage.kernel.runtime.metrics.replica_status import ReplicaStatus
from sage.kernel.runtime.metrics.run_metrics import RunMetrics
from sage.kernel.runtime.service import ServiceFactory


class RayEnvironment(Environment):
    """A LocalEnvironment whose services run on a Ray cluster, in any number of processes.

    The pipeline stays in this process: its sources, sinks, order, dead letters and checkpoints. A
    service that can be several (``VLLMService`` can) runs in processes of the cluster; its calls
    go to whichever replica has room. A replica that dies is replaced, and its calls are made again
    on others. All other services stay here. Maps, filters and flatmaps with ``parallelism`` above 1
    run in as many workers of the cluster, and keep the order of their records, so that such a
    pipeline can have a checkpoint too. Needs the extra ``isage-kernel[ray]``::

        env = RayEnvironment("label", {"services": {"vllm_service": {"replicas": 4}}})

    Args:
        name: the pipeline's name in logs, errors and metrics.
        config: a LocalEnvironment's, and:

            - ``address``: ``"auto"`` for the cluster that this machine belongs to, or its
              ``"host:port"``. None, the default, takes RAY_ADDRESS or a cluster on this machine;
              where there is none, it starts one for this run, as ``"local"`` does in any case. All
              of that one ends with this program, also if it is killed.
            - ``services``: by their names, for each a mapping. ``replicas``: a number; ``(least,
              most)``, of which the others join when there is room; ``"all"`` that there is room
              for beside a worker of each operator, the default for a service that takes GPUs; 0
              keeps the service here. ``gpus``, ``cpus`` and ``resources`` that each takes of one
              machine, where that is not what the service says. ``max_in_flight``: calls that each
              has at most. ``health_timeout``: seconds without a word of it after which it is
              replaced (30). ``steps_timeout``: seconds after which one that has calls and makes no
              progress is replaced; it has to be longer than loading a model (None, never).
            - ``grows``: True says that the cluster adds machines where processes wait for one, so
              nothing is refused for lack of room, and a service that takes GPUs waits for them.
            - ``workers``: ``gpus``, ``cpus`` (1) and ``resources`` that each worker takes, and
              their ``health_timeout`` (30).
            - ``runtime_env``: what the cluster's processes need, as Ray has it: ``{"working_dir":
              "."}`` brings the program's modules to them.
            - ``ray_init``: more arguments of ``ray.init()``.

    Raises:
        ValueError: a configuration that is not valid.
    """

    def __init__(self, name: str = "sage", config: Mapping[str, Any] | None = None) -> None:
        super().__init__(name, ray_config(config or {}))
        self._joining = threading.Lock()
        self._joined: tuple[Cluster, Placement] | None = None
        self._states: dict[str, Callable[[], list[ReplicaStatus]]] = {}

    def register_service_factory(self, name: str, factory: ServiceFactory) -> ServiceFactory:
        """Register a service by its factory; submit() opens it, on the cluster if it can be there.

        Returns the factory, as it was given. Raises ValueError if the configuration wants replicas
        of a service that is one alone.
        """
        settings = self.config["services"].get(name, {})
        said = factory.service_class.replication(*factory.args, **factory.kwargs)
        if said is None and settings and not keeps_here(settings):
            raise ValueError(
                f"service {name!r} cannot be replicated: {factory.service_class.__name__} keeps "
                f"what it is told; leave it out of 'services', or have its class say by "
                f"replication() how it is several"
            )
        if said is None or keeps_here(settings):
            return super().register_service_factory(name, factory)
        arguments = (factory, said, replica_settings(name, self.config, said), self._join)
        stand_in = ServiceFactory(service_class=ReplicatedService, args=arguments)
        super().register_service_factory(name, stand_in)
        return factory

    def metrics(self) -> RunMetrics:
        """Return what every operator has done so far, and how each replica is; from any thread."""
        services = {name: tuple(states()) for name, states in list(self._states.items())}
        return replace(super().metrics(), services=services)

    def _as_run(self) -> Sequence[Operator]:
        """Return the description with what has parallelism in workers, where it can be there."""
        self._check_names()
        return self._in_segments()

    def _in_segments(self) -> Sequence[Operator]:
        need, supervision = worker_settings(self.config)

        def spec(operators: tuple[Operator, ...]) -> FunctionSpec:
            arguments = (operators, operators[0].parallelism, need, supervision, self._join)
            return FunctionSpec(kind="map", target=RemoteChain, args=arguments)

        return segments(self.operators, spec)

    def _check_names(self) -> None:
        registered = self.service_manager.names
        for name in self.config["services"]:
            if name not in registered:
                raise ValueError(
                    f"the configuration names service {name!r}, which is not registered; "
                    f"{nearest(name, registered)}"
                )

    def _close(self, why: str, *, hint: str | None = None) -> None:
        try:
            super()._close(why, hint=hint)
        finally:
            if self._executor is None or not self._executor.on_own_thread:
                self._leave()

    def _join(
        self, name: str, states: Callable[[], list[ReplicaStatus]]
    ) -> tuple[Cluster, Placement]:
        """Return the cluster to a service that opens; the first one joins it."""
        # Only here: importing it must not need what only a run needs.
        from sage.kernel.runtime.cluster.ray_cluster import RayCluster

        self._states[name] = states
        with self._joining:
            if self._joined is None:
                init = deepcopy(dict(self.config["ray_init"]))  # Ray changes what it is given
                if self.config["runtime_env"] is not None:
                    init["runtime_env"] = deepcopy(self.config["runtime_env"])
                cluster = RayCluster(self.config["address"], init)
                need, _ = worker_settings(self.config)
                placement = Placement(
                    cluster.nodes(),
                    grows=self.config["grows"],
                    operators=sum(isinstance(each, Segment) for each in self._in_segments()),
                    worker=need,
                )
                self._joined = cluster, placement
            return self._joined

    def _leave(self) -> None:
        with self._joining:
            joined, self._joined = self._joined, None
        if joined is not None:
            joined[0].close()
