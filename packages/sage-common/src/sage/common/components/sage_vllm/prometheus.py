"""VLLMServiceCollector: a service's figures for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sage.common.components.sage_vllm.service import VLLMService

_GAUGES = {
    "running": "Requests that the engine works on",
    "waiting": "Requests that wait for their turn in the engine",
    "in_flight": "Requests without a result yet",
    "batch_occupancy": "Mean share of the largest batch that steps worked on, 0 to 1",
    "kv_cache_usage": "Share of the KV cache in use, 0 to 1",
    "prefix_cache_hit_rate": "Share of prompt tokens found in the prefix cache, 0 to 1",
}
_COUNTERS = {
    "requests_done": "Requests done",
    "requests_shared": "Requests answered by an equal one that was in flight",
    "requests_cached": "Requests answered from a cache",
    "prompt_tokens": "Tokens of prompts of requests done",
    "completion_tokens": "Tokens generated for requests done",
    "steps": "Steps of the engine",
    "busy_seconds": "Seconds spent in steps",
    "restarts": "Times that an engine which had died was built again",
}
_LABELS = ["model_id", "role", "name"]


class VLLMServiceCollector(Collector):
    """Reads the service's figures whenever Prometheus asks.

    Register it, and have Prometheus scrape the port::

        prometheus_client.REGISTRY.register(VLLMServiceCollector(service))
        prometheus_client.start_http_server(9100)

    All names begin with ``sage_vllm_``; the labels are the model, the role (text, embedding or
    scoring) and the name that the service has for the model.
    """

    def __init__(self, service: VLLMService) -> None:
        self._service = service

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not ask a service that is not open yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics as of now."""
        health = self._service.health()
        up = GaugeMetricFamily(
            "sage_vllm_up", "1 if the service takes calls, with its state", labels=["state"]
        )
        up.add_metric([health["state"]], float(health["state"] not in ("failed", "closed")))
        yield up
        if not health["engines"] and health["state"] != "ready":
            return
        models = self._service.stats()["models"]
        yield from _of_models(models)
        engines = {name: stats for name, stats in models.items() if "engine" in stats}
        for metric, name in self._families():
            for entry, stats in engines.items():
                metric.add_metric([stats["model_id"], stats["role"], entry], stats[name])
            yield metric
        latency = GaugeMetricFamily(
            "sage_vllm_latency_seconds",
            "Percentiles of the latency of recent requests",
            labels=[*_LABELS, "quantile"],
        )
        for entry, stats in engines.items():
            labels = [stats["model_id"], stats["role"], entry]
            for percentile, seconds in stats["latency_seconds"].items():
                quantile = str(int(percentile.removeprefix("p")) / 100)
                latency.add_metric([*labels, quantile], seconds)
        yield latency

    @staticmethod
    def _families() -> Iterator[tuple[GaugeMetricFamily | CounterMetricFamily, str]]:
        for name, meaning in _GAUGES.items():
            yield GaugeMetricFamily(f"sage_vllm_{name}", meaning, labels=_LABELS), name
        for name, meaning in _COUNTERS.items():
            yield CounterMetricFamily(f"sage_vllm_{name}", meaning, labels=_LABELS), name


def _of_models(models: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Yield what there is to say of models whether they are loaded or not."""
    loaded = GaugeMetricFamily("sage_vllm_loaded", "1 if the model is loaded", labels=_LABELS)
    memory = GaugeMetricFamily(
        "sage_vllm_memory_bytes", "Memory that the model's engine holds", labels=_LABELS
    )
    waiting = GaugeMetricFamily(
        "sage_vllm_waiting_for_place",
        "Prompts and texts that wait for the model to be loaded",
        labels=_LABELS,
    )
    loads = CounterMetricFamily("sage_vllm_loads", "Times the model was loaded", labels=_LABELS)
    for name, stats in models.items():
        labels = [stats["model_id"], stats["role"], name]
        loaded.add_metric(labels, float("engine" in stats))
        memory.add_metric(labels, stats["memory_bytes"])
        waiting.add_metric(labels, stats["waiting_for_place"])
        loads.add_metric(labels, stats["loads"])
    yield from (loaded, memory, waiting, loads)
