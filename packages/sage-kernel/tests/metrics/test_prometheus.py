"""What Prometheus reads of pipelines: the text that it scrapes, by Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families

from sage.common.components.sage_vllm import VLLMService, VLLMServiceCollector
from sage.common.components.sage_vllm.testing import EchoEngine, write_echo_model
from sage.common.model_registry import import_model
from sage.kernel.api import FailedRecord, LocalEnvironment, PipelineCollector

Labels = tuple[tuple[str, str], ...]


def scraped(*collectors: prometheus_client.registry.Collector) -> dict[tuple[str, Labels], float]:
    """Return each sample; no family and no sample comes twice, or Prometheus would refuse all."""
    registry = prometheus_client.CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    assert list(strict(openmetrics(registry).decode()))
    families = list(
        text_string_to_metric_families(prometheus_client.generate_latest(registry).decode())
    )
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    samples = [sample for family in families for sample in family.samples]
    read = {(s.name, tuple(sorted(s.labels.items()))): s.value for s in samples}
    assert len(read) == len(samples)
    return read


def reader(env: LocalEnvironment) -> Callable[..., float]:
    read = scraped(PipelineCollector(env))

    def value(name: str, **labels: str) -> float:
        key = tuple(sorted({"pipeline": env.name, **labels}.items()))
        return read[f"sage_pipeline_{name}", key]

    return value


def test_records_of_each_operator_are_counted() -> None:
    letters: list[FailedRecord] = []
    with LocalEnvironment("numbers") as env:
        stream = env.from_collection(range(10), name="read")
        stream = stream.map(lambda n: 1 / n, on_error="skip")
        stream = stream.map(lambda n: 1 / (n - 1), on_error=letters.append)
        stream.filter(lambda n: n > -1.9, name="few").sink(lambda _: None, name="write")
        assert reader(env)("state", state="new") == 1
        env.submit()
    value = reader(env)
    assert value("state", state="ended") == 1
    assert value("records_done") == value("records_expected") == 10
    assert 0 < value("seconds") == env.metrics().elapsed
    assert value("records_out_total", operator="read", kind="source") == 10
    first, second = ({"operator": name, "kind": "map"} for name in ("<lambda>", "<lambda> 2"))
    assert value("records_in_total", **first) == 10
    assert value("records_skipped_total", **first) == 1
    assert value("records_in_total", **second) == value("records_out_total", **first) == 9
    assert value("records_dead_lettered_total", **second) == len(letters) == 1
    assert value("records_in_total", operator="few", kind="filter") == 8
    assert value("records_out_total", operator="write", kind="sink") == 7
    assert value("records_in_flight", **second) == value("records_waiting", **second) == 0


def test_the_record_that_stopped_a_run_is_counted() -> None:
    with LocalEnvironment("stopped") as env:
        env.from_collection([1, 0]).map(lambda n: 1 / n, name="divide").sink(lambda _: None)
        with pytest.raises(ZeroDivisionError):
            env.submit()
    value = reader(env)
    assert value("state", state="failed") == 1
    assert value("records_failed_total", operator="divide", kind="map") == 1


def test_pipelines_and_their_engine_are_one_text(tmp_path: Path) -> None:
    import_model("test/echo", write_echo_model(tmp_path / "echo"), root=tmp_path / "models")
    config = {"model_id": "test/echo", "model_root": tmp_path / "models"}
    with VLLMService(config, engine_factory=EchoEngine) as service:
        environments = [LocalEnvironment("twice"), LocalEnvironment("twice")]
        for env in environments:
            env.register_service("echo", service)
            ask = env.service("echo").generate
            env.from_collection(["one", "two"]).map(ask, name="ask").sink(lambda _: None)
            env.submit()
        read = scraped(VLLMServiceCollector(service), PipelineCollector(*environments))
    for pipeline in ("twice", "twice 2"):
        labels = (("kind", "map"), ("operator", "ask"), ("pipeline", pipeline))
        assert read["sage_pipeline_records_out_total", labels] == 2
    engine = (("model_id", "test/echo"), ("name", "text"), ("role", "text"))
    assert read["sage_vllm_requests_done_total", engine] == 4
