"""How replicas are shown: in lines of progress, and for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from sage.kernel.api import PipelineCollector, ReplicaStatus, RunMetrics
from sage.kernel.runtime.progress.text import Pace, running_line

REPLICAS = (
    ReplicaStatus(number=0, node="a", state="ready", process=1, in_flight=7, finished=20),
    ReplicaStatus(number=1, node=None, state="resting", process=None, deaths=2),
)
METRICS = RunMetrics(
    name="run",
    state="running",
    elapsed=1.0,
    operators=(),
    length=None,
    done=0,
    time_left=None,
    services={"chat": REPLICAS},
)


class Env:
    def metrics(self) -> RunMetrics:
        return METRICS


def test_progress_has_a_part_for_each_service() -> None:
    pace = Pace()
    pace.add(METRICS)
    line = running_line(METRICS, pace)
    assert "chat: 1 of 2 ready, on 1 machine, 7 calls in flight, 2 deaths" in line


def test_prometheus_has_each_replica_with_its_machine() -> None:
    registry = CollectorRegistry()
    registry.register(PipelineCollector(Env()))
    labels = {"pipeline": "run", "service": "chat", "replica": "0", "node": "a"}
    other = {**labels, "replica": "1", "node": ""}
    name = "sage_pipeline_replica"
    assert registry.get_sample_value(f"{name}_ready", labels) == 1
    assert registry.get_sample_value(f"{name}_in_flight", labels) == 7
    assert registry.get_sample_value(f"{name}_finished_total", labels) == 20
    assert registry.get_sample_value(f"{name}_ready", other) == 0
    assert registry.get_sample_value(f"{name}_deaths_total", other) == 2
