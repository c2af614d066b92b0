"""`sage llm status` of a service on a cluster: a row for each replica, with its machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from command_line import lines
from recorded_server import program

from sage.common.run_folder import read_records

if TYPE_CHECKING:
    from command_line import CommandLine

SERVICE = """
import sys
from sage.common.service import BaseService, Replication
from sage.kernel.runtime.cluster.cluster import Node
from sage.kernel.runtime.cluster.fake_cluster import FakeCluster
from sage.kernel.runtime.cluster.placement import Placement
from sage.kernel.runtime.cluster.replicas.replicated_service import (
    ReplicaSettings, ReplicatedService,
)
from sage.kernel.runtime.service import ServiceFactory, ServiceManager

class Doubler(BaseService):
    def double(self, number):
        return 2 * number

cluster = FakeCluster(nodes=[Node(name="a", cpus=1), Node(name="b", cpus=1)])
manager = ServiceManager()
settings = ReplicaSettings(least=2, most=2)
join = lambda *_: (cluster, Placement(cluster.nodes()))
arguments = (ServiceFactory(service_class=Doubler), Replication(replayable=True), settings, join)
manager.register("doubler", ServiceFactory(service_class=ReplicatedService, args=arguments))
manager.start()
print("up", flush=True)
for line in sys.stdin:
    for n in range(int(line)):
        manager.call_service("doubler", n, method="double")
    cluster.remotes[0].die()
manager.close()
"""


def test_each_replica_of_a_service_has_a_row(
    sage: CommandLine, environment: dict[str, str]
) -> None:
    with program(SERVICE, environment, start="") as (host, _):
        assert host.stdin is not None
        host.stdin.write("6\n")
        host.stdin.flush()
        give_up = time.monotonic() + 60
        while time.monotonic() < give_up:  # its record follows within half a second
            (record,) = read_records()
            states = [each["state"] for each in record["replicas"]]
            if sum(each["deaths"] for each in record["replicas"]) and states == ["ready"] * 2:
                break
            time.sleep(0.01)
        _, service, *rows = lines(sage("llm", "status", **environment))
        assert service.split()[:3] == ["doubler", "-", "service"]
        assert "6 done" in service
        assert [row.split()[:4] for row in rows] == [
            ["0", "on", "a", "replica"],
            ["1", "on", "b", "replica"],
        ]
        assert ", 1 death" in rows[0]
        assert "death" not in rows[1]
        host.stdin.close()
        host.wait(60)
        assert read_records() == []
