"""PipelineCollector: a pipeline's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sage.kernel.runtime.metrics.run_metrics import RunMetrics

_COUNTERS = {
    "records_in": "Records that the operator began on",
    "records_out": "Records that the operator emitted, or wrote",
    "records_failed": "Records whose error stopped the pipeline",
    "records_skipped": "Records that on_error='skip' left out",
    "records_dead_lettered": "Records that went to a dead-letter sink",
    "retries": "Times that the operator tried a record again",
}
_GAUGES = {
    "records_in_flight": "Records that the operator is at",
    "records_held": "Records that are finished, and wait for an earlier one",
    "records_waiting": "Records that wait for the operator",
}
_FIELDS = {  # of OperatorMetrics, where they have other names
    f"records_{field}": field
    for field in ("failed", "skipped", "dead_lettered", "in_flight", "held", "waiting")
}


class HasMetrics(Protocol):
    """What can be asked for a run's figures: an environment."""

    def metrics(self) -> RunMetrics:
        """Return what was done so far."""
        ...


class PipelineCollector(Collector):
    """Reads what the pipelines of environments have done whenever Prometheus asks.

    Register it, beside a VLLMServiceCollector for the engine, and have Prometheus scrape the port::

        prometheus_client.REGISTRY.register(PipelineCollector(env))
        prometheus_client.start_http_server(9100)

    All names begin with ``sage_pipeline_``. The labels are the pipeline, and of an operator's
    figures the operator and its kind; the second pipeline of a name is told as ``"papers 2"``. A
    registry takes one such collector, for all its environments.
    """

    def __init__(self, *environments: HasMetrics) -> None:
        self._environments = environments

    def describe(self) -> list[Metric]:
        """Return nothing: what there is depends on the pipelines as of now."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as of now."""
        read = [environment.metrics() for environment in self._environments]
        runs = list(zip(_told_apart(run.name for run in read), read, strict=True))
        yield from _of_runs(runs)
        yield from _of_replicas(runs)
        labels = ["pipeline", "operator", "kind"]
        for kind, families in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
            for name, meaning in families.items():
                family = kind(f"sage_pipeline_{name}", meaning, labels=labels)
                for pipeline, run in runs:
                    for operator in run.operators:
                        value = getattr(operator, _FIELDS.get(name, name))
                        family.add_metric([pipeline, operator.name, operator.kind], value)
                yield family


def _of_runs(runs: list[tuple[str, RunMetrics]]) -> Iterator[Metric]:
    state = GaugeMetricFamily(
        "sage_pipeline_state", "1, with the state that the run is in", labels=["pipeline", "state"]
    )
    seconds = GaugeMetricFamily(
        "sage_pipeline_seconds", "Seconds since the first record could move", labels=["pipeline"]
    )
    done = GaugeMetricFamily(
        "sage_pipeline_records_done", "Records of the sources that are through", labels=["pipeline"]
    )
    length = GaugeMetricFamily(
        "sage_pipeline_records_expected",
        "Records that the sources will emit, if they know",
        labels=["pipeline"],
    )
    for pipeline, run in runs:
        state.add_metric([pipeline, run.state], 1)
        seconds.add_metric([pipeline], run.elapsed)
        done.add_metric([pipeline], run.done)
        if run.length is not None:
            length.add_metric([pipeline], run.length)
    yield from (state, seconds, done, length)


def _of_replicas(runs: list[tuple[str, RunMetrics]]) -> Iterator[Metric]:
    labels = ["pipeline", "service", "replica", "node"]
    ready = GaugeMetricFamily(
        "sage_pipeline_replica_ready", "1 if it accepts calls, else 0", labels=labels
    )
    in_flight = GaugeMetricFamily(
        "sage_pipeline_replica_in_flight", "Calls that it works on", labels=labels
    )
    finished = CounterMetricFamily(
        "sage_pipeline_replica_finished", "Calls that it has answered", labels=labels
    )
    deaths = CounterMetricFamily(
        "sage_pipeline_replica_deaths", "How often its process died", labels=labels
    )
    for pipeline, run in runs:
        for service, replicas in run.services.items():
            for replica in replicas:
                values = [pipeline, service, str(replica.number), replica.node or ""]
                ready.add_metric(values, replica.state == "ready")
                in_flight.add_metric(values, replica.in_flight)
                finished.add_metric(values, replica.finished)
                deaths.add_metric(values, replica.deaths)
    if ready.samples:
        yield from (ready, in_flight, finished, deaths)


def _told_apart(names: Iterable[str]) -> Iterator[str]:
    """Yield each name, with a number from the second time on: no two samples may be the same."""
    seen: set[str] = set()
    for name in names:
        told, number = name, 1
        while told in seen:
            number += 1
            told = f"{name} {number}"
        seen.add(told)
        yield told
