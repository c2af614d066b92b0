"""Calls of every replica, and changes that all of them have or none."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode leaves it out

from cluster_processes import until

from sage.common.service import BaseService, Replication
from sage.common.service.replication import Scope
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.replicated_service import (
    ReplicaSettings,
    ReplicatedService,
)
from sage.kernel.runtime.cluster.replicas.supervision import Supervision
from sage.kernel.runtime.service import ServiceFactory, ServiceManager


class Switchable(BaseService):
    """Serves one model at a time, and refuses some on its third copy."""

    max_concurrency = None
    numbers = count(1)

    def __init__(self) -> None:
        self.number = next(self.numbers)  # three are made at once, by threads
        self.model = "first"

    @classmethod
    def replication(cls) -> Replication:
        def scope(method: str, _args: Sequence[Any], _kwargs: Mapping[str, Any]) -> Scope:
            return {"tell": "each", "switch": "change"}.get(method, "one")  # type: ignore[return-value]

        return Replication(replayable=True, scope=scope, combine=sorted)

    def tell(self) -> str:
        return self.model

    def switch(self, model: str) -> str:
        if model == "too large" and self.number == 3:
            raise MemoryError("no room for it")
        self.model = model
        return model

    def which(self) -> str:
        return self.model


@contextmanager
def switchable() -> Iterator[tuple[ServiceManager, FakeCluster]]:
    Switchable.numbers = count(1)
    cluster, manager = FakeCluster(), ServiceManager()
    factory = ServiceFactory(service_class=Switchable)
    settings = ReplicaSettings(least=3, most=3, supervision=Supervision(delays=(0.0,)))
    arguments = (
        factory,
        Switchable.replication(),
        settings,
        lambda *_: (cluster, Placement(cluster.nodes())),
    )
    manager.register("s", ServiceFactory(service_class=ReplicatedService, args=arguments))
    try:
        manager.start()
        yield manager, cluster
    finally:
        manager.close()
        cluster.close()


def told(manager: ServiceManager) -> list[str]:
    found: list[str] = manager.call_service("s", method="tell")
    return found


def test_each_replica_is_asked_and_their_answers_are_combined() -> None:
    with switchable() as (manager, _):
        assert told(manager) == ["first"] * 3


def test_a_change_is_made_by_all_and_by_those_that_begin_later() -> None:
    with switchable() as (manager, cluster):
        assert manager.call_service("s", "second", method="switch") == ["second"] * 3
        manager.call_service("s", "third", method="switch")
        cluster.remotes[1].die()
        until(lambda: len(cluster.remotes) == 4)
        until(lambda: told(manager) == ["third"] * 3)


def test_what_one_refuses_none_has() -> None:
    with switchable() as (manager, cluster):
        manager.call_service("s", "second", method="switch")
        with pytest.raises(MemoryError, match="no room"):
            manager.call_service("s", "too large", method="switch")
        until(lambda: len(cluster.remotes) == 5)  # the two that had made it began anew
        until(lambda: told(manager) == ["second"] * 3)
        assert manager.call_service("s", method="which") == "second"


def test_an_error_of_what_each_is_asked_is_raised() -> None:
    with switchable() as (manager, _), pytest.raises(TypeError, match="unexpected keyword"):
        manager.call_service("s", method="tell", loudly=True)
